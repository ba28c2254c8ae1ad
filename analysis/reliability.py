"""Which features can be trusted: agreement of repeated measurements, stability of a selection, and a first screening.

Intraclass correlations after Shrout and Fleiss 1979 (doi:10.1037/0033-2909.86.2.420) and McGraw and Wong 1996
(doi:10.1037/1082-989X.1.1.30), Lin's concordance correlation (1989, doi:10.2307/2532051), the stability of feature
selection of Nogueira, Sechidis and Brown 2018 (Journal of Machine Learning Research 18(174):1-54), and the Mann-Whitney
test. Everything is computed for all features at once.

A "rater" is whatever was repeated: a reader, a segmentation, a scan, a perturbation of the mask. For limits of
agreement in the unit of the measurement see :func:`hybrid.analysis.bland_altman`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from hybrid.errors import InputError, unknown_name

from .multiplicity import Method, adjust
from .roc import check_level, check_scores

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Missing = Literal["error", "drop"]

ICC_KINDS: Final = {
    "ICC(1,1)": "one rating, different raters for each subject (one-way random)",
    "ICC(2,1)": "one rating, absolute agreement of raters that stand for others (two-way random)",
    "ICC(3,1)": "one rating, consistency of these very raters (two-way mixed)",
    "ICC(1,k)": "mean of k ratings, different raters for each subject",
    "ICC(2,k)": "mean of k ratings, absolute agreement",
    "ICC(3,k)": "mean of k ratings, consistency; equals Cronbach's alpha",
}
"""Kinds of intraclass correlation; how to choose is told by Koo and Li 2016 (doi:10.1016/j.jcm.2016.02.012). Readers or
segmentations that stand for others usually call for ICC(2,1), repeated scans in no particular order for ICC(1,1)."""

ICC_COLUMNS: Final = (
    "feature", "kind", "icc", "lower", "upper", "f", "df1", "df2", "p", "n_subjects", "n_raters", "n_dropped", "reason",
)  # fmt: skip
"""Columns of the table that :func:`icc` returns."""

CONCORDANCE_COLUMNS: Final = (
    "feature", "ccc", "lower", "upper", "pearson", "bias_correction", "n_subjects", "n_dropped", "reason",
)  # fmt: skip
"""Columns of the table that :func:`concordance` returns."""

LIMITS_COLUMNS: Final = (
    "feature", "bias", "bias_lower", "bias_upper", "sd", "lower_limit", "upper_limit", "limit_margin", "n_subjects",
    "n_dropped", "reason",
)  # fmt: skip
"""Columns of the table that :func:`limits_of_agreement` returns."""

LIMIT_Z: Final = 1.96
"""The limits of agreement lie so many standard deviations on either side of the bias."""

SCREENING_COLUMNS: Final = (
    "feature", "auc", "p", "p_adjusted", "p_method", "n_positive", "n_negative", "n_dropped", "n_tests", "reason",
)  # fmt: skip
"""Columns of the table that :func:`univariate_screening` returns."""

MISSING: Final = ("error", "drop")

DEFINED: Final = ""
CONSTANT: Final = "all values are equal"
ONE_CONSTANT: Final = "the values of one rater are all equal"
TOO_FEW: Final = "too few complete subjects"
NO_SPREAD: Final = "undefined: too little variation between subjects"
ICC_REASONS: Final = (DEFINED, NO_SPREAD, CONSTANT, TOO_FEW)
ONE_CLASS: Final = "values of one class only"
NO_INTERVAL: Final = "no interval: the large-sample variance is 0"
NOTHING_SELECTED: Final = "undefined: every set is empty or holds all features"

EXACT: Final = "exact"
ASYMPTOTIC: Final = "normal approximation with correction for ties and continuity"

MAX_EXACT: Final = 8
"""Mann-Whitney's p-value is exact when the smaller class is no larger than this and no values are tied."""

ROUNDING: Final = 16 * np.finfo(np.float64).eps
"""Differences smaller than this share of the largest value are rounding errors, not measurements."""


