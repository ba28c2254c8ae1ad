"""Random fields and shapes that simulated tissue is painted with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import fft, ndimage


def correlated_noise(
    shape: Sequence[int], scale_mm: float, spacing: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Gaussian noise with a Gaussian autocorrelation.

    Parameters
    ----------
    shape : sequence of int
        Voxels (z, y, x).
    scale_mm : float
        Standard deviation of the smoothing kernel (mm); 0 gives white noise.
    spacing : sequence of float
        Voxel size (z, y, x) in mm.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of float32, shape (z, y, x)
        Mean 0 and standard deviation 1 over the volume.
    """
    field = rng.standard_normal(shape, dtype=np.float32)
    if scale_mm > 0:
        padded = [fft.next_fast_len(n, real=True) for n in shape]
        spectrum = fft.rfftn(field, s=padded)
        last = len(padded) - 1
        for axis, (count, step) in enumerate(zip(padded, spacing, strict=True)):
            frequency = fft.rfftfreq(count, step) if axis == last else fft.fftfreq(count, step)
            kernel = np.exp(-2 * (np.pi * frequency * scale_mm) ** 2).astype(np.float32)
            spectrum *= kernel.reshape([-1 if other == axis else 1 for other in range(len(padded))])
        field = fft.irfftn(spectrum, s=padded)[tuple(slice(n) for n in shape)]
    field -= field.mean()
    return (field / max(float(field.std()), 1e-6)).astype(np.float32)


def deformed_ellipsoid(
    shape: Sequence[int],
    spacing: Sequence[float],
    centre: Sequence[float] | np.ndarray,
    radii: Sequence[float] | np.ndarray,
    irregularity: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Signed depth below the surface of an ellipsoid with a wavy surface.

    Parameters
    ----------
    shape : sequence of int
        Voxels (z, y, x).
    spacing : sequence of float
        Voxel size (z, y, x) in mm.
    centre, radii : sequence of float
        Centre and half axes (z, y, x) in mm; the centre counts from the middle of voxel 0.
    irregularity : float
        Standard deviation of the surface's radius, as a fraction of it; 0 is smooth.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of float32, shape (z, y, x)
        Depth in mm, positive inside, approximately the distance to the surface.
    """
    axes = [(np.arange(n) * step - c) for n, step, c in zip(shape, spacing, centre, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij", sparse=True)
    distance = np.sqrt(sum((g / r) ** 2 for g, r in zip(grid, radii, strict=True))).astype(np.float32)
    mean_radius = float(np.prod(radii)) ** (1 / 3)
    waves = correlated_noise(shape, 0.35 * mean_radius, spacing, rng) if irregularity > 0 else 0.0
    return mean_radius * (1 + irregularity * waves - distance)


def soft_edge(depth_mm: np.ndarray, width_mm: float) -> np.ndarray:
    """Fraction of tissue in each voxel, from 0 outside to 1 inside, over an edge of the given width (mm)."""
    return np.clip(depth_mm / max(width_mm, 1e-3) + 0.5, 0.0, 1.0).astype(np.float32)


def largest_part(mask: np.ndarray) -> np.ndarray:
    """Keep the largest connected part: a wavy surface can shed specks."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def average_half_slices(values: np.ndarray) -> np.ndarray:
    """Mean of each pair of half slices."""
    return values.reshape(-1, 2, *values.shape[1:]).mean(axis=1, dtype=np.float32)


def blur(image: np.ndarray, fwhm_mm: Sequence[float], spacing: Sequence[float]) -> np.ndarray:
    """Point spread of a scanner: a Gaussian of the given full width at half maximum (z, y, x) in mm."""
    sigma = [width / 2.355 / step for width, step in zip(fwhm_mm, spacing, strict=True)]
    return ndimage.gaussian_filter(image, sigma, mode="nearest")
