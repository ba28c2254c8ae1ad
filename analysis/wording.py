"""Numbers and results in words: for the report, never for a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from .compare import MODEL, REFERENCE, Comparison

MISSING: Final = "–"
NBSP: Final = "\N{NO-BREAK SPACE}"
FEW: Final = 50
"""With fewer patients than this in the smaller group, the text says that they are few."""


def number(value: float, digits: int = 2) -> str:
    """Format a number for readers; a true minus sign, and a dash for NaN."""
    if not np.isfinite(value):
        return MISSING
    text = f"{value:.{digits}f}"
    text = text.lstrip("-") if float(text) == 0 else text
    return text.replace("-", "−")


def interval(lower: float, upper: float, digits: int = 2) -> str:
    """Format an interval; ``to`` where a bound is negative."""
    if not (np.isfinite(lower) and np.isfinite(upper)):
        return MISSING
    joint = " to " if min(lower, upper) < 0 else "–"
    return f"{number(lower, digits)}{joint}{number(upper, digits)}"


def with_interval(estimate: float, lower: float, upper: float, digits: int = 2) -> str:
    """Format an estimate with its interval in brackets."""
    bounds = interval(lower, upper, digits)
    return number(estimate, digits) if bounds == MISSING else f"{number(estimate, digits)} ({bounds})"


def signed(value: float, digits: int = 3) -> str:
    """Format a difference with its sign; one that rounds to zero has a plus."""
    return f"{value:+z.{digits}f}".replace("-", "−")


def p_value(p: float) -> str:
    """Format a p-value: two decimals, three below 0.01 or next to 0.05, ``< 0.001`` below that."""
    if not np.isfinite(p):
        return MISSING
    if p < 0.001:
        return "< 0.001"
    if p > 0.99:
        return "> 0.99"
    return f"{p:.3f}" if p < 0.01 or 0.045 <= p < 0.055 else f"{p:.2f}"


def p_phrase(p: float) -> str:
    """Format ``p = 0.03`` or ``p < 0.001``."""
    text = p_value(p)
    text = text.replace(" ", NBSP)
    return f"p{NBSP}{text}" if text[0] in "<>" else f"p{NBSP}={NBSP}{text}"


def percent(level: float) -> str:
    """Format a confidence level, for example ``95 %``."""
    return f"{100 * level:g}{NBSP}%"


def joined(names: Sequence[str]) -> str:
    """Join names as in ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def words(name: str) -> str:
    """Readable form of a column-like name: ``hd95_mm`` to ``HD95 (mm)``, ``kidney_and_mass`` to ``kidney and mass``."""
    text = str(name)
    unit = next((unit for unit in ("mm", "ml") if text.endswith(f"_{unit}")), "")
    stem = text[: -len(unit) - 1] if unit else text
    stem = {"hd95": "HD95", "assd": "ASSD", "iou": "IoU"}.get(stem, stem.replace("_", " "))
    return f"{stem} ({unit})" if unit else stem


def test_phrase(row: pd.Series) -> str:
    """Describe the test of one comparison in words, with its p-value before and after correction."""
    test = "DeLong test" if str(row["p_method"]).startswith("DeLong") else "patient bootstrap"
    if not np.isfinite(row["p"]):
        return f"the {test} is not defined here"
    text = f"{test}: {p_phrase(row['p'])}"
    if row["n_comparisons"] > 1:
        text += f", after correction for {int(row['n_comparisons'])} comparisons {p_phrase(row['p_holm'])}"
    return text


def verdict(row: pd.Series, level: float) -> str:
    """Say whether a comparison shows a difference: ``"shown"``, ``"unclear"`` or ``"not shown"``.

    ``"shown"`` needs both the interval without 0 and the corrected p-value below ``1 - level``; ``"unclear"`` is one of
    them alone.
    """
    excludes = bool(np.isfinite(row["lower"]) and (row["lower"] > 0 or row["upper"] < 0))
    small = bool(np.isfinite(row["p_holm"]) and row["p_holm"] < 1 - level)
    return "shown" if excludes and small else "unclear" if excludes or small else "not shown"


def comparison_sentences(row: pd.Series, level: float) -> str:
    """Say in plain words how two models compare."""
    return " ".join(_size_and_certainty(row, level))


