"""Results of nnU-Net and KiTS as tables of mask metrics, and back.

Their own conventions for empty masks are kept: nnU-Net leaves a Dice that is 0/0 undefined (NaN) and drops it from
means; KiTS scores 1 when both masks are empty and 0 when one is. Writing applies the convention of the format, whatever
the convention of the table, because a reader of the file relies on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.errors import InputError, unknown_name
from hybrid.files import write_text
from hybrid.tables import MASK_COLUMNS

from .overlap import check_masks, structure_rows

NNUNET_METRICS: Final = {
    "Dice": "dice", "IoU": "iou", "FP": "fp_voxels", "TP": "tp_voxels", "FN": "fn_voxels", "TN": "tn_voxels",
}  # fmt: skip
"""nnU-Net's names of metrics and ours; its ``n_pred`` and ``n_ref`` are sums of these counts."""

NNUNET_ORDER: Final = ("Dice", "FN", "FP", "IoU", "TN", "TP", "n_pred", "n_ref")
"""Order in which metrics are written; JSON readers do not depend on it."""

KITS_COLUMNS: Final = {
    "Dice_kidney": ("kidney_and_mass", "dice"),
    "Dice_masses": ("mass", "dice"),
    "Dice_tumor": ("tumor", "dice"),
    "SD_kidney": ("kidney_and_mass", "surface_dice"),
    "SD_masses": ("mass", "surface_dice"),
    "SD_tumor": ("tumor", "surface_dice"),
}
"""Columns of KiTS' ``evaluation.csv`` after ``caseID``: our structure and metric."""

KITS_AVERAGE: Final = "average"
"""Name of the last row of KiTS' file, the mean over cases."""

IMAGE_ENDINGS: Final = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff", ".npy", ".npz")
"""Endings that are taken off a file name to get the case id."""


def read_nnunet_summary(
    path: str | Path,
    *,
    structures: Mapping[str, str] | None = None,
    patients: Mapping[str, str] | None = None,
    split: str = "test",
    site: str = "",
) -> pd.DataFrame:
    """Read nnU-Net's ``summary.json`` as a table of mask metrics.

    Parameters
    ----------
    path : path-like
        File with ``metric_per_case``; means are not read, because they follow from it.
    structures : mapping of str to str, optional
        nnU-Net's label or region (``"1"``, ``"(1, 2, 3)"``) to the name of the structure. Default: the label itself.
    patients : mapping of str to str, optional
        Case to patient. Default: each case is a patient, which is wrong when a patient has several.
    split, site : str
        For all rows.

    Returns
    -------
    DataFrame
        Columns :data:`hybrid.tables.MASK_COLUMNS`, convention ``"nnunet"``; counts in voxels. The case id is the name
        of the prediction's file without folder and ending; ``.attrs["files"]`` keeps both paths of each case for
        :func:`write_nnunet_summary`.

    Raises
    ------
    InputError
        For a file that is not a summary, a case that appears twice, an unknown label in ``structures`` or a metric that
        is absent or contradicts its counts.
    """
    entries = _load_entries(Path(path))
    known = {label for entry in entries for label in entry["metrics"]}
    for label in structures or {}:
        if label not in known:
            raise unknown_name("label or region", label, known, path=path)
    rows: list[dict[str, Any]] = []
    files: dict[str, dict[str, str]] = {}
    for entry in entries:
        case = _case_of(entry["prediction_file"])
        if case in files:
            raise InputError("The case appears twice.", advice="Keep one prediction.", case_id=case, path=path)
        files[case] = {name: entry.get(name) or "" for name in ("prediction_file", "reference_file")}
        head = {"case_id": case, "patient_id": (patients or {}).get(case, case), "site": site, "split": split}
        for label, values in entry["metrics"].items():
            structure = (structures or {}).get(label, label)
            measured = _read_metrics(values, case, path)
            rows += [
                {**head, "structure": structure, "lesion_id": "", "size_bin": "", "metric": name, "value": value,
                 "convention": "nnunet"} for name, value in measured.items()
            ]  # fmt: skip
    table = pd.DataFrame(rows, columns=list(MASK_COLUMNS))
    table.attrs["files"] = files
    return table


def _load_entries(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"Not a readable JSON file: {error}.", advice="Pass nnU-Net's summary.json.", path=path
        ) from error
    entries = content.get("metric_per_case") if isinstance(content, dict) else None
    valid = isinstance(entries, list) and all(
        isinstance(entry, dict) and entry.get("prediction_file") and isinstance(entry.get("metrics"), dict)
        for entry in entries
    )
    if not entries or not valid:
        raise InputError(
            "Not a summary of nnU-Net version 2: expected a list 'metric_per_case' of metrics and prediction_file.",
            advice="Summaries of version 1 have another layout; evaluate again with version 2.",
            path=path,
        )
    return list(entries)


