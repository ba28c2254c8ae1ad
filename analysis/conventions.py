"""What an empty mask scores: three conventions, restated after the fact from the counts of voxels.

A case without the structure, or a prediction that finds nothing, has no natural Dice. Challenges and libraries answer
differently, and the mean over a cohort changes by more than most methods differ. Name the convention beside the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError, unknown_name

CONVENTIONS: Final = {
    "kits": (
        "KiTS: Dice, IoU and surface Dice are 1 when reference and prediction are both empty and 0 when one of them "
        "is (github.com/neheller/kits23, evaluation/metrics.py)."
    ),
    "nnunet": (
        "nnU-Net: undefined, and left out of means, when reference and prediction are both empty; 0 when one of them "
        "is (github.com/MIC-DKFZ/nnUNet, nnunetv2/evaluation/evaluate_predictions.py)."
    ),
    "monai": (
        "MONAI, default settings: Dice and IoU are undefined, and left out of means, whenever the reference is empty, "
        "so that a false positive on an empty reference does not count; 0 when only the prediction is empty. Surface "
        "Dice is undefined only when both are empty (monai.metrics.DiceMetric, MeanIoU, SurfaceDiceMetric)."
    ),
}
"""What each convention says, in one sentence or two, for captions."""

OVERLAP_METRICS: Final = ("dice", "iou", "surface_dice")
"""Metrics that a convention concerns. All others stay undefined (NaN) where they are."""

COUNT_METRICS: Final = ("tp_voxels", "fp_voxels", "fn_voxels")
"""Rows from which it is read which mask is empty."""

KEY_COLUMNS: Final = ("case_id", "patient_id", "site", "split", "model", "repeat", "structure")
"""Columns that, as far as the table has them, tell one pair of masks from another."""


def by_convention(table: pd.DataFrame, convention: str, *, keys: Sequence[str] | None = None) -> pd.DataFrame:
    """Restate the overlap of empty masks.

    Parameters
    ----------
    table : DataFrame
        Long: ``structure, metric, value`` and the columns that name the case, as by
        :func:`hybrid.mask_metrics.measure_masks`, in any convention. Rows with a non-empty ``lesion_id`` describe
        lesions and are left as they are.
    convention : {"kits", "nnunet", "monai"}
        See :data:`CONVENTIONS`.
    keys : sequence of str, optional
        Columns that tell one pair of masks from another; default: those of :data:`KEY_COLUMNS` that exist.

    Returns
    -------
    DataFrame
        A copy, same rows and order; only values of :data:`OVERLAP_METRICS` of pairs with an empty mask differ.

    Raises
    ------
    InputError
        For an unknown convention, missing columns, or a pair whose counts are missing or doubled.
    """
    if convention not in CONVENTIONS:
        raise unknown_name("convention", convention, CONVENTIONS)
    names = list(keys) if keys is not None else [name for name in KEY_COLUMNS if name in table]
    missing = [name for name in ("structure", "metric", "value", *names) if name not in table]
    if missing:
        raise InputError(f"The table has no column {', '.join(dict.fromkeys(missing))}.", advice="Use measure_masks.")
    stated = table.copy()
    whole = _of_whole_masks(table)
    rows = np.flatnonzero(whole & table["metric"].isin(OVERLAP_METRICS).to_numpy())
    if not len(rows):
        return stated
    reference, prediction = _emptiness(table[whole], table.iloc[rows], names)
    metric = table["metric"].to_numpy()[rows]
    values = table["value"].to_numpy(dtype=float, copy=True)
    values[rows] = _restate(values[rows], reference, prediction, metric, convention)
    stated["value"] = values
    return stated


def _of_whole_masks(table: pd.DataFrame) -> np.ndarray:
    """Where rows describe a structure, not one lesion of it."""
    if "lesion_id" not in table:
        return np.ones(len(table), dtype=bool)
    return (table["lesion_id"].isna() | (table["lesion_id"].astype(str) == "")).to_numpy(dtype=bool)


def _emptiness(table: pd.DataFrame, wanted: pd.DataFrame, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Whether reference and prediction are empty, for each wanted row."""
    # As text: a missing site or repeat is a value like any other.
    keys = [tuple(key) for key in wanted[names].astype(object).fillna("").astype(str).to_numpy()]
    count = {}
    for metric in COUNT_METRICS:
        rows = table[table["metric"] == metric]
        found = [tuple(key) for key in rows[names].astype(object).fillna("").astype(str).to_numpy()]
        count[metric] = dict(zip(found, rows["value"].astype(float), strict=True))
        if len(count[metric]) < len(found):
            raise InputError(
                f"The table holds {metric} more than once for one {' + '.join(names)}.",
                advice="Name the columns that tell the pairs of masks apart as keys.",
            )
        lacking = [key for key in keys if not np.isfinite(count[metric].get(key, np.nan))]
        if lacking:
            raise InputError(
                f"No {metric} for {' '.join(lacking[0])}: which mask is empty cannot be told.",
                advice="Keep the rows of counts that measure_masks returns.",
            )
    hit, extra, missed = (np.array([count[metric][key] for key in keys]) for metric in COUNT_METRICS)
    return hit + missed == 0, hit + extra == 0


def _restate(
    values: np.ndarray, reference: np.ndarray, prediction: np.ndarray, metric: np.ndarray, convention: str
) -> np.ndarray:
    """Values after the convention; ``reference`` and ``prediction`` say where that mask is empty."""
    values = np.where(reference | prediction, 0.0, values)
    values[reference & prediction] = 1.0 if convention == "kits" else np.nan
    if convention == "monai":
        values[reference & (metric != "surface_dice")] = np.nan
    return values
