"""Area under the ROC curve with DeLong's covariance, and the points of the curve.

All functions take outcomes coded 0/1 and scores of any finite scale; a higher score always means "more likely
positive" and is never flipped. The covariance is that of DeLong et al. 1988 (doi:10.2307/2531595), computed from
ranks as in Sun and Xu 2014 (doi:10.1109/LSP.2014.2337313), in float64 and for many curves at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import special

from hybrid.errors import InputError, unknown_name

FloatArray = NDArray[np.float64]

SCALES: Final = ("plain", "logit")
"""Scales on which a DeLong interval can be built."""

ALTERNATIVES: Final = ("two-sided", "greater", "less")

ROC_COLUMNS: Final = ("threshold", "sensitivity", "specificity", "tp", "fn", "fp", "tn")
"""Columns of the table that :func:`roc_points` returns."""

PAIR_COLUMNS: Final = ("auc_1", "auc_2", "difference", "lower", "upper", "z", "p")
"""Columns of the table that :func:`delong_pairs` returns."""


def check_scores(y: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], FloatArray]:
    """Validate outcomes and scores.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    scores : array-like of shape (n,) or (n_curves, n)
        Finite numbers.

    Returns
    -------
    positive : ndarray of bool, shape (n,)
        Which rows are positive.
    curves : ndarray of shape (n_curves, n)
        The scores as float64.

    Raises
    ------
    InputError
        For unequal lengths, missing or infinite values, outcomes other than 0/1, or one class only.
    """
    outcome = np.asarray(y, dtype=np.float64)
    curves = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if outcome.ndim != 1 or curves.ndim != 2 or curves.shape[1] != outcome.size:
        raise InputError(
            f"Outcomes and scores must have one entry per case; found shapes {outcome.shape} and {np.shape(scores)}.",
            advice="Pass one outcome and, for each curve, one score per case.",
        )
    if not np.isin(outcome, (0.0, 1.0)).all():
        wrong = outcome[~np.isin(outcome, (0.0, 1.0))][0]
        raise InputError(
            f"Outcomes must be 0 or 1; found {wrong}.", advice="Code the positive class as 1 and the other as 0."
        )
    if not np.isfinite(curves).all():
        raise InputError("Scores must be finite; found NaN or infinity.", advice="Remove or repair these cases.")
    positive = outcome == 1.0
    if positive.all() or not positive.any():
        raise InputError(
            f"The outcome has one class only: all {outcome.size} cases are {int(positive.any())}.",
            advice="A ROC curve needs positive and negative cases.",
        )
    return positive, curves


def auc(y: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the probability that a positive case scores above a negative one, ties counting half.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    scores : array-like of shape (n,)
        Higher means more likely positive.

    Returns
    -------
    float
        In [0, 1]; below 0.5 when the scores point the wrong way.

    Raises
    ------
    InputError
        See :func:`check_scores`.

    Examples
    --------
    >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    positive, curves = check_scores(y, scores)
    return float(placements(positive, curves)[0].mean(axis=1)[0])


def placements(positive: NDArray[np.bool_], curves: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Placement values of each case among the cases of the other class (Sun and Xu 2014, eq. 9 to 11).

    Parameters
    ----------
    positive : ndarray of bool, shape (n,)
        Which cases are positive.
    curves : ndarray of shape (n_curves, n)
        Scores.

    Returns
    -------
    of_positives : ndarray of shape (n_curves, n_positive)
        For each positive case the fraction of negatives that score below it, ties counting half.
    of_negatives : ndarray of shape (n_curves, n_negative)
        For each negative case the fraction of positives that score above it, ties counting half.
    """
    order = np.argsort(curves, axis=1)
    ranked = np.take_along_axis(curves, order, axis=1)
    is_positive = positive[order]
    n_positive = int(positive.sum())
    n_negative = positive.size - n_positive
    above_negatives = _counted_below(ranked, ~is_positive) / n_negative
    below_positives = (n_positive - _counted_below(ranked, is_positive)) / n_positive
    shares = np.empty_like(curves)
    np.put_along_axis(shares, order, np.where(is_positive, above_negatives, below_positives), axis=1)
    return shares.take(np.flatnonzero(positive), axis=1), shares.take(np.flatnonzero(~positive), axis=1)


