"""Calibration of survival predictions at a horizon, and internal beside external performance.

Calibration in the large at a time t compares how many patients have the event until t, by Kaplan-Meier, with how many
the model expects; the calibration slope is the coefficient of the predicted log hazard ratio in a Cox model of these
patients. Both as in Royston and Altman (2013, doi:10.1186/1471-2288-13-33) and Crowson et al. (2016,
doi:10.1177/0962280213497434).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError
from hybrid.tables import require_columns

from .panel import mean_over_repeats
from .survival_curves import kaplan_meier
from .survival_panel import BoolArray, FloatArray, SurvivalPanel, horizons_of, resample_panel
from .survival_tables import METRIC_COLUMNS
from .validation import METHOD, difference_interval

CALIBRATION_METRICS: Final = ("observed_risk", "expected_risk", "observed_expected_ratio", "calibration_slope")
"""Values of ``metric`` in the table that :func:`calibrate_survival` returns."""

GROUP_COLUMNS: Final = ("feature_set", "horizon", "group", "n_patients", "expected", "observed", "lower", "upper")
"""Columns of the table that :func:`calibration_groups` returns."""

VALIDATION_METRICS: Final = (
    "c_index", "uno_c", "observed_risk", "expected_risk", "observed_expected_ratio", "calibration_slope", "auc",
    "brier", "integrated_brier",
)  # fmt: skip
"""Measures that :func:`compare_survival_validation` shows, in order."""

SURVIVAL_VALIDATION_COLUMNS: Final = (
    "feature_set", "metric", "horizon", "internal", "internal_lower", "internal_upper", "external", "external_lower",
    "external_upper", "difference", "lower", "upper", "n_internal", "events_internal", "n_external", "events_external",
    "method",
)  # fmt: skip
"""Columns of the table that :func:`compare_survival_validation` returns."""

LARGEST_SLOPE: Final = 30.0
"""Per standard deviation of the risk: beyond it the event order is perfect and the slope has no finite estimate."""


def calibrate_survival(
    predictions: pd.DataFrame,
    horizon: float | None = None,
    *,
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Calibration of every feature set at a horizon, with intervals.

    Parameters
    ----------
    predictions : DataFrame
        See :data:`hybrid.analysis.survival_panel.SURVIVAL_COLUMNS`, with ``survival_at_<time>``.
    horizon : float, optional
        One of the times of the predictions; by default :func:`middle_horizon`.
    n_bootstrap, seed, level
        Of the intervals (BCa); patients are resampled with all their repeats.

    Returns
    -------
    DataFrame
        Columns :data:`hybrid.analysis.survival_tables.METRIC_COLUMNS`; ``metric`` is one of
        :data:`CALIBRATION_METRICS`. ``observed_risk`` is 1 minus the Kaplan-Meier estimate at the horizon. The slope
        has no horizon; it is NaN where all risks are equal.

    Raises
    ------
    InputError
        For a time without predictions, or one that nobody was followed until.
    """
    panel = SurvivalPanel.from_predictions(predictions)
    place = _place(panel, horizon)
    at = float(horizons_of(panel)[place])

    def in_the_large(own: SurvivalPanel, weights: FloatArray) -> FloatArray:
        return _in_the_large(own, weights, place)

    tables = []
    for names, statistic, time in (
        (CALIBRATION_METRICS[:3], in_the_large, at), (CALIBRATION_METRICS[3:], calibration_slopes, np.nan)
    ):  # fmt: skip
        # How many have the event is what is judged here: draws must not keep it.
        drawn = resample_panel(panel, statistic, n_bootstrap, seed, is_stratified=False)
        bounds = drawn.interval(level=level)
        columns = (
            np.tile(panel.feature_sets, len(names)), np.repeat(names, len(panel.feature_sets)), time, drawn.estimate,
            bounds[:, 0], bounds[:, 1], f"mean over repeats, BCa interval of {n_bootstrap} patient bootstraps",
            panel.time.size, int(panel.event.sum()), panel.risk.shape[1],
        )  # fmt: skip
        tables.append(pd.DataFrame(dict(zip(METRIC_COLUMNS, columns, strict=True))))
    return pd.concat(tables, ignore_index=True)


