"""A simulated cohort of non-contrast head CT: on which slices is there a finding.

Each patient is one volume of axial slices in HU. About five of eight patients have one to three findings on several
slices each (:data:`KINDS`); all have normal variants, which are not labelled: physiological calcification, atrophy,
uneven ventricles, a mega cisterna magna, dense sinuses, thick bone, and streaks of bone, motion and metal. Site, age
and variants are drawn without regard to the findings, so that none of them tells the label. The published system that
this cohort stands in for classified single slices (Zhang et al., J Pract Radiol 2020(10):1670, 361 of 934 with a
finding). The patients are a test object with known truth; they were not fitted to real ones and say nothing about a
disease.

The head itself is painted in ``head_ct_anatomy.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import pandas as pd
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage
from tqdm.auto import tqdm

from hybrid.errors import InputError
from hybrid.files import write_csv
from hybrid.images import read_image, to_array, write_image

from .fields import average_half_slices, blur, correlated_noise
from .head_ct_anatomy import FIELD_MM, TERRITORIES, Head, HeadFinding, paint_head

KINDS: Final[Mapping[str, int]] = {
    "intracerebral_haemorrhage": 1,
    "subdural_haematoma": 2,
    "epidural_haematoma": 3,
    "subarachnoid_haemorrhage": 4,
    "infarct": 5,
    "mass": 6,
    "calcification": 7,
}
"""Kinds of finding with their value in the mask; oedema around a finding has the finding's value."""

KIND_SHARES: Final = (0.20, 0.21, 0.08, 0.14, 0.18, 0.11, 0.08)
"""How often each of :data:`KINDS` is drawn."""

VARIANTS: Final[Mapping[str, float]] = {
    "pineal_calcification": 0.68,
    "choroid_calcification": 0.58,
    "pallidal_calcification": 0.15,
    "falx_calcification": 0.2,
    "uneven_ventricles": 0.15,
    "cavum_septi": 0.08,
    "mega_cisterna_magna": 0.1,
    "dense_sinuses": 0.15,
    "hyperostosis": 0.15,
    "motion": 0.12,
    "metal": 0.08,
}
"""Normal variants and artefacts, and the share of patients that have them. Basal ganglia calcify more often than in
adults at large, because a cohort of 150 would hold too few."""

LABELS: Final = ("no_finding", "finding")
"""Values of the column ``label``."""

MIN_AREA_MM2: Final = 25.0
"""A slice is labelled ``finding`` when its mask covers at least this area."""

MASK_SHARE: Final = 0.5
"""A voxel belongs to the mask when at least this share of it is altered."""

HIDDEN_HU: Final = 110.0
"""A voxel denser than this belongs to no mask but that of a calcification: under the vertex and over the skull base a
slice averages blood with bone, where nobody could mark it (before, the whole mask of one in a hundred slices)."""


WITH_FINDING: Final = 5
"""Patients with a finding in each eight."""


@dataclass(frozen=True)
class CTSite:
    """A scanner.

    Attributes
    ----------
    noise_hu : float
        Standard deviation of the noise in a slice of average attenuation.
    noise_mm : float
        Standard deviation of the kernel that correlates the noise within a slice.
    blur_mm : float
        Full width at half maximum of the point spread within a slice.
    slope, offset_hu : float
        Calibration: HU are stored as ``slope * (HU + 1000) - 1000 + offset``.
    streaks : float
        Strength of the streaks between dense bones.
    """

    noise_hu: float
    noise_mm: float
    blur_mm: float
    slope: float
    offset_hu: float
    streaks: float


HEAD_CT_SITES: Final[Mapping[str, CTSite]] = {
    "A": CTSite(noise_hu=2.4, noise_mm=1.3, blur_mm=2.4, slope=1.0, offset_hu=0.0, streaks=0.8),
    "B": CTSite(noise_hu=3.6, noise_mm=0.7, blur_mm=1.7, slope=1.006, offset_hu=1.5, streaks=1.2),
    "C": CTSite(noise_hu=3.0, noise_mm=1.0, blur_mm=2.0, slope=0.994, offset_hu=-1.5, streaks=1.0),
}
"""Simulated scanners by name."""


