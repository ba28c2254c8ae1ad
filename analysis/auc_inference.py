"""Intervals of one AUC, tests of AUCs from different patients, and sample sizes for AUCs.

Paired comparisons of models on the same patients are in :mod:`hybrid.analysis.roc`. Here a score is never flipped
either: an AUC below 0.5 stays below 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hybrid.errors import InputError, unknown_name

from .cut_offs import check_fraction, check_one_score, in_order
from .resampling import FloatArray, bootstrap, weighted_auc
from .roc import ALTERNATIVES, check_level, check_scores, delong_bounds, delong_covariance, perfect_interval, placements

INTERVAL_METHODS: Final = {
    "delong": "DeLong et al. 1988, doi:10.2307/2531595, on the scale of the AUC",
    "logit": "DeLong et al. 1988, doi:10.2307/2531595, on the log-odds of the AUC (Pepe 2003, section 5.2)",
    "hanley_mcneil": "Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747",
    "bca": "stratified bootstrap, BCa (Efron 1987, doi:10.1080/01621459.1987.10478410)",
}
"""Intervals of one AUC and their sources."""

PERFECT_REFERENCE: Final = (
    "exact bound for an AUC of 0 or 1, n = smaller class (Clopper-Pearson 1934, doi:10.1093/biomet/26.4.404)"
)
"""Source of the interval that replaces every other one when the classes are perfectly separated."""

VARIANCES: Final = {
    "obuchowski": "Obuchowski et al. 2004, doi:10.1373/clinchem.2004.031823, eq. 3 (binormal ratings)",
    "hanley_mcneil": "Hanley and McNeil 1982, doi:10.1148/radiology.143.1.7063747 (exponential scores)",
}
"""Variances of a planned AUC, for which no data exist yet, and their sources."""


def auc_intervals(
    y: ArrayLike,
    score: ArrayLike,
    *,
    level: float = 0.95,
    methods: Sequence[str] = tuple(INTERVAL_METHODS),
    n_bootstrap: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Confidence intervals of one AUC by several methods.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1, one row per patient. For several rows per patient see :func:`hybrid.analysis.clustered.clustered_auc`.
    score : array-like of shape (n,)
        Higher means more likely positive.
    level : float
        Confidence level.
    methods : sequence of str
        Of :data:`INTERVAL_METHODS`. The first two share DeLong's standard error; all but ``"logit"`` and ``"bca"`` are
        symmetric and cut at 0 and 1. In small samples prefer ``"logit"`` or ``"bca"``: with 15 cases of each class and
        an AUC of 0.85, 95 % intervals held the true AUC in 90, 95.5, 90 and 95 % of 1000 simulated studies.
    n_bootstrap, seed : int
        Draws of the bootstrap and their seed; used by ``"bca"`` only.

    Returns
    -------
    DataFrame
        One row per method: ``method, auc, se, ci_low, ci_high, reference``. NaN where a method needs more cases:
        DeLong's variance and the bootstrap need two of each class. With perfect separation no standard error is
        meaningful (it is NaN) and every interval is that of :func:`hybrid.analysis.roc.perfect_interval`.

    Raises
    ------
    InputError
        For an unknown method; see also :func:`hybrid.analysis.roc.check_scores`.

    Examples
    --------
    >>> auc_intervals([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], methods=["hanley_mcneil"])["auc"].tolist()
    [0.75]
    """
    check_level(level)
    for method in methods:
        if method not in INTERVAL_METHODS:
            raise unknown_name("method", method, INTERVAL_METHODS)
    positive, values = check_one_score(y, score)
    estimate = float(placements(positive, values[None])[0].mean())
    n_positive = int(positive.sum())
    n_smaller = min(n_positive, positive.size - n_positive)
    rows: list[tuple[str, float, float, float, float, str]] = []
    for method in methods:
        if estimate in (0.0, 1.0):
            bounds = perfect_interval(estimate, n_smaller, level=level)
            rows.append((method, estimate, np.nan, *bounds, PERFECT_REFERENCE))
            continue
        if method == "bca":
            error, lower, upper = _bca(positive, values, level, n_bootstrap, seed)
        elif method == "hanley_mcneil":
            error = hanley_mcneil_se(estimate, n_positive, positive.size - n_positive)
            _, lower, upper = delong_bounds(estimate, error**2, n_smaller, level=level, scale="plain")
        elif n_smaller < 2:
            error = lower = upper = np.nan
        else:
            error = float(np.sqrt(delong_covariance(positive, values)[1][0, 0]))
            scale = "logit" if method == "logit" else "plain"
            _, lower, upper = delong_bounds(estimate, error**2, n_smaller, level=level, scale=scale)
        rows.append((method, estimate, error, lower, upper, INTERVAL_METHODS[method]))
    return pd.DataFrame(rows, columns=["method", "auc", "se", "ci_low", "ci_high", "reference"])


