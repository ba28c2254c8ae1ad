"""A simulated renal CT cohort: two kidneys and one mass per patient, benign or malignant.

Masses are of three kinds - fat-containing angiomyolipoma, cyst and solid. The outcome shows, with much overlap, in
*texture* (scale of the inner pattern, necrosis) and in *shape* (irregularity of the surface), and only weakly in volume
and mean density. Scanners differ in slice thickness, noise, kernel and calibration, and the masks are drawn by an
imperfect reader. How far trivial measurements get is shown by :data:`TRIVIAL_BASELINES`, which belong beside every
result on these patients.

The patients are a test object with known truth. They were not fitted to real ones and say nothing about a disease.

Notes
-----
Densities (HU) are rounded values of a portal venous to nephrographic phase. Simple cysts: -9 to 20 HU unenhanced and at
most 30 HU in the portal venous phase (Silverman et al. 2019, https://doi.org/10.1148/radiol.2019182646).
Angiomyolipoma: fat below -10 HU beside enhancing tissue (Jinzaki et al. 2014,
https://doi.org/10.1007/s00261-014-0083-3). Solid masses: from about 40 to 95 HU (papillary carcinoma, 42 masses) up to
149 +- 34 HU (hypervascular clear cell carcinoma) and 137 +- 34 HU (hypervascular oncocytoma); the density of a solid
mass hardly tells benign from malignant (https://doi.org/10.5301/uj.5000256). Other organs: textbook values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk
from tqdm.auto import tqdm

from hybrid.cases import Cohort
from hybrid.errors import InputError, unknown_name
from hybrid.files import write_csv
from hybrid.images import write_image

from .fields import average_half_slices, blur, correlated_noise, deformed_ellipsoid, largest_part, soft_edge
from .lesions import BACKGROUND_HU, NECROSIS_HU, LesionProperties, lesion_depth, lesion_values

TRIVIAL_BASELINES: Final[Mapping[str, list[str]]] = {
    "volume": ["rad_original_shape_VoxelVolume"],
    "mean_hu": ["rad_original_firstorder_Mean"],
    "histogram": ["rad_original_firstorder_*"],
}
"""Column patterns by name: feature sets that should not suffice (``feature_sets`` of ``cross_validate``)."""

FIELD_MM: Final = (120.0, 240.0, 320.0)
"""Field of view (z, y, x); z points to the head, y to the back, x to the patient's left."""

HU: Final[Mapping[str, float]] = {
    "air": -1000.0,
    "fat": -100.0,
    "muscle": 60.0,
    "bowel": 45.0,
    "bone": 300.0,
    "blood": 150.0,
    "liver": 105.0,
    "spleen": 120.0,
    "cortex": 160.0,
    "medulla": 120.0,
}
"""Tissue densities (HU); sources above."""

FAT_CLUMP_HU: Final = -80.0
"""Density of the fat inside an angiomyolipoma."""


@dataclass(frozen=True)
class Site:
    """A scanner with its protocol.

    Attributes
    ----------
    spacing : tuple of float
        Voxel size (z, y, x) in mm; z is the slice thickness.
    noise_hu : float
        Standard deviation of the noise (HU).
    noise_mm : float
        Correlation length of the noise (mm): small for a sharp kernel.
    fwhm_mm : float
        In-plane resolution (mm).
    offset_hu : float
        Calibration and contrast timing: added to soft tissue (HU).
    """

    spacing: tuple[float, float, float]
    noise_hu: float
    noise_mm: float
    fwhm_mm: float
    offset_hu: float

    @property
    def blur_mm(self) -> tuple[float, float, float]:
        """Width (full width at half maximum, z, y, x) of the point spread that is applied to half slices."""
        return self.spacing[0] / 2, self.fwhm_mm, self.fwhm_mm


SITES: Final[Mapping[str, Site]] = {
    "A": Site((3.0, 1.8, 1.8), 9.0, 0.9, 1.7, 0.0),
    "B": Site((4.0, 2.0, 2.0), 12.0, 0.7, 1.5, 6.0),
    "C": Site((5.0, 1.8, 1.8), 7.0, 1.3, 2.4, -5.0),
}
"""Simulated scanners by name: thinner slices; a sharp, noisy kernel; thick slices and a smooth kernel."""

KINDS: Final = ("angiomyolipoma", "cyst", "solid")

KIND_SHARES: Final[Mapping[bool, tuple[float, float, float]]] = {False: (0.25, 0.25, 0.50), True: (0.12, 0.23, 0.65)}
"""Shares of the kinds among benign (False) and malignant (True) masses.

Closer to each other than in life, where fat nearly always means benign: kind alone must not settle the outcome.
"""

