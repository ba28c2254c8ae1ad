"""Lesions of a mask: connected regions, how large they are, where they lie, how sure the network was.

A lesion is a set of foreground voxels that touch by a face, an edge or a corner (26 neighbours). Arrays are in
(z, y, x) order, as is every ``spacing_zyx`` (mm).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from .errors import GeometryError, InputError
from .images import index_to_point
from .regions import bounding_box

LESION_COLUMNS: Final = (
    "lesion_id",
    "volume_ml",
    "max_diameter_mm",
    "equivalent_diameter_mm",
    "centre_x",
    "centre_y",
    "centre_z",
)
"""Columns of :func:`lesion_table`."""

CONFIDENCE_COLUMNS: Final = ("confidence", "mean_probability")
"""Further columns of :func:`lesion_table` when probabilities are given."""

_NEIGHBOURS: Final = np.ones((3, 3, 3), dtype=bool)
_PAIR_BLOCK: Final = 512


def label_lesions(
    region: np.ndarray, spacing_zyx: Sequence[float] | np.ndarray, *, min_volume_mm3: float = 0.0
) -> tuple[np.ndarray, int]:
    """Find the lesions of a region and number them by size.

    Parameters
    ----------
    region : ndarray of bool, shape (z, y, x)
        Foreground.
    spacing_zyx : sequence of float
        Voxel size (mm), in the order of the array.
    min_volume_mm3 : float
        Smaller lesions are left out (they become background).

    Returns
    -------
    numbers : ndarray of int32, shape (z, y, x)
        0 for background, 1 for the largest lesion, and so on. Lesions of equal volume keep the order in which they
        are met in the array.
    count : int
        How many lesions there are.

    Raises
    ------
    InputError
        When the region is not a 3D array of bool, or the voxel size or the smallest volume is unusable.
    """
    spacing = check_region(region, spacing_zyx)
    numbers = np.zeros(region.shape, dtype=np.int32)
    box = bounding_box(region)
    if box is None:
        _check_volume(min_volume_mm3)
        return numbers, 0
    return numbers, _label(region[box], spacing, min_volume_mm3, numbers[box])[1]


def _label(
    region: np.ndarray, spacing: np.ndarray, min_volume_mm3: float, out: np.ndarray | None = None
) -> tuple[np.ndarray, int]:
    """As :func:`label_lesions`, for a cropped region."""
    _check_volume(min_volume_mm3)
    numbers = np.zeros(region.shape, dtype=np.int32) if out is None else out
    found = ndimage.label(region, structure=_NEIGHBOURS, output=numbers)
    # Only the foreground is looked up: a copy of a whole volume takes more memory than all else.
    inside = numbers[region]
    voxels = np.bincount(inside, minlength=found + 1)[1:]
    order = np.argsort(-voxels, kind="stable")
    kept = order[voxels[order] * spacing.prod() >= min_volume_mm3 * (1 - 1e-9)]
    table = np.zeros(found + 1, dtype=np.int32)
    table[kept + 1] = np.arange(1, len(kept) + 1)
    numbers[region] = table[inside]
    return numbers, len(kept)


def _check_volume(min_volume_mm3: float) -> None:
    if not (math.isfinite(min_volume_mm3) and min_volume_mm3 >= 0):
        raise InputError(f"The smallest volume must be 0 mm³ or more, found {min_volume_mm3}.")


def check_region(region: np.ndarray, spacing_zyx: Sequence[float] | np.ndarray, *, name: str = "region") -> np.ndarray:
    """Refuse anything but a 3D array of bool and three positive voxel sizes.

    Returns
    -------
    ndarray of float64, shape (3,)
        The voxel size (mm), in the order of the array.

    Raises
    ------
    InputError
        Says which of the two is wrong.
    """
    if not isinstance(region, np.ndarray) or region.ndim != 3 or region.dtype != np.bool_:
        kind = f"{region.dtype} of shape {region.shape}" if isinstance(region, np.ndarray) else type(region).__name__
        raise InputError(
            f"Expected a {name} as a 3D array of bool (z, y, x), found {kind}.", advice="Compare: mask == 2."
        )
    spacing = np.asarray(spacing_zyx, dtype=float)
    if spacing.shape != (3,) or not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise InputError(f"Expected three positive voxel sizes (z, y, x) in mm, found {spacing_zyx}.")
    return spacing


def max_diameter_mm(region: np.ndarray, spacing_zyx: Sequence[float] | np.ndarray) -> float:
    """Largest distance between two points of the region's surface.

    The surface points are the centres of the voxel faces between region and background. They are the vertices of the
    triangle mesh that marching cubes builds on a mask, so that the value is the *maximum 3D diameter* of IBSI
    (doi 10.1148/radiol.2020191145) and PyRadiomics' ``Maximum3DDiameter``. One voxel has its longest edge as diameter,
    never 0; n voxels in a row along their longest edge have the length of the row.

    Parameters
    ----------
    region : ndarray of bool, shape (z, y, x)
        Foreground; connected or not.
    spacing_zyx : sequence of float
        Voxel size (mm), in the order of the array.

    Returns
    -------
    float
        mm; NaN for an empty region.

    Raises
    ------
    InputError
        As :func:`label_lesions`.
    """
    spacing = check_region(region, spacing_zyx)
    box = bounding_box(region)
    return math.nan if box is None else _diameter(region[box], spacing)


def _diameter(region: np.ndarray, spacing: np.ndarray) -> float:
    """Only the corners of the convex hull can be the two ends; the hull needs the ends of each row only."""
    rows = np.argwhere(region.any(axis=2))
    lines = region[rows[:, 0], rows[:, 1]]
    ends = (lines.argmax(axis=1), lines.shape[1] - 1 - lines[:, ::-1].argmax(axis=1))
    centres = np.concatenate([np.column_stack([rows, end]) for end in ends]) * spacing
    # With the six face centres of each voxel, the hull has a volume even for one voxel, a row or a slice.
    half = np.diag(spacing) / 2
    points = np.unique((centres[:, None, :] + np.concatenate([half, -half])).reshape(-1, 3), axis=0)
    corners = points[ConvexHull(points).vertices]
    return max(
        float(cdist(corners[start : start + _PAIR_BLOCK], corners[start:]).max())
        for start in range(0, len(corners), _PAIR_BLOCK)
    )


def equivalent_diameter_mm(volume_mm3: float) -> float:
    """Diameter (mm) of the ball that has the volume (mm³).

    Raises
    ------
    InputError
        For a negative volume.
    """
    if not volume_mm3 >= 0:
        raise InputError(f"A volume must be 0 mm³ or more, found {volume_mm3}.")
    return float(np.cbrt(6 * volume_mm3 / math.pi))


def lesion_table(
    region: np.ndarray,
    image: sitk.Image | Sequence[float],
    *,
    probability: np.ndarray | None = None,
    min_volume_mm3: float = 0.0,
) -> pd.DataFrame:
    """One row per lesion, the largest first.

    Parameters
    ----------
    region : ndarray of bool, shape (z, y, x)
        Foreground.
    image : SimpleITK.Image or sequence of float
        An image on the grid of the region, or only its voxel size (z, y, x) in mm.
    probability : ndarray of float, shape (z, y, x), optional
        Probability of foreground, 0 to 1.
    min_volume_mm3 : float
        Smaller lesions are left out.

    Returns
    -------
    DataFrame
        ``lesion_id`` (1 to n, as numbered by :func:`label_lesions`), ``volume_ml``, ``max_diameter_mm``,
        ``equivalent_diameter_mm``, and the centre of mass ``centre_x, centre_y, centre_z``: physical (mm, LPS) when an
        image is given, otherwise mm along the array's axes from the centre of its first voxel. With ``probability``
        also ``confidence``, the largest probability in the lesion (the score that FROC curves rank by: it falls below
        a threshold exactly when the lesion vanishes at it), and ``mean_probability``.

    Raises
    ------
    InputError
        As :func:`label_lesions`; when the region does not fit the image; for probabilities of another shape or
        outside 0 to 1.
    """
    grid = image if isinstance(image, sitk.Image) else None
    spacing = check_region(region, _spacing(image))
    if grid is not None and region.shape != tuple(reversed(grid.GetSize())):
        raise GeometryError(
            f"Region of shape {region.shape} (z, y, x) and image of size {grid.GetSize()} (x, y, z) differ."
        )
    _check_volume(min_volume_mm3)
    check_probability(probability, region)
    box = bounding_box(region)
    if box is None:
        return _frame([], probability)
    numbers, _ = _label(region[box], spacing, min_volume_mm3)
    rows = measure_lesions(numbers, spacing, None if probability is None else probability[box])
    offset = np.array([part.start for part in box])
    for row in rows:
        index_xyz = (row.pop("index") + offset)[::-1]
        centre = index_xyz * spacing[::-1] if grid is None else index_to_point(grid, index_xyz[None])[0]
        row.update(zip(("centre_x", "centre_y", "centre_z"), map(float, centre), strict=True))
    return _frame(rows, probability)


def _spacing(image: sitk.Image | Sequence[float]) -> Sequence[float]:
    return image.GetSpacing()[::-1] if isinstance(image, sitk.Image) else image


def _frame(rows: list[dict[str, Any]], probability: np.ndarray | None) -> pd.DataFrame:
    columns = [*LESION_COLUMNS, *(CONFIDENCE_COLUMNS if probability is not None else ())]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({name: int if name == "lesion_id" else float for name in columns})


def check_probability(probability: np.ndarray | None, region: np.ndarray) -> None:
    """Raise unless the array has the shape of the region and holds 0 to 1 inside it.

    Raises
    ------
    InputError
        Says what was found.
    """
    if probability is None:
        return
    if np.shape(probability) != region.shape:
        raise InputError(f"Expected probabilities of shape {region.shape} (z, y, x), found {np.shape(probability)}.")
    box = bounding_box(region)
    inside = np.asarray(probability)[box][region[box]] if box else np.zeros(1)
    if not ((inside >= 0) & (inside <= 1)).all():
        raise InputError(f"Probabilities must lie between 0 and 1, found {inside.min()} to {inside.max()}.")


def measure_lesions(
    numbers: np.ndarray, spacing: np.ndarray, probability: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """Size, place and probability of numbered lesions.

    Parameters
    ----------
    numbers : ndarray of int, shape (z, y, x)
        As returned by :func:`label_lesions`.
    spacing : ndarray of float, shape (3,)
        Voxel size (mm), in the order of the array.
    probability : ndarray of float, shape (z, y, x), optional
        Probability of foreground.

    Returns
    -------
    list of dict
        ``lesion_id, voxels, volume_ml, max_diameter_mm, equivalent_diameter_mm``, ``index`` (array of shape (3,):
        centre of mass in voxels, order z, y, x) and, with probabilities, ``confidence, mean_probability``.
    """
    rows = []
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        inside = numbers[box] == number
        places = np.nonzero(inside)
        volume = len(places[0]) * float(spacing.prod())
        row: dict[str, Any] = {
            "lesion_id": number,
            "voxels": len(places[0]),
            "volume_ml": volume / 1000,
            "max_diameter_mm": _diameter(inside, spacing),
            "equivalent_diameter_mm": equivalent_diameter_mm(volume),
            "index": np.array([axis.mean() for axis in places]) + [part.start for part in box],
        }
        if probability is not None:
            values = probability[box][inside].astype(float)
            row |= {"confidence": float(values.max()), "mean_probability": float(values.mean())}
        rows.append(row)
    return rows
