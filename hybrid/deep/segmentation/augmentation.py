"""Training patches: where they are cut and how they are changed.

Space (rotation, scaling, mirroring) is changed while the patch is cut from the volume, so that no empty corners appear;
intensities are changed by MONAI's transforms with the probabilities of nnU-Net (Isensee et al. 2021,
doi:10.1038/s41592-020-01008-z).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandShiftIntensity,
    RandSimulateLowResolution,
)

from .planning import ANISOTROPY, SegmentationPlan

ROTATION_PROBABILITY: Final = 0.5
MAX_ROTATION: Final = np.pi / 6
SCALING_PROBABILITY: Final = 0.5
SCALING: Final = (0.75, 1.35)


@functools.cache
def intensity_changes() -> Compose:
    """MONAI transforms of the intensities; seed them with ``set_random_state``."""
    return Compose([
        RandGaussianNoise(prob=0.15, mean=0.0, std=0.15),
        RandGaussianSmooth(prob=0.1, sigma_x=(0.5, 1.0), sigma_y=(0.5, 1.0), sigma_z=(0.5, 1.0)),
        RandScaleIntensity(prob=0.2, factors=0.3),
        RandShiftIntensity(prob=0.15, offsets=0.3),
        RandSimulateLowResolution(prob=0.15, zoom_range=(0.5, 1.0)),
        RandAdjustContrast(prob=0.25, gamma=(0.7, 1.5), retain_stats=True),
    ])  # fmt: skip


def random_matrix(spacing: Sequence[float], rng: np.random.Generator, *, strength: float = 1.0) -> np.ndarray:
    """Rotation and scaling in voxel coordinates, shape (3, 3); about the z axis only where slices are thick.

    A ``strength`` below 1 shortens the ranges of the angles and of the factor.
    """
    matrix = np.eye(3)
    if rng.random() < ROTATION_PROBABILITY:
        angles = strength * rng.uniform(-MAX_ROTATION, MAX_ROTATION, 3)
        if max(spacing) / min(spacing) >= ANISOTROPY:
            angles[np.arange(3) != int(np.argmax(spacing))] = 0
        for axis, angle in enumerate(angles):
            matrix = matrix @ _rotation(axis, angle)
    if rng.random() < SCALING_PROBABILITY:
        matrix = matrix * (1 + strength * (rng.uniform(*SCALING) - 1))
    voxel = np.asarray(spacing, dtype=float)
    return matrix * voxel[None, :] / voxel[:, None]


def _rotation(axis: int, angle: float) -> np.ndarray:
    first, second = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[[first, first, second, second], [first, second, first, second]] = [
        np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    ]  # fmt: skip
    return matrix


def cut_patch(
    image: np.ndarray,
    labels: np.ndarray,
    centre: Sequence[float] | np.ndarray,
    patch: Sequence[int],
    matrix: np.ndarray,
    *,
    fill: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a rotated and scaled patch out of a volume.

    Parameters
    ----------
    image : ndarray, shape (z, y, x)
        Volume.
    labels : ndarray, shape (z, y, x) or (channels, z, y, x)
        Its labels; further channels are cut alike.
    centre : sequence of float
        Middle of the patch (voxels).
    patch : sequence of int
        Size of the result.
    matrix : ndarray, shape (3, 3)
        From an offset in the patch to an offset in the volume.
    fill : float, optional
        Of the image outside the volume; by default the volume's smallest value.

    Returns
    -------
    image : Tensor, shape (1, z, y, x)
        Linear interpolation.
    labels : Tensor of int64, shape (1 or channels, z, y, x)
        Nearest neighbour; 0 outside.
    """
    half = (np.asarray(patch, dtype=float) - 1) / 2
    reach = np.abs(matrix) @ half
    lower = np.floor(np.asarray(centre) - reach).astype(int)
    upper = np.ceil(np.asarray(centre) + reach).astype(int) + 1
    outside = float(image.min()) if fill is None else fill
    values = torch.from_numpy(_padded(image, lower, upper, outside).astype(np.float32))[None, None]
    channels = labels if labels.ndim == 4 else labels[None]
    region = torch.from_numpy(np.stack([_padded(part, lower, upper, 0) for part in channels]).astype(np.float32))[None]
    if np.array_equal(matrix, np.eye(3)) and tuple(values.shape[2:]) == tuple(patch):
        return values[0], region[0].long()
    grid = _grid(np.asarray(centre) - lower, half, patch, matrix, values.shape[2:])
    sampled = torch.nn.functional.grid_sample(values, grid, "bilinear", "border", align_corners=True)
    nearest = torch.nn.functional.grid_sample(region, grid, "nearest", "border", align_corners=True)
    return sampled[0], nearest[0].round().long()


