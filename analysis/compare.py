"""Are two models really different? Paired differences of AUC over one declared family of comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd

from hybrid.errors import InputError, unknown_name
from hybrid.tables import SELECTED, require_columns

from .metrics import DELONG_MIXED, DELONG_TOO_FEW, NO_INTERVAL, auc_interval, bootstrap_metrics, interval_method
from .multiplicity import adjust
from .panel import FloatArray, Model, Panel, label
from .roc import check_level, delong_pairs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COMPARISON_COLUMNS: Final = (
    "role",
    "model_a",
    "model_b",
    "feature_set_a",
    "classifier_a",
    "feature_set_b",
    "classifier_b",
    "auc_a",
    "auc_b",
    "difference",
    "lower",
    "upper",
    "interval_method",
    "p_bootstrap",
    "delong_auc_a",
    "delong_auc_b",
    "delong_difference",
    "delong_lower",
    "delong_upper",
    "delong_z",
    "delong_p",
    "p",
    "p_holm",
    "p_method",
    "n_comparisons",
    "n_patients",
    "n_events",
    "n_repeats",
)
"""Columns of :attr:`Comparison.table`."""

MODEL_COLUMNS: Final = (
    "role",
    "model",
    "feature_set",
    "classifier",
    "auc",
    "lower",
    "upper",
    "method",
    "null_mean",
    "null_lower",
    "null_upper",
    "n_permutations",
    "n_patients",
    "n_events",
    "n_repeats",
)
"""Columns of :attr:`Comparison.models`."""

HEADLINE: Final = "headline"
SECONDARY: Final = "secondary"
MODEL: Final = "model"
REFERENCE: Final = "reference"

DEFAULT_CONTRAST: Final = (("handcrafted", "deep"), ("handcrafted", "fused"), ("deep", "fused"))
"""The toolkit's own declared family; the first pair is the headline."""

REFERENCE_CLASSIFIERS: Final = ("majority", "clinical")
"""Classifiers that ignore the image features; shown beside the models, never part of a default family."""

REFERENCE_FEATURE_SETS: Final = ("clinical",)

DELONG_P: Final = "DeLong, one averaged probability per patient; ignores the variance of training"
BOOTSTRAP_P: Final = "patient bootstrap"

DIFFERENCE_INTERVAL: Final = "percentile"
"""Kind of interval for differences. In simulations (n = 26 and 60, AUC 0.8, correlated normal scores) percentile
intervals of a paired difference covered 93 to 96 % and BCa intervals 91 to 93 %; for single AUCs it was the other way
round (91 to 94 % and 94 to 96 %)."""

REFERENCES: Final = (
    "DeLong et al. 1988 (doi:10.2307/2531595)",
    "Sun and Xu 2014 (doi:10.1109/LSP.2014.2337313)",
    "Efron 1987 (doi:10.1080/01621459.1987.10478410)",
    "Holm 1979 (https://www.jstor.org/stable/4615733)",
)


