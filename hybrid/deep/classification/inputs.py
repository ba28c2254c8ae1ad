"""From an image file to the array that a classifier sees: volumes for 3D networks, single slices for 2D ones.

Both kinds are small frozen values that are written into ``model.json``, so that a new image is prepared exactly as the
training images were. Where intensities have no agreed unit they are scaled by the image's own percentiles: a shift or a
factor of the stored values (another scanner, another export) must not give the class away.

Files of slices, and the rules for what they do not say:

=====================  =================================================================================================
file                   rule
=====================  =================================================================================================
NIfTI, NRRD, series    ``slice`` counts from 0 along the third stored axis (for a DICOM series: along the slice normal);
                       rows and columns are turned to the canonical order, posterior and left, so that the two agree
DICOM without rescale  slope 1; intercept 0, or ``SliceInput.rescale``. A CT slice without an intercept and without a
                       negative value is refused in ``intensity="ct"``: its values are not in HU
DICOM ``MONOCHROME1``  inverted by the reader (GDCM), so that bright is bright as in ``MONOCHROME2``; with
                       ``intensity="ct"`` the inversion is undone, because HU do not depend on how they are displayed
PNG, JPEG              8 or 16 bits; transparency is laid over black, colours become luma (ITU-R BT.601) unless
                       ``colour=True``; they hold no HU, so that ``intensity="ct"`` refuses them
=====================  =================================================================================================
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import SimpleITK as sitk
from PIL import Image, ImageOps

from hybrid.deep.segmentation.geometry import resize
from hybrid.errors import InputError, unknown_name
from hybrid.images import nonfinite_voxels, orientation_of, read_image, to_array

CT_WINDOWS: Final[dict[str, tuple[float, float]]] = {
    "brain": (40.0, 80.0),
    "subdural": (80.0, 200.0),
    "bone": (600.0, 2800.0),
    "soft_tissue": (40.0, 400.0),
    "lung": (-600.0, 1500.0),
}
"""Level and width (HU) of the windows in which radiologists read CT."""

PERCENTILES: Final = (0.5, 99.5)
"""Percentiles of the voxels above the image's minimum that map to -1 and 1 with ``intensity="robust"``."""

MAX_SAMPLES: Final = 2**23
"""Voxels, at most twice, that the percentiles are computed from."""

FITS: Final = ("stretch", "pad")
"""``"stretch"`` fills the grid; ``"pad"`` keeps the proportions (mm) and fills the rest with the darkest value."""

PLAIN_SUFFIXES: Final = (".png", ".jpg", ".jpeg")

