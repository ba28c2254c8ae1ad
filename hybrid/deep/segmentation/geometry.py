"""From an image to the array that a network sees, and labels back to the source's grid.

Arrays are in canonical orientation (z, y, x towards superior, posterior, left). Resampling keeps the field of view:
``n_out`` voxels divide the extent that ``n_in`` divided before (centres at ``(i + 0.5) * n_in / n_out - 0.5``), which
is the convention of nnU-Net and of :func:`torch.nn.functional.interpolate`. Every output voxel is a fixed weighted sum
of source voxels along each axis, whatever part of the volume is asked for; so a cropped computation gives the same bits
as a whole one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hybrid.regions import Box

WHOLE: Final = slice(None)


@dataclass(frozen=True)
class AxisWeights:
    """Linear resampling of one axis: output i = sum over k of ``weight[i, k] * input[index[i, k]]``."""

    index: np.ndarray
    weight: np.ndarray


def axis_weights(n_in: int, n_out: int, part: slice = WHOLE, *, antialias: bool = True) -> AxisWeights:
    """Taps of a triangle filter.

    Parameters
    ----------
    n_in, n_out : int
        Voxels of the whole axis before and after.
    part : slice
        Output voxels that are wanted.
    antialias : bool
        Widen the filter to the output voxel when downsampling; otherwise two taps, plain linear interpolation.

    Returns
    -------
    AxisWeights
        Arrays of shape ``(n wanted, taps)``.
    """
    ratio = n_in / n_out
    width = max(ratio, 1.0) if antialias else 1.0
    centre = (np.arange(n_out, dtype=np.float64)[part] + 0.5) * ratio - 0.5
    if not antialias:
        centre = np.clip(centre, 0, n_in - 1)
    first = np.floor(centre - width).astype(np.int64) + 1
    taps = math.ceil(2 * width)
    index = first[:, None] + np.arange(taps)
    weight = np.maximum(0.0, 1.0 - np.abs(index - centre[:, None]) / width)
    weight /= weight.sum(axis=1, keepdims=True)
    return AxisWeights(np.clip(index, 0, n_in - 1), weight.astype(np.float32))


def apply_axis(array: np.ndarray, weights: AxisWeights, axis: int) -> np.ndarray:
    """Resample one axis (counted from the end when negative); float32 result."""
    shape = [1] * array.ndim
    shape[axis] = -1
    result: np.ndarray | None = None
    for tap in range(weights.index.shape[1]):
        column = weights.weight[:, tap]
        if not column.any():
            continue
        part = array.take(weights.index[:, tap], axis=axis).astype(np.float32, copy=False)
        part *= column.reshape(shape)
        result = part if result is None else np.add(result, part, out=result)
    if result is None:
        raise ValueError("A resampling filter without taps.")
    return result


def resize(
    array: np.ndarray, shape: Sequence[int], part: Box = (WHOLE, WHOLE, WHOLE), *, antialias: bool = True
) -> np.ndarray:
    """Resample the last three axes to ``shape`` and return ``part`` of the result.

    Parameters
    ----------
    array : ndarray, shape (..., z, y, x)
        Source.
    shape : sequence of int
        Voxels of the whole result.
    part : tuple of slice
        Box of the result to compute; the values do not depend on it.
    antialias : bool
        See :func:`axis_weights`.

    Returns
    -------
    ndarray of float32
        The box.
    """
    source = array.shape[-3:]
    weights = [axis_weights(n, int(m), box, antialias=antialias) for n, m, box in zip(source, shape, part, strict=True)]
    needed = [
        box if n == m else slice(int(w.index.min()), int(w.index.max()) + 1)
        for w, box, n, m in zip(weights, part, source, shape, strict=True)
    ]
    result = array[(..., *needed)]
    for axis in sorted(range(3), key=lambda axis: shape[axis] / source[axis]):
        if source[axis] != shape[axis]:
            taps = AxisWeights(weights[axis].index - needed[axis].start, weights[axis].weight)
            result = apply_axis(result, taps, axis - 3)
    return np.ascontiguousarray(result, dtype=np.float32)


def target_shape(size: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, int, int]:
    """Voxels (z, y, x) of a volume resampled to the target spacing, at least one per axis."""
    count = [max(1, round(n * s / t)) for n, s, t in zip(size, spacing, target, strict=True)]
    return count[0], count[1], count[2]


def resize_labels(labels: np.ndarray, shape: Sequence[int], values: Sequence[int]) -> np.ndarray:
    """Resample a label map: the share of every label is interpolated linearly, the largest share wins.

    Parameters
    ----------
    labels : ndarray of integers, shape (z, y, x)
        Source.
    shape : sequence of int
        Target voxels.
    values : sequence of int
        Labels; anything else counts as background 0.

    Returns
    -------
    ndarray of uint8
        Index of the label in ``values`` plus 1; 0 is background.
    """
    result = np.zeros(tuple(int(n) for n in shape), np.uint8)
    if tuple(labels.shape) == result.shape:
        for number, value in enumerate(values, 1):
            result[labels == value] = number
        return result
    best = resize((~np.isin(labels, list(values))).astype(np.float32), shape, antialias=False)
    for number, value in enumerate(values, 1):
        share = resize((labels == value).astype(np.float32), shape, antialias=False)
        better = share > best
        result[better] = number
        np.maximum(best, share, out=best)
    return result
