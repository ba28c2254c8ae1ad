"""What can be known to go wrong before any model is trained: outcome, batches, duplicates, features, numbers.

:func:`check_design` runs every check and returns one table. A check never changes data, and no check selects features:
the association of features with the outcome is looked at only to find values that leak it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import spatial, stats

from hybrid.errors import InputError
from hybrid.tables import check_features

from .resampling import FloatArray
from .sample_size import sample_size_verdict

Level = Literal["info", "warning", "error"]

INFO: Final = "info"
WARNING: Final = "warning"
ERROR: Final = "error"

DESIGN_COLUMNS: Final = ("check", "finding", "level", "advice")
"""Columns of the table that :func:`check_design` returns."""

MIN_MINORITY: Final = 10
"""Fewer patients than this in the smaller class is a warning: each fold would be tested on one or none."""

IMBALANCE: Final = 0.1
"""A smaller class below this share is a warning."""

MIN_EVENTS_PER_PARAMETER: Final = 10.0
"""Fewer events than this per candidate parameter is a warning (Peduzzi 1996, doi:10.1016/S0895-4356(96)00236-3)."""

LEAK_AUC: Final = 0.97
"""A single feature that separates the classes better than this, in either direction, may leak the outcome."""

ALPHA: Final = 0.05

NEAR_DISTANCE: Final = 0.01
"""Two cases are near-duplicates when their features differ by less than this, see :func:`near_duplicates`."""

MIN_FEATURES_FOR_DUPLICATES: Final = 5
"""With fewer varying features, different patients agree by chance."""

IQR_OF_NORMAL: Final = 1.349
"""Interquartile range of a normal distribution in standard deviations."""

N_TABLES: Final = 10_000
"""Random tables of the Monte-Carlo test of association."""

N_NAMES: Final = 5
"""Names that a finding lists."""


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    check: str
    finding: str
    level: Level
    advice: str = ""


@dataclass(frozen=True)
class _Design:
    features: pd.DataFrame
    y: NDArray[np.bool_]
    patients: NDArray[np.str_]
    batches: pd.DataFrame
    n_parameters: int
    seed: int


def check_design(
    features: pd.DataFrame,
    outcome: pd.Series,
    *,
    patients: pd.Series | None = None,
    batches: pd.DataFrame | pd.Series | None = None,
    n_parameters: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Check a study with a binary outcome before training.

    Parameters
    ----------
    features : DataFrame
        See :func:`hybrid.tables.check_features`: one row per case, numeric columns, ``case_id`` as index or column.
    outcome : Series
        0 or 1, indexed by ``case_id``; it must cover every row of ``features``.
    patients : Series, optional
        Patient of each case, indexed by ``case_id``; by default every case is a patient.
    batches : DataFrame or Series, optional
        Site, scanner, protocol or any other group that must not predict the outcome, indexed by ``case_id``.
    n_parameters : int, optional
        Candidate parameters of the model; by default the number of features.
    seed : int
        Of the Monte-Carlo test of association.

    Returns
    -------
    DataFrame
        Columns :data:`DESIGN_COLUMNS`, at least one row per check. ``level`` is ``"error"`` where results would be
        wrong, ``"warning"`` where they would be doubtful, and ``"info"`` otherwise.

    Raises
    ------
    InputError
        For an invalid feature table, or an outcome, patient or batch column that does not fit it.
    """
    design = _read(features, outcome, patients, batches, n_parameters, seed)
    checks: tuple[Callable[[_Design], Iterator[Finding]], ...] = (
        _class_balance, _events_per_parameter, _batch_association, _constant_features, _duplicates,
        _near_perfect_features,
    )  # fmt: skip
    rows = [(found.check, found.finding, found.level, found.advice) for check in checks for found in check(design)]
    return pd.DataFrame(rows, columns=list(DESIGN_COLUMNS))


def _read(
    features: pd.DataFrame,
    outcome: pd.Series,
    patients: pd.Series | None,
    batches: pd.DataFrame | pd.Series | None,
    n_parameters: int | None,
    seed: int,
) -> _Design:
    table = check_features(features)
    if table.empty:
        raise InputError("The feature table has no rows or no columns.", advice="Was the extraction run to its end?")
    if n_parameters is not None and n_parameters < 1:
        raise InputError(
            f"There must be at least one candidate parameter; found {n_parameters}.",
            advice="Leave n_parameters out to count every feature.",
        )
    case = pd.Index(table.index.get_level_values("case_id").astype(str))
    values = pd.to_numeric(_align(outcome, case, "outcome"), errors="coerce").to_numpy(dtype=np.float64)
    if not np.isin(values, (0.0, 1.0)).all():
        wrong = case[~np.isin(values, (0.0, 1.0))][0]
        raise InputError(
            "Outcomes must be 0 or 1.", advice="Code the positive class as 1 and remove missing ones.", case_id=wrong
        )
    ids = case.to_series(index=case) if patients is None else _align(patients, case, "patient").astype(str)
    frame = pd.DataFrame(index=case) if batches is None else pd.DataFrame(batches)
    aligned = {str(name): _align(frame[name], case, str(name)) for name in frame.columns}
    return _Design(
        table, values == 1.0, ids.to_numpy(dtype=str), pd.DataFrame(aligned, index=case),
        n_parameters or table.shape[1], seed,
    )  # fmt: skip


