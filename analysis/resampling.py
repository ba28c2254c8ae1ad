"""One vectorised bootstrap over patients for every metric.

A draw is a vector of whole-number weights, one per patient: how often the patient was drawn. All rows of a patient
(cases, lesions, repeats) carry that weight, so several rows per patient never enter an interval as if they were
patients. All models see the same draws, so that differences between models are paired. Draws are stratified by
outcome: every one has as many patients with and without the event as the sample.

Intervals: percentile and BCa (Efron 1987, doi:10.1080/01621459.1987.10478410), for stratified samples with the
acceleration of Davison and Hinkley 1997 (doi:10.1017/CBO9780511802843, eq. 5.31).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hybrid.errors import InputError, unknown_name

from .roc import check_level

FloatArray = NDArray[np.float64]
Statistic = Callable[[FloatArray], FloatArray]

KINDS: Final = ("bca", "percentile")
"""Kinds of bootstrap interval."""

MAX_CELLS: Final = 4_000_000
"""Weights held in memory at once (rows times draws)."""


NUDGE: Final = 1e-6
"""Step of the numerical derivative of a statistic by a patient's share."""


@dataclass(frozen=True)
class Resampled:
    """Estimates with their bootstrap draws and empirical influence values.

    Attributes
    ----------
    estimate : ndarray of shape (k,)
        The statistics on the sample.
    draws : ndarray of shape (k, n_draws)
        The statistics on each bootstrap sample; NaN where one is not defined.
    influence : ndarray of shape (k, n_patients)
        Empirical influence values: the rate at which each statistic changes when a patient gains weight at the cost of
        the others of the same class.
    strata : ndarray of shape (n_patients,)
        Outcome of each patient.
    """

    estimate: FloatArray
    draws: FloatArray
    influence: FloatArray
    strata: NDArray[np.int64]

    def contrast(self, matrix: ArrayLike) -> Resampled:
        """Linear combinations of the statistics, for example paired differences.

        Parameters
        ----------
        matrix : array-like of shape (j, k)
            One row per combination.
        """
        rows = np.asarray(matrix, dtype=np.float64)
        return Resampled(rows @ self.estimate, rows @ self.draws, rows @ self.influence, self.strata)

    def pairs(self, first: ArrayLike, second: ArrayLike) -> Resampled:
        """Differences ``first - second`` of statistics given by position."""
        a, b = np.asarray(first, dtype=np.intp), np.asarray(second, dtype=np.intp)
        return Resampled(
            self.estimate[a] - self.estimate[b],
            self.draws[a] - self.draws[b],
            self.influence[a] - self.influence[b],
            self.strata,
        )

    @property
    def is_estimable(self) -> bool:
        """Whether every class has at least two patients to resample."""
        return bool(np.bincount(np.unique(self.strata, return_inverse=True)[1]).min() >= 2)

    def interval(self, *, level: float = 0.95, kind: Literal["bca", "percentile"] = "bca") -> FloatArray:
        """Confidence intervals.

        Parameters
        ----------
        level : float
            Confidence level.
        kind : {"bca", "percentile"}
            ``"bca"`` falls back to percentile for a statistic whose draws all lie on one side of the estimate or that
            no patient influences.

        Returns
        -------
        ndarray of shape (k, 2)
            Lower and upper bounds; NaN for a statistic that is not defined, and for all when a class has fewer than two
            patients.
        """
        if kind not in KINDS:
            raise unknown_name("interval", kind, KINDS)
        check_level(level)
        bounds = np.full((self.estimate.size, 2), np.nan)
        if not self.is_estimable:
            return bounds
        for i, estimate in enumerate(self.estimate):
            draws = self.draws[i][np.isfinite(self.draws[i])]
            if np.isfinite(estimate) and draws.size:
                bounds[i] = np.quantile(draws, self._quantiles(i, estimate, draws, level, kind))
        return bounds

    def _quantiles(self, i: int, estimate: float, draws: FloatArray, level: float, kind: str) -> FloatArray:
        tails = np.array([(1 - level) / 2, (1 + level) / 2])
        if kind == "percentile":
            return tails
        acceleration = self._acceleration(i)
        # Half of the ties counts as below: AUCs and proportions of small samples take few distinct values.
        below = np.mean(draws < estimate) + 0.5 * np.mean(draws == estimate)
        if not 0.0 < below < 1.0 or not np.isfinite(acceleration):
            return tails
        bias = stats.norm.ppf(below)
        shifted = bias + stats.norm.ppf(tails)
        return np.asarray(stats.norm.cdf(bias + shifted / (1 - acceleration * shifted)))

    def _acceleration(self, i: int) -> float:
        size = np.bincount(self.strata)[self.strata]
        scaled = self.influence[i] / size
        squares = float(np.sum(scaled**2))
        return float(np.sum(scaled**3)) / (6 * squares**1.5) if squares > 0 else np.nan

    def p_two_sided(self) -> FloatArray:
        """Two-sided bootstrap p-values of the hypothesis that each statistic is 0.

        Twice the smaller fraction of draws on either side of 0, with one added to both counts (Davison and Hinkley
        1997, section 4.4), so that it is never 0.

        Returns
        -------
        ndarray of shape (k,)
            NaN where the statistic is not defined or no interval can be given.
        """
        finite = np.isfinite(self.draws)
        low = 1 + np.sum(finite & (self.draws <= 0), axis=1)
        high = 1 + np.sum(finite & (self.draws >= 0), axis=1)
        p = np.minimum(1.0, 2 * np.minimum(low, high) / (1 + finite.sum(axis=1)))
        usable = np.isfinite(self.estimate) & finite.any(axis=1) & self.is_estimable
        return np.where(usable, p, np.nan)


