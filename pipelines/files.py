"""JSON on disk, and exact reading of tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hybrid.errors import InputError
from hybrid.files import write_text
from hybrid.tables import check_features, check_predictions


def write_json(value: Any, path: str | Path) -> Path:
    """Write JSON; floats keep every digit, NaN stays NaN."""
    return write_text(json.dumps(value, ensure_ascii=False, allow_nan=True, default=_native), path)


def _native(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"A result row may hold text and numbers only; found {type(value).__name__}.")


def read_exact(path: str | Path, *, text: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV file so that every number is the one that was written, whatever the version of pandas.

    Parameters
    ----------
    path : path-like
        The file.
    text : sequence of str
        Columns that stay text.

    Returns
    -------
    DataFrame
        Whole numbers as int64, other numbers as float64, the rest as text.
    """
    table = pd.read_csv(path, dtype=str)
    return table.assign(**{name: _number_column(table[name]) for name in table.columns if name not in text})


def _number_column(column: pd.Series) -> pd.Series:
    for kind in ("int64", "float64"):
        try:
            return column.astype(kind)
        except (ValueError, TypeError):
            continue
    return column


def read_header(path: str | Path) -> list[str]:
    """Column names of a CSV or Excel table; empty when there is no such file."""
    path = Path(path)
    if not path.is_file():
        return []
    reader = pd.read_excel if path.suffix.lower() in (".xlsx", ".xls") else pd.read_csv
    return [str(name) for name in reader(path, nrows=0).columns]


def read_features(path: str | Path) -> pd.DataFrame:
    """Read a feature table written by :func:`extract_features` (or a spreadsheet with a ``case_id`` column).

    Returns
    -------
    DataFrame
        As returned by :func:`hybrid.tables.check_features`, every digit kept.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("The feature table does not exist.", advice="Run `hybrid extract` first.", path=path)
    if path.suffix == ".parquet":
        return check_features(pd.read_parquet(path))
    return check_features(read_exact(path, text=("case_id",)))


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read a predictions table, every digit kept, and validate it."""
    if not Path(path).is_file():
        raise InputError("The predictions table does not exist.", advice="Run `hybrid evaluate` first.", path=path)
    return check_predictions(read_exact(path, text=("case_id", "patient_id", "lesion_id")))
