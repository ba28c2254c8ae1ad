"""What a classifier of several classes gets right: every class against the rest, by centre, and when it may abstain.

Rows are images; a patient may give several. Proportions (accuracy, sensitivity, specificity, PPV, NPV) have Wilson's
interval where every patient gives one of the rows concerned, otherwise one from a bootstrap of patients. F1 and Cohen's
kappa are no proportions: they always have the bootstrap of patients. Where a value is 0 or 1 all draws are equal, and
the exact bound of as many trials as there are patients is given.

A row without an answer (``y_pred`` empty: the file could not be read) counts as wrong, never as absent. Whether a row
was abstained from is not looked at: leave such rows out first to judge the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hybrid.errors import InputError, unknown_name
from hybrid.tables import require_columns

from .proportions import (
    EXACT_PATIENTS,
    MIN_PATIENTS,
    MIN_TRIALS,
    NO_INTERVAL,
    PATIENT_BOOTSTRAP,
    clustered_interval,
    is_too_few,
    patient_codes,
)
from .resampling import FloatArray, bootstrap
from .roc import check_level, perfect_interval
from .wording import with_interval

PER_CLASS_COLUMNS: Final = ("class", "metric", "value", "low", "high", "method", "n", "n_patients", "note")
"""Columns of :func:`per_class_table`. ``n`` and ``n_patients`` count what the value is computed from: the images of the
class for sensitivity, those predicted to be of it for PPV, and so on."""

PROPORTIONS: Final = ("accuracy", "sensitivity", "specificity", "ppv", "npv")
PER_CLASS_METRICS: Final = (*PROPORTIONS, "f1", "kappa")
"""Metrics in the order of the published tables."""

OVERALL: Final = "overall"
"""Class of the rows that describe all classes together: accuracy and kappa."""

NO_ANSWER: Final = "no answer"
"""Predicted class, in :func:`confusion_table`, of images without a prediction."""

CONFUSION_COLUMNS: Final = ("y_true", "y_pred", "n", "share")
COVERAGE_COLUMNS: Final = ("threshold", "coverage", "accuracy", "n")
PROBABILITY: Final = "y_prob_"
"""Prefix of the column that holds the probability of a class."""

_EMPTY: Final = ("", "nan")
_ZERO: Final = {
    "accuracy": "no image",
    "sensitivity": "no image of this class",
    "specificity": "every image is of this class",
    "ppv": "this class was never predicted",
    "npv": "this class was always predicted",
    "f1": "no image of this class, and it was never predicted",
    "kappa": "truth and prediction hold one class only: agreement by chance is perfect",
}
"""Why a metric is not defined."""


@dataclass(frozen=True)
class _Calls:
    """Truth and answer of every image as class numbers (an answer of ``len(names)`` is none), and its patient."""

    names: tuple[str, ...]
    truth: NDArray[np.intp]
    answer: NDArray[np.intp]
    patients: NDArray[np.intp]

    def counts_by_patient(self) -> FloatArray:
        """Images of shape (n_patients, n_classes, n_classes + 1): true class by answer."""
        counts = np.zeros((int(self.patients.max(initial=-1)) + 1, len(self.names), len(self.names) + 1))
        np.add.at(counts, (self.patients, self.truth, self.answer), 1.0)
        return counts


def per_class_table(
    predictions: pd.DataFrame,
    classes: Sequence[str] | None = None,
    *,
    level: float = 0.95,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Judge every class against the rest, and all classes together.

    Parameters
    ----------
    predictions : DataFrame
        One row per image: ``patient_id``, ``y_true`` and ``y_pred`` (class names), as ``train_classifier`` writes them.
    classes : sequence of str, optional
        Classes and their order; default: :func:`classes_of`.
    level : float
        Confidence level.
    n_bootstrap, seed : int
        Draws of the bootstrap over patients, and their seed.

    Returns
    -------
    DataFrame
        Columns :data:`PER_CLASS_COLUMNS`, one row per class and metric of :data:`PER_CLASS_METRICS`, then accuracy and
        kappa of the class :data:`OVERALL`. A value whose denominator is 0 is NaN, and ``note`` says why; ``note`` also
        marks values from too few images or patients.

    Raises
    ------
    InputError
        For missing columns, patients or classes, a class that is not listed, or no rows.

    Notes
    -----
    An exact bound of F1 follows from F1 = 2 J / (1 + J), where J is the share of right answers among the images that
    are, or are called, of the class. One of kappa keeps the agreement expected by chance as it was observed.
    """
    check_level(level)
    calls = _read(predictions, classes)
    options: dict[str, Any] = {"level": level, "n_bootstrap": n_bootstrap, "seed": seed}
    rows = [
        {"class": name, **_proportion(metric, *_trials(calls, k, metric), calls.patients, **options)}
        for k, name in enumerate(calls.names)
        for metric in PROPORTIONS
    ]
    hits = calls.truth == calls.answer
    everything = np.ones(hits.size, dtype=bool)
    rows.append({"class": OVERALL, **_proportion("accuracy", hits, everything, calls.patients, **options)})
    rows += _resampled(calls, **options)
    table = pd.DataFrame(rows)
    order = {name: i for i, name in enumerate((*calls.names, OVERALL))}
    place = [(order[row["class"]], PER_CLASS_METRICS.index(row["metric"])) for row in rows]
    ranked = sorted(range(len(rows)), key=place.__getitem__)
    return table.iloc[ranked].reset_index(drop=True)[list(PER_CLASS_COLUMNS)]