def _bca(
    positive: NDArray[np.bool_], score: FloatArray, level: float, n_bootstrap: int, seed: int
) -> tuple[float, float, float]:
    positive, (ranked,) = in_order(positive, score)
    drawn = bootstrap(
        lambda weights: weighted_auc(positive, ranked, weights)[None], positive, n_bootstrap=n_bootstrap, seed=seed
    )
    lower, upper = drawn.interval(level=level, kind="bca")[0]
    error = float(drawn.draws[0].std(ddof=1)) if drawn.is_estimable and n_bootstrap > 1 else np.nan
    return error, float(lower), float(upper)


def hanley_mcneil_se(auc: float, n_positive: int, n_negative: int) -> float:
    """Give the standard error of an AUC from the AUC alone.

    Hanley and McNeil 1982 (doi:10.1148/radiology.143.1.7063747), eq. 1.

    Parameters
    ----------
    auc : float
        Area, in [0, 1].
    n_positive, n_negative : int
        Number of cases of each class.

    Returns
    -------
    float
        Of exponential scores, a close approximation for most others.

    Raises
    ------
    InputError
        For an area outside [0, 1] or a class without cases.
    """
    if not 0.0 <= auc <= 1.0:
        raise InputError(f"An AUC lies between 0 and 1; found {auc}.", advice="Check the AUC.")
    _check_counts(n_positive, n_negative)
    two_positives, two_negatives = _exponential_components(auc)
    total = auc * (1 - auc) + (n_positive - 1) * two_positives + (n_negative - 1) * two_negatives
    return float(np.sqrt(total / (n_positive * n_negative)))


def _exponential_components(auc: float) -> tuple[float, float]:
    """Covariance of two pairs that share a negative case (two positives), and that share a positive case."""
    return auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2


@dataclass(frozen=True)
class UnpairedDelongTest:
    """Comparison of two ROC curves of different patients.

    Attributes
    ----------
    auc_1, auc_2 : float
        Areas.
    difference : float
        ``auc_1 - auc_2``.
    lower, upper : float
        Confidence interval of the difference, from the same t distribution as the p-value; NaN when it is not defined.
    statistic : float
        Difference over its standard error.
    df : float
        Welch-Satterthwaite degrees of freedom.
    p : float
        1 (one-sided 0.5) for equal areas without sampling variance; NaN for different areas without sampling variance.
    alternative : str
        ``"two-sided"``, ``"greater"`` (``auc_1 > auc_2``) or ``"less"``.
    """

    auc_1: float
    auc_2: float
    difference: float
    lower: float
    upper: float
    statistic: float
    df: float
    p: float
    alternative: str = "two-sided"
    method: str = "DeLong's variances (1988, doi:10.2307/2531595) of two independent ROC curves, Welch's t"


def unpaired_delong_test(
    y1: ArrayLike,
    s1: ArrayLike,
    y2: ArrayLike,
    s2: ArrayLike,
    *,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    level: float = 0.95,
) -> UnpairedDelongTest:
    """Compare the AUCs of two groups that share no patient, for example two hospitals or women and men.

    DeLong's variances add up; the difference over its standard error is compared with a t distribution whose degrees of
    freedom follow Welch (1947, doi:10.1093/biomet/34.1-2.28), with the patients of each group minus one, as in
    R's pROC.

    Parameters
    ----------
    y1, s1 : array-like of shape (n1,)
        Outcomes and scores of the first group.
    y2, s2 : array-like of shape (n2,)
        Outcomes and scores of the second group.
    alternative : {"two-sided", "greater", "less"}
        Direction of the test, of the first area against the second.
    level : float
        Confidence level of the interval of the difference.

    Returns
    -------
    UnpairedDelongTest
        Areas, difference with interval, statistic and p.

    Raises
    ------
    InputError
        For an unknown alternative; see also :func:`hybrid.analysis.roc.delong_covariance`.
    """
    groups = []
    for y, score in ((y1, s1), (y2, s2)):
        positive, values = check_one_score(y, score)
        area, covariance = delong_covariance(positive, values)
        groups.append((float(area[0]), float(covariance[0, 0]), positive.size))
    return unpaired_delong_from_summary(*groups[0], *groups[1], alternative=alternative, level=level)


