"""From an image and a mask to the tensor that a network sees: crop, resample, normalise.

The crop is a cube with axes along the patient's (LPS), centred on the lesion, so that the way an image is stored
(oblique, flipped, anisotropic) does not matter. There are two ways to choose its voxel size:

*fixed spacing*
    ``spacing_mm=1.0``: size and texture scale stay physical, but a lesion larger than the cube is cut off.
*scale to fit* (``spacing_mm=None``)
    The lesion and its margin fill the cube whatever its size, so that nothing is cut off; the physical size is lost
    unless the network is told the voxel size as a channel (``channels=("image", "mask", "voxel_size")``, as the
    bundled encoder is).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import numpy as np
import SimpleITK as sitk

from hybrid.errors import InputError, unknown_name
from hybrid.images import align_mask, from_array, index_to_point, labels_in, to_array

CHANNELS: Final = ("image", "mask", "voxel_size")
"""What an input channel can hold: normalised intensities; the mask from -1 outside to 1 inside; log2(voxel size in
mm) / 2 everywhere."""

CENTRES: Final = ("box", "centroid")
"""Centre of the cube: of the lesion's bounding box, or the mean of its voxels."""

CT_WINDOW_HU: Final = (-200.0, 300.0)
"""Soft tissue from fat to enhanced parenchyma; maps to [-1, 1], beyond is clipped."""

PERCENTILES: Final = (1.0, 99.0)
"""Percentiles of the crop that map to -1 and 1 where intensities have no unit (MR)."""

PET_MAX_SUV: Final = 25.0
"""SUV that maps to 1; the square root in between evens out the noise, which grows with uptake."""

FMCIB_RANGE_HU: Final = (-1024.0, 2048.0)
"""Maps to [0, 1], not clipped: (HU + 1024) / 3072."""

MAX_SUPERSAMPLING: Final = 4
"""Samples per output voxel and axis, at most, that are averaged when a fine image goes to a coarse cube."""


def _window(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    low, high = CT_WINDOW_HU
    return np.clip((values - low) / (high - low), 0.0, 1.0) * 2.0 - 1.0


def _percentiles(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values[inside], PERCENTILES)
    if high <= low:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0.0, 1.0) * 2.0 - 1.0