@dataclass(frozen=True)
class Comparison:
    """Result of :func:`compare_models`.

    Attributes
    ----------
    table : DataFrame
        Columns :data:`COMPARISON_COLUMNS`, one row per pair. ``difference`` is ``auc_a - auc_b``, both averaged over
        repeats; ``lower`` and ``upper`` come from the patient bootstrap. The ``delong_*`` columns use one averaged
        probability per patient. ``p`` is the p-value that ``p_method`` names and ``p_holm`` its Holm-adjusted value
        over all rows.
    models : DataFrame
        Columns :data:`MODEL_COLUMNS`: the AUC of each compared model (role ``"model"``) and of the trivial baselines,
        the majority rule and clinical models (role ``"reference"``), with the permutation null beside.
    method : str
        What was done, with references.
    level : float
        Confidence level.
    """

    table: pd.DataFrame
    models: pd.DataFrame
    method: str
    level: float = 0.95
    notes: tuple[str, ...] = field(default=())

    @property
    def headline(self) -> pd.Series | None:
        """Row of the headline comparison; None when none was declared beforehand."""
        rows = self.table[self.table["role"] == HEADLINE]
        return None if rows.empty else rows.iloc[0]

    def sentences(self) -> list[str]:
        """One or two plain sentences per comparison, headline first."""
        from .wording import comparison_sentences

        return [comparison_sentences(row, self.level) for _, row in self.table.iterrows()]

    def plot(self, ax: Axes | None = None) -> Axes:
        """AUC of each model with its interval, see :func:`hybrid.analysis.plot_auc`."""
        from .plots import plot_auc

        return plot_auc(self.models, ax=ax)

    def _repr_html_(self) -> str:
        columns = ["role", "model_a", "model_b", "auc_a", "auc_b", "difference", "lower", "upper", "p", "p_holm"]
        table = self.table[columns].to_html(index=False, float_format=lambda value: f"{value:.3f}")
        return f"{table}<p>{self.method}</p>"


def compare_models(
    predictions: pd.DataFrame,
    *,
    contrast: Sequence[tuple[str, str]] | None = None,
    classifier: str = SELECTED,
    baselines: Sequence[str] = (),
    null: pd.DataFrame | None = None,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    interval: Literal["bca", "percentile"] = "bca",
    split: str | None = None,
) -> Comparison:
    """Compare models in pairs: difference of AUC with interval, DeLong's test, Holm over the family.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`.
    contrast : sequence of (str, str), optional
        Pairs of feature sets, declared beforehand; the first is the headline and all together are the family. By
        default :data:`DEFAULT_CONTRAST` as far as its feature sets are there, otherwise every pair (without a headline,
        unless there is a single pair).
    classifier : str
        Classifier whose predictions are compared; by default ``"selected"``, the one chosen in the inner loop. When
        that is absent and the table has one classifier, it is used. With several classifiers and none selected, a
        declared contrast is compared within each classifier and otherwise all pairs of models are; there is no headline
        then, because a maximum over classifiers is no evidence.
    baselines : sequence of str
        Trivial feature sets, shown in :attr:`Comparison.models` as references.
    null : DataFrame, optional
        Permutation null: columns ``feature_set, permutation, auc``, from :func:`hybrid.pipelines.permutation_null`.
    interval : {"bca", "percentile"}
        Kind of the intervals of single AUCs; those of differences are always percentile intervals.
    n_bootstrap, seed, level, split
        See :func:`hybrid.analysis.evaluate_models`.

    Returns
    -------
    Comparison
        Table of pairs, table of models, method. The table of pairs is empty when there is only one model.

    Raises
    ------
    InputError
        For an invalid table, an unknown feature set or classifier, or an outcome with one class.
    LeakageError
        When the table holds training patients only.
    """
    check_level(level)
    panel = Panel.from_predictions(predictions, split=split)
    chosen = choose_classifier(panel, classifier, baselines)
    pairs, headline = _plan_pairs(panel, contrast, chosen, baselines)
    settings: dict[str, Any] = {"n_bootstrap": n_bootstrap, "seed": seed, "level": level, "kind": interval}
    table, notes = _pair_table(panel, pairs, headline, n_bootstrap=n_bootstrap, seed=seed, level=level)
    listed = _listed_models(panel, pairs, chosen, baselines)
    models = _model_table(panel, listed, summarise_null(null, level, chosen), **settings)
    return Comparison(table, models, _describe_method(table, chosen, interval, n_bootstrap), level, notes)


def is_reference(model: Model, baselines: Sequence[str] = ()) -> bool:
    """Whether a model is a yardstick (trivial, majority or clinical) rather than a contender."""
    feature_set, classifier = model
    return feature_set in (*baselines, *REFERENCE_FEATURE_SETS) or classifier in REFERENCE_CLASSIFIERS


