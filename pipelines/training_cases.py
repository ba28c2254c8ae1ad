"""Cases that train a network: which of them, in which folds, and as they lie on disk for it."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import pandas as pd
import SimpleITK as sitk

from hybrid.cases import UNNAMED, Case, Cohort
from hybrid.errors import InputError, unknown_name
from hybrid.images import align_mask, read_image, read_mask
from hybrid.provenance import digest

from .runner import Rows, TaskResults

PREPARED = "prepared"
SPLIT_COLUMN = "split"
"""Cohort column that says which cases are ``train``, ``validation`` or ``test``; test cases are never touched."""

SPLITS = ("train", "validation", "test", "external")

VALIDATION_SHARE: Final = 0.15
"""Of the patients, without folds."""


@dataclass(frozen=True)
class Fold:
    """Which cases train a network and which tell it when it is good."""

    training: tuple[str, ...]
    validation: tuple[str, ...]


def training_folds(
    cases: Cohort,
    folds: int | None = None,
    members: int | None = None,
    validation_share: float = VALIDATION_SHARE,
    seed: int = 0,
) -> tuple[Cohort, list[Fold]]:
    """Folds that :func:`~.train.train_segmenter` trains with these arguments, and their cases."""
    if members is not None and not 1 <= members <= (folds or 1):
        raise InputError(
            f"The 'members' parameter must be from 1 to the number of folds ({folds or 1}); got {members}."
        )
    splits = make_folds(cases, folds, validation_share, seed)[:members]
    known = {name for fold in splits for name in (*fold.training, *fold.validation)}
    return Cohort(case for case in cases if case.case_id in known), splits


def one_image(cohort: Cohort, name: str | None) -> Cohort:
    """Reduce every case to one image and its mask; ``name`` is needed when cases have several."""
    cohort.require_unique_ids()
    cases = []
    for case in cohort:
        images, masks = case.images, case.masks
        chosen = name or (next(iter(images)) if len(images) == 1 else UNNAMED)
        if chosen not in images or chosen not in masks:
            raise InputError(
                f"Training needs an image and a mask; found the images {list(images)} and the masks {list(masks)}.",
                advice="Fill the columns image and mask, or name the image with --image.",
                case_id=case.case_id,
            )
        cases.append(replace(case, image=images[chosen], mask=masks[chosen]))
    return Cohort(cases)


def make_folds(cohort: Cohort, folds: int | None, validation_share: float, seed: int) -> list[Fold]:
    """Split patients, never cases, into training and validation.

    Parameters
    ----------
    cohort : Cohort
        All cases; those with ``split`` = ``test`` are left out.
    folds : int, optional
        Number of folds; each patient validates once.
    validation_share : float
        Without folds, the share of patients for validation.
    seed : int
        Of the random order.

    Returns
    -------
    list of Fold
        Case ids.

    Raises
    ------
    InputError
        For too few patients or an unknown value in the split column.
    """
    declared = {case.case_id: split_of(case) for case in cohort}
    usable = [case for case in cohort if declared[case.case_id] not in ("test", "external")]
    patients = sorted({case.patient_id for case in usable})
    if len(patients) < 2:
        raise InputError(
            f"Training needs at least two patients; found {len(patients)}.",
            advice="Add cases, or check the split column.",
        )
    if folds is None and "validation" in declared.values():
        return [_fold(usable, {case.patient_id for case in usable if declared[case.case_id] == "validation"})]
    order = np.random.default_rng([seed, 17]).permutation(len(patients))
    if folds is not None:
        if not 2 <= folds <= len(patients):
            raise InputError(f"Expected 2 to {len(patients)} folds (the number of patients); found {folds}.")
        return [_fold(usable, {patients[i] for i in order[k::folds]}) for k in range(folds)]
    count = min(len(patients) - 2, math.ceil(validation_share * len(patients))) if validation_share > 0 else 0
    return [_fold(usable, {patients[i] for i in order[: max(count, 0)]})]


def split_of(case: Case) -> str:
    """Set that the cohort's column ``split`` puts a case into, or an empty text.

    Raises
    ------
    InputError
        For a value that is none of :data:`SPLITS`.
    """
    value = case.covariates.get(SPLIT_COLUMN)
    text = "" if value is None or pd.isna(value) else str(value).strip()
    if text and text not in SPLITS:
        raise unknown_name("split", text, SPLITS, case_id=case.case_id)
    return text


def _fold(cases: Sequence[Case], validation: set[str]) -> Fold:
    return Fold(
        tuple(case.case_id for case in cases if case.patient_id not in validation),
        tuple(case.case_id for case in cases if case.patient_id in validation),
    )


def read_pair(case: Case) -> tuple[sitk.Image, sitk.Image]:
    """Image and mask of a case with one image, the mask on the image's grid."""
    if not isinstance(case.image, Path) or not isinstance(case.mask, Path):
        raise InputError("The case needs one image and one mask.", case_id=case.case_id)
    image = read_image(case.image, case_id=case.case_id)
    mask, _ = align_mask(image, read_mask(case.mask, case_id=case.case_id), case_id=case.case_id, path=case.mask)
    return image, mask