def bootstrap(
    statistic: Statistic, strata: ArrayLike, *, n_bootstrap: int = 2000, seed: int = 0, n_rows: int | None = None
) -> Resampled:
    """Resample patients and evaluate statistics under the resulting weights.

    Parameters
    ----------
    statistic : callable
        Takes weights of shape (n_patients, b) and returns values of shape (k, b): each column is one draw.
    strata : array-like of shape (n_patients,)
        Class of each patient; draws keep its counts.
    n_bootstrap : int
        Number of draws.
    seed : int
        Of the draws; the same seed gives the same numbers.
    n_rows : int, optional
        Rows that the statistic works on, if more than patients; used to bound memory.

    Returns
    -------
    Resampled
        Estimates, draws and influence values.

    Raises
    ------
    InputError
        When ``n_bootstrap`` is below 1 or there are no patients.
    """
    classes = np.unique(np.asarray(strata), return_inverse=True)[1].astype(np.int64)
    if n_bootstrap < 1 or classes.size == 0:
        raise InputError(
            f"A bootstrap needs at least one draw and one patient; found {n_bootstrap} and {classes.size}.",
            advice="Use n_bootstrap=2000.",
        )
    n = classes.size
    width = max(1, MAX_CELLS // max(n, n_rows or n))
    rng = np.random.default_rng(seed)
    draws = [
        statistic(patient_weights(classes, min(width, n_bootstrap - start), rng))
        for start in range(0, n_bootstrap, width)
    ]
    estimate = statistic(np.ones((n, 1)))
    influence = [
        (statistic(_nudged(classes, np.arange(start, min(start + width, n)))) - estimate) / NUDGE
        for start in range(0, n, width)
    ]
    return Resampled(estimate[:, 0], np.concatenate(draws, axis=1), np.concatenate(influence, axis=1), classes)


def _nudged(strata: NDArray[np.int64], patients: NDArray[np.intp]) -> FloatArray:
    """Weights in which each of some patients in turn takes the share :data:`NUDGE` of its class."""
    same_class = strata[:, None] == strata[patients]
    weights = 1.0 - NUDGE * same_class
    weights[patients, np.arange(patients.size)] += NUDGE * np.bincount(strata)[strata[patients]]
    return weights


def patient_weights(strata: NDArray[np.int64], n_draws: int, rng: np.random.Generator) -> FloatArray:
    """Multinomial weights of patients, drawn within each class.

    Parameters
    ----------
    strata : ndarray of shape (n_patients,)
        Class of each patient.
    n_draws : int
        Number of draws.
    rng : numpy Generator
        Source of randomness.

    Returns
    -------
    ndarray of shape (n_patients, n_draws)
        How often each patient was drawn; sums within a class equal its size.
    """
    weights = np.empty((strata.size, n_draws))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        # Patients of draw d are counted in cells d * size to (d + 1) * size: ten times faster than rng.multinomial.
        drawn = rng.integers(members.size, size=(n_draws, members.size))
        drawn += members.size * np.arange(n_draws)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size)
        weights[members] = counts.reshape(drawn.shape).T
    return weights


def weighted_auc(positive: NDArray[np.bool_], scores: FloatArray, weights: FloatArray) -> FloatArray:
    """AUC under many weightings: one sort of the negatives, then cumulative sums of their weights.

    Parameters
    ----------
    positive : ndarray of bool, shape (n,)
        Which rows are positive.
    scores : ndarray of shape (n,)
        Finite scores.
    weights : ndarray of shape (n, b)
        Weight of each row in each draw.

    Returns
    -------
    ndarray of shape (b,)
        Ties count half; NaN where a class has no weight.
    """
    order = np.argsort(scores[~positive], kind="stable")
    ranked = scores[~positive][order]
    below = np.zeros((ranked.size + 1, weights.shape[1]))
    np.cumsum(weights[~positive][order], axis=0, out=below[1:])
    of_positives = weights[positive]
    lower = np.searchsorted(ranked, scores[positive], side="left")
    upper = np.searchsorted(ranked, scores[positive], side="right")
    won = np.einsum("ib,ib->b", of_positives, below[lower])
    if (lower != upper).any():
        won = 0.5 * (won + np.einsum("ib,ib->b", of_positives, below[upper]))
    total = of_positives.sum(axis=0) * below[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(total > 0, won / total, np.nan)
