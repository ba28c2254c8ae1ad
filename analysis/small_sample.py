"""Handcrafted against deep features when there are about twenty patients: what the numbers allow saying."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from hybrid.tables import require_columns

from .auc_inference import auc_difference_power
from .compare import MODEL
from .wording import interval, number, p_phrase, percent, verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VOLUME: Final = "volume"
"""Name of the feature set that holds the volume alone."""

ESTIMATES: Final = {
    "nested_cv": "Repeated nested cross-validation",
    "leave_pair_out": "Leave-pair-out",
    "632_plus": ".632+ bootstrap",
    "held_out": "Held-out patients, frozen model",
}
"""Ways of estimating the AUC, in the order of the report."""

ESTIMATE_COLUMNS: Final = (
    "source", "feature_set", "estimate", "auc", "lower", "upper", "interval", "p_permutation", "null_mean",
    "null_lower", "null_upper", "n_permutations", "n_patients", "n_events",
)  # fmt: skip
"""Columns of the table of estimates: ``source`` is the mask that was measured, ``estimate`` a key of
:data:`ESTIMATES`, ``null_mean, null_lower, null_upper`` mean and middle 95 % of the AUC with permuted outcomes."""

POWER: Final = 0.8
CORRELATION: Final = 0.5
"""Assumed correlation of the AUCs of two models on the same patients (the middle of the table in Hanley and McNeil
1983, doi:10.1148/radiology.148.3.6878708)."""

PLANNING_AUC: Final = 0.7
"""AUC of the weaker model for which the detectable difference is stated."""


def permutation_p(observed: float, null: np.ndarray) -> float:
    """One-sided p-value of an AUC against its permutation null.

    Parameters
    ----------
    observed : float
        AUC with the true outcomes.
    null : ndarray of shape (n,)
        AUCs with permuted outcomes.

    Returns
    -------
    float
        ``(1 + number of null values >= observed) / (1 + n)``, never 0 (Phipson and Smyth 2010,
        doi:10.2202/1544-6115.1585); NaN without null values.
    """
    values = np.asarray(null, dtype=np.float64)
    if not values.size:
        return float("nan")
    return float((1 + np.sum(values >= observed)) / (1 + values.size))


def detectable_difference(n_positive: int, n_negative: int, *, auc: float = PLANNING_AUC) -> float:
    """Smallest difference of two AUCs that a study of this size finds with a power of 80 %.

    Parameters
    ----------
    n_positive, n_negative : int
        Patients of each class; both models see the same patients, and their AUCs are assumed to correlate by 0.5.
    auc : float
        AUC of the weaker model.

    Returns
    -------
    float
        In steps of 0.01; NaN when not even an AUC of 0.99 would be told from ``auc``.
    """
    for difference in np.arange(0.01, 0.99 - auc + 1e-9, 0.01):
        if auc_difference_power(auc, auc + difference, n_positive, n_negative, correlation=CORRELATION) >= POWER:
            return round(float(difference), 2)
    return float("nan")


def estimate_rows(
    source: str, comparison: Any, resampled: Mapping[tuple[str, str], pd.Series], null: pd.DataFrame | None
) -> pd.DataFrame:
    """Gather the estimates of one source of features.

    Parameters
    ----------
    source : str
        Which mask was measured.
    comparison : Comparison
        From :func:`hybrid.analysis.compare_models` on the predictions of repeated nested cross-validation.
    resampled : mapping of (feature set, key of :data:`ESTIMATES`) to Series
        Rows with ``estimate, lower, upper, interval``.
    null : DataFrame, optional
        Permutation null, ``feature_set, permutation, auc``.

    Returns
    -------
    DataFrame
        Columns :data:`ESTIMATE_COLUMNS`. The permutation p-value stands beside the cross-validation: it compares with
        cross-validations of permuted outcomes.
    """
    models = comparison.models[comparison.models["role"] == MODEL].set_index("feature_set")
    rows = []
    for name, model in models.iterrows():
        own = np.empty(0) if null is None else null.loc[null["feature_set"] == name, "auc"].to_numpy()
        counts = (int(model["n_patients"]), int(model["n_events"]))
        rows.append(
            (source, name, "nested_cv", model["auc"], model["lower"], model["upper"], model["method"],
             permutation_p(model["auc"], own), *_null_range(own), own.size, *counts)
        )  # fmt: skip
        rows += [
            (source, name, kind, row["estimate"], row["lower"], row["upper"], row["interval"], *(np.nan,) * 4, 0,
             int(row.get("n_patients", counts[0])), int(row.get("n_events", counts[1])))
            for (feature_set, kind), row in resampled.items() if feature_set == name
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(ESTIMATE_COLUMNS))


def _null_range(null: np.ndarray) -> tuple[float, float, float]:
    """Mean and middle 95 % of AUCs with permuted outcomes; NaN without any."""
    if not null.size:
        return np.nan, np.nan, np.nan
    lower, upper = np.quantile(null, [0.025, 0.975])
    return float(null.mean()), float(lower), float(upper)


def small_sample_sentence(contrast: pd.Series, *, level: float = 0.95, source: str = "reference") -> str:
    """First sentence of the report: whether one kind of features beat the other, and whether n allows saying so.

    Parameters
    ----------
    contrast : Series
        The headline row of :attr:`hybrid.analysis.Comparison.table`, handcrafted against deep.
    level : float
        Confidence level.
    source : str
        Which mask was measured.
    """
    difference, n = float(contrast["difference"]), int(contrast["n_patients"])
    events = int(contrast["n_events"])
    first, second = str(contrast["model_a"]), str(contrast["model_b"])
    better, worse = (first, second) if difference >= 0 else (second, first)
    bounds = f"{percent(level)} interval {interval(contrast['lower'], contrast['upper'])}"
    size = f"difference of AUC, {first} minus {second}: {number(difference)}, {bounds}, {p_phrase(contrast['p_holm'])}"
    if verdict(contrast, level) == "shown":
        return (
            f"{better.capitalize()} features beat {worse} features in these {n} patients ({size}; {source} masks), and "
            "the number of patients allows saying so."
        )
    smallest = detectable_difference(events, n - events)
    seen = (
        "not even a perfect model could be told from one with an AUC of 0.70"
        if np.isnan(smallest)
        else f"only a difference of {smallest:.2f} or more would be found with a power of 80{chr(160)}%"
    )
    return (
        f"{better.capitalize()} features have the larger AUC than {worse} features in these {n} patients ({size}; "
        f"{source} masks), but {n} patients with {events} events do not allow saying that they are better: {seen}."
    )


def volume_sentence(estimates: pd.DataFrame) -> str:
    """Say how the models compare with the volume alone.

    Parameters
    ----------
    estimates : DataFrame
        From :func:`estimate_rows`.
    """
    require_columns(estimates, ESTIMATE_COLUMNS, "estimates")
    rows = estimates[estimates["estimate"] == "nested_cv"].set_index("feature_set")["auc"]
    if VOLUME not in rows.index:
        return ""
    alone = float(rows[VOLUME])
    above = [f"{name} ({number(area)})" for name, area in rows.drop(VOLUME).items() if area > alone]
    if not above:
        return f"The volume alone reaches an AUC of {number(alone)}; no model does better than that."
    return f"The volume alone reaches an AUC of {number(alone)}; above it: {', '.join(above)}."


def plot_estimates(estimates: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the AUC of every feature set by every estimate, with intervals.

    Parameters
    ----------
    estimates : DataFrame
        Of one source, see :func:`estimate_rows`.
    ax : Axes, optional
        Where to draw.
    """
    from .plots import COLOURS, MUTED, _axes, _legend_below, _style

    ax = _axes(ax, height=3.6)
    sets = list(dict.fromkeys(estimates["feature_set"]))
    kinds = [kind for kind in ESTIMATES if kind in set(estimates["estimate"])]
    for number_of, kind in enumerate(kinds):
        own = estimates[estimates["estimate"] == kind].set_index("feature_set")
        places = np.array([sets.index(name) for name in own.index]) + 0.17 * (number_of - (len(kinds) - 1) / 2)
        errors = np.nan_to_num(np.abs(own[["lower", "upper"]].to_numpy(float).T - own["auc"].to_numpy(float)))
        ax.errorbar(
            own["auc"], places, xerr=errors, fmt="osD^"[number_of], ms=4, capsize=2, color=COLOURS[number_of],
            label=ESTIMATES[kind], lw=1.1,
        )  # fmt: skip
    ax.axvline(0.5, color=MUTED, ls=":", lw=0.8)
    ax.set_yticks(range(len(sets)), sets)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="AUC (0.5: chance)")
    _style(ax)
    _legend_below(ax, offset=-0.2)
    return ax