def fingerprint_case(case: Case, seed: int) -> Rows:
    """Row of one case for the plan; arrays as lists."""
    from hybrid.deep.segmentation.planning import fingerprint

    found = fingerprint(*read_pair(case), case_id=case.case_id, seed=seed)
    return [
        {**found, "labels": {str(k): v for k, v in found["labels"].items()}, "foreground": found["foreground"].tolist()}
    ]


def as_fingerprint(row: Mapping[str, Any]) -> dict[str, Any]:
    """Undo what the cache did to a row of :func:`fingerprint_case`."""
    labels = {int(value): count for value, count in row["labels"].items()}
    return {**row, "labels": labels, "foreground": np.asarray(row["foreground"])}


def prepare_case(case: Case, seed: int, *, plan: Mapping[str, Any], folder: Path) -> Rows:
    """Store one case as training reads it."""
    from hybrid.deep.segmentation.planning import SegmentationPlan
    from hybrid.deep.segmentation.preprocessing import write_training_case

    path = folder / f"{quote(case.case_id, safe='')}.npz"
    row = write_training_case(*read_pair(case), SegmentationPlan.from_dict(plan), path, case_id=case.case_id)
    return [{"path": str(path), **row}]


def _is_prepared(path: Path) -> bool:
    from hybrid.deep.segmentation.preprocessing import voxel_files

    return all(file.is_file() for file in (path, *voxel_files(path)))


def prepare_cases(cases: Cohort, plan: Any, out: Path, run: Any) -> dict[str, Any]:
    """Store all cases as training reads them; ``run`` is :func:`run_cases` with its settings filled in."""
    from hybrid.deep.segmentation.training import PreparedCase

    content = plan.to_dict()
    folder = out / PREPARED / digest(content)[:12]
    function = functools.partial(prepare_case, plan=content, folder=folder)
    results = run(
        function,
        cases,
        stage="prepare",
        settings={"plan": content},
        valid=lambda rows: _is_prepared(Path(rows[0]["path"])),
    )
    rows = all_read(results, cases)
    return {name: PreparedCase(name, Path(row[0]["path"]), row[0]["content"]) for name, row in rows.items()}


def all_read(results: TaskResults, cases: Cohort) -> dict[str, Rows]:
    """Rows of all cases.

    Raises
    ------
    InputError
        When a case failed; all of them are named.
    """
    if len(results.failures):
        first = results.failures.iloc[0]
        names = ", ".join(results.failures["case_id"])
        raise InputError(
            f"{len(results.failures)} of {len(cases)} cases cannot be used for training ({names}). "
            f"First: {first['message']}",
            advice=f"{first['advice']} The good cases are kept for the next run.",
            case_id=str(first["case_id"]),
        )
    return results.rows