@dataclass(frozen=True)
class HeadCTPatient:
    """One simulated patient.

    Attributes
    ----------
    image : SimpleITK.Image
        int16 HU.
    mask : SimpleITK.Image
        uint8: values of :data:`KINDS`, 0 elsewhere.
    findings : tuple of HeadFinding
        What was painted, in that order; a later finding may hide an earlier one.
    site, sex : str
        Key of :data:`HEAD_CT_SITES`; ``"f"`` or ``"m"``.
    age : int
        Years.
    variants : dict of str to bool
        Keys of :data:`VARIANTS`.
    """

    image: sitk.Image
    mask: sitk.Image
    findings: tuple[HeadFinding, ...]
    site: str
    sex: str
    age: int
    variants: dict[str, bool]


PLACES: Final[Mapping[str, tuple[float, float, float]]] = {
    "putamen": (3, -2, 27),
    "thalamus": (6, 11, 13),
    "frontal": (24, -46, 28),
    "frontal_low": (0, -54, 24),
    "parietal": (38, 28, 32),
    "high_parietal": (54, 4, 26),
    "temporal": (-18, -12, 46),
    "occipital": (10, 56, 26),
    "cerebellum": (-36, 46, 24),
    "low_cerebellum": (-42, 40, 20),
    "pons": (-29, 7, 3),
}
"""Where findings within the brain sit: (z, y, |x|) in mm."""


def simulate_head_ct_cohort(
    out: str | Path,
    *,
    n: int = 150,
    slices: int = 24,
    size: int = 128,
    seed: int = 0,
    png: bool = False,
    n_jobs: int = 1,
    progress: bool = False,
) -> Path:
    """Simulate a cohort and write it to disk.

    Parameters
    ----------
    out : path-like
        Gets ``images/`` (int16 HU) and ``masks/`` (uint8, :data:`KINDS`) as NIfTI, ``cohort.csv`` (one row per
        patient), ``slices.csv`` (one row per slice, counted from 0 at the skull base) and ``findings.csv`` (one row
        per finding). Paths in the tables are relative to the folder.
    n : int
        Number of patients. The patients of a smaller cohort are the first ones of a larger cohort.
    slices, size : int
        Slices of a scan (20 to 40), and its rows and columns (48 to 512). The field stays the same, 120 x 218 x 218
        mm: 24 slices are 5 mm thick, 128 pixels 1.7 mm wide.
    seed : int
        Not negative. The same seed gives the same voxels.
    png : bool
        Also write every slice as an 8-bit image, see :func:`write_head_ct_pngs`.
    n_jobs : int
        Patients simulated at the same time.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        Of ``slices.csv``: columns ``case_id``, ``patient_id``, ``image``, ``mask``, ``slice``, ``label``
        (:data:`LABELS`), ``kind`` (that with the largest area), ``area_mm2`` (of all findings on the slice) and
        ``site``.

    Raises
    ------
    InputError
        For a number, size or seed outside the ranges above.
    """
    if n < 1:
        raise InputError(f"A cohort needs at least 1 patient; found n={n}.", advice="Simulate 100 or more.")
    _check_arguments(0, slices, size, seed)
    folder = Path(out)
    work = joblib.Parallel(n_jobs=n_jobs, return_as="generator")(
        joblib.delayed(_write_patient)(folder, number, slices, size, seed) for number in range(n)
    )
    patients: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    findings: list[dict[str, Any]] = []
    for patient, own_rows, own_findings in tqdm(work, total=n, desc="simulate", unit="patient", disable=not progress):
        patients.append(patient)
        rows += own_rows
        findings += own_findings
    write_csv(pd.DataFrame(patients), folder / "cohort.csv")
    columns = ["case_id", "patient_id", "finding", *HeadFinding.__annotations__, "volume_mm3", "n_slices"]
    write_csv(pd.DataFrame(findings, columns=columns), folder / "findings.csv")
    write_csv(pd.DataFrame(rows), folder / "slices.csv")
    if png:
        write_head_ct_pngs(folder, folder / "png")
    return folder / "slices.csv"