Fit = Literal["stretch", "pad"]
Windows = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class VolumeInput:
    """How a whole volume becomes the input of a 3D network.

    Parameters
    ----------
    size : tuple of int
        Voxels towards superior, posterior and left (z, y, x); every volume is resampled to it.
    intensity : {"robust", "ct"}
        ``"robust"``: the percentiles :data:`PERCENTILES` of the voxels above the minimum map to -1 and 1, whatever the
        unit. ``"ct"``: one channel for each of ``windows``, in HU.
    windows : tuple of (float, float)
        Level and width (HU), see :data:`CT_WINDOWS`; each maps to -1 to 1.
    fit : {"stretch", "pad"}
        See :data:`FITS`.
    geometry : bool
        Add three constant channels, log2(voxel size of the grid in mm) / 2 along z, y and x. Off by default: scanners
        and protocols differ in voxel size, and a network can learn those in place of the disease.
    """

    size: tuple[int, int, int] = (64, 64, 64)
    intensity: str = "robust"
    windows: Windows = (CT_WINDOWS["soft_tissue"],)
    fit: Fit = "stretch"
    geometry: bool = False

    def __post_init__(self) -> None:
        _check_input(self, dims=3, intensities=("robust", "ct"))

    @property
    def constant_channels(self) -> int:
        """Channels at the end that hold one value each and are never augmented."""
        return 3 * self.geometry

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the prepared array: channels, z, y, x."""
        own = len(self.windows) if self.intensity == "ct" else 1
        return (own + self.constant_channels, *self.size)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``model.json``."""
        return {"kind": "volume", **_plain(asdict(self))}

    def read(self, path: str | Path, index: int | None = None, *, case_id: str | None = None) -> np.ndarray:
        """Read and prepare a file; see :meth:`prepare`. ``index`` must be None: a volume is not cut into slices.

        Raises
        ------
        InputError
            When the file cannot be read, is no volume, holds NaN or infinity, or has one value only.
        """
        if index is not None:
            raise InputError(
                f"A volume has no slice number; found {index}.", advice='Use task="slice".', case_id=case_id
            )
        image = read_image(path, case_id=case_id)
        _refuse_nonfinite(path, image, case_id)
        return self.prepare(image, case_id=case_id)

    def prepare(self, image: sitk.Image, *, case_id: str | None = None) -> np.ndarray:
        """Prepare an image.

        Parameters
        ----------
        image : SimpleITK.Image
            Any orientation, voxel size and unit.
        case_id : str, optional
            Named in errors.

        Returns
        -------
        ndarray of float32, shape (channels, z, y, x)
            In canonical orientation.
        """
        if image.GetDimension() != 3 or min(image.GetSize()) < 2:
            raise InputError(
                f"A 3D classifier needs a volume; found {' × '.join(map(str, image.GetSize()))} voxels.",
                advice='Give the whole series, or use task="slice".',
                case_id=case_id,
            )
        orientation = orientation_of(image)
        spacing = np.array(orientation.triple(tuple(image.GetSpacing()[::-1])))
        source = orientation.apply(to_array(image))
        inner = inner_shape(source.shape, spacing, self.size, self.fit)
        if self.intensity == "ct":
            values = windowed(resize(source, inner), self.windows)
        else:
            limits = robust_limits(source, case_id=case_id)
            values = scaled(resize(source, inner), *limits)[None]
        padded = centred(values, self.size)
        if not self.geometry:
            return padded
        voxel = np.log2(spacing * source.shape / inner) / 2
        constant = [np.full(self.size, size, np.float32) for size in voxel]
        return np.concatenate([padded, np.stack(constant)])


