"""Table 1: the cohort by outcome or by split; and a summary of the feature table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special, stats

from hybrid.errors import InputError, LeakageError, unknown_name
from hybrid.tables import DEEP_PREFIX, HANDCRAFTED_PREFIX, require_columns

from .panel import FloatArray
from .wording import p_value

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

TEST_COLUMNS: Final = ("test_name", "p")
"""Columns that :func:`describe_cohort` adds with ``tests=True``."""

TEST_RULE: Final = (
    "Numeric variables: Mann-Whitney test between two groups, Kruskal-Wallis test between more; Welch's test, which "
    "assumes normal distributions but no equal variances, for those declared normal beforehand. Categories: "
    "chi-squared test without continuity correction where all expected counts are 5 or more; else Fisher's exact test "
    "(two by two) or the Fisher-Freeman-Halton test by Monte Carlo. p-values are not adjusted for their number."
)
"""How the test of each variable is chosen: by its kind and by expected counts, never by the result of another test."""

SPLIT: Final = "split"
"""Column that :func:`describe_by_split` groups by."""

SPLITS: Final = ("train", "validation", "test", "external")
"""Order in which groups of these names are shown."""

SMALLEST_EXPECTED: Final = 5
MONTE_CARLO: Final = 20_000
"""Tables drawn by the Fisher-Freeman-Halton test: a p-value of 0.05 has a standard error of 0.0015."""

FEATURE_SUMMARY_COLUMNS: Final = (
    "family", "image", "n_features", "n_rows", "n_missing_cells", "n_rows_without_values", "n_constant",
)  # fmt: skip
"""Columns of the table that :func:`describe_features` returns."""

ALL: Final = "all"
MAX_LEVELS: Final = 12
"""Text columns with more distinct values than this are identifiers or free text and are left out."""

_NOT_DESCRIBED: Final = ("case_id", "patient_id", "roi_label")


_SHARED: Final = "not tested: a patient is in several groups"
_REPEATED: Final = "not tested: several rows per patient"
_TOO_FEW: Final = "not tested: a group has fewer than two values"
_CONSTANT: Final = "not tested: one value only"
_NO_GROUPS: Final = "not tested: fewer than two groups"


def describe_cohort(
    cohort: pd.DataFrame,
    by: str | None = "outcome",
    *,
    variables: Sequence[str] | None = None,
    tests: bool = False,
    normal: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Describe the patients, overall and by group.

    Parameters
    ----------
    cohort : DataFrame
        One row per case, see :mod:`hybrid.tables`; not modified.
    by : str or None
        Column that forms the groups; left out when None or when the column is absent or empty. Groups are sorted, with
        :data:`SPLITS` in their own order; those of a pandas Categorical keep the order of its categories.
    variables : sequence of str, optional
        Columns to describe; by default the outcome, the site and every covariate (columns of identifiers, paths and
        free text are left out).
    tests : bool
        Whether the groups are also compared by the rule :data:`TEST_RULE`. Between groups that were formed at random
        any difference is chance; ``smd`` says how large it is.
    normal : sequence of str
        Numeric variables that are declared normally distributed, from what is known about them.
    seed : int
        Of the Fisher-Freeman-Halton test.

    Returns
    -------
    DataFrame
        Columns :data:`DESCRIPTION_COLUMNS`, with ``tests`` also :data:`TEST_COLUMNS`; one row per variable, level and
        group (group ``"all"`` first). Numeric variables fill ``mean`` to ``max`` (quartiles by linear interpolation),
        categorical ones (text, or at most two distinct numbers) ``count`` and ``percent`` of the rows without missing
        value. ``unit`` is ``"patient"`` where the variable is constant within every patient, who is then counted once
        (once per group), else ``"case"``.
        ``smd`` is the absolute standardised mean difference between two groups: difference of means over the root of
        the mean variance, for categorical variables its multivariate form (Austin 2009, doi:10.1002/sim.3697; Yang and
        Dalton 2012, https://support.sas.com/resources/papers/proceedings12/335-2012.pdf); of more than two groups the
        largest of all pairs. ``test_name`` names the test, or says why there is none (then ``p`` is NaN): rows of one
        patient are not independent, and a patient who is in two groups cannot tell them apart.

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
    for name in [*chosen, *normal]:
        if name not in table.columns:
            raise unknown_name("column", name, table.columns)
    for name in chosen:
        found = _variable_rows(table, name, by)
        if tests:
            test, p = _test(table, name, by, is_normal=name in normal, seed=seed)
            found = [row | {"test_name": test, "p": p} for row in found]
        rows += found
    return pd.DataFrame(rows, columns=[*DESCRIPTION_COLUMNS, *(TEST_COLUMNS if tests else ())])


def describe_by_split(
    cohorts: Mapping[str, pd.DataFrame],
    *,
    variables: Sequence[str] | None = None,
    normal: Sequence[str] = (),
    seed: int = 0,
) -> pd.DataFrame:
    """Describe training, validation, test and external patients side by side, with tests.

    Parameters
    ----------
    cohorts : mapping of str to DataFrame
        Cohort tables by the name of their split, in the order to be shown, for example
        ``{"train": ..., "test": ..., "external": ...}``; not modified.
    variables, normal, seed
        See :func:`describe_cohort`.

    Returns
    -------
    DataFrame
        As :func:`describe_cohort` with ``tests=True``; groups are ``"all"`` and the splits.

    Raises
    ------
    InputError
        With fewer than two splits, or for a split without rows.
    LeakageError
        When a patient is in two splits.
    """
    if len(cohorts) < 2:
        raise InputError(f"A comparison needs two splits or more; found {len(cohorts)}.", advice="See describe_cohort.")
    _check_apart(cohorts)
    names = list(cohorts)
    joined = pd.concat([cohort.assign(**{SPLIT: name}) for name, cohort in cohorts.items()], ignore_index=True)
    joined[SPLIT] = pd.Categorical(joined[SPLIT], categories=names, ordered=True)
    return describe_cohort(joined, SPLIT, variables=variables, tests=True, normal=normal, seed=seed)


def _check_apart(cohorts: Mapping[str, pd.DataFrame]) -> None:
    seen: dict[Any, str] = {}
    for name, cohort in cohorts.items():
        require_columns(cohort, ["case_id"], f"{name} cohort")
        if cohort.empty:
            raise InputError(f"The split {name!r} has no rows.", advice="Leave it out.")
        for patient in cohort["patient_id" if "patient_id" in cohort.columns else "case_id"].unique():
            if patient in seen:
                raise LeakageError(
                    f"Patient {patient!r} is in the splits {seen[patient]!r} and {name!r}.",
                    advice="Keep each patient in one split; put the site in front of ids that two hospitals share.",
                )
            seen[patient] = name


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
        labels = table[by].astype(object).map(_text, na_action="ignore")
        names = sorted(labels.dropna().unique(), key=_split_order)
        if isinstance(table[by].dtype, pd.CategoricalDtype):
            names = [name for name in map(_text, table[by].cat.categories) if name in names]
        groups += [(str(name), table[labels == name]) for name in names]
    return groups


def _split_order(text: str) -> tuple[Any, ...]:
    return (0, SPLITS.index(text)) if text in SPLITS else (1, *_natural(text))


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
    groups = _groups(rows, by)
    if _is_numeric(rows[name]):
        values = [(group, pd.to_numeric(part[name], errors="coerce")) for group, part in groups]
        known = [series.dropna().to_numpy(dtype=np.float64) for _, series in values[1:]]
        smd = _largest_of_pairs(_smd_numeric, known)
        return [_numeric_row(name, unit, group, series, smd) for group, series in values]
    levels = sorted(rows[name].dropna().map(_text).unique(), key=_natural)
    texts = [(group, part[name].map(_text, na_action="ignore")) for group, part in groups]
    smd = _largest_of_pairs(_smd_categorical, [_shares(series, levels) for _, series in texts[1:]])
    return [
        _categorical_row(name, unit, level, group, series, smd) for level in levels for group, series in texts
    ]  # fmt: skip


def _one_per_patient(table: pd.DataFrame, name: str, by: str | None) -> tuple[pd.DataFrame, str]:
    varies = (table.groupby("patient_id")[name].nunique(dropna=False) > 1).any()
    if varies:
        return table, "case"
    keys = ["patient_id", *([by] if by is not None and by != name else [])]
    return table.drop_duplicates(keys), "patient"


def _is_numeric(values: pd.Series) -> bool:
    numbers = _as_numbers(values.dropna())
    return numbers is not None and numbers.nunique() > 2


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


def _largest_of_pairs(smd: Callable[[FloatArray, FloatArray], float], groups: Sequence[FloatArray]) -> float:
    values = [smd(first, second) for first, second in itertools.combinations(groups, 2)]
    return max((value for value in values if np.isfinite(value)), default=np.nan)


def _smd_numeric(first: FloatArray, second: FloatArray) -> float:
    if min(first.size, second.size) < 2:
        return np.nan
    spread = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    return float(abs(first.mean() - second.mean()) / spread) if spread > 0 else np.nan


def _shares(values: pd.Series, levels: Sequence[str]) -> FloatArray:
    known = values.dropna()
    return np.array([(known == level).mean() if len(known) else np.nan for level in levels])


def _smd_categorical(first: FloatArray, second: FloatArray) -> float:
    if first.size < 2 or not np.isfinite([first, second]).all():
        return np.nan
    first, second = first[1:], second[1:]
    covariance = (np.diag(first) - np.outer(first, first) + np.diag(second) - np.outer(second, second)) / 2
    difference = first - second
    squared = float(difference @ np.linalg.pinv(covariance, hermitian=True) @ difference)
    return float(np.sqrt(max(squared, 0.0))) if np.any(np.diag(covariance) > 0) else np.nan


def _test(table: pd.DataFrame, name: str, by: str | None, *, is_normal: bool, seed: int) -> tuple[str, float]:
    """Name and p-value of the test that :data:`TEST_RULE` chooses, or why there is none."""
    rows, unit = _one_per_patient(table, name, by)
    groups = [part.dropna(subset=[name]) for _, part in _groups(rows, by)[1:]]
    if len(groups) < 2 or by == name:
        return _NO_GROUPS, np.nan
    members = pd.concat([part[["patient_id"]].drop_duplicates() for part in groups])
    if unit == "case" and any(part["patient_id"].duplicated().any() for part in groups):
        return _REPEATED, np.nan
    if members["patient_id"].duplicated().any():
        return _SHARED, np.nan
    if min(len(part) for part in groups) < 2:
        return _TOO_FEW, np.nan
    if pd.concat(groups)[name].map(_text).nunique() < 2:
        return _CONSTANT, np.nan
    if _is_numeric(rows[name]):
        return _numeric_test([pd.to_numeric(part[name]).to_numpy(dtype=np.float64) for part in groups], is_normal)
    levels = sorted(pd.concat(groups)[name].map(_text).unique())
    counts = [[int((part[name].map(_text) == level).sum()) for part in groups] for level in levels]
    return _categorical_test(np.array(counts), seed)


def _numeric_test(groups: Sequence[FloatArray], is_normal: bool) -> tuple[str, float]:
    two = len(groups) == 2
    if is_normal:
        if min(values.var() for values in groups) == 0:
            return "not tested: no variance in a group", np.nan
        from statsmodels.stats.oneway import anova_oneway

        # Of two groups this is Welch's t-test: F is the square of t.
        label = "Welch's t-test" if two else "Welch's analysis of variance"
        return label, float(anova_oneway(list(groups), use_var="unequal").pvalue)
    if two:
        return "Mann-Whitney test", float(stats.mannwhitneyu(*groups).pvalue)
    return "Kruskal-Wallis test", float(stats.kruskal(*groups).pvalue)


def _categorical_test(counts: NDArray[np.int64], seed: int) -> tuple[str, float]:
    expected = stats.contingency.expected_freq(counts)
    if expected.min() >= SMALLEST_EXPECTED:
        return "chi-squared test", float(stats.chi2_contingency(counts, correction=False).pvalue)
    if counts.shape == (2, 2):
        return "Fisher's exact test", float(stats.fisher_exact(counts).pvalue)
    return f"Fisher-Freeman-Halton test, {MONTE_CARLO} draws", _freeman_halton(counts, seed)


def _freeman_halton(counts: NDArray[np.int64], seed: int) -> float:
    """Share of tables with these margins that are at most as probable (Freeman and Halton 1951).

    doi:10.1093/biomet/38.1-2.141. The observed table counts as one of the draws, so that p is never 0.
    """
    margins = counts.sum(axis=1), counts.sum(axis=0)
    drawn = stats.random_table(*margins, seed=seed).rvs(MONTE_CARLO)
    # The logarithm of a table's probability, but for what all tables of these margins share.
    of_drawn, observed = -special.gammaln(drawn + 1.0).sum(axis=(1, 2)), -special.gammaln(counts + 1.0).sum()
    return float((1 + np.sum(of_drawn <= observed + 1e-7)) / (1 + MONTE_CARLO))


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
        One row per variable and level, one column per group, then ``missing`` and ``smd``, and ``test_name`` and
        ``p`` where the description has them; all text.
    """
    require_columns(description, DESCRIPTION_COLUMNS, "description")
    groups = list(dict.fromkeys(description["group"]))
    tested = [column for column in TEST_COLUMNS if column in description.columns]
    rows = []
    for (variable, level), part in description.groupby(["variable", "level"], sort=False):
        by_group = part.set_index("group")
        first = part.iloc[0]
        row = {"variable": variable, "level": level}
        row |= {group: _cell(by_group.loc[group], digits) if group in by_group.index else "" for group in groups}
        row["missing"] = "" if first["kind"] == "size" else str(int(first["missing"]))
        row["smd"] = f"{first['smd']:.2f}" if np.isfinite(first["smd"]) else ""
        if tested:
            row["test_name"] = "" if first["kind"] == "size" else first["test_name"]
            row["p"] = p_value(first["p"]) if np.isfinite(first["p"]) else ""
        rows.append(row)
    return pd.DataFrame(rows, columns=["variable", "level", *groups, "missing", "smd", *tested])


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