def _case_of(file: str) -> str:
    name = PurePosixPath(str(file).replace("\\", "/")).name
    ending = next((ending for ending in IMAGE_ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _read_metrics(values: Mapping[str, Any], case: str, path: str | Path) -> dict[str, float]:
    """Our names and values of one label of one case."""
    for name in (*NNUNET_METRICS, "n_pred", "n_ref"):
        if name not in values:
            raise InputError(f"The summary lacks the metric {name!r}.", case_id=case, path=path)
    numbers = {name: math.nan if value is None else float(value) for name, value in values.items()}
    sums = (numbers["FP"] + numbers["TP"], numbers["FN"] + numbers["TP"])
    if sums != (numbers["n_pred"], numbers["n_ref"]):
        raise InputError(
            f"n_pred and n_ref must be FP + TP and FN + TP = {sums}; found {numbers['n_pred'], numbers['n_ref']}.",
            advice="Was the file edited?", case_id=case, path=path,
        )  # fmt: skip
    return {ours: numbers[name] for name, ours in NNUNET_METRICS.items()}


def write_nnunet_summary(
    table: pd.DataFrame,
    path: str | Path,
    *,
    structures: Mapping[str, str] | None = None,
    prediction_folder: str = "",
    reference_folder: str = "",
    ending: str = ".nii.gz",
) -> None:
    """Write structure rows of a masks table in the layout of nnU-Net's ``summary.json``.

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`, with ``tp_voxels``, ``fp_voxels``, ``fn_voxels`` and ``tn_voxels``, of
        one split. Dice and IoU are computed from the counts and NaN when they are 0/0, as nnU-Net does.
    path : path-like
        File to write.
    structures : mapping of str to str, optional
        nnU-Net's label or region to our structure, as in :func:`read_nnunet_summary`; only these are written. Default:
        all, under their own names.
    prediction_folder, reference_folder, ending : str
        Paths in the file are ``folder/case_id + ending``; a table from :func:`read_nnunet_summary` keeps its own.

    Raises
    ------
    InputError
        For several splits, an unknown structure or counts that are missing, negative or not whole.

    Notes
    -----
    As in nnU-Net, means over cases skip NaN, and the foreground mean is a plain mean over labels: NaN when one label
    has no defined value.
    """
    rows = structure_rows(check_masks(table))
    if rows["split"].nunique() > 1:
        raise InputError("A summary describes one set of cases; found several splits.", advice="Filter 'split' first.")
    names = dict(structures or {name: name for name in rows["structure"].unique()})
    for name in names.values():
        if name not in set(rows["structure"]):
            raise unknown_name("structure", name, rows["structure"].unique())
    folders = {"prediction_file": prediction_folder, "reference_file": reference_folder}
    known = table.attrs.get("files", {})
    entries = []
    for case, own in rows.groupby("case_id", sort=False):
        files = known.get(case) or {k: str(PurePosixPath(v) / f"{case}{ending}") for k, v in folders.items()}
        metrics = {label: _write_metrics(own, structure, str(case)) for label, structure in names.items()}
        entries.append({"metrics": metrics, **files})
    labels = [(label, [entry["metrics"][label] for entry in entries]) for label in names]
    mean = {label: {name: _nan_mean(v[name] for v in values) for name in NNUNET_ORDER} for label, values in labels}
    foreground = [mean[label] for label in names if label != "0"]
    overall = {name: float(np.mean([values[name] for values in foreground])) for name in NNUNET_ORDER}
    content = {"foreground_mean": overall, "mean": mean, "metric_per_case": entries}
    write_text(json.dumps(content, indent=4), path)


def _write_metrics(rows: pd.DataFrame, structure: str, case: str) -> dict[str, float]:
    values = dict(rows.loc[rows["structure"] == structure, ["metric", "value"]].itertuples(index=False))
    counts = [values.get(name, math.nan) for name in ("tp_voxels", "fp_voxels", "fn_voxels", "tn_voxels")]
    if any(not math.isfinite(value) or value < 0 or value != round(value) for value in counts):
        raise InputError(
            f"Counts of voxels of {structure!r} must be there and whole; found {counts} (TP, FP, FN, TN).",
            advice="Evaluate the masks again.",
            case_id=case,
        )
    tp, fp, fn, tn = (int(value) for value in counts)
    union = tp + fp + fn
    return {
        "Dice": 2 * tp / (union + tp) if union else math.nan, "FN": fn, "FP": fp,
        "IoU": tp / union if union else math.nan, "TN": tn, "TP": tp, "n_pred": fp + tp, "n_ref": fn + tp,
    }  # fmt: skip


def _nan_mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan


def read_kits_csv(
    path: str | Path, *, patients: Mapping[str, str] | None = None, split: str = "test", site: str = ""
) -> pd.DataFrame:
    """Read KiTS' ``evaluation.csv`` as a table of mask metrics.

    Parameters
    ----------
    path : path-like
        Comma-separated, header ``caseID,Dice_kidney,Dice_masses,Dice_tumor,SD_kidney,SD_masses,SD_tumor``. A last row
        ``average`` is left out.
    patients, split, site
        See :func:`read_nnunet_summary`.

    Returns
    -------
    DataFrame
        Columns :data:`hybrid.tables.MASK_COLUMNS`: ``dice`` and ``surface_dice`` of the structures ``kidney_and_mass``,
        ``mass`` and ``tumor``, convention ``"kits"``.

    Raises
    ------
    InputError
        For another header, a value outside [0, 1], no case or a case that appears twice.
    """
    try:
        sheet = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"Not a readable CSV file: {error}.", advice="Pass KiTS' evaluation.csv.", path=path
        ) from error
    header = ["caseID", *KITS_COLUMNS]
    if list(sheet.columns) != header:
        raise InputError(f"Expected the header {','.join(header)}; found {','.join(sheet.columns)}.", path=path)
    sheet = sheet[sheet["caseID"] != KITS_AVERAGE].reset_index(drop=True)
    numbers = sheet[list(KITS_COLUMNS)].map(_number)
    bad = ~((numbers >= 0) & (numbers <= 1)).all(axis=1) | sheet["caseID"].duplicated() | (sheet["caseID"] == "")
    if bad.any() or sheet.empty:
        raise InputError(
            "Each case needs one row of values from 0 to 1.",
            advice="KiTS scores empty masks with 0 or 1, never with an empty cell.",
            case_id=str(sheet.loc[bad, "caseID"].iloc[0]) if bad.any() else None,
            path=path,
        )
    rows = [
        (case, (patients or {}).get(case, case), site, split, structure, "", "", metric, float(values[column]), "kits")
        for case, (_, values) in zip(sheet["caseID"], numbers.iterrows(), strict=True)
        for column, (structure, metric) in KITS_COLUMNS.items()
    ]
    return pd.DataFrame(rows, columns=list(MASK_COLUMNS))


def _number(text: str) -> float:
    """Nearest double of a text (pandas' own parser may be off by one digit); NaN for anything else."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def write_kits_csv(table: pd.DataFrame, path: str | Path) -> None:
    """Write Dice and surface Dice in the layout of KiTS' ``evaluation.csv``, with its row of averages.

    Parameters
    ----------
    table : DataFrame
        See :data:`hybrid.tables.MASK_COLUMNS`, of one split, with ``dice`` and ``surface_dice`` of ``kidney_and_mass``,
        ``mass`` and ``tumor``. Where voxel counts say that a mask is empty, KiTS' score replaces the value: 1 when both
        are, 0 when one is.
    path : path-like
        File to write; all digits are kept (KiTS' own code rounds).

    Raises
    ------
    InputError
        For several splits, a missing structure or metric, or an undefined value without counts that explain it.
    """
    rows = structure_rows(check_masks(table))
    if rows["split"].nunique() > 1:
        raise InputError("The file describes one set of cases; found several splits.", advice="Filter 'split' first.")
    values = {
        (case, structure, metric): float(value)
        for case, structure, metric, value in rows[["case_id", "structure", "metric", "value"]].itertuples(index=False)
    }
    cases = list(rows["case_id"].unique())
    scores = np.array([[_kits_score(values, case, *KITS_COLUMNS[name]) for name in KITS_COLUMNS] for case in cases])
    lines = [",".join(["caseID", *KITS_COLUMNS])]
    for name, numbers in zip([*cases, KITS_AVERAGE], [*scores, scores.mean(axis=0)], strict=True):
        if any(mark in name for mark in ',"\n'):
            raise InputError("KiTS' file cannot hold this case id.", advice="Remove commas and quotes.", case_id=name)
        lines.append(",".join([name, *(repr(float(number)) for number in numbers)]))
    write_text("\n".join(lines) + "\n", path)


def _kits_score(values: Mapping[tuple[str, str, str], float], case: str, structure: str, metric: str) -> float:
    empty = [
        _is_empty(values, case, structure, names) for names in (("tp_voxels", "fn_voxels"), ("tp_voxels", "fp_voxels"))
    ]
    if True in empty and None not in empty:
        return 1.0 if all(empty) else 0.0
    value = values.get((case, structure, metric), math.nan)
    if not 0 <= value <= 1:
        raise InputError(
            f"KiTS needs {metric} of {structure!r} between 0 and 1; found {value}.",
            advice="Evaluate kidney_and_mass, mass and tumor; keep the voxel counts, which tell empty masks.",
            case_id=case,
        )
    return value


def _is_empty(
    values: Mapping[tuple[str, str, str], float], case: str, structure: str, counts: Sequence[str]
) -> bool | None:
    """Whether the counts of a mask sum to 0; None where they are not known."""
    found = [values.get((case, structure, name), math.nan) for name in counts]
    return None if any(map(math.isnan, found)) else sum(found) == 0
