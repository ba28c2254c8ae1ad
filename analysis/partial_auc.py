"""Partial area under the ROC curve: over a range of specificities or of sensitivities.

The raw partial area is the area between the curve and the axis over the range, at most the width of the range. McClish
(1989, doi:10.1177/0272989X8900900307) rescales it linearly so that, whatever the range, the diagonal has 0.5 and a
perfect curve 1. The curve is the trapezoidal one, so that the full range gives the AUC with ties counting half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from hybrid.errors import InputError, unknown_name

from .cut_offs import WeightedCurve, check_one_score, in_order, weighted_curve
from .resampling import FloatArray, Resampled, bootstrap
from .roc import check_level

FOCUS: Final = ("specificity", "sensitivity")
"""Axes along which the range of a partial area can be given."""


ROUNDING: Final = 1e-12
"""Areas below this are rounding of sums."""


@dataclass(frozen=True)
class _Range:
    focus: str
    low: float
    high: float

    @property
    def width(self) -> float:
        return self.high - self.low

    @property
    def diagonal(self) -> float:
        """Partial area of a useless score."""
        return ((1 - self.low) ** 2 - (1 - self.high) ** 2) / 2

    def correct(self, area: FloatArray) -> FloatArray:
        return 0.5 * (1 + (area - self.diagonal) / (self.width - self.diagonal))

    def area(self, curve: WeightedCurve) -> FloatArray:
        """Raw partial area of each draw, of shape (b,)."""
        if self.focus == "specificity":
            return _area_between(curve.false_positive_rate, curve.sensitivity, 1 - self.high, 1 - self.low)
        # Specificity over sensitivity falls from 1 to 0; read along the rising sensitivity.
        return _area_between(curve.sensitivity, 1 - curve.false_positive_rate, self.low, self.high)


def _area_between(x: FloatArray, y: FloatArray, left: float, right: float) -> FloatArray:
    """Area under piecewise straight lines through ``(x, y)``, ``x`` never falling, between two limits; per column."""
    start, end = np.clip(x[:-1], left, right), np.clip(x[1:], left, right)
    length = x[1:] - x[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(length > 0, (y[1:] - y[:-1]) / length, 0.0)
    middle = y[:-1] + slope * ((start + end) / 2 - x[:-1])
    return np.asarray(((end - start) * middle).sum(axis=0))


def _range(focus: str, low: float, high: float) -> _Range:
    if focus not in FOCUS:
        raise unknown_name("focus", focus, FOCUS)
    if not 0.0 <= low < high <= 1.0:
        raise InputError(
            f"The range of a partial AUC must satisfy 0 <= low < high <= 1; found {low} to {high}.",
            advice="Use low=0.9, high=1.0 for specificities of at least 90 %.",
        )
    return _Range(focus, float(low), float(high))


def partial_auc(
    y: ArrayLike,
    score: ArrayLike,
    *,
    focus: Literal["specificity", "sensitivity"] = "specificity",
    low: float = 0.9,
    high: float = 1.0,
    corrected: bool = False,
) -> float:
    """Partial area under the ROC curve.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    score : array-like of shape (n,)
        Higher means more likely positive.
    focus : {"specificity", "sensitivity"}
        What ``low`` and ``high`` limit.
    low, high : float
        Range, within [0, 1].
    corrected : bool
        Rescale as McClish 1989 (doi:10.1177/0272989X8900900307): 0.5 for the diagonal, 1 for a perfect curve. Below the
        diagonal the value is below 0.5 but not on the scale of an AUC (it does not reach 0).

    Returns
    -------
    float
        Raw values lie between 0 and ``high - low``.

    Raises
    ------
    InputError
        For an unknown focus or an empty range; see also :func:`hybrid.analysis.roc.check_scores`.

    Examples
    --------
    >>> partial_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], low=0.5, high=1.0)
    0.25
    """
    limits = _range(focus, low, high)
    positive, values = check_one_score(y, score)
    area = limits.area(weighted_curve(positive, values, np.ones((values.size, 1))))
    return float((limits.correct(area) if corrected else area)[0])


def partial_auc_intervals(
    y: ArrayLike,
    score: ArrayLike,
    *,
    focus: Literal["specificity", "sensitivity"] = "specificity",
    low: float = 0.9,
    high: float = 1.0,
    level: float = 0.95,
    kind: Literal["percentile", "bca"] = "percentile",
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Partial area, raw and corrected, with bootstrap intervals.

    Parameters
    ----------
    y, score, focus, low, high
        See :func:`partial_auc`.
    level : float
        Confidence level.
    kind : {"percentile", "bca"}
        Of the interval.
    n_bootstrap, seed : int
        Draws of the stratified bootstrap and their seed.

    Returns
    -------
    DataFrame
        Rows ``raw`` and ``corrected``: ``measure, focus, low, high, estimate, se, ci_low, ci_high, method``. Standard
        error and interval are NaN when a class has fewer than two cases, and when the partial area is 0 or the largest
        possible: the bootstrap then has no spread, which says nothing about the precision.

    Raises
    ------
    InputError
        See :func:`partial_auc`.
    """
    limits = _range(focus, low, high)
    check_level(level)
    positive, (values,) = in_order(*check_one_score(y, score))
    drawn = bootstrap(
        lambda weights: limits.area(weighted_curve(positive, values, weights))[None],
        positive, n_bootstrap=n_bootstrap, seed=seed,
    )  # fmt: skip
    area = drawn.estimate
    lower, upper = drawn.interval(level=level, kind=kind)[0]
    error = _standard_error(drawn)
    if min(area[0], limits.width - area[0]) <= ROUNDING:
        lower = upper = error = np.nan
    # The correction is linear: it carries intervals over.
    corrected = limits.correct(np.array([area[0], lower, upper]))
    scale = 0.5 / (limits.width - limits.diagonal)
    return pd.DataFrame(
        {
            "measure": ["raw", "corrected"],
            "focus": focus,
            "low": limits.low,
            "high": limits.high,
            "estimate": [area[0], corrected[0]],
            "se": [error, scale * error],
            "ci_low": [lower, corrected[1]],
            "ci_high": [upper, corrected[2]],
            "method": f"stratified bootstrap, {'BCa' if kind == 'bca' else 'percentile'}",
        }
    )


