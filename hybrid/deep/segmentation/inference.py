"""Sliding windows over the part of a scan that matters, in slabs, and labels on the source's grid.

Windows lie on a lattice over the whole scan (MONAI's :func:`monai.data.utils.dense_patch_slices`); those that touch no
relevant voxel are skipped. So a relevant voxel gets the same windows, and the same result, as in a computation over the
whole scan. Probabilities are held for one slab of windows at a time, never for the whole scan at full resolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices

from .engines import PAIR, Engine, InferenceOptions
from .export import SlabExporter
from .geometry import WHOLE, Box, resize
from .planning import SegmentationPlan
from .preprocessing import Scan, network_array

CENTRE_WEIGHT_SIGMA = 0.125
"""Width of the Gaussian window weight as a share of the window."""


@dataclass(frozen=True)
class Slab:
    """Class probabilities of some slices of the plan's grid.

    Attributes
    ----------
    start : int
        First slice (z) on the whole scan's plan grid.
    probabilities : ndarray of float32, shape (channels, z, y, x)
        Inside the in-plane box of the run; background is 1 where no window looked.
    """

    start: int
    probabilities: np.ndarray


@dataclass
class WindowCount:
    """How many windows the scan has, and how many were run."""

    total: int = 0
    run: int = 0


@dataclass(frozen=True)
class Segmentation:
    """Result of sliding a network over one scan.

    Attributes
    ----------
    labels : ndarray of uint8, shape (z, y, x)
        Channel numbers on the source's grid in canonical orientation; 0 is background. Empty when not exported.
    coarse : ndarray of uint8, shape (z, y, x)
        The same on the plan's grid, whole scan.
    probability : ndarray of float16, shape (z, y, x)
        Probability of the label in ``coarse``, on the plan's grid inside ``box``, without weights.
    box : tuple of slice
        Where the network looked, on the plan's grid.
    windows : WindowCount
        Windows of the scan, and windows run.
    sure : ndarray of uint8, shape (z, y, x)
        As ``labels``, without weights; None where there were none.
    """

    labels: np.ndarray
    coarse: np.ndarray
    probability: np.ndarray
    box: Box
    windows: WindowCount = field(default_factory=WindowCount)
    sure: np.ndarray | None = None


def segment_scan(
    scan: Scan,
    plan: SegmentationPlan,
    engine: Engine,
    options: InferenceOptions | None = None,
    *,
    relevant: np.ndarray | None = None,
    weights: Sequence[float] | None = None,
    export: bool = True,
) -> Segmentation:
    """Segment a scan.

    Parameters
    ----------
    scan : Scan
        From :func:`~hybrid.deep.segmentation.preprocessing.open_scan`.
    plan : SegmentationPlan
        Of the network.
    engine : callable
        From :func:`~hybrid.deep.segmentation.engines.make_engine`.
    options : InferenceOptions, optional
        Overlap and blending.
    relevant : ndarray of bool, optional
        Where a result is wanted, over the whole scan's extent at any resolution (canonical orientation). Voxels
        outside get background.
    weights : sequence of float, optional
        What the probability of each channel is multiplied by before the largest wins; that of the background is 1.
    export : bool
        Also give labels on the source's grid, the largest array; a first stage needs the plan's grid only.

    Returns
    -------
    Segmentation
        Labels on the source's grid.
    """
    options = options or InferenceOptions()
    shape = scan.shape_at(plan.spacing)
    wanted = None if relevant is None else _on_grid(relevant, shape)
    chosen, total = choose_windows(shape, plan.patch, options.overlap, wanted)
    count = WindowCount(total, len(chosen))
    coarse = np.zeros(shape, np.uint8)
    exporter = SlabExporter(scan.array.shape, shape) if export else None
    sure = SlabExporter(scan.array.shape, shape) if export and weights else None
    if not chosen:
        empty = np.zeros((0, 0, 0), np.float16)
        return Segmentation(_exported(exporter), coarse, empty, (slice(0, 0),) * 3, count, _unweighted(sure))
    box = _union(chosen, shape)
    values = _padded(network_array(scan, plan, box), shape, plan)
    probability = np.zeros([part.stop - part.start for part in box], np.float16)
    factors = np.asarray(weights or 1.0, np.float32).reshape(-1, 1, 1, 1)
    for slab in stream_slabs(values, chosen, box, plan, engine, options):
        z = slice(slab.start, slab.start + slab.probabilities.shape[1])
        inside = None if wanted is None else wanted[z, box[1], box[2]]
        if inside is not None:
            slab.probabilities[0][~inside] = 1.0
            slab.probabilities[1:, ~inside] = 0.0
        scores = slab.probabilities * factors if weights else slab.probabilities
        labels = scores.argmax(0)
        coarse[z, box[1], box[2]] = labels
        chance = np.take_along_axis(slab.probabilities, labels[None], 0)[0]
        probability[z.start - box[0].start : z.stop - box[0].start] = chance
        if exporter is not None:
            exporter.add(scores, z.start, box[1], box[2])
        if sure is not None:
            sure.add(slab.probabilities, z.start, box[1], box[2])
    return Segmentation(_exported(exporter), coarse, probability, box, count, _unweighted(sure))


def _exported(exporter: SlabExporter | None) -> np.ndarray:
    return np.zeros((0, 0, 0), np.uint8) if exporter is None else exporter.finish()


def _unweighted(exporter: SlabExporter | None) -> np.ndarray | None:
    return None if exporter is None else exporter.finish()


def predict_array(
    values: np.ndarray,
    plan: SegmentationPlan,
    engine: Engine,
    options: InferenceOptions | None = None,
    *,
    relevant: np.ndarray | None = None,
) -> np.ndarray:
    """Channel numbers of an array that is already on the plan's grid (training's validation), uint8 (z, y, x).

    ``relevant`` (bool, the array's shape) is where a result is wanted; the rest is background.
    """
    options = options or InferenceOptions()
    labels = np.zeros(values.shape, np.uint8)
    chosen, _ = choose_windows(values.shape, plan.patch, options.overlap, relevant)
    if not chosen:
        return labels
    box = _union(chosen, values.shape)
    padded = _padded(values[box], values.shape, plan)
    for slab in stream_slabs(padded, chosen, box, plan, engine, options):
        labels[slab.start : slab.start + slab.probabilities.shape[1], box[1], box[2]] = slab.probabilities.argmax(0)
    return labels if relevant is None else np.where(relevant, labels, 0).astype(np.uint8)


def choose_windows(
    shape: Sequence[int], patch: Sequence[int], overlap: float, wanted: np.ndarray | None
) -> tuple[list[Box], int]:
    """Windows of the lattice that touch a wanted voxel, by z, and the number of all windows.

    A window may reach beyond an image smaller than the patch.
    """
    size = [max(n, p) for n, p in zip(shape, patch, strict=True)]
    interval = [max(1, int(p * (1 - overlap))) if n > p else p for n, p in zip(size, patch, strict=True)]
    lattice: list[Box] = [(z, y, x) for z, y, x in dense_patch_slices(size, list(patch), interval)]
    chosen = [box for box in lattice if wanted is None or wanted[box].any()]
    return sorted(chosen, key=lambda box: tuple(part.start for part in box)), len(lattice)


def _on_grid(relevant: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Put a wanted region on another grid of the same extent; any overlap of voxels counts."""
    if tuple(relevant.shape) == tuple(shape):
        return relevant.astype(bool)
    return resize(relevant.astype(np.float32), shape) > 0


def _union(windows: Sequence[Box], shape: Sequence[int]) -> Box:
    parts = [
        slice(min(box[axis].start for box in windows), min(shape[axis], max(box[axis].stop for box in windows)))
        for axis in range(3)
    ]
    return parts[0], parts[1], parts[2]


def _padded(values: np.ndarray, shape: Sequence[int], plan: SegmentationPlan) -> np.ndarray:
    """Extend a scan smaller than the patch with its smallest value, as much before as after."""
    missing = [max(0, patch - n) for patch, n in zip(plan.patch, shape, strict=True)]
    if not any(missing):
        return values
    pads = [(extra // 2, extra - extra // 2) for extra in missing]
    return np.pad(values, pads, constant_values=float(values.min()))


def stream_slabs(
    values: np.ndarray,
    windows: Sequence[Box],
    box: Box,
    plan: SegmentationPlan,
    engine: Engine,
    options: InferenceOptions,
) -> Iterator[Slab]:
    """Run windows in z order and give out slices as soon as no later window can change them.

    Parameters
    ----------
    values : ndarray, shape (z, y, x)
        Network input inside ``box`` (padded to the patch where the scan is smaller).
    windows : sequence of tuple of slice
        Sorted by z, on the whole scan's plan grid.
    box : tuple of slice
        Union of the windows, cut to the scan.
    plan, engine, options
        As in :func:`segment_scan`.

    Yields
    ------
    Slab
        Consecutive, covering ``box``.
    """
    weight = _importance(plan.patch, options)
    before = [max(0, n - (part.stop - part.start)) // 2 for n, part in zip(values.shape, box, strict=True)]
    height, depth = box[0].stop - box[0].start, plan.patch[0]
    total = np.zeros((plan.channels, depth, *values.shape[1:]), np.float32)
    weights = np.zeros((depth, *values.shape[1:]), np.float32)
    base = 0
    for (z, y, x), probabilities in _predictions(values, windows, box, engine):
        if z.start > base:
            yield from _release(total, weights, base, min(z.start, height), box, before)
            base = _shift(total, weights, base, z.start)
        total[:, :, y, x] += probabilities * weight
        weights[:, y, x] += weight
    yield from _release(total, weights, base, height, box, before)


def _predictions(
    values: np.ndarray, windows: Sequence[Box], box: Box, engine: Engine
) -> Iterator[tuple[Box, np.ndarray]]:
    """Windows in order, counted from the start of ``box``, with their probabilities; the engine sees two at a time."""
    for start in range(0, len(windows), PAIR):
        local: list[Box] = [
            (_moved(z, box[0]), _moved(y, box[1]), _moved(x, box[2])) for z, y, x in windows[start : start + PAIR]
        ]
        yield from zip(local, engine(np.stack([values[place] for place in local])[:, None]), strict=True)


def _moved(part: slice, origin: slice) -> slice:
    return slice(part.start - origin.start, part.stop - origin.start)


def _release(
    total: np.ndarray, weights: np.ndarray, base: int, end: int, box: Box, before: Sequence[int]
) -> Iterator[Slab]:
    """Slices ``base`` to ``end`` without the padding that lies ``before`` the scan."""
    inside = tuple(slice(b, b + part.stop - part.start) for b, part in zip(before[1:], box[1:], strict=True))
    count = min(end - base, total.shape[1] - before[0])
    if count <= 0:
        return
    chosen = (slice(before[0], before[0] + count), *inside)
    part, scale = total[(slice(None), *chosen)], weights[chosen]
    seen = scale > 0
    probabilities = np.divide(part, scale, out=np.zeros_like(part), where=seen)
    probabilities[0][~seen] = 1.0
    yield Slab(box[0].start + base, probabilities)
    if base + count < end:
        gap = np.zeros((len(probabilities), end - base - count, *probabilities.shape[2:]), np.float32)
        gap[0] = 1.0
        yield Slab(box[0].start + base + count, gap)


def _shift(total: np.ndarray, weights: np.ndarray, base: int, start: int) -> int:
    """Move the buffers so that their first slice is ``start``."""
    step = start - base
    for buffer in (total, weights):
        axis = buffer.ndim - 3
        kept = max(0, buffer.shape[axis] - step)
        moved = buffer[(slice(None),) * axis + (slice(step, None),)].copy()
        buffer[(slice(None),) * axis + (slice(0, kept),)] = moved[(slice(None),) * axis + (slice(0, kept),)]
        buffer[(slice(None),) * axis + (slice(kept, None),)] = 0
    return start


def _importance(patch: Sequence[int], options: InferenceOptions) -> np.ndarray:
    map_ = compute_importance_map(
        tuple(patch), mode=options.blending, sigma_scale=CENTRE_WEIGHT_SIGMA, device=torch.device("cpu")
    )
    return map_.numpy().astype(np.float32)


__all__ = ["WHOLE", "InferenceOptions", "Segmentation", "Slab", "predict_array", "segment_scan", "stream_slabs"]