def _align(column: pd.Series, case: pd.Index, what: str) -> pd.Series:
    """Values of a column for each row of the feature table."""
    by_case = column.copy()
    by_case.index = by_case.index.astype(str)
    if by_case.index.has_duplicates:
        case_id = str(by_case.index[by_case.index.duplicated()][0])
        raise InputError(
            f"The {what} column has two values for one case.", advice="Keep one row per case.", case_id=case_id
        )
    missing = case[~case.isin(by_case.index)]
    if len(missing):
        raise InputError(
            f"The {what} column has no value for a case of the feature table.",
            advice="Index it by case_id and cover every case.",
            case_id=str(missing[0]),
        )
    return by_case.loc[case]


def _by_patient(design: _Design) -> NDArray[np.bool_]:
    """Whether each patient has a case with the event."""
    return pd.Series(design.y).groupby(design.patients).any().to_numpy(dtype=bool)


def _class_balance(design: _Design) -> Iterator[Finding]:
    name = "class balance"
    events = _by_patient(design)
    n, n_events = events.size, int(events.sum())
    smaller = min(n_events, n - n_events)
    share = smaller / n
    text = f"{n_events} of {n} patients ({n_events / n:.0%}) have the event."
    if smaller == 0:
        yield Finding(name, text, ERROR, "There is nothing to predict with one class; check the outcome column.")
    elif smaller < MIN_MINORITY:
        yield Finding(
            name, text, WARNING,
            f"With {smaller} patients in the smaller class no model can be validated well; report wide intervals and "
            "use few folds with many repeats.",
        )  # fmt: skip
    elif share < IMBALANCE:
        yield Finding(
            name, text, WARNING,
            "Keep the classes as they are; do not oversample before splitting, and report sensitivity, predictive "
            "values and calibration besides the AUC.",
        )  # fmt: skip
    else:
        yield Finding(name, text, INFO)


def _events_per_parameter(design: _Design) -> Iterator[Finding]:
    name = "events per candidate parameter"
    events = _by_patient(design)
    n_events = int(events.sum())
    if not 0 < n_events < events.size:
        yield Finding(name, "Not defined with one class.", INFO)
        return
    verdict = sample_size_verdict(events.size, n_events, design.n_parameters)
    limiting = min(n_events, events.size - n_events) / design.n_parameters
    if limiting < MIN_EVENTS_PER_PARAMETER or not verdict.enough:
        advice = (
            "Reduce features without looking at the outcome, select inside the folds only, penalise, and report the "
            "calibration slope; or give n_parameters if the model has fewer candidates than the table has columns."
        )
        yield Finding(name, verdict.sentence, WARNING, advice)
    else:
        yield Finding(name, verdict.sentence, INFO)


def _batch_association(design: _Design) -> Iterator[Finding]:
    for column in design.batches.columns:
        name = f"association of {column} with the outcome"
        pairs = pd.DataFrame({"batch": design.batches[column].to_numpy(), "y": design.y, "patient": design.patients})
        missing = int(pairs["batch"].isna().sum())
        if missing:
            yield Finding(
                name, f"{missing} cases have no value of {column}.", WARNING, "Complete the column or say why not."
            )
        pairs = pairs.dropna(subset="batch")
        # One vote per patient and batch: several scans of a patient are not independent.
        grouped = pairs.assign(batch=pairs["batch"].astype(str)).groupby(["patient", "batch"])["y"].any().reset_index()
        yield _association(name, str(column), pd.crosstab(grouped["batch"], grouped["y"]), design.seed)


def _association(name: str, column: str, table: pd.DataFrame, seed: int) -> Finding:
    counts = table.to_numpy(dtype=np.int64)
    if min(counts.shape, default=0) < 2:
        return Finding(name, f"Not tested: {column} or the outcome has one value.", INFO)
    p, method = association_p(counts, seed=seed)
    pure = [str(batch) for batch, row in zip(table.index, counts, strict=True) if (row == 0).any()]
    text = f"{method}: p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} over {counts.shape[0]} values of {column}."
    if pure:
        text += f" One outcome only in: {_listing(pure)}."
    if len(pure) == counts.shape[0]:
        return Finding(
            name, text, ERROR,
            f"{column} determines the outcome: a model can read the outcome from differences between batches. No "
            "harmonisation repairs this; collect both outcomes in every batch.",
        )  # fmt: skip
    if p < ALPHA:
        return Finding(
            name, text, WARNING,
            f"A model may learn {column} instead of disease. Report performance within each {column}, leave one "
            f"{column} out, and compare with a model of {column} alone.",
        )  # fmt: skip
    return Finding(name, text, INFO)


