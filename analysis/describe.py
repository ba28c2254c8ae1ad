"""Table 1: the cohort by outcome; and a summary of the feature table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import unknown_name
from hybrid.tables import DEEP_PREFIX, HANDCRAFTED_PREFIX, require_columns

from .panel import FloatArray

DESCRIPTION_COLUMNS: Final = (
    "variable",
    "level",
    "kind",
    "unit",
    "group",
    "n",
    "missing",
    "mean",
    "sd",
    "median",
    "q1",
    "q3",
    "min",
    "max",
    "count",
    "percent",
    "smd",
)
"""Columns of the table that :func:`describe_cohort` returns."""

FEATURE_SUMMARY_COLUMNS: Final = (
    "family", "image", "n_features", "n_rows", "n_missing_cells", "n_rows_without_values", "n_constant",
)  # fmt: skip
"""Columns of the table that :func:`describe_features` returns."""

ALL: Final = "all"
MAX_LEVELS: Final = 12
"""Text columns with more distinct values than this are identifiers or free text and are left out."""

_NOT_DESCRIBED: Final = ("case_id", "patient_id", "roi_label")


def describe_cohort(
    cohort: pd.DataFrame, by: str | None = "outcome", *, variables: Sequence[str] | None = None
) -> pd.DataFrame:
    """Describe the patients, overall and by group.

    Parameters
    ----------
    cohort : DataFrame
        One row per case, see :mod:`hybrid.tables`; not modified.
    by : str or None
        Column that forms the groups; left out when None or when the column is absent or empty.
    variables : sequence of str, optional
        Columns to describe; by default the outcome, the site and every covariate (columns of identifiers, paths and
        free text are left out).

    Returns
    -------
    DataFrame
        Columns :data:`DESCRIPTION_COLUMNS`, one row per variable, level and group (group ``"all"`` first). Numeric
        variables fill ``mean`` to ``max`` (quartiles by linear interpolation), categorical ones (text, or at most two
        distinct numbers) ``count`` and ``percent`` of the rows without missing value. ``unit`` is ``"patient"`` where
        the variable is constant within every patient, who is then counted once (once per group), else ``"case"``.
        ``smd`` is the absolute standardised mean difference between two groups: difference of means over the root of
        the mean variance, for categorical variables its multivariate form (Austin 2009, doi:10.1002/sim.3697; Yang and
        Dalton 2012, https://support.sas.com/resources/papers/proceedings12/335-2012.pdf); NaN without exactly two
        groups.

    Raises
    ------
    InputError
        For a variable that is not in the table.
    """
    require_columns(cohort, ["case_id"], "cohort")
    table = cohort.reset_index(drop=True)
    if "patient_id" not in table.columns:
        table = table.assign(patient_id=table["case_id"])
    by = by if by in table.columns and table[by].notna().any() else None
    chosen = _described(table, by) if variables is None else list(variables)
    rows = _size_rows(table, by)
    for name in chosen:
        if name not in table.columns:
            raise unknown_name("column", name, table.columns)
        rows += _variable_rows(table, name, by)
    return pd.DataFrame(rows, columns=list(DESCRIPTION_COLUMNS))


def _described(table: pd.DataFrame, by: str | None) -> list[str]:
    names = []
    for column in table.columns:
        is_path = column in ("image", "mask") or str(column).startswith(("image_", "mask_"))
        values = table[column].dropna()
        if column in _NOT_DESCRIBED or column == by or is_path or values.empty:
            continue
        is_text = not (pd.api.types.is_numeric_dtype(values) or _as_numbers(values) is not None)
        if is_text and values.astype(str).nunique() > MAX_LEVELS:
            continue
        names.append(str(column))
    return names


def _groups(table: pd.DataFrame, by: str | None) -> list[tuple[str, pd.DataFrame]]:
    groups = [(ALL, table)]
    if by is not None:
        labels = table[by].map(_text, na_action="ignore")
        groups += [(str(name), table[labels == name]) for name in sorted(labels.dropna().unique(), key=_natural)]
    return groups


def _text(value: Any) -> str:
    return (
        str(int(value)) if isinstance(value, (bool, float, np.floating)) and float(value).is_integer() else str(value)
    )


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _size_rows(table: pd.DataFrame, by: str | None) -> list[dict[str, Any]]:
    rows = []
    for unit, column in (("patient", "patient_id"), ("case", "case_id")):
        total = table[column].nunique()
        for group, part in _groups(table, by):
            count = part[column].nunique()
            row = {"variable": f"{unit}s", "level": "", "kind": "size", "unit": unit, "group": group, "n": count}
            rows.append(row | {"missing": 0, "count": count, "percent": 100 * count / total})
    return rows


def _variable_rows(table: pd.DataFrame, name: str, by: str | None) -> list[dict[str, Any]]:
    rows, unit = _one_per_patient(table, name, by)
    numbers = _as_numbers(rows[name].dropna())
    is_numeric = numbers is not None and numbers.nunique() > 2
    groups = _groups(rows, by)
    if is_numeric:
        values = [(group, pd.to_numeric(part[name], errors="coerce")) for group, part in groups]
        smd = _smd_numeric([series.dropna().to_numpy(dtype=np.float64) for _, series in values[1:]])
        return [_numeric_row(name, unit, group, series, smd) for group, series in values]
    levels = sorted(rows[name].dropna().map(_text).unique(), key=_natural)
    texts = [(group, part[name].map(_text, na_action="ignore")) for group, part in groups]
    smd = _smd_categorical([_shares(series, levels) for _, series in texts[1:]])
    return [
        _categorical_row(name, unit, level, group, series, smd) for level in levels for group, series in texts
    ]  # fmt: skip


def _one_per_patient(table: pd.DataFrame, name: str, by: str | None) -> tuple[pd.DataFrame, str]:
    varies = (table.groupby("patient_id")[name].nunique(dropna=False) > 1).any()
    if varies:
        return table, "case"
    keys = ["patient_id", *([by] if by is not None and by != name else [])]
    return table.drop_duplicates(keys), "patient"


def _as_numbers(values: pd.Series) -> pd.Series | None:
    """Values as numbers, or None when one of them is text."""
    numbers = pd.to_numeric(values, errors="coerce")
    return None if numbers.isna().any() else numbers


def _numeric_row(name: str, unit: str, group: str, values: pd.Series, smd: float) -> dict[str, Any]:
    known = values.dropna().to_numpy(dtype=np.float64)
    row = {"variable": name, "level": "", "kind": "numeric", "unit": unit, "group": group, "n": known.size}
    row["missing"] = int(values.isna().sum())
    if known.size:
        q1, median, q3 = np.quantile(known, [0.25, 0.5, 0.75])
        row |= {"mean": known.mean(), "median": median, "q1": q1, "q3": q3, "min": known.min(), "max": known.max()}
        row["sd"] = known.std(ddof=1) if known.size > 1 else np.nan
    return row | {"smd": smd}


def _categorical_row(name: str, unit: str, level: str, group: str, values: pd.Series, smd: float) -> dict[str, Any]:
    n, count = int(values.notna().sum()), int((values == level).sum())
    return {
        "variable": name, "level": level, "kind": "categorical", "unit": unit, "group": group, "n": n,
        "missing": int(values.isna().sum()), "count": count, "percent": 100 * count / n if n else np.nan, "smd": smd,
    }  # fmt: skip


def _smd_numeric(groups: Sequence[FloatArray]) -> float:
    if len(groups) != 2 or min(values.size for values in groups) < 2:
        return np.nan
    first, second = groups
    spread = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    return float(abs(first.mean() - second.mean()) / spread) if spread > 0 else np.nan


def _shares(values: pd.Series, levels: Sequence[str]) -> FloatArray:
    known = values.dropna()
    return np.array([(known == level).mean() if len(known) else np.nan for level in levels])


def _smd_categorical(groups: Sequence[FloatArray]) -> float:
    if len(groups) != 2 or not all(np.isfinite(shares).all() for shares in groups) or groups[0].size < 2:
        return np.nan
    first, second = groups[0][1:], groups[1][1:]
    covariance = (np.diag(first) - np.outer(first, first) + np.diag(second) - np.outer(second, second)) / 2
    difference = first - second
    squared = float(difference @ np.linalg.pinv(covariance, hermitian=True) @ difference)
    return float(np.sqrt(max(squared, 0.0))) if np.any(np.diag(covariance) > 0) else np.nan


def format_description(description: pd.DataFrame, *, digits: int = 1) -> pd.DataFrame:
    """Table 1 as text for a report: mean (SD) and median [quartiles], counts (percent).

    Parameters
    ----------
    description : DataFrame
        From :func:`describe_cohort`.
    digits : int
        Decimals of means and percentages.

    Returns
    -------
    DataFrame
        One row per variable and level, one column per group, then ``missing`` and ``smd``; all text.
    """
    require_columns(description, DESCRIPTION_COLUMNS, "description")
    groups = list(dict.fromkeys(description["group"]))
    rows = []
    for (variable, level), part in description.groupby(["variable", "level"], sort=False):
        by_group = part.set_index("group")
        first = part.iloc[0]
        row = {"variable": variable, "level": level}
        row |= {group: _cell(by_group.loc[group], digits) if group in by_group.index else "" for group in groups}
        row["missing"] = "" if first["kind"] == "size" else str(int(first["missing"]))
        row["smd"] = f"{first['smd']:.2f}" if np.isfinite(first["smd"]) else ""
        rows.append(row)
    return pd.DataFrame(rows, columns=["variable", "level", *groups, "missing", "smd"])


def _cell(row: pd.Series, digits: int) -> str:
    if row["kind"] == "size":
        return f"{int(row['count'])}"
    if row["kind"] == "categorical":
        return f"{int(row['count'])} ({row['percent']:.{digits}f} %)" if np.isfinite(row["percent"]) else "–"
    if not row["n"]:
        return "–"
    middle = f"{row['median']:.{digits}f} [{row['q1']:.{digits}f}, {row['q3']:.{digits}f}]"
    spread = f" ({row['sd']:.{digits}f})" if np.isfinite(row["sd"]) else ""
    return f"{row['mean']:.{digits}f}{spread}; {middle}"


def describe_features(features: pd.DataFrame, dictionary: pd.DataFrame | None = None) -> pd.DataFrame:
    """Count features by family and image, and what is missing or constant.

    Parameters
    ----------
    features : DataFrame
        See :func:`hybrid.tables.check_features`; not modified.
    dictionary : DataFrame, optional
        Feature dictionary with columns ``name`` and ``family`` (and ``image``); without it families follow from the
        column prefixes.

    Returns
    -------
    DataFrame
        Columns :data:`FEATURE_SUMMARY_COLUMNS`, one row per family (and image).
    """
    numeric = features.drop(columns=[c for c in ("case_id", "roi_label") if c in features.columns])
    known = _known_families(dictionary)
    keys = [known.get(str(column), (_family(str(column)), "")) for column in numeric.columns]
    rows = []
    for family, image in dict.fromkeys(keys):
        part = numeric.loc[:, [key == (family, image) for key in keys]]
        missing = part.isna()
        constant = int((part.nunique(dropna=True) <= 1).sum())
        rows.append(
            (
                family,
                image,
                part.shape[1],
                len(part),
                int(missing.to_numpy().sum()),
                int(missing.all(axis=1).sum()),
                constant,
            )
        )
    return pd.DataFrame(rows, columns=list(FEATURE_SUMMARY_COLUMNS))


def _known_families(dictionary: pd.DataFrame | None) -> dict[str, tuple[str, str]]:
    if dictionary is None or not {"name", "family"} <= set(dictionary.columns):
        return {}
    image = dictionary["image"].fillna("").astype(str) if "image" in dictionary.columns else [""] * len(dictionary)
    pairs = zip(dictionary["family"].astype(str), image, strict=True)
    return dict(zip(dictionary["name"].astype(str), pairs, strict=True))


def _family(column: str) -> str:
    if column.startswith(HANDCRAFTED_PREFIX):
        return "handcrafted"
    return "deep" if column.startswith(DEEP_PREFIX) else "other"
