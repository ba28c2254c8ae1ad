"""Follow-up times with censoring: discrimination and Brier score.

``time`` is the follow-up of a patient in any unit, ``event`` is 1 when the event happened at that time and 0 when the
patient was last seen without it (censored). A higher ``risk`` always means an earlier event and is never flipped. Where
an event and a censoring share a time, the censored patient is taken to have outlived the event.

Weights against censoring (inverse probability of censoring, IPCW) come from the Kaplan-Meier estimate of the censoring
times, just before an event; they assume that censoring does not depend on the features. Every bootstrap draw estimates
them anew. Kaplan-Meier estimates, the log-rank test and the unpenalised Cox model are those of statsmodels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import integrate

from hybrid.errors import InputError
from hybrid.tables import check_survival

from .compare import DIFFERENCE_INTERVAL
from .survival_panel import (
    FloatArray,
    SurvivalPanel,
    brier_scores,
    check_risk,
    comparable_pairs,
    concordances,
    resample_panel,
    row_names,
    survival_aucs,
    won_pairs,
)


@dataclass(frozen=True)
class Concordance:
    """Harrell's C-index and what it was counted from.

    Attributes
    ----------
    c : float
        Share of comparable pairs in which the patient with the earlier event has the higher risk, ties of risk
        counting half; 0.5 is chance.
    se : float
        Standard error by the infinitesimal jackknife, as in R's ``survival::concordance``.
    concordant, discordant, tied_risk, tied_time : int
        Pairs; those with two events at the same time (``tied_time``) are not comparable.
    """

    c: float
    se: float
    concordant: int
    discordant: int
    tied_risk: int
    tied_time: int
    method: str = "Harrell's C (1996, doi:10.1002/(SICI)1097-0258(19960229)15:4<361::AID-SIM168>3.0.CO;2-4)"


def concordance_index(time: ArrayLike, event: ArrayLike, risk: ArrayLike) -> Concordance:
    """Harrell's C-index with its standard error.

    Parameters
    ----------
    time, event, risk : array-like of shape (n,)
        Follow-up, event and risk score (higher: earlier event).

    Returns
    -------
    Concordance
        NaN when no pair is comparable.

    Raises
    ------
    InputError
        See :func:`check_survival`.

    Examples
    --------
    >>> concordance_index([5, 8, 12, 20], [1, 0, 1, 0], [2.0, 0.5, 1.0, 0.1]).c
    1.0
    """
    times, events = check_survival(time, event)
    scores = check_risk(risk, times.size)
    pairs = comparable_pairs(times, events)
    won = won_pairs(pairs, scores)
    total = float(pairs.sum())
    c = float(won.sum()) / total if total else np.nan
    # Derivative of the ratio by the weight of each patient, who appears on both sides of pairs.
    gain = won.sum(axis=0) + won.sum(axis=1) - c * (pairs.sum(axis=0) + pairs.sum(axis=1))
    tied = int((won == 0.5).sum())
    both = events[:, None] & events[None, :] & (times[:, None] == times[None, :])
    return Concordance(
        c, float(np.sqrt(np.sum(gain**2))) / total if total else np.nan, int((won == 1).sum()),
        int(total) - int((won == 1).sum()) - tied, tied, int(both.sum() - events.sum()) // 2,
    )  # fmt: skip


def uno_concordance(time: ArrayLike, event: ArrayLike, risk: ArrayLike, *, tau: float | None = None) -> float:
    """Uno's C-index, which does not depend on how the patients were censored (2011, doi:10.1002/sim.4154).

    Parameters
    ----------
    time, event, risk : array-like of shape (n,)
        See :func:`concordance_index`.
    tau : float, optional
        Only events before this time count; by default all. Choose a time at which enough patients are still followed.

    Returns
    -------
    float
        Equal to Harrell's C without censoring; NaN when no pair is comparable.

    Raises
    ------
    InputError
        See :func:`check_survival`.
    """
    times, events = check_survival(time, event)
    panel = SurvivalPanel.single(times, events, check_risk(risk, times.size))
    return float(concordances(panel, np.ones((times.size, 1)), uno=True, tau=tau)[0, 0])


def concordance_interval(
    time: ArrayLike, event: ArrayLike, risk: ArrayLike, *, n_bootstrap: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Harrell's C-index with a BCa interval over patients.

    Parameters
    ----------
    time, event, risk : array-like of shape (n,)
        One entry per patient.
    n_bootstrap, seed, level
        See :func:`hybrid.analysis.bootstrap`; draws are stratified by event.

    Returns
    -------
    estimate, lower, upper : float
    """
    times, events = check_survival(time, event)
    drawn = resample_panel(
        SurvivalPanel.single(times, events, check_risk(risk, times.size)), concordances, n_bootstrap, seed
    )
    lower, upper = drawn.interval(level=level)[0]
    return float(drawn.estimate[0]), float(lower), float(upper)


