"""Boxes around regions of an array, and regions widened and closed by a distance in mm.

A region is an array of bool in (z, y, x) order, as is every ``spacing_zyx`` (mm).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Box = tuple[slice, slice, slice]


def bounding_box(*regions: np.ndarray, margin: Sequence[int] = (0, 0, 0)) -> Box | None:
    """Smallest box around everything that is not 0 in any of several arrays of one shape.

    Parameters
    ----------
    *regions : ndarray, shape (z, y, x)
        Of bool or whole numbers.
    margin : sequence of int
        Voxels of each axis by which the box is widened, as far as the array reaches.

    Returns
    -------
    tuple of slice, or None
        None when all are empty.
    """
    box: list[slice] = [slice(None)] * 3
    for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
        used = np.zeros(regions[0].shape[axis], dtype=bool)
        for region in regions:
            used |= region[tuple(box)].any(axis=others)
        if not used.any():
            return None
        places = np.flatnonzero(used)
        box[axis] = slice(int(places[0]), int(places[-1]) + 1)
    wide = [
        slice(max(0, part.start - extra), min(size, part.stop + extra))
        for part, extra, size in zip(box, margin, regions[0].shape, strict=True)
    ]
    return wide[0], wide[1], wide[2]


def widened(region: np.ndarray, margin_mm: float, spacing_zyx: Sequence[float] | np.ndarray) -> np.ndarray:
    """Voxels within ``margin_mm`` of a region (Euclidean distance of voxel centres)."""
    result = np.zeros(region.shape, bool)
    box = bounding_box(region, margin=_reach(margin_mm, spacing_zyx))
    if box is not None:
        away = ndimage.distance_transform_edt(~region[box].astype(bool), sampling=spacing_zyx)
        result[box] = away <= margin_mm
    return result


def closed(region: np.ndarray, radius_mm: float, spacing_zyx: Sequence[float] | np.ndarray) -> np.ndarray:
    """Region with its holes and the bays that a ball cannot enter, for a kidney its sinus: morphological closing.

    Outside the array there is background.
    """
    filled = region.astype(bool)
    box = bounding_box(region)
    if box is not None:
        reach = _reach(radius_mm, spacing_zyx)
        wide = widened(np.pad(filled[box], [(n, n) for n in reach]), radius_mm, spacing_zyx)
        deep = ndimage.distance_transform_edt(wide, sampling=spacing_zyx) > radius_mm
        filled[box] |= deep[tuple(slice(n, size - n) for n, size in zip(reach, wide.shape, strict=True))]
    return filled


def _reach(distance_mm: float, spacing_zyx: Sequence[float] | np.ndarray) -> list[int]:
    """Voxels of each axis that hold a distance, and one more."""
    return [math.ceil(distance_mm / step) + 1 for step in spacing_zyx]
