"""Reading, writing, resampling and cropping of images; checks of their geometry.

An image or a mask is a ``SimpleITK.Image`` everywhere in this package: it carries spacing, origin and direction. Points
and sizes written with *xyz* follow SimpleITK (physical x, y, z in mm, LPS); arrays written with *zyx* follow NumPy.
This module is the only place that swaps the two.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from .errors import GeometryError, InputError
from .files import replacing

logger = logging.getLogger(__name__)

ORIGIN_TOLERANCE_MM: Final = 0.01
"""Corners of image and mask grid closer than this (mm) are the same grid: float noise of file headers."""

SNAP_FRACTION: Final = 0.5
"""Corner offsets below this fraction of a voxel are header noise when sizes agree; the mask takes the image's grid."""

DIRECTION_TOLERANCE: Final = 1e-4
"""Largest absolute difference between direction cosines that counts as equal."""

MIN_OVERLAP: Final = 0.999
"""Share of mask voxels that must lie inside the image for a mask on another grid to be resampled."""

_LONGEST_NIFTI_HEADER: Final = 2**20
"""Bytes that a NIfTI header with its extensions may take in front of the voxels."""

Verdict = Literal["equal", "resample", "refuse"]


def read_image(path: str | Path, *, case_id: str | None = None) -> sitk.Image:
    """Read a 3D image: NIfTI, NRRD, MetaImage, or a folder holding one DICOM series.

    Parameters
    ----------
    path : path-like
        A file, or a folder with the files of one DICOM series.
    case_id : str, optional
        Named in the error.

    Returns
    -------
    SimpleITK.Image
        Scalar 3D image in the stored pixel type.

    Raises
    ------
    InputError
        When the file is missing, unreadable, not 3D or not scalar.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            "The file does not exist.", advice="Check the path in the cohort table.", case_id=case_id, path=path
        )
    try:
        image = _read_series(path, case_id) if path.is_dir() else sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "unknown reason"
        raise InputError(
            f"The image cannot be read ({reason}).",
            advice="Open it in a viewer, export it again as NIfTI or NRRD.",
            case_id=case_id,
            path=path,
        ) from error
    _refuse_truncated(path, image, case_id)
    return _require_scalar_3d(image, case_id, path)


def _refuse_truncated(path: Path, image: sitk.Image, case_id: str | None) -> None:
    """Raise for a compressed file that ends early; the NIfTI reader fills what is missing without a word."""
    if not path.name.lower().endswith(".nii.gz"):
        return
    with path.open("rb") as stream:
        stream.seek(-4, 2)
        stored = int.from_bytes(stream.read(4), "little")
    voxels = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    if 0 <= (stored - voxels) % 2**32 <= _LONGEST_NIFTI_HEADER:
        return
    # The trailer does not fit: either the file is cut off, or it has several gzip members. Only reading tells.
    try:
        with gzip.open(path) as stream:
            while stream.read(1 << 24):
                pass
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(
            "The file is cut off or damaged.", advice="Copy or export it again.", case_id=case_id, path=path
        ) from error


def nonfinite_voxels(path: str | Path, image: sitk.Image) -> np.ndarray | None:
    """Where the stored image holds NaN or infinity.

    The NIfTI reader of SimpleITK replaces such voxels by 0 without a word, so that they must be looked for in the
    file itself.

    Parameters
    ----------
    path : path-like
        File that ``image`` was read from.
    image : SimpleITK.Image
        As returned by :func:`read_image`.

    Returns
    -------
    ndarray of bool, shape (z, y, x), or None
        None when every voxel is finite.
    """
    if not np.issubdtype(to_array(image[:1, :1, :1]).dtype, np.floating):
        return None
    values = to_array(image)
    if Path(path).name.lower().endswith((".nii", ".nii.gz")):
        values = np.asarray(nib.Nifti1Image.from_filename(path).dataobj).reshape(image.GetSize()).transpose()
    broken = ~np.isfinite(values)
    return broken if broken.any() else None


def _require_scalar_3d(image: sitk.Image, case_id: str | None, path: Path) -> sitk.Image:
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3:
        raise InputError(
            f"Expected a 3D image, found {image.GetDimension()} dimensions of size {image.GetSize()}.",
            advice="Split time points, or stack slices into one volume.",
            case_id=case_id,
            path=path,
        )
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"Expected one value per voxel, found {image.GetNumberOfComponentsPerPixel()}.",
            advice="Save a grey-value image.",
            case_id=case_id,
            path=path,
        )
    return image


def _read_series(folder: Path, case_id: str | None) -> sitk.Image:
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise InputError(
            f"Expected the files of one DICOM series in the folder, found {len(series)} series.",
            advice="Give each series its own folder.",
            case_id=case_id,
            path=folder,
        )
    names = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    _require_even_slices(names, case_id, folder)
    reader.SetFileNames(names)
    return reader.Execute()


def _require_even_slices(names: Sequence[str], case_id: str | None, folder: Path) -> None:
    """Raise when slice positions repeat or leave a gap; SimpleITK itself only warns on the console."""
    header = sitk.ImageFileReader()
    positions = []
    for name in names:
        header.SetFileName(name)
        header.ReadImageInformation()
        direction = np.asarray(header.GetDirection()).reshape(3, 3)
        positions.append(float(np.dot(header.GetOrigin(), direction[:, 2])))
    gaps = np.diff(np.sort(np.asarray(positions)))
    if gaps.size and (gaps.min() < 0.01 or gaps.max() > 1.5 * np.median(gaps)):
        raise InputError(
            f"Slices of the DICOM series are doubled or missing: distances run from {gaps.min():.2f} to "
            f"{gaps.max():.2f} mm.",
            advice="Export the complete series again, without second copies.",
            case_id=case_id,
            path=folder,
        )


def read_mask(path: str | Path, *, case_id: str | None = None) -> sitk.Image:
    """Read a label mask and return it as unsigned integers.

    Raises
    ------
    InputError
        As :func:`read_image`; also when the values are not whole non-negative numbers.
    """
    mask = read_image(path, case_id=case_id)
    values = to_array(mask)
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.floor(values)).any():
        raise InputError(
            "A mask must hold whole numbers from 0 (background) upwards.",
            advice="Is this the image, or a probability map? Save a label map.",
            case_id=case_id,
            path=path,
        )
    return sitk.Cast(mask, sitk.sitkUInt8 if values.max(initial=0) < 256 else sitk.sitkUInt32)


def write_image(image: sitk.Image, path: str | Path) -> Path:
    """Write an image under a temporary name, then move it into place.

    Returns
    -------
    Path
        Where the file is.
    """
    with replacing(path) as partial:
        sitk.WriteImage(image, str(partial), useCompression=True)
    return Path(path)


def to_array(image: sitk.Image) -> np.ndarray:
    """Voxel values as a new array of shape (z, y, x)."""
    return sitk.GetArrayFromImage(image)


def from_array(array: np.ndarray, reference: sitk.Image) -> sitk.Image:
    """Image of the values ``array`` (z, y, x) on the grid of ``reference``.

    Raises
    ------
    GeometryError
        When the shapes differ.
    """
    expected = tuple(reversed(reference.GetSize()))
    if array.shape != expected:
        raise GeometryError(f"Expected an array of shape {expected} (z, y, x), found {array.shape}.")
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(reference)
    return image


@dataclass(frozen=True)
class GeometryReport:
    """How the grids of an image and a mask relate.

    Attributes
    ----------
    verdict : {"equal", "resample", "refuse"}
        Whether the mask can be used as it is, after resampling to the image grid, or not at all.
    corner_offset_mm : float
        Largest distance between corresponding grid corners (mm).
    spacing_difference_mm : float
        Largest absolute difference between voxel sizes (mm).
    direction_difference : float
        Largest absolute difference between direction cosines.
    size_image, size_mask : tuple of int
        Grid sizes (x, y, z).
    inside : float
        Share of the mask's foreground voxels that lie inside the image, 0 to 1.
    """

    verdict: Verdict
    corner_offset_mm: float
    spacing_difference_mm: float
    direction_difference: float
    size_image: tuple[int, ...]
    size_mask: tuple[int, ...]
    inside: float

    def describe(self) -> str:
        """Return the differences as half a sentence, in mm."""
        return (
            f"sizes {self.size_image} and {self.size_mask}, corners up to {self.corner_offset_mm:.3g} mm apart, "
            f"spacing differs by {self.spacing_difference_mm:.3g} mm, direction cosines by "
            f"{self.direction_difference:.2g}; {100 * self.inside:.1f} % of the mask lies inside the image"
        )


def compare_geometry(image: sitk.Image, mask: sitk.Image) -> GeometryReport:
    """Compare the grids of an image and its mask.

    Returns
    -------
    GeometryReport
        ``equal``: the same grid within :data:`ORIGIN_TOLERANCE_MM`, or the same size with header noise below half a
        voxel. ``resample``: another grid, but the mask lies inside the image. ``refuse``: the mask reaches outside
        the image, so that one of the two belongs to another scan or its header is wrong.
    """
    corner_offset = _corner_offset(image, mask)
    spacing = float(np.abs(np.subtract(image.GetSpacing(), mask.GetSpacing())).max())
    direction = float(np.abs(np.subtract(image.GetDirection(), mask.GetDirection())).max())
    same_size = image.GetSize() == mask.GetSize()
    snap = max(ORIGIN_TOLERANCE_MM, SNAP_FRACTION * min(image.GetSpacing()))
    inside = 1.0
    if same_size and (corner_offset <= ORIGIN_TOLERANCE_MM or (corner_offset < snap and direction < 0.01)):
        verdict: Verdict = "equal"
    else:
        inside = _share_inside(image, mask)
        verdict = "resample" if inside >= MIN_OVERLAP else "refuse"
    return GeometryReport(verdict, corner_offset, spacing, direction, image.GetSize(), mask.GetSize(), inside)


def _corners(image: sitk.Image) -> np.ndarray:
    last = [size - 1 for size in image.GetSize()]
    return np.asarray(
        [
            image.TransformIndexToPhysicalPoint((i * last[0], j * last[1], k * last[2]))
            for i in (0, 1)
            for j in (0, 1)
            for k in (0, 1)
        ]
    )


def _corner_offset(image: sitk.Image, mask: sitk.Image) -> float:
    return float(np.linalg.norm(_corners(image) - _corners(mask), axis=1).max())


def _share_inside(image: sitk.Image, mask: sitk.Image) -> float:
    """Share of foreground voxels whose centre lies within the image's voxels (half a voxel beyond the centres)."""
    indices = np.argwhere(to_array(mask) > 0)[:, ::-1]
    if not len(indices):
        return 1.0
    points = index_to_point(mask, indices)
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    continuous = (points - np.asarray(image.GetOrigin())) @ direction / np.asarray(image.GetSpacing())
    upper = np.asarray(image.GetSize()) - 0.5
    return float(((continuous >= -0.5) & (continuous <= upper)).all(axis=1).mean())