@dataclass(frozen=True)
class SliceInput:
    """How one slice, radiograph or photograph becomes the input of a 2D network.

    Parameters
    ----------
    size : tuple of int
        Rows and columns; every image is resampled to it.
    intensity : {"ct", "display", "robust"}
        ``"ct"``: one channel for each of ``windows``, in HU (NIfTI or DICOM). ``"display"``: the range that the file's
        bits can hold maps to -1 to 1 (PNG, JPEG, DICOM). ``"robust"``: see :class:`VolumeInput`; any file.
    windows : tuple of (float, float)
        Level and width (HU), see :data:`CT_WINDOWS`; default: brain, subdural and bone.
    colour : bool
        Three channels red, green, blue; not with ``"ct"``.
    fit : {"pad", "stretch"}
        See :data:`FITS`.
    rescale : (float, float), optional
        Slope and intercept of DICOM files that hold none, for example ``(1, -1024)``.
    neighbours : int
        So many slices below and above are added as further channels, from below to above, in the first window (or
        grey values): what continues is anatomy or a lesion, what does not is noise. At the ends of the scan the last
        slice is repeated. Files with one slice are refused then.
    crop_border : bool
        Cut off the constant frame of every slice (see :func:`hybrid.shortcuts.border_box`) before it is resampled:
        black bars and margins of exported pictures can give the class away.
    """

    size: tuple[int, int] = (224, 224)
    intensity: str = "ct"
    windows: Windows = (CT_WINDOWS["brain"], CT_WINDOWS["subdural"], CT_WINDOWS["bone"])
    colour: bool = False
    fit: Fit = "pad"
    rescale: tuple[float, float] | None = None
    neighbours: int = 0
    crop_border: bool = False

    def __post_init__(self) -> None:
        _check_input(self, dims=2, intensities=("ct", "display", "robust"))
        if self.colour and self.intensity == "ct":
            raise InputError("CT windows have no colours.", advice='Use intensity="display" for colour images.')
        if self.neighbours not in range(6) or (self.neighbours and self.colour):
            raise InputError(f"Expected 0 to 5 neighbours, and none with colours; found {self.neighbours}.")
        if self.rescale is not None and (len(self.rescale) != 2 or self.rescale[0] <= 0):
            raise InputError(f"Expected rescale=(slope, intercept) with a slope above 0; found {self.rescale}.")

    @property
    def constant_channels(self) -> int:
        """Channels that hold one value each: none."""
        return 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the prepared array: channels, rows, columns."""
        own = len(self.windows) if self.intensity == "ct" else 1
        return ((3 if self.colour else own) + 2 * self.neighbours, *self.size)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``model.json``."""
        return {"kind": "slice", **_plain(asdict(self))}

    def read(self, path: str | Path, index: int | None = None, *, case_id: str | None = None) -> np.ndarray:
        """Read and prepare one slice of a file.

        Parameters
        ----------
        path : path-like
            PNG, JPEG, one DICOM file, a folder with one DICOM series, NIfTI, NRRD or MetaImage.
        index : int, optional
            Slice of a volume, counted from 0; needed when the file holds several.
        case_id : str, optional
            Named in errors.

        Returns
        -------
        ndarray of float32, shape (channels, rows, columns)
            See the table at the top of this module.

        Raises
        ------
        InputError
            When the file cannot be read, the slice does not exist, or the values cannot be brought to the wanted unit.
        """
        own = read_slice(path, index, case_id=case_id)
        if not self.neighbours:
            return self._normalised(own, case_id)
        return self._beside(own, index, slice_count(path), lambda n: read_slice(path, n, case_id=case_id), case_id)

    def prepare(self, image: sitk.Image, index: int | None = None, *, case_id: str | None = None) -> np.ndarray:
        """Prepare a slice of an image that is in memory (HU for ``"ct"``), see :meth:`read`."""
        own = cut_slice(image, index, case_id=case_id)
        if not self.neighbours:
            return self._normalised(own, case_id)
        count = image.GetDepth() if image.GetDimension() == 3 else 1
        return self._beside(own, index, count, lambda n: cut_slice(image, n, case_id=case_id), case_id)

    def part(self, source: Slice) -> tuple[slice, slice]:
        """Rows and columns of a slice that are used: all, or those inside its constant frame."""
        if not self.crop_border:
            return slice(0, source.values.shape[1]), slice(0, source.values.shape[2])
        from hybrid.shortcuts import border_box

        rows, columns = border_box(source.values.mean(axis=0))
        return rows, columns

    def _beside(
        self, own: Slice, index: int | None, count: int, cut: Callable[[int], Slice], case_id: str | None
    ) -> np.ndarray:
        """Prepare a slice and add the first channel of those below and above, cut out at the same place."""
        if count < 2 or index is None:
            raise InputError(
                "Neighbouring slices are wanted, and the file holds a single one.",
                advice="Give the whole scan, or use SliceInput(neighbours=0).",
                case_id=case_id,
            )
        part = self.part(own)
        steps = [step for step in range(-self.neighbours, self.neighbours + 1) if step]
        places = [min(max(index + step, 0), count - 1) for step in steps]
        others = [self._normalised(cut(place), case_id, part)[:1] for place in places]
        return np.concatenate([self._normalised(own, case_id, part), *others])

    def _normalised(self, source: Slice, case_id: str | None, part: tuple[slice, slice] | None = None) -> np.ndarray:
        rows, columns = self.part(source) if part is None else part
        values = source.values[:, rows, columns]
        if not self.colour and values.shape[0] == 3:
            values = luma(values)
        inner = (len(values), *inner_shape(values.shape[1:], source.spacing, self.size, self.fit))
        if self.intensity == "ct":
            values = windowed(resize(self._in_hu(source, values, case_id), inner)[0], self.windows)
        else:
            known = self.intensity == "display"
            limits = _known_limits(source, case_id) if known else robust_limits(values, case_id=case_id)
            values = scaled(resize(values, inner), *limits)
        if self.colour and values.shape[0] == 1:
            values = np.repeat(values, 3, axis=0)
        return centred(values, self.size)

    def _in_hu(self, source: Slice, values: np.ndarray, case_id: str | None) -> np.ndarray:
        place: dict[str, Any] = {"case_id": case_id, "path": source.path}
        if source.is_plain:
            raise InputError(
                "A PNG or JPEG holds grey values, not HU, so that CT windows cannot be applied.",
                advice='Use SliceInput(intensity="display"), or the DICOM or NIfTI files.',
                **place,
            )
        if source.modality not in ("", "CT"):
            raise InputError(
                f"CT windows need HU; the file's modality is {source.modality}.",
                advice='Use SliceInput(intensity="robust").',
                **place,
            )
        if source.is_inverted and source.limits is not None:
            values = np.float32(sum(source.limits)) - values
        if not source.is_dicom or source.has_rescale:
            return values
        if self.rescale is not None:
            return values * np.float32(self.rescale[0]) + np.float32(self.rescale[1])
        if source.values.min() >= 0:
            raise InputError(
                "The DICOM file has no rescale intercept and no negative value, so that its values are not in HU.",
                advice="Say what was left out, for example SliceInput(rescale=(1, -1024)).",
                **place,
            )
        return values


