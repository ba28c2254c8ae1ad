"""Kaplan-Meier curves, numbers at risk, log-rank test, hazard ratio, restricted mean: groups without a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from hybrid.errors import InputError, unknown_name
from hybrid.tables import check_survival, require_columns

from .roc import check_level
from .survival_panel import (
    FloatArray,
)

SCALES: Final = ("log-log", "log", "plain")
"""Scales of the interval of a Kaplan-Meier estimate; R's default is ``"log"``."""


def kaplan_meier(
    time: ArrayLike,
    event: ArrayLike,
    group: ArrayLike | None = None,
    *,
    level: float = 0.95,
    scale: Literal["log-log", "log", "plain"] = "log-log",
) -> pd.DataFrame:
    """Kaplan-Meier curves with Greenwood's standard error and pointwise intervals.

    Kaplan and Meier 1958 (doi:10.1080/01621459.1958.10501452).

    Parameters
    ----------
    time, event : array-like of shape (n,)
        Follow-up.
    group : array-like of shape (n,), optional
        One curve for each value.
    level : float
        Confidence level.
    scale : {"log-log", "log", "plain"}
        Scale on which the interval is symmetric; ``"log-log"`` keeps it inside [0, 1].

    Returns
    -------
    DataFrame
        ``group, time, n_risk, n_event, survival, se, lower, upper``: one row at time 0 and one for each event time.

    Raises
    ------
    InputError
        See :func:`check_survival`; also for an unknown scale.
    """
    from statsmodels.duration.survfunc import SurvfuncRight

    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    check_level(level)
    times, events = check_survival(time, event, need_events=False)
    groups = _check_group(group, times.size)
    tables = []
    for name in pd.unique(groups):
        own = groups == name
        columns: dict[str, Any] = {"time": [0.0], "n_risk": [own.sum()], "n_event": [0], "survival": [1.0], "se": [0.0]}
        if events[own].any():
            curve = SurvfuncRight(times[own], events[own].astype(int))
            values = (curve.surv_times, curve.n_risk, curve.n_events, curve.surv_prob, curve.surv_prob_se)
            columns = {key: [*columns[key], *found] for key, found in zip(columns, values, strict=True)}
        table = pd.DataFrame(columns).astype({"n_risk": int, "n_event": int})
        lower, upper = _survival_bounds(table["survival"].to_numpy(), table["se"].to_numpy(), level, scale)
        table.insert(0, "group", name)
        tables.append(table.assign(lower=lower, upper=upper))
    return pd.concat(tables, ignore_index=True)


def _check_group(group: ArrayLike | None, n: int) -> NDArray[Any]:
    groups = np.full(n, "all") if group is None else np.asarray(group)
    if groups.shape != (n,) or pd.isna(groups).any():
        raise InputError(f"Expected {n} groups without gaps; found shape {groups.shape}.", advice="One for each case.")
    return groups