def stack_raters(tables: Sequence[pd.DataFrame]) -> tuple[FloatArray, list[Any]]:
    """Bring the feature tables of several raters into one array.

    Parameters
    ----------
    tables : sequence of DataFrame
        One per rater; the index names the subjects (cases), the columns the features. Subjects and features must be the
        same in all, in any order.

    Returns
    -------
    ratings : ndarray of shape (n_subjects, n_raters, n_features)
        In the order of the first table.
    features : list
        Names of the features.

    Raises
    ------
    InputError
        For fewer than two tables, doubled names, or subjects or features that one table lacks.
    """
    if len(tables) < 2:
        raise InputError(f"Agreement needs two or more raters; found {len(tables)}.", advice="Pass a table per rater.")
    first = tables[0]
    for number, table in enumerate(tables, start=1):
        for kind, own, expected in (("subject", table.index, first.index), ("feature", table.columns, first.columns)):
            if own.has_duplicates:
                name = own[own.duplicated()][0]
                raise InputError(f"Table {number} has {kind} {name!r} twice.", advice="Keep one row and column each.")
            different = own.symmetric_difference(expected)
            if len(different):
                raise InputError(
                    f"Tables 1 and {number} differ in {len(different)} {kind}s; the first is {different[0]!r}.",
                    advice=f"Restrict all tables to the {kind}s they share, and say how many were left out.",
                )
    ordered = [table.loc[first.index, first.columns].to_numpy(dtype=np.float64) for table in tables]
    return np.stack(ordered, axis=1), list(first.columns)


def icc(
    ratings: ArrayLike,
    *,
    features: Sequence[Any] | None = None,
    kinds: Sequence[str] = tuple(ICC_KINDS),
    missing: Missing = "error",
    level: float = 0.95,
) -> pd.DataFrame:
    """Intraclass correlations of many features, with intervals.

    Parameters
    ----------
    ratings : array-like of shape (n_subjects, n_raters, n_features)
        See :func:`stack_raters`; a table (n_subjects, n_raters) is one feature.
    features : sequence, optional
        Names; default: 0, 1, ...
    kinds : sequence of str
        Keys of :data:`ICC_KINDS`.
    missing : {"error", "drop"}
        What to do with subjects that lack a rating (NaN or infinite) of a feature: raise, or leave them out of this
        feature and report their number in ``n_dropped``.
    level : float
        Confidence level.

    Returns
    -------
    DataFrame
        Columns :data:`ICC_COLUMNS`, one row per feature and kind. ``f``, ``df1``, ``df2`` and ``p`` test an ICC of 0.
        A coefficient may be negative when raters disagree more than subjects differ. Where it is not defined it is NaN,
        and ``reason`` says why.

    Raises
    ------
    InputError
        For an unknown kind, fewer than two subjects or raters, or missing ratings with ``missing="error"``.

    Notes
    -----
    Intervals are those of the two papers: exact for kinds 1 and 3 under normality, Satterthwaite's approximation for
    kind 2. With perfect agreement both bounds are 1.
    """
    for kind in kinds:
        if kind not in ICC_KINDS:
            raise unknown_name("kind of ICC", kind, ICC_KINDS)
    check_level(level)
    values, names = _check_ratings(ratings, features)
    kept = _complete(values, names, missing)
    squares = _mean_squares(values, kept)
    estimate, lower, upper = _icc_bounds(squares, (1 + level) / 2)
    f, df1, df2, p = _icc_tests(squares)
    reason = np.isnan(estimate).astype(np.intp)
    constant = (squares.subjects == 0) & (squares.within == 0)
    too_few = kept.sum(axis=0) < 2
    reason[:, constant], reason[:, too_few] = ICC_REASONS.index(CONSTANT), ICC_REASONS.index(TOO_FEW)
    undefined = constant | too_few
    cells = [np.where(undefined, np.nan, table) for table in (estimate, lower, upper, f)]
    cells += [np.broadcast_to(df1, f.shape), df2, np.where(undefined, np.nan, p)]
    return _icc_table(names, kinds, cells, kept, values.shape[1], reason)


@dataclass(frozen=True)
class _MeanSquares:
    """Mean squares of subjects, raters, within subjects and error, each (n_features,), and numbers of subjects."""

    subjects: FloatArray
    raters: FloatArray
    within: FloatArray
    error: FloatArray
    n: FloatArray
    k: int