def classes_of(predictions: pd.DataFrame) -> tuple[str, ...]:
    """Classes of a table: those of its ``y_prob_`` columns in their order, then others that occur, sorted."""
    named = [str(name)[len(PROBABILITY) :] for name in predictions.columns if str(name).startswith(PROBABILITY)]
    found: set[str] = set()
    for column in ("y_true", "y_pred"):
        if column in predictions.columns:
            found |= {name for name in predictions[column].dropna().astype(str) if name.lower() not in _EMPTY}
    return (*named, *sorted(found - set(named)))


def _read(predictions: pd.DataFrame, classes: Sequence[str] | None) -> _Calls:
    """Check a table of predictions and turn its classes into numbers."""
    require_columns(predictions, ("patient_id", "y_true", "y_pred"), "predictions")
    if predictions.empty:
        raise InputError("The predictions table has no rows.", advice="Was the prediction run to its end?")
    names = tuple(map(str, classes)) if classes is not None else classes_of(predictions)
    if len(set(names)) < len(names) or OVERALL in names:
        raise InputError(f"Classes must differ, and none may be called {OVERALL!r}; found {', '.join(names)}.")
    if predictions["patient_id"].isna().any():
        raise InputError(
            f"{int(predictions['patient_id'].isna().sum())} rows of predictions have no patient_id.",
            advice="Fill it in: intervals resample patients.",
        )
    return _Calls(
        names,
        _codes(predictions["y_true"], names, "y_true"),
        _codes(predictions["y_pred"], names, "y_pred"),
        patient_codes(predictions["patient_id"].astype(str)),
    )


def _codes(values: pd.Series, names: Sequence[str], column: str) -> NDArray[np.intp]:
    position = {name: i for i, name in enumerate(names)}
    codes = []
    for value in values:
        text = "" if pd.isna(value) else str(value)
        if text not in position and text.lower() in _EMPTY:
            if column == "y_true":
                raise InputError(
                    "A row of predictions has no true class.", advice="Leave out images whose class is not known."
                )
            codes.append(len(names))
        elif text not in position:
            raise unknown_name(f"class in {column}", text, names)
        else:
            codes.append(position[text])
    return np.array(codes, dtype=np.intp)