def unpaired_delong_from_summary(
    auc_1: float,
    variance_1: float,
    n_1: int,
    auc_2: float,
    variance_2: float,
    n_2: int,
    *,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    level: float = 0.95,
) -> UnpairedDelongTest:
    """Compare two AUCs of different patients from their DeLong variances, when the patients cannot be handed over.

    Parameters
    ----------
    auc_1, auc_2 : float
        Areas.
    variance_1, variance_2 : float
        DeLong's variance of each, see :func:`hybrid.analysis.roc.delong_covariance`.
    n_1, n_2 : int
        Patients of each group, two or more.
    alternative, level
        See :func:`unpaired_delong_test`.

    Returns
    -------
    UnpairedDelongTest
        What :func:`unpaired_delong_test` gives for these patients.

    Raises
    ------
    InputError
        For an unknown alternative, a missing or negative variance, or fewer than two patients.
    """
    _check_alternative(alternative)
    check_level(level)
    if not (min(variance_1, variance_2) >= 0.0 and min(n_1, n_2) >= 2):
        raise InputError(
            f"Each AUC needs a variance and two patients or more; found variances {variance_1} and {variance_2} of "
            f"{n_1} and {n_2} patients.",
            advice="Use DeLong's variance, which needs two patients of each class.",
        )
    difference, variance = auc_1 - auc_2, variance_1 + variance_2
    if variance <= 0.0:
        return _test_without_variance(auc_1, auc_2, alternative)
    # Shares of the variance first: squares of tiny variances would underflow.
    shares = ((variance_1, n_1), (variance_2, n_2))
    df = 1 / sum((share / variance) ** 2 / (size - 1) for share, size in shares)
    statistic = difference / np.sqrt(variance)
    half = float(stats.t.ppf(0.5 + level / 2, df)) * np.sqrt(variance)
    tail = {"two-sided": abs(statistic), "greater": statistic, "less": -statistic}[alternative]
    p = float(stats.t.sf(tail, df)) * (2 if alternative == "two-sided" else 1)
    return UnpairedDelongTest(
        auc_1, auc_2, difference, max(-1.0, float(difference - half)), min(1.0, float(difference + half)),
        float(statistic), float(df), p, alternative=alternative,
    )  # fmt: skip


def _test_without_variance(auc_1: float, auc_2: float, alternative: str) -> UnpairedDelongTest:
    difference = auc_1 - auc_2
    p_equal = 1.0 if alternative == "two-sided" else 0.5
    statistic, p = (0.0, p_equal) if difference == 0 else (float(np.copysign(np.inf, difference)), np.nan)
    return UnpairedDelongTest(auc_1, auc_2, difference, np.nan, np.nan, statistic, np.nan, p, alternative=alternative)


@dataclass(frozen=True)
class AucSampleSize:
    """Number of cases that a planned study needs.

    Attributes
    ----------
    n_positive, n_negative : int
        Cases of each class, rounded up.
    n_total : int
        Their sum.
    n_positive_exact, n_negative_exact : float
        Before rounding.
    power : float
        Power that was asked for.
    method : str
        Variance and its source.
    """

    n_positive: int
    n_negative: int
    n_total: int
    n_positive_exact: float
    n_negative_exact: float
    power: float
    method: str


