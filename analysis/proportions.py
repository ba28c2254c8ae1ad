"""Proportions of lesions or cases that are clustered within patients, and their intervals.

Wilson's interval (Wilson 1927, doi:10.1080/01621459.1927.10502953) holds for independent trials, so it is used only
where every patient gives one trial. Otherwise patients are resampled with all their rows. A proportion of 0 or 1 has no
bootstrap interval: the exact one of as many trials as there are patients is given, which is conservative.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hybrid.errors import InputError

from .resampling import FloatArray, bootstrap
from .roc import check_level, perfect_interval

WILSON: Final = "Wilson"
PATIENT_BOOTSTRAP: Final = "patient bootstrap"
EXACT_PATIENTS: Final = "exact, patients as trials"
NO_INTERVAL: Final = "none"

MIN_TRIALS: Final = 10
"""A proportion of fewer lesions is marked ``too_few``: one lesion more or less moves it by over 10 points."""

MIN_PATIENTS: Final = 5
"""A proportion from fewer patients is marked ``too_few``: so few patients cannot be resampled meaningfully."""


def wilson_interval(successes: ArrayLike, trials: ArrayLike, *, level: float = 0.95) -> FloatArray:
    """Score interval of proportions of independent trials (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Parameters
    ----------
    successes, trials : array-like of shape (k,)
        Counts, with ``0 <= successes <= trials``.
    level : float
        Confidence level.

    Returns
    -------
    ndarray of shape (k, 2)
        Lower and upper bounds; NaN without trials.

    Raises
    ------
    InputError
        For counts that are negative or exceed the trials.
    """
    check_level(level)
    hits, n = (
        np.atleast_1d(np.asarray(successes, dtype=np.float64)),
        np.atleast_1d(np.asarray(trials, dtype=np.float64)),
    )
    if not ((hits >= 0) & (hits <= n)).all():
        raise InputError("Successes must lie between 0 and the number of trials.", advice="Check the counts.")
    z = stats.norm.ppf((1 + level) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = hits / n
        centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    bounds = np.clip(np.stack([centre - half, centre + half], axis=1), 0.0, 1.0)
    # Rounding would leave 1e-17 where the bound is the edge itself.
    bounds[(hits == 0) & (n > 0), 0] = 0.0
    bounds[(hits == n) & (n > 0), 1] = 1.0
    return bounds


def clustered_interval(
    hits: ArrayLike, patients: ArrayLike, *, n_boot: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, str]:
    """Interval of a proportion whose trials are clustered within patients.

    Parameters
    ----------
    hits : array-like of shape (n,)
        0 or 1 for each trial (lesion).
    patients : array-like of shape (n,)
        Patient of each trial.
    n_boot, seed : int
        Draws of the bootstrap over patients, and their seed.
    level : float
        Confidence level.

    Returns
    -------
    lower, upper : float
        NaN without trials, or when one patient gave several.
    method : str
        How the interval was computed: :data:`WILSON`, :data:`PATIENT_BOOTSTRAP`, :data:`EXACT_PATIENTS` or
        :data:`NO_INTERVAL`.
    """
    values = np.asarray(hits, dtype=np.float64)
    codes = patient_codes(patients)
    n_patients = int(codes.max()) + 1 if codes.size else 0
    if values.size and n_patients == values.size:
        lower, upper = wilson_interval(values.sum(), values.size, level=level)[0]
        return float(lower), float(upper), WILSON
    if n_patients < 2:
        return np.nan, np.nan, NO_INTERVAL
    if values.mean() in (0.0, 1.0):
        return *perfect_interval(float(values.mean()), n_patients, level=level), EXACT_PATIENTS

    def statistic(weights: FloatArray) -> FloatArray:
        rows = weights[codes]
        return np.asarray((values @ rows) / rows.sum(axis=0))[None]

    drawn = bootstrap(statistic, np.zeros(n_patients), n_bootstrap=n_boot, seed=seed, n_rows=values.size)
    lower, upper = drawn.interval(level=level, kind="percentile")[0]
    return float(lower), float(upper), PATIENT_BOOTSTRAP


def patient_codes(patients: ArrayLike) -> NDArray[np.intp]:
    """Whole numbers from 0 that stand for patients, in sorted order of their ids."""
    return np.unique(np.asarray(patients, dtype=str), return_inverse=True)[1].astype(np.intp)


def is_too_few(n_trials: int, n_patients: int) -> bool:
    """Whether a percentage would rest on fewer than :data:`MIN_TRIALS` trials or :data:`MIN_PATIENTS` patients."""
    return n_trials < MIN_TRIALS or n_patients < MIN_PATIENTS
