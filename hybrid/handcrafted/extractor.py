"""PyRadiomics features of one case: the values of a direct PyRadiomics call, several times faster.

Nearly all of PyRadiomics' time goes into filters, checks and checksums over the whole image, although features look at
the region of interest only. Here each filter receives the region with as much margin as it needs to return the very
same numbers; where no margin is enough (filters that rescale by the image's maximum) it receives the whole image.
Everything that computes a number is PyRadiomics' own code.

Reference: van Griethuysen et al., Cancer Research 2017, https://doi.org/10.1158/0008-5472.CAN-17-0339
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk

from hybrid.errors import GeometryError, HybridError, InputError
from hybrid.images import align_mask, compare_geometry, labels_in, to_array
from hybrid.tables import HANDCRAFTED_PREFIX

from .backend import load_radiomics, quiet_radiomics
from .settings import HandcraftedSettings, load_settings

SettingsSource = str | Path | Mapping[str, Any] | HandcraftedSettings

LOG_MARGIN_SIGMA: Final = 24.0
"""Margin around the region for the Laplacian of Gaussian, in multiples of sigma.

The filter is recursive: what lies outside fades by exp(-1.7) per sigma, below double precision from 21 sigma on.
"""

GRADIENT_MARGIN: Final = 2
"""Margin for the gradient magnitude (voxels); its central differences reach one voxel."""

FEW_BINS: Final = 16
MANY_BINS: Final = 128
"""Range of grey-level counts in which texture matrices are neither flat nor nearly empty."""

MOST_BINS: Final = 3000
"""More grey levels than this are refused: the co-occurrence matrices alone would take a gigabyte per image."""

TEXTURES: Final = frozenset({"glcm", "glrlm", "glszm", "gldm", "ngtdm"})

BIN_COLUMNS: Final = ("image_filter", "n_bins", "n_levels", "minimum", "maximum", "voxels", "warning")


@dataclass(frozen=True)
class RegionFeatures:
    """Features of all regions of one case.

    Attributes
    ----------
    rows : list of dict
        One per region: ``roi_label`` and the features.
    failures : dict of int to InputError
        Why a label has no row.
    """

    rows: list[dict[str, float | int]] = field(default_factory=list)
    failures: dict[int, InputError] = field(default_factory=dict)


def column_name(pyradiomics_name: str, image_name: str | None = None) -> str:
    """Name of a feature's table column.

    Parameters
    ----------
    pyradiomics_name : str
        For example ``"wavelet-LLH_glcm_Contrast"``.
    image_name : str, optional
        The image, for cases with several.

    Returns
    -------
    str
        For example ``"rad_wavelet_LLH_glcm_Contrast"`` or ``"rad_ct_wavelet_LLH_glcm_Contrast"``.

    Raises
    ------
    InputError
        When the image name would not make an identifier.
    """
    if image_name is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", image_name):
        raise InputError(
            f"The image name {image_name!r} cannot be part of a column name.",
            advice="Use letters, digits and underscores, starting with a letter.",
        )
    middle = "" if image_name is None else f"{image_name}_"
    return f"{HANDCRAFTED_PREFIX}{middle}{pyradiomics_name.replace('-', '_')}"


def scale_image(image: sitk.Image, scale: float) -> sitk.Image:
    """Multiply voxel values, for example by 0.001 where SUV is stored as SUV x 1000.

    Parameters
    ----------
    image : SimpleITK.Image
        Scalar image.
    scale : float
        Factor above 0; 1 returns the image itself, in its own pixel type.

    Returns
    -------
    SimpleITK.Image
        Integer images become float64 (so that 0.001 does not truncate); others keep their pixel type.

    Raises
    ------
    InputError
        For a factor that is not a finite number above 0.
    """
    if not (np.isfinite(scale) and scale > 0):
        raise InputError(f"The image scale must be a finite number above 0; found {scale!r}.")
    if scale == 1:
        return image
    if image.GetPixelID() not in (sitk.sitkFloat32, sitk.sitkFloat64):
        image = sitk.Cast(image, sitk.sitkFloat64)
    return image * float(scale)


def extract_handcrafted(
    image: sitk.Image,
    mask: sitk.Image,
    settings: SettingsSource = "ct",
    *,
    label: int | None = None,
    scale: float = 1.0,
    image_name: str | None = None,
    case_id: str | None = None,
) -> dict[str, float]:
    """Handcrafted features of one region of one image.

    Parameters
    ----------
    image, mask : SimpleITK.Image
        3D scalar image and label mask on one grid (see :func:`hybrid.images.align_mask`).
    settings : str, path-like, mapping or HandcraftedSettings
        See :func:`load_settings`.
    label : int, optional
        Label of the region; default: the label named in the settings, else the only one in the mask.
    scale : float
        Voxel values are multiplied by this first, see :func:`scale_image`.
    image_name : str, optional
        Part of the column names, for cases with several images.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    dict of str to float
        ``rad_<filter>_<class>_<feature>`` or ``rad_<image_name>_<filter>_<class>_<feature>``; each value equals what
        ``RadiomicsFeatureExtractor(parameters).execute(image, mask, label)`` returns. NaN where a feature is not
        defined for the region.

    Raises
    ------
    InputError
        For a region that is empty, too small or flat in too many directions, unknown settings, or voxels that are not
        finite.
    MissingDependencyError
        Without PyRadiomics.
    """
    loaded = load_settings(settings)
    chosen = _choose_label(mask, loaded, label, case_id)
    with quiet_radiomics(), _explained(chosen, case_id):
        values = _Region(scale_image(image, scale), mask, loaded, chosen, case_id).features()
    return {column_name(name, image_name): value for name, value in values.items()}


def extract_regions(
    image: sitk.Image,
    mask: sitk.Image,
    settings: SettingsSource = "ct",
    *,
    labels: Sequence[int] | None = None,
    scale: float = 1.0,
    image_name: str | None = None,
    case_id: str | None = None,
) -> RegionFeatures:
    """Handcrafted features of every label of a mask; a label that cannot be used does not affect the others.

    Parameters
    ----------
    image, mask, settings, scale, image_name, case_id
        As in :func:`extract_handcrafted`.
    labels : sequence of int, optional
        Default: the label named in the settings, else all labels of the mask in ascending order.

    Returns
    -------
    RegionFeatures
        Rows with ``roi_label`` first, and the reason for each label without a row.

    Raises
    ------
    InputError
        For an empty mask or unknown settings.
    """
    loaded = load_settings(settings)
    if labels is None:
        fixed = loaded.value("label")
        labels = _labels(mask, case_id) if fixed is None else [int(fixed)]
    result = RegionFeatures()
    for label in labels:
        try:
            values = extract_handcrafted(
                image, mask, loaded, label=label, scale=scale, image_name=image_name, case_id=case_id
            )
            result.rows.append({"roi_label": int(label), **values})
        except InputError as error:
            result.failures[int(label)] = error
    return result


def count_bins(
    image: sitk.Image,
    mask: sitk.Image,
    settings: SettingsSource = "ct",
    *,
    label: int | None = None,
    scale: float = 1.0,
    case_id: str | None = None,
) -> pd.DataFrame:
    """Grey levels that the textures of one region are computed from, per image filter.

    Parameters
    ----------
    image, mask, settings, label, scale, case_id
        As in :func:`extract_handcrafted`.

    Returns
    -------
    DataFrame
        ``image_filter``; ``n_bins`` (the highest grey level, what texture matrices are sized by); ``n_levels`` (levels
        that occur); ``minimum``, ``maximum`` (before binning); ``voxels``; ``warning`` (empty when 16 to 128 bins).

    Raises
    ------
    InputError
        As :func:`extract_handcrafted`.
    """
    loaded = load_settings(settings)
    chosen = _choose_label(mask, loaded, label, case_id)
    with quiet_radiomics(), _explained(chosen, case_id):
        region = _Region(scale_image(image, scale), mask, loaded, chosen, case_id)
        rows = [_bin_row(*item, label=chosen) for item in region.filtered()]
    return pd.DataFrame(rows, columns=list(BIN_COLUMNS))


def _bin_row(
    name: str, image: sitk.Image, mask: sitk.Image, settings: Mapping[str, Any], *, label: int
) -> dict[str, Any]:
    inside = to_array(mask) == label
    values = to_array(image)
    binned, _ = load_radiomics("radiomics.imageoperations").binImage(values, inside, **settings)
    levels = np.unique(binned[inside])
    bins = int(levels.max())
    return {
        "image_filter": name.replace("-", "_"),
        "n_bins": bins,
        "n_levels": len(levels),
        "minimum": float(values[inside].min()),
        "maximum": float(values[inside].max()),
        "voxels": int(inside.sum()),
        "warning": _bin_warning(bins, settings),
    }


def _bin_warning(bins: int, settings: Mapping[str, Any]) -> str:
    if FEW_BINS <= bins <= MANY_BINS:
        return ""
    count, width = settings.get("binCount"), settings.get("binWidth", 25)
    rule = f"bin width {width:g}" if count is None else f"bin count {count}"
    wanted = "a smaller width" if bins < FEW_BINS else "a larger width"
    effect = "textures are nearly constant" if bins < FEW_BINS else "texture matrices are nearly empty"
    return f"{bins} grey levels with {rule}: {effect}; choose {wanted} or another bin count ({FEW_BINS} to {MANY_BINS})"


def _labels(mask: sitk.Image, case_id: str | None) -> list[int]:
    labels = list(labels_in(mask))
    if not labels:
        raise InputError("The mask is empty.", advice="Draw the region, or leave the case out.", case_id=case_id)
    return labels


def _choose_label(mask: sitk.Image, settings: HandcraftedSettings, label: int | None, case_id: str | None) -> int:
    label = settings.value("label") if label is None else label
    if label is not None:
        return int(label)
    labels = _labels(mask, case_id)
    if len(labels) > 1:
        raise InputError(
            f"The mask holds the labels {labels}; expected one region.",
            advice="Name one with label=, or use extract_regions for one row per label.",
            case_id=case_id,
        )
    return labels[0]


@contextlib.contextmanager
def _explained(label: int, case_id: str | None) -> Iterator[None]:
    """Turn what PyRadiomics and SimpleITK raise for an unusable region into an error that names it."""
    try:
        yield
    except HybridError:
        raise
    except (ValueError, RuntimeError, ArithmeticError, IndexError, AssertionError) as error:
        raise InputError(
            f"PyRadiomics cannot compute features of label {label}: {' '.join(str(error).split())}",
            advice="Look at image and mask in a viewer; the region may be too small for these settings.",
            case_id=case_id,
        ) from error


@functools.lru_cache(maxsize=16)
def _pyradiomics(text: str) -> Any:
    """PyRadiomics' extractor for a validated document; never changed after construction."""
    document = HandcraftedSettings("", text).parameters
    # PyRadiomics would write this one into SimpleITK's global state; image and mask share one grid here.
    (document.get("setting") or {}).pop("geometryTolerance", None)
    return load_radiomics("radiomics.featureextractor").RadiomicsFeatureExtractor(document)