def partial_auc_difference(
    y: ArrayLike,
    score_1: ArrayLike,
    score_2: ArrayLike,
    *,
    focus: Literal["specificity", "sensitivity"] = "specificity",
    low: float = 0.9,
    high: float = 1.0,
    level: float = 0.95,
    kind: Literal["percentile", "bca"] = "percentile",
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the partial areas of two scores of the same patients by a paired bootstrap.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1.
    score_1, score_2 : array-like of shape (n,)
        Scores of two models.
    focus, low, high, level, kind, n_bootstrap, seed
        See :func:`partial_auc_intervals`.

    Returns
    -------
    DataFrame
        Rows ``raw`` and ``corrected``: ``measure, partial_auc_1, partial_auc_2, difference, se, ci_low, ci_high, z,
        p``. ``z`` is the difference over its bootstrap standard error and ``p`` its two-sided normal p-value, as in R's
        ``pROC::roc.test(method="bootstrap")``; 0 and 1 for identical curves, NaN where no standard error exists.

    Raises
    ------
    InputError
        For scores of different shape; see also :func:`partial_auc`.
    """
    limits = _range(focus, low, high)
    check_level(level)
    positive, values = check_one_score(y, score_1)
    positive, (first, second) = in_order(positive, values, check_one_score(y, score_2)[1])

    def statistic(weights: FloatArray) -> FloatArray:
        return np.stack([limits.area(weighted_curve(positive, values, weights)) for values in (first, second)])

    drawn = bootstrap(statistic, positive, n_bootstrap=n_bootstrap, seed=seed)
    contrast = drawn.pairs([0], [1])
    difference = float(contrast.estimate[0])
    lower, upper = contrast.interval(level=level, kind=kind)[0]
    error = _standard_error(contrast)
    z, p = _z_test(difference, error)
    if error == 0 and difference != 0:
        lower = upper = error = np.nan
    scale = np.array([1.0, 0.5 / (limits.width - limits.diagonal)])
    areas = np.stack([drawn.estimate, limits.correct(drawn.estimate)])
    return pd.DataFrame(
        {
            "measure": ["raw", "corrected"],
            "partial_auc_1": areas[:, 0],
            "partial_auc_2": areas[:, 1],
            "difference": scale * difference,
            "se": scale * error,
            "ci_low": scale * lower,
            "ci_high": scale * upper,
            "z": z,
            "p": p,
        }
    )


def _standard_error(drawn: Resampled) -> float:
    """Spread of the draws of the first statistic; NaN where nothing can be resampled."""
    if not drawn.is_estimable or drawn.draws.shape[1] < 2:
        return np.nan
    error = float(drawn.draws[0].std(ddof=1))
    return error if error > ROUNDING else 0.0


def _z_test(difference: float, error: float) -> tuple[float, float]:
    if not error > 0:
        return (0.0, 1.0) if error == 0 and difference == 0 else (np.nan, np.nan)
    z = difference / error
    return z, float(2 * stats.norm.sf(abs(z)))
