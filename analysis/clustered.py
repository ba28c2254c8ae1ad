"""Area under the ROC curve when patients give several rows: lesions, slices, vessels, both breasts.

Rows of one patient are correlated, positive and negative ones alike, so that a standard error that counts rows as
patients is usually too small. Obuchowski 1997 (doi:10.2307/2533958) sums DeLong's placement values within patients
first; with one row per patient the result is DeLong's. The AUC itself is the ordinary one over all rows: a patient with
many lesions weighs more.

The intervals use the normal distribution and count on at least about 20 patients with each outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hybrid.errors import InputError, unknown_name

from .proportions import patient_codes
from .resampling import FloatArray
from .roc import ALTERNATIVES, SCALES, check_level, check_scores, delong_bounds, placements

METHOD: Final = "Obuchowski 1997, doi:10.2307/2533958"


@dataclass(frozen=True)
class ClusteredAuc:
    """AUC of rows that are clustered in patients.

    Attributes
    ----------
    auc : float
        Over all rows.
    se : float
        Standard error; NaN with perfect separation.
    lower, upper : float
        Confidence interval.
    n_rows, n_patients : int
        Rows, and patients who gave them.
    n_patients_positive, n_patients_negative : int
        Patients with at least one positive row, and with at least one negative row; one patient can count in both.
    design_effect : float
        Variance over that of DeLong for as many independent rows; NaN when the latter is 0 or cannot be computed.
    """

    auc: float
    se: float
    lower: float
    upper: float
    n_rows: int
    n_patients: int
    n_patients_positive: int
    n_patients_negative: int
    design_effect: float
    method: str = METHOD


@dataclass(frozen=True)
class ClusteredTest:
    """Paired comparison of two scores of the same clustered rows.

    Attributes
    ----------
    auc_1, auc_2 : float
        Areas.
    difference : float
        ``auc_1 - auc_2``.
    se : float
        Standard error of the difference.
    lower, upper : float
        Confidence interval of the difference; NaN when it is not defined.
    z, p : float
        As in :class:`hybrid.analysis.roc.DelongTest`: 0 and 1 (one-sided 0.5) for identical ranks, NaN for p when
        the areas differ and have no sampling variance.
    n_rows, n_patients : int
        Rows, and patients who gave them.
    alternative : str
        ``"two-sided"``, ``"greater"`` (``auc_1 > auc_2``) or ``"less"``.
    """

    auc_1: float
    auc_2: float
    difference: float
    se: float
    lower: float
    upper: float
    z: float
    p: float
    n_rows: int
    n_patients: int
    alternative: str = "two-sided"
    method: str = METHOD


@dataclass(frozen=True)
class _Clusters:
    """Sums within patients: how far each patient's rows pull the AUC up or down."""

    aucs: FloatArray
    of_positives: FloatArray
    of_negatives: FloatArray
    n_with_positive: int
    n_with_negative: int

    def covariance(self) -> FloatArray:
        """Variances of both classes, and twice what they share within patients (Obuchowski 1997)."""
        n_patients = self.of_positives.shape[1]
        between = _times_correction(self.of_positives @ self.of_positives.T, self.n_with_positive)
        between += _times_correction(self.of_negatives @ self.of_negatives.T, self.n_with_negative)
        crossed = self.of_positives @ self.of_negatives.T
        return np.asarray(between + _times_correction(crossed + crossed.T, n_patients))

    def difference(self, first: int, second: int) -> _Clusters:
        """Of two curves, taken before squaring: curves with identical ranks have exactly no variance."""
        return _Clusters(
            self.aucs[[first]] - self.aucs[[second]],
            self.of_positives[[first]] - self.of_positives[[second]],
            self.of_negatives[[first]] - self.of_negatives[[second]],
            self.n_with_positive,
            self.n_with_negative,
        )


def _times_correction(products: FloatArray, n: int) -> FloatArray:
    return np.asarray(products * (n / (n - 1)))