@dataclass(frozen=True)
class Orientation:
    """Which axis of an array (z, y, x) points where; see :func:`orientation_of`.

    Attributes
    ----------
    order : tuple of int
        Array axes that point along superior, posterior, left (or against them).
    flips : tuple of bool
        For each of the three, whether it points against.
    """

    order: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: np.ndarray) -> np.ndarray:
        """Array (z, y, x) in canonical order: axes towards superior, posterior, left. A view; no interpolation."""
        return np.flip(array.transpose(self.order), self._flipped)

    def undo(self, array: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`apply`."""
        return np.flip(array, self._flipped).transpose(np.argsort(self.order))

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(3) if self.flips[axis])

    def triple(self, values: Sequence[Any]) -> tuple[Any, Any, Any]:
        """Reorder one value per array axis (size, spacing) to the canonical order."""
        return values[self.order[0]], values[self.order[1]], values[self.order[2]]


def orientation_of(image: sitk.Image) -> Orientation:
    """Nearest of the 48 axis orders of an image; oblique images are named by their nearest axes.

    Returns
    -------
    Orientation
        Brings the image's array to the canonical order and back.
    """
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    axis_of = {letter: 2 - position for position, letter in enumerate(letters)}
    pairs = (("S", "I"), ("P", "A"), ("L", "R"))
    order = [axis_of[along if along in axis_of else against] for along, against in pairs]
    flips = [against in axis_of for _, against in pairs]
    return Orientation((order[0], order[1], order[2]), (flips[0], flips[1], flips[2]))


def index_to_point(image: sitk.Image, indices_xyz: np.ndarray) -> np.ndarray:
    """Physical points (mm, LPS) of voxel indices, shape (n, 3), order x, y, z."""
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    return np.asarray(image.GetOrigin()) + (np.asarray(indices_xyz) * np.asarray(image.GetSpacing())) @ direction.T


def align_mask(
    image: sitk.Image, mask: sitk.Image, *, case_id: str | None = None, path: str | Path | None = None
) -> tuple[sitk.Image, GeometryReport]:
    """Put the mask on the grid of the image.

    Returns
    -------
    mask : SimpleITK.Image
        On the image's grid; unchanged voxels when the verdict is ``equal``, nearest neighbour when ``resample``.
    report : GeometryReport
        What was found; record it.

    Raises
    ------
    GeometryError
        When the verdict is ``refuse``.
    """
    report = compare_geometry(image, mask)
    if report.verdict == "refuse":
        raise GeometryError(
            f"Image and mask do not belong together: {report.describe()}.",
            advice="Was the mask drawn on another series? Export both again from the same software.",
            case_id=case_id,
            path=path,
        )
    if report.verdict == "equal":
        aligned = sitk.Image(mask)
        aligned.CopyInformation(image)
        return aligned, report
    logger.info("Mask resampled to the image grid (case %s): %s", case_id, report.describe())
    return sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0), report


def resample_to_spacing(
    image: sitk.Image, spacing: Sequence[float], *, interpolator: int = sitk.sitkLinear, default: float = 0.0
) -> sitk.Image:
    """Resample to a voxel size, keeping the centre of the field of view.

    Parameters
    ----------
    image : SimpleITK.Image
        Any scalar image.
    spacing : sequence of float
        Target voxel size (x, y, z) in mm.
    interpolator : int
        A SimpleITK interpolator; nearest neighbour for masks.
    default : float
        Value outside the source.

    Returns
    -------
    SimpleITK.Image
        ``ceil(size * old / new)`` voxels per axis, grid centres aligned.
    """
    old = np.asarray(image.GetSpacing())
    new = np.asarray(spacing, dtype=float)
    size = np.maximum(np.ceil(np.asarray(image.GetSize()) * old / new - 1e-6).astype(int), 1)
    centre = np.asarray(image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()]))
    direction = np.asarray(image.GetDirection()).reshape(3, 3)
    origin = centre - direction @ ((size - 1) / 2 * new)
    return sitk.Resample(
        image, [int(n) for n in size], sitk.Transform(), interpolator, [float(v) for v in origin],
        [float(v) for v in new], image.GetDirection(), default, image.GetPixelID(),
    )  # fmt: skip


def labels_in(mask: sitk.Image) -> dict[int, int]:
    """Labels present in a mask (background 0 left out) with their voxel counts, in ascending order."""
    values, counts = np.unique(to_array(mask), return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True) if value != 0}
