"""The problems that :meth:`Cohort.check` looks for, one function each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from tqdm.auto import tqdm

from .errors import InputError
from .images import compare_geometry, labels_in, nonfinite_voxels, read_image, read_mask, to_array

if TYPE_CHECKING:
    from .cases import Case

ERROR = "error"
WARNING = "warning"


@dataclass(frozen=True)
class Problem:
    """One row of the table of problems."""

    case_id: str
    severity: str
    problem: str
    advice: str


def check_cohort(cases: Sequence[Case], *, progress: bool = False) -> list[Problem]:
    """Check every case and then the cohort as a whole.

    Parameters
    ----------
    cases : sequence of Case
        The cohort.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of Problem
        In the order of the cases; problems of the whole cohort come last.
    """
    rows: list[Problem] = []
    contents: dict[str, list[Case]] = defaultdict(list)
    for case in tqdm(cases, desc="check", unit="case", disable=not progress):
        for name in case.images:
            problems, content = check_scan(case, name)
            rows += problems
            if content is not None:
                contents[content].append(case)
    rows += _duplicate_ids(cases)
    rows += _same_content(contents)
    rows += _outcome_problems(cases)
    return rows


def check_scan(case: Case, name: str) -> tuple[list[Problem], str | None]:
    """Check one image of a case and its mask.

    Returns
    -------
    problems : list of Problem
        Empty when all is well.
    content : str or None
        Digest of the image's voxels; None when they could not be read.
    """
    path = case.images[name]
    label = "" if name == "image" else f"{name}: "
    try:
        image = read_image(path, case_id=case.case_id)
    except InputError as error:
        return [_from_error(case, error, label)], None
    values = to_array(image)
    content = hashlib.sha256(repr(values.shape).encode() + np.ascontiguousarray(values).tobytes()).hexdigest()
    problems = [
        Problem(case.case_id, severity, f"{label}{text} [{path.name}]", advice)
        for severity, text, advice in _voxel_problems(values, nonfinite_voxels(path, image))
    ]
    if name not in case.masks:
        return problems, content
    mask_path = case.masks[name]
    try:
        mask = read_mask(mask_path, case_id=case.case_id)
    except InputError as error:
        return [*problems, _from_error(case, error, label)], content
    problems += [
        Problem(case.case_id, severity, f"{label}{text} [{mask_path.name}]", advice)
        for severity, text, advice in (*_grid_problems(image, mask), *_mask_problems(mask, case.roi_label))
    ]
    return problems, content


def _from_error(case: Case, error: InputError, label: str) -> Problem:
    place = f" [{Path(error.path).name}]" if error.path else ""
    return Problem(case.case_id, ERROR, f"{label}{error.message}{place}", error.advice)


def _voxel_problems(values: np.ndarray, broken: np.ndarray | None) -> Iterator[tuple[str, str, str]]:
    if broken is not None:
        yield ERROR, f"{broken.sum()} voxels are NaN or infinite.", "Replace them before use; they are often padding."
    if values.size and values.min() == values.max():
        yield ERROR, "All voxels have the same value.", "Export the image again."


def _grid_problems(image: sitk.Image, mask: sitk.Image) -> Iterator[tuple[str, str, str]]:
    report = compare_geometry(image, mask)
    if report.verdict == "resample":
        yield (
            WARNING,
            f"Image and mask lie on different grids: {report.describe()}.",
            "The mask will be resampled to the image (nearest neighbour); look at one overlay.",
        )
    elif report.verdict == "refuse":
        yield (
            ERROR,
            f"Image and mask do not belong together: {report.describe()}.",
            "Was the mask drawn on another series? Export both again from the same software.",
        )


def _mask_problems(mask: sitk.Image, roi_label: int | None) -> Iterator[tuple[str, str, str]]:
    labels = labels_in(mask)
    if not labels:
        yield ERROR, "The mask is empty.", "Draw the region, or leave the case out."
        return
    if roi_label is not None and roi_label not in labels:
        found = ", ".join(map(str, labels))
        advice = "Draw the region, or correct the roi_label column."
        yield ERROR, f"Label {roi_label} is not in the mask; found {found}.", advice
        return
    values = to_array(mask)
    for label in [roi_label] if roi_label is not None else labels:
        extent = np.ptp(np.argwhere(values == label), axis=0) + 1
        if labels[label] == 1:
            yield ERROR, f"Label {label} is one voxel.", "No texture or shape can be measured; redraw it."
        elif (extent == 1).any():
            yield (
                WARNING,
                f"Label {label} lies in one slice (extent {extent[::-1].tolist()} voxels in x, y, z).",
                "3D shape is not meaningful; use 2D settings (force2D) for the whole cohort, or redraw.",
            )


def _duplicate_ids(cases: Sequence[Case]) -> Iterator[Problem]:
    seen: dict[str, int] = defaultdict(int)
    for case in cases:
        seen[case.case_id] += 1
    for case_id, count in seen.items():
        if count > 1:
            yield Problem(case_id, ERROR, f"The id stands in {count} rows.", "Give each case its own case_id.")


def _same_content(contents: dict[str, list[Case]]) -> Iterator[Problem]:
    for group in contents.values():
        first = group[0]
        for other in group[1:]:
            if other.patient_id != first.patient_id:
                yield Problem(
                    other.case_id,
                    ERROR,
                    f"The voxels equal those of case {first.case_id}, which belongs to another patient.",
                    "One scan under two ids leaks between training and test; correct the table.",
                )
            elif other.case_id != first.case_id and other.masks == first.masks and other.roi_label == first.roi_label:
                yield Problem(
                    other.case_id,
                    ERROR,
                    f"The voxels and the mask equal those of case {first.case_id}.",
                    "Remove one of the two rows.",
                )


def _outcome_problems(cases: Sequence[Case]) -> Iterator[Problem]:
    by_patient: dict[str, set[object]] = defaultdict(set)
    for case in cases:
        if case.outcome is not None:
            by_patient[case.patient_id].add(case.outcome)
    if not by_patient:
        return
    for case in cases:
        if case.outcome is None:
            yield Problem(case.case_id, WARNING, "The outcome is missing.", "The case cannot be used for evaluation.")
    for patient, outcomes in by_patient.items():
        if len(outcomes) > 1:
            ids = [case.case_id for case in cases if case.patient_id == patient]
            yield Problem(
                ids[0],
                WARNING,
                f"The patient has two outcomes ({', '.join(map(str, sorted(outcomes, key=str)))}) in cases "
                f"{', '.join(ids)}.",
                "Correct the outcome or the patient_id, unless the outcomes belong to different lesions.",
            )
    classes = set().union(*by_patient.values())
    if len(classes) == 1:
        yield Problem("", ERROR, f"Every case has the outcome {classes.pop()!r}.", "Nothing can be predicted.")
