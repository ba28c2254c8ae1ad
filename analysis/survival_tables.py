"""Tables of survival predictions: metrics with intervals, paired differences, risk groups.

The quantities themselves are in :mod:`.survival` and :mod:`.survival_curves`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pandas as pd

from hybrid.errors import unknown_name
from hybrid.tables import require_columns

from .compare import DIFFERENCE_INTERVAL
from .multiplicity import adjust
from .survival_curves import (
    hazard_ratio,
    kaplan_meier,
    log_rank,
    median_survival,
)
from .survival_panel import (
    GROUPS,
    FloatArray,
    SurvivalPanel,
    brier_scores,
    concordances,
    integrated_briers,
    resample_panel,
    survival_aucs,
    uno_concordances,
)

METRICS: Final = ("c_index", "uno_c", "auc", "brier", "integrated_brier")


METRIC_COLUMNS: Final = (
    "feature_set", "metric", "horizon", "estimate", "lower", "upper", "method", "n_patients", "n_events", "n_repeats",
)  # fmt: skip
"""Columns of the table that :func:`evaluate_survival` returns."""


DIFFERENCE_COLUMNS: Final = (
    "feature_set_a", "feature_set_b", "metric", "a", "b", "difference", "lower", "upper", "p", "p_holm",
    "n_comparisons", "n_patients", "n_events", "n_repeats",
)  # fmt: skip
"""Columns of the table that :func:`compare_survival` returns."""


def evaluate_survival(
    predictions: pd.DataFrame, *, n_bootstrap: int = 2000, seed: int = 0, level: float = 0.95
) -> pd.DataFrame:
    """C-indices, time-dependent AUC and Brier scores of every feature set, with intervals.

    Every number is computed within each repeat and averaged over repeats, never pooled; intervals resample patients
    with all their repeats.

    Parameters
    ----------
    predictions : DataFrame
        Columns :data:`SURVIVAL_COLUMNS`, and ``survival_at_*`` for AUC and Brier scores.
    n_bootstrap, seed, level
        Of the intervals (BCa).

    Returns
    -------
    DataFrame
        Columns :data:`METRIC_COLUMNS`; ``metric`` is one of :data:`METRICS`. ``uno_c`` counts events before the last
        horizon, where there are horizons.

    Raises
    ------
    InputError
        See :meth:`SurvivalPanel.from_predictions`.
    """
    panel = SurvivalPanel.from_predictions(predictions)
    kinds = METRICS if panel.horizons is not None and panel.horizons.size else METRICS[:2]
    tables = []
    for metric in kinds:
        drawn = resample_panel(
            panel, _STATISTICS[metric], n_bootstrap, seed, is_stratified=metric not in _NOT_STRATIFIED
        )
        bounds = drawn.interval(level=level)
        times = panel.horizons if metric in ("auc", "brier") and panel.horizons is not None else np.array([np.nan])
        names = np.repeat(panel.feature_sets, times.size)
        columns = (
            names, metric, np.tile(times, len(panel.feature_sets)), drawn.estimate, bounds[:, 0], bounds[:, 1],
            f"mean over repeats, BCa interval of {n_bootstrap} patient bootstraps", panel.time.size,
            int(panel.event.sum()), panel.risk.shape[1],
        )  # fmt: skip
        tables.append(pd.DataFrame(dict(zip(METRIC_COLUMNS, columns, strict=True))))
    return pd.concat(tables, ignore_index=True)


def compare_survival(
    predictions: pd.DataFrame,
    pairs: Sequence[tuple[str, str]] | None = None,
    *,
    metric: str = "c_index",
    n_bootstrap: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Paired differences between feature sets over one declared family.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`evaluate_survival`.
    pairs : sequence of (str, str), optional
        Feature sets to compare; by default all pairs.
    metric : {"c_index", "uno_c", "integrated_brier"}
        What is compared.
    n_bootstrap, seed, level
        Of the percentile intervals.

    Returns
    -------
    DataFrame
        Columns :data:`DIFFERENCE_COLUMNS`; ``p_holm`` is adjusted over all rows (Holm 1979).

    Raises
    ------
    InputError
        For an unknown metric or feature set.
    """
    single = ("c_index", "uno_c", "integrated_brier")
    if metric not in single:
        raise unknown_name("metric", metric, single)
    panel = SurvivalPanel.from_predictions(predictions)
    chosen = list(itertools.combinations(panel.feature_sets, 2)) if pairs is None else list(pairs)
    for name in itertools.chain.from_iterable(chosen):
        if name not in panel.feature_sets:
            raise unknown_name("feature set", name, panel.feature_sets)
    first, second = ([panel.feature_sets.index(pair[side]) for pair in chosen] for side in (0, 1))
    is_stratified = metric not in _NOT_STRATIFIED
    drawn = resample_panel(panel, _STATISTICS[metric], n_bootstrap, seed, is_stratified=is_stratified)
    gaps = drawn.pairs(first, second)
    bounds, p = gaps.interval(level=level, kind=DIFFERENCE_INTERVAL), gaps.p_two_sided()
    columns = (
        [pair[0] for pair in chosen], [pair[1] for pair in chosen], metric, drawn.estimate[first],
        drawn.estimate[second], gaps.estimate, bounds[:, 0], bounds[:, 1], p, adjust(p).p, len(chosen),
        panel.time.size, int(panel.event.sum()), panel.risk.shape[1],
    )  # fmt: skip
    return pd.DataFrame(dict(zip(DIFFERENCE_COLUMNS, columns, strict=True)))


