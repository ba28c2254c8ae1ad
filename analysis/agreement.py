"""Agreement of categories: of two models in what they get right, of two readers in the grades they give.

McNemar's test and Cochran's Q compare how often two or more models are right on the same cases. Cohen's kappa measures
how far two readers agree beyond chance. All of them take one rating per independent case: several lesions of one
patient, or several repeats of a cross-validation, are not independent cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hybrid.errors import InputError, unknown_name

from .roc import check_level

FloatArray = NDArray[np.float64]

MCNEMAR_METHODS: Final = {
    "mid_p": "McNemar's test, mid-p (Fagerland, Lydersen and Laake 2013, doi:10.1186/1471-2288-13-91)",
    "exact": "McNemar's test, exact conditional (binomial) p-value (McNemar 1947, doi:10.1007/BF02295996)",
    "uncorrected": "McNemar's chi-square test without continuity correction (1947, doi:10.1007/BF02295996)",
    "corrected": "McNemar's chi-square test with continuity correction (Edwards 1948, doi:10.1007/BF02289261)",
}
"""Methods that :func:`mcnemar` knows. The mid-p version keeps its level almost always and has more power than the exact
one, which is strictly conservative."""

DIFFERENCE_INTERVAL: Final = "adjusted Wald interval (Bonett and Price 2012, doi:10.3102/1076998611411915)"

WEIGHTS: Final = ("linear", "quadratic")
"""Weights of disagreement between ordered categories: their distance in steps, or its square."""

NUMERIC_KINDS: Final = "biuf"
"""Kinds of NumPy types that count as numbers."""

ONE_CATEGORY: Final = "both raters use the same single category: agreement by chance is perfect"
PERFECT: Final = "no interval: the large-sample standard error is 0"


@dataclass(frozen=True)
class McNemar:
    """Paired comparison of how often two models are right.

    Attributes
    ----------
    n : int
        Cases.
    only_first, only_second : int
        Discordant cases: only the first (second) model is right. Only these carry information about the difference.
    proportion_1, proportion_2 : float
        Share of cases on which each model is right.
    difference : float
        ``proportion_1 - proportion_2``.
    lower, upper : float
        Interval of the difference (:data:`DIFFERENCE_INTERVAL`). Test and interval are not inversions of each other
        and may disagree near the limit.
    statistic : float
        Chi-square with one degree of freedom; NaN for the exact and the mid-p test, which have none.
    p : float
        Two-sided; 1 without discordant cases.
    method : str
        What was done, with the source.
    """

    n: int
    only_first: int
    only_second: int
    proportion_1: float
    proportion_2: float
    difference: float
    lower: float
    upper: float
    statistic: float
    p: float
    method: str


def mcnemar(
    table: ArrayLike,
    *,
    method: Literal["mid_p", "exact", "uncorrected", "corrected"] = "mid_p",
    level: float = 0.95,
) -> McNemar:
    """Compare two models on the same cases, from the table of who is right.

    Parameters
    ----------
    table : array-like of shape (2, 2)
        Counts ``[[both right, only the first right], [only the second right, both wrong]]``.
    method : str
        A key of :data:`MCNEMAR_METHODS`.
    level : float
        Confidence level of the interval of the difference.

    Returns
    -------
    McNemar
        Difference with interval, and p-value.

    Raises
    ------
    InputError
        For an unknown method, or a table that does not hold 2 x 2 counts.

    Notes
    -----
    The corrected statistic is never pushed beyond 0: equal discordant counts give 0 and p = 1, as in R.
    """
    if method not in MCNEMAR_METHODS:
        raise unknown_name("method of McNemar's test", method, MCNEMAR_METHODS)
    check_level(level)
    counts = _counts(table)
    if counts.shape != (2, 2):
        raise InputError(
            f"McNemar's test needs a 2 x 2 table; found shape {counts.shape}.",
            advice="Rows: first model right or wrong; columns: second model right or wrong.",
        )
    n, only_first, only_second = int(counts.sum()), int(counts[0, 1]), int(counts[1, 0])
    statistic, p = _mcnemar_p(counts, only_first, only_second, method)
    proportions = float(counts[0].sum() / n), float(counts[:, 0].sum() / n)
    difference = (only_first - only_second) / n
    lower, upper = _paired_interval(only_first, only_second, n, level)
    return McNemar(
        n, only_first, only_second, *proportions, difference, lower, upper, statistic, p, MCNEMAR_METHODS[method]
    )


def _mcnemar_p(counts: FloatArray, only_first: int, only_second: int, method: str) -> tuple[float, float]:
    from statsmodels.stats import contingency_tables

    discordant, smaller = only_first + only_second, min(only_first, only_second)
    if method == "exact":
        return math.nan, float(contingency_tables.mcnemar(counts, exact=True).pvalue)
    if method == "mid_p":
        p = 2 * stats.binom.cdf(smaller, discordant, 0.5) - stats.binom.pmf(smaller, discordant, 0.5)
        return math.nan, float(min(p, 1.0))
    if only_first == only_second:
        return 0.0, 1.0
    result = contingency_tables.mcnemar(counts, exact=False, correction=method == "corrected")
    return float(result.statistic), float(result.pvalue)


def _paired_interval(only_first: int, only_second: int, n: int, level: float) -> tuple[float, float]:
    """Bonett and Price 2012, eq. 7: one case is added to each discordant count."""
    first, second = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    half = stats.norm.ppf((1 + level) / 2) * math.sqrt((first + second - (first - second) ** 2) / (n + 2))
    return max(-1.0, float(first - second - half)), min(1.0, float(first - second + half))


def mcnemar_predictions(
    y_true: ArrayLike,
    predictions_1: ArrayLike,
    predictions_2: ArrayLike,
    *,
    method: Literal["mid_p", "exact", "uncorrected", "corrected"] = "mid_p",
    level: float = 0.95,
) -> McNemar:
    """Compare the accuracy of two models from their predicted classes.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        Class of each case, any labels. Pass the diseased cases only to compare sensitivities, the others only to
        compare specificities.
    predictions_1, predictions_2 : array-like of shape (n,)
        Predicted classes (not probabilities) of the same cases in the same order.
    method, level
        See :func:`mcnemar`.

    Returns
    -------
    McNemar
        See :func:`mcnemar`.

    Raises
    ------
    InputError
        For unequal lengths, missing values, or probabilities in place of classes.
    """
    truth, first, second = (_labels(values) for values in (y_true, predictions_1, predictions_2))
    _check_same_cases([truth, first, second])
    for labels in (first, second):
        _check_classes(labels)
    right_1, right_2 = (first == truth).astype(int), (second == truth).astype(int)
    table = np.zeros((2, 2), dtype=np.int64)
    np.add.at(table, (1 - right_1, 1 - right_2), 1)
    return mcnemar(table, method=method, level=level)


@dataclass(frozen=True)
class CochranQ:
    """Comparison of how often several models are right on the same cases.

    Attributes
    ----------
    q : float
        Chi-square statistic; 0 when the models are right on exactly the same cases.
    df : int
        Degrees of freedom, number of models minus 1.
    p : float
        From the chi-square distribution, which is a poor approximation with few informative cases.
    n : int
        Cases.
    n_informative : int
        Cases on which at least one model is right and at least one wrong; only these enter Q.
    proportions : ndarray of shape (n_models,)
        Share of cases on which each model is right.
    """

    q: float
    df: int
    p: float
    n: int
    n_informative: int
    proportions: FloatArray
    method: str = "Cochran's Q test (1950, doi:10.1093/biomet/37.3-4.256)"


def cochran_q(right: ArrayLike) -> CochranQ:
    """Test whether several models are right equally often (Cochran 1950, doi:10.1093/biomet/37.3-4.256).

    With two models Q equals McNemar's statistic without correction.

    Parameters
    ----------
    right : array-like of shape (n_cases, n_models)
        1 where the model is right, 0 where it is wrong.

    Returns
    -------
    CochranQ
        Statistic and p-value.

    Raises
    ------
    InputError
        For values other than 0 and 1, fewer than two models, or no case.
    """
    from statsmodels.stats.contingency_tables import cochrans_q

    values = np.asarray(right, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or values.shape[0] < 1:
        raise InputError(
            f"Cochran's Q needs cases as rows and two or more models as columns; found shape {values.shape}.",
            advice="Put 1 where a model is right on a case and 0 where it is wrong.",
        )
    if not np.isin(values, (0.0, 1.0)).all():
        wrong = values[~np.isin(values, (0.0, 1.0))][0]
        raise InputError(f"Cochran's Q needs 0 and 1; found {wrong}.", advice="Compare predicted with true classes.")
    informative = np.ptp(values, axis=1) > 0
    df, proportions = values.shape[1] - 1, values.mean(axis=0)
    if not informative.any():
        return CochranQ(0.0, df, 1.0, len(values), 0, proportions)
    result = cochrans_q(values)
    return CochranQ(float(result.statistic), df, float(result.pvalue), len(values), int(informative.sum()), proportions)


@dataclass(frozen=True)
class Kappa:
    """Agreement of two raters beyond chance.

    Attributes
    ----------
    kappa : float
        1 for perfect agreement, 0 for agreement as by chance; NaN when both raters use the same single category.
    lower, upper : float
        Interval from the large-sample standard error, cut at -1 and 1; NaN where that is 0 or undefined.
    standard_error : float
        Fleiss, Cohen and Everitt 1969.
    observed, expected : float
        Agreement observed, and expected by chance from the raters' own frequencies (weighted, if weights are used).
    n : int
        Cases.
    categories : tuple
        In the order in which steps between them are counted.
    weights : str or None
        One of :data:`WEIGHTS`.
    reason : str
        Why something is NaN; empty otherwise.
    """

    kappa: float
    lower: float
    upper: float
    standard_error: float
    observed: float
    expected: float
    n: int
    categories: tuple[Any, ...]
    weights: str | None = None
    reason: str = ""
    method: str = (
        "Cohen's kappa (1960, doi:10.1177/001316446002000104; weighted 1968, doi:10.1037/h0026256), standard error of "
        "Fleiss, Cohen and Everitt 1969 (doi:10.1037/h0028106)"
    )


def cohen_kappa(
    rater_1: ArrayLike,
    rater_2: ArrayLike,
    *,
    weights: Literal["linear", "quadratic"] | None = None,
    categories: Sequence[Any] | None = None,
    level: float = 0.95,
) -> Kappa:
    """Cohen's kappa of two raters, plain or weighted.

    Parameters
    ----------
    rater_1, rater_2 : array-like of shape (n,)
        Category that each rater gave to the same cases.
    weights : {"linear", "quadratic"}, optional
        For ordered categories: a disagreement counts by its distance in steps, or by the square of that.
    categories : sequence, optional
        All possible categories, in order. Needed for weights unless the ratings are whole numbers; those are taken to
        be grades, so that an unused grade between two used ones still counts as a step.
    level : float
        Confidence level.

    Returns
    -------
    Kappa
        With interval.

    Raises
    ------
    InputError
        For unequal lengths, missing ratings, ratings outside ``categories``, or weights without an order.
    """
    first, second = _labels(rater_1), _labels(rater_2)
    _check_same_cases([first, second])
    if categories is not None and first.dtype.kind not in NUMERIC_KINDS:
        categories = [str(name) for name in categories]
    names = _categories(first, second, weights, categories)
    position = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(names), len(names)), dtype=np.int64)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        if a not in position or b not in position:
            raise unknown_name("category", a if a not in position else b, names)
        table[position[a], position[b]] += 1
    return cohen_kappa_table(table, weights=weights, categories=names, level=level)


def cohen_kappa_table(
    table: ArrayLike,
    *,
    weights: Literal["linear", "quadratic"] | None = None,
    categories: Sequence[Any] | None = None,
    level: float = 0.95,
) -> Kappa:
    """Cohen's kappa from a table of counts.

    Parameters
    ----------
    table : array-like of shape (k, k)
        Cases by category of the first (rows) and the second rater (columns), in the same order.
    weights, level
        See :func:`cohen_kappa`.
    categories : sequence of length k, optional
        Names of the categories; default: 0, 1, ...

    Returns
    -------
    Kappa
        With interval.

    Raises
    ------
    InputError
        For unknown weights, or a table that does not hold k x k counts.
    """
    from statsmodels.stats.inter_rater import cohens_kappa

    if weights is not None and weights not in WEIGHTS:
        raise unknown_name("weights of kappa", weights, WEIGHTS)
    check_level(level)
    counts = _counts(table)
    names = tuple(range(len(counts))) if categories is None else tuple(categories)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or len(names) != len(counts):
        raise InputError(
            f"Kappa needs a square table with one row and column per category; found shape {counts.shape} for "
            f"{len(names)} categories.",
            advice="Count the cases in each pair of categories.",
        )
    observed, expected = _agreement(counts, weights)
    common: dict[str, Any] = {"observed": observed, "expected": expected, "n": int(counts.sum()), "categories": names}
    if np.array_equal(np.diag(np.diag(counts)), counts) and np.count_nonzero(counts) == 1:
        return Kappa(np.nan, np.nan, np.nan, np.nan, **common, weights=weights, reason=ONE_CATEGORY)
    # statsmodels also divides by the standard error under independence, which may be 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        result = cohens_kappa(counts, wt=weights)
    kappa, variance = float(result.kappa), float(result.var_kappa)
    if variance < 1e-15:
        return Kappa(kappa, np.nan, np.nan, 0.0, **common, weights=weights, reason=PERFECT)
    half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(variance)
    return Kappa(kappa, max(-1.0, kappa - half), min(1.0, kappa + half), math.sqrt(variance), **common, weights=weights)


def _agreement(counts: FloatArray, weights: str | None) -> tuple[float, float]:
    """Observed agreement and the agreement expected by chance."""
    k = len(counts)
    steps = np.abs(np.subtract.outer(np.arange(k), np.arange(k))) / max(k - 1, 1)
    loss = {None: steps > 0, "linear": steps, "quadratic": steps**2}[weights]
    share = counts / counts.sum()
    chance = np.outer(share.sum(axis=1), share.sum(axis=0))
    return 1 - float((loss * share).sum()), 1 - float((loss * chance).sum())


def _counts(table: ArrayLike) -> FloatArray:
    """Validate a table of counts and return it as float64."""
    counts = np.asarray(table, dtype=np.float64)
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts != np.round(counts)).any():
        raise InputError("The table must hold counts: whole numbers, 0 or more.", advice="Pass counts, not shares.")
    if counts.sum() == 0:
        raise InputError("The table is empty: it counts no case.", advice="Pass at least one case.")
    return counts


def _labels(values: ArrayLike) -> NDArray[Any]:
    """One-dimensional labels: numbers, or text for everything else."""
    labels = pd.Series(np.asarray(values).ravel()).infer_objects().to_numpy()
    if np.ndim(values) != 1:
        raise InputError(
            f"Labels must be one per case; found shape {np.shape(values)}.", advice="Pass one-dimensional lists."
        )
    missing = int(pd.isna(labels).sum())
    if missing:
        raise InputError(f"{missing} of {labels.size} labels are missing.", advice="Remove these cases from all lists.")
    return labels if labels.dtype.kind in NUMERIC_KINDS else labels.astype(str)


def _check_same_cases(lists: Sequence[NDArray[Any]]) -> None:
    sizes = [labels.size for labels in lists]
    if len(set(sizes)) > 1 or sizes[0] == 0:
        raise InputError(
            f"The lists must describe the same cases, at least one; found lengths {', '.join(map(str, sizes))}.",
            advice="Restrict all to the cases they share, in the same order.",
        )
    if len({labels.dtype.kind in NUMERIC_KINDS for labels in lists}) > 1:
        first = ", ".join(repr(labels[:1].tolist()[0]) for labels in lists)
        raise InputError(
            f"The lists must use the same labels; found numbers beside text: {first}.", advice="Recode one of them."
        )


def _check_classes(labels: NDArray[Any]) -> None:
    if labels.dtype.kind == "f" and (labels != np.round(labels)).any():
        raise InputError(
            f"Predictions must be classes; found {labels[labels != np.round(labels)][0]}.",
            advice="Apply a cut-off that was chosen on training data to the probabilities.",
        )


def _categories(
    first: NDArray[Any], second: NDArray[Any], weights: str | None, categories: Sequence[Any] | None
) -> tuple[Any, ...]:
    if categories is not None:
        if len(set(categories)) < len(categories):
            raise InputError(f"The categories must differ; found {list(categories)}.", advice="Name each once.")
        return tuple(categories)
    used = sorted({*first.tolist(), *second.tolist()})
    if weights is None:
        return tuple(used)
    if all(isinstance(name, int | float) and float(name).is_integer() for name in used):
        return tuple(range(int(used[0]), int(used[-1]) + 1))
    raise InputError(
        f"Weighted kappa needs the order of the categories; found {', '.join(map(repr, used[:5]))}.",
        advice="Pass categories=[...] from lowest to highest.",
    )