@dataclass(frozen=True)
class _Design:
    """A difference and its variances under both hypotheses, for one positive case and ``ratio`` negative cases."""

    difference: float
    null_variance: float
    variance: float
    method: str

    def power(self, n_positive: float, alpha: float, alternative: str) -> float:
        _check_alternative(alternative)
        check_fraction("alpha", alpha)
        if self.variance <= 0:
            return np.nan
        reach = np.sqrt(n_positive) * _directed(self.difference, alternative)
        reach -= _critical(alpha, alternative) * np.sqrt(self.null_variance)
        return float(stats.norm.cdf(reach / np.sqrt(self.variance)))

    def size(self, ratio: float, power: float, alpha: float, alternative: str) -> AucSampleSize:
        _check_alternative(alternative)
        check_fraction("alpha", alpha)
        check_fraction("power", power)
        directed = _directed(self.difference, alternative)
        if directed <= 0:
            raise InputError(
                f"The difference to be found must point in the direction of the test; found {self.difference:g} for "
                f"the alternative {alternative!r}.",
                advice="Choose two different AUCs and the matching alternative.",
            )
        if self.variance <= 0:
            raise InputError(
                "The two scores have no sampling variance, so no sample size follows from it.",
                advice="Plan with sample_size_auc_difference and expected AUCs instead.",
            )
        root = _critical(alpha, alternative) * np.sqrt(self.null_variance)
        root += float(stats.norm.ppf(power)) * np.sqrt(self.variance)
        if root <= 0:
            raise InputError(
                f"A power of {power} is reached by any sample at alpha = {alpha}.", advice="Ask for a higher power."
            )
        exact = float((root / directed) ** 2)
        n_positive, n_negative = _round_up(exact), _round_up(exact * ratio)
        return AucSampleSize(n_positive, n_negative, n_positive + n_negative, exact, exact * ratio, power, self.method)


def _round_up(exact: float) -> int:
    # 1e-9 above a whole number is rounding of the arithmetic, not a further patient.
    return max(1, int(np.ceil(exact - 1e-9)))


def _directed(difference: float, alternative: str) -> float:
    return {"two-sided": abs(difference), "greater": difference, "less": -difference}[alternative]


def _critical(alpha: float, alternative: str) -> float:
    return float(stats.norm.isf(alpha / 2 if alternative == "two-sided" else alpha))


def _check_alternative(alternative: str) -> None:
    if alternative not in ALTERNATIVES:
        raise unknown_name("alternative", alternative, ALTERNATIVES)


def _check_counts(n_positive: float, n_negative: float) -> None:
    if not (n_positive >= 1 and n_negative >= 1):
        raise InputError(
            f"Both classes need at least one case; found {n_positive} positive and {n_negative} negative.",
            advice="Give the number of positive and of negative cases.",
        )


def _check_ratio(ratio: float) -> None:
    if not 0.0 < ratio < np.inf:
        raise InputError(
            f"The ratio of negative to positive cases must be positive; found {ratio}.",
            advice="For a prevalence of 30 % use 0.7 / 0.3.",
        )


def planned_variance(auc: float, ratio: float, *, variance: str = "obuchowski") -> float:
    """Large-sample variance of an AUC, times the number of positive cases.

    Parameters
    ----------
    auc : float
        Expected area, strictly between 0 and 1.
    ratio : float
        Negative cases per positive case.
    variance : str
        Of :data:`VARIANCES`: ``"obuchowski"`` is the variance of binormal ratings, and what R's
        ``pROC::power.roc.test`` uses for one curve; ``"hanley_mcneil"`` that of exponential scores. For continuous
        normal scores of equal spread both are too large, which errs on the safe side: by 4, 23 and 51 % and by 7, 14
        and 25 % at AUCs of 0.65, 0.75 and 0.85 with two negative cases per positive one (simulated).

    Returns
    -------
    float
        Divide by the number of positive cases for the variance of the AUC.

    Raises
    ------
    InputError
        For an area or ratio outside its range, or an unknown variance.
    """
    check_fraction("AUC", auc)
    _check_ratio(ratio)
    if variance not in VARIANCES:
        raise unknown_name("variance", variance, VARIANCES)
    if variance == "hanley_mcneil":
        two_positives, two_negatives = _exponential_components(auc)
        return two_positives / ratio + two_negatives
    # Constants as printed in the paper, eq. 3 (0.0099 for 1 / 32 pi, 1.414 for the root of 2).
    a = 1.414 * float(stats.norm.ppf(auc))
    return float(0.0099 * np.exp(-(a**2) / 2) * ((5 * a**2 + 8) + (a**2 + 8) / ratio))


def auc_power(
    auc: float,
    n_positive: int,
    n_negative: int,
    *,
    null_auc: float = 0.5,
    alpha: float = 0.05,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    variance: str = "obuchowski",
) -> float:
    """Power to show that an AUC differs from a fixed value.

    Parameters
    ----------
    auc : float
        Expected area.
    n_positive, n_negative : int
        Cases of each class.
    null_auc : float
        Area under the null hypothesis.
    alpha : float
        Level of the test.
    alternative : {"two-sided", "greater", "less"}
        Direction of the test; for ``"two-sided"`` the chance of a significant result on the wrong side is left out.
    variance : str
        Of :data:`VARIANCES`; see :func:`planned_variance`.

    Returns
    -------
    float
        Obuchowski et al. 2004 (doi:10.1373/clinchem.2004.031823), eq. 2, solved for the power.

    Raises
    ------
    InputError
        See :func:`planned_variance`.
    """
    _check_counts(n_positive, n_negative)
    return _one_auc(auc, null_auc, n_negative / n_positive, variance).power(n_positive, alpha, alternative)


