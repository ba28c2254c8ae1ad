"""A simulated renal CT cohort: kidneys with one mass each, benign or malignant.

Masses are of three kinds - fat-containing angiomyolipoma, cyst and solid - and carry the outcome partly in texture
(scale, contrast and necrosis), partly in the irregularity of their surface. Volume and mean density are drawn from the
same distributions for both outcomes, so that neither tells them apart; what still shows in the histogram is measured by
the trivial baselines (:data:`TRIVIAL_BASELINES`), which belong beside every result on these patients.

Nothing here was fitted to real patients: it is a test object, not a model of disease.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk
from tqdm.auto import tqdm

from hybrid.cases import Cohort
from hybrid.errors import InputError
from hybrid.images import write_image

from .fields import blur, correlated_noise, deformed_ellipsoid, soft_edge
from .lesions import LesionProperties, lesion_depth, lesion_values

TRIVIAL_BASELINES: Final[dict[str, list[str]]] = {
    "volume": ["rad_original_shape_VoxelVolume"],
    "mean_hu": ["rad_original_firstorder_Mean"],
    "histogram": ["rad_original_firstorder_*"],
}
"""Feature sets that should not suffice; see ``feature_sets`` of :func:`hybrid.pipelines.cross_validate`."""

FIELD_MM: Final = (120.0, 240.0, 320.0)
"""Field of view (z, y, x)."""

KINDS: Final = ("angiomyolipoma", "cyst", "solid")

HU: Final = {
    "air": -1000.0,
    "fat": -100.0,
    "muscle": 55.0,
    "bone": 350.0,
    "liver": 105.0,
    "cortex": 150.0,
    "medulla": 95.0,
}
"""Tissue densities in a portal venous phase, rounded textbook values (HU)."""


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
        Correlation length of the noise (mm): a sharp kernel gives a small one.
    fwhm_mm : float
        In-plane resolution (mm).
    offset_hu : float
        Calibration and contrast timing, on soft tissue (HU).
    """

    spacing: tuple[float, float, float]
    noise_hu: float
    noise_mm: float
    fwhm_mm: float
    offset_hu: float


SITES: Final[dict[str, Site]] = {
    "A": Site((3.0, 1.6, 1.6), 10.0, 0.9, 1.6, 0.0),
    "B": Site((4.0, 1.8, 1.8), 14.0, 0.7, 1.4, 6.0),
    "C": Site((5.0, 1.6, 1.6), 12.0, 1.3, 2.2, -5.0),
}
"""Simulated scanners by name."""

CONTRAST: Final = {"angiomyolipoma": (-30.0, 22.0), "cyst": (-85.0, 18.0), "solid": (-20.0, 22.0)}
"""Mean and SD of a mass's density minus 100 HU, by kind and the same for both outcomes (HU)."""


def simulate_renal_cohort(
    folder: str | Path, *, n: int = 60, seed: int = 0, sites: tuple[str, ...] = ("A", "B", "C"), progress: bool = True
) -> Cohort:
    """Simulate a cohort and write it to disk.

    Parameters
    ----------
    folder : path-like
        Gets ``images/``, ``masks/`` (the mass, 1, drawn by an imperfect reader), ``labels/`` (kidney 1, mass 2, exact),
        ``cohort.csv`` and ``truth.csv`` (what each mass was painted from; never to be used as a covariate).
    n : int
        Patients. The first 40 of 60 are the 40 of ``n=40``.
    seed : int
        The same seed gives the same voxels.
    sites : tuple of str
        Scanners, see :data:`SITES`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Cohort
        Read from ``cohort.csv``: outcome 1 is malignant; covariates age and sex.

    Raises
    ------
    InputError
        For fewer than two patients or an unknown site.
    """
    if n < 2:
        raise InputError(f"A cohort needs at least 2 patients; found n={n}.")
    unknown = [name for name in sites if name not in SITES]
    if unknown or not sites:
        raise InputError(f"Unknown sites: {', '.join(unknown) or 'none given'}.", advice=f"Valid: {', '.join(SITES)}.")
    folder = Path(folder)
    numbers = tqdm(range(n), desc="simulate", unit="patient", disable=not progress)
    patients = [simulate_renal_patient(number, seed, folder, sites=sites) for number in numbers]
    pd.DataFrame([row for row, _ in patients]).to_csv(folder / "cohort.csv", index=False)
    pd.DataFrame([truth for _, truth in patients]).to_csv(folder / "truth.csv", index=False)
    return Cohort.from_csv(folder / "cohort.csv")


