"""Column contracts of the tables that tie the packages together.

Three tables connect everything: *cohort*, *features* and *predictions*. Every row of every table carries ``case_id``.
The column names below are public and frozen by a test: scripts of users rely on them.

======================  ================================================================================================
table                   form
======================  ================================================================================================
cohort                  one row per case; :data:`COHORT_COLUMNS` plus ``image_<name>``/``mask_<name>`` pairs; any other
                        column is a covariate
features                index ``case_id`` (and ``roi_label`` when cases have several regions); columns start with
                        ``rad_`` (handcrafted) or ``deep_`` (embedding)
predictions             long: one row per case, model, repeat; :data:`PREDICTION_COLUMNS`
masks                   long: one row per case, structure or lesion, and metric; :data:`MASK_COLUMNS`
failures                :data:`FAILURE_COLUMNS`
======================  ================================================================================================
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from .errors import InputError, unknown_name

COHORT_COLUMNS: Final = ("case_id", "patient_id", "image", "mask", "roi_label", "outcome", "site")
"""Columns with a fixed meaning in a cohort table; all but ``case_id`` may be absent."""

PREDICTION_COLUMNS: Final = (
    "case_id",
    "patient_id",
    "feature_set",
    "classifier",
    "split",
    "repeat",
    "fold",
    "y_true",
    "y_prob",
    "threshold",
)
"""Columns of a predictions table.

``feature_set`` and ``classifier`` name the model; ``split`` is ``"test"`` for out-of-fold rows, ``"train"`` for rows of
patients that the model was fitted on and ``"external"`` for new patients; ``repeat`` and ``fold`` count from 0;
``y_true`` is 0 or 1 (1 = positive class); ``y_prob`` is the probability of the positive class; ``threshold`` is the
cut-off chosen on training patients only (a case is called positive when ``y_prob >= threshold``).
"""

REPEAT_SUFFIX: Final = "__repeat"
"""Ends the name of a column that holds a second measurement of the same feature, for example from another mask."""

MASK_COLUMNS: Final = (
    "case_id",
    "patient_id",
    "site",
    "split",
    "structure",
    "lesion_id",
    "size_bin",
    "metric",
    "value",
    "convention",
)
"""Columns of a table of mask metrics: long, one row per case, structure (or lesion) and metric.

``lesion_id`` is empty for a whole structure, ``"r1"``, ``"r2"`` ... for reference lesions, ``"p1"``, ``"p2"`` ... for
predicted ones and ``"d1"``, ``"d2"`` ... for candidates that a model dropped; ``size_bin`` is the lesion's size
stratum; ``convention`` says how the value is defined.
"""

FAILURE_COLUMNS: Final = ("case_id", "stage", "error", "message", "advice")
"""Columns of ``failures.csv``."""

PROBLEM_COLUMNS: Final = ("case_id", "severity", "problem", "advice")
"""Columns of the table that ``Cohort.check`` returns."""

HANDCRAFTED_PREFIX: Final = "rad_"
DEEP_PREFIX: Final = "deep_"
CLINICAL_PREFIX: Final = "clin_"

SELECTED: Final = "selected"
"""Classifier name of the predictions whose classifier was chosen in the inner loop."""


def require_columns(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise when a table lacks a column, naming the nearest one that it has.

    Raises
    ------
    InputError
        For the first missing column.
    """
    for column in columns:
        if column not in table.columns:
            error = unknown_name("column", column, table.columns)
            raise InputError(f"The {what} table has no column {column!r}.", advice=error.advice)


