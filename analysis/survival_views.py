"""Tables of the survival report on calibration at a horizon and on external validation."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from .survival_calibration import CALIBRATION_METRICS
from .survival_plots import NAMES
from .views import Cell, Row, View
from .wording import MISSING, interval, number

MEASURES: Final = {
    "c_index": "C-index (Harrell)", "uno_c": "C-index (Uno)", "auc": "AUC", "brier": "Brier score",
    "integrated_brier": "Integrated Brier score", "observed_risk": "Observed risk", "expected_risk": "Expected risk",
    "observed_expected_ratio": "Observed / expected", "calibration_slope": "Calibration slope",
}  # fmt: skip
"""Measures in words."""


def with_bounds(estimate: float, lower: float, upper: float, digits: int = 2) -> Cell:
    """Cell with an estimate and its interval below."""
    bounds = interval(float(lower), float(upper), digits)
    return Cell(number(float(estimate), digits), "" if bounds == MISSING or lower == upper else bounds)


def calibration_view(calibration: pd.DataFrame, time_unit: str) -> View:
    """Build the table of calibration from :func:`~hybrid.analysis.calibrate_survival`."""
    wide = calibration.set_index(["feature_set", "metric"])
    rows = [
        Row([Cell(NAMES.get(name, name)), *(
            with_bounds(*wide.loc[(name, metric), ["estimate", "lower", "upper"]]) for metric in CALIBRATION_METRICS
        )])
        for name in dict.fromkeys(calibration["feature_set"].astype(str))
    ]  # fmt: skip
    horizon = float(np.nanmax(calibration["horizon"]))
    unit = f" {time_unit}" if time_unit else ""
    note = (
        "Observed risk by Kaplan-Meier. Observed / expected: 1 is ideal, above 1 means that risks are too low. Slope: "
        "the coefficient of the predicted log hazard ratio in a Cox model of these patients; 1 is ideal, below 1 means "
        "that predictions are too extreme (Royston and Altman 2013, doi:10.1186/1471-2288-13-33; Crowson et al. 2016, "
        f"doi:10.1177/0962280213497434). {calibration['method'].iloc[0]}."
    )
    columns = ["Features", *(MEASURES[metric] for metric in CALIBRATION_METRICS)]
    return View(f"Calibration at {horizon:g}{unit} (estimate, 95 % interval below)", columns, rows, note)


def survival_validation_view(table: pd.DataFrame | None, time_unit: str) -> View | None:
    """Build the table of internal beside external performance; None without it."""
    if table is None:
        return None
    unit = f" {time_unit}" if time_unit else ""
    rows: list[Row] = []
    for name, part in table.groupby("feature_set", sort=False):
        rows.append(Row([Cell(NAMES.get(str(name), str(name)))], "group"))
        first = part.iloc[0]
        sizes = [
            Cell(f"{int(first[f'n_{side}'])} ({int(first[f'events_{side}'])})") for side in ("internal", "external")
        ]  # fmt: skip
        rows.append(Row([Cell("Patients (with the event)"), *sizes, Cell("")]))
        for row in part.to_dict("records"):
            at = f" at {row['horizon']:g}{unit}" if np.isfinite(row["horizon"]) else ""
            sides = [
                with_bounds(row[side], row[f"{side}_lower"], row[f"{side}_upper"]) for side in ("internal", "external")
            ]  # fmt: skip
            gap = with_bounds(row["difference"], row["lower"], row["upper"])
            rows.append(Row([Cell(f"{MEASURES[row['metric']]}{at}"), *sides, gap]))
    note = (
        f"Internal: cross-validation of the whole procedure. Difference: {table['method'].iloc[0]}. Brier scores and "
        "risks also change when the event is more or less common."
    )
    return View("Internal and external performance", ["Measure", "Internal", "External", "Difference"], rows, note)
