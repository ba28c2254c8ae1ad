"""The kidneys and their lesions: paint on a fine grid, averaged into the voxels of the scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import ndimage

from .fields import soft_edge
from .label_maps import (
    Grid,
    LabelMap,
    SmallLesion,
    block_means,
    inside_mm,
    interpolate,
    nearest_index,
    outside_mm,
    smooth_field,
)
from .painted_body import Canvas

SOLID_SD_HU: Final[Mapping[str, float]] = {
    "unenhanced": 6.0,
    "corticomedullary": 38.0,
    "nephrographic": 27.0,
    "portal": 30.0,
}
"""Standard deviation, over masses, of the mean density of a solid mass: the densest reach the parenchyma."""

TINY_VOXELS: Final = 80
"""Lesions of fewer voxels keep the shape of their voxels when the label map is refined; larger ones are smoothed."""


@dataclass(frozen=True)
class LesionPaint:
    """Parameters of the lesions, one entry each, to be looked up by ``lesion_id - 1``."""

    mean: np.ndarray
    contrast: np.ndarray
    coarse_share: np.ndarray
    fat_level: np.ndarray
    fat_hu: np.ndarray
    necrosis_depth: np.ndarray
    wall_hu: np.ndarray


def draw_paint(
    kinds: Sequence[str], depths: Sequence[float], phase: str, hu: Mapping[str, float], rng: np.random.Generator
) -> LesionPaint:
    """Draw each lesion's paint from its kind; ``depths`` are the largest depths below the surfaces (mm)."""
    rows = []
    for kind, depth in zip(kinds, depths, strict=True):
        draw = rng.random(6)
        spread = float(np.clip(rng.normal(), -2.2, 2.2))
        scale = 0.15 + 0.85 * draw[0]
        if kind == "cyst":
            rows.append((1 + 18 * draw[1], 1.5, 0.5, 9.0, 0.0, 1e3, hu["muscle"] - 10))
        elif kind == "aml":
            level = 0.75 - 1.5 * draw[2]
            rows.append(
                (hu["aml_soft"] + 0.5 * SOLID_SD_HU[phase] * spread, 12, scale, level, -25 - 50 * draw[3], 1e3, 0)
            )
        else:
            enhanced = phase != "unenhanced"
            mean = min(hu["solid"] + SOLID_SD_HU[phase] * spread, hu["cortex"] + 8)
            necrotic = depth * (0.35 + 0.5 * draw[4]) if draw[5] < 0.45 and depth > 7 else 1e3
            rows.append((mean, (9 + 20 * draw[1]) * (1.0 if enhanced else 0.4), scale, 9.0, 0.0, necrotic, 0.0))
    return LesionPaint(*np.array(rows, np.float32).reshape(-1, 7).T)


@dataclass(frozen=True)
class KidneyPart:
    """One connected piece of the label map (a kidney with its lesions) on its own grid, with a margin.

    ``depth`` and ``lesion_depth`` lie below the surface of the piece and of its lesions, ``outside`` is the distance
    outside the piece with its sinus (mm).
    """

    values: np.ndarray
    ids: np.ndarray
    grid: Grid
    depth: np.ndarray
    outside: np.ndarray
    lesion_depth: np.ndarray


def kidney_parts(labels: LabelMap) -> list[KidneyPart]:
    """Cut the connected pieces out of a label map."""
    pieces, _ = ndimage.label(labels.values > 0, np.ones((3, 3, 3)))
    margin = np.ceil(14.0 / labels.grid.spacing).astype(int)
    found = []
    for number, box in enumerate(ndimage.find_objects(pieces), start=1):
        own = pieces[box] == number
        pad = [(m, m) for m in margin]
        values = np.pad(np.where(own, labels.values[box], 0), pad)
        ids = np.pad(np.where(own, labels.ids[box], 0), pad)
        crop = labels.grid.crop(box)
        grid = Grid(crop.origin - margin * crop.spacing, crop.spacing, values.shape)
        outside = outside_mm(values > 0, grid.spacing)
        lesion = inside_mm(ids > 0, grid.spacing) if ids.any() else np.zeros(values.shape, np.float32)
        depth = inside_mm(values > 0, grid.spacing)
        found.append(KidneyPart(values, ids, grid, depth, outside, lesion))
    return found