def _grid(
    middle: np.ndarray, half: np.ndarray, patch: Sequence[int], matrix: np.ndarray, size: Sequence[int]
) -> torch.Tensor:
    """Build the sampling grid of :func:`torch.nn.functional.grid_sample`, shape (1, z, y, x, 3), last axis x, y, z."""
    offsets = [torch.arange(n, dtype=torch.float32) - float(h) for n, h in zip(patch, half, strict=True)]
    mesh = torch.stack(torch.meshgrid(*offsets, indexing="ij"), dim=-1)
    place = mesh @ torch.from_numpy(matrix.T.astype(np.float32)) + torch.from_numpy(middle.astype(np.float32))
    scale = torch.tensor([max(n - 1, 1) for n in size], dtype=torch.float32)
    return (2 * place / scale - 1).flip(-1)[None]


def _padded(array: np.ndarray, lower: np.ndarray, upper: np.ndarray, fill: float) -> np.ndarray:
    inner = tuple(slice(max(0, lo), max(0, min(n, hi))) for lo, hi, n in zip(lower, upper, array.shape, strict=True))
    before = [max(0, -int(lo)) for lo in lower]
    pad = [
        (b, int(hi - lo) - b - len(range(*part.indices(n))))
        for b, lo, hi, part, n in zip(before, lower, upper, inner, array.shape, strict=True)
    ]
    if not any(b or a for b, a in pad):
        return array[inner]
    return np.pad(array[inner], pad, constant_values=fill)


def random_patch(
    image: np.ndarray,
    labels: np.ndarray,
    places: Sequence[np.ndarray],
    plan: SegmentationPlan,
    seed: Sequence[int],
    *,
    augment: bool = True,
    strength: float = 1.0,
    calm: bool = False,
    fill: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One training patch; the same seed gives the same patch, in any process.

    Parameters
    ----------
    image, labels : ndarray
        A prepared case, as :func:`cut_patch` takes it.
    places : sequence of ndarray
        Coordinates of foreground voxels for every label; may be empty.
    plan : SegmentationPlan
        Patch size, voxel size, mirroring, share of foreground patches.
    seed : sequence of int
        Of everything random here.
    augment : bool
        Change space and intensities; otherwise only cut.
    strength : float
        See :func:`random_matrix`.
    calm : bool
        Of the changes, only mirror: the voxels stay as they were measured.
    fill : float, optional
        See :func:`cut_patch`.

    Returns
    -------
    image, labels : Tensor
        As :func:`cut_patch`.
    """
    rng = np.random.default_rng(seed)
    centre = _centre(image.shape, places, plan, rng)
    matrix = random_matrix(plan.spacing, rng, strength=strength) if augment and not calm else np.eye(3)
    values, region = cut_patch(image, labels, centre, plan.patch, matrix, fill=fill)
    if not augment:
        return values, region
    axes = [axis + 1 for axis in plan.mirror_axes if rng.random() < 0.5]
    values, region = torch.flip(values, axes), torch.flip(region, axes)
    if calm:
        return values, region
    changes = intensity_changes()
    changes.set_random_state(int(rng.integers(2**31)))
    mean, sd = plan.foreground  # the changes are made for standardised images
    changed = torch.as_tensor(changes((values - mean) / sd), dtype=torch.float32).as_subclass(torch.Tensor)
    return changed * sd + mean, region


def _centre(
    shape: Sequence[int], places: Sequence[np.ndarray], plan: SegmentationPlan, rng: np.random.Generator
) -> np.ndarray:
    present = [place for place in places if len(place)]
    half = (np.asarray(plan.patch) - 1) / 2
    low = np.minimum(half, (np.asarray(shape) - 1) / 2)
    high = np.maximum(np.asarray(shape) - 1 - half, (np.asarray(shape) - 1) / 2)
    if present and rng.random() < plan.foreground_share:
        chosen = present[rng.integers(len(present))]
        near = chosen[rng.integers(len(chosen))] + rng.uniform(-0.25, 0.25, 3) * np.asarray(plan.patch)
        middle = np.clip(near, low, high)
    else:
        middle = rng.uniform(low, high)
    return np.floor(middle - half) + half
