"""How many patients does a prediction model need? The criteria of Riley et al., before any model is trained.

Minimum sample size for developing a model with a given number of candidate *parameters* (each feature that the model
could use, not only those it keeps): Riley et al. 2019 for binary and time-to-event outcomes (doi:10.1002/sim.7992) and
for continuous outcomes (doi:10.1002/sim.7993), summarised in Riley et al. 2020 (doi:10.1136/bmj.m441). The formulas
assume a regression fitted without penalty. Penalised models and forests need no fewer patients in general; selecting
among hundreds of features needs many more, so every candidate counts.

The anticipated Cox-Snell R2 decides. It comes from an earlier model, or from its C statistic; without either, 15 % of
the largest possible value is assumed (Riley et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from scipy import integrate, special, stats

from hybrid.errors import InputError

SHRINKAGE: Final = 0.9
"""Targeted shrinkage factor: at most 10 % overfitting."""

OPTIMISM: Final = 0.05
"""Largest accepted difference between apparent and adjusted (Nagelkerke) R2."""

MARGIN: Final = 0.05
"""Largest accepted margin of error of the overall risk."""

RELATIVE_MARGIN: Final = 1.1
"""Largest accepted multiplicative margin of error of a residual SD or a mean."""

DEFAULT_NAGELKERKE: Final = 0.15
"""Share of the largest possible Cox-Snell R2 that is assumed when nothing is known."""

Z: Final = 1.96
"""As in the papers, not 1.959964."""

SAMPLE_SIZE_COLUMNS: Final = ("criterion", "n", "shrinkage", "events_per_parameter")
"""Columns of :attr:`SampleSize.table`."""


@dataclass(frozen=True)
class SampleSize:
    """Minimum sample size and the criteria behind it.

    Attributes
    ----------
    n : int
        Patients: the largest of the criteria.
    n_events : int or None
        Expected events among them; None for continuous outcomes.
    n_parameters : int
        Candidate parameters.
    r2 : float
        Anticipated R2: Cox-Snell, or adjusted R2 for continuous outcomes.
    max_r2 : float
        Largest possible value of ``r2``.
    table : DataFrame
        Columns :data:`SAMPLE_SIZE_COLUMNS`, one row per criterion. ``shrinkage`` is what is to be expected with ``n``
        patients; ``events_per_parameter`` is patients per parameter for continuous outcomes.
    method : str
        One sentence for a paper.
    """

    n: int
    n_events: int | None
    n_parameters: int
    r2: float
    max_r2: float
    table: pd.DataFrame
    method: str


@dataclass(frozen=True)
class Verdict:
    """Whether a cohort is large enough.

    Attributes
    ----------
    enough : bool
        Whether ``n`` reaches ``required.n``.
    n, n_events, n_parameters : int
        What was asked about.
    events_per_parameter : float
        Events divided by parameters.
    shrinkage : float
        Expected shrinkage factor with ``n`` patients; predictions of an unpenalised model would be too extreme by this
        factor.
    max_parameters : int
        Most candidate parameters that the cohort supports by all criteria; 0 when not even one.
    required : SampleSize
        What the criteria ask for.
    sentence : str
        The verdict in one sentence.
    """

    enough: bool
    n: int
    n_events: int
    n_parameters: int
    events_per_parameter: float
    shrinkage: float
    max_parameters: int
    required: SampleSize
    sentence: str


def max_cox_snell(prevalence: float) -> float:
    """Largest possible Cox-Snell R2 of a model for a binary outcome.

    Parameters
    ----------
    prevalence : float
        Share of patients with the event, in (0, 1).

    Returns
    -------
    float
        At most 0.75, at a prevalence of one half; Riley et al. 2019 (doi:10.1002/sim.7992), section 4.

    Raises
    ------
    InputError
        For a prevalence outside (0, 1).
    """
    _check_share("prevalence", prevalence)
    return float(-np.expm1(2 * (special.xlogy(prevalence, prevalence) + special.xlog1py(1 - prevalence, -prevalence))))


def max_cox_snell_survival(event_rate: float, mean_follow_up: float) -> float:
    """Largest possible Cox-Snell R2 of a model for a time-to-event outcome (exponential null model).

    Parameters
    ----------
    event_rate : float
        Events per unit of time.
    mean_follow_up : float
        In the same unit.

    Returns
    -------
    float
        In (0, 1); Riley et al. 2019 (doi:10.1002/sim.7992), section 5.

    Raises
    ------
    InputError
        For values that are not positive.
    """
    _check_positive("event rate", event_rate)
    _check_positive("mean follow-up", mean_follow_up)
    events = event_rate * mean_follow_up
    return float(-np.expm1(2 * (events * math.log(events) - events)))


def cox_snell_from_c(c_statistic: float, prevalence: float) -> float:
    """Cox-Snell R2 that belongs to a C statistic, for a binary outcome.

    The linear predictor is taken as normal in both classes with equal variances, as in Riley et al. 2021
    (doi:10.1002/sim.8806). They simulate one large sample; here the expected log-likelihood is integrated, which is the
    limit of that simulation and needs no seed.

    Parameters
    ----------
    c_statistic : float
        In [0.5, 1).
    prevalence : float
        Share of patients with the event.

    Returns
    -------
    float
        0 for a C statistic of 0.5.

    Raises
    ------
    InputError
        For values outside their range.
    """
    _check_share("prevalence", prevalence)
    _check_c(c_statistic)
    distance = math.sqrt(2) * float(stats.norm.ppf(c_statistic))
    intercept = float(special.logit(prevalence)) - distance**2 / 2

    def expected(mean: float, sign: float) -> float:
        # Mean log-probability of the class whose linear predictor has this mean.
        def integrand(x: float) -> float:
            return float(stats.norm.pdf(x, mean) * special.log_expit(sign * (intercept + distance * x)))

        return float(integrate.quad(integrand, mean - 12, mean + 12, epsabs=1e-12, limit=200)[0])

    model = prevalence * expected(distance, 1.0) + (1 - prevalence) * expected(0.0, -1.0)
    null = float(special.xlogy(prevalence, prevalence) + special.xlog1py(1 - prevalence, -prevalence))
    return max(0.0, float(-np.expm1(2 * (null - model))))


def cox_snell_from_c_survival(c_statistic: float, event_share: float) -> float:
    """Cox-Snell R2 that belongs to Harrell's C of a time-to-event model, by published approximations.

    From C to Royston's D (Jinks et al. 2015, doi:10.1186/s12874-015-0078-y), to R2_D and to O'Quigley's R2
    (Royston 2006, doi:10.1177/1536867X0600600105), to the likelihood ratio (Riley et al. 2019, doi:10.1002/sim.7992,
    section 5).

    Parameters
    ----------
    c_statistic : float
        In [0.5, 1).
    event_share : float
        Share of patients with the event during follow-up.

    Returns
    -------
    float
        An approximation: prefer a reported R2 where there is one.

    Raises
    ------
    InputError
        For values outside their range.
    """
    _check_share("share of patients with the event", event_share)
    _check_c(c_statistic)
    above = c_statistic - 0.5
    d = 5.50 * above + 10.26 * above**3
    explained = d**2 * math.pi / 8
    r2_d = explained / (explained + math.pi**2 / 6)
    oquigley = (math.pi**2 / 6) * r2_d / (1 - (1 - math.pi**2 / 6) * r2_d)
    return float(-math.expm1(event_share * math.log1p(-oquigley)))


def expected_shrinkage(n: int, n_parameters: int, r2_cs: float) -> float:
    """Shrinkage factor to expect from a model with so many parameters in so many patients.

    Solves criterion 1 of Riley et al. 2019 (doi:10.1002/sim.7992) for the shrinkage. This is a large-sample formula and
    optimistic in small cohorts: for 15 parameters and a Cox-Snell R2 of about 0.2 it gives 0.70 with 150 patients and
    0.56 with 75, where unpenalised logistic regressions on simulated patients had mean calibration slopes of 0.58 and
    0.33 in new patients.

    Parameters
    ----------
    n : int
        Patients.
    n_parameters : int
        Candidate parameters.
    r2_cs : float
        Anticipated Cox-Snell R2 (optimism-adjusted).

    Returns
    -------
    float
        In (0, 1); 0.9 means 10 % overfitting.

    Raises
    ------
    InputError
        For values outside their range.
    """
    _check_counts(n, n_parameters)
    _check_share("Cox-Snell R2", r2_cs)
    # The required n grows with the shrinkage, from 0 at R2 (where the apparent R2 would be 1) to infinity at 1.
    low, high = r2_cs, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _patients_for(middle, n_parameters, r2_cs) < n else (low, middle)
    return (low + high) / 2


def _patients_for(shrinkage: float, n_parameters: int, r2_cs: float) -> float:
    if shrinkage >= 1:
        return math.inf
    if shrinkage <= r2_cs:
        return 0.0
    return n_parameters / ((shrinkage - 1) * math.log1p(-r2_cs / shrinkage))


def sample_size_binary(
    n_parameters: int,
    prevalence: float,
    *,
    r2_cs: float | None = None,
    c_statistic: float | None = None,
    shrinkage: float = SHRINKAGE,
) -> SampleSize:
    """Minimum sample size for a model of a binary outcome.

    Parameters
    ----------
    n_parameters : int
        Candidate parameters: coefficients that could be estimated, before any selection.
    prevalence : float
        Anticipated share of patients with the event.
    r2_cs : float, optional
        Anticipated Cox-Snell R2.
    c_statistic : float, optional
        Anticipated C statistic instead; see :func:`cox_snell_from_c`. Without either, :data:`DEFAULT_NAGELKERKE`.
    shrinkage : float
        Targeted shrinkage factor of criterion 1.

    Returns
    -------
    SampleSize
        Criteria: 1 shrinkage, 2 optimism in Nagelkerke's R2 of at most 0.05, 3 overall risk within 0.05.

    Raises
    ------
    InputError
        For values outside their range, an R2 above its largest possible value, or both ``r2_cs`` and ``c_statistic``.

    References
    ----------
    Riley et al. 2019 (doi:10.1002/sim.7992); 2020 (doi:10.1136/bmj.m441).

    Examples
    --------
    >>> sample_size_binary(24, 0.174, r2_cs=0.288).n
    662
    """
    _check_counts(1, n_parameters)
    _check_share("shrinkage", shrinkage)
    largest = max_cox_snell(prevalence)
    from_c = None if c_statistic is None else cox_snell_from_c(c_statistic, prevalence)
    r2, origin = _anticipated(r2_cs, from_c, c_statistic, largest)
    risk = (Z / MARGIN) ** 2 * prevalence * (1 - prevalence)
    criteria = {**_shrinkage_criteria(n_parameters, r2, largest, shrinkage), "3 overall risk": risk}
    return _assemble(criteria, n_parameters, r2, largest, prevalence, f"a prevalence of {prevalence:g} and {origin}")


def sample_size_survival(
    n_parameters: int,
    event_rate: float,
    *,
    horizon: float,
    mean_follow_up: float,
    r2_cs: float | None = None,
    c_statistic: float | None = None,
    shrinkage: float = SHRINKAGE,
) -> SampleSize:
    """Minimum sample size for a model of a time-to-event outcome.

    Parameters
    ----------
    n_parameters : int
        Candidate parameters.
    event_rate : float
        Anticipated events per unit of time.
    horizon : float
        Time at which the overall risk is to be precise, in the same unit.
    mean_follow_up : float
        In the same unit.
    r2_cs : float, optional
        Anticipated Cox-Snell R2.
    c_statistic : float, optional
        Anticipated Harrell's C instead; see :func:`cox_snell_from_c_survival`. Without either,
        :data:`DEFAULT_NAGELKERKE`.
    shrinkage : float
        Targeted shrinkage factor of criterion 1.

    Returns
    -------
    SampleSize
        Criteria as for binary outcomes; the third asks that both 95 % bounds of the overall risk at ``horizon`` lie
        within 0.05 of it (exponential survival). R's pmsampsize only checks the third at the size of the first two.

    Raises
    ------
    InputError
        See :func:`sample_size_binary`; also for one event per patient or more.

    References
    ----------
    Riley et al. 2019 (doi:10.1002/sim.7992), section 5.
    """
    _check_counts(1, n_parameters)
    _check_share("shrinkage", shrinkage)
    _check_positive("horizon", horizon)
    largest = max_cox_snell_survival(event_rate, mean_follow_up)
    share = event_rate * mean_follow_up
    if share >= 1:
        raise InputError(
            f"{event_rate:g} events per unit of time over a mean follow-up of {mean_follow_up:g} would be {share:.2g} "
            "events per patient; expected fewer than 1.",
            advice="Give both in the same unit of time; follow-up ends with the event.",
        )
    from_c = None if c_statistic is None else cox_snell_from_c_survival(c_statistic, share)
    r2, origin = _anticipated(r2_cs, from_c, c_statistic, largest)
    # Largest error of the rate that keeps the lower survival bound, which is the farther one, within the margin.
    rate_error = math.log1p(MARGIN * math.exp(event_rate * horizon)) / horizon
    risk = event_rate / mean_follow_up * (Z / rate_error) ** 2
    criteria = {**_shrinkage_criteria(n_parameters, r2, largest, shrinkage), "3 overall risk": risk}
    text = f"{event_rate:g} events per unit of time, a mean follow-up of {mean_follow_up:g} and {origin}"
    return _assemble(criteria, n_parameters, r2, largest, share, text)


def sample_size_continuous(
    n_parameters: int,
    r2: float,
    *,
    mean: float | None = None,
    sd: float | None = None,
    shrinkage: float = SHRINKAGE,
) -> SampleSize:
    """Minimum sample size for a linear model of a continuous outcome.

    Parameters
    ----------
    n_parameters : int
        Candidate parameters.
    r2 : float
        Anticipated adjusted R2, in (0, 1).
    mean, sd : float, optional
        Anticipated mean and standard deviation of the outcome, for the fourth criterion, which is left out without
        them.
    shrinkage : float
        Targeted shrinkage factor of criterion 1.

    Returns
    -------
    SampleSize
        Criteria: 1 shrinkage, 2 optimism in R2 of at most 0.05, 3 residual standard deviation within 10 %, 4 mean
        outcome within 10 %.

    Raises
    ------
    InputError
        For values outside their range.

    References
    ----------
    Riley et al. 2019 (doi:10.1002/sim.7993).
    """
    _check_counts(1, n_parameters)
    _check_share("shrinkage", shrinkage)
    _check_share("R2", r2)
    first = n_parameters + 2
    criteria = {
        "1 shrinkage": _smallest(lambda n: _linear_shrinkage(n, n_parameters, r2) >= shrinkage, first),
        "2 optimism": math.ceil(1 + n_parameters * (1 - r2) / OPTIMISM),
        "3 residual SD": _smallest(lambda n: _sd_margin(n - n_parameters - 1) <= RELATIVE_MARGIN, first),
    }
    if mean is not None and sd is not None:
        _check_positive("standard deviation", sd)
        if mean == 0:
            raise InputError(
                "The fourth criterion is relative to the mean outcome, which must not be 0.",
                advice="Leave out mean and sd, or move the outcome's origin.",
            )
        criteria["4 mean outcome"] = _smallest(
            lambda n: _mean_margin(n, n_parameters, r2, abs(mean), sd) <= RELATIVE_MARGIN, first
        )
    n = max(criteria.values())
    table = pd.DataFrame(
        [(name, k, _linear_shrinkage(k, n_parameters, r2), k / n_parameters) for name, k in criteria.items()],
        columns=list(SAMPLE_SIZE_COLUMNS),
    )
    method = (
        f"Minimum sample size of {n} patients for {n_parameters} candidate parameters and an adjusted R2 of {r2:g} "
        "(Riley et al. 2019, doi:10.1002/sim.7993)."
    )
    return SampleSize(n, None, n_parameters, r2, 1.0, table, method)


def sample_size_verdict(
    n: int,
    n_events: int,
    n_parameters: int,
    *,
    r2_cs: float | None = None,
    c_statistic: float | None = None,
    shrinkage: float = SHRINKAGE,
) -> Verdict:
    """Say in one sentence whether a cohort with a binary outcome is large enough for a number of parameters.

    Parameters
    ----------
    n, n_events : int
        Patients, and those with the event.
    n_parameters : int
        Candidate parameters.
    r2_cs, c_statistic, shrinkage
        See :func:`sample_size_binary`.

    Returns
    -------
    Verdict
        With ``sentence`` and the numbers behind it.

    Raises
    ------
    InputError
        See :func:`sample_size_binary`; also unless there are patients with and without the event.
    """
    _check_counts(n, n_parameters)
    if not 0 < n_events < n:
        raise InputError(
            f"There must be patients with and without the event; found {n_events} events in {n} patients.",
            advice="Check the outcome column.",
        )
    required = sample_size_binary(n_parameters, n_events / n, r2_cs=r2_cs, c_statistic=c_statistic, shrinkage=shrinkage)
    single = _shrinkage_criteria(1, required.r2, required.max_r2, shrinkage)
    risk = int(required.table["n"].iloc[2])
    supported = int(n // max(single.values())) if n >= risk else 0
    expected = expected_shrinkage(n, n_parameters, required.r2)
    rate = n_events / n_parameters
    each = f"{rate:.2g} event{'s' * (f'{rate:.2g}' != '1')}"
    enough = n >= required.n
    sentence = (
        f"{n} patients with {n_events} events ({each} per candidate parameter) are "
        f"{'enough' if enough else 'too few'} for {n_parameters} candidate parameter{'s' * (n_parameters != 1)}: "
        f"the criteria of Riley et al. ask for {required.n} patients; with {n} the expected shrinkage is "
        f"{expected:.2f} (target {shrinkage:g}) and {_supported_text(supported)}."
    )
    return Verdict(enough, n, n_events, n_parameters, rate, expected, supported, required, sentence)


def _supported_text(supported: int) -> str:
    if supported == 0:
        return "not even one parameter is supported"
    return f"at most {supported} parameter{'s are' if supported > 1 else ' is'} supported"


def _anticipated(
    r2_cs: float | None, from_c: float | None, c_statistic: float | None, largest: float
) -> tuple[float, str]:
    """Cox-Snell R2 to use, and words for where it comes from."""
    if r2_cs is not None and c_statistic is not None:
        raise InputError(
            "Give the anticipated Cox-Snell R2 or the C statistic, not both.",
            advice="Prefer the R2 where an earlier study reports it.",
        )
    r2 = r2_cs if from_c is None else from_c
    if r2 is None:
        r2 = DEFAULT_NAGELKERKE * largest
        return r2, f"an assumed Cox-Snell R2 of {r2:.3g} (15 % of its largest possible value)"
    origin = "" if from_c is None else f", from a C statistic of {c_statistic:g}"
    if not 0.0 < r2 < largest:
        raise InputError(
            f"The Cox-Snell R2 must lie between 0 and its largest possible value, {largest:.3f}; found {r2:.3f}.",
            advice="Nagelkerke's R2 is another quantity: multiply it by the largest possible value.",
        )
    return r2, f"an anticipated Cox-Snell R2 of {r2:.3g}{origin}"


def _shrinkage_criteria(n_parameters: int, r2: float, largest: float, shrinkage: float) -> dict[str, float]:
    """Criteria 1 and 2 of Riley et al. 2019 (doi:10.1002/sim.7992), before rounding up."""
    if r2 >= shrinkage:
        raise InputError(
            f"The anticipated Cox-Snell R2, {r2:.3f}, must be below the targeted shrinkage, {shrinkage:g}.",
            advice="So good a model is implausible; check the R2.",
        )
    for_optimism = r2 / (r2 + OPTIMISM * largest)
    return {
        "1 shrinkage": _patients_for(shrinkage, n_parameters, r2),
        "2 optimism": _patients_for(for_optimism, n_parameters, r2),
    }


def _assemble(
    criteria: dict[str, float], n_parameters: int, r2: float, largest: float, event_share: float, given: str
) -> SampleSize:
    sizes = {name: math.ceil(size) for name, size in criteria.items()}
    n = max(sizes.values())
    rows = [
        (name, k, expected_shrinkage(k, n_parameters, r2), k * event_share / n_parameters) for name, k in sizes.items()
    ]
    method = (
        f"Minimum sample size of {n} patients for {n_parameters} candidate parameters, given {given} "
        "(Riley et al. 2019, doi:10.1002/sim.7992)."
    )
    table = pd.DataFrame(rows, columns=list(SAMPLE_SIZE_COLUMNS))
    return SampleSize(n, math.ceil(n * event_share), n_parameters, r2, largest, table, method)


def _linear_shrinkage(n: int, n_parameters: int, r2: float) -> float:
    """Shrinkage of a linear model by van Houwelingen and Le Cessie's heuristic (Riley et al. 2019, sim.7993, eq. 5)."""
    apparent = (r2 * (n - n_parameters - 1) + n_parameters) / (n - 1)
    return 1 + (n_parameters - 2) / (n * math.log1p(-apparent))


