"""Label maps of kidneys and lesions on a grid in mm, with what painting around and into them needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from hybrid.errors import InputError, unknown_name
from hybrid.images import to_array
from hybrid.regions import closed

from .fields import correlated_noise

LESION_KINDS: Final[Mapping[int, tuple[str, ...]]] = {2: ("aml", "solid"), 3: ("cyst",)}
"""Kinds of lesion by label: tumours (2) and cysts (3)."""

AML_SHARE: Final = 0.2
"""Share of the tumours that are painted as angiomyolipoma."""

SINUS_MM: Final = 12.0
"""Bays of a kidney up to twice as wide count as inside it."""

Triple: TypeAlias = Sequence[float] | np.ndarray
Box: TypeAlias = tuple[slice, ...]


@dataclass(frozen=True)
class Grid:
    """Voxel centres: origin and spacing (z, y, x) in mm, LPS."""

    origin: np.ndarray
    spacing: np.ndarray
    shape: tuple[int, ...]

    def axes(self, box: Box | None = None) -> list[np.ndarray]:
        """Coordinates along each axis, shaped to broadcast over the (boxed) grid."""
        box = box or tuple(slice(0, n) for n in self.shape)
        lines = [o + s * np.arange(b.start, b.stop) for o, s, b in zip(self.origin, self.spacing, box, strict=True)]
        return [a.astype(np.float32) for a in np.ix_(*lines)]

    def box(self, low: Triple, high: Triple) -> Box:
        """Voxels between two corners (mm), cut at the grid's border; may be empty."""
        first = np.floor((np.asarray(low) - self.origin) / self.spacing).astype(int)
        last = np.ceil((np.asarray(high) - self.origin) / self.spacing).astype(int) + 1
        return tuple(
            slice(min(max(a, 0), n), max(min(b, n), min(max(a, 0), n)))
            for a, b, n in zip(first, last, self.shape, strict=True)
        )

    def crop(self, box: Box) -> Grid:
        """Grid of the voxels in a box."""
        start = np.array([b.start for b in box])
        return Grid(self.origin + start * self.spacing, self.spacing, tuple(b.stop - b.start for b in box))

    def split(self, factors: Sequence[int]) -> Grid:
        """Each voxel cut into ``factors`` (z, y, x) parts."""
        parts = np.asarray(factors)
        step = self.spacing / parts
        return Grid(self.origin - self.spacing / 2 + step / 2, step, tuple(np.multiply(self.shape, parts).tolist()))

    def coarse(self, step: float) -> Grid:
        """Cover the grid with cubes of at least its own spacing."""
        spacing = np.maximum(self.spacing, step)
        count = np.ceil((np.asarray(self.shape) - 1) * self.spacing / spacing).astype(int) + 1
        return Grid(self.origin, spacing, tuple(count.tolist()))