@dataclass(frozen=True)
class ConcordanceDifference:
    """Paired difference of two C-indices; ``p`` is two-sided, from the patient bootstrap."""

    c_1: float
    c_2: float
    difference: float
    lower: float
    upper: float
    p: float


def concordance_difference(
    time: ArrayLike,
    event: ArrayLike,
    risk_1: ArrayLike,
    risk_2: ArrayLike,
    *,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> ConcordanceDifference:
    """Compare the C-indices of two risk scores of the same patients.

    Parameters
    ----------
    time, event, risk_1, risk_2 : array-like of shape (n,)
        One entry per patient; the scores may have different scales.
    n_bootstrap, seed, level
        See :func:`hybrid.analysis.bootstrap`.

    Returns
    -------
    ConcordanceDifference
        ``c_1 - c_2`` with a percentile interval.
    """
    times, events = check_survival(time, event)
    first, second = (
        SurvivalPanel.single(times, events, check_risk(risk, times.size)).risk[0] for risk in (risk_1, risk_2)
    )
    panel = SurvivalPanel(("1", "2"), row_names(times.size), times, events, np.stack([first, second]))
    drawn = resample_panel(panel, concordances, n_bootstrap, seed)
    gap = drawn.pairs([0], [1])
    lower, upper = gap.interval(level=level, kind=DIFFERENCE_INTERVAL)[0]
    c_1, c_2 = map(float, drawn.estimate)
    return ConcordanceDifference(
        c_1, c_2, float(gap.estimate[0]), float(lower), float(upper), float(gap.p_two_sided()[0])
    )


# Weights against censoring, time-dependent AUC, Brier score ------------------------------------------------------


def survival_auc(time: ArrayLike, event: ArrayLike, risk: ArrayLike, horizons: ArrayLike) -> FloatArray:
    """Cumulative/dynamic AUC at some times: patients with an event until t against patients without one at t.

    Weighted against censoring (Uno et al. 2007, doi:10.1198/016214507000000149; Blanche et al. 2013,
    doi:10.1002/sim.5958).

    Parameters
    ----------
    time, event, risk : array-like of shape (n,)
        See :func:`concordance_index`.
    horizons : array-like of shape (h,)
        Times t.

    Returns
    -------
    ndarray of shape (h,)
        NaN where nobody had the event yet or nobody is followed beyond t.

    Raises
    ------
    InputError
        See :func:`check_survival`.
    """
    times, events = check_survival(time, event)
    panel = SurvivalPanel.single(
        times, events, check_risk(risk, times.size), horizons=np.atleast_1d(np.asarray(horizons, dtype=np.float64))
    )
    return survival_aucs(panel, np.ones((times.size, 1)))[:, 0]


def brier_survival(time: ArrayLike, event: ArrayLike, survival: ArrayLike, horizons: ArrayLike) -> FloatArray:
    """Brier score of predicted survival probabilities, weighted against censoring.

    Graf et al. 1999, doi:10.1002/(SICI)1097-0258(19990915/30)18:17/18<2529::AID-SIM274>3.0.CO;2-5.

    Parameters
    ----------
    time, event : array-like of shape (n,)
        Follow-up.
    survival : array-like of shape (h, n)
        Predicted probability of no event until each horizon.
    horizons : array-like of shape (h,)
        Times.

    Returns
    -------
    ndarray of shape (h,)
        Mean squared error; 0 is perfect, 0.25 is what a prediction of one half for everybody reaches. NaN where nobody
        is followed beyond the horizon.

    Raises
    ------
    InputError
        See :func:`check_survival`; also for probabilities outside [0, 1] or a wrong shape.
    """
    times, events = check_survival(time, event, need_events=False)
    cuts = np.atleast_1d(np.asarray(horizons, dtype=np.float64))
    probabilities = np.atleast_2d(np.asarray(survival, dtype=np.float64))
    if probabilities.shape != (cuts.size, times.size) or not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise InputError(
            f"Survival probabilities must lie in [0, 1], one row per horizon; found shape {probabilities.shape} for "
            f"{cuts.size} horizon(s) and {times.size} case(s).",
            advice="Pass an array of shape (horizons, cases).",
        )
    panel = SurvivalPanel.single(times, events, np.zeros(times.size), horizons=cuts, survival=probabilities)
    return brier_scores(panel, np.ones((times.size, 1)))[:, 0]


def integrated_brier(horizons: ArrayLike, brier: ArrayLike) -> float:
    """Mean Brier score between the first and the last horizon (trapezoidal rule)."""
    cuts, values = np.asarray(horizons, dtype=np.float64), np.asarray(brier, dtype=np.float64)
    if cuts.size < 2 or cuts.size != values.size or (np.diff(cuts) <= 0).any():
        raise InputError(
            f"An integral needs two or more increasing horizons with one score each; found {cuts.size} and "
            f"{values.size}.",
            advice="Name more horizons.",
        )
    return float(integrate.trapezoid(values, cuts) / (cuts[-1] - cuts[0]))


# Kaplan-Meier, log-rank, hazard ratio ------------------------------------------------------------------------------
