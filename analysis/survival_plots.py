"""Figures of survival: curves by group, measures over time, calibration at a horizon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from hybrid.tables import require_columns

from .plots import BAR, COLOURS, DASHES, INK, MUTED
from .survival_calibration import GROUP_COLUMNS
from .survival_curves import kaplan_meier, numbers_at_risk
from .survival_panel import GROUPS
from .survival_tables import METRIC_COLUMNS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES: Final = {"no_features": "no features", "clinical": "clinical only", "volume": "volume only"}
"""Yardsticks in words."""

MARKERS: Final = "os^Dv<>p"


def plot_kaplan_meier(groups: pd.DataFrame, *, ax: Axes | None = None, time_unit: str = "") -> Axes:
    """Draw survival by group with pointwise 95 % bands, censoring marks and the numbers at risk below.

    Parameters
    ----------
    groups : DataFrame
        ``time, event, group``, one row per patient; :func:`hybrid.analysis.risk_groups` of one feature set.
    ax : Axes, optional
        Where to draw.
    time_unit : str
        Named on the axis.

    Returns
    -------
    Axes
    """
    require_columns(groups, ("time", "event", "group"), "group")
    ax = ax if ax is not None else _new_axes(3.6)
    names = [name for name in GROUPS if (groups["group"] == name).any()]
    names += sorted(set(groups["group"]) - set(GROUPS))
    end = float(groups["time"].max())
    for i, name in enumerate(names):
        own = groups[groups["group"] == name]
        _draw_curve(ax, own, COLOURS[i % 8], DASHES[i % 4], f"{_group_name(name)} ({len(own)} patients)")
    ax.set_xlim(0, end)
    ax.set_ylim(0, 1.02)
    ax.set_xlabel(f"Time ({time_unit})" if time_unit else "Time")
    ax.set_ylabel("Without event")
    _style(ax)
    ax.legend(loc="lower left", fontsize=7, frameon=False, handlelength=2.4)
    ticks = [float(tick) for tick in ax.get_xticks() if 0 <= tick <= end]
    _draw_numbers_at_risk(ax, groups, names, ticks)
    return ax


def _draw_curve(ax: Axes, own: pd.DataFrame, colour: str, dash: Any, label: str) -> None:
    curve = kaplan_meier(own["time"], own["event"])
    x = np.append(curve["time"], own["time"].max())
    columns = {key: np.append(curve[key], curve[key].iloc[-1]) for key in ("survival", "lower", "upper")}
    ax.step(x, columns["survival"], where="post", color=colour, linestyle=dash, linewidth=1.6, label=label)
    ax.fill_between(x, columns["lower"], columns["upper"], step="post", color=colour, alpha=0.13, linewidth=0)
    censored = own.loc[own["event"] == 0, "time"].to_numpy()
    height = columns["survival"][np.searchsorted(curve["time"], censored, side="right") - 1]
    ax.plot(censored, height, "|", color=colour, markersize=4, markeredgewidth=0.7)


def _draw_numbers_at_risk(ax: Axes, groups: pd.DataFrame, names: Sequence[str], ticks: Sequence[float]) -> None:
    """Rows of numbers below the axis, in the colours of the curves."""
    counts = numbers_at_risk(groups["time"], ticks, groups["group"]).set_index(["group", "time"])["n_risk"]
    place = ax.get_xaxis_transform()
    ax.annotate(
        "At risk", (0, 0), (-4, -38), xycoords="axes fraction", textcoords="offset points", fontsize=7, color=MUTED,
        ha="right", va="top",
    )  # fmt: skip
    for i, name in enumerate(names):
        offset = -38 - 10 * (i + 1)
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "va": "top", "color": COLOURS[i % 8]}
        ax.annotate(_group_name(name, short=True), (0, 0), (-12, offset), xycoords="axes fraction", ha="right", **style)
        for tick in ticks:
            ax.annotate(str(counts[name, tick]), (tick, 0), (0, offset), xycoords=place, ha="center", **style)


def _group_name(name: str, *, short: bool = False) -> str:
    return name if short or name not in GROUPS else f"{name} risk"


def plot_survival_auc(metrics: pd.DataFrame, *, ax: Axes | None = None, time_unit: str = "") -> Axes:
    """Draw the time-dependent AUC of each feature set with pointwise 95 % intervals.

    Parameters
    ----------
    metrics : DataFrame
        From :func:`hybrid.analysis.evaluate_survival`.
    ax, time_unit
        See :func:`plot_kaplan_meier`.

    Returns
    -------
    Axes
    """
    ax = _draw_over_time(metrics, "auc", ax, time_unit)
    ax.axhline(0.5, color=BAR, linewidth=1, zorder=0)
    ax.set_ylabel("AUC at time t")
    return ax


def plot_brier(
    metrics: pd.DataFrame, *, ax: Axes | None = None, time_unit: str = "", reference: str = "no_features"
) -> Axes:
    """Draw the scaled Brier score of each feature set over time: the share of the reference's error that it removes.

    Parameters
    ----------
    metrics : DataFrame
        From :func:`hybrid.analysis.evaluate_survival`.
    ax, time_unit
        See :func:`plot_kaplan_meier`.
    reference : str
        Feature set whose Brier score is the unit; without it the plain scores are drawn.

    Returns
    -------
    Axes
    """
    rows = metrics[metrics["metric"] == "brier"]
    own = rows["feature_set"] == reference
    if not own.any():
        ax = _draw_over_time(rows, "brier", ax, time_unit, bars=False)
        ax.set_ylabel("Brier score at time t")
        return ax
    base = rows["horizon"].map(rows[own].set_index("horizon")["estimate"])
    ax = _draw_over_time(rows.assign(estimate=1 - rows["estimate"] / base)[~own], "brier", ax, time_unit, bars=False)
    ax.axhline(0, color=BAR, linewidth=1, zorder=0)
    ax.set_ylabel("Scaled Brier score at time t")
    return ax


def _draw_over_time(metrics: pd.DataFrame, metric: str, ax: Axes | None, time_unit: str, *, bars: bool = True) -> Axes:
    require_columns(metrics, METRIC_COLUMNS, "metrics")
    ax = ax if ax is not None else _new_axes(3.4)
    rows = metrics[metrics["metric"] == metric]
    sets = list(dict.fromkeys(rows["feature_set"]))
    times = np.sort(rows["horizon"].unique())
    step = float(np.diff(times).min()) if times.size > 1 else 1.0
    for i, name in enumerate(sets):
        own = rows[rows["feature_set"] == name]
        shift = 0.12 * step * (i - (len(sets) - 1) / 2) if bars else 0.0
        x = own["horizon"].to_numpy() + shift
        line: dict[str, Any] = {"color": COLOURS[i % 8], "linestyle": DASHES[i % 4], "linewidth": 1.4}
        ax.plot(x, own["estimate"], marker="o", markersize=3, label=NAMES.get(str(name), str(name)), **line)
        if bars:
            ax.vlines(x, own["lower"], own["upper"], color=COLOURS[i % 8], linewidth=0.8, alpha=0.7)
    ax.set_xlabel(f"Time t ({time_unit})" if time_unit else "Time t")
    _style(ax)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=7, frameon=False, handlelength=2.6)
    return ax


def plot_survival_calibration(groups: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw observed against expected risk of the groups, with intervals.

    Parameters
    ----------
    groups : DataFrame
        From :func:`calibration_groups`.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    require_columns(groups, GROUP_COLUMNS, "calibration")
    ax = ax if ax is not None else _new_axes(3.6)
    top = 1.05 * float(np.nanmax(groups[["expected", "upper", "observed"]].to_numpy()))
    ax.plot([0, top], [0, top], color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)), label="Ideal")
    for i, (name, own) in enumerate(groups.groupby("feature_set", sort=False)):
        style: dict[str, Any] = {"color": COLOURS[i % 8], "linestyle": DASHES[i % 4], "linewidth": 1.2}
        ax.plot(
            own["expected"],
            own["observed"],
            marker=MARKERS[i % 8],
            markersize=4,
            label=NAMES.get(str(name), str(name)),
            **style,
        )
        ax.vlines(own["expected"], own["lower"], own["upper"], color=COLOURS[i % 8], linewidth=0.9)
    horizon = float(groups["horizon"].iloc[0])
    ax.set_xlabel(f"Expected risk until {horizon:g}")
    ax.set_ylabel("Observed risk (Kaplan-Meier)")
    ax.set_xlim(0, top)
    ax.set_ylim(0, top)
    _style(ax)
    ax.legend(loc="upper left", fontsize=7, frameon=False, handlelength=2.4)
    return ax


def _new_axes(height: float) -> Axes:
    from matplotlib import pyplot

    from .plots import COLUMN_WIDTH

    return pyplot.subplots(figsize=(COLUMN_WIDTH, height), layout="constrained")[1]


def _style(ax: Axes) -> None:
    ax.tick_params(labelsize=8, colors=INK, width=0.7, length=3)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for text in (ax.xaxis.label, ax.yaxis.label):
        text.set_fontsize(8.5)
        text.set_color(INK)