ImageInput = VolumeInput | SliceInput


@dataclass(frozen=True)
class Slice:
    """One slice as it was read.

    Attributes
    ----------
    values : ndarray of float32, shape (1 or 3, rows, columns)
        Stored values after the file's own rescaling.
    spacing : tuple of float
        Pixel size (rows, columns) in mm; 1 where the file has none.
    limits : tuple of float, optional
        Smallest and largest value that the file's bits can hold, in the unit of ``values``.
    modality : str
        DICOM modality, or an empty text.
    is_dicom, has_rescale, is_inverted : bool
        Whether the file is DICOM, holds a rescale intercept, and was inverted by the reader (``MONOCHROME1``).
    path : Path, optional
        The file.
    """

    values: np.ndarray
    spacing: tuple[float, float] = (1.0, 1.0)
    limits: tuple[float, float] | None = None
    modality: str = ""
    is_dicom: bool = False
    has_rescale: bool = False
    is_inverted: bool = False
    path: Path | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the file is a PNG or JPEG, which has no unit."""
        return self.path is not None and self.path.suffix.lower() in PLAIN_SUFFIXES


def read_slice(path: str | Path, index: int | None = None, *, case_id: str | None = None) -> Slice:
    """Read one slice of any supported file, see the table at the top of this module.

    Raises
    ------
    InputError
        When the file is missing, damaged or of another kind, holds NaN or infinity, or has no such slice.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("The file does not exist.", advice="Check the path in the table.", case_id=case_id, path=path)
    if path.suffix.lower() in PLAIN_SUFFIXES:
        if index not in (None, 0):
            raise InputError(f"The file is a single image; found slice {index}.", case_id=case_id, path=path)
        return _read_plain(path, case_id)
    status = path.stat()
    try:
        opened = _opened(path, (status.st_mtime_ns, status.st_size))
    except InputError as error:
        raise InputError(error.message, advice=error.advice, case_id=case_id, path=path) from error
    found = cut_slice(opened.image, index, case_id=case_id, path=path)
    said = {name: getattr(opened, name) for name in ("limits", "modality", "is_dicom", "has_rescale", "is_inverted")}
    return replace(found, **said)


def slice_count(path: str | Path) -> int:
    """Slices of a file; 1 for a PNG or JPEG."""
    path = Path(path)
    if path.suffix.lower() in PLAIN_SUFFIXES:
        return 1
    status = path.stat()
    image = _opened(path, (status.st_mtime_ns, status.st_size)).image
    return image.GetDepth() if image.GetDimension() == 3 else 1


def cut_slice(
    image: sitk.Image, index: int | None = None, *, case_id: str | None = None, path: Path | None = None
) -> Slice:
    """Slice ``index`` of an image along its third stored axis, rows and columns in canonical order.

    Raises
    ------
    InputError
        When the image is neither 2D nor 3D, the slice does not exist, or none is named although there are several.
    """
    place: dict[str, Any] = {"case_id": case_id, "path": path}
    if image.GetDimension() == 2:
        image = sitk.JoinSeries([image])
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() not in (1, 3):
        raise InputError(
            f"Expected slices of grey values or of three colours; found {image.GetDimension()} dimensions and "
            f"{image.GetNumberOfComponentsPerPixel()} values per pixel.",
            **place,
        )
    chosen = _slice_number(index, image.GetDepth(), place)
    # A view: SimpleITK's own slicing takes 6 ms.
    plane = sitk.GetArrayViewFromImage(image)[chosen].astype(np.float32)
    plane = plane.reshape(*plane.shape[:2], -1)
    orientation = orientation_of(image)
    axes = [(axis - 1, flip) for axis, flip in zip(orientation.order, orientation.flips, strict=True) if axis > 0]
    turned = np.flip(plane.transpose(axes[0][0], axes[1][0], 2), tuple(i for i in (0, 1) if axes[i][1]))
    sizes = image.GetSpacing()[1::-1]
    return Slice(turned.transpose(2, 0, 1), (sizes[axes[0][0]], sizes[axes[1][0]]), path=path)