Bounds = tuple[np.ndarray, np.ndarray]
"""First and last index (x, y, z) of a box, both included."""


class _Region:
    """One label of one image, on the way through PyRadiomics' steps in PyRadiomics' order."""

    def __init__(
        self, image: sitk.Image, mask: sitk.Image, settings: HandcraftedSettings, label: int, case_id: str | None
    ) -> None:
        self.operations = load_radiomics("radiomics.imageoperations")
        self.extractor = _pyradiomics(settings.text)
        self.settings: dict[str, Any] = {**self.extractor.settings, "label": label}
        self.label, self.case_id = label, case_id
        mask = self._on_grid(image, mask)
        self._require_region(mask, "")
        self.image, self.mask = self._preprocess(image, mask)
        self.box = self._require_region(self.mask, self._after())
        # A box of the region alone: what resegmentation and shape look at.
        self.tight = tuple(_crop(item, self.box) for item in (self.image, self.mask))
        self._require_finite(self.tight[0])
        self.used_mask = self._resegment()
        self.used_box = self._require_region(self.used_mask, "after resegmentation")

    def features(self) -> dict[str, float]:
        """All enabled features under PyRadiomics' own names."""
        shape_mask = self.used_mask if self.settings.get("resegmentShape", False) else self.tight[1]
        values = dict(
            self.extractor.computeShape(self.tight[0], shape_mask, _interleaved(self.used_box), **self.settings)
        )
        for name, image, mask, settings in self.filtered():
            values.update(self.extractor.computeFeatures(image, mask, name, **settings))
        return {name: float(value) for name, value in values.items()}

    def filtered(self) -> Iterator[tuple[str, sitk.Image, sitk.Image, dict[str, Any]]]:
        """Filter name, filtered image and mask cropped to the region, and settings, for each enabled image."""
        used = (self.box[0] + self.used_box[0], self.box[0] + self.used_box[1])
        mask = _crop(self.used_mask, self.used_box)
        for image_type, own in self.extractor.enabledImagetypes.items():
            make = getattr(self.operations, f"get{image_type}Image")
            for arguments in _one_sigma_each(image_type, {**self.settings, **(own or {})}):
                outer = self._with_margin(image_type, arguments)
                source = _crop(self.image, outer)
                self._require_finite(source)
                inner = (used[0] - outer[0], used[1] - outer[0])
                for result, name, settings in make(source, _crop(self.mask, outer), **arguments):
                    region = _crop(result, inner)
                    self._require_few_levels(name, region, mask, settings)
                    yield name, region, mask, settings

    def _on_grid(self, image: sitk.Image, mask: sitk.Image) -> sitk.Image:
        report = compare_geometry(image, mask)
        if report.verdict != "equal":
            raise GeometryError(
                f"Image and mask lie on different grids: {report.describe()}.",
                advice="Bring the mask to the image's grid with hybrid.images.align_mask.",
                case_id=self.case_id,
            )
        same = all(getattr(image, get)() == getattr(mask, get)() for get in ("GetOrigin", "GetSpacing", "GetDirection"))
        mask = mask if same else align_mask(image, mask, case_id=self.case_id)[0]
        return mask if mask.GetPixelID() in (sitk.sitkUInt8, sitk.sitkUInt32) else sitk.Cast(mask, sitk.sitkUInt32)

    def _preprocess(self, image: sitk.Image, mask: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
        """Normalise, then resample or crop, on the whole image: no crop before interpolation keeps every digit."""
        if self.settings.get("normalize", False):
            self._require_finite(image)
            image = self.operations.normalizeImage(image, **self.settings)
        if self._resamples():
            return self.operations.resampleImage(image, mask, **self.settings)
        if self.settings.get("preCrop", False):
            box = _interleaved(self._require_region(mask, ""))
            return self.operations.cropToTumorMask(image, mask, box, **self.settings)
        return image, mask

    def _resamples(self) -> bool:
        return self.settings.get("interpolator") is not None and self.settings.get("resampledPixelSpacing") is not None

    def _after(self) -> str:
        return f"after resampling to {self.settings['resampledPixelSpacing']} mm" if self._resamples() else ""

    def _resegment(self) -> sitk.Image:
        if self.settings.get("resegmentRange") is None:
            return self.tight[1]
        return self.operations.resegmentMask(*self.tight, **self.settings)

    def _require_region(self, mask: sitk.Image, when: str) -> Bounds:
        """Bounding box of the label; raise where PyRadiomics would refuse the region."""
        inside = sitk.GetArrayViewFromImage(mask) == self.label
        voxels = int(np.count_nonzero(inside))
        if voxels == 0:
            found = list(labels_in(mask))
            self._refuse(f"has no voxel {when}", f"Labels present: {found}." if found else "No other label is present.")
        box = _bounds(inside)
        extent = box[1] - box[0] + 1
        dimensions, needed = int((extent > 1).sum()), self.settings.get("minimumROIDimensions", 2)
        smallest = self.settings.get("minimumROISize")
        if voxels == 1:
            self._refuse(f"is a single voxel {when}", "Features need a region; check the mask.")
        if dimensions < needed:
            self._refuse(
                f"extends over {' x '.join(map(str, extent))} voxels (x, y, z) {when}; expected more than one voxel "
                f"along {needed} axes (minimumROIDimensions), found {dimensions}",
                "Draw the region on several slices, or use settings for 2D regions (force2D, minimumROIDimensions: 2).",
            )
        if smallest is not None and voxels <= smallest:
            self._refuse(
                f"has {voxels} voxels {when}; expected more than {smallest} (minimumROISize)",
                "Textures of so few voxels are noise; leave the region out, or use a finer resampling.",
            )
        return box

    def _refuse(self, problem: str, advice: str) -> None:
        text = " ".join(problem.split()).replace(" ;", ";")
        raise InputError(f"Label {self.label} {text}.", advice=advice, case_id=self.case_id)

    def _require_finite(self, image: sitk.Image) -> None:
        if image.GetPixelID() not in (sitk.sitkFloat32, sitk.sitkFloat64):
            return
        bad = int(np.count_nonzero(~np.isfinite(sitk.GetArrayViewFromImage(image))))
        if bad:
            raise InputError(
                f"{bad} voxels needed for the features of label {self.label} are NaN or infinite.",
                advice="Repair the image; replace the values outside the body by the background value.",
                case_id=self.case_id,
            )

    def _require_few_levels(self, name: str, image: sitk.Image, mask: sitk.Image, settings: Mapping[str, Any]) -> None:
        if settings.get("binCount") is not None or not TEXTURES & set(self.extractor.enabledFeatures):
            return
        values = sitk.GetArrayViewFromImage(image)[sitk.GetArrayViewFromImage(mask) == self.label]
        width = settings.get("binWidth", 25)
        levels = float(np.ptp(values.astype(np.float64))) / width
        if levels > MOST_BINS:
            raise InputError(
                f"A bin width of {width:g} gives {levels:.0f} grey levels in the {name} image of label {self.label}; "
                f"expected at most {MOST_BINS}.",
                advice="Are these settings for another modality, or is the image scale missing? Choose a larger width.",
                case_id=self.case_id,
            )

    def _with_margin(self, image_type: str, arguments: Mapping[str, Any]) -> Bounds:
        """Box of the preprocessed image from which the filter returns the numbers that the whole image would give."""
        last = np.asarray(self.image.GetSize()) - 1
        whole = (np.zeros(3, dtype=int), last)
        margin = _margin(image_type, arguments, np.asarray(self.image.GetSpacing()))
        if margin is None:
            return whole
        lower, upper = self.box[0] - margin, self.box[1] + margin
        if image_type == "Wavelet":
            # Wavelets wrap around at the border of the image: an axis whose border is within reach is kept whole.
            near = (lower < 0) | (upper > last)
            return np.where(near, 0, lower), np.where(near, last, upper)
        return np.maximum(lower, 0), np.minimum(upper, last)


def _margin(image_type: str, arguments: Mapping[str, Any], spacing: np.ndarray) -> np.ndarray | None:
    """Voxels (x, y, z) that a filter needs around the region; None for the whole image."""
    if image_type == "Original":
        return np.zeros(3, dtype=int)
    if image_type == "Gradient":
        return np.full(3, GRADIENT_MARGIN)
    if image_type == "LoG":
        sigma = max(arguments.get("sigma") or [0.0])
        return np.maximum(np.ceil(LOG_MARGIN_SIGMA * sigma / spacing).astype(int), 4)
    if image_type == "Wavelet":
        length = load_radiomics("pywt").Wavelet(arguments.get("wavelet", "coif1")).dec_len
        return np.full(3, length * (arguments.get("start_level", 0) + arguments.get("level", 1)) + 2)
    return None


def _one_sigma_each(image_type: str, arguments: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """Separate the sigmas of LoG, so that each gets the margin that it needs."""
    if image_type != "LoG":
        return [arguments]
    return [{**arguments, "sigma": [sigma]} for sigma in arguments.get("sigma") or []]


def _bounds(inside_zyx: np.ndarray) -> Bounds:
    ranges = [np.flatnonzero(inside_zyx.any(axis=tuple(a for a in range(3) if a != axis))) for axis in (2, 1, 0)]
    return np.asarray([r[0] for r in ranges]), np.asarray([r[-1] for r in ranges])


def _interleaved(box: Bounds) -> np.ndarray:
    """PyRadiomics' form of a bounding box: first and last index alternating."""
    return np.stack(box, axis=1).ravel()


def _crop(image: sitk.Image, box: Bounds) -> sitk.Image:
    size = [int(n) for n in box[1] - box[0] + 1]
    if size == list(image.GetSize()):
        return image
    return sitk.RegionOfInterest(image, size, [int(n) for n in box[0]])