def association_p(counts: NDArray[np.int64], *, seed: int = 0) -> tuple[float, str]:
    """Test whether rows and columns of a table of counts are independent.

    Parameters
    ----------
    counts : ndarray of int, shape (r, c)
        At least two rows and columns, without empty ones.
    seed : int
        Of the Monte-Carlo test.

    Returns
    -------
    p : float
        Two-sided.
    method : str
        Fisher's exact test for 2 x 2; otherwise the chi-square test, with :data:`N_TABLES` random tables of the same
        margins where an expected count is below 5.
    """
    if counts.shape == (2, 2):
        return float(stats.fisher_exact(counts).pvalue), "Fisher's exact test"
    found = stats.chi2_contingency(counts, correction=False)
    if found.expected_freq.min() >= 5:
        return float(found.pvalue), "Chi-square test"
    tables = stats.random_table(counts.sum(axis=1), counts.sum(axis=0), seed=np.random.default_rng(seed)).rvs(N_TABLES)
    statistic = np.sum((tables - found.expected_freq) ** 2 / found.expected_freq, axis=(1, 2))
    # Equal tables may differ in the last digit of the statistic.
    exceeding = int(np.sum(statistic >= found.statistic * (1 - 1e-9)))
    return (1 + exceeding) / (1 + N_TABLES), f"Chi-square test, {N_TABLES} random tables"


def _constant_features(design: _Design) -> Iterator[Finding]:
    values = design.features.to_numpy()
    names = design.features.columns
    infinite = np.isinf(values).any(axis=0)
    if infinite.any():
        yield Finding(
            "infinite values", f"{infinite.sum()} features hold infinity: {_listing(names[infinite])}.", ERROR,
            "Repair the extraction; a division by zero is the usual cause.",
        )  # fmt: skip
    empty = np.isnan(values).all(axis=0)
    if empty.any():
        yield Finding(
            "empty features", f"{empty.sum()} features have no value: {_listing(names[empty])}.", WARNING,
            "Drop them; they cannot be imputed.",
        )  # fmt: skip
    constant = ~_varying(values) & ~empty
    text = f"{constant.sum()} of {names.size} features have one value in all cases"
    if constant.any():
        yield Finding("constant features", f"{text}: {_listing(names[constant])}.", WARNING, "Drop them.")
    else:
        yield Finding("constant features", f"{text}.", INFO)


def _varying(values: FloatArray) -> NDArray[np.bool_]:
    """Which columns take more than one value."""
    low = np.min(np.where(np.isnan(values), np.inf, values), axis=0)
    high = np.max(np.where(np.isnan(values), -np.inf, values), axis=0)
    return np.asarray(high > low)


def _duplicates(design: _Design) -> Iterator[Finding]:
    name = "duplicate cases"
    values = np.where(np.isinf(design.features), np.nan, design.features)
    values = values[:, _varying(values)]
    if values.shape[1] < MIN_FEATURES_FOR_DUPLICATES:
        yield Finding(
            name, f"Not checked: fewer than {MIN_FEATURES_FOR_DUPLICATES} features vary, so that patients may agree "
            "by chance.", INFO,
        )  # fmt: skip
        return
    pairs, equal = near_duplicates(values)
    across = [design.patients[i] != design.patients[j] for i, j in pairs]
    within = len(pairs) - sum(across)
    if within:
        yield Finding(
            name, f"{within} pairs of cases of one patient have nearly equal features.", INFO,
            "Splits by patient keep them together.",
        )  # fmt: skip
    apart = [(pair, same) for pair, same, other in zip(pairs, equal, across, strict=True) if other]
    identical, similar = [pair for pair, same in apart if same], [pair for pair, same in apart if not same]
    if identical:
        yield _duplicate_finding(design, identical, "equal", ERROR)
    if similar:
        yield _duplicate_finding(design, similar, "nearly equal", WARNING)
    if not apart:
        yield Finding(name, "No two patients have equal or nearly equal features.", INFO)


