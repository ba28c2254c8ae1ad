"""Which lesions were found: recall by size, precision, false positives per case, FROC, classification.

Lesions come from the table of mask metrics (:data:`hybrid.tables.MASK_COLUMNS`): ``r1, r2, ...`` are reference lesions
with ``max_diameter_mm`` and ``detected``, ``p1, p2, ...`` predicted ones with ``true_positive``; both may carry
``confidence``. Candidates that a model dropped (``d1, d2, ...``, and ``dropped_confidence`` of the reference lesions
that they touch) count in the FROC curve only, which they carry on beyond the model's cut-off. The column ``convention``
names the matching rule. Cases without any lesion count as cases, so that false positives on healthy patients weigh as
they should.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hybrid.errors import InputError, unknown_name
from hybrid.tables import require_columns

from .overlap import SPLITS, check_masks
from .proportions import clustered_interval, is_too_few, patient_codes
from .resampling import FloatArray, Statistic, bootstrap

ALL_SIZES: Final = "all"
"""Name of the stratum that holds every lesion."""

SIZE_EDGES_MM: Final = (5.0, 20.0, 40.0, 70.0)
"""Default edges of size strata: maximum diameter in mm, lower edge included."""

FROC_RATES: Final = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per case at which LUNA16 reads the FROC curve (Setio 2017, doi:10.1016/j.media.2017.06.015)."""

DETECTION_COLUMNS: Final = (
    "stratum", "n_cases", "n_patients", "n_lesions", "detected", "recall", "ci_low", "ci_high", "interval_method",
    "too_few", "n_predicted", "false_positives", "precision", "precision_low", "precision_high", "f1", "f1_low",
    "f1_high", "fp_per_case", "fp_per_case_low", "fp_per_case_high", "rule",
)  # fmt: skip
"""Columns that :func:`detection_table` adds to those it groups by."""

FROC_COLUMNS: Final = (
    "threshold", "sensitivity", "fp_per_case", "detected", "false_positives", "n_lesions", "n_cases", "dropped",
)  # fmt: skip
"""Columns that :attr:`Froc.points` adds to those it is grouped by; ``dropped``: the point needs dropped candidates."""

OPERATING_COLUMNS: Final = (
    "rate", "sensitivity", "ci_low", "ci_high", "threshold", "fp_per_case", "sensitivity_interpolated",
)  # fmt: skip
"""Columns that :attr:`Froc.operating_points` adds to those it is grouped by."""

RECALL_POINT_COLUMNS: Final = ("case_id", "patient_id", "lesion_id", "max_diameter_mm", "detected")
"""Columns that :attr:`RecallCurve.points` adds to those it is grouped by."""

RECALL_BIN_COLUMNS: Final = (
    "lower_mm", "upper_mm", "median_mm", "n_lesions", "n_patients", "detected", "recall", "ci_low", "ci_high",
    "interval_method",
)  # fmt: skip
"""Columns that :attr:`RecallCurve.bins` adds to those it is grouped by."""

CLASSIFICATION_COLUMNS: Final = (
    "stratum", "denominator", "n_lesions", "n_patients", "correct", "accuracy", "ci_low", "ci_high", "interval_method",
    "too_few",
)  # fmt: skip
"""Columns that :func:`classification_by_size` adds to those it groups by."""


@dataclass(frozen=True)
class Froc:
    """Free-response ROC curve: sensitivity against false positives per case.

    Attributes
    ----------
    points : DataFrame
        One row per attainable threshold, strictest first (infinity: nothing is reported).
    operating_points : DataFrame
        One row per rate of :data:`FROC_RATES`.
    method : str
        One sentence for a paper.
    """

    points: pd.DataFrame
    operating_points: pd.DataFrame
    method: str

    def _repr_html_(self) -> str:
        return f"{self.operating_points.to_html(index=False, float_format='{:.3f}'.format)}<p>{self.method}</p>"


