"""The three presets, value by value, each with its reason. Data only; :mod:`.settings` turns it into documents.

The numbers of grey levels quoted below were measured with ``count_bins`` on the 26 patients (CT, T1 MR, FDG-PET) of the
public soft-tissue-sarcoma collection, https://doi.org/10.7937/K9/TCIA.2015.7GO2GSKS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class PresetRow(NamedTuple):
    """One value of a preset.

    Attributes
    ----------
    section : str
        ``setting``, ``imageType``, ``imageType.<type>`` or ``featureClass``.
    parameter : str
        PyRadiomics' name.
    value : Any
        The value; an empty list after a feature class means all its features.
    unit : str
        Unit of the value, empty when it has none.
    reason : str
        Why this value.
    """

    section: str
    parameter: str
    value: Any
    unit: str
    reason: str


_INTERPOLATOR: Final = PresetRow(
    "setting", "interpolator", "sitkLinear", "",
    "Linear never leaves the range of the measured values (splines overshoot at edges), and its cost depends on the "
    "region, not on the scan. PyRadiomics interpolates the mask by nearest neighbour in any case.",
)  # fmt: skip

_REGION: Final = (
    PresetRow(
        "setting", "minimumROIDimensions", 3, "axes",
        "Shape and texture are computed in 3D; a region on a single slice is refused, with the reason in the failures "
        "table.",
    ),
    PresetRow(
        "setting", "minimumROISize", 26, "voxels",
        "More than 26 voxels after resampling: 3 x 3 x 3 is the smallest block in which a voxel has all the neighbours "
        "that textures count.",
    ),
)  # fmt: skip

_ORIGINAL: Final = PresetRow("imageType", "Original", {}, "", "The image itself, after the steps above.")

_FILTERED_COUNT: Final = (
    "Filter responses have no calibrated unit, and their ranges differ more than tenfold between sub-bands and "
    "patients, so that no width suits all; a fixed count of 32 lies well inside the 16 to 128 levels in which texture "
    "matrices are neither flat nor nearly empty."
)

_FILTERED_SHIFT: Final = "Responses scatter around zero; without the shift their energy and root mean square are plain."


def _filters(sigmas: list[float], sigma_reason: str) -> tuple[PresetRow, ...]:
    return (
        _ORIGINAL,
        PresetRow("imageType.LoG", "sigma", sigmas, "mm", sigma_reason),
        PresetRow("imageType.LoG", "binCount", 32, "grey levels", _FILTERED_COUNT),
        PresetRow("imageType.LoG", "voxelArrayShift", 0, "", _FILTERED_SHIFT),
        PresetRow(
            "imageType.Wavelet", "wavelet", "coif1", "",
            "PyRadiomics' default: a short, nearly symmetric wavelet, so that features compare with published work.",
        ),
        PresetRow(
            "imageType.Wavelet", "level", 1, "levels",
            "One level (8 sub-bands); each further one adds some 650 features, too many for small cohorts.",
        ),
        PresetRow("imageType.Wavelet", "binCount", 32, "grey levels", _FILTERED_COUNT),
        PresetRow("imageType.Wavelet", "voxelArrayShift", 0, "", _FILTERED_SHIFT),
    )  # fmt: skip


_CLASSES: Final = tuple(
    PresetRow("featureClass", name, [], "features", reason)
    for name, reason in (
        ("shape", "Size and form of the region, computed once, from the mask."),
        ("firstorder", "Distribution of intensities, regardless of place."),
        ("glcm", "Grey levels of neighbouring pairs, mean over 13 directions."),
        ("glrlm", "Lengths of runs of one grey level, mean over 13 directions."),
        ("glszm", "Sizes of connected zones of one grey level."),
        ("gldm", "Number of like neighbours of each voxel."),
        ("ngtdm", "Difference between a voxel and the mean of its neighbours."),
    )
)


def _padding(spacing: int, largest_sigma: int) -> PresetRow:
    return PresetRow(
        "setting", "padDistance", 20, "voxels",
        f"Margin kept around the region after resampling: 20 voxels of {spacing} mm are 10 times the largest sigma "
        f"({largest_sigma} mm), where responses differ from those on the whole scan by less than 1e-6 of their range. "
        "PyRadiomics' default of 5 voxels changes such features by up to 100 %.",
    )  # fmt: skip


_CT: Final = (
    PresetRow(
        "setting", "resampledPixelSpacing", [2.0, 2.0, 2.0], "mm",
        "Cubes, so that neighbours are equally far in all directions and scanners compare. 2 mm lies between the usual "
        "in-plane resolution (0.7 to 1 mm) and slice thickness (1 to 5 mm): little is invented between slices, and a "
        "large tumour takes seconds.",
    ),
    _INTERPOLATOR,
    _padding(2, 4),
    PresetRow(
        "setting", "binWidth", 10.0, "HU",
        "Hounsfield units are calibrated, so one width for all patients. At 2 mm, tumours span 160 to 1360 HU (10th to "
        "90th percentile of the sarcoma CTs). 10 HU gives 16 to 128 grey levels in 81 % of them, the common 25 HU in "
        "35 % (median 12, too few for soft tissue). Lung lesions next to air, or noisy scans, may want 25.",
    ),
    PresetRow(
        "setting", "voxelArrayShift", 1000, "HU",
        "Added to the values for energy, total energy and root mean square only: air becomes 0, so that fat (below 0 "
        "HU) does not count as much as tissue above 0 HU.",
    ),
    *_REGION,
    *_filters([2.0, 4.0], "Fine and coarse structure: one voxel is the smallest sigma that the grid resolves, twice it "
              "the next; blobs of about 7 and 14 mm in diameter answer most."),
    *_CLASSES,
)  # fmt: skip

_MR: Final = (
    PresetRow(
        "setting", "normalize", True, "",
        "MR intensities have no unit and differ between scanners and sequences; each image is brought to mean 0. "
        "PyRadiomics takes mean and deviation over the whole image, background included: keep the field of view alike.",
    ),
    PresetRow(
        "setting", "normalizeScale", 100.0, "",
        "Standard deviation after normalisation. With 1, all values would fall into one bin of the default width of "
        "25, and every texture feature would be constant.",
    ),
    PresetRow(
        "setting", "resampledPixelSpacing", [2.0, 2.0, 2.0], "mm",
        "Cubes, so that neighbours are equally far in all directions. 2 mm lies between the usual in-plane resolution "
        "(0.5 to 1 mm) and slice thickness (3 to 5 mm). With 1 mm isotropic sequences of small lesions use 1 mm.",
    ),
    _INTERPOLATOR,
    _padding(2, 4),
    PresetRow(
        "setting", "binWidth", 5.0, "1/100 standard deviation",
        "A twentieth of the image's standard deviation: the sarcoma MRs span 0.8 to 3.7 deviations, hence 16 to 75 "
        "grey levels.",
    ),
    PresetRow(
        "setting", "voxelArrayShift", 300, "1/100 standard deviation",
        "Added to the values for energy, total energy and root mean square only: three standard deviations lift them "
        "above 0.",
    ),
    *_REGION,
    *_filters([2.0, 4.0], "Fine and coarse structure: one voxel is the smallest sigma that the grid resolves, twice it "
              "the next; blobs of about 7 and 14 mm in diameter answer most."),
    *_CLASSES,
)  # fmt: skip

_PET: Final = (
    PresetRow(
        "setting", "resampledPixelSpacing", [4.0, 4.0, 4.0], "mm",
        "Cubes near the usual voxel size of PET (2 to 5.5 mm); finer grids add no information at a resolution of 5 to "
        "7 mm.",
    ),
    _INTERPOLATOR,
    _padding(4, 8),
    PresetRow(
        "setting", "binWidth", 0.25, "SUV",
        "SUV is calibrated, so one width for all patients: the sarcomas span 3 to 28 SUV, hence 13 to 112 grey levels. "
        "The image must hold SUV; give its scale if it does not (0.001 for SUV x 1000).",
    ),
    *_REGION,
    *_filters([4.0, 8.0], "Fine and coarse uptake: sigmas below one voxel or below the scanner's resolution would show "
              "noise."),
    *_CLASSES,
)  # fmt: skip

PRESET_ROWS: Final[Mapping[str, tuple[PresetRow, ...]]] = {"ct": _CT, "mr": _MR, "pet": _PET}
"""Rows of each preset in the order of the document."""
