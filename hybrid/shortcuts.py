"""What a network could read off an image file in place of the disease, and how to take it away before training.

:func:`image_facts` collects what file and frame say about an image without any look at the anatomy: size, format, bits,
spacing, constant border, grey level, background, corners. :func:`hybrid.analysis.shortcut_audit.audit_shortcuts` asks
whether one of them alone predicts the label, and :func:`neutralise` makes images equal in what can be made equal.

What stays after :func:`neutralise`: noise, sharpness and compression marks of the source. An image that was enlarged is
smoother than one that was not; a common size no larger than the smallest image keeps that difference small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import SimpleITK as sitk
from PIL import Image

from .deep.classification.inputs import (
    PERCENTILES,
    PLAIN_SUFFIXES,
    centred,
    inner_shape,
    luma,
    read_slice,
    robust_limits,
    scaled,
)
from .deep.segmentation.geometry import resize
from .errors import InputError, unknown_name
from .images import nonfinite_voxels, orientation_of, read_image, to_array

Fact = float | str | None

HEADER_FACTS: Final = (
    "file_format", "pixel_mode", "bit_depth", "rows", "columns", "aspect_ratio", "n_slices", "spacing_rows_mm",
    "spacing_columns_mm", "spacing_slices_mm", "orientation", "file_bytes",
)  # fmt: skip
"""Facts that need the header only. Rows, columns and slices are the stored second, first and third axis."""

PIXEL_FACTS: Final = (
    "mean_grey", "min_grey", "max_grey", "border_share", "background_share", "corner_top_left", "corner_top_right",
    "corner_bottom_left", "corner_bottom_right",
)  # fmt: skip
"""Facts of the pixels, see :func:`array_facts`."""

BORDER_TOLERANCE: Final = 0.03
"""Share of the image's range within which the values of a line count as constant: JPEG frames are not exact."""

BACKGROUND: Final = 0.05
"""Values up to this share of the range (between percentiles) above the darkest ones are background."""

CORNER: Final = 8
"""A corner is one part in eight of the rows by one part in eight of the columns."""

CORNERS: Final[dict[str, tuple[int, int]]] = {
    "top_left": (0, 0),
    "top_right": (0, -1),
    "bottom_left": (-1, 0),
    "bottom_right": (-1, -1),
}
"""Names of the corners and where they lie: first (0) or last (-1) rows and columns."""

_BRIGHTEST: Final = 99.5
_SWAPPED_BY_EXIF: Final = (5, 6, 7, 8)
_EXIF_ORIENTATION: Final = 0x0112