MEAN_HU: Final[Mapping[str, tuple[float, float]]] = {
    "angiomyolipoma": (45.0, 20.0),
    "cyst": (24.0, 9.0),
    "solid": (88.0, 20.0),
}
"""Mean and SD, over patients, of a mass's mean density by kind (HU); the same for both outcomes."""

TEXTURE_HU: Final[Mapping[str, tuple[float, float]]] = {
    "angiomyolipoma": (34.0, 6.0),
    "cyst": (20.0, 4.0),
    "solid": (34.0, 6.0),
}
"""Mean and SD, over patients, of the contrast of the inner pattern as the scanner shows it (HU); the same for both."""

READER_MM: Final = (0.4, 0.7)
"""A reader's error of the border: SD over patients, and SD along the border (mm)."""


@dataclass(frozen=True)
class RenalMass:
    """What a mass is painted from.

    Attributes
    ----------
    kind : {"angiomyolipoma", "cyst", "solid"}
        Kind of the mass.
    malignant : bool
        The outcome.
    fat_fraction : float
        Share of the volume that is fat; 0 but in angiomyolipomas.
    lesion : LesionProperties
        Everything else.
    """

    kind: str
    malignant: bool
    fat_fraction: float
    lesion: LesionProperties

    def to_row(self) -> dict[str, Any]:
        """Row of ``truth.csv``."""
        row = {"kind": self.kind, "malignant": int(self.malignant), "fat_fraction": self.fat_fraction}
        return {**row, **asdict(self.lesion)}


def simulate_renal_cohort(
    folder: str | Path,
    *,
    n: int = 60,
    seed: int = 0,
    sites: Sequence[str] = ("A", "B", "C"),
    progress: bool = True,
) -> Cohort:
    """Simulate a cohort and write it to disk.

    Parameters
    ----------
    folder : path-like
        Gets ``images/`` (HU, int16), ``masks/`` (the mass, 1, as an imperfect reader draws it), ``labels/`` (kidney 1,
        mass 2, exact), ``cohort.csv``, and ``truth.csv`` (what each mass was painted from: to judge results by, never
        to predict from).
    n : int
        Number of patients, one mass each. The patients of a smaller cohort are the first ones of a larger cohort with
        the same seed and sites; half of them have a malignant mass.
    seed : int
        Not negative. The same seed gives the same voxels.
    sites : sequence of str
        Scanners to draw from, see :data:`SITES`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Cohort
        As read from ``cohort.csv``: outcome 1 is malignant; covariates age and sex.

    Raises
    ------
    InputError
        For fewer than two patients, a negative seed or an unknown site.
    """
    if n < 2:
        raise InputError(f"A cohort needs at least 2 patients; found n={n}.", advice="Simulate 40 or more.")
    _check_arguments(0, seed, sites)
    folder = Path(folder)
    numbers = tqdm(range(n), desc="simulate", unit="patient", disable=not progress)
    patients = [simulate_renal_patient(number, seed, folder, sites=sites) for number in numbers]
    write_csv(pd.DataFrame([truth for _, truth in patients]), folder / "truth.csv")
    write_csv(pd.DataFrame([row for row, _ in patients]), folder / "cohort.csv")
    return Cohort.from_csv(folder / "cohort.csv")