def sample_size_auc(
    auc: float,
    *,
    power: float = 0.8,
    ratio: float = 1.0,
    null_auc: float = 0.5,
    alpha: float = 0.05,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    variance: str = "obuchowski",
) -> AucSampleSize:
    """Cases needed to show that an AUC differs from a fixed value.

    Parameters
    ----------
    auc : float
        Expected area.
    power : float
        Wanted power.
    ratio : float
        Negative cases per positive case: ``(1 - prevalence) / prevalence``.
    null_auc, alpha, alternative, variance
        See :func:`auc_power`.

    Returns
    -------
    AucSampleSize
        Obuchowski et al. 2004 (doi:10.1373/clinchem.2004.031823), eq. 2.

    Raises
    ------
    InputError
        When the areas are equal or the difference points away from the alternative; see :func:`planned_variance`.

    Examples
    --------
    >>> sample_size_auc(0.7, power=0.9, alternative="greater").n_positive
    33
    """
    return _one_auc(auc, null_auc, ratio, variance).size(ratio, power, alpha, alternative)


def _one_auc(auc: float, null_auc: float, ratio: float, variance: str) -> _Design:
    return _Design(
        auc - null_auc,
        planned_variance(null_auc, ratio, variance=variance),
        planned_variance(auc, ratio, variance=variance),
        VARIANCES[variance],
    )


def auc_difference_power(
    auc_1: float,
    auc_2: float,
    n_positive: int,
    n_negative: int,
    *,
    correlation: float = 0.0,
    alpha: float = 0.05,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    variance: str = "obuchowski",
) -> float:
    """Power to find a difference between two AUCs.

    Parameters
    ----------
    auc_1, auc_2 : float
        Expected areas. The first is that of the reference: under the null hypothesis both have its variance
        (Obuchowski and McClish 1997, doi:10.1002/(SICI)1097-0258(19970715)16:13<1529::AID-SIM565>3.0.CO;2-H, eq. 2).
    n_positive, n_negative : int
        Cases of each class, rated by both models; for independent groups, of each group.
    correlation : float
        Of the two estimated areas: 0 for groups of different patients. Two models on the same patients share much of
        their error: take it from pilot data (:func:`hybrid.analysis.roc.delong_covariance`) or from the table in Hanley
        and McNeil 1983 (doi:10.1148/radiology.148.3.6878708). 0 is the cautious choice.
    alpha, alternative, variance
        See :func:`auc_power`; ``"greater"`` tests ``auc_1 > auc_2``.

    Returns
    -------
    float
        Power.

    Raises
    ------
    InputError
        For a correlation outside [-1, 1); see :func:`planned_variance`.
    """
    _check_counts(n_positive, n_negative)
    design = _two_aucs(auc_1, auc_2, correlation, n_negative / n_positive, variance)
    return design.power(n_positive, alpha, alternative)


def sample_size_auc_difference(
    auc_1: float,
    auc_2: float,
    *,
    correlation: float = 0.0,
    power: float = 0.8,
    ratio: float = 1.0,
    alpha: float = 0.05,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
    variance: str = "obuchowski",
) -> AucSampleSize:
    """Cases needed to find a difference between two AUCs.

    Parameters
    ----------
    auc_1, auc_2, correlation
        See :func:`auc_difference_power`; the first area is that of the reference.
    power : float
        Wanted power.
    ratio : float
        Negative cases per positive case.
    alpha, alternative, variance
        See :func:`auc_power`.

    Returns
    -------
    AucSampleSize
        Of the patients rated by both models; for independent groups, of each group.

    Raises
    ------
    InputError
        When the areas are equal or point away from the alternative; see :func:`auc_difference_power`.
    """
    return _two_aucs(auc_1, auc_2, correlation, ratio, variance).size(ratio, power, alpha, alternative)