def _duplicate_finding(design: _Design, pairs: list[tuple[int, int]], how: str, level: Level) -> Finding:
    case = design.features.index.get_level_values("case_id").astype(str)
    contrary = sum(bool(design.y[i] != design.y[j]) for i, j in pairs)
    noun = "pair" if len(pairs) == 1 else "pairs"
    names = _listing(f"{case[i]} and {case[j]}" for i, j in pairs)
    text = f"{len(pairs)} {noun} of patients with {how} features: {names}"
    text += f"; {contrary} with different outcomes." if contrary else "."
    advice = (
        "Look at the images: the same scan under two names lands in training and test folds. Keep one, or give both "
        "the same patient."
    )
    return Finding("duplicate cases", text, level, advice)


def near_duplicates(
    values: FloatArray, *, distance: float = NEAR_DISTANCE
) -> tuple[list[tuple[int, int]], NDArray[np.bool_]]:
    """Pairs of rows whose features are equal or nearly so.

    Parameters
    ----------
    values : ndarray of shape (n, k)
        Finite or NaN; every column varies. A missing value counts as the column's median.
    distance : float
        Rows are nearly equal when their root-mean-square difference is below this, each column in units of its
        interquartile range over 1.349. Columns of which half the values agree are left out of this.

    Returns
    -------
    pairs : list of (int, int)
        Positions, the smaller first, sorted.
    equal : ndarray of bool, shape (n_pairs,)
        Whether the rows are equal in every column.
    """
    filled = np.where(np.isnan(values), np.nanmedian(values, axis=0), values)
    # The interquartile range: with a standard deviation, one outlier would make all other cases look alike.
    low, high = np.quantile(filled, [0.25, 0.75], axis=0)
    wide = high > low
    equal = spatial.distance.pdist(filled, "chebyshev") == 0
    found = equal.copy()
    if wide.sum() >= MIN_FEATURES_FOR_DUPLICATES:
        scaled = filled[:, wide] * IQR_OF_NORMAL / (high - low)[wide]
        found |= spatial.distance.pdist(scaled) / np.sqrt(wide.sum()) < distance
    first, second = np.triu_indices(values.shape[0], k=1)
    pairs = [(int(i), int(j)) for i, j in zip(first[found], second[found], strict=True)]
    return pairs, equal[found]


def _near_perfect_features(design: _Design) -> Iterator[Finding]:
    name = "near-perfect single features"
    if design.y.all() or not design.y.any():
        yield Finding(name, "Not checked with one class.", INFO)
        return
    areas, p = single_feature_aucs(design.features.to_numpy(), design.y)
    strength = np.maximum(areas, 1 - areas)
    strong = strength > LEAK_AUC
    if not strong.any():
        best = np.nanmax(strength) if np.isfinite(strength).any() else np.nan
        text = f"No feature separates the classes with an AUC above {LEAK_AUC:g}"
        yield Finding(name, f"{text} (largest {best:.2f})." if np.isfinite(best) else f"{text}.", INFO)
        return
    by_chance = p * np.isfinite(areas).sum() > ALPHA
    order = np.argsort(-np.where(strong, strength, -1))[: int(strong.sum())]
    listed = [f"{design.features.columns[i]} (AUC {areas[i]:.2f})" for i in order]
    noun = "feature separates" if len(order) == 1 else "features separate"
    text = f"{len(order)} {noun} the classes almost perfectly: {_listing(listed)}."
    if by_chance[strong].all():
        text += " Among so many features and so few cases this happens by chance."
        yield Finding(name, text, INFO, "Do not report single features; select inside the folds.")
    else:
        advice = (
            "Ask whether the feature is known before the outcome: identifiers, dates, treatment, a mask drawn with "
            "knowledge of the outcome, or an export from two sources leak it."
        )
        yield Finding(name, text, WARNING, advice)


def single_feature_aucs(values: FloatArray, y: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """AUC of every feature alone, with the p-value of the Mann-Whitney test.

    Parameters
    ----------
    values : ndarray of shape (n, k)
        NaN and infinite entries are left out of their column.
    y : ndarray of bool, shape (n,)
        Outcome.

    Returns
    -------
    areas, p : ndarray of shape (k,)
        NaN for a column without values in a class. Exact p for small samples without ties, normal approximation
        otherwise.
    """
    areas, p = np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    finite = np.isfinite(values)
    patterns, which = np.unique(finite, axis=1, return_inverse=True)
    for i, rows in enumerate(patterns.T):
        positive, negative = rows & y, rows & ~y
        columns = np.flatnonzero(np.ravel(which) == i)
        if not positive.any() or not negative.any():
            continue
        test = stats.mannwhitneyu(values[np.ix_(positive, columns)], values[np.ix_(negative, columns)], axis=0)
        areas[columns] = test.statistic / (positive.sum() * negative.sum())
        p[columns] = test.pvalue
    return areas, p


def _listing(names: Iterable[object]) -> str:
    """First few names, and how many more there are."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - N_NAMES} more" if len(texts) > N_NAMES else ""
    return ", ".join(texts[:N_NAMES]) + more
