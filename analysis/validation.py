"""One frozen model, internally and externally: what cross-validation promised beside what new patients show.

Internal and external patients are different people, so that the interval of a difference follows from the two intervals
(Zou and Donner 2008, doi:10.1002/sim.3095): no patient of the development cohort has to be handed over with a model.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError
from hybrid.tables import require_columns

from .calibration import calibration_metrics
from .metrics import METRIC_COLUMNS, evaluate_models

SHOWN: Final = (
    "auc", "sensitivity", "specificity", "ppv", "npv", "balanced_accuracy", "brier", "scaled_brier", "slope",
    "calibration_in_the_large", "observed_expected_ratio", "ici",
)  # fmt: skip
"""Measures that are compared."""

VALIDATION_COLUMNS: Final = (
    "feature_set", "classifier", "metric", "internal", "internal_lower", "internal_upper", "external",
    "external_lower", "external_upper", "difference", "lower", "upper", "n_internal", "events_internal", "n_external",
    "events_external", "method",
)  # fmt: skip
"""Columns of the table that :func:`compare_validation` returns."""

METHOD: Final = (
    "external minus internal; interval from the two intervals of independent samples (Zou and Donner 2008, "
    "doi:10.1002/sim.3095)"
)


def measure_validation(predictions: pd.DataFrame, *, n_bootstrap: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Measure discrimination, calls at the cut-off and calibration of every model of a predictions table.

    Parameters
    ----------
    predictions : DataFrame
        See :func:`hybrid.tables.check_predictions`.
    n_bootstrap, seed : int
        Of the intervals.

    Returns
    -------
    DataFrame
        Columns of :func:`hybrid.analysis.evaluate_models`, one row per model and measure; no patient can be told from
        it.

    Raises
    ------
    InputError
        See :func:`hybrid.analysis.evaluate_models`.
    """
    performance = evaluate_models(predictions, n_bootstrap=n_bootstrap, seed=seed)
    calibration = calibration_metrics(predictions, n_bootstrap=min(n_bootstrap, 1000), seed=seed)
    return join_measures(performance, calibration)


def join_measures(performance: pd.DataFrame, calibration: pd.DataFrame) -> pd.DataFrame:
    """Rows of :func:`~hybrid.analysis.evaluate_models` and those of :func:`~hybrid.analysis.calibration_metrics`.

    Returns
    -------
    DataFrame
        Columns of the former; a measure that both have is taken from the former.
    """
    keys = ["feature_set", "classifier", "metric"]
    both = pd.concat([performance[list(METRIC_COLUMNS)], calibration[list(METRIC_COLUMNS)]], ignore_index=True)
    return both.drop_duplicates(keys, ignore_index=True)


def compare_validation(internal: pd.DataFrame, external: pd.DataFrame) -> pd.DataFrame:
    """Put the internal and the external performance of the same models side by side.

    Parameters
    ----------
    internal, external : DataFrame
        From :func:`measure_validation`: of cross-validation in the development cohort, and of the frozen model in
        patients it has never seen.

    Returns
    -------
    DataFrame
        Columns :data:`VALIDATION_COLUMNS`, one row per model and measure of :data:`SHOWN` that both tables hold.
        ``lower`` and ``upper`` bound the difference and are NaN where a single estimate has no interval.

    Raises
    ------
    InputError
        When a column is missing, or the tables share no model.
    """
    for table, name in ((internal, "internal performance"), (external, "external performance")):
        require_columns(table, METRIC_COLUMNS, name)
    keys = ["feature_set", "classifier", "metric"]
    rows = internal[internal["metric"].isin(SHOWN)].merge(external, on=keys, suffixes=("_i", "_e"))
    if rows.empty:
        models = ", ".join(sorted(set(external["feature_set"].astype(str))))
        raise InputError(
            f"The internal performance is of other models than the external one ({models}).",
            advice="Use the table that stands beside the frozen model.",
        )
    order = {metric: i for i, metric in enumerate(SHOWN)}
    rows = rows.iloc[rows["metric"].map(order).argsort(kind="stable")]
    return pd.DataFrame([_row(row) for row in rows.to_dict("records")], columns=list(VALIDATION_COLUMNS))


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    inside = tuple(float(row[f"{name}_i"]) for name in ("estimate", "lower", "upper"))
    outside = tuple(float(row[f"{name}_e"]) for name in ("estimate", "lower", "upper"))
    return (
        row["feature_set"], row["classifier"], row["metric"], *inside, *outside, outside[0] - inside[0],
        *difference_interval(outside, inside), row["n_patients_i"], row["n_events_i"], row["n_patients_e"],
        row["n_events_e"], METHOD,
    )  # fmt: skip


def difference_interval(first: tuple[float, ...], second: tuple[float, ...]) -> tuple[float, float]:
    """Interval of the difference of two independent estimates, from their own intervals.

    Parameters
    ----------
    first, second : (estimate, lower, upper)
        Of independent samples.

    Returns
    -------
    lower, upper : float
        Of ``first - second``; NaN where a bound is missing. Keeps the asymmetry of the two intervals (Zou and Donner
        2008, doi:10.1002/sim.3095).
    """
    (a, a_low, a_high), (b, b_low, b_high) = first, second
    difference = a - b
    lower = difference - float(np.hypot(a - a_low, b_high - b))
    upper = difference + float(np.hypot(a_high - a, b - b_low))
    return lower, upper
