"""Tables of labelled images: volumes or slices, checked and with absolute paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.cases import Cohort
from hybrid.errors import InputError, unknown_name
from hybrid.tables import FAILURE_COLUMNS

STAGE: Final = "prepare"
"""Where a row that cannot be used failed, in ``failures.csv``."""

TASKS: Final = ("volume", "slice")

TRAIN: Final = "train"
TUNING: Final = "tuning"
TEST: Final = "test"
EXTERNAL: Final = "external"
SPLIT_NAMES: Final = {TRAIN: TRAIN, TUNING: TUNING, "validation": TUNING, TEST: TEST, EXTERNAL: EXTERNAL}
"""Values of the column ``split``; ``validation`` is another word for ``tuning``."""

IMAGE_COLUMNS: Final = ("id", "patient_id", "image", "slice", "label", "site", "split", "mask")
"""Columns of the table that :func:`image_table` returns."""

_EMPTY: Final = ("", "nan", "na", "n/a")


def image_table(
    table: pd.DataFrame | Cohort | str | Path, *, task: str = "volume", folder: str | Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bring a table of images into one form, and name the rows that cannot be used.

    Parameters
    ----------
    table : DataFrame, Cohort or path-like
        Columns: an id (``slice_id``, ``series_id`` or ``case_id``, the first that is there; ids that repeat are made
        unique by the slice), ``image``, ``label`` (or ``outcome``), and optionally ``patient_id`` (needed for slices;
        for volumes the ``case_id``, or the id), ``slice`` (counted from 0), ``site``, ``split`` and ``mask``.
    task : {"volume", "slice"}
        What a row is.
    folder : path-like, optional
        Relative paths resolve against it; default: the folder of the file, or the present one.

    Returns
    -------
    images : DataFrame
        Columns :data:`IMAGE_COLUMNS`, one row per usable image; class names are text.
    problems : DataFrame
        Columns :data:`hybrid.tables.FAILURE_COLUMNS`: rows without an image or a label.

    Raises
    ------
    InputError
        When a column is missing, an id is empty or repeats, or a slice or split has an unknown value.
    """
    frame, base = as_frame(table, folder)
    ids = _ids(frame, task)
    splits = text_column(frame, "split", required=False)
    images = pd.DataFrame(
        {
            "id": ids,
            "patient_id": _patients(frame, ids, task),
            "image": [resolved_path(value, base) for value in text_column(frame, "image")],
            "slice": _slices(frame, ids) if task == "slice" else None,
            "label": text_column(frame, "label" if "label" in frame.columns else "outcome"),
            "site": text_column(frame, "site", required=False),
            "split": [_split(value, name) for value, name in zip(splits, ids, strict=True)],
            "mask": [resolved_path(value, base) for value in text_column(frame, "mask", required=False)],
        },
        columns=list(IMAGE_COLUMNS),
        dtype=object,
    )
    missing = images[["image", "label"]].isna()
    rows = [
        (
            row.id,
            STAGE,
            "InputError",
            f"The row has {'no image' if row.image is None else 'no label'}.",
            "Fill it in, or leave the row out.",
        )
        for row in images[missing.any(axis=1)].itertuples()
    ]
    return images[~missing.any(axis=1)].reset_index(drop=True), pd.DataFrame(rows, columns=list(FAILURE_COLUMNS))


def as_frame(table: pd.DataFrame | Cohort | str | Path, folder: str | Path | None) -> tuple[pd.DataFrame, Path]:
    """Read a table if it is a file, and say which folder its relative paths resolve against."""
    if isinstance(table, Cohort):
        return table.to_frame(), Path(folder or ".")
    if isinstance(table, pd.DataFrame):
        named = table.index.name in ("case_id", "series_id", "slice_id")
        return (table.reset_index() if named else table), Path(folder or ".")
    path = Path(table)
    if not path.is_file():
        raise InputError("The table does not exist.", advice="Check the spelling and the folder.", path=path)
    try:
        if path.suffix.lower() in (".xlsx", ".xls"):
            frame = pd.read_excel(path, dtype=str, keep_default_na=False)
        else:
            frame = pd.read_csv(path, sep=None, engine="python", dtype=str, encoding="utf-8-sig", keep_default_na=False)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise InputError(f"The table cannot be read ({error}).", advice="Save it as CSV (UTF-8).", path=path) from error
    return frame, Path(folder) if folder is not None else path.parent