def _sd_margin(freedom: int) -> float:
    """Multiplicative margin of error of a residual standard deviation."""
    low, high = stats.chi2.ppf([0.025, 0.975], freedom)
    return float(math.sqrt(max(high / freedom, freedom / low)))


def _mean_margin(n: int, n_parameters: int, r2: float, mean: float, sd: float) -> float:
    """Multiplicative margin of error of the mean outcome."""
    error = sd * math.sqrt((1 - r2) / n)
    return float(1 + stats.t.ppf(0.975, n - n_parameters - 1) * error / mean)


def _smallest(is_enough: Callable[[int], bool], first: int) -> int:
    """Smallest whole number from ``first`` on for which a condition holds that stays true once it is."""
    high = first
    while not is_enough(high):
        high *= 2
    low = first - 1 if high == first else high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise InputError(
            f"The {name} must lie between 0 and 1; found {value}.", advice="Give a share, not a percentage."
        )


def _check_c(value: float) -> None:
    if not 0.5 <= value < 1.0:
        raise InputError(
            f"The C statistic must lie from 0.5 to below 1; found {value}.",
            advice="A value of 1 leaves nothing to plan for; use what an earlier study reported.",
        )


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"The {name} must be positive; found {value}.", advice="Check its unit.")


def _check_counts(n: int, n_parameters: int) -> None:
    if n < 1 or n_parameters < 1:
        raise InputError(
            f"There must be at least one patient and one candidate parameter; found {n} and {n_parameters}.",
            advice="Count every feature that the model could use.",
        )