def image_facts(
    path: str | Path, index: int | None = None, *, pixels: bool = True, case_id: str | None = None
) -> dict[str, Fact]:
    """Facts of one volume or slice that say nothing about the anatomy.

    Parameters
    ----------
    path : path-like
        PNG, JPEG, one DICOM file, a folder with one DICOM series, NIfTI, NRRD or MetaImage.
    index : int, optional
        Slice of a volume, counted from 0: the facts of the pixels are then those of this slice. None: of all slices.
    pixels : bool
        False reads headers only, and leaves out :data:`PIXEL_FACTS`.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    dict
        :data:`HEADER_FACTS` and :data:`PIXEL_FACTS`: text, numbers (mm, bytes, stored grey values), NaN or None where
        the file does not say. ``pixel_mode`` is Pillow's mode (PNG, JPEG), the photometric interpretation (DICOM) or
        the type of a voxel. No name, id or date of the header is among them.

    Raises
    ------
    InputError
        When the file is missing or cannot be read, has no such slice, or holds NaN or infinity.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("The file does not exist.", advice="Check the path in the table.", case_id=case_id, path=path)
    try:
        header = _plain_header(path) if path.suffix.lower() in PLAIN_SUFFIXES else _scan_header(path)
    except (RuntimeError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "unknown reason"
        raise InputError(
            f"The image cannot be read ({reason}).", advice="Export it again.", case_id=case_id, path=path
        ) from error
    found = header.facts()
    if not pixels:
        return found
    return found | array_facts(_grey_values(path, index, header, case_id), case_id=case_id)


@dataclass(frozen=True)
class _Header:
    """What a file says before its pixels are read; sizes and spacings in stored order x, y, z."""

    file_format: str
    pixel_mode: str
    bit_depth: int
    size: tuple[int, ...]
    file_bytes: int
    spacing: tuple[float, ...] = (math.nan,) * 3
    orientation: str | None = None

    def facts(self) -> dict[str, Fact]:
        columns, rows, slices = (*self.size, 1)[:3]
        along_columns, along_rows, along_slices = (*self.spacing, math.nan)[:3]
        return {
            "file_format": self.file_format,
            "pixel_mode": self.pixel_mode,
            "bit_depth": float(self.bit_depth),
            "rows": float(rows),
            "columns": float(columns),
            "aspect_ratio": columns / rows,
            "n_slices": float(slices),
            "spacing_rows_mm": along_rows,
            "spacing_columns_mm": along_columns,
            "spacing_slices_mm": along_slices,
            "orientation": self.orientation,
            "file_bytes": float(self.file_bytes),
        }


def _plain_header(path: Path) -> _Header:
    """Header of a PNG or JPEG; a photograph that is to be shown turned has its shown size."""
    with Image.open(path) as opened:
        turned = opened.getexif().get(_EXIF_ORIENTATION) in _SWAPPED_BY_EXIF
        bits = 16 if opened.mode.startswith("I") else 1 if opened.mode == "1" else 8
        size = opened.size[::-1] if turned else opened.size
        return _Header((opened.format or "").lower(), opened.mode, bits, size, path.stat().st_size)


def _scan_header(path: Path) -> _Header:
    """Header of a volume, of one DICOM file, or of a folder with one DICOM series."""
    names = [str(path)]
    if path.is_dir():
        series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path))
        if len(series) != 1:
            raise ValueError(f"expected one DICOM series in the folder, found {len(series)}")
        names = [str(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path), series[0])]
    first = _reader(names[0])
    dims = first.GetDimension()
    size, spacing = first.GetSize(), first.GetSpacing()
    direction = np.reshape(first.GetDirection(), (dims, dims))
    if len(names) > 1:
        step = np.subtract(_reader(names[1]).GetOrigin(), first.GetOrigin())
        size, spacing = (*size[:2], len(names)), (*spacing[:2], abs(float(step @ direction[:, 2])))
    orientation = None
    if dims > 2:
        letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(direction[:3, :3].ravel().tolist())
        orientation = str(letters)
    mode, bits = _stored_type(first)
    stored = sum(Path(name).stat().st_size for name in names)
    kind = "dicom" if _is_dicom(first) else "".join(path.suffixes[-2:] if path.suffix == ".gz" else [path.suffix])
    return _Header(kind.lower().lstrip("."), mode, bits, size, stored, spacing, orientation)


def _reader(name: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.ReadImageInformation()
    return reader


def _is_dicom(header: sitk.ImageFileReader) -> bool:
    return "0028|0101" in header.GetMetaDataKeys()


def _stored_type(header: sitk.ImageFileReader) -> tuple[str, int]:
    """How a pixel is stored, and its bits."""
    if _is_dicom(header):
        known = header.GetMetaDataKeys()
        mode = header.GetMetaData("0028|0004").strip() if "0028|0004" in known else ""
        return mode, int(header.GetMetaData("0028|0101"))
    pixel = header.GetPixelID()
    bits = 8 * sitk.Image([1, 1], pixel, header.GetNumberOfComponents()).GetSizeOfPixelComponent()
    return sitk.GetPixelIDValueAsString(pixel), bits


def _grey_values(path: Path, index: int | None, header: _Header, case_id: str | None) -> np.ndarray:
    """Grey values (rows, columns) of a slice or (slices, rows, columns) of a volume, in canonical orientation."""
    depth = header.size[2] if len(header.size) > 2 else 1
    if index is not None or depth == 1:
        return to_grey(read_slice(path, index, case_id=case_id).values)
    image = read_image(path, case_id=case_id)
    broken = nonfinite_voxels(path, image)
    if broken is not None:
        raise InputError(
            f"{int(broken.sum())} voxels are NaN or infinite.",
            advice="Replace them before use.",
            case_id=case_id,
            path=path,
        )
    return orientation_of(image).apply(to_array(image))


def array_facts(array: np.ndarray, *, case_id: str | None = None) -> dict[str, Fact]:
    """Facts of the pixels of an image that is in memory.

    Parameters
    ----------
    array : ndarray, shape (rows, columns) or (slices, rows, columns)
        Finite grey values in any unit.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    dict
        :data:`PIXEL_FACTS`. ``mean_grey``, ``min_grey`` and ``max_grey`` are in the unit of the values, all others do
        not depend on it. ``border_share``: share of the pixels outside :func:`border_box`. ``background_share``: share
        of the pixels that are among the darkest (:data:`BACKGROUND`). ``corner_...``: mean brightness of a corner from
        0 to 1 on the scale of the image's own percentiles; text and marks that are burned in raise it.

    Raises
    ------
    InputError
        For another number of dimensions, and for NaN or infinity.
    """
    values = _checked(array, case_id)
    low, high = float(values.min()), float(values.max())
    greys: dict[str, Fact] = {"mean_grey": float(values.mean(dtype=np.float64)), "min_grey": low, "max_grey": high}
    if low == high:
        return greys | {"border_share": 1.0, "background_share": 1.0} | {f"corner_{name}": 0.0 for name in CORNERS}
    inner = math.prod(part.stop - part.start for part in border_box(values))
    dark, bright = robust_limits(values)
    shares: dict[str, Fact] = {
        "border_share": 1 - inner / values.size,
        "background_share": _background_share(values),
    }
    corners: dict[str, Fact] = {
        f"corner_{name}": float(scaled(values[corner_box(values.shape, name)], dark, bright).mean(dtype=np.float64) + 1)
        / 2
        for name in CORNERS
    }
    return greys | shares | corners


def _background_share(values: np.ndarray) -> float:
    darkest, brightest = np.percentile(values, PERCENTILES)
    return float(np.mean(values <= darkest + BACKGROUND * (brightest - darkest)))


def _checked(array: np.ndarray, case_id: str | None = None) -> np.ndarray:
    values = np.asarray(array)
    if values.ndim not in (2, 3) or not values.size:
        raise InputError(
            f"Expected an image of rows and columns, or of slices, rows and columns; found shape {values.shape}.",
            advice="Turn colours into grey values with to_grey.",
            case_id=case_id,
        )
    if not np.isfinite(values).all():
        raise InputError("The image holds NaN or infinity.", advice="Replace them before use.", case_id=case_id)
    return values


def to_grey(array: np.ndarray) -> np.ndarray:
    """Bring a slice to the common mode: one grey value (luma, ITU-R BT.601) per pixel.

    Parameters
    ----------
    array : ndarray, shape (rows, columns), (1, rows, columns) or (3, rows, columns)
        Grey values, or red, green and blue, as :func:`hybrid.deep.classification.inputs.read_slice` gives them.

    Returns
    -------
    ndarray of float32, shape (rows, columns)
        Grey values.

    Raises
    ------
    InputError
        For any other shape.
    """
    values = np.asarray(array, dtype=np.float32)
    if values.ndim == 3 and values.shape[0] == 3:
        return luma(values)[0]
    if values.ndim == 3 and values.shape[0] == 1:
        return values[0]
    if values.ndim != 2:
        raise InputError(
            f"Expected grey values, or red, green and blue; found shape {values.shape}.",
            advice="Read the file with read_slice.",
        )
    return values


def border_box(array: np.ndarray, *, tolerance: float = BORDER_TOLERANCE) -> tuple[slice, ...]:
    """Box inside the constant frame of an image: black bars, padding, a white margin.

    From each side, lines (in a volume: planes) are left out as long as all their values equal the outermost line's
    median; sides may have different values.

    Parameters
    ----------
    array : ndarray, shape (rows, columns) or (slices, rows, columns)
        Grey values in any unit.
    tolerance : float
        Largest difference that counts as equal, as a share of the range from the minimum to the 99.5th percentile.

    Returns
    -------
    tuple of slice
        Index of the box. The whole image when it is constant.

    Raises
    ------
    InputError
        For another number of dimensions, NaN or infinity, or a tolerance outside 0 to 1.
    """
    values = _checked(array)
    if not 0 <= tolerance < 1:
        raise InputError(f"The tolerance must be at least 0 and below 1; found {tolerance}.", advice="Use 0.03.")
    limit = tolerance * float(np.percentile(values, _BRIGHTEST) - values.min())
    box = [(0, n) for n in values.shape]
    changed = True
    while changed:
        changed = False
        for axis in range(values.ndim):
            first, last = _constant_lines(values[tuple(slice(*ends) for ends in box)], axis, limit)
            start, stop = box[axis][0] + first, box[axis][1] - last
            if start >= stop:
                return tuple(slice(0, n) for n in values.shape)
            changed |= (start, stop) != box[axis]
            box[axis] = (start, stop)
    return tuple(slice(*ends) for ends in box)


def _constant_lines(values: np.ndarray, axis: int, limit: float) -> tuple[int, int]:
    """Constant lines at the beginning and at the end of an axis."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    lowest, highest = (extreme(values, axis=others).astype(np.float64) for extreme in (np.min, np.max))

    def leading(low: np.ndarray, high: np.ndarray, outermost: np.ndarray) -> int:
        centre = float(np.median(outermost))
        differs = (low < centre - limit) | (high > centre + limit)
        return int(differs.argmax()) if differs.any() else differs.size

    return (
        leading(lowest, highest, values.take(0, axis)),
        leading(lowest[::-1], highest[::-1], values.take(-1, axis)),
    )