def _slice_number(index: int | None, count: int, place: Mapping[str, Any]) -> int:
    if index is None and count > 1:
        raise InputError(
            f"The file holds {count} slices, and none is named.",
            advice="Fill the column 'slice' (counted from 0).",
            **place,
        )
    chosen = index or 0
    if not 0 <= chosen < count:
        raise InputError(
            f"Expected a slice from 0 to {count - 1}; found {chosen}.", advice="Slices are counted from 0.", **place
        )
    return chosen


def input_from_dict(values: Mapping[str, Any]) -> ImageInput:
    """Rebuild an input from its ``to_dict()``.

    Raises
    ------
    InputError
        For an unknown kind or field.
    """
    kinds: dict[str, type[ImageInput]] = {"volume": VolumeInput, "slice": SliceInput}
    if values.get("kind") not in kinds:
        raise unknown_name("kind of input", values.get("kind"), kinds)
    kind = kinds[values["kind"]]
    known = [field.name for field in fields(kind)]
    for name in values:
        if name not in (*known, "kind"):
            raise unknown_name("input setting", name, known)
    return kind(**{name: _tuples(value) for name, value in values.items() if name != "kind"})


def inner_shape(
    shape: Sequence[int], spacing: Sequence[float] | np.ndarray, size: Sequence[int], fit: str
) -> tuple[int, ...]:
    """Voxels that an image takes inside the grid: all of them, or as many as its proportions (mm) allow."""
    if fit == "stretch":
        return tuple(size)
    extent = np.asarray(shape) * np.asarray(spacing)
    return tuple(int(n) for n in np.clip(np.round(extent * (np.asarray(size) / extent).min()), 1, size))


