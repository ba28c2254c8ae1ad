"""Trivial segmentations of kidneys and renal masses on CT: what a threshold, or the usual place, achieves alone.

They are the yardstick beside a network: where they do well the task was easy. Nothing here is meant for patients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import InputError
from .images import from_array, to_array

GRID: Final = (80, 96, 96)
"""Voxels (z, y, x) of an atlas."""

STEP_MM: Final = 3.0
BODY_STEP_MM: Final = 4.0
BODY_HU: Final = -250.0
SOFT_HU: Final = (20.0, 250.0)
DENSEST: Final = 0.85
BONE_HU: Final = 280.0
CLOSING_MM: Final = 15.0
DIFFERENCE_HU: Final = 30.0
FAT_HU: Final = -30.0


def threshold_kidneys(image: sitk.Image) -> sitk.Image:
    """Find kidneys as the two largest pieces of dense soft tissue.

    The window needs no knowledge of the phase: it begins where the densest 15 % of the soft tissue (20 to 250 HU) begin
    and ends at 250 HU; what lies in and beside bone is left out. The image is read on a 3 mm grid and smoothed.

    Parameters
    ----------
    image : SimpleITK.Image
        CT (HU).

    Returns
    -------
    SimpleITK.Image
        uint8 on the image's grid, 1 in the kidneys.
    """
    coarse = _on_grid(image, STEP_MM, sitk.sitkLinear)
    values = ndimage.gaussian_filter(to_array(coarse).astype(np.float32), 0.8)
    low, high = SOFT_HU
    soft = values[(values > low) & (values < high)]
    if not soft.size:
        return _back(np.zeros(values.shape, np.uint8), coarse, image)
    bone = ndimage.binary_dilation(ndimage.binary_closing(values > BONE_HU, iterations=4), iterations=1)
    dense = (values > np.quantile(soft, DENSEST)) & (values < high) & ~bone
    dense = ndimage.binary_opening(dense, iterations=1)
    pieces, _ = ndimage.label(dense)
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    keep = [number for number in np.argsort(-sizes, kind="stable")[:2] if sizes[number]]
    return _back(np.isin(pieces, keep).astype(np.uint8), coarse, image)


def threshold_masses(image: sitk.Image, kidneys: sitk.Image) -> sitk.Image:
    """Find masses as what lies in or beside the kidneys and is less dense than they are.

    Parameters
    ----------
    image : SimpleITK.Image
        CT (HU).
    kidneys : SimpleITK.Image
        Kidneys without their masses, for example from :func:`threshold_kidneys`, on the image's grid.

    Returns
    -------
    SimpleITK.Image
        uint8 on the image's grid, 1 where the closed kidneys (15 mm) are denser than fat (-30 HU) and at least 30 HU
        less dense than the kidneys' median.
    """
    coarse = _on_grid(image, STEP_MM, sitk.sitkLinear)
    inside = to_array(sitk.Resample(kidneys, coarse, sitk.Transform(), sitk.sitkNearestNeighbor, 0)) > 0
    found = np.zeros(inside.shape, np.uint8)
    if inside.any():
        values = ndimage.gaussian_filter(to_array(coarse).astype(np.float32), 0.8)
        reach = round(CLOSING_MM / STEP_MM)
        closed = ndimage.binary_closing(np.pad(inside, reach), iterations=reach)[(slice(reach, -reach),) * 3] | inside
        light = (values > FAT_HU) & (values < np.median(values[inside]) - DIFFERENCE_HU)
        found = ndimage.binary_opening(closed & light, iterations=1).astype(np.uint8)
    return _back(found, coarse, image)


@dataclass(frozen=True)
class Atlas:
    """Where a structure usually lies within the body.

    Attributes
    ----------
    frequency : ndarray, shape (80, 96, 96)
        Share of the training cases that have the structure there; (z, y, x) across the box around the body.
    level : float
        Least share at which the atlas has the mean volume of the training cases.
    """

    frequency: np.ndarray
    level: float

    @classmethod
    def from_cases(cls, cases: Iterable[tuple[sitk.Image, sitk.Image]]) -> Atlas:
        """Lay training cases over each other by the boxes around their bodies.

        Parameters
        ----------
        cases : iterable of (SimpleITK.Image, SimpleITK.Image)
            CT (HU) and mask; everything above 0 belongs to the structure.

        Raises
        ------
        InputError
            Without cases.
        """
        total, volume, count = np.zeros(GRID, np.float32), 0.0, 0
        for image, mask in cases:
            ct, inside = (sitk.DICOMOrient(part, "LPS") for part in (image, sitk.Cast(mask > 0, sitk.sitkFloat32)))
            low, extent = _body_box(ct)
            total += to_array(_box_resample(inside, low, extent))
            volume += float(to_array(inside).sum()) * float(np.prod(inside.GetSpacing())) / float(np.prod(extent))
            count += 1
        if not count:
            raise InputError("An atlas needs at least one case with a mask.")
        share = total / count
        return cls(share, max(float(np.quantile(share, 1 - min(volume / count, 1.0))), 1e-3))

    def place(self, image: sitk.Image) -> sitk.Image:
        """Lay the atlas over a scan.

        Returns
        -------
        SimpleITK.Image
            uint8 on the image's grid, 1 where the structure usually is.
        """
        low, extent = _body_box(sitk.DICOMOrient(image, "LPS"))
        atlas = sitk.GetImageFromArray(self.frequency)
        atlas.SetSpacing([float(e) / n for e, n in zip(extent, reversed(GRID), strict=True)])
        atlas.SetOrigin([float(o) + s / 2 for o, s in zip(low, atlas.GetSpacing(), strict=True)])
        near = sitk.Resample(atlas, image, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
        return sitk.Cast(near >= self.level, sitk.sitkUInt8)


def _body_box(image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
    """Lower corner and extent (x, y, z) in mm of the largest piece denser than fat's lower end; LPS."""
    coarse = _on_grid(image, BODY_STEP_MM, sitk.sitkLinear)
    pieces, count = ndimage.label(ndimage.binary_opening(to_array(coarse) > BODY_HU, iterations=2))
    if not count:
        spacing = np.array(image.GetSpacing())
        return np.array(image.GetOrigin()) - spacing / 2, spacing * image.GetSize()
    box = ndimage.find_objects(pieces)[int(np.argmax(np.bincount(pieces.ravel())[1:]))][::-1]
    start, spacing = np.array([b.start for b in box]), np.array(coarse.GetSpacing())
    return np.array(coarse.GetOrigin()) + (start - 0.5) * spacing, spacing * [b.stop - b.start for b in box]


def _box_resample(image: sitk.Image, low: np.ndarray, extent: np.ndarray) -> sitk.Image:
    """Values of a box (mm) on the atlas's voxels."""
    step = extent / GRID[::-1]
    direction = np.eye(3).ravel().tolist()
    return sitk.Resample(
        image, GRID[::-1], sitk.Transform(), sitk.sitkLinear, (low + step / 2).tolist(), step.tolist(), direction, 0.0
    )


def _on_grid(image: sitk.Image, step: float, how: int) -> sitk.Image:
    """Resample to cubes of ``step`` mm."""
    size = [max(int(n * s / step), 1) for n, s in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    origin, spacing = image.GetOrigin(), (step,) * 3
    return sitk.Resample(image, size, sitk.Transform(), how, origin, spacing, image.GetDirection(), -1000)


def _back(values: np.ndarray, coarse: sitk.Image, image: sitk.Image) -> sitk.Image:
    return sitk.Resample(from_array(values, coarse), image, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