def middle_horizon(predictions: pd.DataFrame) -> float:
    """Give the middle one of the times for which survival was predicted, of two the later one."""
    horizons = np.sort(horizons_of(SurvivalPanel.from_predictions(predictions)))
    return float(horizons[horizons.size // 2])


def _place(panel: SurvivalPanel, horizon: float | None) -> int:
    horizons = horizons_of(panel)
    wanted = float(np.sort(horizons)[horizons.size // 2]) if horizon is None else float(horizon)
    if not np.isclose(horizons, wanted).any():
        raise InputError(
            f"Survival was not predicted for time {wanted:g}.",
            advice=f"Choose from {', '.join(f'{value:g}' for value in np.sort(horizons))}, or predict that time.",
        )
    if wanted > panel.time.max():
        raise InputError(f"Nobody is followed until {wanted:g}.", advice="Choose an earlier horizon.")
    return int(np.flatnonzero(np.isclose(horizons, wanted))[0])


def event_free(time: FloatArray, event: BoolArray, weights: FloatArray, horizon: float) -> FloatArray:
    """Kaplan-Meier estimate at a time under many weightings (n, b), shape (b,)."""
    levels, position = np.unique(time[event & (time <= horizon)], return_inverse=True)
    if levels.size == 0:
        return np.ones(weights.shape[1])
    failed = np.zeros((levels.size, weights.shape[1]))
    np.add.at(failed, position, weights[event & (time <= horizon)])
    at_risk = (time[None, :] >= levels[:, None]).astype(np.float64) @ weights
    factor = 1 - np.divide(failed, at_risk, out=np.zeros_like(failed), where=at_risk > 1e-12)
    return np.asarray(np.prod(np.maximum(factor, 0.0), axis=0))


def _in_the_large(panel: SurvivalPanel, weights: FloatArray, place: int) -> FloatArray:
    """Observed risk, expected risk and their ratio, shape (3 * n_sets, b)."""
    if panel.survival is None:
        raise InputError("The predictions hold no survival probabilities.", advice="Add columns 'survival_at_<time>'.")
    observed = 1 - event_free(panel.time, panel.event, weights, float(horizons_of(panel)[place]))
    risk = 1 - panel.survival[:, :, place]
    expected = risk @ weights / weights.sum(axis=0)
    ratio = np.divide(observed, expected, out=np.full_like(expected, np.nan), where=expected > 0)
    n_sets = len(panel.feature_sets)
    return np.concatenate(
        [np.tile(observed, (n_sets, 1)), mean_over_repeats(expected, axis=1), mean_over_repeats(ratio, axis=1)]
    )


def calibration_slopes(panel: SurvivalPanel, weights: FloatArray) -> FloatArray:
    """Calibration slope of each feature set, averaged over repeats, shape (n_sets, b)."""
    found = np.full((*panel.risk.shape[:2], weights.shape[1]), np.nan)
    for place in np.ndindex(*panel.risk.shape[:2]):
        found[place] = weighted_slope(panel.time, panel.event, panel.risk[place], weights)
    return mean_over_repeats(found, axis=1)


def weighted_slope(time: FloatArray, event: BoolArray, risk: FloatArray, weights: FloatArray) -> FloatArray:
    """Coefficient of one variable in Cox's model under many weightings, by Newton's method with Breslow's ties.

    Parameters
    ----------
    time, event, risk : ndarray of shape (n,)
        Follow-up and log hazard ratio.
    weights : ndarray of shape (n, b)
        Weight of each patient in each draw.

    Returns
    -------
    ndarray of shape (b,)
        NaN where all risks of a draw are equal, or the order of events is perfect.
    """
    spread = float(risk.std())
    if spread < 1e-12:
        return np.full(weights.shape[1], np.nan)
    order = np.argsort(-time, kind="stable")
    x, own = ((risk - risk.mean()) / spread)[order], weights[order]
    died = np.flatnonzero(event[order])
    # Everybody who is still at risk at the time of each death: the rows up to the last one with the same time.
    last = np.searchsorted(-time[order], -time[order][died], side="right") - 1
    slope = np.zeros(weights.shape[1])
    for _ in range(50):
        hazard = own * np.exp(np.clip(x[:, None] * slope, -500, 500))
        sums = [np.cumsum(hazard * (x**k)[:, None], axis=0)[last] for k in (0, 1, 2)]
        mean, square = (np.divide(s, sums[0], out=np.zeros_like(s), where=sums[0] > 0) for s in sums[1:])
        score = (own[died] * (x[died][:, None] - mean)).sum(axis=0)
        information = (own[died] * (square - mean**2)).sum(axis=0)
        step = np.divide(score, information, out=np.full_like(score, np.nan), where=information > 1e-12)
        slope = slope + np.clip(step, -2.0, 2.0)
        if not (np.abs(step[np.isfinite(step)]) > 1e-10).any():
            break
    return np.where(np.abs(slope) < LARGEST_SLOPE, slope, np.nan) / spread


def calibration_groups(
    predictions: pd.DataFrame, horizon: float | None = None, *, n_groups: int = 4, level: float = 0.95
) -> pd.DataFrame:
    """Observed against expected risk at a horizon, in groups of equally many patients.

    Parameters
    ----------
    predictions, horizon
        See :func:`calibrate_survival`.
    n_groups : int
        Groups by expected risk, averaged over repeats; patients of equal risk stay together.
    level : float
        Of the Kaplan-Meier interval (log-log).

    Returns
    -------
    DataFrame
        Columns :data:`GROUP_COLUMNS`; NaN where nobody of a group is followed until the horizon.
    """
    panel = SurvivalPanel.from_predictions(predictions)
    place = _place(panel, horizon)
    at = float(horizons_of(panel)[place])
    if panel.survival is None:
        raise InputError("The predictions hold no survival probabilities.", advice="Add columns 'survival_at_<time>'.")
    rows = []
    for name, survival in zip(panel.feature_sets, panel.survival[:, :, place].mean(axis=1), strict=True):
        expected = 1 - survival
        cuts = np.quantile(expected, np.arange(1, n_groups) / n_groups)
        member = np.unique(np.searchsorted(cuts, expected, side="left"), return_inverse=True)[1]
        for group in range(int(member.max()) + 1):
            inside = member == group
            observed = _observed(panel.time[inside], panel.event[inside], at, level)
            rows.append((name, at, group + 1, int(inside.sum()), float(expected[inside].mean()), *observed))
    return pd.DataFrame(rows, columns=list(GROUP_COLUMNS))


def _observed(time: FloatArray, event: BoolArray, at: float, level: float) -> tuple[float, float, float]:
    """Risk until a time with its interval."""
    if time.max() < at and not (event[time == time.max()]).all():
        return np.nan, np.nan, np.nan
    curve = kaplan_meier(time, event, level=level)
    row = curve[curve["time"] <= at].iloc[-1]
    return 1 - float(row["survival"]), 1 - float(row["upper"]), 1 - float(row["lower"])


def compare_survival_validation(internal: pd.DataFrame, external: pd.DataFrame) -> pd.DataFrame:
    """Put internal and external performance of the same frozen models side by side.

    Parameters
    ----------
    internal, external : DataFrame
        Rows of :func:`hybrid.analysis.evaluate_survival` and :func:`calibrate_survival`: of cross-validation in the
        development cohort, and of the frozen models in new patients.

    Returns
    -------
    DataFrame
        Columns :data:`SURVIVAL_VALIDATION_COLUMNS`, one row per feature set, measure and horizon that both hold.

    Raises
    ------
    InputError
        When a column is missing, or the tables share no model.
    """
    for table, name in ((internal, "internal performance"), (external, "external performance")):
        require_columns(table, METRIC_COLUMNS, name)
    keys = ["feature_set", "metric", "horizon"]
    both = internal.merge(external, on=keys, suffixes=("_i", "_e"))
    both = both[both["metric"].isin(VALIDATION_METRICS)]
    if both.empty:
        raise InputError(
            "The internal performance is of other models than the external one.",
            advice="Use the table that stands beside the frozen model.",
        )
    order = {name: i for i, name in enumerate(VALIDATION_METRICS)}
    sets = {name: i for i, name in enumerate(dict.fromkeys(internal["feature_set"]))}
    places = pd.DataFrame({"s": both["feature_set"].map(sets), "m": both["metric"].map(order), "h": both["horizon"]})
    rows = both.loc[places.sort_values(["s", "m", "h"], kind="stable").index].to_dict("records")
    return pd.DataFrame([_beside(row) for row in rows], columns=list(SURVIVAL_VALIDATION_COLUMNS))


def _beside(row: dict[str, Any]) -> tuple[Any, ...]:
    inside = tuple(float(row[f"{name}_i"]) for name in ("estimate", "lower", "upper"))
    outside = tuple(float(row[f"{name}_e"]) for name in ("estimate", "lower", "upper"))
    return (
        row["feature_set"], row["metric"], row["horizon"], *inside, *outside, outside[0] - inside[0],
        *difference_interval(outside, inside), row["n_patients_i"], row["n_events_i"], row["n_patients_e"],
        row["n_events_e"], METHOD,
    )  # fmt: skip