def _counted_below(ranked: FloatArray, counted: NDArray[np.bool_]) -> NDArray[Any]:
    """How many counted cases score below each case that is not counted, ties counting half."""
    up_to = np.cumsum(counted, axis=1)
    like_next = ranked[:, :-1] == ranked[:, 1:]
    if not like_next.any():
        return up_to
    n = ranked.shape[1]
    place = np.arange(n)
    first = np.maximum.accumulate(np.where(np.pad(like_next, ((0, 0), (1, 0))), 0, place), axis=1)
    last = np.where(np.pad(like_next, ((0, 0), (0, 1))), n, place)
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    below: FloatArray = np.take_along_axis(up_to - counted, first, axis=1) + np.take_along_axis(up_to, last, axis=1)
    return 0.5 * below


def _delong_placements(y: ArrayLike, scores: ArrayLike) -> tuple[FloatArray, FloatArray]:
    positive, curves = check_scores(y, scores)
    smaller = min(int(positive.sum()), int((~positive).sum()))
    if smaller < 2:
        raise InputError(
            f"DeLong's variance needs at least two cases of each class; found {smaller}.",
            advice="Report the AUC without an interval, or collect more cases.",
        )
    return placements(positive, curves)


def delong_covariance(y: ArrayLike, scores: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """AUCs of correlated curves and their covariance.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    scores : array-like of shape (n,) or (n_curves, n)
        One row per curve, all on the same cases.

    Returns
    -------
    aucs : ndarray of shape (n_curves,)
        Areas.
    covariance : ndarray of shape (n_curves, n_curves)
        DeLong et al. 1988 (doi:10.2307/2531595).

    Raises
    ------
    InputError
        See :func:`check_scores`; also with fewer than two cases in a class.
    """
    of_positives, of_negatives = _delong_placements(y, scores)
    covariance = _covariance_of_means(of_positives) + _covariance_of_means(of_negatives)
    return of_positives.mean(axis=1), covariance


def _covariance_of_means(values: FloatArray) -> FloatArray:
    n = values.shape[1]
    centred = values - values.mean(axis=1, keepdims=True)
    return centred @ centred.T / (n * (n - 1))


def delong_interval(
    y: ArrayLike, scores: ArrayLike, *, level: float = 0.95, scale: Literal["plain", "logit"] = "logit"
) -> tuple[float, float, float]:
    """AUC with a confidence interval from DeLong's variance.

    Parameters
    ----------
    y, scores : array-like of shape (n,)
        Outcomes and scores.
    level : float
        Confidence level.
    scale : {"logit", "plain"}
        ``"logit"`` builds the interval on the log-odds of the AUC, which keeps it inside [0, 1] and covers better in
        small samples (Pepe 2003, The Statistical Evaluation of Medical Tests, section 5.2); ``"plain"`` is symmetric
        around the AUC and cut at 0 and 1, as in R's pROC.

    Returns
    -------
    estimate, lower, upper : float
        With perfect separation DeLong's variance is 0 and says nothing about the precision: the interval is then that
        of :func:`perfect_interval`.

    Raises
    ------
    InputError
        See :func:`delong_covariance`.
    """
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    check_level(level)
    aucs, covariance = delong_covariance(y, scores)
    outcome = np.asarray(y)
    n_smaller = int(min((outcome == 1).sum(), (outcome == 0).sum()))
    return delong_bounds(float(aucs[0]), float(covariance[0, 0]), n_smaller, level=level, scale=scale)


def delong_bounds(
    estimate: float, variance: float, n_smaller: int, *, level: float = 0.95, scale: str = "logit"
) -> tuple[float, float, float]:
    """Interval from an AUC and its variance; see :func:`delong_interval`."""
    if estimate in (0.0, 1.0):
        return (estimate, *perfect_interval(estimate, n_smaller, level=level))
    half = float(special.ndtri(0.5 + level / 2)) * np.sqrt(variance)
    if scale == "plain":
        return estimate, max(0.0, float(estimate - half)), min(1.0, float(estimate + half))
    centre, half = np.log(estimate / (1 - estimate)), half / (estimate * (1 - estimate))
    lower, upper = 1 / (1 + np.exp(-(centre - half))), 1 / (1 + np.exp(-(centre + half)))
    return estimate, float(lower), float(upper)


def perfect_interval(estimate: float, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Exact conservative interval of a proportion or an AUC that is 0 or 1 in the sample.

    For a proportion of ``n`` cases this is the Clopper-Pearson interval (1934, doi:10.1093/biomet/26.4.404). For an
    AUC, ``n`` is the size of the smaller class: a perfect AUC implies that ``n`` disjoint pairs of a positive and a
    negative case are all in order, which has probability AUC to the power of ``n``.

    Parameters
    ----------
    estimate : float
        0 or 1.
    n : int
        Number of independent trials.
    level : float
        Confidence level.

    Returns
    -------
    lower, upper : float
        One of them equals the estimate.
    """
    bound = ((1 - level) / 2) ** (1 / n) if n > 0 else 0.0
    return (bound, 1.0) if estimate == 1.0 else (0.0, 1.0 - bound)


@dataclass(frozen=True)
class DelongTest:
    """Paired comparison of two ROC curves.

    Attributes
    ----------
    auc_1, auc_2 : float
        Areas.
    difference : float
        ``auc_1 - auc_2``.
    lower, upper : float
        Confidence interval of the difference (NaN when it is not defined).
    z : float
        Difference over its standard error; 0 for curves with identical ranks.
    p : float
        1 for curves with identical ranks (one-sided 0.5); NaN when both curves are without sampling variance and
        differ (for example perfect separation against a constant), where the test is not defined.
    alternative : str
        ``"two-sided"``, ``"greater"`` (``auc_1 > auc_2``) or ``"less"``.
    """

    auc_1: float
    auc_2: float
    difference: float
    lower: float
    upper: float
    z: float
    p: float
    alternative: str = "two-sided"
    method: str = "DeLong's test for two correlated ROC curves (1988, doi:10.2307/2531595)"


def delong_test(
    y: ArrayLike,
    scores_1: ArrayLike,
    scores_2: ArrayLike,
    *,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    level: float = 0.95,
) -> DelongTest:
    """Compare two ROC curves of the same cases (DeLong et al. 1988, doi:10.2307/2531595).

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    scores_1, scores_2 : array-like of shape (n,)
        Scores of the two models; they may have different scales.
    alternative : {"two-sided", "greater", "less"}
        Direction of the test, of ``auc_1`` against ``auc_2``.
    level : float
        Confidence level of the interval of the difference.

    Returns
    -------
    DelongTest
        Areas, difference with interval, z and p.

    Raises
    ------
    InputError
        See :func:`delong_covariance`.
    """
    if np.shape(scores_1) != np.shape(scores_2):
        raise InputError(
            f"Both models need scores of the same cases; found shapes {np.shape(scores_1)} and {np.shape(scores_2)}.",
            advice="Restrict both to the cases they share.",
        )
    curves = np.stack([np.asarray(scores_1, dtype=np.float64), np.asarray(scores_2, dtype=np.float64)])
    row = delong_pairs(y, curves, [(0, 1)], alternative=alternative, level=level).iloc[0]
    areas = float(row["auc_1"]), float(row["auc_2"]), float(row["difference"])
    return DelongTest(
        *areas, float(row["lower"]), float(row["upper"]), float(row["z"]), float(row["p"]), alternative=alternative
    )


def delong_pairs(
    y: ArrayLike,
    scores: ArrayLike,
    pairs: list[tuple[int, int]],
    *,
    alternative: str = "two-sided",
    level: float = 0.95,
) -> pd.DataFrame:
    """DeLong's paired test for many pairs of curves at once.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    scores : array-like of shape (n_curves, n)
        Scores.
    pairs : list of (int, int)
        Rows of ``scores`` to compare.
    alternative, level
        See :func:`delong_test`.

    Returns
    -------
    DataFrame
        One row per pair, columns :data:`PAIR_COLUMNS`.
    """
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", alternative, ALTERNATIVES)
    check_level(level)
    of_positives, of_negatives = _delong_placements(y, scores)
    first, second = np.asarray(pairs, dtype=np.intp).reshape(-1, 2).T
    # Variance of the paired differences rather than var + var - 2 cov: exactly 0 for curves with identical ranks.
    gain, loss = of_positives[first], of_negatives[first]
    gain -= of_positives[second]
    loss -= of_negatives[second]
    variance = _variance_of_means(gain) + _variance_of_means(loss)
    difference = gain.mean(axis=1)
    error = np.sqrt(variance)
    z, p = _z_and_p(difference, error, alternative)
    half = np.where(error > 0, float(special.ndtri(0.5 + level / 2)) * error, np.where(difference == 0, 0.0, np.nan))
    areas = of_positives.mean(axis=1)
    lower, upper = np.maximum(difference - half, -1.0), np.minimum(difference + half, 1.0)
    values = np.column_stack([areas[first], areas[second], difference, lower, upper, z, p])
    return pd.DataFrame(values, columns=list(PAIR_COLUMNS))


def _variance_of_means(values: FloatArray) -> FloatArray:
    n = values.shape[1]
    centred = values - values.mean(axis=1, keepdims=True)
    return np.einsum("ij,ij->i", centred, centred) / (n * (n - 1))


def _z_and_p(difference: FloatArray, error: FloatArray, alternative: str) -> tuple[FloatArray, FloatArray]:
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0, difference / error, np.where(difference == 0, 0.0, np.copysign(np.inf, difference)))
    if alternative == "two-sided":
        p = 2 * special.ndtr(-np.abs(z))
    else:
        p = special.ndtr(-z if alternative == "greater" else z)
    return z, np.where(np.isinf(z), np.nan, p)


def check_level(level: float) -> None:
    """Raise unless ``level`` is a confidence level such as 0.95.

    Raises
    ------
    InputError
        For anything outside (0, 1).
    """
    if not 0.0 < level < 1.0:
        raise InputError(f"The confidence level must lie between 0 and 1; found {level}.", advice="Use 0.95 for 95 %.")


def roc_points(y: ArrayLike, scores: ArrayLike) -> pd.DataFrame:
    """Every attainable point of the ROC curve.

    A case is called positive when ``score >= threshold``. Thresholds are observed scores, not midpoints between them.

    Parameters
    ----------
    y, scores : array-like of shape (n,)
        Outcomes and scores.

    Returns
    -------
    DataFrame
        Columns :data:`ROC_COLUMNS`, from the strictest rule (threshold infinity: nobody is positive) to the most
        lenient (everybody is).

    Raises
    ------
    InputError
        See :func:`check_scores`.
    """
    positive, curves = check_scores(y, scores)
    thresholds, group = np.unique(-curves[0], return_inverse=True)
    tp = np.concatenate([[0], np.cumsum(np.bincount(group, weights=positive))]).astype(np.int64)
    fp = np.concatenate([[0], np.cumsum(np.bincount(group, weights=~positive))]).astype(np.int64)
    n_positive, n_negative = int(tp[-1]), int(fp[-1])
    return pd.DataFrame(
        {
            "threshold": np.concatenate([[np.inf], -thresholds]),
            "sensitivity": tp / n_positive,
            "specificity": 1 - fp / n_negative,
            "tp": tp,
            "fn": n_positive - tp,
            "fp": fp,
            "tn": n_negative - fp,
        }
    )