def write_head_ct_pngs(cohort: str | Path, out: str | Path, *, level: float = 40.0, width: float = 80.0) -> Path:
    """Write the slices of a simulated cohort as 8-bit PNG images, as they are exported for a reading room.

    Parameters
    ----------
    cohort : path-like
        Folder with ``slices.csv``, see :func:`simulate_head_ct_cohort`.
    out : path-like
        Gets one PNG per slice (rows: front to back; columns: the patient's right to left) and ``labels.csv``.
    level, width : float
        Window (HU) that the 256 grey values cover.

    Returns
    -------
    Path
        Of ``labels.csv``: columns ``slice_id``, ``patient_id``, ``image`` (relative to ``out``), ``label``, ``kind``,
        ``area_mm2`` and ``site``.

    Raises
    ------
    InputError
        When the cohort has no ``slices.csv``, or the window is not wider than 0.
    """
    table, out = Path(cohort) / "slices.csv", Path(out)
    if width <= 0:
        raise InputError(f"Expected a window wider than 0 HU; found width={width}.")
    if not table.is_file():
        raise InputError("The cohort has no table of slices.", advice="Simulate it first.", path=table)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for image, group in pd.read_csv(table, dtype={"case_id": str, "patient_id": str}).groupby("image", sort=False):
        values = (to_array(read_image(Path(cohort) / str(image))) - (level - width / 2)) / width
        grey = np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)
        for row in group.itertuples():
            name = f"{row.case_id}_{row.slice:02d}"
            Image.fromarray(grey[row.slice]).save(out / f"{name}.png")
            rows.append((name, row.patient_id, f"{name}.png", row.label, row.kind, row.area_mm2, row.site))
    columns = ["slice_id", "patient_id", "image", "label", "kind", "area_mm2", "site"]
    return write_csv(pd.DataFrame(rows, columns=columns), out / "labels.csv")


def simulate_head_ct_patient(number: int, *, slices: int = 24, size: int = 128, seed: int = 0) -> HeadCTPatient:
    """Simulate one patient; patients can be simulated in any order and in parallel.

    Parameters
    ----------
    number, seed : int
        Not negative; with the size of the scan they determine every voxel.
    slices, size : int
        See :func:`simulate_head_ct_cohort`.

    Returns
    -------
    HeadCTPatient
        Image, mask and what they were painted from.

    Raises
    ------
    InputError
        For a number, size or seed out of range.
    """
    _check_arguments(number, slices, size, seed)
    rng = np.random.default_rng([seed, number, 41])
    site = str(rng.choice(list(HEAD_CT_SITES)))
    age, sex = int(np.clip(rng.normal(58, 19), 18, 95)), str(rng.choice(["f", "m"]))
    variants = {name: bool(rng.random() < share) for name, share in VARIANTS.items()}
    findings = draw_findings(np.random.default_rng([seed, number, 42])) if _has_finding(number, seed) else ()
    head = Head((2 * slices, size, size), np.random.default_rng([seed, number, 43]))
    shares = paint_head(head, findings, age, variants)
    values = _scan(head, HEAD_CT_SITES[site], variants, np.random.default_rng([seed, number, 44]))
    mask = np.zeros(values.shape, np.uint8)
    scanned = average_half_slices(head.maps["hu"])
    for finding, share in zip(findings, shares, strict=True):
        seen = (scanned < HIDDEN_HU) | (finding.kind == "calcification")
        mask[seen & (average_half_slices(share) >= MASK_SHARE)] = KINDS[finding.kind]
    image, mask_image = _volume(values), _volume(mask)
    return HeadCTPatient(image, mask_image, findings, site, sex, age, variants)


def draw_findings(rng: np.random.Generator) -> tuple[HeadFinding, ...]:
    """Draw one to three findings.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    tuple of HeadFinding
        Small ones are meant to be hard: 5 mm of radius for a bleed or a mass, 7 mm for an infarct, 4 mm of thickness
        for blood outside the brain.
    """
    count = int(rng.choice((1, 2, 3), p=(0.4, 0.4, 0.2)))
    return tuple(_draw_finding(str(rng.choice(list(KINDS), p=KIND_SHARES)), rng) for _ in range(count))