def risk_groups(predictions: pd.DataFrame) -> pd.DataFrame:
    """Risk group of each patient and feature set: above or below the median risk of the training patients.

    Parameters
    ----------
    predictions : DataFrame
        Columns :data:`SURVIVAL_COLUMNS`.

    Returns
    -------
    DataFrame
        ``feature_set, patient_id, time, event, group``. With several repeats the group of at least half of them.
    """
    panel = SurvivalPanel.from_predictions(predictions)
    tables = [
        pd.DataFrame({
            "feature_set": name, "patient_id": panel.patients, "time": panel.time, "event": panel.event.astype(int),
            "group": groups,
        })
        for name, groups in zip(panel.feature_sets, panel.groups(), strict=True)
    ]  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def compare_risk_groups(groups: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Log-rank test, hazard ratio and median survival of the risk groups of every feature set.

    The groups of a cross-validation are not independent of each other, so that the usual p-value of the log-rank test
    is too small (Simon et al. 2011, doi:10.1093/bib/bbr001); a permutation test of the whole procedure is exact.

    Parameters
    ----------
    groups : DataFrame
        From :func:`risk_groups`.
    level : float
        Of all intervals.

    Returns
    -------
    DataFrame
        ``feature_set, chi2, p, hazard_ratio, lower, upper``, and ``n_<group>, events_<group>, median_<group>`` for the
        groups ``low`` and ``high``.
    """
    require_columns(groups, ("feature_set", "time", "event", "group"), "risk group")
    rows = []
    for name, own in groups.groupby("feature_set", sort=False):
        test = log_rank(own["time"], own["event"], own["group"])
        ratio, lower, upper = hazard_ratio(own["time"], own["event"], own["group"] == "high", level=level)
        medians = median_survival(kaplan_meier(own["time"], own["event"], own["group"])).set_index("group")["median"]
        row = {"feature_set": name, "chi2": test.chi2, "p": test.p, "hazard_ratio": ratio, "lower": lower}
        row["upper"] = upper
        for group in GROUPS:
            member = own["group"] == group
            row[f"n_{group}"] = int(member.sum())
            row[f"events_{group}"] = int(own.loc[member, "event"].sum())
            row[f"median_{group}"] = float(medians.get(group, np.nan))
        rows.append(row)
    return pd.DataFrame(rows)


_STATISTICS: Final[dict[str, Callable[..., FloatArray]]] = {
    "c_index": concordances, "uno_c": uno_concordances, "auc": survival_aucs, "brier": brier_scores,
    "integrated_brier": integrated_briers,
}  # fmt: skip

_NOT_STRATIFIED: Final = ("brier", "integrated_brier")
"""Measures that depend on how many patients have the event."""