@dataclass(frozen=True)
class RecallCurve:
    """Recall against lesion diameter: every lesion, and bins of equally many lesions.

    Attributes
    ----------
    points : DataFrame
        One row per reference lesion.
    bins : DataFrame
        One row per bin with recall and interval.
    """

    points: pd.DataFrame
    bins: pd.DataFrame


@dataclass(frozen=True)
class _Group:
    """Lesions and cases of one group of patients."""

    key: dict[str, Any]
    reference: pd.DataFrame
    predicted: pd.DataFrame
    dropped: pd.DataFrame
    cases: pd.DataFrame
    rule: str


@dataclass(frozen=True)
class _FrocCounts:
    """What is reported down to each threshold, strictest first; of each patient, shape (thresholds, patients)."""

    thresholds: FloatArray
    found: FloatArray
    wrong: FloatArray
    dropped: NDArray[np.bool_]


def size_labels(edges: Sequence[float] = SIZE_EDGES_MM) -> list[str]:
    """Return readable names of size strata: ``"< 5 mm"``, ``"5 to 20 mm"``, ..., ``">= 70 mm"``.

    Parameters
    ----------
    edges : sequence of float
        Ascending diameters in mm. Without any there is one stratum, ``"all"``.

    Raises
    ------
    InputError
        For edges that are not positive, finite and ascending.
    """
    checked = _check_edges(edges)
    if not checked:
        return [ALL_SIZES]
    texts = [f"{edge:g}" for edge in checked]
    between = [f"{low} to {high} mm" for low, high in itertools.pairwise(texts)]
    return [f"< {texts[0]} mm", *between, f">= {texts[-1]} mm"]


def size_bin(diameter: float, edges: Sequence[float] = SIZE_EDGES_MM) -> str:
    """Return the name of the stratum that holds a diameter (mm); the lower edge belongs to the stratum.

    Raises
    ------
    InputError
        For a negative or missing diameter, or invalid edges.
    """
    return size_labels(edges)[int(_bin_numbers([diameter], edges)[0])]


def _check_edges(edges: Sequence[float]) -> list[float]:
    values = [float(edge) for edge in edges]
    if not all(np.isfinite(values)) or any(v <= 0 for v in values) or any(np.diff(values) <= 0):
        raise InputError(
            f"Size edges must be positive and ascending; found {values}.", advice="Use for example (5, 20, 40, 70) mm."
        )
    return values


def _bin_numbers(diameters: ArrayLike, edges: Sequence[float]) -> NDArray[np.intp]:
    values = np.asarray(diameters, dtype=np.float64)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise InputError(
            "A lesion's maximum diameter must be a number of 0 mm or more; found a missing or negative one.",
            advice="Measure the lesions again.",
        )
    return np.searchsorted(np.asarray(_check_edges(edges)), values, side="right")


