"""Agreement of predicted with reference masks, summarised over cases: overlap, volumes, overfitting.

Everything starts from the table of mask metrics (:data:`hybrid.tables.MASK_COLUMNS`). Means are over cases; intervals
resample patients with all their cases, so that follow-up scans do not count as new patients. A value that is not
defined (an empty mask under some conventions) is NaN: it is left out of the mean and counted in ``n_undefined``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from hybrid.errors import InputError, LeakageError, unknown_name
from hybrid.tables import MASK_COLUMNS, require_columns

from .proportions import NO_INTERVAL, PATIENT_BOOTSTRAP, patient_codes
from .resampling import FloatArray, Resampled, bootstrap

SPLITS: Final = ("train", "validation", "test", "external")
"""Sets of patients, in the order in which tables and figures show them."""

OVERLAP_METRICS: Final = (
    "dice",
    "iou",
    "precision",
    "sensitivity",
    "specificity",
    "surface_dice",
    "hd95_mm",
    "assd_mm",
)
"""Metrics that :func:`summarise_overlap` reports as far as the table has them."""

SCORES: Final = ("dice", "iou", "precision", "sensitivity", "specificity", "surface_dice")
"""Metrics between 0 and 1 where more is better: those with a generalisation gap."""

SUMMARY_COLUMNS: Final = (
    "metric", "n_cases", "n_patients", "n_undefined", "mean", "sd", "median", "ci_low", "ci_high", "convention",
    "method",
)  # fmt: skip
"""Columns that :func:`summarise_overlap` adds to those it groups by."""

GAP_COLUMNS: Final = (
    "structure", "metric", "train_split", "test_split", "n_train_cases", "n_train_patients", "n_test_cases",
    "n_test_patients", "train_mean", "train_ci_low", "train_ci_high", "test_mean", "test_ci_low", "test_ci_high", "gap",
    "ci_low", "ci_high", "threshold", "overfit", "convention",
)  # fmt: skip
"""Columns of :attr:`GeneralisationGap.table`."""

AGREEMENT_COLUMNS: Final = (
    "structure", "n_cases", "n_patients", "bias_ml", "bias_ci_low", "bias_ci_high", "sd_ml", "lower_limit_ml",
    "lower_limit_ci_low", "lower_limit_ci_high", "upper_limit_ml", "upper_limit_ci_low", "upper_limit_ci_high",
    "interval_method",
)  # fmt: skip
"""Columns of :attr:`BlandAltman.summary`."""

LIMIT_Z: Final = 1.96
"""Standard deviations between the bias and a limit of agreement."""


@dataclass(frozen=True)
class GeneralisationGap:
    """How much better a model is on the patients that it was fitted on.

    Attributes
    ----------
    table : DataFrame
        One row, columns :data:`GAP_COLUMNS`, unrounded.
    method : str
        One sentence for a paper, with the verdict.
    """

    table: pd.DataFrame
    method: str

    @property
    def overfit(self) -> bool:
        """Whether the lower bound of the gap's interval exceeds the threshold."""
        return bool(self.table["overfit"].iloc[0])

    def _repr_html_(self) -> str:
        columns = ["structure", "metric", "train_mean", "test_mean", "gap", "ci_low", "ci_high", "threshold", "overfit"]
        return _as_html(self.table[columns], self.method)


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of predicted with reference volumes.

    Attributes
    ----------
    table : DataFrame
        One row per case: ``case_id, patient_id, reference_ml, predicted_ml, mean_ml, difference_ml``; the difference is
        predicted minus reference.
    summary : DataFrame
        One row, columns :data:`AGREEMENT_COLUMNS`, in ml.
    method : str
        One sentence for a paper.
    """

    table: pd.DataFrame
    summary: pd.DataFrame
    method: str

    def _repr_html_(self) -> str:
        columns = ["structure", "n_cases", "bias_ml", "sd_ml", "lower_limit_ml", "upper_limit_ml"]
        return _as_html(self.summary[columns], self.method)


def check_masks(table: pd.DataFrame, needs: Sequence[str] = MASK_COLUMNS) -> pd.DataFrame:
    """Validate a table of mask metrics and return a copy with text ids and ``""`` where there is no lesion.

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`; ``site`` and ``size_bin`` may be absent.
    needs : sequence of str
        Columns that must be there.

    Raises
    ------
    InputError
        For an empty table, a missing column, an unknown split, a value that is no number or a repeated row.
    """
    require_columns(table, [name for name in needs if name not in ("site", "size_bin")], "masks")
    if table.empty:
        raise InputError("The masks table has no rows.", advice="Was the evaluation run to its end?")
    result = table.reset_index(drop=True).copy()
    for name in ("case_id", "patient_id", "split", "structure", "metric"):
        result[name] = result[name].astype(str)
    for name in ("lesion_id", "convention", "site", "size_bin"):
        values = result[name] if name in result.columns else pd.Series("", index=result.index)
        result[name] = values.astype(object).where(values.notna(), "").astype(str)
    wrong = sorted(set(result["split"]) - set(SPLITS))
    if wrong:
        raise unknown_name("split", wrong[0], SPLITS)
    _check_values(result)
    return result


def _check_values(table: pd.DataFrame) -> None:
    values = pd.to_numeric(table["value"], errors="coerce")
    bad = values.isna() & table["value"].notna()
    if bad.any():
        row = table.loc[bad].iloc[0]
        raise InputError(f"Column 'value' must hold numbers; found {row['value']!r}.", case_id=row["case_id"])
    table["value"] = values.astype(np.float64)
    repeated = table.duplicated(["case_id", "split", "structure", "lesion_id", "metric", "convention"])
    if repeated.any():
        row = table.loc[repeated].iloc[0]
        raise InputError(
            f"{row['metric']!r} of {row['structure']!r} stands twice in the masks table.",
            advice="Was a table appended to itself, or were two models put into one table?",
            case_id=row["case_id"],
        )


def structure_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows about whole structures of a checked table."""
    return table[table["lesion_id"] == ""]


def summarise_overlap(
    table: pd.DataFrame,
    *,
    by: Sequence[str] = ("split", "structure"),
    metrics: Sequence[str] | None = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Mean, spread and interval of each metric over cases.

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`; only rows about whole structures are used.
    by : sequence of str
        Columns that define the groups; ``"structure"`` must be among them when the table has several.
    metrics : sequence of str, optional
        Default: :data:`OVERLAP_METRICS`, as far as the table has them.
    n_boot, seed : int
        Draws of the bootstrap over patients, and their seed.
    level : float
        Confidence level.

    Returns
    -------
    DataFrame
        The columns of ``by``, then :data:`SUMMARY_COLUMNS`. The mean is over cases with a value, in the metric's unit;
        the interval (BCa, Efron 1987, doi:10.1080/01621459.1987.10478410) resamples patients and is NaN with fewer than
        two. An infinite distance is a value: mean infinite, no spread and no interval, median as it is.

    Raises
    ------
    InputError
        For an invalid table, an unknown metric, two values of a case in one group or two conventions in one mean.
    """
    rows = structure_rows(check_masks(table))
    require_columns(rows, by, "masks")
    chosen = _choose_metrics(rows, metrics)
    rows = rows[rows["metric"].isin(chosen)]
    parts: list[dict[str, Any]] = []
    for key, group in _groups(rows, by):
        parts += [{**key, **row} for row in _summarise_group(group, chosen, n_boot, seed, level)]
    return pd.DataFrame(parts, columns=[*by, *SUMMARY_COLUMNS])


def _choose_metrics(rows: pd.DataFrame, metrics: Sequence[str] | None) -> list[str]:
    present = set(rows["metric"])
    chosen = [name for name in OVERLAP_METRICS if name in present] if metrics is None else list(metrics)
    for name in chosen:
        if name not in present:
            raise unknown_name("metric", name, present)
    if not chosen:
        raise InputError(
            f"The masks table has none of the metrics {', '.join(OVERLAP_METRICS)}.",
            advice="Pass metrics=[...] with metrics that it has.",
        )
    return chosen


def _groups(rows: pd.DataFrame, by: Sequence[str]) -> list[tuple[dict[str, Any], pd.DataFrame]]:
    """Return groups in the order of :data:`SPLITS` and, within, of first appearance."""
    if not by:
        return [({}, rows)]
    groups = [(dict(zip(by, key, strict=True)), group) for key, group in rows.groupby(list(by), sort=False)]
    return sorted(groups, key=lambda item: SPLITS.index(item[0]["split"]) if "split" in item[0] else 0)


def _summarise_group(
    group: pd.DataFrame, metrics: Sequence[str], n_boot: int, seed: int, level: float
) -> list[dict[str, Any]]:
    wide = _wide(group, metrics)
    patients = wide.index.get_level_values("patient_id")
    codes = patient_codes(patients)
    values = wide.to_numpy(dtype=np.float64)
    drawn = _bootstrap_means(values, codes, n_boot, seed)
    bounds = drawn.interval(level=level)
    rows = []
    for i, metric in enumerate(wide.columns):
        column, (low, high) = values[:, i], bounds[i]
        defined = column[~np.isnan(column)]
        usable = bool(np.isfinite(defined).all()) and np.unique(codes[~np.isnan(column)]).size >= 2
        own = group[group["metric"] == metric]
        rows.append({
            "metric": metric, "n_cases": len(own), "n_patients": own["patient_id"].nunique(),
            "n_undefined": int(own["value"].isna().sum()), **_moments(defined), "ci_low": low if usable else np.nan,
            "ci_high": high if usable else np.nan, "convention": _one_convention(own),
            "method": f"{PATIENT_BOOTSTRAP}, BCa, {n_boot} draws" if usable else NO_INTERVAL,
        })  # fmt: skip
    return rows


def _moments(values: FloatArray) -> dict[str, float]:
    spread = values.size > 1 and bool(np.isfinite(values).all())
    return {
        "mean": float(values.mean()) if values.size else np.nan,
        "sd": float(values.std(ddof=1)) if spread else np.nan,
        "median": float(np.median(values)) if values.size else np.nan,
    }


def _wide(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """One row per case (index: case, patient) and one column per metric."""
    repeated = rows.duplicated(["case_id", "metric"])
    if repeated.any():
        raise InputError(
            "A case has several values of one metric in a group.",
            advice="Add 'structure' (and 'split') to by=, or filter the table.",
            case_id=rows.loc[repeated, "case_id"].iloc[0],
        )
    shared = rows.groupby("case_id")["patient_id"].nunique()
    if (shared > 1).any():
        raise InputError("The case has two patient ids.", advice="Correct one.", case_id=str(shared.idxmax()))
    wide = rows.set_index(["case_id", "patient_id", "metric"])["value"].unstack("metric")
    return wide[[name for name in metrics if name in wide.columns]]


def _one_convention(rows: pd.DataFrame) -> str:
    found = rows["convention"].unique()
    if len(found) > 1:
        raise InputError(
            f"{rows['metric'].iloc[0]!r} comes with several conventions ({', '.join(map(repr, found))}); a mean over "
            "them has no meaning.",
            advice="Bring the table to one convention, or add 'convention' to by=.",
        )
    return str(found[0])


def _bootstrap_means(values: FloatArray, codes: Any, n_boot: int, seed: int) -> Resampled:
    """Means of the columns of ``values`` (n_cases, k) over cases, under weights of patients."""
    finite = np.isfinite(values)
    filled = np.where(finite, values, 0.0).T
    counted = finite.T.astype(np.float64)

    def statistic(weights: FloatArray) -> FloatArray:
        rows = weights[codes]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((filled @ rows) / (counted @ rows))

    n_patients = int(codes.max()) + 1
    return bootstrap(statistic, np.zeros(n_patients), n_bootstrap=n_boot, seed=seed, n_rows=values.shape[0])


def generalisation_gap(
    table: pd.DataFrame,
    *,
    metric: str = "dice",
    structure: str,
    train: str = "train",
    test: str = "test",
    threshold: float = 0.05,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> GeneralisationGap:
    """Difference between training and test patients, with a verdict fixed beforehand.

    The mean over the cases of each set is resampled by patient, the two sets independently of each other. Overfitting
    is reported if and only if the lower bound of the interval of the difference exceeds ``threshold``: a gap that the
    test set is too small to show is not evidence of one, nor of its absence.

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`.
    metric : str
        One of :data:`SCORES`.
    structure : str
        Whose metric.
    train, test : str
        Splits to compare: training minus test.
    threshold : float
        Smallest difference of means that matters, in units of the metric; to be chosen before seeing the result.
    n_boot, seed : int
        Draws of each bootstrap, and their seed.
    level : float
        Confidence level of the (percentile) interval.

    Returns
    -------
    GeneralisationGap
        Table, sentence and verdict.

    Raises
    ------
    InputError
        For an unknown metric, structure or split, two conventions, or a set without any defined value.
    LeakageError
        When a patient is in both sets.
    """
    if metric not in SCORES:
        raise unknown_name("metric with a generalisation gap", metric, SCORES)
    if not (np.isfinite(threshold) and threshold >= 0):
        raise InputError(f"The threshold must be a number of 0 or more; found {threshold}.", advice="Use 0.05.")
    rows = _select(structure_rows(check_masks(table)), structure, metric)
    seeds = np.random.SeedSequence(seed).generate_state(2)
    sides = [_side(rows, split, n_boot, int(own), level) for split, own in zip((train, test), seeds, strict=True)]
    shared = sorted(sides[0]["patients"] & sides[1]["patients"])
    if shared:
        raise LeakageError(
            f"{len(shared)} patients are in both {train!r} and {test!r}, for example {shared[0]!r}.",
            advice="Split by patient, then evaluate again.",
        )
    convention = _one_convention(rows[rows["split"].isin([train, test])])
    return _gap_result(sides, structure, metric, (train, test), threshold, level, n_boot, convention)


def _select(rows: pd.DataFrame, structure: str, metric: str) -> pd.DataFrame:
    if structure not in set(rows["structure"]):
        raise unknown_name("structure", structure, rows["structure"].unique())
    rows = rows[rows["structure"] == structure]
    if metric not in set(rows["metric"]):
        raise unknown_name("metric", metric, rows["metric"].unique())
    return rows[rows["metric"] == metric]


def _side(rows: pd.DataFrame, split: str, n_boot: int, seed: int, level: float) -> dict[str, Any]:
    """Mean of one split with its bootstrap."""
    if split not in set(rows["split"]):
        raise unknown_name("split of the masks table", split, rows["split"].unique())
    everyone = rows[rows["split"] == split]
    own = everyone[np.isfinite(everyone["value"])]
    if own.empty:
        raise InputError(f"No case of the split {split!r} has a defined value.", advice="Check the convention.")
    wide = _wide(own, own["metric"].unique())
    codes = patient_codes(wide.index.get_level_values("patient_id"))
    drawn = _bootstrap_means(wide.to_numpy(dtype=np.float64), codes, n_boot, seed)
    return {
        "patients": set(everyone["patient_id"]), "n_cases": len(own), "n_patients": own["patient_id"].nunique(),
        "mean": float(drawn.estimate[0]), "bounds": drawn.interval(level=level)[0], "draws": drawn.draws[0],
        "estimable": drawn.estimate.size > 0 and codes.max() >= 1,
    }  # fmt: skip


def _gap_result(
    sides: list[dict[str, Any]], structure: str, metric: str, splits: tuple[str, str], threshold: float, level: float,
    n_boot: int, convention: str,
) -> GeneralisationGap:  # fmt: skip
    train, test = sides
    gap = train["mean"] - test["mean"]
    low, high = np.nan, np.nan
    if train["estimable"] and test["estimable"]:
        low, high = np.quantile(train["draws"] - test["draws"], [(1 - level) / 2, (1 + level) / 2])
    overfit = bool(low > threshold)
    values = (
        structure, metric, *splits, train["n_cases"], train["n_patients"], test["n_cases"], test["n_patients"],
        train["mean"], *train["bounds"], test["mean"], *test["bounds"], gap, float(low), float(high), threshold,
        overfit, convention,
    )  # fmt: skip
    table = pd.DataFrame([values], columns=list(GAP_COLUMNS))
    bound = f"the lower bound of its {100 * level:g} % interval exceeds {threshold:g}, a threshold fixed beforehand"
    if np.isfinite(low):
        verdict = f"{'raised' if overfit else 'not raised'} (gap {gap:.3f}, interval {low:.3f} to {high:.3f})"
    else:
        verdict = f"not decided (gap {gap:.3f}): an interval needs two patients in each set"
    method = (
        f"The generalisation gap is the mean {metric} of {structure} over {splits[0]} cases minus that over "
        f"{splits[1]} cases; patients of the two sets were resampled independently with all their cases ({n_boot} "
        "draws). "
        f"The flag for overfitting is raised when {bound}: {verdict}."
    )
    return GeneralisationGap(table, method)


def gap_by_training_size(
    tables: Mapping[int, pd.DataFrame],
    *,
    structure: str,
    metric: str = "dice",
    train: str = "train",
    test: str = "test",
    threshold: float = 0.05,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Generalisation gap of models trained on more and more patients: a learning curve.

    Parameters
    ----------
    tables : mapping of int to DataFrame
        Number of training patients to the masks table of the model trained on them.
    structure, metric, train, test, threshold, n_boot, seed, level
        See :func:`generalisation_gap`.

    Returns
    -------
    DataFrame
        Column ``training_size``, then :data:`GAP_COLUMNS`; one row per size, ascending.

    Raises
    ------
    InputError
        Without tables, for a size below 1, and as for :func:`generalisation_gap`.
    """
    if not tables or min(tables) < 1:
        raise InputError("Tables by training size need at least one size, of 1 or more.", advice="Pass {20: table}.")
    settings: dict[str, Any] = {
        "structure": structure, "metric": metric, "train": train, "test": test, "threshold": threshold,
        "n_boot": n_boot, "seed": seed, "level": level,
    }  # fmt: skip
    parts = []
    for size in sorted(tables):
        row = generalisation_gap(tables[size], **settings).table
        row.insert(0, "training_size", size)
        parts.append(row)
    return pd.concat(parts, ignore_index=True)


def bland_altman(
    table: pd.DataFrame,
    structure: str,
    *,
    split: str | None = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> BlandAltman:
    """Bias and limits of agreement of predicted volumes (Bland & Altman 1986, doi:10.1016/S0140-6736(86)90837-8).

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`, with ``reference_volume_ml`` and ``predicted_volume_ml``.
    structure : str
        Whose volumes.
    split : str, optional
        Set of patients; needed when the table has several, because training cases agree better than new ones.
    n_boot, seed : int
        Draws of the bootstrap over patients, used when a patient has several cases, and their seed.
    level : float
        Confidence level of the intervals. The limits are always the bias plus and minus :data:`LIMIT_Z` SD.

    Returns
    -------
    BlandAltman
        With one case per patient, the intervals are those of the paper: t distribution with n - 1 degrees of freedom,
        standard error SD / sqrt(n) for the bias and SD * sqrt(3 / n) for a limit. Otherwise patients are resampled
        (percentile intervals). NaN where fewer than two patients have volumes.

    Raises
    ------
    InputError
        For an unknown structure or split, several splits without a choice, or no case with both volumes.
    """
    rows = structure_rows(check_masks(table))
    if split is None and rows["split"].nunique() > 1:
        raise InputError(
            f"The masks table has several splits: {', '.join(rows['split'].unique())}.", advice="Pass split='test'."
        )
    if split is not None and split not in set(rows["split"]):
        raise unknown_name("split of the masks table", split, rows["split"].unique())
    rows = rows if split is None else rows[rows["split"] == split]
    points = _volume_pairs(rows, structure)
    estimate = _agreement(points["difference_ml"].to_numpy()[:, None])[:, 0]
    bounds, how = _agreement_bounds(points, estimate, n_boot, seed, level)
    values = (
        structure, len(points), points["patient_id"].nunique(), estimate[0], *bounds[0], estimate[1], estimate[2],
        *bounds[1], estimate[3], *bounds[2], how,
    )  # fmt: skip
    method = (
        f"Bias is the mean difference of predicted minus reference volume of {structure} (ml), the limits of agreement "
        f"lie {LIMIT_Z} SD on either side (Bland and Altman 1986); {100 * level:g} % intervals: {how}."
    )
    return BlandAltman(points, pd.DataFrame([values], columns=list(AGREEMENT_COLUMNS)), method)


def _volume_pairs(rows: pd.DataFrame, structure: str) -> pd.DataFrame:
    names = ("reference_volume_ml", "predicted_volume_ml")
    for name in names:
        _select(rows, structure, name)
    own = rows[(rows["structure"] == structure) & rows["metric"].isin(names)]
    wide = _wide(own, names).dropna().reset_index()
    if wide.empty:
        raise InputError(f"No case has both volumes of {structure!r}.", advice="Evaluate the masks again.")
    reference, predicted = (wide[name].to_numpy(dtype=np.float64) for name in names)
    return pd.DataFrame({
        "case_id": wide["case_id"], "patient_id": wide["patient_id"], "reference_ml": reference,
        "predicted_ml": predicted, "mean_ml": (reference + predicted) / 2, "difference_ml": predicted - reference,
    })  # fmt: skip


def _agreement(differences: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """Bias, SD, lower and upper limit of the columns (n, 1) under weights (n, b): shape (4, b)."""
    weights = np.ones((differences.shape[0], 1)) if weights is None else weights
    total = weights.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        bias = (weights * differences).sum(axis=0) / total
        spread = np.sqrt((weights * (differences - bias) ** 2).sum(axis=0) / np.where(total > 1, total - 1, np.nan))
    return np.stack([bias, spread, bias - LIMIT_Z * spread, bias + LIMIT_Z * spread])


def _agreement_bounds(
    points: pd.DataFrame, estimate: FloatArray, n_boot: int, seed: int, level: float
) -> tuple[FloatArray, str]:
    """Intervals of bias and limits, shape (3, 2), and how they were computed."""
    n, n_patients = len(points), points["patient_id"].nunique()
    if n_patients < 2:
        return np.full((3, 2), np.nan), NO_INTERVAL
    if n == n_patients:
        errors = estimate[1] * np.sqrt(np.array([1.0, 3.0, 3.0]) / n)
        half = stats.t.ppf((1 + level) / 2, n - 1) * errors
        return estimate[[0, 2, 3]][:, None] + half[:, None] * np.array([-1.0, 1.0]), "t distribution"
    codes = patient_codes(points["patient_id"])
    differences = points["difference_ml"].to_numpy()[:, None]
    drawn = bootstrap(
        lambda weights: _agreement(differences, weights[codes])[[0, 2, 3]], np.zeros(n_patients), n_bootstrap=n_boot,
        seed=seed, n_rows=n,
    )  # fmt: skip
    return drawn.interval(level=level, kind="percentile"), f"{PATIENT_BOOTSTRAP}, {n_boot} draws"


def _as_html(table: pd.DataFrame, method: str) -> str:
    return f"{table.to_html(index=False, float_format=lambda value: f'{value:.3f}')}<p>{method}</p>"