def centred(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Array of shape (channels, ...) in the middle of a grid of ``size``; -1, the darkest value, around it."""
    extra = [wanted - n for wanted, n in zip(size, array.shape[1:], strict=True)]
    pads = [(0, 0), *((n // 2, n - n // 2) for n in extra)]
    return np.ascontiguousarray(np.pad(array, pads, constant_values=-1.0), dtype=np.float32)


def luma(values: np.ndarray) -> np.ndarray:
    """Grey values of an array (3, ...) of red, green and blue: ITU-R BT.601."""
    return np.tensordot(np.array([0.299, 0.587, 0.114], np.float32), values, axes=1)[None]


def window(values: np.ndarray, level: float, width: float) -> np.ndarray:
    """Map a CT window (HU) to -1 to 1; values outside are clipped."""
    return np.clip((values - np.float32(level)) / np.float32(width / 2), -1.0, 1.0)


def windowed(values: np.ndarray, windows: Windows) -> np.ndarray:
    """One channel for each window of an array (HU), see :func:`window`."""
    return np.stack([window(values, *pair) for pair in windows])


def robust_limits(values: np.ndarray, *, case_id: str | None = None) -> tuple[float, float]:
    """Percentiles :data:`PERCENTILES` of the values above the minimum.

    They follow any change of unit (factor above 0, shift). They must be read before resampling, which turns a constant
    background into one with rounding noise. Of large volumes every n-th voxel is looked at.

    Raises
    ------
    InputError
        When all values are equal.
    """
    looked = values.ravel()[:: max(1, values.size // MAX_SAMPLES)]
    above = looked[looked > looked.min()]
    if not above.size:
        raise InputError(
            f"The image is empty: every value is {float(looked[0]):g}.",
            advice="Leave it out, or export it again.",
            case_id=case_id,
        )
    low, high = (float(limit) for limit in np.percentile(above, PERCENTILES))
    # Of an image with two values only one is above the minimum.
    return (low, high) if high > low else (float(looked.min()), high)


def scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map ``low`` to -1 and ``high`` to 1; values outside are clipped."""
    half = (high - low) / 2
    return np.clip((values - np.float32(low)) / np.float32(half) - 1, -1.0, 1.0)


def _refuse_nonfinite(path: str | Path, image: sitk.Image, case_id: str | None = None) -> None:
    broken = nonfinite_voxels(path, image)
    if broken is not None:
        raise InputError(
            f"{int(broken.sum())} voxels are NaN or infinite.",
            advice="Replace them before use.",
            case_id=case_id,
            path=path,
        )


def _known_limits(source: Slice, case_id: str | None) -> tuple[float, float]:
    if source.limits is None:
        raise InputError(
            "The file does not say which range its values may have.",
            advice='Use SliceInput(intensity="robust") or "ct".',
            case_id=case_id,
            path=source.path,
        )
    return source.limits


@dataclass(frozen=True)
class _Opened:
    """A file of slices, and what its header says."""

    image: sitk.Image
    limits: tuple[float, float] | None = None
    modality: str = ""
    is_dicom: bool = False
    has_rescale: bool = False
    is_inverted: bool = False


@functools.lru_cache(maxsize=2)
def _opened(path: Path, stamp: tuple[int, int]) -> _Opened:
    """Open a file; kept, because the slices of one scan are read one after the other."""
    try:
        if path.is_dir():
            image = read_image(path)
            header = _header(sorted(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(path)))[0])
        else:
            header = _header(str(path))
            whole = header.GetDimension() > 2 and header.GetNumberOfComponents() == 1
            image = read_image(path) if whole else sitk.ReadImage(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "unknown reason"
        raise InputError(
            f"The image cannot be read ({reason}).", advice="Open it in a viewer and export it again.", path=path
        ) from error
    _refuse_nonfinite(path, image)
    if "0028|0101" not in header.GetMetaDataKeys():
        return _Opened(image)
    return _Opened(
        image,
        _stored_limits(header),
        _tag(header, "0008|0060"),
        is_dicom=True,
        has_rescale=bool(_tag(header, "0028|1052")),
        is_inverted=_tag(header, "0028|0004") == "MONOCHROME1",
    )


def _header(name: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.ReadImageInformation()
    return reader


def _tag(header: sitk.ImageFileReader, key: str) -> str:
    return header.GetMetaData(key).strip() if key in header.GetMetaDataKeys() else ""


def _stored_limits(header: sitk.ImageFileReader) -> tuple[float, float]:
    """Range of a DICOM file's stored bits, rescaled as the reader rescales the values."""
    bits, signed = int(_tag(header, "0028|0101")), _tag(header, "0028|0103") == "1"
    slope, intercept = float(_tag(header, "0028|1053") or 1), float(_tag(header, "0028|1052") or 0)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return low * slope + intercept, high * slope + intercept


def _read_plain(path: Path, case_id: str | None) -> Slice:
    """Read a PNG or JPEG with Pillow, which refuses cut-off files; ITK fills them and has no grey with transparency."""
    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):
                return Slice(np.asarray(image, np.float32)[None], limits=(0.0, 65535.0), path=path)
            if image.has_transparency_data:
                black = Image.new("RGBA", image.size, (0, 0, 0, 255))
                image = Image.alpha_composite(black, image.convert("RGBA"))
            values = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"), np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(
            f"The image cannot be read ({error}).", advice="Export it again.", case_id=case_id, path=path
        ) from error
    return Slice(np.atleast_3d(values).transpose(2, 0, 1), limits=(0.0, 255.0), path=path)


def _check_input(value: ImageInput, *, dims: int, intensities: Sequence[str]) -> None:
    if len(value.size) != dims or min(value.size) < 8 or any(int(n) != n for n in value.size):
        raise InputError(f"Expected size as {dims} whole numbers of at least 8; found {value.size}.")
    if value.intensity not in intensities:
        raise unknown_name("intensity", value.intensity, intensities)
    if value.fit not in FITS:
        raise unknown_name("fit", value.fit, FITS)
    if not value.windows or any(len(pair) != 2 or pair[1] <= 0 for pair in value.windows):
        raise InputError(f"Expected windows as pairs (level, width) with a width above 0; found {value.windows}.")


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _lists(value) for name, value in values.items()}


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