def text_column(frame: pd.DataFrame, name: str, *, required: bool = True) -> list[str | None]:
    """Values of a column as text, None where a cell is empty."""
    if name not in frame.columns:
        if required:
            error = unknown_name("column", name, frame.columns)
            raise InputError(f"The table of images has no column {name!r}.", advice=error.advice)
        return [None] * len(frame)
    return [_text(value) for value in frame[name]]


def _text(value: Any) -> str | None:
    if value is None or pd.isna(value):
        return None
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    return None if text.lower() in _EMPTY else text


def resolved_path(value: str | None, folder: Path) -> Path | None:
    """Path of a cell, absolute or below ``folder``; None where the cell is empty."""
    if value is None:
        return None
    # Spreadsheets written on Windows carry backslashes, which are ordinary characters elsewhere.
    path = Path(value.replace("\\", "/") if os.sep == "/" else value).expanduser()
    return path if path.is_absolute() else folder / path


def _ids(frame: pd.DataFrame, task: str) -> list[str]:
    names = ("slice_id", "series_id", "case_id") if task == "slice" else ("series_id", "case_id")
    found = next((name for name in names if name in frame.columns), None)
    if found is None:
        raise InputError(f"The table of images has no id; expected one of the columns {', '.join(names)}.")
    ids = text_column(frame, found)
    if None in ids:
        raise InputError(f"Row {ids.index(None) + 1} of the table of images has no {found}.", advice="Fill it in.")
    if task == "slice" and len(set(ids)) < len(ids) and "slice" in frame.columns:
        ids = [f"{name}/{number}" for name, number in zip(ids, text_column(frame, "slice"), strict=True)]
    repeated = pd.Series(ids)[pd.Series(ids).duplicated()]
    if len(repeated):
        raise InputError(
            f"The id stands in several rows of the table of images ({len(repeated)} ids repeat).",
            advice="Give each image its own id; images of one patient share the patient_id.",
            case_id=repeated.iloc[0],
        )
    return [str(name) for name in ids]


def _patients(frame: pd.DataFrame, ids: Sequence[str], task: str) -> list[str]:
    given = text_column(frame, "patient_id", required=task == "slice")
    if task == "volume":
        cases = text_column(frame, "case_id", required=False)
        return [name or case or own for name, case, own in zip(given, cases, ids, strict=True)]
    if None in given:
        raise InputError(
            "The slice has no patient_id.",
            advice="Fill it in: slices of one patient must stay on one side of a split.",
            case_id=ids[given.index(None)],
        )
    return [str(name) for name in given]


def _slices(frame: pd.DataFrame, ids: Sequence[str]) -> list[int | None]:
    numbers: list[int | None] = []
    for text, name in zip(text_column(frame, "slice", required=False), ids, strict=True):
        value = pd.to_numeric(text, errors="coerce") if text is not None else None
        if value is not None and (pd.isna(value) or value < 0 or value != int(value)):
            raise InputError(f"A slice is a whole number from 0; found {text!r}.", case_id=name)
        numbers.append(None if value is None else int(value))
    return numbers


def _split(value: str | None, name: str) -> str | None:
    if value is not None and value.lower() not in SPLIT_NAMES:
        raise unknown_name("split", value, SPLIT_NAMES, case_id=name)
    return None if value is None else SPLIT_NAMES[value.lower()]


def class_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Classes in order: as numbers where all are numbers, otherwise as text."""
    names = sorted(set(labels))
    numbers = pd.to_numeric(pd.Series(names, dtype=object), errors="coerce")
    return (
        tuple(names) if numbers.isna().any() else tuple(np.array(names, dtype=object)[numbers.argsort(kind="stable")])
    )
