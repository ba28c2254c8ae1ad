"""Single simulated lesions with known generating properties.

The bundled encoder is trained to estimate these properties, and the simulated patients carry lesions of this kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from hybrid.errors import InputError

from .fields import blur, correlated_noise, deformed_ellipsoid, soft_edge

BACKGROUND_HU = 100.0
"""Mean of the tissue around a lesion: kidney parenchyma in a portal venous phase, about 100 HU and more."""

NECROSIS_HU = 15.0
"""Density of necrotic tissue, which does not enhance: about that of a cyst."""


@dataclass(frozen=True)
class LesionProperties:
    """What a lesion is painted from.

    Attributes
    ----------
    radius_mm : float
        Radius of the sphere of equal volume (mm).
    elongation : float
        Longest over shortest half axis, 1 for a sphere.
    irregularity : float
        Standard deviation of the surface's radius as a fraction of it.
    contrast_hu : float
        Mean of the solid part minus background (HU).
    texture_scale_mm : float
        Correlation length of the inner texture (mm).
    texture_contrast_hu : float
        Standard deviation of the inner texture (HU).
    necrosis_fraction : float
        Share of the volume that is necrotic (about water), in the centre.
    rim_hu : float
        Additional enhancement of a 2 mm rim (HU).
    edge_mm : float
        Width of the transition to the tissue around (mm).
    """

    radius_mm: float
    elongation: float
    irregularity: float
    contrast_hu: float
    texture_scale_mm: float
    texture_contrast_hu: float
    necrosis_fraction: float
    rim_hu: float
    edge_mm: float

    def __post_init__(self) -> None:
        if self.radius_mm <= 0 or self.elongation < 1 or not 0 <= self.necrosis_fraction < 1:
            raise InputError(
                "A lesion needs radius_mm > 0, elongation >= 1 and necrosis_fraction in [0, 1); "
                f"found {self.radius_mm}, {self.elongation} and {self.necrosis_fraction}."
            )
        for name in ("irregularity", "texture_scale_mm", "texture_contrast_hu", "edge_mm"):
            if getattr(self, name) < 0:
                raise InputError(f"The lesion's {name} must not be negative; found {getattr(self, name)}.")


PROPERTY_NAMES = tuple(field.name for field in fields(LesionProperties))


def draw_properties(rng: np.random.Generator) -> LesionProperties:
    """Draw properties independently of each other, over the range of real masses.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    LesionProperties
        Every property with its own uniform (or log-uniform) distribution.
    """
    return LesionProperties(
        radius_mm=float(np.exp(rng.uniform(np.log(6), np.log(18)))),
        elongation=float(rng.uniform(1.0, 1.6)),
        irregularity=float(rng.uniform(0.0, 0.22)),
        contrast_hu=float(rng.uniform(-90, 90)),
        texture_scale_mm=float(np.exp(rng.uniform(np.log(0.8), np.log(4.5)))),
        texture_contrast_hu=float(rng.uniform(3, 45)),
        necrosis_fraction=float(rng.choice([0.0, rng.uniform(0.0, 0.5)])),
        rim_hu=float(rng.choice([0.0, rng.uniform(0.0, 60.0)])),
        edge_mm=float(rng.uniform(0.5, 5.0)),
    )


def lesion_depth(
    properties: LesionProperties,
    shape: Sequence[int],
    spacing: Sequence[float],
    centre: Sequence[float],
    rng: np.random.Generator,
) -> np.ndarray:
    """Signed depth (mm) below the surface of the lesion, shape (z, y, x); see :func:`deformed_ellipsoid`."""
    ratio = properties.elongation ** (2 / 3)
    radii = np.full(3, properties.radius_mm / np.sqrt(ratio))
    radii[rng.integers(3)] = properties.radius_mm * ratio
    return deformed_ellipsoid(shape, spacing, centre, radii, properties.irregularity, rng)


def lesion_values(
    properties: LesionProperties, depth: np.ndarray, spacing: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """HU of the lesion's tissue relative to the tissue around it, on the whole grid of ``depth``."""
    values = properties.contrast_hu + properties.texture_contrast_hu * correlated_noise(
        depth.shape, properties.texture_scale_mm, spacing, rng
    )
    values += properties.rim_hu * ((depth > 0) & (depth < 2.0))
    inside = depth[depth > 0]
    if properties.necrosis_fraction > 0 and inside.size:
        waves = 0.2 * properties.radius_mm * correlated_noise(depth.shape, 0.3 * properties.radius_mm, spacing, rng)
        level = np.quantile((depth + waves)[depth > 0], 1 - properties.necrosis_fraction)
        necrotic = soft_edge(depth + waves - level, 1.5)
        values = (1 - necrotic) * values + necrotic * (NECROSIS_HU - BACKGROUND_HU)
    return values.astype(np.float32)


def paint_lesion(
    properties: LesionProperties,
    *,
    rng: np.random.Generator,
    size: Sequence[int] = (48, 48, 48),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    noise_hu: float = 12.0,
    fwhm_mm: Sequence[float] = (2.0, 1.2, 1.2),
) -> tuple[np.ndarray, np.ndarray]:
    """Paint one lesion into noisy tissue.

    Parameters
    ----------
    properties : LesionProperties
        What to paint.
    rng : numpy.random.Generator
        Source of randomness; the same state gives the same voxels.
    size : sequence of int
        Voxels (z, y, x).
    spacing : sequence of float
        Voxel size (z, y, x) in mm.
    noise_hu : float
        Standard deviation of the scanner's noise (HU).
    fwhm_mm : sequence of float
        Point spread (z, y, x) in mm.

    Returns
    -------
    image : ndarray of float32, shape (z, y, x)
        HU.
    mask : ndarray of uint8, shape (z, y, x)
        1 inside the lesion.

    Raises
    ------
    InputError
        When ``size`` or ``spacing`` is not three positive numbers.
    """
    if len(size) != 3 or len(spacing) != 3 or min(size) < 1 or min(spacing) <= 0:
        raise InputError(
            f"Size and spacing must be three positive numbers each, in the order z, y, x; found {size} and {spacing}."
        )
    centre = [(n - 1) / 2 * step + rng.uniform(-1, 1) for n, step in zip(size, spacing, strict=True)]
    depth = lesion_depth(properties, size, spacing, centre, rng)
    image = BACKGROUND_HU + 8.0 * correlated_noise(size, 2.5, spacing, rng)
    share = soft_edge(depth, properties.edge_mm)
    image += share * lesion_values(properties, depth, spacing, rng)
    image = blur(image, fwhm_mm, spacing)
    image += noise_hu * correlated_noise(size, 0.6, spacing, rng)
    return image.astype(np.float32), (depth > 0).astype(np.uint8)