def _two_aucs(auc_1: float, auc_2: float, correlation: float, ratio: float, variance: str) -> _Design:
    if not -1.0 <= correlation < 1.0:
        raise InputError(
            f"The correlation of two AUCs must lie in [-1, 1); found {correlation}.",
            advice="Use 0 for independent patients, about 0.5 for two models on the same patients.",
        )
    first = planned_variance(auc_1, ratio, variance=variance)
    second = planned_variance(auc_2, ratio, variance=variance)
    shared = correlation * np.sqrt(first * second)
    return _Design(auc_1 - auc_2, 2 * first * (1 - correlation), first + second - 2 * shared, VARIANCES[variance])


PILOT_METHOD: Final = "DeLong's covariance (1988, doi:10.2307/2531595) of the pilot data"


def pilot_difference_power(
    y: ArrayLike,
    reference: ArrayLike,
    other: ArrayLike,
    *,
    n_positive: int | None = None,
    n_negative: int | None = None,
    alpha: float = 0.05,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
) -> float:
    """Power of a study like the pilot to find the difference between two AUCs that the pilot shows.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1, the outcomes of the pilot patients.
    reference, other : array-like of shape (n,)
        Scores of two models on these patients. Under the null hypothesis both areas have the variance of the reference
        (Obuchowski and McClish 1997, eq. 2; the formula of R's ``pROC::power.roc.test``), so their order matters.
        Where the covariance exceeds that variance, the variance of the observed difference is used throughout.
    n_positive, n_negative : int, optional
        Cases of the planned study; those of the pilot by default. The power at the pilot's own size and difference
        says nothing that its p-value does not say.
    alpha, alternative
        See :func:`auc_power`; ``"greater"`` tests ``reference > other``.

    Returns
    -------
    float
        Power; NaN when the difference has no sampling variance (the two scores do not differ in any rank).

    Raises
    ------
    InputError
        See :func:`hybrid.analysis.roc.delong_covariance`.
    """
    positive, curves = _pilot(y, reference, other)
    n_pilot = int(positive.sum())
    m = n_pilot if n_positive is None else n_positive
    n = positive.size - n_pilot if n_negative is None else n_negative
    _check_counts(m, n)
    return _pilot_design(positive, curves, n / m).power(m, alpha, alternative)


def pilot_difference_sample_size(
    y: ArrayLike,
    reference: ArrayLike,
    other: ArrayLike,
    *,
    power: float = 0.8,
    ratio: float | None = None,
    alpha: float = 0.05,
    alternative: Literal["two-sided", "greater", "less"] = "two-sided",
) -> AucSampleSize:
    """Cases needed to find the difference between two AUCs that pilot data show.

    Parameters
    ----------
    y, reference, other
        See :func:`pilot_difference_power`.
    power : float
        Wanted power.
    ratio : float, optional
        Negative cases per positive case; that of the pilot by default.
    alpha, alternative
        See :func:`auc_power`.

    Returns
    -------
    AucSampleSize
        A difference found in a small pilot is uncertain, and often too large: plan for the smallest difference that
        would matter as well (:func:`sample_size_auc_difference`).

    Raises
    ------
    InputError
        When the pilot shows no difference in the direction of the test; see
        :func:`hybrid.analysis.roc.delong_covariance`.
    """
    positive, curves = _pilot(y, reference, other)
    share = (~positive).sum() / positive.sum() if ratio is None else ratio
    _check_ratio(share)
    return _pilot_design(positive, curves, float(share)).size(float(share), power, alpha, alternative)


def _pilot(y: ArrayLike, reference: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.bool_], FloatArray]:
    if np.shape(reference) != np.shape(other):
        raise InputError(
            f"Both models need scores of the same cases; found shapes {np.shape(reference)} and {np.shape(other)}.",
            advice="Restrict both to the cases they share.",
        )
    positive, curves = check_scores(y, np.stack([np.asarray(reference, float), np.asarray(other, float)]))
    delong_covariance(positive, curves)
    return positive, curves


def _pilot_design(positive: NDArray[np.bool_], curves: FloatArray, ratio: float) -> _Design:
    of_positives, of_negatives = placements(positive, curves)
    covariance = np.cov(of_positives) + np.cov(of_negatives) / ratio
    null_variance = 2 * covariance[0, 0] - 2 * covariance[0, 1]
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    areas = of_positives.mean(axis=1)
    if null_variance <= 0:
        # A covariance above the reference's own variance leaves nothing for the null hypothesis.
        null_variance = variance
    return _Design(float(areas[0] - areas[1]), float(null_variance), float(variance), PILOT_METHOD)