def _size_and_certainty(row: pd.Series, level: float) -> tuple[str, str]:
    difference = float(row["difference"])
    better = str(row["model_a"] if difference > 0 else row["model_b"])
    favour = "" if number(abs(difference)) == "0.00" else f" in favour of {better}"
    size = (
        f"The AUC was {number(row['auc_a'])} for {row['model_a']} and {number(row['auc_b'])} for {row['model_b']}, a "
        f"difference of {number(abs(difference))}{favour}."
    )
    bounds = f"{percent(level)} interval of the difference, {row['model_a']} minus {row['model_b']}: "
    detail = f"{bounds}{interval(row['lower'], row['upper'])}; {test_phrase(row)}"
    return size, f"{_judgement(row, level, better)} ({detail[0].upper()}{detail[1:]}.)"


def _judgement(row: pd.Series, level: float, better: str) -> str:
    kind = verdict(row, level)
    if kind == "shown":
        return f"A difference this large is hard to explain by chance alone: {better} did better in these patients."
    if kind == "unclear":
        return "Interval and corrected test do not agree on whether chance alone explains this; treat it as a hint."
    if not np.isfinite(row["lower"]):
        return "With fewer than two patients in a group, no statement about chance is possible."
    return (
        "These data do not show that one is better than the other: "
        f"true differences from {number(abs(row['lower']))} in favour of {_favoured(row, row['lower'])} to "
        f"{number(abs(row['upper']))} in favour of {_favoured(row, row['upper'])} remain possible."
    )


def _favoured(row: pd.Series, bound: float) -> str:
    return str(row["model_a"] if bound > 0 else row["model_b"])


@dataclass(frozen=True)
class Setting:
    """What the first paragraph needs to know about a study.

    Attributes
    ----------
    outcome : str
        Name of the outcome in words.
    n_patients, n_events : int
        Evaluated patients, and those with the event.
    split : str
        ``"test"`` (out-of-fold), ``"external"`` or ``"train"``.
    repeats, folds : int
        Of the cross-validation.
    simulated : bool
        Whether the patients are simulated.
    """

    outcome: str
    n_patients: int
    n_events: int
    split: str = "test"
    repeats: int = 1
    folds: int = 1
    simulated: bool = False

    @property
    def smaller(self) -> int:
        """Patients in the smaller group."""
        return min(self.n_events, self.n_patients - self.n_events)


def first_paragraph(
    setting: Setting, comparison: Comparison | None, metrics: pd.DataFrame, level: float
) -> list[tuple[str, str]]:
    """Write the plain-language summary: what was compared, how large, how sure, what must not be concluded.

    Parameters
    ----------
    setting : Setting
        The study.
    comparison : Comparison or None
        Its comparison, if one was made.
    metrics : DataFrame
        From :func:`hybrid.analysis.evaluate_models`.
    level : float
        Confidence level.

    Returns
    -------
    list of (str, str)
        Lead words and sentences that together are one paragraph.
    """
    headline = None if comparison is None else comparison.headline
    parts = []
    if setting.simulated:
        parts.append(
            (
                "Simulated.",
                "These patients do not exist: the numbers show how the software behaves, nothing about medicine. The "
                "encoder that comes with the package was trained on lesions of the same simulator, which flatters deep "
                "features here.",
            )
        )
    if comparison is not None and headline is not None:
        parts += _headline_parts(setting, comparison, headline)
    elif comparison is not None and len(comparison.table):
        parts += _exploratory_parts(setting, comparison)
    else:
        parts += _single_parts(setting, metrics, level)
    if yardsticks := _yardsticks(comparison):
        parts.append(("Yardsticks.", " ".join(yardsticks)))
    return [*parts, ("Not to be concluded.", _caution(setting, headline, level))]


def _who(setting: Setting) -> str:
    without = setting.n_patients - setting.n_events
    return f"the {setting.n_events} patients with {setting.outcome} from the {without} without"


def _how(setting: Setting) -> str:
    if setting.split == "external":
        return "All patients were new to the models, which were used as they had been frozen."
    if setting.split == "train":
        return "The models had seen these patients in training, so the numbers are too good."
    if setting.folds < 2:
        return "The predictions were taken as given; this software did not check how they were made."
    times = f", repeated {setting.repeats} times" if setting.repeats > 1 else ""
    return (
        f"Each patient was judged only by models that had never seen that patient ({setting.folds}-fold "
        f"cross-validation{times})."
    )