def interpolate(values: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Linear interpolation between grids with the same axes; the border is extended."""
    for axis in np.argsort(np.divide(target.shape, source.shape)):
        lines = target.origin[axis] + target.spacing[axis] * np.arange(target.shape[axis])
        place = np.clip((lines - source.origin[axis]) / source.spacing[axis], 0, source.shape[axis] - 1)
        low = np.minimum(place.astype(int), max(source.shape[axis] - 2, 0))
        share = (place - low).astype(np.float32).reshape([-1 if other == axis else 1 for other in range(3)])
        start = np.take(values, low, axis=axis)
        if share.max() > 1e-4:
            start = start + share * (np.take(values, np.minimum(low + 1, source.shape[axis] - 1), axis=axis) - start)
        values = start
    return values.astype(np.float32, copy=False)


def nearest_index(source: Grid, target: Grid) -> tuple[np.ndarray, ...]:
    """Index (to be used on an array of ``source``) of the voxel nearest to each voxel of ``target``."""
    lines = []
    for axis in range(3):
        places = target.origin[axis] + target.spacing[axis] * np.arange(target.shape[axis])
        index = np.rint((places - source.origin[axis]) / source.spacing[axis]).astype(int)
        lines.append(np.clip(index, 0, source.shape[axis] - 1))
    return np.ix_(*lines)


def smooth_field(grid: Grid, scale_mm: float, step_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Correlated noise (SD about 1), made on a coarse grid and interpolated: fast for smooth fields."""
    coarse = grid.coarse(step_mm)
    return interpolate(correlated_noise(coarse.shape, scale_mm, coarse.spacing.tolist(), rng), coarse, grid)


def block_means(values: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Mean over blocks of ``factors`` (z, y, x) voxels."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            split = (*values.shape[:axis], values.shape[axis] // factor, factor, *values.shape[axis + 1 :])
            values = values.reshape(split).mean(axis=axis + 1, dtype=np.float32)
    return values


@dataclass(frozen=True)
class LabelMap:
    """A label map in LPS order with its lesions.

    ``ids`` numbers the lesions from 1, first the tumours, then the cysts; ``lesion_labels[i]`` is the label of lesion
    ``i + 1``.
    """

    values: np.ndarray
    grid: Grid
    ids: np.ndarray
    lesion_labels: tuple[int, ...]

    def points(self, keep: np.ndarray) -> np.ndarray:
        """Coordinates (z, y, x) in mm of the voxels in ``keep``, shape (n, 3)."""
        return self.grid.origin + self.grid.spacing * np.argwhere(keep)


def read_labels(image: sitk.Image) -> LabelMap:
    """Bring a label map to LPS order, with a margin of one voxel, and number its lesions.

    Raises
    ------
    InputError
        For oblique axes, other labels than 1 to 3, or no labels.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"Expected a 3D label map; found {image.GetDimension()} dimensions.")
    image = sitk.DICOMOrient(image, "LPS")
    if not np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-3):
        raise InputError(
            f"The label map's axes are oblique: {image.GetDirection()}.", advice="Resample it to the patient's axes."
        )
    values = to_array(image)
    found = np.unique(values)
    if not np.isin(found, (0, 1, 2, 3)).all() or not found.any():
        raise InputError(f"Expected labels 1 kidney, 2 tumour, 3 cyst; found the values {found[:10].tolist()}.")
    values = np.pad(values.astype(np.uint8), 1)
    spacing = np.array(image.GetSpacing()[::-1])
    ids = np.zeros(values.shape, np.int32)
    labels: list[int] = []
    for label in LESION_KINDS:
        parts, count = ndimage.label(values == label, np.ones((3, 3, 3)))
        ids[parts > 0] = parts[parts > 0] + len(labels)
        labels += [label] * count
    return LabelMap(
        values, Grid(np.array(image.GetOrigin()[::-1]) - spacing, spacing, values.shape), ids, tuple(labels)
    )


def draw_kinds(labels: Sequence[int], wanted: Mapping[int, str] | None, rng: np.random.Generator) -> list[str]:
    """Kind of each lesion: drawn, unless wanted."""
    kinds = []
    for label in labels:
        solid = "aml" if rng.random() < AML_SHARE else "solid"
        kinds.append("cyst" if label == 3 else solid)
    for lesion, kind in (wanted or {}).items():
        if not 1 <= lesion <= len(labels):
            raise unknown_name("lesion", lesion, range(1, len(labels) + 1))
        if kind not in LESION_KINDS[labels[lesion - 1]]:
            raise unknown_name(f"kind for lesion {lesion}", kind, LESION_KINDS[labels[lesion - 1]])
        kinds[lesion - 1] = kind
    return kinds


@dataclass(frozen=True)
class SmallLesion:
    """A ball inside a kidney; ``centre`` is (z, y, x) in mm."""

    label: int
    kind: str
    centre: np.ndarray
    radius_mm: float


def place_small(labels: LabelMap, count: int, rng: np.random.Generator) -> list[SmallLesion]:
    """Lesions of 3 to 10 mm inside the kidneys, apart from each other and from the map's own lesions."""
    if not count:
        return []
    depth = inside_mm(labels.values > 0, labels.grid.spacing)
    apart = ndimage.distance_transform_edt(labels.ids == 0, labels.grid.spacing) if labels.ids.any() else np.inf
    free = np.where(labels.values == 1, np.minimum(depth / 0.8, apart - labels.grid.spacing.max() - 1.0), 0.0)
    found: list[SmallLesion] = []
    for number in range(count):
        radius = float(rng.uniform(1.5, 5.0))
        kind = str(rng.choice(["aml", "solid", "cyst"]))
        places = labels.points(free >= radius)
        for other in found:
            gap = np.linalg.norm(places - other.centre, axis=1) - other.radius_mm - radius
            places = places[gap > labels.grid.spacing.max() + 1.0]
        if not len(places):
            raise InputError(
                f"Only {number} of {count} small lesions find room in the kidneys.", advice="Ask for fewer."
            )
        centre = places[rng.integers(len(places))] + rng.uniform(-0.4, 0.4, 3) * labels.grid.spacing
        found.append(SmallLesion(3 if kind == "cyst" else 2, kind, centre, radius))
    return found


def inside_mm(inside: np.ndarray, spacing: Triple) -> np.ndarray:
    """Depth (mm) below the surface of ``inside``; 0 outside."""
    depth = ndimage.distance_transform_edt(inside, spacing) - 0.5 * float(np.mean(spacing))
    return np.maximum(depth, 0.0).astype(np.float32)


def outside_mm(inside: np.ndarray, spacing: Triple) -> np.ndarray:
    """Distance (mm) outside ``inside`` with its holes and its bays (a kidney's sinus) filled; 0 within."""
    return inside_mm(~closed(inside, SINUS_MM, spacing), spacing)
