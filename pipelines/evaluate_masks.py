"""Predicted against reference masks over a cohort: one long table, its summaries, a report."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import pandas as pd

from hybrid.cases import Case, Cohort
from hybrid.errors import InputError, unknown_name
from hybrid.files import write_csv
from hybrid.images import align_mask, labels_in, read_image, read_mask, to_array
from hybrid.tables import MASK_COLUMNS

from .files import read_exact
from .runner import Rows, run_cases
from .segment import DROPPED, LESIONS, MASKS
from .training_cases import SPLITS, split_of

logger = logging.getLogger(__name__)

TABLE: Final = "masks.csv"
DEFAULT_SIZES_MM: Final = (5.0, 20.0, 40.0, 70.0)


def evaluate_masks(
    cohort: Cohort,
    masks: str | Path,
    out: str | Path,
    *,
    structures: Mapping[str, Sequence[int]] | None = None,
    lesions: str | None = None,
    rule: str = "any_overlap",
    sizes_mm: Sequence[float] = DEFAULT_SIZES_MM,
    convention: str = "kits",
    split: str | None = None,
    report: bool = True,
    title: str = "Segmentation",
    simulated: bool = False,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> pd.DataFrame:
    """Compare predicted masks with the cohort's own.

    Parameters
    ----------
    cohort : Cohort
        Cases with reference masks; a column ``split`` names each case's set.
    masks : path-like
        Folder written by :func:`segment_cohort` (or holding ``<case_id>.nii.gz``). Its ``lesions.csv`` gives the
        confidences for the FROC curve; what the second look of a cascade dropped (``dropped/``) carries it on.
    out : path-like
        Folder for ``masks.csv`` (the long table), ``tables/``, ``figures/`` and ``report.html``.
    structures : mapping of str to sequence of int, optional
        Labels that make up each structure, in the reference and in the prediction. Default: every label of the
        references is a structure of its own.
    lesions : str, optional
        Structure whose connected regions are counted as lesions; default: the last one.
    rule : str
        When a lesion counts as found, see :data:`hybrid.mask_metrics.MATCHING_RULES`.
    sizes_mm : sequence of float
        Edges of the size strata by maximum diameter (mm).
    convention : {"kits", "nnunet", "monai"}
        What an empty mask scores.
    split : str, optional
        Set of every case, in place of the column.
    report : bool
        Also write summaries, figures and the report.
    title : str
        Of the report.
    simulated : bool
        Said at the top of the report.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    DataFrame
        The long table, see :data:`hybrid.tables.MASK_COLUMNS`; ``.attrs["failures"]`` lists cases without a result.

    Raises
    ------
    InputError
        For unknown structures, rules or splits.
    """
    from hybrid.mask_metrics import MATCHING_RULES

    if rule not in MATCHING_RULES:
        raise unknown_name("matching rule", rule, MATCHING_RULES)
    cohort.require_unique_ids()
    folder, out = _mask_folder(Path(masks)), Path(out)
    chosen = {name: [int(v) for v in values] for name, values in (structures or _structures(cohort)).items()}
    counted = lesions or list(chosen)[-1]
    if counted not in chosen:
        raise unknown_name("structure", counted, chosen)
    pairs = Cohort(replace(case, mask=_pair(case, folder)) for case in cohort)
    settings: dict[str, Any] = {
        "structures": chosen,
        "lesions": counted,
        "rule": rule,
        "sizes": list(sizes_mm),
        "convention": convention,
    }
    settings["confidences"] = _confidences(folder.parent / LESIONS, ("case_id", "label", "lesion_id", "confidence"))
    settings["dropped"] = _confidences(folder.parent / f"{DROPPED}.csv", ("case_id", "lesion_id", "confidence"))
    function = functools.partial(measure_case, **settings)
    results = run_cases(
        function, pairs, stage="evaluate_masks", settings=settings, out=out, n_jobs=n_jobs, backend=backend,
        progress=progress,
    )  # fmt: skip
    table = as_long_table(cohort, results.rows, split)
    write_csv(table, out / TABLE)
    table.attrs["failures"] = results.failures.to_dict("records")
    if len(results.failures):
        logger.warning("Not evaluated: %s. See failures.csv.", ", ".join(results.failures["case_id"]))
    if report:
        from .mask_report import write_mask_report

        write_mask_report(
            table,
            out,
            cohort=cohort,
            masks=folder,
            lesions=counted,
            lesion_labels=chosen[counted],
            sizes_mm=sizes_mm,
            title=title,
            simulated=simulated,
        )
    return table


def _mask_folder(folder: Path) -> Path:
    if (folder / MASKS).is_dir():
        return folder / MASKS
    if not folder.is_dir():
        raise InputError("The folder of masks does not exist.", advice="Run `hybrid segment` first.", path=folder)
    return folder


def _structures(cohort: Cohort) -> dict[str, list[int]]:
    """Every label of the reference masks as a structure of its own."""
    found: set[int] = set()
    for case in cohort:
        for path in case.masks.values():
            if path.is_file():
                found |= set(labels_in(read_mask(path, case_id=case.case_id)))
    if not found:
        raise InputError("No reference mask holds a label.", advice="Fill the cohort's column mask.")
    return {f"label_{value}": [value] for value in sorted(found)}


def _pair(case: Case, folder: Path) -> dict[str, Path]:
    """Pair the reference and the prediction of a case, with what a second look dropped where there is a file of it."""
    reference = next(iter(case.masks.values()), None)
    if reference is None:
        raise InputError("The case has no reference mask.", advice="Fill the column mask.", case_id=case.case_id)
    name = f"{quote(case.case_id, safe=' ()+,=@')}.nii.gz"
    dropped = folder.parent / DROPPED / name
    return {
        "reference": reference, "prediction": folder / name, **({DROPPED: dropped} if dropped.is_file() else {})
    }  # fmt: skip


def measure_case(
    case: Case, seed: int, *, structures: Mapping[str, Sequence[int]], lesions: str, rule: str, sizes: Sequence[float],
    convention: str, confidences: Sequence[Mapping[str, Any]], dropped: Sequence[Mapping[str, Any]] = (),
) -> Rows:  # fmt: skip
    """Rows ``structure, lesion_id, size_bin, metric, value, convention`` of one case."""
    from hybrid.mask_metrics import KITS_TOLERANCES_MM, measure_masks

    if not isinstance(case.mask, Mapping):
        raise InputError("The case needs a reference and a predicted mask.", case_id=case.case_id)
    reference = read_mask(case.mask["reference"], case_id=case.case_id)
    prediction = read_mask(case.mask["prediction"], case_id=case.case_id)
    prediction, _ = align_mask(reference, prediction, case_id=case.case_id, path=case.mask["prediction"])
    tolerances = {name: KITS_TOLERANCES_MM.get(name, 2.0) for name in structures}
    table = measure_masks(prediction, reference, structures, tolerances_mm=tolerances, case_id=case.case_id)
    rows = _structure_rows(table, tolerances, convention)
    values, spacing = structures[lesions], reference.GetSpacing()[::-1]
    regions = [np.isin(to_array(mask), list(values)) for mask in (prediction, reference)]
    own = [row for row in confidences if row["case_id"] == case.case_id]
    certain = _confidence_map(to_array(prediction), values, spacing, own) if own or not regions[0].any() else None
    rows += _lesion_rows(regions[0], regions[1], spacing, certain, lesions, rule, sizes)
    if DROPPED in case.mask:
        path = case.mask[DROPPED]
        numbers, _ = align_mask(reference, read_mask(path, case_id=case.case_id), case_id=case.case_id, path=path)
        scores = {int(row["lesion_id"]): float(row["confidence"]) for row in dropped if row["case_id"] == case.case_id}
        rows += _dropped_rows(to_array(numbers), scores, regions[1], spacing, lesions, rule, sizes)
    return rows


def _structure_rows(table: pd.DataFrame, tolerances: Mapping[str, float], convention: str) -> Rows:
    from hybrid.analysis.conventions import by_convention

    stated = by_convention(table, convention)
    rows = []
    for row in stated.to_dict("records"):
        note = (
            f"{convention}; tolerance {tolerances[row['structure']]:.2f} mm"
            if row["metric"] == "surface_dice"
            else convention
        )
        rows.append({"structure": row["structure"], "lesion_id": "", "size_bin": "", "metric": row["metric"],
                     "value": float(row["value"]), "convention": note})  # fmt: skip
    return rows


def _lesion_rows(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], certain: np.ndarray | None,
    structure: str, rule: str, sizes: Sequence[float],
) -> Rows:  # fmt: skip
    from hybrid.analysis.detection import size_bin
    from hybrid.mask_metrics import match_lesions

    found = match_lesions(prediction, reference, spacing, rule=rule, probability=certain)
    rows: Rows = []
    for prefix, table in zip(("r", "p"), found, strict=True):
        for lesion in table.to_dict("records"):
            common = {
                "structure": structure, "lesion_id": f"{prefix}{int(lesion['lesion_id'])}",
                "size_bin": size_bin(float(lesion["max_diameter_mm"]), sizes), "convention": rule,
            }  # fmt: skip
            values = {"confidence" if name == "best_confidence" else name: lesion[name] for name in lesion}
            rows += [{**common, "metric": n, "value": float(v)} for n, v in values.items() if n != "lesion_id"]
    return rows


def _dropped_rows(
    numbers: np.ndarray, scores: Mapping[int, float], reference: np.ndarray, spacing: Sequence[float],
    structure: str, rule: str, sizes: Sequence[float],
) -> Rows:  # fmt: skip
    """Rows of candidates that were dropped, and of the confidence with which they would have found a lesion."""
    certain = np.zeros(numbers.shape, np.float32)
    for number, score in scores.items():
        certain[numbers == number] = score
    rows = _lesion_rows(numbers > 0, reference, spacing, certain, structure, rule, sizes)
    result = []
    for row in rows:
        if row["lesion_id"].startswith("p"):
            result.append({**row, "lesion_id": f"d{row['lesion_id'][1:]}"})
        elif row["metric"] == "confidence":
            result.append({**row, "metric": "dropped_confidence"})
    return result


def as_long_table(cohort: Cohort, rows: Mapping[str, Rows], split: str | None = None) -> pd.DataFrame:
    """Put case, patient, site and set before the rows of every case, see :data:`hybrid.tables.MASK_COLUMNS`."""
    parts = []
    for case in cohort:
        value = split or split_of(case) or "test"
        if value not in SPLITS:
            raise unknown_name("split", value, SPLITS, case_id=case.case_id)
        head = {"case_id": case.case_id, "patient_id": case.patient_id, "site": case.site or "", "split": value}
        parts += [{**head, **row} for row in rows.get(case.case_id, [])]
    return pd.DataFrame(parts, columns=list(MASK_COLUMNS))


def _confidences(path: Path, wanted: Sequence[str]) -> list[dict[str, Any]]:
    """Rows with the wanted columns of a table beside the masks; empty without it or them."""
    if not path.is_file():
        return []
    table = read_exact(path, text=("case_id", "patient_id"))
    return list(table[list(wanted)].to_dict("records")) if set(wanted) <= set(table.columns) else []


def _confidence_map(
    prediction: np.ndarray, values: Sequence[int], spacing: Sequence[float], rows: Sequence[Mapping[str, Any]]
) -> np.ndarray | None:
    """Confidence of the lesion that each voxel belongs to, or None when a predicted lesion has none."""
    from hybrid.lesions import label_lesions

    known = {(int(row["label"]), int(row["lesion_id"])): float(row["confidence"]) for row in rows}
    result = np.zeros(prediction.shape, np.float32)
    for value in values:
        numbers, count = label_lesions(prediction == value, spacing)
        if any((value, number) not in known for number in range(1, count + 1)):
            return None
        scores = np.array([0.0, *(known[value, number] for number in range(1, count + 1))], np.float32)
        result += scores[numbers]
    return result


def overlay_slices(
    cohort: Cohort, folder: Path, case_ids: Mapping[str, str], *, labels: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """Slices for overlays: the slice of each case with the largest reference region, both masks, the image.

    Parameters
    ----------
    cohort : Cohort
        With images and reference masks.
    folder : Path
        Predicted masks.
    case_ids : mapping of str to str
        Title to case id.
    labels : sequence of int
        Labels whose region counts, where the reference has them; default: all.

    Returns
    -------
    list of dict
        ``case_id, title, image, reference, prediction, spacing`` (y, x in mm).
    """
    slices = []
    for title, case_id in case_ids.items():
        case = cohort[case_id]
        pair = _pair(case, folder)
        image = read_image(next(iter(case.images.values())), case_id=case_id)
        reference = read_mask(pair["reference"], case_id=case_id)
        prediction, _ = align_mask(reference, read_mask(pair["prediction"], case_id=case_id), case_id=case_id)
        image, reference, prediction = (_upright(item) for item in (image, reference, prediction))
        values = to_array(reference)
        wanted = np.isin(values, list(labels))
        areas = (wanted if wanted.any() else values > 0).sum(axis=(1, 2))
        best = int(areas.argmax()) if areas.any() else values.shape[0] // 2
        slices.append({
            "case_id": case_id, "title": title, "image": to_array(image)[best], "reference": values[best],
            "prediction": to_array(prediction)[best], "spacing": tuple(image.GetSpacing()[1::-1]),
        })  # fmt: skip
    return slices


def _upright(image: Any) -> Any:
    import SimpleITK as sitk

    return sitk.DICOMOrient(image, "LPS")