def _trials(calls: _Calls, k: int, metric: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which images are successes of a proportion of class ``k`` against the rest, and which are its trials."""
    is_class, called = calls.truth == k, calls.answer == k
    everything = np.ones(calls.truth.size, dtype=bool)
    return {
        "accuracy": (is_class == called, everything),
        "sensitivity": (called, is_class),
        "specificity": (~called, ~is_class),
        "ppv": (is_class, called),
        "npv": (~is_class, ~called),
    }[metric]


def _proportion(
    metric: str,
    success: NDArray[np.bool_],
    trial: NDArray[np.bool_],
    patients: NDArray[np.intp],
    *,
    level: float,
    n_bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    hits, own = success[trial], patients[trial]
    low, high, method = np.nan, np.nan, NO_INTERVAL
    if hits.size:
        low, high, method = clustered_interval(hits, own, n_boot=n_bootstrap, seed=seed, level=level)
    value = float(hits.mean()) if hits.size else np.nan
    return _row(metric, value, low, high, method, hits.size, np.unique(own).size)


def _row(metric: str, value: float, low: float, high: float, method: str, n: int, n_patients: int) -> dict[str, Any]:
    note = ""
    if np.isnan(value):
        note, method = _ZERO[metric], NO_INTERVAL
    elif is_too_few(n, n_patients):
        note = f"from fewer than {MIN_TRIALS} images or {MIN_PATIENTS} patients"
    return {
        "metric": metric, "value": value, "low": low, "high": high, "method": method, "n": n, "n_patients": n_patients,
        "note": note,
    }  # fmt: skip


def _resampled(calls: _Calls, *, level: float, n_bootstrap: int, seed: int) -> list[dict[str, Any]]:
    """F1 and kappa of every class, and kappa of all, with intervals from one bootstrap of patients."""
    counts = calls.counts_by_patient()
    n_patients, k = counts.shape[:2]

    def statistic(weights: FloatArray) -> FloatArray:
        drawn = (counts.reshape(n_patients, -1).T @ weights).reshape(*counts.shape[1:], -1)
        return np.concatenate([_f1(drawn), _class_kappas(drawn), _kappa(drawn)[None]])

    drawn = bootstrap(
        statistic, np.zeros(n_patients), n_bootstrap=n_bootstrap, seed=seed, n_rows=n_patients + k * (k + 1)
    )
    bounds = drawn.interval(level=level, kind="percentile")
    rows = []
    for i, value in enumerate(drawn.estimate):
        metric = "f1" if i < k else "kappa"
        concerned = _concerned(calls, i) if i < k else np.ones(calls.truth.size, dtype=bool)
        trials = np.unique(calls.patients[concerned]).size
        low, high, method = float(bounds[i, 0]), float(bounds[i, 1]), PATIENT_BOOTSTRAP
        exact = _exact(metric, float(value), trials, level, _chance(counts, i - k) if metric == "kappa" else 0.0)
        if exact is not None:
            low, high, method = *exact, EXACT_PATIENTS
        if trials < 2:
            low, high, method = np.nan, np.nan, NO_INTERVAL
        name = OVERALL if i == 2 * k else calls.names[i % k]
        # Kappa of a perfect table misses 1 by the last bit.
        value = np.rint(value) if exact is not None else value
        rows.append({
            "class": name, **_row(metric, float(value), low, high, method, int(concerned.sum()), trials)
        })  # fmt: skip
    return rows


def _concerned(calls: _Calls, k: int) -> NDArray[np.bool_]:
    """Images that are, or are called, of class ``k``: those that F1 is computed from."""
    return (calls.truth == k) | (calls.answer == k)


def _f1(counts: FloatArray) -> FloatArray:
    """F1 of every class from counts of shape (k, k + 1, b)."""
    k = len(counts)
    hits = counts[np.arange(k), np.arange(k)]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(2 * hits / (counts.sum(axis=1) + counts.sum(axis=0)[:k]))


def _class_kappas(counts: FloatArray) -> FloatArray:
    """Cohen's kappa of every class against the rest."""
    return np.stack([_kappa(_against_rest(counts, c)) for c in range(len(counts))])


def _against_rest(counts: FloatArray, k: int) -> FloatArray:
    """Table of class ``k`` and the rest, of shape (2, 2, b)."""
    hit, row, column = counts[k, k], counts[k].sum(axis=0), counts[:, k].sum(axis=0)
    total = counts.sum(axis=(0, 1))
    return np.array([[hit, row - hit], [column - hit, total - row - column + hit]])


def _kappa(counts: FloatArray) -> FloatArray:
    """Cohen's kappa (1960, doi:10.1177/001316446002000104) of tables (k, k or more, b); further columns are errors."""
    k, total = len(counts), counts.sum(axis=(0, 1))
    observed = counts[np.arange(k), np.arange(k)].sum(axis=0) / total
    expected = _expected(counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(1 - expected > 1e-12, (observed - expected) / (1 - expected), np.nan))


def _expected(counts: FloatArray) -> FloatArray:
    """Agreement that the frequencies of truth and answers give by chance."""
    margins = counts.sum(axis=1) * counts.sum(axis=0)[: len(counts)]
    return np.asarray(margins.sum(axis=0) / counts.sum(axis=(0, 1)) ** 2)


def _chance(counts: FloatArray, k: int) -> float:
    """Agreement by chance of class ``k`` against the rest, or of all classes when ``k`` is their number."""
    total = counts.sum(axis=0)[..., None]
    return float(_expected(_against_rest(total, k) if k < len(total) else total)[0])


def _exact(metric: str, value: float, trials: int, level: float, chance: float) -> tuple[float, float] | None:
    """Bounds where no draw differs: F1 of 0 or 1, kappa of 1; None elsewhere."""
    nearest = float(np.rint(value)) if np.isfinite(value) else np.nan
    if abs(value - nearest) > 1e-12 or nearest not in ((0.0, 1.0) if metric == "f1" else (1.0,)):
        return None
    low, high = perfect_interval(nearest, trials, level=level)
    if metric == "f1":
        return 2 * low / (1 + low), 2 * high / (1 + high)
    return (low - chance) / (1 - chance), 1.0


def confusion_table(predictions: pd.DataFrame, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """Count images by true and predicted class.

    Parameters
    ----------
    predictions, classes
        See :func:`per_class_table`.

    Returns
    -------
    DataFrame
        Columns :data:`CONFUSION_COLUMNS`, one row per pair of classes, in order; ``share`` is that of the images of
        the true class (NaN without any). The predicted class :data:`NO_ANSWER` is there when such images are.
    """
    calls = _read(predictions, classes)
    counts = calls.counts_by_patient().sum(axis=0)
    answers = [*calls.names, NO_ANSWER]
    width = len(answers) if counts[:, -1].any() else len(answers) - 1
    totals = counts.sum(axis=1)
    rows = [
        (name, answers[j], int(counts[i, j]), counts[i, j] / totals[i] if totals[i] else np.nan)
        for i, name in enumerate(calls.names)
        for j in range(width)
    ]
    return pd.DataFrame(rows, columns=list(CONFUSION_COLUMNS))


def per_group_table(
    predictions: pd.DataFrame,
    classes: Sequence[str] | None = None,
    *,
    by: str = "site",
    level: float = 0.95,
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Tables of :func:`per_class_table` for the images of every centre, or of any other group.

    Parameters
    ----------
    predictions, classes, level, n_bootstrap, seed
        See :func:`per_class_table`.
    by : str
        Column that names the group; rows without a value form the group ``"not given"``.

    Returns
    -------
    DataFrame
        The column ``by``, then :data:`PER_CLASS_COLUMNS`; groups in sorted order.
    """
    require_columns(predictions, (by,), "predictions")
    if by in PER_CLASS_COLUMNS:
        raise InputError(f"A group column may not be called {by!r}: the table has one of that name.")
    names = classes if classes is not None else classes_of(predictions)
    groups = predictions[by].astype(object).where(predictions[by].notna(), "not given").astype(str)
    groups = groups.replace("", "not given")
    parts = []
    for group in sorted(groups.unique()):
        rows = predictions[groups == group]
        part = per_class_table(rows, names, level=level, n_bootstrap=n_bootstrap, seed=seed)
        part.insert(0, by, group)
        parts.append(part)
    if not parts:
        raise InputError("The predictions table has no rows.", advice="Was the prediction run to its end?")
    return pd.concat(parts, ignore_index=True)


def coverage_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Share of images that are answered, and accuracy among them, for every threshold on the confidence.

    Parameters
    ----------
    predictions : DataFrame
        ``y_true``, ``y_pred`` and ``confidence`` (the largest probability; computed from the columns ``y_prob_<class>``
        when it is absent).

    Returns
    -------
    DataFrame
        Columns :data:`COVERAGE_COLUMNS`, one row per distinct confidence, ascending: an image is answered when its
        confidence is at least ``threshold``; ``n`` images are. Images without a confidence are never answered, and
        count in the coverage. No rows when no image has one.

    Raises
    ------
    InputError
        For missing columns or no rows.

    Notes
    -----
    Selective classification: Geifman and El-Yaniv 2017, arXiv:1705.08500.
    """
    require_columns(predictions, ("y_true", "y_pred"), "predictions")
    if predictions.empty:
        raise InputError("The predictions table has no rows.", advice="Was the prediction run to its end?")
    confidence = _confidence(predictions)
    right = (predictions["y_true"].astype(str) == predictions["y_pred"].astype(str)).to_numpy()
    known = np.isfinite(confidence)
    order = np.argsort(-confidence[known], kind="stable")
    values, hits = confidence[known][order], np.cumsum(right[known][order])
    answered = np.arange(1, values.size + 1)
    # Images of equal confidence are answered together.
    last = np.append(np.diff(values) != 0, True)[: values.size]
    columns = (values, answered / len(predictions), hits / answered, answered)
    table = pd.DataFrame({name: column[last] for name, column in zip(COVERAGE_COLUMNS, columns, strict=True)})
    return table[::-1].reset_index(drop=True)


def _confidence(predictions: pd.DataFrame) -> FloatArray:
    if "confidence" in predictions.columns:
        return pd.to_numeric(predictions["confidence"], errors="coerce").to_numpy(dtype=np.float64)
    columns = [name for name in predictions.columns if str(name).startswith(PROBABILITY)]
    if not columns:
        require_columns(predictions, ("confidence",), "predictions")
    return predictions[columns].max(axis=1).to_numpy(dtype=np.float64)


@dataclass(frozen=True)
class Abstention:
    """A confidence below which a classifier does not answer, as chosen on tuning images.

    Attributes
    ----------
    wanted : float
        Accuracy asked for.
    threshold : float or None
        An image is answered when its confidence is at least this; None when no threshold reaches the accuracy.
    accuracy : float
        Reached among the answered tuning images; the best that any threshold reaches when it is not enough, NaN without
        tuning images.
    low, high : float
        95 % interval of ``accuracy``, see :func:`hybrid.analysis.proportions.clustered_interval`.
    coverage : float
        Share of the tuning images that are answered at that threshold.
    n : int
        Answered tuning images.
    note : str
        What to be careful about; empty when nothing.
    """

    wanted: float
    threshold: float | None
    accuracy: float
    low: float
    high: float
    coverage: float
    n: int
    note: str = ""


def choose_abstention(
    tuning_predictions: pd.DataFrame, accuracy: float = 0.99, *, n_bootstrap: int = 2000, seed: int = 0
) -> Abstention:
    """Choose the smallest confidence threshold that reaches an accuracy on the tuning images.

    Parameters
    ----------
    tuning_predictions : DataFrame
        As for :func:`coverage_table`, with ``patient_id``; tuning images only, never test images.
    accuracy : float
        Above 0, at most 1.
    n_bootstrap, seed : int
        See :func:`per_class_table`.

    Returns
    -------
    Abstention
        Without a threshold, and with a note that says what is reached at best, when none suffices. The accuracy on
        tuning images is optimistic, because the threshold was chosen on them: what it is worth shows on test images.

    Raises
    ------
    InputError
        For an accuracy outside (0, 1], or missing columns.
    """
    if not 0 < accuracy <= 1:
        raise InputError(f"Expected an accuracy above 0 and at most 1; found {accuracy}.")
    curve = coverage_table(tuning_predictions) if len(tuning_predictions) else pd.DataFrame(columns=COVERAGE_COLUMNS)
    if curve.empty:
        return Abstention(accuracy, None, np.nan, np.nan, np.nan, 0.0, 0, "there are no tuning images with an answer")
    require_columns(tuning_predictions, ("patient_id",), "predictions")
    reached = curve[curve["accuracy"] >= accuracy]
    row = reached.iloc[0] if len(reached) else curve.loc[curve["accuracy"].idxmax()]
    answered = tuning_predictions[_confidence(tuning_predictions) >= row["threshold"]]
    right = answered["y_true"].astype(str) == answered["y_pred"].astype(str)
    patients = answered["patient_id"].astype(str)
    low, high, _ = clustered_interval(right, patients, n_boot=n_bootstrap, seed=seed)
    note = ""
    if reached.empty:
        note = f"no threshold reaches an accuracy of {accuracy:g} on the tuning images: every image is answered"
    elif is_too_few(len(answered), patients.nunique()):
        note = f"rests on {len(answered)} tuning images of {patients.nunique()} patients only"
    elif row["n"] == len(tuning_predictions):
        note = "all tuning images may be answered: the threshold is the lowest confidence among them"
    return Abstention(
        accuracy, float(row["threshold"]) if len(reached) else None, float(row["accuracy"]), low, high,
        float(row["coverage"]), int(row["n"]), note,
    )  # fmt: skip


def layout_table(table: pd.DataFrame, *, digits: int = 2) -> pd.DataFrame:
    """Lay out one table of :func:`per_class_table` as it is published; for reports only.

    Parameters
    ----------
    table : DataFrame
        Of one group.
    digits : int
        Decimals.

    Returns
    -------
    DataFrame
        Classes as index, one column per metric, cells like ``0.98 (0.95-0.99)`` with a dash for what is not defined.
    """
    require_columns(table, ("class", "metric", "value", "low", "high"), "per-class")
    if table.duplicated(["class", "metric"]).any():
        raise InputError("The table describes several groups.", advice="Lay out the rows of one group at a time.")
    text = [with_interval(row["value"], row["low"], row["high"], digits) for row in table.to_dict("records")]
    wide = table.assign(text=text).pivot(index="class", columns="metric", values="text")
    columns = [name for name in PER_CLASS_METRICS if name in wide.columns]
    laid_out = wide.loc[list(dict.fromkeys(table["class"])), columns].fillna("")
    laid_out.columns.name = None
    return laid_out