def reference_name(model: Model) -> str:
    """Name of a yardstick: the rule or, for a feature set, the set (with its classifier unless that was selected)."""
    feature_set, classifier = model
    if classifier in REFERENCE_CLASSIFIERS:
        return f"{classifier} model" if classifier in REFERENCE_FEATURE_SETS else classifier
    return feature_set if classifier == SELECTED else label(model)


def _contenders(panel: Panel, baselines: Sequence[str]) -> list[Model]:
    models = [model for model in panel.models if not is_reference(model, baselines)]
    return models or list(panel.models)


def choose_classifier(panel: Panel, classifier: str, baselines: Sequence[str]) -> str | None:
    """Classifier whose models are compared: the one asked for, or the only one; None when there are several."""
    present = list(dict.fromkeys(name for _, name in _contenders(panel, baselines)))
    if classifier in present:
        return classifier
    if classifier != SELECTED:
        raise unknown_name("classifier", classifier, present)
    return present[0] if len(present) == 1 else None


def _plan_pairs(
    panel: Panel, contrast: Sequence[tuple[str, str]] | None, chosen: str | None, baselines: Sequence[str]
) -> tuple[list[tuple[Model, Model]], bool]:
    """Pairs of the family, and whether the first is a headline."""
    contenders = _contenders(panel, baselines)
    feature_sets = list(dict.fromkeys(name for name, _ in contenders))
    if contrast is not None:
        declared = _check_contrast(contrast, list(dict.fromkeys(name for name, _ in panel.models)))
    else:
        declared = [pair for pair in DEFAULT_CONTRAST if set(pair) <= set(feature_sets)]
    if chosen is not None:
        pairs = declared or list(itertools.combinations(feature_sets, 2))
        return [((a, chosen), (b, chosen)) for a, b in pairs], bool(declared) or len(pairs) == 1
    if contrast is not None:
        classifiers = list(dict.fromkeys(name for _, name in contenders))
        wanted = [((a, name), (b, name)) for name in classifiers for a, b in declared]
        return [pair for pair in wanted if set(pair) <= set(panel.models)], False
    return list(itertools.combinations(contenders, 2)), False


def _check_contrast(contrast: Sequence[tuple[str, str]], feature_sets: Sequence[str]) -> list[tuple[str, str]]:
    declared = []
    for pair in contrast:
        if isinstance(pair, str) or len(pair) != 2 or pair[0] == pair[1]:
            raise InputError(
                f"A contrast must be a pair of different feature sets; found {pair!r}.",
                advice="Example: contrast=[('handcrafted', 'deep')].",
            )
        for name in pair:
            if name not in feature_sets:
                raise unknown_name("feature set", name, feature_sets)
        declared.append((str(pair[0]), str(pair[1])))
    return declared


