"""Labels on the source's grid from probabilities on the plan's grid, a few slices at a time.

Linear interpolation of probabilities is a convex combination of the eight source voxels around a point. Where
background has the largest probability in all eight it has the largest in the combination; so nothing can change
outside the foreground widened by one voxel, and only that box is interpolated. The result equals interpolating every
class over the whole volume and taking the largest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hybrid.regions import bounding_box

from .geometry import AxisWeights, Box, apply_axis, axis_weights

CHUNK_BYTES = 64 * 2**20
"""Memory for the interpolated probabilities of a chunk of output slices."""


class SlabExporter:
    """Collects slabs of probabilities and writes the label map.

    Parameters
    ----------
    size : sequence of int
        Voxels (z, y, x) of the source's grid.
    coarse : sequence of int
        Voxels (z, y, x) of the plan's grid, same extent.
    """

    def __init__(self, size: Sequence[int], coarse: Sequence[int]) -> None:
        self.size, self.coarse = tuple(int(n) for n in size), tuple(int(n) for n in coarse)
        self.labels = np.zeros(self.size, np.uint8)
        self._axes = [axis_weights(n, m, antialias=False) for n, m in zip(self.coarse, self.size, strict=True)]
        self._held: tuple[int, np.ndarray, slice, slice] | None = None

    def add(self, probabilities: np.ndarray, start: int, y: slice, x: slice) -> None:
        """Take the next slices.

        Parameters
        ----------
        probabilities : ndarray, shape (channels, z, y, x)
            Channel 0 is background.
        start : int
            First slice on the plan's grid; slabs come in order without gaps.
        y, x : slice
            In-plane box on the plan's grid, the same for every slab.
        """
        probabilities, y, x = self._bordered(probabilities, y, x)
        first = self._held is None
        if self._held is not None:
            start = self._held[0]
            probabilities = np.concatenate([self._held[1], probabilities], axis=1)
        stop = start + probabilities.shape[1]
        begin = self._first_after(start - 1) if first else self._first_after(start)
        if first:
            probabilities, start, begin = self._with_border(probabilities, start, begin)
        self._write(probabilities, start, begin, self._first_after(stop - 1), y, x)
        self._held = (stop - 1, probabilities[:, -1:].copy(), y, x)

    def _bordered(self, probabilities: np.ndarray, y: slice, x: slice) -> tuple[np.ndarray, slice, slice]:
        """Add a row of background on every in-plane side that is not the scan's border."""
        pads = [(int(part.start > 0), int(part.stop < n)) for part, n in zip((y, x), self.coarse[1:], strict=True)]
        wider = np.pad(probabilities, [(0, 0), (0, 0), *pads])
        wider[0] = np.pad(probabilities[0], [(0, 0), *pads], constant_values=1.0)
        boxes = [slice(p.start - b, p.stop + a) for p, (b, a) in zip((y, x), pads, strict=True)]
        return wider, boxes[0], boxes[1]

    def finish(self) -> np.ndarray:
        """Write what is left and return the labels, uint8 (z, y, x): channel numbers."""
        if self._held is not None:
            start, last, y, x = self._held
            end = self.size[0]
            if start + 1 < self.coarse[0]:
                background = np.zeros_like(last)
                background[0] = 1.0
                last, end = np.concatenate([last, background], axis=1), self._first_after(start + 1)
            self._write(last, start, self._first_after(start), end, y, x)
            self._held = None
        return self.labels

    def _first_after(self, index: int) -> int:
        """First output slice whose lower tap is at ``index`` or above."""
        return int(np.searchsorted(self._axes[0].index[:, 0], index, side="left")) if index >= 0 else 0

    def _with_border(self, probabilities: np.ndarray, start: int, begin: int) -> tuple[np.ndarray, int, int]:
        """Put background before a first slab that does not start at the scan's first slice."""
        if start == 0:
            return probabilities, start, 0
        background = np.zeros_like(probabilities[:, :1])
        background[0] = 1.0
        return np.concatenate([background, probabilities], axis=1), start - 1, begin

    def _write(self, probabilities: np.ndarray, start: int, begin: int, end: int, y: slice, x: slice) -> None:
        if begin >= end:
            return
        box = bounding_box(probabilities[0] < probabilities[1:].max(axis=0), margin=(1, 1, 1))
        if box is None:
            return
        rows, columns = self._outputs(1, y.start + box[1].start, y.start + box[1].stop), self._outputs(
            2, x.start + box[2].start, x.start + box[2].stop
        )  # fmt: skip
        begin = max(begin, self._first_after(start + box[0].start - 1))
        end = min(end, self._first_after(start + box[0].stop))
        inside = probabilities[:, :, box[1], box[2]]
        per_slice = probabilities.shape[0] * 4 * (rows.stop - rows.start) * (columns.stop - columns.start)
        step = max(1, CHUNK_BYTES // max(per_slice, 1))
        offsets = (start, y.start + box[1].start, x.start + box[2].start)
        for first in range(begin, end, step):
            part = (slice(first, min(first + step, end)), rows, columns)
            self.labels[part] = self._interpolated(inside, offsets, part).argmax(axis=0)

    def _outputs(self, axis: int, low: int, high: int) -> slice:
        """Output voxels of an axis whose two taps may both be taken from ``low`` to ``high`` (not included)."""
        index = self._axes[axis].index
        lower, upper = index[:, 0], index[:, -1]
        chosen = np.flatnonzero((lower >= low) & (upper < high))
        return slice(int(chosen[0]), int(chosen[-1]) + 1) if chosen.size else slice(0, 0)

    def _interpolated(self, values: np.ndarray, offsets: Sequence[int], part: Box) -> np.ndarray:
        for axis in range(3):
            weights = self._axes[axis]
            index = np.clip(weights.index[part[axis]] - offsets[axis], 0, values.shape[axis + 1] - 1)
            values = apply_axis(values, AxisWeights(index, weights.weight[part[axis]]), axis - 3)
        return values