def perirenal_fat(canvas: Canvas, parts: Sequence[KidneyPart]) -> None:
    """Fat around the kidneys, of varying thickness: neighbours nearly touch in places."""
    for part in parts:
        high = part.grid.origin + (np.asarray(part.grid.shape) - 1) * part.grid.spacing
        box = canvas.grid.box(part.grid.origin + part.grid.spacing, high - part.grid.spacing)
        outside = interpolate(part.outside, part.grid, canvas.grid.crop(box))
        thick = np.clip(4.5 + 3.5 * canvas.waves[box], 0.5, 11.0)
        canvas.lay(box, thick - outside, canvas.hu["fat"] + 3, 7.0)


def _shares(part: KidneyPart, fine: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares of each fine voxel: organ; lesion within the organ; cyst within the lesion (the last one 0 or 1)."""
    sharpen = max(float((part.grid.spacing / fine.spacing).mean()), 1.0)
    # Smoothing would swallow the smallest lesions: they keep their voxels.
    tiny = np.isin(part.ids, np.flatnonzero(np.bincount(part.ids.ravel()) < TINY_VOXELS)) & (part.ids > 0)
    maps = []
    for label in (1, 2, 3):
        inside = ((part.values == label) & ~tiny if label > 1 else (part.values == 1) | tiny).astype(np.float32)
        if sharpen > 1.05 and inside.any():
            inside = ndimage.gaussian_filter(inside, 0.4)
        maps.append(interpolate(inside, part.grid, fine) if inside.any() else np.zeros((1, 1, 1), np.float32))
    kidney, tumour, cyst = maps
    whole = kidney + tumour + cyst
    organ = np.clip((whole - 0.5) * sharpen + 0.5, 0, 1)
    lesion = np.clip(((tumour + cyst) / np.maximum(whole, 1e-3) - 0.5) * sharpen + 0.5, 0, 1)
    lesion, cystic = np.broadcast_to(lesion, fine.shape).copy(), np.broadcast_to(cyst > tumour, fine.shape).copy()
    if tiny.any():
        near = nearest_index(part.grid, fine)
        here = tiny[near]
        organ[here], lesion[here], cystic[here] = 1.0, 1.0, part.values[near][here] == 3
    return organ, lesion, cystic


def _nearest_lesion(part: KidneyPart, label: int) -> np.ndarray:
    """Find the number of the nearest lesion with this label at each voxel of the part; 0 when there is none."""
    inside = (part.ids > 0) & (part.values == label)
    if not inside.any():
        return np.zeros(part.ids.shape, np.int32)
    index = ndimage.distance_transform_edt(~inside, part.grid.spacing, return_distances=False, return_indices=True)
    return part.ids[tuple(index)]


@dataclass
class _Fine:
    """A part on the grid it is painted on: shares, lesion numbers and depths (mm)."""

    grid: Grid
    organ: np.ndarray
    lesion: np.ndarray
    ids: np.ndarray
    depth: np.ndarray
    lesion_depth: np.ndarray


def _refine(part: KidneyPart, grid: Grid, small: Sequence[SmallLesion], first: int) -> _Fine:
    """Bring a part to the fine grid and add the small lesions that lie in it, numbered from ``first``."""
    organ, lesion, cyst = _shares(part, grid)
    near = nearest_index(part.grid, grid)
    ids = np.zeros(grid.shape, np.int32)
    if part.ids.any():
        ids = np.where(cyst, _nearest_lesion(part, 3)[near], _nearest_lesion(part, 2)[near])
    depth = interpolate(part.depth, part.grid, grid)
    fine = _Fine(grid, organ, lesion, ids, depth, interpolate(part.lesion_depth, part.grid, grid))
    step = float(grid.spacing.mean())
    for number, ball in enumerate(small, start=first):
        home = np.rint((ball.centre - part.grid.origin) / part.grid.spacing).astype(int)
        if (home < 0).any() or (home >= part.grid.shape).any() or not part.values[tuple(home)]:
            continue
        box = grid.box(ball.centre - ball.radius_mm - 2 * step, ball.centre + ball.radius_mm + 2 * step)
        gap = sum((a - c) ** 2 for a, c in zip(grid.axes(box), ball.centre.tolist(), strict=True))
        below = ball.radius_mm - np.sqrt(gap)
        fine.lesion[box] = np.maximum(fine.lesion[box], soft_edge(below, step))
        fine.ids[box] = np.where(below > -step, number, fine.ids[box])
        fine.lesion_depth[box] = np.maximum(fine.lesion_depth[box], below)
    return fine


def _kidney_hu(fine: _Fine, coarse: np.ndarray, texture: np.ndarray, hu: Mapping[str, float]) -> np.ndarray:
    """Cortex outside and in columns, pyramids of medulla, fat and calices in the depth."""
    pyramids = soft_edge(fine.depth - 5.5 + coarse, 3.0) * soft_edge(coarse + 0.35, 0.5)
    values = hu["cortex"] + pyramids * (hu["medulla"] - hu["cortex"]) + 6 * texture
    deep = soft_edge(fine.depth - 15.0 + 2.0 * coarse, 4.0)
    sinus = np.where(texture + coarse > 0.9, hu["pelvis"], hu["fat"] + 45)
    return values + 0.85 * deep * (sinus - values)


def _lesion_hu(
    fine: _Fine, where: np.ndarray, coarse: np.ndarray, texture: np.ndarray, paint: LesionPaint
) -> np.ndarray:
    """Tissue of the lesions at the voxels ``where``."""
    which = fine.ids[where] - 1
    depth, wide, narrow = fine.lesion_depth[where], coarse[where], texture[where]
    share = paint.coarse_share[which]
    pattern = (share * wide + (1 - share) * narrow) / np.sqrt(share**2 + (1 - share) ** 2)
    values = paint.mean[which] + paint.contrast[which] * pattern
    values += soft_edge(pattern - paint.fat_level[which], 0.5) * (paint.fat_hu[which] - values)
    dead = soft_edge(depth + 2.5 * wide - paint.necrosis_depth[which], 2.0)
    values += dead * (18 + 3 * narrow - values)
    wall = soft_edge(0.8 - depth, 0.8) * (paint.wall_hu[which] > 0)
    return (values + 0.7 * wall * (paint.wall_hu[which] - values)).astype(np.float32)


@dataclass(frozen=True)
class Scene:
    """What the kidneys are painted from: their parts, the lesions, and how finely to paint."""

    parts: Sequence[KidneyPart]
    small: Sequence[SmallLesion]
    lesion_labels: np.ndarray
    paint: LesionPaint
    subslices: int
    factors: tuple[int, int, int]
    seed: int

    @property
    def first_small(self) -> int:
        """Number of the first small lesion."""
        return len(self.lesion_labels) - len(self.small) + 1


def paint_kidneys(canvas: Canvas, output: Grid, scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Paint all parts on the canvas, in place; mask and lesion numbers on the output grid."""
    mask, numbers = np.zeros(output.shape, np.uint8), np.zeros(output.shape, np.int32)
    for count, part in enumerate(scene.parts):
        high = part.grid.origin + (np.asarray(part.grid.shape) - 1) * part.grid.spacing
        box = output.box(part.grid.origin + 8, high - 8)
        fine_grid = output.crop(box).split((scene.subslices * scene.factors[0], *scene.factors[1:]))
        fine = _refine(part, fine_grid, scene.small, scene.first_small)
        rng = np.random.default_rng([scene.seed, 20, count])
        coarse = smooth_field(fine_grid, 4.0, 2.5, rng)
        texture = smooth_field(fine_grid, 1.4, 1.5, rng)
        values = _kidney_hu(fine, coarse, texture, canvas.hu)
        where = (fine.lesion > 0) & (fine.ids > 0)
        if where.any():
            lesion = _lesion_hu(fine, where, coarse, texture, scene.paint)
            values[where] += fine.lesion[where] * (lesion - values[where])
        organ = block_means(fine.organ, scene.factors)
        target = (slice(box[0].start * scene.subslices, box[0].stop * scene.subslices), *box[1:])
        canvas.values[target] += block_means(fine.organ * values, scene.factors) - organ * canvas.values[target]
        _vote(fine, scene, mask[box], numbers[box])
    return mask, numbers


def _vote(fine: _Fine, scene: Scene, mask: np.ndarray, numbers: np.ndarray) -> None:
    """Label the output voxels (in place) that are at least half kidney, and half lesion within it."""
    factors = (scene.subslices * scene.factors[0], *scene.factors[1:])
    organ, lesion = block_means(fine.organ, factors), block_means(fine.organ * fine.lesion, factors)
    inside = organ >= 0.5
    mask[inside] = 1
    ids = fine.ids[tuple(slice(factor // 2, None, factor) for factor in factors)]
    diseased = inside & (lesion >= 0.5 * organ) & (ids > 0)
    # A lesion too small for a majority still gets the voxel that holds most of it.
    for number in range(scene.first_small, len(scene.lesion_labels) + 1):
        own = ids == number
        if own.any() and not (diseased & own).any():
            best = np.unravel_index(np.argmax(np.where(own & inside, lesion, -1)), own.shape)
            diseased[best] = inside[best]
    mask[diseased] = scene.lesion_labels[ids[diseased] - 1]
    numbers[diseased] = ids[diseased]