def _mean_squares(values: FloatArray, kept: BoolArray) -> _MeanSquares:
    """Two-way analysis of variance without replication, each feature over its own complete subjects."""
    k = values.shape[1]
    n = kept.sum(axis=0).astype(np.float64)
    complete = bool(kept.all())
    if complete:
        # One number for all features keeps the quantiles of F below cheap.
        n = n[:1]
    else:
        values = np.where(kept[:, None, :], values, 0.0)
    scale = np.maximum(values.max(axis=(0, 1)), -values.min(axis=(0, 1)))
    safe, free = np.maximum(n, 1), np.maximum(n - 1, 1)
    residual = values - values.sum(axis=(0, 1)) / (k * safe)
    if not complete:
        residual *= kept[:, None, :]
    of_subjects, of_raters = residual.mean(axis=1), residual.sum(axis=0) / safe
    residual -= of_subjects[:, None, :]
    residual -= of_raters if complete else of_raters * kept[:, None, :]
    raters = n * np.einsum("rf,rf->f", of_raters, of_raters)
    error = np.einsum("srf,srf->f", residual, residual)
    squares = (
        k * np.einsum("sf,sf->f", of_subjects, of_subjects) / free,
        raters / (k - 1),
        (raters + error) / (safe * (k - 1)),
        error / (free * (k - 1)),
    )
    floor = k * safe * (ROUNDING * scale) ** 2
    subjects, between, within, error = (np.where(square <= floor, 0.0, square) for square in squares)
    return _MeanSquares(subjects, between, within, error, n, k)