AUC_IN_WORDS: Final = (
    "The AUC is the chance that, of two patients, the one with the event gets the higher score: 0.5 is a coin "
    "toss, 1 is perfect."
)


def _headline_parts(setting: Setting, comparison: Comparison, headline: pd.Series) -> list[tuple[str, str]]:
    a, b = headline["model_a"], headline["model_b"]
    size, certainty = _size_and_certainty(headline, comparison.level)
    return [
        ("Compared.", f"Which of the two, {a} or {b}, better tells {_who(setting)}? {_how(setting)}"),
        ("Difference.", f"{size} {AUC_IN_WORDS}"),
        ("How sure.", f"{certainty} {_chance_sentence(comparison, headline)}"),
    ]


def _chance_sentence(comparison: Comparison, headline: pd.Series) -> str:
    models = comparison.models[comparison.models["role"] == MODEL].set_index(["feature_set", "classifier"])
    found = []
    for side in ("a", "b"):
        row = models.loc[(headline[f"feature_set_{side}"], headline[f"classifier_{side}"])]
        if not row["lower"] > 0.5:
            found.append(
                f"{headline[f'model_{side}']} is better than a coin toss: its interval {beside_chance(row)} 0.5."
            )
    if found:
        return " ".join(f"It is not shown that {sentence}" for sentence in found)
    return "The intervals of both lie above 0.5, a coin toss."


def beside_chance(row: pd.Series) -> str:
    """Where an interval (``lower``, ``upper``) lies: it ``lies above``, ``includes`` or ``lies below`` chance.

    An interval that is not known includes everything.
    """
    if row["lower"] > 0.5:
        return "lies above"
    return "lies below" if row["upper"] < 0.5 else "includes"


def _exploratory_parts(setting: Setting, comparison: Comparison) -> list[tuple[str, str]]:
    models = comparison.models[comparison.models["role"] == MODEL]
    between = f"between {number(models['auc'].min())} and {number(models['auc'].max())}"
    return [
        ("Compared.", f"{len(models)} models, on how well they tell {_who(setting)}. {_how(setting)}"),
        ("Difference.", f"Their AUCs lay {between}. {AUC_IN_WORDS}"),
        (
            "How sure.",
            "No comparison was declared beforehand, so every difference below is exploratory: the best of many models "
            "looks better than it is.",
        ),
    ]


def _single_parts(setting: Setting, metrics: pd.DataFrame, level: float) -> list[tuple[str, str]]:
    areas = metrics[metrics["metric"] == "auc"]
    asked = ("Asked.", f"How well can {_who(setting)} be told? {_how(setting)}")
    if len(areas) > 1:
        low, high = number(areas["estimate"].min()), number(areas["estimate"].max())
        found = f"{len(areas)} models reached AUCs between {low} and {high}. {AUC_IN_WORDS}"
        return [asked, ("Found.", found), ("How sure.", "The models were not compared with each other.")]
    row = areas.iloc[0]
    sure = "With fewer than two patients in a group there is no interval."
    if np.isfinite(row["lower"]):
        bounds = interval(row["lower"], row["upper"])
        sure = f"The {percent(level)} interval of the AUC is {bounds}; it {beside_chance(row)} 0.5, a coin toss."
    return [asked, ("Found.", f"The AUC is {number(row['estimate'])}. {AUC_IN_WORDS}"), ("How sure.", sure)]


def _yardsticks(comparison: Comparison | None) -> list[str]:
    """Sentences about trivial baselines that do as well as the models, and about shuffled outcomes."""
    if comparison is None:
        return []
    sentences = []
    models = comparison.models
    compared = models[models["role"] == MODEL]
    if (headline := comparison.headline) is not None:
        compared = compared[compared["feature_set"].isin([headline["feature_set_a"], headline["feature_set_b"]])]
    rest = models[models["role"] == REFERENCE]
    strong = rest[rest["auc"] >= compared["auc"].max()]
    if len(strong):
        sentences.append(f"{joined(_aucs(strong))} did no worse than the models; nothing beyond that has been shown.")
    elif len(rest):
        sentences.append(f"For comparison, AUC of simple rules: {joined(_aucs(rest))}.")
    null = compared["null_mean"].dropna()
    if len(null):
        low, high = number(null.min()), number(null.max())
        value = low if low == high else f"{low} to {high}"
        sentences.append(f"With the outcomes shuffled, the same procedure reached an AUC of {value} on average.")
    return sentences