def lesion_table(table: pd.DataFrame) -> pd.DataFrame:
    """Put the lesions of a masks table into one row each.

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`.

    Returns
    -------
    DataFrame
        Columns ``case_id, patient_id, site, split, structure, lesion_id, size_bin, rule``, then one per metric; columns
        ``max_diameter_mm, detected, true_positive, confidence, dropped_confidence`` are always there (NaN where they do
        not apply).

    Raises
    ------
    InputError
        For an invalid table, a lesion id other than ``r1, p1, ...``, a lesion measured twice, or ``detected`` /
        ``true_positive`` other than 0 and 1.
    """
    rows = check_masks(table).rename(columns={"convention": "rule"})
    rows = rows[rows["lesion_id"] != ""]
    keys = ["case_id", "patient_id", "site", "split", "structure", "lesion_id", "size_bin", "rule"]
    repeated = rows.duplicated(["case_id", "split", "structure", "lesion_id", "metric"])
    if repeated.any():
        case = rows.loc[repeated, "case_id"].iloc[0]
        raise InputError("A lesion comes with two matching rules.", advice="Filter 'convention'.", case_id=case)
    wide = rows.set_index([*keys, "metric"])["value"].unstack("metric").reset_index().rename_axis(columns=None)
    names = ("max_diameter_mm", "detected", "true_positive", "confidence", "dropped_confidence")
    wide = wide.reindex(columns=[*wide.columns, *(name for name in names if name not in wide.columns)])
    is_reference = wide["lesion_id"].str.fullmatch(r"r\d+")
    bad = ~(is_reference | wide["lesion_id"].str.fullmatch(r"[pd]\d+")).astype(bool)
    if bad.any():
        raise InputError(
            f"Lesion id {wide.loc[bad, 'lesion_id'].iloc[0]!r} is neither a reference (r1) nor a predicted one (p1), "
            "nor a dropped one (d1).",
            case_id=wide.loc[bad, "case_id"].iloc[0],
        )
    for name, concerned in (("detected", is_reference), ("true_positive", ~is_reference.astype(bool))):
        _check_flags(wide[concerned.astype(bool)], name)
    return wide


def _check_flags(lesions: pd.DataFrame, name: str) -> None:
    bad = ~lesions[name].isin([0.0, 1.0])
    if bad.any():
        row = lesions[bad].iloc[0]
        raise InputError(
            f"{name!r} of lesion {row['lesion_id']} must be 0 or 1; found {row[name]}.", case_id=row["case_id"]
        )


def _lesion_groups(table: pd.DataFrame, by: Sequence[str]) -> list[_Group]:
    """Return groups of lesions, with every case of the group, whether or not it has a lesion."""
    checked = check_masks(table)
    require_columns(checked, by, "masks")
    lesions = lesion_table(checked)
    structures = lesions["structure"].unique()
    if len(structures) > 1 and "structure" not in by:
        raise InputError(
            f"The masks table has lesions of several structures: {', '.join(structures)}.",
            advice="Add 'structure' to by=, or keep the lesions of one.",
        )
    rows = checked[checked["structure"].isin(structures)] if len(structures) and "structure" in by else checked
    keys = rows[list(by)].drop_duplicates().to_dict("records") if by else [{}]
    if "split" in by:
        keys.sort(key=lambda key: SPLITS.index(key["split"]))
    return [_group(key, rows, lesions) for key in keys]


def _group(key: dict[str, Any], rows: pd.DataFrame, lesions: pd.DataFrame) -> _Group:
    cases, own = rows, lesions
    for name, value in key.items():
        cases, own = cases[cases[name] == value], own[own[name] == value]
    rules = own["rule"].unique()
    if len(rules) > 1:
        raise InputError(f"Lesions were matched by several rules: {', '.join(rules)}.", advice="Keep one.")
    kinds = own["lesion_id"].str[0]
    return _Group(
        key, own[kinds == "r"], own[kinds == "p"], own[kinds == "d"],
        cases[["case_id", "patient_id"]].drop_duplicates(), str(rules[0]) if len(rules) else "",
    )  # fmt: skip