def _icc_bounds(squares: _MeanSquares, quantile: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Estimates and bounds, each of shape (6, n_features) in the order of :data:`ICC_KINDS`."""
    b, j, w, e, n, k = squares.subjects, squares.raters, squares.within, squares.error, squares.n, squares.k
    with np.errstate(divide="ignore", invalid="ignore"):
        denominators = np.stack([
            b + (k - 1) * w, b + (k - 1) * e + k * (j - e) / n, b + (k - 1) * e, b, b + (j - e) / n, b,
        ])  # fmt: skip
        estimate = np.stack([b - w, b - e, b - e, b - w, b - e, b - e]) / denominators
        estimate = np.where(denominators > 0, estimate, np.nan)
        one_way = _f_bounds(b / w, n - 1, n * (k - 1), quantile)
        two_way = _f_bounds(b / e, n - 1, (n - 1) * (k - 1), quantile)
        agreement = _agreement_bounds(squares, estimate[1], quantile)
        single = np.stack([1 - k / (one_way + k - 1), agreement, 1 - k / (two_way + k - 1)])
        # The mean of k ratings by Spearman and Brown's formula; minus infinity where that has no value.
        share = 1 + (k - 1) * single
        average = np.where(share > 0, k * single / share, -np.inf)
    lower, upper = np.concatenate([single, average]).swapaxes(0, 1)
    defined = np.isfinite(estimate)
    return estimate, np.where(defined, lower, np.nan), np.where(defined, upper, np.nan)


def _f_bounds(f: FloatArray, df1: FloatArray, df2: FloatArray, quantile: float) -> FloatArray:
    """Bounds of the ratio of mean squares, shape (2, n_features)."""
    return np.stack([f / special.fdtri(df1, df2, quantile), f * special.fdtri(df2, df1, quantile)])


def _agreement_bounds(squares: _MeanSquares, estimate: FloatArray, quantile: float) -> FloatArray:
    """Bounds of ICC(2,1): McGraw and Wong 1996, table 7, in a form that allows infinite quantiles of F."""
    b, j, e, n, k = squares.subjects, squares.raters, squares.error, squares.n, squares.k
    of_raters = k * estimate * j
    of_error = (n * (1 + (k - 1) * estimate) - k * estimate) * e
    df = (of_raters + of_error) ** 2 / (of_raters**2 / (k - 1) + of_error**2 / ((n - 1) * (k - 1)))
    df = np.where(np.isfinite(df), df, (n - 1) * (k - 1))
    below, above = (np.where(df > 0, special.fdtri(*dfs, quantile), np.inf) for dfs in ((n - 1, df), (df, n - 1)))
    small, large = b / below, np.where(b == 0, 0.0, b * above)
    rest = k * j + (k * n - k - n) * e
    return np.stack([1 - (rest + n * e) / (rest + n * x) for x in (small, large)])


def _icc_tests(squares: _MeanSquares) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """F, its degrees of freedom and p, of shape (6, n_features) or to be broadcast to it."""
    n, k = squares.n, squares.k
    one_way = np.array([kind.startswith("ICC(1") for kind in ICC_KINDS])[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        f = [squares.subjects / below for below in (squares.within, squares.error)]
    df2 = [np.broadcast_to(df, f[0].shape) for df in (n * (k - 1), (n - 1) * (k - 1))]
    p = [special.fdtrc(n - 1, df, ratio) for df, ratio in zip(df2, f, strict=True)]
    return np.where(one_way, *f), n - 1, np.where(one_way, *df2), np.where(one_way, *p)


def _icc_table(
    names: list[Any], kinds: Sequence[str], cells: list[FloatArray], kept: BoolArray, k: int,
    reason: NDArray[np.intp],
) -> pd.DataFrame:  # fmt: skip
    """One row per feature and kind, from arrays of shape (6, n_features); reasons count in :data:`ICC_REASONS`."""
    rows = [list(ICC_KINDS).index(kind) for kind in kinds]
    numbers = [table[rows].T.ravel() for table in cells]
    count = np.repeat(kept.sum(axis=0), len(rows))
    feature, kind = (pd.Series(own).array for own in (names, list(kinds)))
    columns = (
        feature.repeat(len(rows)), kind.take(np.tile(np.arange(len(rows)), len(names))), *numbers, count, k,
        len(kept) - count, pd.Series(ICC_REASONS).array.take(reason[rows].T.ravel()),
    )  # fmt: skip
    return pd.DataFrame(dict(zip(ICC_COLUMNS, columns, strict=True)))


def concordance(
    ratings: ArrayLike, *, features: Sequence[Any] | None = None, missing: Missing = "error", level: float = 0.95
) -> pd.DataFrame:
    """Lin's concordance correlation coefficient of many features (1989, doi:10.2307/2532051).

    Parameters
    ----------
    ratings : array-like of shape (n_subjects, 2, n_features)
        Two ratings of each subject; a table (n_subjects, 2) is one feature.
    features, missing
        See :func:`icc`.
    level : float
        Confidence level.

    Returns
    -------
    DataFrame
        Columns :data:`CONCORDANCE_COLUMNS`, one row per feature. ``ccc`` is the product of ``pearson`` (precision) and
        ``bias_correction`` (accuracy; 1 without a shift in location or scale). The interval uses Fisher's z and the
        variance as corrected in 2000 (doi:10.1111/j.0006-341X.2000.00324.x); with perfect agreement both bounds are 1.
        Undefined values are NaN, and ``reason`` says why.

    Raises
    ------
    InputError
        For another number of raters than two, or missing ratings with ``missing="error"``.
    """
    check_level(level)
    values, names, kept = _two_ratings(ratings, features, missing, "Lin's coefficient compares")
    n = kept.sum(axis=0)
    weight = kept[:, None, :]
    values = np.where(weight, values, 0.0)
    means = values.sum(axis=0) / np.maximum(n, 1)
    centred = (values - means) * weight
    scale = np.abs(values).max(axis=0)
    variance = (centred**2).sum(axis=0) / np.maximum(n, 1)
    variance = np.where(variance <= (ROUNDING * scale) ** 2, 0.0, variance)
    covariance = (centred[:, 0] * centred[:, 1]).sum(axis=0) / np.maximum(n, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        numbers = _concordance(variance, covariance, means[0] - means[1], n, level)
    equal = (variance == 0).all(axis=0) & (np.abs(means[0] - means[1]) <= ROUNDING * scale.max(axis=0))
    reason = np.where((variance == 0).any(axis=0), ONE_CONSTANT, "").astype(object)
    reason[equal], reason[n < 3] = CONSTANT, TOO_FEW
    numbers = np.where(reason == "", numbers, np.nan)
    columns = (_as_objects(names), *numbers, n, len(values) - n, reason)
    return pd.DataFrame(dict(zip(CONCORDANCE_COLUMNS, columns, strict=True)))


def _concordance(
    variance: FloatArray, covariance: FloatArray, shift: FloatArray, n: NDArray[np.int64], level: float
) -> FloatArray:
    """Coefficient, bounds, Pearson's correlation and bias correction, shape (5, n_features)."""
    spread = np.sqrt(variance[0] * variance[1])
    total = variance.sum(axis=0) + shift**2
    ccc = np.clip(2 * covariance / total, -1.0, 1.0)
    pearson, bias = np.clip(covariance / spread, -1.0, 1.0), 2 * spread / total
    u2 = shift**2 / spread
    # Lin 2000 with ccc / pearson written as the bias correction, which stays finite for uncorrelated ratings.
    variance_of_ccc = (
        (1 - pearson**2) * bias**2 * (1 - ccc**2) + 2 * ccc**2 * bias * (1 - ccc) * u2 - ccc**2 * bias**2 * u2**2 / 2
    ) / (n - 2)
    half = stats.norm.ppf((1 + level) / 2) * np.sqrt(np.maximum(variance_of_ccc, 0.0)) / (1 - ccc**2)
    perfect = np.abs(ccc) == 1
    lower, upper = (np.where(perfect, ccc, np.tanh(np.arctanh(ccc) + sign * half)) for sign in (-1, 1))
    return np.stack([ccc, lower, upper, pearson, bias])


def limits_of_agreement(
    ratings: ArrayLike, *, features: Sequence[Any] | None = None, missing: Missing = "error", level: float = 0.95
) -> pd.DataFrame:
    """Bland and Altman's limits of agreement of many features (1986, doi:10.1016/S0140-6736(86)90837-8).

    Parameters
    ----------
    ratings, features, missing
        See :func:`concordance`.
    level : float
        Confidence level.

    Returns
    -------
    DataFrame
        Columns :data:`LIMITS_COLUMNS`, one row per feature, in the unit of the feature. ``bias`` is the mean of second
        minus first rating, with the interval of the t distribution; the limits lie :data:`LIMIT_Z` standard deviations
        on either side, each with a confidence interval of plus and minus ``limit_margin`` (standard error
        ``sd * sqrt(3 / n)``). NaN with fewer than three subjects, and ``reason`` says why.

    Raises
    ------
    InputError
        For another number of raters than two, or missing ratings with ``missing="error"``.
    """
    check_level(level)
    values, names, kept = _two_ratings(ratings, features, missing, "Limits of agreement compare")
    n = kept.sum(axis=0)
    difference = np.where(kept, values[:, 1] - values[:, 0], 0.0)
    bias = difference.sum(axis=0) / np.maximum(n, 1)
    sd = np.sqrt((((difference - bias) * kept) ** 2).sum(axis=0) / np.maximum(n - 1, 1))
    quantile = stats.t.ppf(0.5 + level / 2, np.maximum(n - 1, 1))
    half, margin = quantile * sd / np.sqrt(np.maximum(n, 1)), quantile * sd * np.sqrt(3 / np.maximum(n, 1))
    numbers = np.stack([bias, bias - half, bias + half, sd, bias - LIMIT_Z * sd, bias + LIMIT_Z * sd, margin])
    numbers = np.where(n < 3, np.nan, numbers)
    columns = (_as_objects(names), *numbers, n, len(values) - n, np.where(n < 3, TOO_FEW, ""))
    return pd.DataFrame(dict(zip(LIMITS_COLUMNS, columns, strict=True)))


def _two_ratings(
    ratings: ArrayLike, features: Sequence[Any] | None, missing: str, what: str
) -> tuple[FloatArray, list[Any], BoolArray]:
    """Ratings by two raters, names of the features, and which subjects have both values; ``what`` begins the error."""
    values, names = _check_ratings(ratings, features)
    if values.shape[1] != 2:
        raise InputError(f"{what} two ratings; found {values.shape[1]}.", advice="Use icc for more raters.")
    return values, names, _complete(values, names, missing)


def _check_ratings(ratings: ArrayLike, features: Sequence[Any] | None) -> tuple[FloatArray, list[Any]]:
    values = np.asarray(ratings, dtype=np.float64)
    values = values[:, :, None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[0] < 2 or values.shape[1] < 2:
        raise InputError(
            f"Ratings must have the shape (subjects, raters, features) with two or more subjects and raters; found "
            f"{np.shape(ratings)}.",
            advice="Use stack_raters to build the array from one table per rater.",
        )
    names = list(range(values.shape[2])) if features is None else list(features)
    if len(names) != values.shape[2]:
        raise InputError(
            f"Each feature needs a name; found {len(names)} names for {values.shape[2]} features.",
            advice="Pass the columns of the feature table.",
        )
    return values, names


def _complete(values: FloatArray, names: list[Any], missing: str) -> BoolArray:
    """Which subjects (rows) have every value of a feature (last axis); raises when that is wanted and not so."""
    if missing not in MISSING:
        raise unknown_name("treatment of missing values", missing, MISSING)
    finite = np.isfinite(values)
    complete = np.asarray(finite.all(axis=1) if values.ndim == 3 else finite)
    if missing == "error" and not complete.all():
        lacking = (~complete).sum(axis=0)
        worst = int(np.flatnonzero(lacking)[0])
        raise InputError(
            f"{int((lacking > 0).sum())} of {len(names)} features have missing values; {names[worst]!r} lacks them for "
            f"{lacking[worst]} of {len(complete)} subjects.",
            advice='Remove them, or pass missing="drop" to leave these subjects out of these features.',
        )
    return complete


def _as_objects(names: list[Any]) -> NDArray[np.object_]:
    """Make an array of the names themselves, also if they are tuples."""
    array = np.empty(len(names), dtype=object)
    array[:] = names
    return array


@dataclass(frozen=True)
class SelectionStability:
    """How similar the sets of selected features are.

    Attributes
    ----------
    stability : float
        1 when all sets are equal, 0 on average for random sets of these sizes; NaN when every set is empty or full.
    lower, upper : float
        Interval for independent sets, cut at -1 and 1. The folds of one cohort overlap, so that it is too narrow for
        them; NaN where the variance is 0.
    standard_error : float
        Nogueira et al. 2018, theorem 7.
    n_sets, n_features : int
        Size of the table.
    mean_selected : float
        Mean number of selected features.
    reason : str
        Why something is NaN; empty otherwise.
    """

    stability: float
    lower: float
    upper: float
    standard_error: float
    n_sets: int
    n_features: int
    mean_selected: float
    reason: str = ""
    method: str = (
        "Stability of feature selection (Nogueira, Sechidis and Brown 2018, Journal of Machine Learning Research "
        "18(174):1-54)"
    )


def selection_stability(selected: ArrayLike | pd.DataFrame, *, level: float = 0.95) -> SelectionStability:
    """Stability of feature selection over folds or bootstrap samples, corrected for chance (Nogueira et al. 2018).

    Parameters
    ----------
    selected : array-like of bool, shape (n_sets, n_features)
        Whether each fold (row) selected each feature (column); all candidate features count, also those never chosen.
    level : float
        Confidence level.

    Returns
    -------
    SelectionStability
        With interval. Sets may differ in size.

    Raises
    ------
    InputError
        For values other than true and false, fewer than two sets, or no feature.
    """
    check_level(level)
    chosen = np.asarray(selected, dtype=np.float64)
    if chosen.ndim != 2 or chosen.shape[0] < 2 or chosen.shape[1] < 1:
        raise InputError(
            f"Stability needs two or more sets (rows) over all candidate features (columns); found {chosen.shape}.",
            advice="Put one row per fold and one column per feature.",
        )
    if not np.isin(chosen, (0.0, 1.0)).all():
        wrong = chosen[~np.isin(chosen, (0.0, 1.0))][0]
        raise InputError(f"A feature is selected or not; found {wrong}.", advice="Pass true and false, or 1 and 0.")
    n_sets, n_features = chosen.shape
    frequency, sizes = chosen.mean(axis=0), chosen.mean(axis=1)
    size = float(sizes.mean())
    common = {"n_sets": n_sets, "n_features": n_features, "mean_selected": size * n_features}
    by_chance = size * (1 - size)
    if by_chance == 0:
        return SelectionStability(np.nan, np.nan, np.nan, np.nan, **common, reason=NOTHING_SELECTED)
    stability = 1 - n_sets / (n_sets - 1) * float((frequency * (1 - frequency)).mean()) / by_chance
    # Each set's contribution, with sizes as shares of all features; their spread gives the variance.
    spread = chosen @ frequency / n_features - sizes * size + stability / 2 * (2 * size * sizes - sizes - size + 1)
    error = 2 / n_sets * math.sqrt(float(((spread - spread.mean()) ** 2).sum())) / by_chance
    if error < 1e-12:
        return SelectionStability(stability, np.nan, np.nan, 0.0, **common, reason=NO_INTERVAL)
    half = float(stats.norm.ppf((1 + level) / 2)) * error
    return SelectionStability(stability, max(-1.0, stability - half), min(1.0, stability + half), error, **common)


def univariate_screening(
    features: pd.DataFrame, y: ArrayLike, *, method: Method = "benjamini_hochberg", missing: Missing = "error"
) -> pd.DataFrame:
    """Compare each feature between cases with and without the outcome.

    The result describes; it must not choose features for a model that is evaluated on the same cases, because that
    choice has then seen the outcome. Select inside the folds instead.

    Parameters
    ----------
    features : DataFrame of shape (n_cases, n_features)
        Numbers.
    y : array-like of shape (n_cases,)
        0 or 1, in the order of the rows.
    method : str
        Adjustment over all features; a key of :data:`hybrid.analysis.multiplicity.METHODS`.
    missing : {"error", "drop"}
        What to do with missing values: raise, or leave these cases out of this feature and report their number.

    Returns
    -------
    DataFrame
        Columns :data:`SCREENING_COLUMNS`, one row per feature in the given order. ``auc`` is the probability that a
        case with the outcome has the higher value (never flipped), ``p`` is from the Mann-Whitney test
        (doi:10.1214/aoms/1177730491), computed as ``p_method`` says. Constant features have NaN and count as members
        of the family of ``n_tests``.

    Raises
    ------
    InputError
        For outcomes other than 0 and 1, other lengths, features that are not numbers, or missing values with
        ``missing="error"``.
    """
    names = list(features.columns)
    text = [name for name, kind in zip(names, features.dtypes, strict=True) if not pd.api.types.is_numeric_dtype(kind)]
    if text:
        raise InputError(f"Features must be numbers; column {text[0]!r} is not.", advice="Leave it out or encode it.")
    positive, _ = check_scores(y, np.zeros(len(features)))
    values = features.to_numpy(dtype=np.float64)
    kept = _complete(values, names, missing)
    auc, p = np.full(len(names), np.nan), np.full(len(names), np.nan)
    how, reason = (np.full(len(names), "", dtype=object) for _ in range(2))
    patterns, group = np.unique(kept, axis=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):
        columns = np.flatnonzero(group.ravel() == number)
        _mann_whitney(values[rows], positive[rows], columns, auc, p, how, reason)
    adjusted = adjust(p, method)
    n_positive, n_negative = (kept & positive[:, None]).sum(axis=0), (kept & ~positive[:, None]).sum(axis=0)
    cells = (
        _as_objects(names), auc, p, adjusted.p, how, n_positive, n_negative, (~kept).sum(axis=0), adjusted.n_family,
        reason,
    )  # fmt: skip
    return pd.DataFrame(dict(zip(SCREENING_COLUMNS, cells, strict=True)))


def _mann_whitney(
    values: FloatArray, positive: BoolArray, columns: NDArray[np.intp], auc: FloatArray, p: FloatArray,
    how: NDArray[np.object_], reason: NDArray[np.object_],
) -> None:  # fmt: skip
    """Fill in the entries of ``columns``, which have values for the same cases."""
    smaller = min(int(positive.sum()), int((~positive).sum()))
    if smaller == 0:
        reason[columns] = ONE_CLASS
        return
    steps = np.diff(np.sort(values[:, columns], axis=0), axis=0)
    constant, tied = (steps == 0).all(axis=0), (steps == 0).any(axis=0)
    auc[columns[constant]], reason[columns[constant]] = 0.5, CONSTANT
    # SciPy's own choice would treat all features alike as soon as one of them has ties.
    exact = ~tied & (smaller <= MAX_EXACT)
    for chosen, name, label in ((exact, "exact", EXACT), (~exact & ~constant, "asymptotic", ASYMPTOTIC)):
        own = columns[chosen]
        if own.size:
            test = stats.mannwhitneyu(values[positive][:, own], values[~positive][:, own], axis=0, method=name)
            auc[own], p[own], how[own] = test.statistic / (positive.sum() * (~positive).sum()), test.pvalue, label