def _suv(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return np.sqrt(np.clip(values, 0.0, PET_MAX_SUV) / PET_MAX_SUV) * 2.0 - 1.0


def _medicalnet(values: np.ndarray, inside: np.ndarray, *, air: float) -> np.ndarray:
    """Z-score over voxels above air; the rest becomes 0, the mean, in place of MedicalNet's random numbers."""
    body = inside & (values > air)
    if not body.any() or values[body].std() == 0:
        return np.zeros_like(values)
    return np.where(body, (values - values[body].mean()) / values[body].std(), 0.0)


def _fmcib(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    low, high = FMCIB_RANGE_HU
    return (values - low) / (high - low)


Normaliser = Callable[[np.ndarray, np.ndarray], np.ndarray]

_OWN: Final[dict[str, Normaliser]] = {"ct": _window, "mr": _percentiles, "pet": _suv, "any": _percentiles}
_MEDICALNET: Final[dict[str, Normaliser]] = {
    name: functools.partial(_medicalnet, air=-1024.0 if name == "ct" else 0.0) for name in _OWN
}
NORMALISERS: Final[dict[str, dict[str, Normaliser]]] = {
    "own": _OWN,
    "medicalnet": _MEDICALNET,
    "fmcib": {"ct": _fmcib},
}
"""Intensity normalisation by convention and modality: functions of the crop's values and of where it lies inside the
image."""

MODALITIES: Final = tuple(_OWN)
"""``"ct"`` (HU), ``"mr"``, ``"pet"`` (SUV), ``"any"`` (no unit assumed; the same as ``"mr"``)."""


@dataclass(frozen=True)
class Preprocessing:
    """How a lesion becomes the input of a network.

    Parameters
    ----------
    size : int
        Voxels along each edge of the cube.
    spacing_mm : float, optional
        Voxel size (mm); None fits the lesion with its margin into the cube.
    margin_mm : float
        Tissue kept around the lesion on every side (mm) when the cube is fitted.
    centre : {"box", "centroid"}
        See :data:`CENTRES`.
    intensity : {"own", "medicalnet", "fmcib"}
        Convention of the intensity normalisation, see :data:`NORMALISERS`.
    modality : {"ct", "mr", "pet", "any"}
        What the voxel values are.
    channels : tuple of str
        See :data:`CHANNELS`.
    antialias : bool
        Average several samples per voxel when the cube is coarser than the image.
    outside : float, optional
        Value beyond the edge of the image; None repeats the edge.
    """

    size: int = 48
    spacing_mm: float | None = None
    margin_mm: float = 10.0
    centre: str = "box"
    intensity: str = "own"
    modality: str = "any"
    channels: tuple[str, ...] = ("image",)
    antialias: bool = True
    outside: float | None = None

    def __post_init__(self) -> None:
        if self.size < 8 or (self.spacing_mm is not None and self.spacing_mm <= 0) or self.margin_mm < 0:
            raise InputError(
                "Expected size >= 8, spacing_mm > 0 (or None) and margin_mm >= 0; found "
                f"{self.size}, {self.spacing_mm} and {self.margin_mm}."
            )
        for kind, value, valid in (
            ("centre", self.centre, CENTRES),
            ("intensity convention", self.intensity, NORMALISERS),
            ("modality", self.modality, MODALITIES),
            *(("channel", channel, CHANNELS) for channel in self.channels),
        ):
            if value not in valid:
                raise unknown_name(kind, value, valid)
        if self.modality not in NORMALISERS[self.intensity]:
            raise InputError(
                f"The {self.intensity} normalisation is defined for {', '.join(NORMALISERS[self.intensity])} only; "
                f"found modality {self.modality!r}.",
                advice="Use another encoder for this image.",
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``model.json`` and provenance."""
        return {**asdict(self), "channels": list(self.channels)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from :meth:`to_dict`.

        Raises
        ------
        InputError
            For an unknown field or value.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise unknown_name("preprocessing setting", key, known)
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**plain)


@dataclass(frozen=True)
class Crop:
    """A lesion resampled to a cube.

    Attributes
    ----------
    image : ndarray of float32, shape (size, size, size)
        Voxel values (z, y, x) in their own unit, times the scale.
    mask : ndarray of float32, same shape
        Share of the voxel that belongs to the lesion, 0 to 1.
    inside : ndarray of bool, same shape
        Whether the voxel lies in the field of view of the image.
    spacing_mm : float
        Edge of a voxel (mm).
    centre_mm : tuple of float
        Physical point (x, y, z; LPS, mm) of the cube's centre.
    """

    image: np.ndarray
    mask: np.ndarray
    inside: np.ndarray
    spacing_mm: float
    centre_mm: tuple[float, float, float]


def crop_lesion(
    image: sitk.Image,
    mask: sitk.Image,
    preprocessing: Preprocessing,
    *,
    label: int | None = None,
    scale: float = 1.0,
    case_id: str | None = None,
) -> Crop:
    """Cut the cube around a lesion.

    Parameters
    ----------
    image, mask : SimpleITK.Image
        3D; a mask on another grid is put on that of the image.
    preprocessing : Preprocessing
        Size, spacing, margin and so on.
    label : int, optional
        Label of the region; None takes every label above 0 as one region.
    scale : float
        Factor on the voxel values.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    Crop
        Values are not normalised yet, see :func:`network_input`.

    Raises
    ------
    InputError
        For an empty mask, an absent label, or voxels that are not finite.
    GeometryError
        When image and mask do not belong together.
    """
    aligned, _ = align_mask(image, mask, case_id=case_id)
    region = _region(aligned, label, case_id)
    low, high, centroid = _extent_lps(aligned, region)
    centre = centroid if preprocessing.centre == "centroid" else (low + high) / 2
    spacing = preprocessing.spacing_mm or float((high - low).max() + 2 * preprocessing.margin_mm) / preprocessing.size
    factor = _supersampling(image, spacing) if preprocessing.antialias else 1
    grid = _cube(centre, spacing, preprocessing.size, factor)
    around = _surroundings(image, grid)
    part = image[around]
    lesion = sitk.Cast(from_array(region.astype(np.uint8), aligned)[around], sitk.sitkFloat32)
    values = _sample(sitk.Cast(part, sitk.sitkFloat32), grid, sitk.sitkLinear, preprocessing.outside)
    if not np.isfinite(values).all():
        raise InputError(
            "Voxels around the lesion are NaN or infinite.", advice="Replace them before use.", case_id=case_id
        )
    return Crop(
        _block_mean(values, factor) * np.float32(scale),
        _block_mean(_sample(lesion, grid, sitk.sitkLinear, 0.0), factor),
        _block_mean(_sample(_ones_like(part), grid, sitk.sitkNearestNeighbor, 0.0), factor) >= 0.5,
        spacing,
        (float(centre[0]), float(centre[1]), float(centre[2])),
    )


def _ones_like(image: sitk.Image) -> sitk.Image:
    ones = sitk.Image(image.GetSize(), sitk.sitkFloat32) + 1
    ones.CopyInformation(image)
    return ones


def _region(mask: sitk.Image, label: int | None, case_id: str | None) -> np.ndarray:
    values = to_array(mask)
    region = values > 0 if label is None else values == label
    if region.any():
        return region
    present = labels_in(mask)
    found = f"only {', '.join(map(str, present))}" if present else "no label at all"
    wanted = "The mask is empty" if label is None else f"Label {label} is not in the mask"
    raise InputError(
        f"{wanted}: found {found}.", advice="Draw the region, or correct the roi_label column.", case_id=case_id
    )


def _extent_lps(mask: sitk.Image, region: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest corner of the region's voxels along the patient's axes, and its centroid (mm, x y z)."""
    points = index_to_point(mask, np.argwhere(region)[:, ::-1])
    direction = np.abs(np.asarray(mask.GetDirection()).reshape(3, 3))
    half_voxel = direction @ np.asarray(mask.GetSpacing()) / 2
    return points.min(axis=0) - half_voxel, points.max(axis=0) + half_voxel, points.mean(axis=0)


def _supersampling(image: sitk.Image, spacing: float) -> int:
    finest = min(image.GetSpacing())
    return int(np.clip(np.ceil(spacing / finest - 1e-6), 1, MAX_SUPERSAMPLING))


@dataclass(frozen=True)
class _Grid:
    """Sample points along the patient's axes."""

    count: int
    spacing: float
    origin: np.ndarray


def _cube(centre: np.ndarray, spacing: float, size: int, factor: int) -> _Grid:
    count, step = size * factor, spacing / factor
    return _Grid(count, step, centre - (count - 1) / 2 * step)


def _surroundings(image: sitk.Image, grid: _Grid) -> tuple[slice, slice, slice]:
    """Part of the image that the cube touches, with two voxels more, so that the rest need not be converted."""
    last = grid.origin + (grid.count - 1) * grid.spacing
    corners = [
        image.TransformPhysicalPointToContinuousIndex([float(pair[bit]) for pair, bit in zip(ends, bits, strict=True)])
        for ends in [list(zip(grid.origin, last, strict=True))]
        for bits in np.ndindex(2, 2, 2)
    ]
    size = np.asarray(image.GetSize())
    start = np.clip(np.floor(np.min(corners, axis=0)).astype(int) - 2, 0, size - 1)
    stop = np.clip(np.ceil(np.max(corners, axis=0)).astype(int) + 3, start + 1, size)
    x, y, z = (slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    return x, y, z


def _sample(image: sitk.Image, grid: _Grid, interpolator: int, outside: float | None) -> np.ndarray:
    resampled = sitk.Resample(
        image,
        [grid.count] * 3,
        sitk.Transform(),
        interpolator,
        [float(value) for value in grid.origin],
        [grid.spacing] * 3,
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        0.0 if outside is None else outside,
        image.GetPixelID(),
        outside is None,
    )
    return to_array(resampled)


def _block_mean(values: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return values
    count = values.shape[0] // factor
    blocks = values.reshape(count, factor, count, factor, count, factor)
    return blocks.mean(axis=(1, 3, 5), dtype=np.float32)


def network_input(crop: Crop, preprocessing: Preprocessing) -> np.ndarray:
    """Normalise a crop and stack its channels.

    Returns
    -------
    ndarray of float32, shape (channels, size, size, size)
        One case, axes (C, z, y, x).
    """
    normalise = NORMALISERS[preprocessing.intensity][preprocessing.modality]
    inside = crop.inside if crop.inside.any() else np.ones_like(crop.inside)
    return stack_channels(normalise(crop.image, inside), crop.mask, crop.spacing_mm, preprocessing.channels)


def stack_channels(normalised: np.ndarray, mask: np.ndarray, spacing_mm: float, channels: Sequence[str]) -> np.ndarray:
    """Stack normalised intensities, mask and voxel size as :data:`CHANNELS` says, as float32."""
    planes = {
        "image": normalised,
        "mask": mask * 2.0 - 1.0,
        "voxel_size": np.full(mask.shape, np.log2(spacing_mm) / 2.0),
    }
    return np.stack([planes[name] for name in channels]).astype(np.float32)