def simulate_renal_patient(
    number: int, seed: int, folder: str | Path, *, sites: tuple[str, ...] = ("A", "B", "C")
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Simulate one patient, write the three files and return the rows of ``cohort.csv`` and ``truth.csv``.

    Parameters
    ----------
    number, seed : int
        Together they determine every voxel.
    folder : path-like
        Folder of the cohort.
    sites : tuple of str
        Scanners to draw from.

    Returns
    -------
    row, truth : dict
        What the study may know, and what it must not.
    """
    rng = np.random.default_rng([seed, number])
    folder = Path(folder)
    case_id = f"sim{seed}_{number:04d}"
    # Alternating pairs keep the outcome balanced in every prefix of the cohort.
    malignant = bool((number + int(np.random.default_rng([seed, number // 2, 7]).integers(2))) % 2)
    site = str(rng.choice(list(sites)))
    kind = str(rng.choice(KINDS, p=(0.25, 0.2, 0.55)))
    properties = draw_mass(kind, malignant, rng)
    image, labels, mask = paint_patient(properties, kind, SITES[site], rng)
    files = {"image": image, "mask": mask, "labels": labels}
    names = {
        "image": f"images/{case_id}.nii.gz",
        "mask": f"masks/{case_id}.nii.gz",
        "labels": f"labels/{case_id}.nii.gz",
    }
    for key, volume in files.items():
        write_image(volume, folder / names[key])
    row = {
        "case_id": case_id, "patient_id": case_id, "image": names["image"], "mask": names["mask"],
        "outcome": int(malignant), "site": site,
        "age": int(np.clip(rng.normal(61 + 3 * malignant, 11), 20, 90)),
        "sex": "m" if rng.random() < 0.52 + 0.08 * malignant else "f",
    }  # fmt: skip
    return row, {"case_id": case_id, "kind": kind, "malignant": int(malignant), **asdict(properties)}


def draw_mass(kind: str, malignant: bool, rng: np.random.Generator) -> LesionProperties:
    """Draw the properties of a mass; the two outcomes differ, with much overlap, in surface and texture only."""
    mean, spread = CONTRAST[kind]
    shift = 1.0 if malignant else 0.0
    return LesionProperties(
        radius_mm=float(np.clip(np.exp(rng.normal(np.log(14), 0.3)), 7, 28)),
        elongation=float(rng.uniform(1.0, 1.35)),
        irregularity=float(np.clip(rng.normal(0.05 + 0.055 * shift, 0.025), 0.0, 0.2)),
        contrast_hu=float(rng.normal(mean, spread)),
        texture_scale_mm=float(np.exp(rng.normal(np.log(4.2) - 0.7 * shift, 0.3))),
        texture_contrast_hu=float(np.clip(rng.normal(24, 7), 6, 45)),
        necrosis_fraction=float(np.clip(rng.normal(0.06, 0.08), 0, 0.4)),
        rim_hu=float(np.clip(rng.normal(15, 15), 0, 50)),
        edge_mm=float(np.clip(rng.normal(2.2 + 0.6 * shift, 0.8), 0.5, 5)),
    )


def paint_patient(
    properties: LesionProperties, kind: str, site: Site, rng: np.random.Generator
) -> tuple[sitk.Image, sitk.Image, sitk.Image]:
    """Paint abdomen, kidneys and mass, and scan them.

    Returns
    -------
    image : SimpleITK.Image
        int16 HU.
    labels : SimpleITK.Image
        Kidney 1, mass 2; exact.
    mask : SimpleITK.Image
        The mass as a reader would draw it: its border wanders by about half a voxel.
    """
    # Thin slices first; averaging pairs of them gives the partial volume of thick ones.
    fine = (site.spacing[0] / 2, *site.spacing[1:])
    shape = tuple(
        2 * int(f / s / 2) if axis == 0 else int(f / s) for axis, (f, s) in enumerate(zip(FIELD_MM, fine, strict=True))
    )
    values, kidneys, centres = _abdomen(shape, fine, rng)
    side = int(rng.integers(2))
    direction = rng.normal(size=3) * (0.7, 1.0, 1.0)
    centre = centres[side] + direction / np.linalg.norm(direction) * rng.uniform(12, 24)
    box = _box(centre, 2.2 * properties.radius_mm + 8, shape, fine)
    local = centre - [b.start * s for b, s in zip(box, fine, strict=True)]
    size = tuple(b.stop - b.start for b in box)
    depth = lesion_depth(properties, size, fine, local, rng)
    mass = 100.0 + lesion_values(properties, depth, fine, rng)
    if kind == "angiomyolipoma":
        fat = correlated_noise(size, 3.0, fine, rng) > 1.1
        mass = np.where(fat, HU["fat"] + 20, mass)
    share = soft_edge(depth, properties.edge_mm)
    values[box] = (1 - share) * values[box] + share * mass
    soft = values > -200
    values += site.offset_hu * soft
    values = blur(values, (site.spacing[0] * 0.5, site.fwhm_mm, site.fwhm_mm), fine)
    values = _thick(values) + site.noise_hu * correlated_noise(_thick(values).shape, site.noise_mm, site.spacing, rng)
    inside = np.zeros(shape, np.float32)
    inside[box] = depth > 0
    drawn = np.zeros(shape, np.float32)
    drawn[box] = depth + 0.5 * site.spacing[1] * correlated_noise(size, 4.0, fine, rng) > 0
    labels = np.where(_thick(inside) >= 0.5, 2, np.where(_thick(kidneys) >= 0.5, 1, 0))
    return (
        _volume(np.clip(np.round(values), -1024, 3071).astype(np.int16), site.spacing),
        _volume(labels.astype(np.uint8), site.spacing),
        _volume((_thick(drawn) >= 0.5).astype(np.uint8), site.spacing),
    )


def _abdomen(
    shape: tuple[int, ...], spacing: tuple[float, ...], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Body, spine, liver and two kidneys; the density, the kidneys and their centres (z, y, x, mm)."""
    middle = np.asarray(FIELD_MM) / 2
    size = rng.normal(1.0, 0.05)

    def organ(offset: tuple[float, float, float], radii: tuple[float, float, float], waves: float = 0.0) -> np.ndarray:
        centre = middle + np.asarray(offset) * size
        return deformed_ellipsoid(shape, spacing, centre, np.asarray(radii) * size, waves, rng)

    values = np.full(shape, HU["air"], np.float32)
    texture = correlated_noise(shape, 3.0, spacing, rng)
    tissues = [
        (organ((0, 0, 0), (400, 100, 145)), HU["fat"], 8.0, 2.0),
        (organ((0, 5, 0), (400, 84, 125)), 25.0, 25.0, 6.0),
        (organ((-20, -10, -75), (75, 60, 50), 0.05), HU["liver"], 6.0, 3.0),
        (organ((0, 62, 0), (400, 20, 22)), HU["bone"], 60.0, 2.0),
    ]
    for depth, mean, spread, edge in tissues:
        share = soft_edge(depth, edge)
        values = (1 - share) * values + share * (mean + spread * texture)
    kidneys: np.ndarray = np.zeros(shape, np.float32)
    centres = []
    for side in (-1, 1):
        offset = (rng.normal(0, 6), 30 + rng.normal(0, 4), side * (68 + rng.normal(0, 4)))
        depth = organ(offset, (50, 26, 27), 0.03)
        share = soft_edge(depth, 2.0)
        core = soft_edge(depth - 9, 4.0)
        density = (1 - core) * HU["cortex"] + core * HU["medulla"] + 8 * texture
        values = (1 - share) * values + share * density
        kidneys = np.maximum(kidneys, (depth > 0).astype(np.float32))
        centres.append(middle + np.asarray(offset) * size)
    return values.astype(np.float32), kidneys, centres


def _box(centre: np.ndarray, reach_mm: float, shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[slice, ...]:
    low = [max(int((c - reach_mm) / s), 0) for c, s in zip(centre, spacing, strict=True)]
    high = [min(int((c + reach_mm) / s) + 1, n) for c, s, n in zip(centre, spacing, shape, strict=True)]
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True))


def _thick(values: np.ndarray) -> np.ndarray:
    """Average pairs of thin slices."""
    return values.reshape(-1, 2, *values.shape[1:]).mean(axis=1)


def _volume(array: np.ndarray, spacing: tuple[float, float, float]) -> sitk.Image:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(list(reversed(spacing)))
    return image