def simulate_renal_patient(
    number: int, seed: int, folder: str | Path, *, sites: Sequence[str] = ("A", "B", "C")
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Simulate one patient and write the three volumes; patients can be simulated in any order and in parallel.

    Parameters
    ----------
    number, seed : int
        Not negative; with ``sites`` they determine every voxel.
    folder : path-like
        Folder of the cohort.
    sites : sequence of str
        Scanners to draw from.

    Returns
    -------
    row, truth : dict
        The patient's row of ``cohort.csv``, which a study may use, and of ``truth.csv``, which it must not.

    Raises
    ------
    InputError
        For a negative number or seed, or an unknown site.
    """
    _check_arguments(number, seed, sites)
    rng = np.random.default_rng([seed, number])
    case_id = f"sim{seed}_{number:04d}"
    malignant = _is_malignant(number, seed)
    site = str(rng.choice(list(sites)))
    mass = draw_mass(malignant, SITES[site], rng)
    volumes = dict(zip(("images", "labels", "masks"), paint_patient(mass, SITES[site], rng), strict=True))
    for part, volume in volumes.items():
        write_image(volume, Path(folder) / part / f"{case_id}.nii.gz")
    row = {
        "case_id": case_id,
        "patient_id": case_id,
        "image": f"images/{case_id}.nii.gz",
        "mask": f"masks/{case_id}.nii.gz",
        "outcome": int(malignant),
        "site": site,
        "age": int(np.clip(rng.normal(61 + 3 * malignant, 11), 20, 90)),
        "sex": "m" if rng.random() < 0.52 + 0.08 * malignant else "f",
    }
    return row, {"case_id": case_id, **mass.to_row()}


def _check_arguments(number: int, seed: int, sites: Sequence[str]) -> None:
    if number < 0 or seed < 0:
        raise InputError(f"Expected a number and a seed of 0 or more; found number={number} and seed={seed}.")
    if isinstance(sites, str) or not sites:
        raise InputError(f"Expected a list of sites; found {sites!r}.", advice=f"Valid: {', '.join(SITES)}.")
    for site in sites:
        if site not in SITES:
            raise unknown_name("site", site, SITES)


def _is_malignant(number: int, seed: int) -> bool:
    """One of each pair of patients, in random order: every even number of patients is balanced."""
    return bool((number + int(np.random.default_rng([seed, number // 2, 7]).integers(2))) % 2)


def draw_mass(malignant: bool, site: Site, rng: np.random.Generator) -> RenalMass:
    """Draw a mass; the outcome shifts scale of the texture, necrosis and irregularity, each with much overlap.

    Parameters
    ----------
    malignant : bool
        The outcome.
    site : Site
        Scanner: it blurs fine patterns more than coarse ones, and the pattern's contrast is raised by as much. Without
        this the histogram alone would betray the scale of the texture.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    RenalMass
        Volume and mean density follow the same distribution for both outcomes within each kind.
    """
    kind = str(rng.choice(KINDS, p=KIND_SHARES[malignant]))
    fat = float(rng.uniform(0.05, 0.4)) if kind == "angiomyolipoma" else 0.0
    necrosis = 0.0 if kind == "cyst" else float(np.clip(rng.normal(0.02 + 0.10 * malignant, 0.09), 0, 0.35))
    scale = float(np.exp(rng.normal(np.log(2.0 if malignant else 4.6), 0.22)))
    mean_hu = rng.normal(*MEAN_HU[kind])
    shown_hu = np.clip(rng.normal(*TEXTURE_HU[kind]), 4, 40)
    # Necrosis and fat lower the mean; the rest is as much denser.
    rest = (mean_hu - necrosis * NECROSIS_HU - fat * FAT_CLUMP_HU) / (1 - necrosis - fat)
    lesion = LesionProperties(
        radius_mm=float(np.clip(np.exp(rng.normal(np.log(15), 0.25)), 8, 25)),
        elongation=float(rng.uniform(1.0, 1.4)),
        irregularity=float(np.clip(rng.normal(0.12 if malignant else 0.065, 0.028), 0.0, 0.22)),
        contrast_hu=float(rest - BACKGROUND_HU),
        texture_scale_mm=scale,
        texture_contrast_hu=float(shown_hu / shown_contrast(scale, site)),
        necrosis_fraction=necrosis,
        rim_hu=float(rng.uniform(0, 25)),
        edge_mm=float(rng.uniform(0.8, 3.0)),
    )
    return RenalMass(kind, malignant, fat, lesion)


def shown_contrast(scale_mm: float, site: Site) -> float:
    """Compute how much of a texture's contrast a scanner leaves.

    Smoothing a field made with a Gaussian kernel of SD s by a Gaussian of SD b lowers its variance by
    ``s / sqrt(s**2 + b**2)`` along each axis; a slice of thickness t averages like ``b**2 = t**2 / 12``.

    Parameters
    ----------
    scale_mm : float
        Standard deviation of the kernel that made the texture (mm).
    site : Site
        Scanner.

    Returns
    -------
    float
        Standard deviation after the scan over that before, 0 to 1; noise left out.
    """
    variances = [(width / 2.355) ** 2 for width in site.blur_mm]
    variances[0] += site.spacing[0] ** 2 / 12
    return float(np.prod([(scale_mm**2 / (scale_mm**2 + variance)) ** 0.25 for variance in variances]))


def paint_patient(mass: RenalMass, site: Site, rng: np.random.Generator) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
    """Paint abdomen, kidneys and mass on half slices, and scan them.

    Parameters
    ----------
    mass : RenalMass
        What to paint.
    site : Site
        Scanner.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    image : SimpleITK.Image
        int16 HU.
    labels : SimpleITK.Image
        uint8: kidney 1, mass 2; exact.
    mask : SimpleITK.Image
        uint8: the mass (1) as a reader draws it.
    """
    fine = (site.spacing[0] / 2, *site.spacing[1:])
    rows = [int(field / step) for field, step in zip(FIELD_MM, fine, strict=True)]
    shape = (rows[0] // 2 * 2, rows[1], rows[2])
    values, kidneys, (centre, radii) = _abdomen(shape, fine, rng)
    box, depth = _place(mass.lesion, centre, radii, shape, fine, rng)
    tissue = _mass_values(mass, depth, fine, rng)
    _lay(values, box, depth, tissue, mass.lesion.edge_mm)
    inside, drawn = np.zeros(shape, bool), np.zeros(shape, bool)
    inside[box] = largest_part(depth > 0)
    drawn[box] = largest_part(depth + _reader_error(depth.shape, fine, rng) > 0)
    labels = np.where(average_half_slices(inside) >= 0.5, 2, np.where(average_half_slices(kidneys) >= 0.5, 1, 0))
    return (
        _volume(_scan(values, site, fine, rng), site),
        _volume(labels.astype(np.uint8), site),
        _volume((average_half_slices(drawn) >= 0.5).astype(np.uint8), site),
    )


def _scan(values: np.ndarray, site: Site, fine: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    """Blur, average pairs of half slices (partial volume), add noise; int16 HU."""
    values = values + site.offset_hu * (values > -200)
    thick = average_half_slices(blur(values, site.blur_mm, fine))
    noise = site.noise_hu * correlated_noise(thick.shape, site.noise_mm, site.spacing, rng)
    # Fewer photons are lost around the body than through it.
    thick += np.where(thick < -900, 0.3, 1.0) * noise
    return np.clip(np.round(thick), -1024, 3071).astype(np.int16)


def _place(
    lesion: LesionProperties,
    centre: np.ndarray,
    radii: np.ndarray,
    shape: Sequence[int],
    spacing: Sequence[float],
    rng: np.random.Generator,
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Put the mass into the kidney's outer part; the box around it, and the depth below its surface in the box (mm)."""
    direction = rng.normal(size=3) * (0.5, 1.0, 1.0)
    middle = centre + radii * direction / np.linalg.norm(direction) * rng.uniform(0.5, 0.95)
    # A scan shows the whole mass; 1.9 radii leave room for elongation and waves.
    middle[0] = np.clip(middle[0], 1.9 * lesion.radius_mm, FIELD_MM[0] - 1.9 * lesion.radius_mm)
    box, local = _box(middle, np.full(3, 1.8 * lesion.radius_mm + 6), shape, spacing)
    size = [part.stop - part.start for part in box]
    return box, lesion_depth(lesion, size, spacing, local.tolist(), rng)


def _box(
    middle: np.ndarray, reach: np.ndarray, shape: Sequence[int], spacing: Sequence[float]
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Voxels within ``reach`` (z, y, x, mm) of a point, cut at the border, and the point as seen from the box (mm)."""
    low = np.maximum(((middle - reach) / spacing).astype(int), 0)
    high = np.minimum(((middle + reach) / spacing).astype(int) + 2, shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)), middle - low * np.asarray(spacing)


def _mass_values(mass: RenalMass, depth: np.ndarray, spacing: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    values = BACKGROUND_HU + lesion_values(mass.lesion, depth, spacing, rng)
    inside = depth > 0
    if mass.fat_fraction > 0 and inside.any():
        clumps = correlated_noise(depth.shape, 2.5, spacing, rng)
        fat = soft_edge(clumps - np.quantile(clumps[inside], 1 - mass.fat_fraction), 0.5)
        values = (1 - fat) * values + fat * FAT_CLUMP_HU
    return values


def _reader_error(shape: Sequence[int], spacing: Sequence[float], rng: np.random.Generator) -> np.ndarray:
    whole, local = READER_MM
    return rng.normal(0, whole) + local * correlated_noise(shape, 4.0, spacing, rng)


def _abdomen(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Paint everything but the mass.

    Returns
    -------
    values : ndarray of float32, shape (z, y, x)
        HU.
    kidneys : ndarray of bool, shape (z, y, x)
        Both kidneys.
    host : tuple of ndarray
        Centre and half axes (z, y, x, mm) of the kidney that gets the mass.
    """
    scale = float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.1))
    texture = correlated_noise(shape, 2.5, spacing, rng)
    values = _trunk(shape, spacing, scale, texture, rng)
    middle = np.asarray(FIELD_MM) / 2
    for name, offset, axes in (("liver", (32, -12, -82), (62, 58, 48)), ("spleen", (38, 28, 102), (40, 34, 20))):
        centre = middle + scale * np.asarray(offset) + rng.normal(0, 4, 3)
        box, depth = _organ(centre, scale * np.asarray(axes), 0.06, shape, spacing, rng)
        _lay(values, box, depth, HU[name] + 6 * texture[box], 3.0)
    kidneys, hosts = np.zeros(shape, bool), []
    for side in (-1, 1):
        centre = middle + scale * np.asarray((6 * side, 28, 68 * side)) + rng.normal(0, 3, 3)
        radii = scale * np.asarray((50, 27, 26)) * rng.normal(1, 0.05, 3)
        box, depth = _organ(centre, radii, 0.03, shape, spacing, rng)
        _kidney(values, box, depth, texture[box])
        sinus, inner = _organ(centre, radii * (0.45, 0.2, 0.25), 0.0, shape, spacing, rng)
        _lay(values, sinus, inner, HU["fat"] + 40 + 10 * texture[sinus], 4.0)
        kidneys[box] |= depth > 0
        hosts.append((centre, radii))
    return values, kidneys, hosts[int(rng.integers(2))]