def _draw_finding(kind: str, rng: np.random.Generator) -> HeadFinding:
    side = float(rng.choice((-1, 1)))
    if kind in ("subdural_haematoma", "epidural_haematoma"):
        return _draw_extra_axial(kind, side, rng)
    place = PLACES[str(rng.choice(list(PLACES)))]
    radius = oedema = push = 0.0
    hu = 0.0
    if kind == "intracerebral_haemorrhage":
        radius, hu = _between(rng, 5, 24), rng.uniform(58, 75)
        oedema = rng.uniform(2, 5) + 0.3 * radius
        push = max(0.0, 0.4 * (radius - 10))
    elif kind == "mass":
        radius, hu = _between(rng, 5, 20), rng.uniform(40, 54)
        oedema = rng.uniform(3, 16)
        push = max(0.0, 0.25 * (radius + oedema - 14))
    elif kind == "calcification":
        radius, hu = rng.uniform(4, 10), rng.uniform(150, 500)
    elif kind == "subarachnoid_haemorrhage":
        place = [(-18, -8, 6), (0, -8, 46), (40, -20, 40), (34, 30, 42)][int(rng.integers(4))]
        radius, hu = rng.uniform(24, 50), rng.uniform(48, 66)
    else:
        place = list(TERRITORIES.values())[int(rng.integers(len(TERRITORIES)))][0]
        radius, hu = rng.uniform(0.5, 1.15), rng.uniform(17, 25)
    spread = (5.0, 6.0, 5.0) if kind != "infarct" else (3.0, 3.0, 3.0)
    z, y, x = np.multiply(place, (1, 1, side)) + rng.normal(0, spread)
    return HeadFinding(
        kind, float(z), float(y), float(x), float(radius), 0.0, 0.0, float(hu), float(oedema), float(push)
    )


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Log-uniform: small ones are as common as large ones."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _draw_extra_axial(kind: str, side: float, rng: np.random.Generator) -> HeadFinding:
    """Blood between brain and skull: a long crescent or a short lens."""
    crescent = kind == "subdural_haematoma"
    thick = _between(rng, 4, 16) if crescent else _between(rng, 8, 26)
    extent = rng.uniform(45, 85) if crescent else 8 + 1.0 * thick + rng.uniform(6, 14)
    old = crescent and rng.random() < 0.25
    hu = rng.uniform(16, 24) if old else rng.uniform(55, 74)
    azimuth, height = np.deg2rad(rng.uniform(-55, 60)), np.deg2rad(rng.uniform(-2, 50))
    z, y, x = 60 * np.array((np.sin(height), np.cos(height) * np.sin(azimuth), side * np.cos(height) * np.cos(azimuth)))
    push = max(0.0, 0.45 * (thick - 5))
    return HeadFinding(kind, float(z), float(y), float(x), 0.0, thick, float(extent), float(hu), 0.0, push)


def _check_arguments(number: int, slices: int, size: int, seed: int) -> None:
    if number < 0 or seed < 0:
        raise InputError(f"Expected a number and a seed of 0 or more; found number={number} and seed={seed}.")
    if not 20 <= slices <= 40:
        raise InputError(f"Expected 20 to 40 slices; found slices={slices}.", advice="24 slices are 5 mm thick.")
    if not 48 <= size <= 512:
        raise InputError(
            f"Expected a size of 48 to 512 pixels; found size={size}.", advice="128 pixels are 1.7 mm wide."
        )


def _has_finding(number: int, seed: int) -> bool:
    """Whether a patient has a finding: the same number in every eight patients, in random order."""
    order = np.random.default_rng([seed, number // 8, 40]).permutation(8)
    return bool(order[number % 8] < WITH_FINDING)


def _write_patient(
    folder: Path, number: int, slices: int, size: int, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]], list[dict[str, Any]]]:
    """Write image and mask; the patient's rows of the three tables."""
    patient = simulate_head_ct_patient(number, slices=slices, size=size, seed=seed)
    case_id = f"ct{seed}_{number:04d}"
    start = {"case_id": case_id, "patient_id": case_id}
    paths = {"image": f"images/{case_id}.nii.gz", "mask": f"masks/{case_id}.nii.gz"}
    write_image(patient.image, folder / paths["image"])
    write_image(patient.mask, folder / paths["mask"])
    rows = [
        {**start, **paths, "slice": number, **_slice_label(plane, patient.mask.GetSpacing()), "site": patient.site}
        for number, plane in enumerate(to_array(patient.mask))
    ]
    positive = sum(row["label"] == LABELS[1] for row in rows)
    row = {
        **start,
        **paths,
        "outcome": int(positive > 0),
        "site": patient.site,
        "age": patient.age,
        "sex": patient.sex,
        "n_findings": len(patient.findings),
        "n_positive_slices": positive,
        **{name: int(present) for name, present in patient.variants.items()},
    }
    return row, rows, [{**start, **found} for found in _finding_rows(patient)]


def _slice_label(plane: np.ndarray, spacing: Sequence[float]) -> dict[str, Any]:
    """Label, kind with the largest area (empty without a finding) and area of the mask on a slice."""
    area = float(np.count_nonzero(plane) * spacing[0] * spacing[1])
    present = area >= MIN_AREA_MM2
    largest = int(np.argmax(np.bincount(plane[plane > 0], minlength=1))) if present else 0
    return {"label": LABELS[int(present)], "kind": list(KINDS)[largest - 1] if present else "", "area_mm2": area}