def check_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Validate a predictions table and return it in canonical column order.

    Parameters
    ----------
    predictions : DataFrame
        Long table, see :data:`PREDICTION_COLUMNS`. Only ``case_id``, ``y_true`` and ``y_prob`` are required, so that
        a radiologist's scores from a spreadsheet work; absent columns get neutral values (``patient_id = case_id``,
        ``feature_set = "model"``, ``classifier = "model"``, ``split = "test"``, ``repeat = fold = 0``,
        ``threshold = 0.5``). The input is not modified.

    Returns
    -------
    DataFrame
        A new table with all columns of :data:`PREDICTION_COLUMNS` first, then any others.

    Raises
    ------
    InputError
        For missing columns, NaN, probabilities outside [0, 1], outcomes other than 0/1, a case with two outcomes, or a
        case that appears twice within a model, split and repeat.
    """
    require_columns(predictions, ("case_id", "y_true", "y_prob"), "predictions")
    if predictions.empty:
        raise InputError("The predictions table has no rows.", advice="Was the evaluation run to its end?")
    table = predictions.reset_index(drop=True).copy()
    table["case_id"] = table["case_id"].astype(str)
    defaults = {
        "patient_id": table["case_id"], "feature_set": "model", "classifier": "model", "split": "test",
        "repeat": 0, "fold": 0, "threshold": 0.5,
    }  # fmt: skip
    for column, value in defaults.items():
        if column not in table.columns:
            table[column] = value
    table["patient_id"] = table["patient_id"].astype(str)
    _check_values(table)
    keys = ["case_id", "feature_set", "classifier", "split", "repeat"]
    keys += [extra for extra in ("lesion_id", "slice") if extra in table.columns]
    _refuse_duplicates(table, keys)
    others = [column for column in table.columns if column not in PREDICTION_COLUMNS]
    return table[[*PREDICTION_COLUMNS, *others]]


def _check_values(table: pd.DataFrame) -> None:
    for column in ("y_true", "y_prob"):
        values = pd.to_numeric(table[column], errors="coerce")
        if values.isna().any():
            case = table.loc[values.isna(), "case_id"].iloc[0]
            raise InputError(
                f"Column {column!r} must hold numbers; found a missing or non-numeric value.",
                advice="Remove the row or repeat the evaluation for this case.",
                case_id=case,
            )
        table[column] = values.astype(np.float64)
    outside = ~table["y_prob"].between(0.0, 1.0)
    if outside.any():
        row = table.loc[outside].iloc[0]
        raise InputError(
            f"Column 'y_prob' must lie in [0, 1]; found {row['y_prob']}.",
            advice="Pass probabilities; scale scores to [0, 1] first.",
            case_id=row["case_id"],
        )
    wrong = ~table["y_true"].isin([0.0, 1.0])
    if wrong.any():
        row = table.loc[wrong].iloc[0]
        raise InputError(
            f"Column 'y_true' must be 0 or 1; found {row['y_true']}.",
            advice="Code the positive class as 1 and the other as 0.",
            case_id=row["case_id"],
        )
    table["y_true"] = table["y_true"].astype(np.int64)


def _refuse_duplicates(table: pd.DataFrame, keys: Sequence[str]) -> None:
    repeated = table.duplicated(list(keys))
    if repeated.any():
        row = table.loc[repeated].iloc[0]
        raise InputError(
            f"The case appears twice for model {row['feature_set']}/{row['classifier']} in repeat {row['repeat']}.",
            advice="Each case may have one row per model and repeat; add 'lesion_id' or 'slice' when rows are smaller.",
            case_id=row["case_id"],
        )


def check_features(features: pd.DataFrame) -> pd.DataFrame:
    """Validate a feature table and return a copy indexed by ``case_id`` (and ``roi_label``).

    Parameters
    ----------
    features : DataFrame
        ``case_id`` as index level or column; numeric columns starting with ``rad_`` or ``deep_`` (other numeric
        columns are allowed and can be named in a feature set).

    Returns
    -------
    DataFrame
        New table, float64, index of strings (``case_id``) or a MultiIndex (``case_id``, ``roi_label``).

    Raises
    ------
    InputError
        When ``case_id`` is absent or repeated, a column is not numeric, or a column name is repeated.
    """
    table = features.copy()
    if "case_id" not in table.index.names:
        require_columns(table, ["case_id"], "features")
        levels = ["case_id", "roi_label"] if "roi_label" in table.columns else ["case_id"]
        table = table.set_index(levels)
    if isinstance(table.index, pd.MultiIndex):
        table.index = table.index.set_levels(table.index.levels[0].astype(str), level=0)
    else:
        table.index = table.index.astype(str)
    if table.index.has_duplicates:
        case = table.index[table.index.duplicated()][0]
        raise InputError("The feature table has two rows for one case.", advice="Keep one.", case_id=str(case))
    if table.columns.has_duplicates:
        column = table.columns[table.columns.duplicated()][0]
        raise InputError(f"The feature table has two columns named {column!r}.", advice="Rename or drop one.")
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise InputError(
                f"Feature column {column!r} must be numeric; found {table[column].dtype}.",
                advice="Move text columns to the cohort table, where they are covariates.",
            )
    return table.astype(np.float64)


def check_survival(
    time: ArrayLike, event: ArrayLike, *, cases: Sequence[str] | None = None, need_events: bool = True
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Validate follow-up times and events.

    Parameters
    ----------
    time : array-like of shape (n,)
        Finite, 0 or more.
    event : array-like of shape (n,)
        0 or 1.
    cases : sequence of str, optional
        Names for the error.
    need_events : bool
        Whether at least one event is needed.

    Returns
    -------
    time : ndarray of float64
        Follow-up.
    event : ndarray of bool
        Whether the event happened.

    Raises
    ------
    InputError
        For unequal lengths, missing, non-numeric or negative times, events other than 0/1, or no event.
    """
    times = pd.to_numeric(pd.Series(np.asarray(time).ravel()), errors="coerce").to_numpy(dtype=np.float64)
    events = pd.to_numeric(pd.Series(np.asarray(event).ravel()), errors="coerce").to_numpy(dtype=np.float64)
    if times.size != events.size or np.ndim(time) != 1:
        raise InputError(
            f"Times and events must have one entry per case; found {np.shape(time)} and {np.shape(event)}.",
            advice="Pass one time and one event for each case.",
        )
    names = [str(case) for case in cases] if cases is not None else [f"row {i + 1}" for i in range(times.size)]
    _refuse_named(~np.isfinite(times), names, "a follow-up time that is missing or not a number", "Fill it in.")
    _refuse_named(times < 0, names, "a negative follow-up time", "Count from inclusion to event or last contact.")
    _refuse_named(~np.isin(events, (0, 1)), names, "an event other than 0 or 1", "Code the event as 1, censoring as 0.")
    if need_events and not (events == 1).any():
        raise InputError(
            f"None of the {times.size} cases has an event.", advice="Check which value of the column means the event."
        )
    return times, events == 1


def _refuse_named(wrong: NDArray[np.bool_], names: Sequence[str], what: str, advice: str) -> None:
    if wrong.any():
        cases = list(itertools.compress(names, wrong))
        shown = ", ".join(cases[:5]) + (f" and {len(cases) - 5} more" if len(cases) > 5 else "")
        raise InputError(f"{len(cases)} case(s) have {what}: {shown}.", advice=advice)
