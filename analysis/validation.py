"""One frozen model, internally and externally: what cross-validation promised beside what new patients show.

Internal and external patients are different people, so that the interval of a difference follows from the two intervals
(Zou and Donner 2008, doi:10.1002/sim.3095): no patient of the development cohort has to be handed over with a model.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import special

from hybrid.errors import InputError
from hybrid.tables import require_columns

from .auc_inference import UnpairedDelongTest, unpaired_delong_from_summary
from .calibration import calibration_metrics
from .metrics import AVERAGED_AUC, METRIC_COLUMNS, evaluate_models
from .roc import check_level

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

VALIDATION_AUC_COLUMNS: Final = (
    "feature_set", "classifier", "auc_internal", "auc_external", "difference", "lower", "upper", "statistic", "df", "p",
    "n_internal", "events_internal", "n_external", "events_external", "method",
)  # fmt: skip
"""Columns of the table that :func:`compare_validation_auc` returns."""

NO_VARIANCE: Final = "not tested: an AUC of 0 or 1, or fewer than two patients of a class, has no usable variance"

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


def compare_validation_auc(internal: pd.DataFrame, external: pd.DataFrame, *, level: float = 0.95) -> pd.DataFrame:
    """Test by unpaired DeLong whether the AUC in new patients differs from the internal one.

    Parameters
    ----------
    internal, external : DataFrame
        From :func:`measure_validation`, or from :func:`hybrid.analysis.evaluate_models` with the same ``level``. The
        AUC of one averaged probability per patient is compared; its variance is read from its interval on the log-odds.
    level : float
        Confidence level of both tables, and of the difference.

    Returns
    -------
    DataFrame
        Columns :data:`VALIDATION_AUC_COLUMNS`, one row per model that both tables hold; ``difference`` is external
        minus internal. See :func:`hybrid.analysis.unpaired_delong_test`. NaN, with the reason in ``method``, where an
        AUC has no variance. Patients of cross-validation share training patients, which the variance ignores.

    Raises
    ------
    InputError
        When a column is missing.
    """
    check_level(level)
    for table, name in ((internal, "internal performance"), (external, "external performance")):
        require_columns(table, METRIC_COLUMNS, name)
    keys = ["feature_set", "classifier"]
    inside, outside = (table[table["metric"] == AVERAGED_AUC] for table in (internal, external))
    rows = inside.merge(outside, on=keys, suffixes=("_i", "_e"))
    return pd.DataFrame([_auc_row(row, level) for row in rows.to_dict("records")], columns=list(VALIDATION_AUC_COLUMNS))


def _auc_row(row: dict[str, Any], level: float) -> tuple[Any, ...]:
    inside, outside = (
        tuple(float(row[f"{name}_{side}"]) for name in ("estimate", "lower", "upper")) for side in ("i", "e")
    )
    counts = (row["n_patients_i"], row["n_events_i"], row["n_patients_e"], row["n_events_e"])
    variances = variance_of_interval(*outside, level=level), variance_of_interval(*inside, level=level)
    names = (row["feature_set"], row["classifier"], inside[0], outside[0], outside[0] - inside[0])
    if not np.isfinite(variances).all():
        return (*names, *[np.nan] * 5, *counts, NO_VARIANCE)
    test: UnpairedDelongTest = unpaired_delong_from_summary(
        outside[0], variances[0], int(row["n_patients_e"]), inside[0], variances[1], int(row["n_patients_i"]),
        level=level,
    )  # fmt: skip
    return (*names, test.lower, test.upper, test.statistic, test.df, test.p, *counts, test.method)


def variance_of_interval(estimate: float, lower: float, upper: float, *, level: float = 0.95) -> float:
    """Variance of an AUC from its DeLong interval on the log-odds.

    Parameters
    ----------
    estimate, lower, upper : float
        See :func:`hybrid.analysis.roc.delong_interval` with ``scale="logit"``.
    level : float
        Confidence level of the interval.

    Returns
    -------
    float
        Of the area; NaN for an area of 0 or 1, whose interval is another one, and without bounds.
    """
    if not (0.0 < lower <= estimate <= upper < 1.0):
        return float("nan")
    width = float(special.logit(upper) - special.logit(lower))
    error = estimate * (1 - estimate) * width / (2 * float(special.ndtri(0.5 + level / 2)))
    return float(error**2)