def _trunk(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    scale: float,
    texture: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Skin to spine: fat, muscle wall, bowel loops in fat, back muscles, vertebra and aorta; HU."""

    def column(y: float, x: float, half_y: float, half_x: float) -> np.ndarray:
        middle = (0.0, FIELD_MM[1] / 2 + scale * y, FIELD_MM[2] / 2 + scale * x)
        return _elliptic_column(shape, spacing, middle, scale * half_y, scale * half_x)

    loops = soft_edge(correlated_noise(shape, 9.0, spacing, rng) - 0.1, 0.5)
    bowel = HU["fat"] + loops * (HU["bowel"] - HU["fat"])
    fat_mm = float(rng.uniform(8, 20))
    values = np.full(shape, HU["air"], np.float32)
    for depth, density, edge in (
        (column(0, 0, 98, 140), HU["fat"] + 4 * texture, 2.0),
        (column(0, 0, 98 - fat_mm, 140 - fat_mm), HU["muscle"] + 6 * texture, 3.0),
        (column(-4, 0, 82 - fat_mm, 128 - fat_mm), bowel + 5 * texture, 3.0),
        (column(50, -36, 24, 24), HU["muscle"] + 6 * texture, 2.0),
        (column(50, 36, 24, 24), HU["muscle"] + 6 * texture, 2.0),
        (column(46, 0, 20, 23), HU["bone"] + 50 * texture, 2.0),
        (column(14, 8, 10, 10), HU["blood"] + 4 * texture, 2.0),
    ):
        _lay(values, (slice(None),) * 3, depth, density, edge)
    return values


def _organ(
    centre: np.ndarray,
    radii: np.ndarray,
    waves: float,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    rng: np.random.Generator,
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Box around an organ and the depth below its surface in the box (mm)."""
    box, local = _box(centre, 1.25 * radii + 12, shape, spacing)
    size = [part.stop - part.start for part in box]
    return box, deformed_ellipsoid(size, spacing, local.tolist(), radii.tolist(), waves, rng)


def _kidney(values: np.ndarray, box: tuple[slice, ...], depth: np.ndarray, texture: np.ndarray) -> None:
    """Add a kidney in its fat: cortex outside, medulla inside."""
    _lay(values, box, depth + 7, HU["fat"] + 4 * texture, 4.0)
    _lay(values, box, depth, HU["cortex"] + 8 * texture, 2.0)
    _lay(values, box, depth - 8, HU["medulla"] + 8 * texture, 4.0)


def _lay(
    values: np.ndarray, box: tuple[slice, ...], depth: np.ndarray, density: np.ndarray | float, edge_mm: float
) -> None:
    """Lay tissue over what is there, in place, where ``depth`` (mm) is positive."""
    values[box] += soft_edge(depth, edge_mm) * (density - values[box])


def _elliptic_column(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    middle: Sequence[float],
    half_y: float,
    half_x: float,
) -> np.ndarray:
    """Depth (mm) inside a column along z with an elliptic section; shape (1, y, x)."""
    y = (np.arange(shape[1]) * spacing[1] - middle[1])[None, :, None] / half_y
    x = (np.arange(shape[2]) * spacing[2] - middle[2])[None, None, :] / half_x
    return (min(half_y, half_x) * (1 - np.sqrt(y**2 + x**2))).astype(np.float32)


def _volume(array: np.ndarray, site: Site) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(site.spacing[::-1])
    return image
