"""Tests of calibration in the report: Hosmer-Lemeshow and Spiegelhalter; reviewers ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError

from .calibration import hosmer_lemeshow, spiegelhalter_test
from .exports import CONTENTS
from .panel import FloatArray, Model, Panel
from .plots import model_names
from .views import Cell, Row, View
from .wording import number, p_value

CONTENTS.update({
    "calibration_tests": "Hosmer-Lemeshow and Spiegelhalter tests of each compared model",
})  # fmt: skip

TEST_COLUMNS: Final = (
    "feature_set", "classifier", "hl_statistic", "hl_df", "hl_p", "hl_groups", "spiegelhalter_z", "spiegelhalter_p",
    "n_patients", "n_events", "method",
)  # fmt: skip
"""Columns of the table that :func:`calibration_tests` returns."""

METHOD: Final = (
    "Hosmer-Lemeshow 1980 (doi:10.1080/03610928008827941) in groups of equally many patients; Spiegelhalter 1986 "
    "(doi:10.1002/sim.4780050506)"
)


def calibration_tests(panel: Panel, models: Sequence[Model]) -> pd.DataFrame:
    """Both tests on one averaged probability per patient that was not used to fit the model.

    Parameters
    ----------
    panel : Panel
        Predictions.
    models : sequence of (str, str)
        Which models.

    Returns
    -------
    DataFrame
        Columns :data:`TEST_COLUMNS`, one row per model; NaN where a test is not defined (few distinct probabilities, or
        a group of certain and wrong ones). No row when a patient has rows with different outcomes: the tests need
        independent rows.
    """
    averaged = panel.select(models).by_patient()
    if averaged is None:
        return pd.DataFrame(columns=list(TEST_COLUMNS))
    y, scores = averaged
    rows = []
    for model, score in zip(models, scores, strict=True):
        seen = np.isfinite(score)
        shared = {"feature_set": model[0], "classifier": model[1], "n_patients": int(seen.sum())}
        rows.append(shared | {"n_events": int(y[seen].sum())} | _tests(y[seen].astype(int), score[seen]))
    return pd.DataFrame(rows, columns=list(TEST_COLUMNS))


def _tests(y: Any, score: FloatArray) -> dict[str, Any]:
    z, p = spiegelhalter_test(y, score)
    row: dict[str, Any] = {"spiegelhalter_z": z, "spiegelhalter_p": p, "method": METHOD}
    try:
        found = hosmer_lemeshow(y, score)
    except InputError:
        return row
    return row | {
        "hl_statistic": found.statistic, "hl_df": found.degrees_of_freedom, "hl_p": found.p,
        "hl_groups": len(found.groups),
    }  # fmt: skip


def calibration_tests_view(table: pd.DataFrame | None) -> View | None:
    """Build the table of both tests, rounded for readers; None without it."""
    if table is None or table.empty:
        return None
    models = list(zip(table["feature_set"], table["classifier"], strict=True))
    rows = [
        Row([
            Cell(name), Cell(number(row["hl_statistic"]), _freedom(row["hl_df"])), Cell(p_value(row["hl_p"])),
            Cell(number(row["spiegelhalter_z"])), Cell(p_value(row["spiegelhalter_p"])),
        ])
        for name, row in zip(model_names(models), table.to_dict("records"), strict=True)
    ]  # fmt: skip
    note = (
        f"A small p says that the probabilities are off; a large one says little, because both tests find only gross "
        f"errors in small cohorts. Prefer the curve, the slope and the intercept. {METHOD}. One probability per "
        "patient, averaged over repeats; the patients are new to the models, so that the degrees of freedom are the "
        "number of groups."
    )
    columns = ["Model", "Hosmer-Lemeshow", "p, Hosmer-Lemeshow", "Spiegelhalter z", "p, Spiegelhalter"]
    return View("Tests of calibration", columns, rows, note)


def _freedom(df: float) -> str:
    return f"{int(df)} degrees of freedom" if np.isfinite(df) else ""