def crop_border(array: np.ndarray, *, tolerance: float = BORDER_TOLERANCE) -> np.ndarray:
    """Cut off the constant frame of an image; see :func:`border_box`. A view, no copy."""
    return np.asarray(array)[border_box(array, tolerance=tolerance)]


def corner_box(shape: Sequence[int], name: str) -> tuple[Any, ...]:
    """Index of a corner (see :data:`CORNERS`) in the last two axes of an image.

    Raises
    ------
    InputError
        For an unknown corner.
    """
    if name not in CORNERS:
        raise unknown_name("corner", name, CORNERS)
    parts = []
    for n, side in zip(shape[-2:], CORNERS[name], strict=True):
        width = max(1, n // CORNER)
        parts.append(slice(0, width) if side == 0 else slice(n - width, n))
    return (..., *parts)


def blank_corners(array: np.ndarray, corners: Sequence[str] = tuple(CORNERS)) -> np.ndarray:
    """Fill corners with the image's smallest value, so that marks burned into them are gone.

    Blank the same corners of all images, of every class: a blank corner is a mark of its own.

    Parameters
    ----------
    array : ndarray, shape (rows, columns) or (slices, rows, columns)
        Grey values.
    corners : sequence of str
        Names in :data:`CORNERS`.

    Returns
    -------
    ndarray
        A copy.

    Raises
    ------
    InputError
        For an unknown corner, another number of dimensions, NaN or infinity.
    """
    values = _checked(array).copy()
    darkest = values.min()
    for name in corners:
        values[corner_box(values.shape, name)] = darkest
    return values


def neutralise(
    array: np.ndarray,
    size: Sequence[int],
    *,
    spacing: Sequence[float] | None = None,
    fit: Literal["stretch", "pad"] = "stretch",
    crop: bool = True,
    corners: Sequence[str] = (),
    case_id: str | None = None,
) -> np.ndarray:
    """Make an image equal to all others in mode, border, size and intensity scale.

    Corners are blanked, the constant border is cut off, the image's own percentiles
    (:func:`hybrid.deep.classification.inputs.robust_limits`) are mapped to -1 and 1, and the rest fills the grid.

    Parameters
    ----------
    array : ndarray
        For a slice (two numbers in ``size``) as :func:`to_grey` takes it, for a volume (slices, rows, columns).
    size : sequence of int
        Rows and columns, or slices, rows and columns, of the result.
    spacing : sequence of float, optional
        Size of a pixel along the axes of the image (mm); used with ``fit="pad"`` only. Default: square pixels.
    fit : {"stretch", "pad"}
        ``"pad"`` keeps the proportions and adds a border of -1, which tells the proportions of the source;
        ``"stretch"`` adds none.
    crop : bool
        Whether the constant border is cut off.
    corners : sequence of str
        Corners to blank, see :func:`blank_corners`.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    ndarray of float32, shape ``size``
        Values from -1 to 1.

    Raises
    ------
    InputError
        When shape and size do not fit together, and for an image that is constant or not finite.

    Examples
    --------
    >>> ramp = np.pad(np.arange(60.0).reshape(6, 10), 5)
    >>> neutralise(ramp, (8, 8)).shape
    (8, 8)
    """
    if fit not in ("stretch", "pad"):
        raise unknown_name("fit", fit, ("stretch", "pad"))
    values = _checked(to_grey(array) if len(size) == 2 else array, case_id)
    if values.ndim != len(size) or min(size) < 1:
        raise InputError(
            f"An image of shape {values.shape} needs as many sizes of at least 1; found {tuple(size)}.",
            advice="Give rows and columns for a slice; slices, rows and columns for a volume.",
            case_id=case_id,
        )
    if corners:
        values = blank_corners(values, corners)
    if crop:
        values = crop_border(values)
    limits = robust_limits(values, case_id=case_id)
    steps = spacing if spacing is not None else (1.0,) * values.ndim
    inner = inner_shape(values.shape, steps, size, fit)
    if values.ndim == 2:
        return centred(scaled(resize(values[None], (1, *inner)), *limits), size)[0]
    return centred(scaled(resize(values, inner), *limits)[None], size)[0]
