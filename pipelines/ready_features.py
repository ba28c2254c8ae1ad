"""Ready feature tables as the start of a study: other people's columns under names that the rest understands."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from hybrid.errors import InputError, unknown_name
from hybrid.tables import COHORT_COLUMNS, DEEP_PREFIX, HANDCRAFTED_PREFIX, check_features

from .files import read_exact

if TYPE_CHECKING:
    from .config import FeatureTableConfig, StudyConfig

KNOWN_PREFIXES: Final = (HANDCRAFTED_PREFIX, DEEP_PREFIX)
KEYS: Final = ("case_id", "roi_label")


def read_ready_features(
    source: FeatureTableConfig, *, known: Sequence[str] = (), cases: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read the feature table that a study file names.

    Parameters
    ----------
    source : FeatureTableConfig
        File, column of the ids, prefix and columns to leave out.
    known : sequence of str
        Columns with a meaning in the cohort (outcome, covariates): never features, should they stand in the table.
    cases : sequence of str, optional
        Cases of the cohort: rows of other cases are an error.

    Returns
    -------
    DataFrame
        As from :func:`hybrid.tables.check_features`. Names become identifiers, and ``prefix`` stands before those that
        start with neither ``rad_`` nor ``deep_``.

    Raises
    ------
    InputError
        For a file that does not exist or cannot be read, an unknown column, no feature, columns that are not numeric
        or that have one name after the change, and cases that stand in one table only (the first is named).
    """
    path = Path(source.table)
    table = _read(path, source.case_id).rename(columns={source.case_id: "case_id"})
    left_out = set(known) | (set(COHORT_COLUMNS) - set(KEYS))
    for pattern in source.leave_out:
        found = fnmatch.filter(table.columns, pattern)
        if not found:
            error = unknown_name("column", pattern, table.columns)
            raise InputError(f"'leave_out' names {pattern!r}, no column of the table.", advice=error.advice, path=path)
        left_out |= set(found)
    table = table.drop(columns=[name for name in table.columns if name in left_out])
    try:
        features = check_features(table.rename(columns={name: _named(name, source.prefix) for name in table.columns}))
    except InputError as error:
        error.path = str(path)
        raise
    if features.empty or features.shape[1] == 0:
        raise InputError("The feature table has no features.", advice="Check 'leave_out' and the file.", path=path)
    if cases is not None:
        _require_match(features, cases, path)
    return features


def _read(path: Path, ids: str) -> pd.DataFrame:
    if not path.is_file():
        raise InputError("The feature table does not exist.", advice="Check 'features' in the study file.", path=path)
    try:
        if path.suffix == ".parquet":
            table = pd.read_parquet(path)
        elif path.suffix.lower() in (".xlsx", ".xls"):
            table = pd.read_excel(path, dtype={ids: str})
        else:
            table = read_exact(path, text=(ids,))
    except (ValueError, OSError) as error:
        raise InputError(f"The feature table cannot be read ({error}).", advice="Save it as CSV.", path=path) from error
    if ids not in table.columns:
        nearest = unknown_name("column", ids, map(str, table.columns))
        advice = f"{nearest.advice} Name the column of the ids: features: {{table: ..., case_id: COLUMN}}."
        raise InputError(f"The feature table has no column {ids!r}.", advice=advice, path=path)
    return table.rename(columns=str)


def _named(column: str, prefix: str) -> str:
    if column in KEYS:
        return column
    plain = re.sub(r"\W+", "_", column).strip("_")
    return plain if plain.startswith(KNOWN_PREFIXES) else f"{prefix}{plain}"


def _require_match(features: pd.DataFrame, cases: Sequence[str], path: Path) -> None:
    ids = set(features.index.get_level_values("case_id"))
    strange = sorted(ids - set(cases))
    if strange:
        error = unknown_name("case", strange[0], cases)
        raise InputError(
            f"{len(strange)} case(s) of the feature table are not in the cohort, the first is {strange[0]!r}.",
            advice=f"{error.advice} Both tables must call a case the same.", path=path,
        )  # fmt: skip


def feature_columns_of(config: StudyConfig) -> frozenset[str]:
    """Columns of the cohort's own file that are features: where one file holds both.

    Parameters
    ----------
    config : StudyConfig
        The study.

    Returns
    -------
    frozenset of str
        Names as in the file; empty when the features stand in another file.
    """
    source = config.features
    if source is None or Path(source.table).resolve() != Path(config.cohort.file).resolve():
        return frozenset()
    table = _read(Path(source.table), source.case_id)
    kept = {source.case_id, *KEYS, *COHORT_COLUMNS, *meaningful_columns(config)}
    left_out = {name for pattern in source.leave_out for name in fnmatch.filter(table.columns, pattern)}
    return frozenset(set(table.columns) - kept - left_out)


def meaningful_columns(config: StudyConfig) -> set[str]:
    """Columns that the study file gives a meaning other than feature, named as in the file."""
    renamed: dict[str, Any] = config.cohort.columns
    batch = [config.harmonise] if config.harmonise not in (None, "site") else []
    images = [] if config.sequences is None else [f"image_{name}" for name in config.sequences.expected]
    return {*renamed.values(), *(renamed.get(name, name) for name in (*config.covariates, *batch, *images))}