def check_patients(patients: ArrayLike, n_rows: int) -> NDArray[np.intp]:
    """Give patients whole numbers from 0.

    Parameters
    ----------
    patients : array-like of shape (n,)
        Patient of each row, as any identifier.
    n_rows : int
        Number of rows expected.

    Returns
    -------
    ndarray of int, shape (n,)
        In sorted order of the identifiers.

    Raises
    ------
    InputError
        For a wrong number of identifiers or missing ones.
    """
    ids = np.asarray(patients, dtype=object)
    if ids.shape != (n_rows,):
        raise InputError(
            f"One patient per row was expected for {n_rows} rows; found shape {ids.shape}.",
            advice="Pass the column with the patient of each lesion or slice.",
        )
    if pd.isna(ids).any():
        raise InputError(
            f"Every row needs a patient; {int(pd.isna(ids).sum())} rows have none.",
            advice="Fill in the patient, or remove these rows.",
        )
    return patient_codes(ids)


def disjoint_pairs(positive: NDArray[np.bool_], codes: NDArray[np.intp]) -> int:
    """Largest number of pairs of a positive and a negative row in which no patient occurs twice.

    Parameters
    ----------
    positive : ndarray of bool, shape (n,)
        Which rows are positive.
    codes : ndarray of int, shape (n,)
        Patient of each row.

    Returns
    -------
    int
        Independent trials of "the positive row scores higher"; see :func:`hybrid.analysis.roc.perfect_interval`.
    """
    with_positive, with_negative = np.unique(codes[positive]), np.unique(codes[~positive])
    return min(with_positive.size, with_negative.size, np.union1d(with_positive, with_negative).size // 2)


def _clusters(positive: NDArray[np.bool_], curves: FloatArray, codes: NDArray[np.intp]) -> _Clusters:
    n_patients = int(codes.max()) + 1
    with_positive, with_negative = np.unique(codes[positive]).size, np.unique(codes[~positive]).size
    if min(with_positive, with_negative) < 2:
        raise InputError(
            "The clustered variance needs at least two patients with positive and two with negative rows; found "
            f"{with_positive} and {with_negative}.",
            advice="Report the AUC without an interval, or collect more patients.",
        )
    of_positives, of_negatives = placements(positive, curves)
    aucs = of_positives.mean(axis=1)
    sums = []
    for values, members in ((of_positives, positive), (of_negatives, ~positive)):
        total = np.zeros((n_patients, curves.shape[0]))
        np.add.at(total, codes[members], (values - aucs[:, None]).T)
        sums.append(total.T / members.sum())
    return _Clusters(aucs, sums[0], sums[1], with_positive, with_negative)


def clustered_covariance(y: ArrayLike, scores: ArrayLike, patients: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """AUCs of several scores of clustered rows and their covariance.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1 for each row.
    scores : array-like of shape (n,) or (n_curves, n)
        Higher means more likely positive.
    patients : array-like of shape (n,)
        Patient of each row.

    Returns
    -------
    aucs : ndarray of shape (n_curves,)
        Areas over all rows.
    covariance : ndarray of shape (n_curves, n_curves)
        Obuchowski 1997 (doi:10.2307/2533958); that of DeLong when every row is a patient.

    Raises
    ------
    InputError
        With fewer than two patients with positive or with negative rows, for missing patients, and as
        :func:`hybrid.analysis.roc.check_scores`.
    """
    positive, curves = check_scores(y, scores)
    sums = _clusters(positive, curves, check_patients(patients, positive.size))
    return sums.aucs, sums.covariance()


def clustered_auc(
    y: ArrayLike,
    score: ArrayLike,
    patients: ArrayLike,
    *,
    level: float = 0.95,
    scale: Literal["plain", "logit"] = "logit",
) -> ClusteredAuc:
    """AUC of rows clustered in patients, with standard error and interval.

    Parameters
    ----------
    y, patients
        See :func:`clustered_covariance`.
    score : array-like of shape (n,)
        Higher means more likely positive.
    level : float
        Confidence level.
    scale : {"logit", "plain"}
        As in :func:`hybrid.analysis.roc.delong_interval`; ``"plain"`` is that of the paper.

    Returns
    -------
    ClusteredAuc
        With perfect separation the interval is that of :func:`hybrid.analysis.roc.perfect_interval` for the largest
        number of pairs of a positive and a negative row from different patients.

    Raises
    ------
    InputError
        For more than one score or an unknown scale; see also :func:`clustered_covariance`.

    Examples
    --------
    >>> result = clustered_auc([0, 1, 0, 1, 0, 1], [1, 3, 2, 5, 4, 6], ["a", "a", "b", "b", "c", "c"])
    >>> round(result.auc, 3), result.n_patients
    (0.889, 3)
    """
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    check_level(level)
    positive, curves = check_scores(y, score)
    if curves.shape[0] != 1:
        raise InputError(
            f"One score per row was expected; found {curves.shape[0]} curves.",
            advice="Use clustered_covariance for several scores.",
        )
    codes = check_patients(patients, positive.size)
    sums = _clusters(positive, curves, codes)
    area, variance = float(sums.aucs[0]), float(sums.covariance()[0, 0])
    independent = float(_clusters(positive, curves, np.arange(positive.size)).covariance()[0, 0])
    _, lower, upper = delong_bounds(area, variance, disjoint_pairs(positive, codes), level=level, scale=scale)
    return ClusteredAuc(
        auc=area,
        se=np.nan if area in (0.0, 1.0) else float(np.sqrt(variance)),
        lower=lower,
        upper=upper,
        n_rows=positive.size,
        n_patients=int(codes.max()) + 1,
        n_patients_positive=sums.n_with_positive,
        n_patients_negative=sums.n_with_negative,
        design_effect=variance / independent if independent > 0 else np.nan,
    )


def clustered_auc_test(
    y: ArrayLike,
    score_1: ArrayLike,
    score_2: ArrayLike,
    patients: ArrayLike,
    *,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    level: float = 0.95,
) -> ClusteredTest:
    """Compare the AUCs of two scores of the same clustered rows.

    Parameters
    ----------
    y, patients
        See :func:`clustered_covariance`.
    score_1, score_2 : array-like of shape (n,)
        Scores of the two models or readers.
    alternative : {"two-sided", "greater", "less"}
        Direction of the test, of ``auc_1`` against ``auc_2``.
    level : float
        Confidence level of the interval of the difference.

    Returns
    -------
    ClusteredTest
        Areas, difference with interval, z and p.

    Raises
    ------
    InputError
        For scores of different shape or an unknown alternative; see also :func:`clustered_covariance`.
    """
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", alternative, ALTERNATIVES)
    check_level(level)
    if np.shape(score_1) != np.shape(score_2) or np.ndim(score_1) != 1:
        raise InputError(
            f"Both models need one score per row; found shapes {np.shape(score_1)} and {np.shape(score_2)}.",
            advice="Restrict both to the rows they share.",
        )
    curves = np.stack([np.asarray(score_1, dtype=np.float64), np.asarray(score_2, dtype=np.float64)])
    positive, curves = check_scores(y, curves)
    codes = check_patients(patients, positive.size)
    sums = _clusters(positive, curves, codes)
    contrast = sums.difference(0, 1)
    difference = float(contrast.aucs[0])
    error = float(np.sqrt(contrast.covariance()[0, 0]))
    z, p = _z_and_p(difference, error, alternative)
    half = float(stats.norm.ppf(0.5 + level / 2)) * error if error > 0 or difference == 0 else np.nan
    lower, upper = np.clip([difference - half, difference + half], -1.0, 1.0)
    return ClusteredTest(
        float(sums.aucs[0]), float(sums.aucs[1]), difference, error, float(lower), float(upper), z, p, positive.size,
        int(codes.max()) + 1, alternative=alternative,
    )  # fmt: skip


def _z_and_p(difference: float, error: float, alternative: str) -> tuple[float, float]:
    if error == 0.0:
        if difference != 0:
            return float(np.copysign(np.inf, difference)), np.nan
        return 0.0, 1.0 if alternative == "two-sided" else 0.5
    z = difference / error
    if alternative == "two-sided":
        return z, float(2 * stats.norm.sf(abs(z)))
    return z, float(stats.norm.sf(z if alternative == "greater" else -z))