def _finding_rows(patient: HeadCTPatient) -> list[dict[str, Any]]:
    """One row per finding; volume and slices are those of its kind, which two findings of a patient may share."""
    mask = to_array(patient.mask)
    voxel = float(np.prod(patient.mask.GetSpacing()))
    rows = []
    for number, finding in enumerate(patient.findings, start=1):
        inside = mask == KINDS[finding.kind]
        size = {"volume_mm3": voxel * int(inside.sum()), "n_slices": int(inside.any(axis=(1, 2)).sum())}
        rows.append({"finding": number, **asdict(finding), **size})
    return rows


def _volume(values: np.ndarray) -> sitk.Image:
    """Image in the patient's axes (LPS), centred."""
    image = sitk.GetImageFromArray(values)
    spacing = np.divide(FIELD_MM, values.shape)
    image.SetSpacing(spacing[::-1].tolist())
    image.SetOrigin((-(np.array(values.shape) - 1) / 2 * spacing)[::-1].tolist())
    return image


def _scan(head: Head, site: CTSite, variants: Mapping[str, bool], rng: np.random.Generator) -> np.ndarray:
    """Blur, average half slices (partial volume), add streaks and noise, calibrate; int16 HU."""
    spacing = head.spacing * (2, 1, 1)
    thick = average_half_slices(blur(head.maps["hu"], (0.1, site.blur_mm, site.blur_mm), tuple(head.spacing)))
    if variants["motion"]:
        _move(thick, rng)
    thick += _hardening(thick, spacing, site.streaks, rng)
    if variants["metal"]:
        _metal(thick, spacing, rng)
    attenuation = np.maximum(thick + 1000, 0).mean(axis=(1, 2), keepdims=True)
    level = site.noise_hu * np.clip(attenuation / attenuation.mean(), 0.5, 2.0)
    level = level * np.where(thick < -900, 0.4, 1.0)
    thick += level * correlated_noise(thick.shape, site.noise_mm, spacing.tolist(), rng)
    stored = site.slope * (thick + 1000) - 1000 + site.offset_hu * (thick > -900)
    return np.clip(np.round(stored), -1024, 3071).astype(np.int16)


def _hardening(thick: np.ndarray, spacing: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Dark bands between dense bones, streaks along them, and a bright rim inside the skull (HU)."""
    dense = np.clip(thick - 500, 0, None) / 1000
    change = 26 * ndimage.gaussian_filter(dense, (0, *(5 / spacing[1:]))) * (thick < 300) * strength
    for axis in (1, 2):
        before = np.cumsum(dense, axis=axis) * spacing[axis]
        both = np.minimum(before, before.take([-1], axis=axis) - before)
        band = np.clip((both - 9) / 16, 0, 1)
        shape = [n if number != axis else 1 for number, n in enumerate(thick.shape)]
        streaks = ndimage.gaussian_filter1d(rng.standard_normal(shape), 0.8, axis=3 - axis)
        change -= strength * band * (9 + 8 * streaks) * (thick < 300)
    return change.astype(np.float32)


def _move(thick: np.ndarray, rng: np.random.Generator) -> None:
    """Double the edges of a few neighbouring slices, in place."""
    first, count = int(rng.integers(len(thick))), int(rng.integers(1, 5))
    for plane in thick[first : first + count]:
        pixel = len(plane) / 128
        moved = ndimage.shift(plane, rng.normal(0, 1.8 * pixel, 2), order=1, mode="nearest")
        plane += rng.uniform(0.2, 0.45) * (moved - plane)


def _metal(thick: np.ndarray, spacing: np.ndarray, rng: np.random.Generator) -> None:
    """Add a piece of metal in the scalp or the skull base and its streaks, in place."""
    count = len(thick)
    middle = int(rng.integers(0, count // 4) if rng.random() < 0.5 else rng.integers(0, count))
    angle = rng.uniform(0, 2 * np.pi)
    place = rng.uniform(0.75, 0.95) * np.array((88 * np.sin(angle), 70 * np.cos(angle)))
    y, x = (
        np.arange(n) * step - n * step / 2 - c for n, step, c in zip(thick.shape[1:], spacing[1:], place, strict=True)
    )
    distance, around = np.hypot(y[:, None], x[None]), np.arctan2(y[:, None], x[None])
    pattern = sum(np.sin(k * around + rng.uniform(0, 6.3)) / 3 for k in rng.integers(8, 40, 9))
    for number in range(max(middle - 1, 0), min(middle + 2, count)):
        fade = 1.0 if number == middle else 0.5
        thick[number] += fade * rng.uniform(250, 600) / (1 + distance / 3) * pattern
        thick[number] = np.where(distance < 2.5 * fade, 3000, thick[number])