def _aucs(models: pd.DataFrame) -> list[str]:
    return [f"{model} ({number(area)})" for model, area in zip(models["model"], models["auc"], strict=True)]


def _caution(setting: Setting, headline: pd.Series | None, level: float) -> str:
    few = f"With only {setting.smaller} patients in the smaller group: " if setting.smaller < FEW else ""
    claims = []
    if headline is not None:
        equal = verdict(headline, level) == "not shown"
        claims.append("the two are equally good" if equal else "the difference is as large as measured here")
    claims.append("the models would rank the same way in other patients")
    if setting.split != "external":
        claims.append("a model works at another hospital, which only new patients from elsewhere can show")
    claims.append("any of them is ready to guide treatment")
    text = f"{few}that {'; that '.join(claims[:-1])}; or that {claims[-1]}."
    return text[0].upper() + text[1:]


GLOSSARY: Final[tuple[tuple[str, str], ...]] = (
    (
        "AUC",
        "Area under the ROC curve: take one patient with and one without the event at random; the AUC is the "
        "chance that the model gives the first the higher score. 0.5 is a coin toss, 1 is perfect.",
    ),
    (
        "Confidence interval",
        "A range that would contain the true value in about 95 of 100 studies like this one. A wide interval "
        "means that the study is too small to say much.",
    ),
    (
        "p-value",
        "How often a difference at least this large would appear if there were none. It does not measure how "
        "large or how useful a difference is, and a large p does not prove that there is none.",
    ),
    ("DeLong test", "The usual test for whether two ROC curves of the same patients differ."),
    (
        "Holm correction",
        "Several comparisons give chance several opportunities. Holm's method raises the p-values accordingly.",
    ),
    (
        "Cross-validation",
        "The patients are split into parts; each part is predicted by a model trained on the others. Nested: "
        "choices such as settings and cut-off are made inside the training part only.",
    ),
    ("Bootstrap", "Patients are drawn again and again from the sample, with all their data, to see how results vary."),
    (
        "Selected classifier",
        "The classifier that did best inside the training patients of each fold. Picking the best one on the "
        "test patients instead would flatter it.",
    ),
    (
        "Permutation null",
        "The AUC that the same procedure reaches when the outcomes are shuffled. It should lie near 0.5, and is "
        "what luck alone achieves.",
    ),
    (
        "Sensitivity, specificity",
        "Share of patients with the event who are called positive; share of those without who are called negative.",
    ),
    (
        "PPV, NPV",
        "Share of positive calls that are right, and of negative calls. Both depend on how common the event is.",
    ),
    (
        "Balanced accuracy, F1, kappa",
        "The mean of sensitivity and specificity; the harmonic mean of sensitivity and PPV; agreement of calls "
        "and outcome beyond chance (1 is full agreement, 0 none).",
    ),
    (
        "Brier score",
        "Mean squared distance of the predicted probability from the outcome: 0 is perfect, lower is better.",
    ),
    ("SMD", "Standardised mean difference between two groups; above about 0.1 to 0.2 the groups differ noticeably."),
)
"""Terms for readers who are not statisticians."""


def short_path(value: Any) -> Any:
    """Copy of plain data with absolute paths shortened to the file name, so that a report names no folders."""
    if isinstance(value, dict):
        return {str(key): short_path(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [short_path(item) for item in value]
    is_path = isinstance(value, str) and (value.startswith(("/", "\\\\")) or value[1:3] in (":\\", ":/"))
    return value.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] if is_path else value


def settings_text(record: Mapping[str, Any]) -> str:
    """Lay out the settings of a run record as JSON without folders; empty where none were recorded."""
    settings = record.get("settings")
    return json.dumps(short_path(settings), indent=2, ensure_ascii=False, default=str) if settings else ""


def versions_text(versions: Mapping[str, str] | None) -> str:
    """Join packages and their versions in one line; empty where none were recorded."""
    return ", ".join(f"{name} {version}" for name, version in (versions or {}).items())
