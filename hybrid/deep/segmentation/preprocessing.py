"""One case as a network sees it: oriented, resampled, normalised."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import SimpleITK as sitk

from hybrid.errors import InputError
from hybrid.files import replacing
from hybrid.images import Orientation, orientation_of, to_array
from hybrid.lesions import label_lesions
from hybrid.mri import correct_bias
from hybrid.provenance import digest, file_digest
from hybrid.regions import bounding_box

from .geometry import WHOLE, Box, resize, resize_labels, target_shape
from .losses import lesion_weights
from .planning import SegmentationPlan

COORDINATES_KEPT: Final = 4000
"""Foreground voxels remembered per label, to centre training patches on."""

SPECK_VOXELS: Final = 4
"""Lesions of fewer voxels are no centres of patches where the case has larger ones."""

IN_VOXELS: Final = (1.0, 1.0, 1.0)
"""Spacing that counts the volume of lesions in voxels."""

CLIP_PERCENTILES: Final = (0.5, 99.5)

CONTEXT: Final = 0.75
"""Stored around the region of interest, as a share of the patch. Windows of inference lie on a lattice over the whole
scan and reach far beyond the region; a network that has not seen such surroundings in training fails there, all the
more as instance normalisation depends on everything in the window. A window whose centre is farther than a quarter of
its size from a voxel hardly counts for it, so that half a patch more is enough."""


@dataclass(frozen=True)
class Scan:
    """A scan that can be asked for any box of the plan's grid.

    Attributes
    ----------
    array : ndarray, shape (z, y, x)
        Source voxels in canonical orientation.
    orientation : Orientation
        How the source's axes lie.
    spacing : tuple of float
        Source voxel size (mm), canonical order.
    """

    array: np.ndarray
    orientation: Orientation
    spacing: tuple[float, float, float]

    def shape_at(self, spacing: tuple[float, float, float]) -> tuple[int, int, int]:
        """Voxels of the whole scan at another voxel size."""
        return target_shape(self.array.shape, self.spacing, spacing)


def open_scan(image: sitk.Image, *, bias_correction: bool = False, case_id: str | None = None) -> Scan:
    """Bring an image into canonical orientation (no interpolation).

    Raises
    ------
    InputError
        For an image of a single slice, or when the bias field cannot be estimated.
    """
    if image.GetDimension() != 3 or min(image.GetSize()) < 2:
        raise InputError(
            f"A 3D network needs a volume; found {' × '.join(map(str, image.GetSize()))} voxels.",
            advice="Give the whole series, not one slice.",
            case_id=case_id,
        )
    if bias_correction:
        image = correct_bias(image, case_id=case_id)
    orientation = orientation_of(image)
    spacing = orientation.triple(tuple(image.GetSpacing()[::-1]))
    return Scan(orientation.apply(to_array(image)), orientation, spacing)


def intensity_scale(scan: Scan, plan: SegmentationPlan) -> tuple[float, float, float, float]:
    """Clip limits, mean and standard deviation that normalise a scan.

    CT: the foreground statistics of the plan. MR: percentiles 0.5 and 99.5 of the voxels above the scan's minimum, and
    mean and standard deviation of those voxels after clipping.
    """
    if plan.modality == "ct":
        return tuple(plan.intensity[name] for name in ("low", "high", "mean", "sd"))  # type: ignore[return-value]
    values = scan.array[scan.array > scan.array.min()].astype(np.float64)
    if not values.size:
        values = scan.array.astype(np.float64).ravel()
    low, high = np.percentile(values, CLIP_PERCENTILES)
    clipped = np.clip(values, low, high)
    return float(low), float(high), float(clipped.mean()), float(max(clipped.std(), 1e-6))


def network_array(scan: Scan, plan: SegmentationPlan, part: Box = (WHOLE, WHOLE, WHOLE)) -> np.ndarray:
    """Normalised voxels of a box of the plan's grid; the values do not depend on the box.

    Returns
    -------
    ndarray of float32, shape (z, y, x)
        About zero mean and unit variance in tissue.
    """
    low, high, mean, sd = intensity_scale(scan, plan)
    values = np.clip(resize(scan.array, scan.shape_at(plan.spacing), part), np.float32(low), np.float32(high))
    values -= mean
    values /= sd
    return values


def network_labels(mask: sitk.Image, scan: Scan, plan: SegmentationPlan, *, case_id: str | None = None) -> np.ndarray:
    """Labels on the plan's grid: 0 background, 1, 2, ... in the order of ``plan.labels``.

    Raises
    ------
    InputError
        When the mask holds a label that the plan does not know.
    """
    labels = merge_labels(scan.orientation.apply(to_array(mask)), plan.label_map)
    extra = sorted(set(np.unique(labels).tolist()) - set(plan.labels) - {0})
    if extra:
        raise InputError(
            f"The mask holds the labels {extra}; the plan knows {list(plan.labels)}.",
            advice="Merge or remove them, or declare them when training starts.",
            case_id=case_id,
        )
    return resize_labels(labels, scan.shape_at(plan.spacing), plan.labels)


def merge_labels(labels: np.ndarray, label_map: dict[int, int]) -> np.ndarray:
    """Labels with the values of ``label_map`` replaced; the input is not changed."""
    merged = labels
    for source, target in label_map.items():
        merged = np.where(labels == source, target, merged)
    return merged


def write_training_case(
    image: sitk.Image, mask: sitk.Image, plan: SegmentationPlan, path: Path, *, case_id: str
) -> dict[str, Any]:
    """Store a case as the training reads it: half precision voxels, labels, foreground coordinates, bounds of interest.

    Parameters
    ----------
    image, mask : SimpleITK.Image
        On one grid.
    plan : SegmentationPlan
        With ``crop_margin_mm`` the region of interest is the foreground's bounding box and that margin; what is stored
        is this region and what windows of inference see around it (:data:`CONTEXT`).
    path : Path
        The ``.npz`` file to write; the voxels lie beside it (:func:`voxel_files`).
    case_id : str
        Named in errors.

    Returns
    -------
    dict
        ``shape_z, shape_y, shape_x``, the voxels of each label, and ``content``, a digest of image and labels.
    """
    scan = open_scan(image, bias_correction=plan.bias_correction, case_id=case_id)
    labels = network_labels(mask, scan, plan, case_id=case_id)
    box: Box = (WHOLE, WHOLE, WHOLE)
    stored: dict[str, Any] = {}
    if plan.crop_margin_mm is not None:
        margin = [math.ceil(plan.crop_margin_mm / step) for step in plan.spacing]
        context = [m + math.ceil(CONTEXT * size) for m, size in zip(margin, plan.patch, strict=True)]
        inner, outer = bounding_box(labels, margin=margin), bounding_box(labels, margin=context)
        if inner is not None and outer is not None:
            box = outer
            bounds = [[i.start - o.start, i.stop - o.start] for i, o in zip(inner, outer, strict=True)]
            stored["inner"] = np.array(bounds)
    labels = labels[box]
    values = network_array(scan, plan, box)
    rng = np.random.default_rng(0)
    lesions = {number: label_lesions(labels == number, IN_VOXELS)[0] for number in plan.lesion_channels}
    for number in range(1, plan.channels):
        is_lesion = number in lesions
        places = _lesion_places(lesions[number], rng) if is_lesion else _places(labels == number, rng)
        stored[f"places_{number}"] = places
    drawn = np.stack([labels, lesion_weights(list(lesions.values()))]) if lesions else labels[None]
    image_half = values.astype(np.float16)
    files = voxel_files(path)
    for file, voxels in zip(files, (image_half, drawn), strict=True):
        with replacing(file) as partial:
            np.save(partial, voxels)
    with replacing(path) as partial:
        np.savez(partial, minimum=image_half.min(), **stored)
    counts = {f"voxels_{name}": int((labels == i).sum()) for i, name in enumerate(plan.label_names, 1)}
    return {
        "shape_z": labels.shape[0], "shape_y": labels.shape[1], "shape_x": labels.shape[2], **counts,
        "content": digest([file_digest(file) for file in files]),
    }  # fmt: skip


def voxel_files(path: Path) -> tuple[Path, Path]:
    """Image (float16, z y x) and labels with weights (uint8, channel z y x) of a prepared case.

    They are files of their own, because training maps them into memory: of a large scan it reads a patch only, and
    several processes share what the operating system keeps.
    """
    return path.with_suffix(".image.npy"), path.with_suffix(".labels.npy")


def _places(region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    found = np.argwhere(region).astype(np.int16)
    return found if len(found) <= COORDINATES_KEPT else found[rng.choice(len(found), COORDINATES_KEPT, replace=False)]


def _lesion_places(numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As many places from each numbered lesion, but for specks as long as there are larger ones."""
    if not numbers.any():
        return np.zeros((0, 3), np.int16)
    sizes = np.bincount(numbers.ravel())[1:]
    kept = 1 + np.flatnonzero(sizes >= min(SPECK_VOXELS, sizes.max()))
    share = max(1, COORDINATES_KEPT // len(kept))
    parts = [np.argwhere(numbers == number) for number in kept]
    return np.concatenate([part[rng.integers(len(part), size=share)] for part in parts]).astype(np.int16)