def plot_agreement(agreement: pd.DataFrame, *, threshold: float, ax: Axes | None = None) -> Axes:
    """Draw how many features agree between two masks, as a cumulative curve for each kind.

    Parameters
    ----------
    agreement : DataFrame
        ``icc`` and ``block``, see :class:`hybrid.pipelines.mask_features.BothMasks`.
    threshold : float
        ICC above which features enter.
    ax : Axes, optional
        Where to draw.
    """
    from .plots import COLOURS, DASHES, MUTED, _axes, _legend_below, _style

    ax = _axes(ax, height=3.0)
    for position, (block, rows) in enumerate(agreement.dropna(subset="icc").groupby("block", sort=False)):
        values = np.sort(rows["icc"].to_numpy(float))
        above = int((values >= threshold).sum())
        ax.step(
            [max(-0.2, values[0]), *values], np.linspace(1, 0, len(values) + 1), where="post",
            color=COLOURS[position], ls=DASHES[position], lw=1.4, label=f"{block}: {above} of {len(values)} enter",
        )  # fmt: skip
    ax.axvline(threshold, color=MUTED, ls=":", lw=0.8)
    ax.set(xlabel="ICC(2,1), reference mask against predicted", ylabel="Share of features above", xlim=(-0.2, 1))
    ax.set_ylim(0, 1)
    _style(ax)
    _legend_below(ax, offset=-0.24)
    return ax