def detection_table(
    table: pd.DataFrame,
    *,
    size_edges_mm: Sequence[float] = SIZE_EDGES_MM,
    by: Sequence[str] = ("split",),
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Recall of all lesions and of each size stratum; precision, F1 and false positives per case of all.

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`. Keep the structure rows: they say which cases have no lesion.
    size_edges_mm : sequence of float
        Edges of the strata by maximum diameter of the reference lesion (mm).
    by : sequence of str
        Columns that define the groups; add ``"structure"`` when the lesions of several structures were matched.
    n_boot, seed : int
        Draws of the bootstrap over patients, and their seed.
    level : float
        Confidence level.

    Returns
    -------
    DataFrame
        The columns of ``by``, then :data:`DETECTION_COLUMNS`. ``n_patients`` are those with a lesion in the stratum;
        ``interval_method`` says how recall's interval was computed (:func:`clustered_interval`); ``too_few`` marks
        strata below :data:`~hybrid.analysis.proportions.MIN_TRIALS` lesions or
        :data:`~hybrid.analysis.proportions.MIN_PATIENTS` patients, whose percentage should not be quoted. From
        ``n_predicted`` on, values stand in the row ``"all"`` only: a false positive has no true size. F1 is the
        harmonic mean of recall and precision and 0 where nothing was found; its interval, precision's and that of false
        positives per case are percentiles of the bootstrap over patients, NaN where all draws are equal.

    Raises
    ------
    InputError
        For an invalid table, lesions of several structures or matching rules in one group, or invalid edges.
    """
    labels = size_labels(size_edges_mm)
    rows: list[dict[str, Any]] = []
    for group in _lesion_groups(table, by):
        bins = _bin_numbers(group.reference["max_diameter_mm"], size_edges_mm)
        settings: dict[str, Any] = {"n_boot": n_boot, "seed": seed, "level": level}
        everything = _recall(group.reference, ALL_SIZES, settings) | _false_positives(group, settings)
        strata = [
            _recall(group.reference[bins == i], text, settings) for i, text in enumerate(labels) if text != ALL_SIZES
        ]
        shared = {**group.key, "n_cases": len(group.cases), "rule": group.rule}
        rows += [{**shared, **values} for values in (everything, *strata)]
    return pd.DataFrame(rows, columns=[*by, *DETECTION_COLUMNS])


def _recall(lesions: pd.DataFrame, stratum: str, settings: dict[str, Any]) -> dict[str, Any]:
    return {"stratum": stratum, **_share(lesions["detected"], lesions["patient_id"], settings, "detected", "recall")}


def _share(hits: pd.Series, patients: pd.Series, settings: dict[str, Any], counted: str, named: str) -> dict[str, Any]:
    """Count, proportion and interval of 0/1 values that are clustered within patients."""
    n, n_patients = len(hits), int(patients.nunique())
    low, high, how = clustered_interval(hits, patients, **settings)
    return {
        "n_lesions": n, "n_patients": n_patients, counted: int(hits.sum()), named: hits.mean() if n else np.nan,
        "ci_low": low, "ci_high": high, "interval_method": how, "too_few": is_too_few(n, n_patients),
    }  # fmt: skip


def _false_positives(group: _Group, settings: dict[str, Any]) -> dict[str, Any]:
    """Precision, F1 and false positives per case, with intervals."""
    wrong = 1.0 - group.predicted["true_positive"]
    counts = _patient_counts(group, wrong)
    estimate, bounds = _drawn(lambda weights: _rates(counts @ weights), counts.shape[1], settings)
    result = {"n_predicted": len(group.predicted), "false_positives": int(wrong.sum())}
    for i, name in enumerate(("precision", "f1", "fp_per_case")):
        result |= {name: estimate[i], f"{name}_low": bounds[i, 0], f"{name}_high": bounds[i, 1]}
    return result


def _drawn(
    statistic: Statistic, patients: int, settings: dict[str, Any], *, n_rows: int | None = None
) -> tuple[FloatArray, FloatArray]:
    """Estimates and percentile intervals by resampling patients; NaN where all draws are equal."""
    drawn = bootstrap(
        statistic, np.zeros(patients), n_bootstrap=settings["n_boot"], seed=settings["seed"], n_rows=n_rows
    )
    bounds = drawn.interval(level=settings["level"], kind="percentile")
    bounds[bounds[:, 0] == bounds[:, 1]] = np.nan
    return drawn.estimate, bounds


def _patient_numbers(group: _Group, rows: pd.DataFrame) -> NDArray[np.intp]:
    """Give each row the number of its patient among those of the group's cases."""
    codes = patient_codes(group.cases["patient_id"])
    return rows["patient_id"].map(dict(zip(group.cases["patient_id"], codes, strict=True))).to_numpy(dtype=np.intp)


def _per_patient(group: _Group, rows: pd.DataFrame, values: ArrayLike = 1.0) -> FloatArray:
    """Sum of the rows' values for each patient of the group's cases."""
    counts = np.zeros(group.cases["patient_id"].nunique())
    np.add.at(counts, _patient_numbers(group, rows), np.asarray(values))
    return counts


def _patient_counts(group: _Group, wrong: pd.Series) -> FloatArray:
    """Per patient: cases, reference lesions, detected ones, predicted ones, false positives; shape (5, n_patients)."""
    return np.stack([
        _per_patient(group, group.cases), _per_patient(group, group.reference),
        _per_patient(group, group.reference, group.reference["detected"]), _per_patient(group, group.predicted),
        _per_patient(group, group.predicted, wrong),
    ])  # fmt: skip


def _rates(totals: FloatArray) -> FloatArray:
    """Precision, F1 and false positives per case from the totals of :func:`_patient_counts`; shape (3, b)."""
    cases, lesions, found, predicted, wrong = totals
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(predicted > 0, 1 - wrong / predicted, np.nan)
        recall = np.where(lesions > 0, found / lesions, 0.0)
        harmonic = 2 * precision * recall / (precision + recall)
        f1 = np.where((found > 0) & (predicted > wrong), harmonic, 0.0)
        f1 = np.where((lesions > 0) | (predicted > 0), f1, np.nan)
        return np.stack([precision, f1, np.where(cases > 0, wrong / cases, np.nan)])


def froc(
    table: pd.DataFrame,
    *,
    by: Sequence[str] = ("split",),
    rates: Sequence[float] = FROC_RATES,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Froc:
    """Sensitivity against false positives per case over all thresholds of the confidence.

    At a threshold, a predicted lesion is reported when its confidence is at least the threshold; a reference lesion is
    found when it was matched and the best confidence of its matches is at least the threshold. Equal confidences enter
    together, in one point. Missed lesions are in the denominator at every threshold and never found. Lesions were
    extracted and matched once: the curve ends where the segmentation's own cut-off ends, or, where candidates that the
    model dropped are in the table, behind the last of these.

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`. Cases without lesions count.
    by : sequence of str
        Columns that define the curves.
    rates : sequence of float
        False positives per case at which the curve is read; LUNA16's by default (Setio et al. 2017,
        doi:10.1016/j.media.2017.06.015).
    n_boot, seed, level
        See :func:`detection_table`.

    Returns
    -------
    Froc
        ``operating_points["sensitivity"]`` is the largest one attained by a threshold with no more false positives per
        case than the rate (0 where there is none); ``ci_low`` and ``ci_high`` are percentiles of the bootstrap over
        patients, which reads every draw's own curve at the rate, NaN where all draws are equal. LUNA16's own script
        interpolates linearly between points instead; ``sensitivity_interpolated`` does, and stays level behind the last
        point. Groups without reference lesions get NaN.

    Raises
    ------
    InputError
        When a found lesion or a false positive has no confidence, or for an invalid table or rate.
    """
    wanted = np.asarray(rates, dtype=np.float64)
    if wanted.size == 0 or not (np.isfinite(wanted) & (wanted >= 0)).all():
        raise InputError("Rates must be numbers of 0 or more false positives per case.", advice="Omit rates=.")
    points, read = [], []
    groups = _lesion_groups(table, by)
    for group in groups:
        counts = _froc_counts(group)
        curve = _froc_points(group, counts)
        bounds = _froc_bounds(group, counts, wanted, {"n_boot": n_boot, "seed": seed, "level": level})
        points.append(_with_key(curve, group.key))
        read.append(_with_key(_operating_points(curve, wanted, bounds), group.key))
    carried_on = any(len(group.dropped) for group in groups)
    method = (
        "Free-response ROC: sensitivity per lesion against false positives per case, cases without lesions included; "
        f"matching rule {' / '.join(sorted({group.rule for group in groups} - {''})) or 'not stated'}; sensitivities "
        f"are the largest attained at up to {', '.join(f'{rate:g}' for rate in wanted)} false positives per case; "
        f"intervals ({100 * level:g} %) are percentiles of {n_boot} draws of patients."
        + (" Beyond the model's cut-off, candidates that it dropped count as well." if carried_on else "")
    )
    return Froc(pd.concat(points, ignore_index=True), pd.concat(read, ignore_index=True), method)


def _with_key(table: pd.DataFrame, key: dict[str, Any]) -> pd.DataFrame:
    return table.assign(**key)[[*key, *table.columns]]


def _froc_events(group: _Group) -> pd.DataFrame:
    """List found lesions and false positives: ``patient_id, confidence, hit, dropped``.

    ``dropped``: only a candidate that the model dropped is there.
    """
    reference, predicted, dropped = group.reference, group.predicted, group.dropped
    late = reference[(reference["detected"] == 0) & reference["dropped_confidence"].notna()]
    parts = []
    for lesions, column, hit, is_dropped, what in (
        (reference[reference["detected"] == 1], "confidence", True, False, "found lesion"),
        (predicted[predicted["true_positive"] == 0], "confidence", False, False, "false positive"),
        (late, "dropped_confidence", True, True, "lesion under a dropped candidate"),
        (dropped[dropped["true_positive"] == 0], "confidence", False, True, "dropped candidate"),
    ):
        values = lesions[column].to_numpy(dtype=np.float64)
        missing = ~np.isfinite(values)
        if missing.any():
            row = lesions[missing].iloc[0]
            raise InputError(
                f"The {what} {row['lesion_id']} has no confidence; an FROC curve needs one for each.",
                advice="Evaluate with the probability map or the confidences of the predicted lesions.",
                case_id=row["case_id"],
            )
        own = {"patient_id": lesions["patient_id"].to_numpy(), "confidence": values, "hit": hit, "dropped": is_dropped}
        parts.append(pd.DataFrame(own))
    return pd.concat(parts, ignore_index=True)


def _froc_counts(group: _Group) -> _FrocCounts:
    events = _froc_events(group)
    confidence, hit = events["confidence"].to_numpy(), events["hit"].to_numpy(dtype=bool)
    thresholds = np.append(np.inf, np.unique(confidence)[::-1])
    steps, patients = np.searchsorted(-thresholds, -confidence), _patient_numbers(group, events)
    found, wrong = np.zeros((2, thresholds.size, group.cases["patient_id"].nunique()))
    for counts, chosen in ((found, hit), (wrong, ~hit)):
        np.add.at(counts, (steps[chosen], patients[chosen]), 1.0)
    cut = confidence[events["dropped"].to_numpy(dtype=bool)].max(initial=-np.inf)
    return _FrocCounts(thresholds, found.cumsum(axis=0), wrong.cumsum(axis=0), thresholds <= cut)


def _froc_points(group: _Group, counts: _FrocCounts) -> pd.DataFrame:
    found, wrong = (part.sum(axis=1).astype(int) for part in (counts.found, counts.wrong))
    n_lesions, n_cases = len(group.reference), len(group.cases)
    sensitivity = found / n_lesions if n_lesions else np.full(found.size, np.nan)
    columns = (counts.thresholds, sensitivity, wrong / n_cases, found, wrong, n_lesions, n_cases, counts.dropped)
    return pd.DataFrame(dict(zip(FROC_COLUMNS, columns, strict=True)))


def _froc_bounds(group: _Group, counts: _FrocCounts, rates: FloatArray, settings: dict[str, Any]) -> FloatArray:
    """Interval of the sensitivity at each rate, shape (rates, 2): every draw of patients has a curve of its own."""
    cases, lesions = _per_patient(group, group.cases), _per_patient(group, group.reference)

    def at_rates(weights: FloatArray) -> FloatArray:
        with np.errstate(divide="ignore", invalid="ignore"):
            sensitivity = counts.found @ weights / (lesions @ weights)
        rate = counts.wrong @ weights / (cases @ weights)
        last = np.stack([(rate <= wanted).sum(axis=0) - 1 for wanted in rates])
        return np.take_along_axis(sensitivity, last, axis=0)

    return _drawn(at_rates, cases.size, settings, n_rows=counts.thresholds.size)[1]


def _operating_points(curve: pd.DataFrame, rates: FloatArray, bounds: FloatArray) -> pd.DataFrame:
    x, y = (curve[name].to_numpy(dtype=np.float64) for name in ("fp_per_case", "sensitivity"))
    last = np.searchsorted(x, rates, side="right") - 1
    ends = np.append(np.diff(x) > 0, True)
    interpolated = np.interp(rates, x[ends], y[ends])
    # The strictest threshold that attains this sensitivity: the same lesions with fewer false positives.
    best = np.array([np.flatnonzero(y == y[i])[0] if np.isfinite(y[i]) else 0 for i in last], dtype=np.intp)
    columns = (rates, y[best], *bounds.T, curve["threshold"].to_numpy()[best], x[best], interpolated)
    return pd.DataFrame(dict(zip(OPERATING_COLUMNS, columns, strict=True)))


def recall_by_diameter(
    table: pd.DataFrame,
    *,
    by: Sequence[str] = ("split",),
    n_bins: int | None = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> RecallCurve:
    """Recall as a function of the lesion's maximum diameter, without edges chosen by hand.

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`.
    by : sequence of str
        Columns that define the curves.
    n_bins : int, optional
        Bins with equally many lesions (quantiles of the diameter), fewer where diameters are tied. By default one per
        ten lesions, but one to eight.
    n_boot, seed, level
        See :func:`detection_table`.

    Returns
    -------
    RecallCurve
        Every lesion, and bins with Wilson intervals; where a patient has several lesions in a bin, the interval
        resamples patients instead, as ``interval_method`` says.

    Raises
    ------
    InputError
        For an invalid table or fewer than one bin.
    """
    if n_bins is not None and n_bins < 1:
        raise InputError(f"At least one bin is needed; found {n_bins}.", advice="Omit n_bins=.")
    settings: dict[str, Any] = {"n_boot": n_boot, "seed": seed, "level": level}
    points, bins = [], []
    for group in _lesion_groups(table, by):
        lesions = group.reference.sort_values(["max_diameter_mm", "case_id", "lesion_id"], kind="stable")
        _bin_numbers(lesions["max_diameter_mm"], ())
        points.append(_with_key(lesions[list(RECALL_POINT_COLUMNS)], group.key))
        bins.append(_with_key(_diameter_bins(lesions, n_bins, settings), group.key))
    return RecallCurve(pd.concat(points, ignore_index=True), pd.concat(bins, ignore_index=True))


def _diameter_bins(lesions: pd.DataFrame, n_bins: int | None, settings: dict[str, Any]) -> pd.DataFrame:
    if lesions.empty:
        return pd.DataFrame(columns=list(RECALL_BIN_COLUMNS))
    diameters = lesions["max_diameter_mm"].to_numpy(dtype=np.float64)
    number = n_bins or int(np.clip(diameters.size // 10, 1, 8))
    edges = np.unique(np.quantile(diameters, np.linspace(0, 1, number + 1)[1:-1]))
    member = np.searchsorted(edges, diameters, side="right")
    rows = []
    for i in np.unique(member):
        own = lesions[member == i]
        share = _share(own["detected"], own["patient_id"], settings, "detected", "recall")
        sizes = own["max_diameter_mm"]
        rows.append({"lower_mm": sizes.min(), "upper_mm": sizes.max(), "median_mm": sizes.median(), **share})
    return pd.DataFrame(rows, columns=list(RECALL_BIN_COLUMNS))


def classification_by_size(
    lesions: pd.DataFrame,
    *,
    size_edges_mm: Sequence[float] = SIZE_EDGES_MM,
    by: Sequence[str] = (),
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> pd.DataFrame:
    """Accuracy of lesion classes by size, among found lesions and among all.

    Parameters
    ----------
    lesions : DataFrame
        One row per reference lesion: ``case_id, patient_id, lesion_id, max_diameter_mm, y_true, y_pred, detected``.
        Classes may be numbers or text of one type; ``y_pred`` of a missed lesion is ignored and may be missing.
    size_edges_mm : sequence of float
        Edges of the strata (mm).
    by : sequence of str
        Further columns that define groups, for example ``("split",)``.
    n_boot, seed, level
        See :func:`detection_table`.

    Returns
    -------
    DataFrame
        The columns of ``by``, then :data:`CLASSIFICATION_COLUMNS`. ``denominator`` is ``"detected"`` (accuracy given
        that the lesion was found) or ``"end_to_end"`` (a missed lesion counts as wrong): the first alone flatters a
        detector that finds only easy lesions.

    Raises
    ------
    InputError
        For missing columns, lesions that appear twice, ``detected`` other than 0/1 or a found lesion without class.
    """
    table = _check_classes(lesions, by)
    settings: dict[str, Any] = {"n_boot": n_boot, "seed": seed, "level": level}
    labels = size_labels(size_edges_mm)
    grouped = table.groupby(list(by), sort=False) if by else [((), table)]
    rows: list[dict[str, Any]] = []
    for key, group in grouped:
        bins = _bin_numbers(group["max_diameter_mm"], size_edges_mm)
        strata = [(text, group[bins == i]) for i, text in enumerate(labels) if text != ALL_SIZES]
        for text, part in [(ALL_SIZES, group), *strata]:
            for name, own in (("detected", part[part["detected"] == 1]), ("end_to_end", part)):
                share = _share(own["correct"], own["patient_id"], settings, "correct", "accuracy")
                rows.append({**dict(zip(by, key, strict=True)), "stratum": text, "denominator": name, **share})
    return pd.DataFrame(rows, columns=[*by, *CLASSIFICATION_COLUMNS])


def _check_classes(lesions: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    needed = ("case_id", "patient_id", "lesion_id", "max_diameter_mm", "y_true", "y_pred", "detected", *by)
    require_columns(lesions, needed, "lesions")
    if lesions.empty:
        raise InputError("The lesions table has no rows.", advice="Was the evaluation run to its end?")
    table = lesions.reset_index(drop=True).copy()
    table["detected"] = pd.to_numeric(table["detected"], errors="coerce")
    _check_flags(table, "detected")
    for name in ("case_id", "patient_id", "lesion_id"):
        table[name] = table[name].astype(str)
    repeated = table.duplicated([*by, "case_id", "lesion_id"])
    unclassed = table["y_true"].isna() | ((table["detected"] == 1) & table["y_pred"].isna())
    for bad, problem in ((repeated, "appears twice"), (unclassed, "was found but lacks a class")):
        if bad.any():
            row = table[bad].iloc[0]
            raise InputError(f"Lesion {row['lesion_id']} {problem}.", case_id=row["case_id"])
    stray = set(table.loc[table["detected"] == 1, "y_pred"]) - set(table["y_true"])
    if stray and {isinstance(value, str) for value in stray} != {isinstance(value, str) for value in table["y_true"]}:
        raise unknown_name("predicted class", next(iter(stray)), set(table["y_true"]))
    found = table["detected"] == 1
    return table.assign(correct=(found & (table["y_true"] == table["y_pred"])).astype(np.float64))