def _pair_table(
    panel: Panel, pairs: Sequence[tuple[Model, Model]], headline: bool, *, n_bootstrap: int, seed: int, level: float
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    if not pairs:
        return pd.DataFrame(columns=list(COMPARISON_COLUMNS)), ()
    models = list(dict.fromkeys(model for pair in pairs for model in pair))
    shared = panel.select(models, common=True)
    positions = np.array([[models.index(a), models.index(b)] for a, b in pairs])
    resampled = bootstrap_metrics(shared, ["auc"], n_bootstrap=n_bootstrap, seed=seed)
    differences = resampled.pairs(positions[:, 0], positions[:, 1])
    table = pd.DataFrame([_pair_names(a, b) for a, b in pairs])
    table["role"] = [HEADLINE if headline and i == 0 else SECONDARY for i in range(len(pairs))]
    table["auc_a"], table["auc_b"] = resampled.estimate[positions.T]
    table["difference"] = differences.estimate
    table[["lower", "upper"]] = differences.interval(level=level, kind=DIFFERENCE_INTERVAL)
    table["interval_method"] = (
        interval_method(DIFFERENCE_INTERVAL, n_bootstrap) if resampled.is_estimable else NO_INTERVAL
    )
    table["p_bootstrap"] = differences.p_two_sided()
    table = _add_delong(table, shared, positions, level)
    table["p_holm"] = adjust(table["p"].to_numpy(dtype=np.float64), "holm").p
    table["n_comparisons"] = len(pairs)
    table["n_patients"], table["n_events"] = shared.n_patients, shared.n_events
    table["n_repeats"] = [min(shared.n_repeats(a), shared.n_repeats(b)) for a, b in positions]
    return table[list(COMPARISON_COLUMNS)], _notes(panel, shared)


def _pair_names(a: Model, b: Model) -> dict[str, str]:
    same = a[1] == b[1]
    return {
        "model_a": a[0] if same else label(a), "model_b": b[0] if same else label(b), "feature_set_a": a[0],
        "classifier_a": a[1], "feature_set_b": b[0], "classifier_b": b[1],
    }  # fmt: skip


def _notes(panel: Panel, shared: Panel) -> tuple[str, ...]:
    lost = panel.n_patients - shared.n_patients
    if not lost:
        return ()
    return (f"{lost} of {panel.n_patients} patients were not predicted by every compared model and are left out here.",)


def _add_delong(table: pd.DataFrame, panel: Panel, positions: np.ndarray, level: float) -> pd.DataFrame:
    names = [
        "delong_auc_a",
        "delong_auc_b",
        "delong_difference",
        "delong_lower",
        "delong_upper",
        "delong_z",
        "delong_p",
    ]
    averaged = panel.by_patient()
    reason = DELONG_MIXED if averaged is None else ""
    if min(panel.n_events, panel.n_patients - panel.n_events) < 2:
        reason = DELONG_TOO_FEW
    if averaged is None or reason:
        table = table.assign(**dict.fromkeys(names, np.nan))
        return table.assign(p=table["p_bootstrap"], p_method=f"{BOOTSTRAP_P} ({reason})")
    tests = delong_pairs(averaged[0], averaged[1], [(int(a), int(b)) for a, b in positions], level=level)
    table = table.assign(**dict(zip(names, tests.to_numpy(dtype=np.float64).T, strict=True)))
    return table.assign(p=table["delong_p"], p_method=DELONG_P)


def _listed_models(
    panel: Panel, pairs: Sequence[tuple[Model, Model]], chosen: str | None, baselines: Sequence[str]
) -> list[tuple[Model, str]]:
    """Models whose AUC is shown beside the comparison, with their role; the contenders first."""
    compared = list(dict.fromkeys(model for pair in pairs for model in pair))
    contenders = [model for model in _contenders(panel, baselines) if chosen is None or model[1] == chosen]
    listed = [(model, MODEL) for model in dict.fromkeys([*compared, *contenders])]
    for model in panel.models:
        classifier = model[1]
        if any(model == other for other, _ in listed) or not is_reference(model, baselines):
            continue
        if classifier in REFERENCE_CLASSIFIERS:
            # These ignore the image features, so one row stands for all feature sets.
            if not any(other[1] == classifier for other, _ in listed):
                listed.append((model, REFERENCE))
        elif chosen is None or classifier == chosen:
            listed.append((model, REFERENCE))
    return listed


def _model_table(
    panel: Panel, listed: Sequence[tuple[Model, str]], null: pd.DataFrame, *, n_bootstrap: int, seed: int,
    level: float, kind: Any,
) -> pd.DataFrame:  # fmt: skip
    rows = []
    several = len({model[1] for model, role in listed if role == MODEL}) > 1
    for model, role in listed:
        own = panel.select([model])
        resampled = bootstrap_metrics(own, ["auc"], n_bootstrap=n_bootstrap, seed=seed)
        lower, upper, method = auc_interval(own, resampled, n_bootstrap=n_bootstrap, level=level, kind=kind)
        name = label(model) if several else model[0]
        row = {
            "role": role, "model": reference_name(model) if role == REFERENCE else name, "feature_set": model[0],
            "classifier": model[1], "auc": float(resampled.estimate[0]), "lower": lower, "upper": upper,
            "method": method, "n_patients": own.n_patients, "n_events": own.n_events, "n_repeats": own.n_repeats(0),
        }  # fmt: skip
        rows.append(row | null_of(model, null))
    return pd.DataFrame(rows, columns=list(MODEL_COLUMNS))


def summarise_null(null: pd.DataFrame | None, level: float, classifier: str | None) -> pd.DataFrame:
    """Mean and central range of a permutation null per model; ``classifier`` is used where it names none."""
    columns = ["feature_set", "classifier", "null_mean", "null_lower", "null_upper", "n_permutations"]
    if null is None or null.empty:
        return pd.DataFrame(columns=columns)
    require_columns(null, ("feature_set", "permutation", "auc"), "permutation null")
    table = null if "classifier" in null.columns else null.assign(classifier=classifier or "")
    keys = ["feature_set", "classifier"]
    each = table.groupby([*keys, "permutation"], sort=False)["auc"].mean()
    rows = [
        (*key, *_null_values(values.to_numpy(dtype=np.float64), level))
        for key, values in each.groupby(keys, sort=False)
    ]
    return pd.DataFrame(rows, columns=columns)


def _null_values(values: FloatArray, level: float) -> tuple[float, float, float, int]:
    lower, upper = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(lower), float(upper), int(values.size)


def add_null(result: Comparison, null: pd.DataFrame | None, classifier: str | None) -> Comparison:
    """Put a permutation null beside the models of a comparison that was made without one."""
    if null is None or null.empty or result.models["n_permutations"].any():
        return result
    summary = summarise_null(null, result.level, classifier)
    models = result.models.copy()
    values = [
        null_of(model, summary) for model in zip(models["feature_set"], models["classifier"], strict=True)
    ]  # fmt: skip
    for name in ("null_mean", "null_lower", "null_upper", "n_permutations"):
        models[name] = [value[name] for value in values]
    return replace(result, models=models)


def null_of(model: Model, null: pd.DataFrame) -> dict[str, Any]:
    """Fields of the permutation null of a model, NaN where it was not run; ``null`` from :func:`summarise_null`."""
    names = ["null_mean", "null_lower", "null_upper", "n_permutations"]
    matching = null[(null["feature_set"] == model[0]) & (null["classifier"] == model[1])]
    if matching.empty:
        return {"null_mean": np.nan, "null_lower": np.nan, "null_upper": np.nan, "n_permutations": 0}
    return dict(matching.iloc[0][names])


def _describe_method(table: pd.DataFrame, chosen: str | None, kind: str, n_bootstrap: int) -> str:
    what = {
        None: "Models",
        SELECTED: "Feature sets, each with the classifier chosen in the inner loop,",
    }.get(chosen, f"Feature sets with the classifier {chosen!r}")
    names = {"bca": "BCa", "percentile": "percentile"}
    parts = [
        f"{what} were compared by the AUC, computed within each repeat and averaged over repeats.",
        f"Intervals are {names[kind]} (AUC) and {names[DIFFERENCE_INTERVAL]} (paired difference) bootstrap intervals "
        f"from {n_bootstrap} resamples of patients with all their rows and repeats, stratified by outcome.",
    ]
    if len(table):
        delong = table["p_method"].eq(DELONG_P).all()
        test = (
            "DeLong's paired test on one averaged probability per patient, which ignores the variance of training"
            if delong
            else "the patient bootstrap"
        )
        parts.append(f"P-values are two-sided, from {test}.")
        if len(table) > 1:
            parts.append(f"They are adjusted by Holm's method over the {len(table)} declared comparisons.")
        if HEADLINE not in set(table["role"]):
            parts.append("No headline comparison was declared beforehand; all rows are exploratory.")
    parts.append(f"References: {'; '.join(REFERENCES)}.")
    return " ".join(parts)