def _survival_bounds(survival: FloatArray, se: FloatArray, level: float, scale: str) -> tuple[FloatArray, FloatArray]:
    z = float(stats.norm.ppf(0.5 + level / 2))
    if scale == "plain":
        return np.maximum(survival - z * se, 0.0), np.minimum(survival + z * se, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        if scale == "log":
            half = z * se / survival
            bounds = survival * np.exp(-half), np.minimum(survival * np.exp(half), 1.0)
        else:
            half = z * se / (survival * np.abs(np.log(survival)))
            bounds = survival ** np.exp(half), survival ** np.exp(-half)
    known = (survival > 0) & (survival < 1)
    lower, upper = (np.where(known, bound, np.where(survival == 1, 1.0, np.nan)) for bound in bounds)
    return lower, upper


def numbers_at_risk(time: ArrayLike, horizons: ArrayLike, group: ArrayLike | None = None) -> pd.DataFrame:
    """Count the patients who are still followed just before some times.

    Returns
    -------
    DataFrame
        ``group, time, n_risk``.
    """
    times = np.asarray(time, dtype=np.float64)
    cuts = np.atleast_1d(np.asarray(horizons, dtype=np.float64))
    groups = _check_group(group, times.size)
    return pd.DataFrame(
        [(name, cut, int((times[groups == name] >= cut).sum())) for name in pd.unique(groups) for cut in cuts],
        columns=["group", "time", "n_risk"],
    )


def median_survival(curve: pd.DataFrame) -> pd.DataFrame:
    """Median survival of each curve with the interval of Brookmeyer and Crowley (1982, doi:10.2307/2530286).

    Parameters
    ----------
    curve : DataFrame
        From :func:`kaplan_meier`; its scale is that of the interval.

    Returns
    -------
    DataFrame
        ``group, median, lower, upper``; NaN where a curve does not come down to one half.
    """
    require_columns(curve, ("group", "time", "survival", "lower", "upper"), "Kaplan-Meier")
    rows = [
        (name, *(_half_time(own["time"].to_numpy(), own[key].to_numpy()) for key in ("survival", "lower", "upper")))
        for name, own in curve.groupby("group", sort=False)
    ]
    return pd.DataFrame(rows, columns=["group", "median", "lower", "upper"])


def _half_time(times: FloatArray, values: FloatArray) -> float:
    """First time at which a curve is at most one half; the middle of a stretch at exactly one half, as in R."""
    reached = np.flatnonzero(values <= 0.5 + 1e-9)
    if not reached.size:
        return np.nan
    below = np.flatnonzero(values < 0.5 - 1e-9)
    flat = abs(values[reached[0]] - 0.5) <= 1e-9 and below.size
    return float((times[reached[0]] + times[below[0]]) / 2 if flat else times[reached[0]])


@dataclass(frozen=True)
class LogRank:
    """Log-rank test: ``chi2`` on ``df`` degrees of freedom."""

    chi2: float
    df: int
    p: float
    method: str = "log-rank test (Mantel 1966, PMID 5910392)"


def log_rank(time: ArrayLike, event: ArrayLike, group: ArrayLike) -> LogRank:
    """Compare the survival of two or more groups.

    Parameters
    ----------
    time, event, group : array-like of shape (n,)
        Follow-up and group of each patient.

    Returns
    -------
    LogRank
        NaN when there is one group only.

    Raises
    ------
    InputError
        See :func:`check_survival`.
    """
    from statsmodels.duration.survfunc import survdiff

    times, events = check_survival(time, event)
    codes, names = pd.factorize(_check_group(group, times.size), sort=True)
    if len(names) < 2:
        return LogRank(np.nan, 0, np.nan)
    chi2, p = survdiff(times, events.astype(int), codes)
    return LogRank(float(chi2), len(names) - 1, float(p))


def hazard_ratio(
    time: ArrayLike, event: ArrayLike, high: ArrayLike, *, level: float = 0.95
) -> tuple[float, float, float]:
    """Hazard ratio of one group against the rest with Wald's interval, from a Cox model with Efron's ties.

    Parameters
    ----------
    time, event : array-like of shape (n,)
        Follow-up.
    high : array-like of bool, shape (n,)
        Who belongs to the group.

    Returns
    -------
    ratio, lower, upper : float
        NaN when a group has no event: the ratio is then 0 or infinite and has no interval.
    """
    from statsmodels.duration.hazard_regression import PHReg

    check_level(level)
    times, events = check_survival(time, event)
    member = np.asarray(high, dtype=bool)
    if not (events & member).any() or not (events & ~member).any():
        return np.nan, np.nan, np.nan
    fit = PHReg(times, member[:, None].astype(float), status=events.astype(int), ties="efron").fit(disp=0)
    z = float(stats.norm.ppf(0.5 + level / 2))
    logs = float(fit.params[0]) + np.array([0.0, -z, z]) * float(fit.bse[0])
    ratio, lower, upper = map(float, np.exp(logs))
    return ratio, lower, upper


def restricted_mean(
    time: ArrayLike, event: ArrayLike, tau: float, *, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean time without event up to ``tau``: the area under the Kaplan-Meier curve (Royston and Parmar 2013).

    doi:10.1186/1471-2288-13-152; variance of Klein and Moeschberger 2003 (doi:10.1007/b97377, section 4.5).

    Parameters
    ----------
    time, event : array-like of shape (n,)
        Follow-up.
    tau : float
        Must not exceed the longest follow-up.

    Returns
    -------
    estimate, lower, upper : float
        In the unit of ``time``.

    Raises
    ------
    InputError
        When nobody is followed until ``tau``.
    """
    check_level(level)
    curve = kaplan_meier(time, event)
    if not 0 < tau <= np.asarray(time, dtype=np.float64).max():
        raise InputError(f"Nobody is followed until {tau:g}.", advice="Choose an earlier time.")
    curve = curve[curve["time"] <= tau]
    widths = np.diff([*curve["time"], tau])
    areas = curve["survival"].to_numpy() * widths
    later = np.cumsum(areas[::-1])[::-1]
    left = (curve["n_risk"] - curve["n_event"]).to_numpy()
    spread = np.where(left > 0, later**2 * curve["n_event"] / (curve["n_risk"] * np.maximum(left, 1)), 0.0)
    half = float(stats.norm.ppf(0.5 + level / 2)) * float(np.sqrt(spread.sum()))
    return float(areas.sum()), max(float(areas.sum()) - half, 0.0), min(float(areas.sum()) + half, float(tau))


# Tables of predictions -----------------------------------------------------------------------------------------------
