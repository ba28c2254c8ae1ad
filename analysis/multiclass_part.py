"""AUCs of a classifier of several classes in the reports: one table of predictions in, one table for readers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.tables import require_columns

from .exports import CONTENTS
from .multiclass import HAND_TILL, MACRO, MULTICLASS_COLUMNS, ONE_VS_REST, multiclass_aucs
from .per_class import PROBABILITY
from .views import Cell, Row, View
from .wording import MISSING, interval, number

CONTENTS.update({
    "multiclass": "Hand and Till's M and the AUC of every class against the rest and of every pair of classes",
})  # fmt: skip

MULTICLASS_NOTE: Final = (
    "AUCs judge the order of the probabilities and need no threshold; 0.5 is chance, 1 perfect. M: the mean over all "
    "pairs of classes, which does not depend on how common they are (Hand and Till 2001, doi:10.1023/A:1010920819831). "
    "One class against the rest: mixes the other classes as they occur here. Intervals: bootstrap of patients with all "
    "their rows (BCa), exact bounds for 1. Rows without an answer and classes without a row are left out."
)


def multiclass_table(predictions: pd.DataFrame, classes: Sequence[str] | None = None, **options: Any) -> pd.DataFrame:
    """AUCs of a table of predictions with one probability per class.

    Parameters
    ----------
    predictions : DataFrame
        ``patient_id, y_true, y_prob_<class>``, as ``train_classifier`` writes them. Rows without probabilities are left
        out.
    classes : sequence of str, optional
        Classes and their order; by default those of the probability columns. Classes without a row are left out.
    **options
        ``level``, ``kind``, ``n_bootstrap`` and ``seed`` of :func:`hybrid.analysis.multiclass_aucs`.

    Returns
    -------
    DataFrame
        Columns :data:`hybrid.analysis.multiclass.MULTICLASS_COLUMNS`, then ``n_left_out`` (rows without probabilities).
        No row when fewer than two classes have rows.

    Raises
    ------
    InputError
        For missing columns or patients.
    """
    require_columns(predictions, ("patient_id", "y_true"), "predictions")
    columns = [str(name) for name in predictions.columns if str(name).startswith(PROBABILITY)]
    named = classes if classes is not None else [name.removeprefix(PROBABILITY) for name in columns]
    names = [name for name in named if (predictions["y_true"].astype(str) == str(name)).any()]
    wanted = [f"{PROBABILITY}{name}" for name in names]
    empty = pd.DataFrame(columns=[*MULTICLASS_COLUMNS, "n_left_out"])
    if len(names) < 2 or not set(wanted) <= set(columns):
        return empty
    known = np.isfinite(predictions[wanted].to_numpy(dtype=np.float64)).all(axis=1)
    rows = predictions[known & predictions["y_true"].astype(str).isin(names).to_numpy()]
    if set(rows["y_true"].astype(str)) != set(names):
        return empty
    table = multiclass_aucs(
        rows["y_true"].astype(str), rows[wanted].to_numpy(dtype=np.float64), classes=names,
        patients=rows["patient_id"].astype(str), **options,
    )  # fmt: skip
    return table.assign(n_left_out=int((~known).sum()))


def multiclass_view(tables: Mapping[str, pd.DataFrame], caption: str) -> View | None:
    """Build a table of M, the mean over classes, and every class against the rest.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Heading of a column, and its :func:`multiclass_table`.
    caption : str
        Of the table.

    Returns
    -------
    View or None
        None when no table has a row.
    """
    filled = {heading: table for heading, table in tables.items() if len(table)}
    if not filled:
        return None
    by_row = {heading: table.set_index(["measure", "class"]) for heading, table in filled.items()}
    classes = dict.fromkeys(
        name for table in filled.values() for name in table.loc[table["measure"] == ONE_VS_REST, "class"]
    )  # fmt: skip
    lines = [(HAND_TILL, "", "All pairs of classes: M"), (MACRO, "", "Mean of one class against the rest")]
    lines += [(ONE_VS_REST, name, f"{name} against the rest") for name in classes]
    rows = [
        Row([Cell(text), *(_auc_cell(own, (measure, name)) for own in by_row.values())],
            "strong" if measure == HAND_TILL else "")
        for measure, name, text in lines
    ]  # fmt: skip
    return View(caption, ["AUC", *by_row], rows, MULTICLASS_NOTE)


def _auc_cell(table: pd.DataFrame, key: tuple[str, str]) -> Cell:
    if key not in table.index:
        return Cell(MISSING)
    row = table.loc[[key]].iloc[0]
    bounds = interval(float(row["ci_low"]), float(row["ci_high"]), 3)
    return Cell(number(float(row["auc"]), 3), "" if bounds == MISSING else bounds)
