"""A simulated cohort of multiparametric prostate MRI: which sequence is a series, when its header cannot be trusted.

Each patient has five series, written as separate volumes: T2 without and with fat saturation, diffusion-weighted images
at a low and a high b-value, and the apparent diffusion coefficient (ADC) computed from those two. One pelvis is painted
per patient as maps of water, fat, T2 and ADC; each series is what its signal equation makes of these maps, seen through
the distortions of its acquisition. Stored values have no unit: every series is scaled and shifted at random, and the
stored matrix, voxel size and slice thickness come from the centre and not from the sequence.

The five classes are those of Sun et al. 2024 (https://doi.org/10.13929/j.issn.1003-3289.2024.05.028). The patients are
a test object with known truth. They were not fitted to real ones and say nothing about a disease.

Notes
-----
Spin echo with a long repetition time: ``S = water exp(-TE / T2) exp(-b ADC) + fat exp(-TE / T2_fat)``.

Prostate: T2 149 +- 49 ms and ADC 1.68 +- 0.22 um2/ms (peripheral zone), 125 +- 26 ms and 1.48 +- 0.14 (transition
zone), 97 +- 23 ms and 1.03 +- 0.21 (tumour): Simpkin et al. 2013, https://doi.org/10.1259/bjr.20120469. T2 at 3 T of
muscle 29 +- 4 ms, bone marrow 49 +- 4 ms and fat 68 +- 4 ms: de Bazelaire et al. 2004,
https://doi.org/10.1148/radiol.2303021331; fat is given a longer T2 here, because trains of refocusing pulses keep it
bright (Henkelman et al. 1992, https://doi.org/10.1002/jmri.1880020512). Other tissues: textbook values.

The field of the rectal gas follows from its susceptibility (Salomir et al. 2003, https://doi.org/10.1002/cmr.b.10083).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import fft, ndimage
from tqdm.auto import tqdm

from hybrid.errors import InputError, unknown_name
from hybrid.files import write_csv
from hybrid.images import from_array, write_image

from .fields import average_half_slices, blur, correlated_noise, deformed_ellipsoid, soft_edge

CLASSES: Final = ("t2", "t2_fs", "dwi_high", "dwi_low", "adc")
"""The sequences: T2, T2 with fat saturation, DWI with b >= 500 and b < 500 s/mm2, ADC."""

COLUMNS: Final = ("series_id", "patient_id", "image", "label", "site")
"""Columns of ``series.csv``."""

CANVAS_SHAPE: Final = (46, 132, 132)
CANVAS_SPACING: Final = (2.0, 1.6, 1.6)
"""Voxels (z, y, x) and their size (mm) of the painted pelvis; z points to the head, y to the back, x to the left."""

PROTON_MHZ: Final = 123.2
"""Proton frequency at 2.9 T: Hz per ppm of the field."""

FAT_SHIFT_PPM: Final = 3.4
"""Chemical shift between water and fat."""

GAS_PPM: Final = 9.4
"""Susceptibility of gas against tissue."""

Triple: TypeAlias = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class ProstateSite:
    """A centre with its scanner and protocols.

    Attributes
    ----------
    matrix : int
        Stored pixels along x and y.
    field_of_view_mm : tuple of float
        Smallest and largest field of view.
    slices : int
        Number of slices.
    thickness_mm : tuple of float
        Slice distances in use.
    te_t2_ms, te_dwi_ms : tuple of float
        Shortest and longest echo time.
    b_low, b_high : tuple of float
        b-values in use (s/mm2).
    resolution_mm : tuple of float
        Acquired in-plane resolution of T2 and of DWI.
    noise_t2, noise_dwi : float
        Standard deviation of each channel of the noise; pure water has a signal of 1.
    shading : float
        Strength of the coil shading: about the logarithm of the signal at the skin against the centre.
    normalised : bool
        Whether the scanner divides the coil shading out.
    bandwidth_hz : float
        Hz per mm along the phase encoding (y) of the DWI; small is distorted.
    ghost : float
        Largest share of the signal that goes into a DWI's ghost.
    unsuppressed_fat : tuple of float
        Smallest and largest share of fat that remains with fat saturation.
    masked_adc : bool
        Whether the ADC is set to 0 where the signal is weak.
    """

    matrix: int
    field_of_view_mm: tuple[float, float]
    slices: int
    thickness_mm: tuple[float, ...]
    te_t2_ms: tuple[float, float]
    te_dwi_ms: tuple[float, float]
    b_low: tuple[float, ...]
    b_high: tuple[float, ...]
    resolution_mm: tuple[float, float]
    noise_t2: float
    noise_dwi: float
    shading: float
    normalised: bool
    bandwidth_hz: float
    ghost: float
    unsuppressed_fat: tuple[float, float]
    masked_adc: bool


PROSTATE_SITES: Final[Mapping[str, ProstateSite]] = {
    "A": ProstateSite(
        matrix=96,
        field_of_view_mm=(165, 200),
        slices=20,
        thickness_mm=(3.5, 4.0),
        te_t2_ms=(95, 120),
        te_dwi_ms=(60, 75),
        b_low=(0, 50),
        b_high=(800, 1000, 1400),
        resolution_mm=(1.6, 2.0),
        noise_t2=0.016,
        noise_dwi=0.018,
        shading=0.5,
        normalised=True,
        bandwidth_hz=14.0,
        ghost=0.04,
        unsuppressed_fat=(0.05, 0.3),
        masked_adc=False,
    ),
    "B": ProstateSite(
        matrix=104,
        field_of_view_mm=(150, 190),
        slices=22,
        thickness_mm=(3.0, 3.5),
        te_t2_ms=(85, 105),
        te_dwi_ms=(70, 85),
        b_low=(50, 100, 200),
        b_high=(600, 800, 1000),
        resolution_mm=(1.8, 2.6),
        noise_t2=0.030,
        noise_dwi=0.028,
        shading=0.8,
        normalised=False,
        bandwidth_hz=9.0,
        ghost=0.09,
        unsuppressed_fat=(0.1, 0.45),
        masked_adc=True,
    ),
    "C": ProstateSite(
        matrix=88,
        field_of_view_mm=(175, 205),
        slices=18,
        thickness_mm=(4.0, 4.4),
        te_t2_ms=(100, 140),
        te_dwi_ms=(65, 90),
        b_low=(0, 100, 300),
        b_high=(700, 1000, 2000),
        resolution_mm=(2.0, 2.3),
        noise_t2=0.022,
        noise_dwi=0.023,
        shading=0.6,
        normalised=False,
        bandwidth_hz=11.0,
        ghost=0.06,
        unsuppressed_fat=(0.05, 0.35),
        masked_adc=False,
    ),
}
"""Simulated centres by name."""


@dataclass(frozen=True)
class _Grid:
    """Voxels (z, y, x) of a series, their size (mm), and the middle of the volume as seen from the prostate (mm)."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    centre: tuple[float, float, float]

    def axes(self) -> list[np.ndarray]:
        """Positions (mm) of half slices, rows and columns."""
        shape, spacing = (2 * self.shape[0], *self.shape[1:]), (self.spacing[0] / 2, *self.spacing[1:])
        return [(np.arange(n) - (n - 1) / 2) * step + c for n, step, c in zip(shape, spacing, self.centre, strict=True)]


@dataclass(frozen=True)
class Tissue:
    """What the signal equation needs.

    Attributes
    ----------
    water, fat : float
        Signal at echo time 0; pure water has 1.
    t2_ms : float
        Transverse relaxation time of the water (ms).
    adc : float
        Apparent diffusion coefficient of the water (um2/ms, which is 1e-3 mm2/s).
    """

    water: float
    fat: float
    t2_ms: float
    adc: float


TISSUES: Final[Mapping[str, Tissue]] = {
    "gas": Tissue(0.0, 0.0, 40, 1.0),
    "fat": Tissue(0.06, 0.85, 40, 1.0),
    "muscle": Tissue(0.75, 0.03, 33, 1.35),
    "marrow": Tissue(0.28, 0.45, 49, 0.55),
    "red_marrow": Tissue(0.42, 0.30, 52, 0.60),
    "cortex": Tissue(0.05, 0.02, 20, 0.5),
    "cartilage": Tissue(0.6, 0.0, 45, 1.4),
    "bladder_wall": Tissue(0.75, 0.0, 55, 1.5),
    "urine": Tissue(1.0, 0.0, 700, 2.9),
    "rectal_wall": Tissue(0.78, 0.05, 70, 1.4),
    "stool": Tissue(0.45, 0.1, 75, 1.2),
    "mucus": Tissue(0.85, 0.0, 200, 1.9),
    "peripheral": Tissue(0.86, 0.0, 149, 1.68),
    "transition": Tissue(0.82, 0.0, 100, 1.45),
    "capsule": Tissue(0.65, 0.0, 45, 1.2),
    "tumour": Tissue(0.80, 0.0, 92, 1.03),
    "vesicle": Tissue(0.88, 0.0, 190, 1.8),
    "vein": Tissue(0.85, 0.0, 150, 2.2),
    "flow": Tissue(0.15, 0.0, 80, 3.0),
}
"""Typical tissues; each patient's differ."""

FAT_T2_MS: Final = 130.0
"""Effective T2 of fat in a train of refocusing pulses."""


class _Pelvis:
    """Maps of water, fat, T2 and ADC with coordinates (mm) from the middle of the prostate; ``lay`` paints over it."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.scale = float(np.clip(rng.normal(1.0, 0.05), 0.88, 1.12))
        self.shift = rng.normal((2, 2, 0), (4, 5, 4))
        self.axes = [
            ((np.arange(n) - (n - 1) / 2) * step + offset).astype(np.float32)
            for n, step, offset in zip(CANVAS_SHAPE, CANVAS_SPACING, self.shift, strict=True)
        ]
        self.z, self.y, self.x = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        self.maps = {name: np.zeros(CANVAS_SHAPE, np.float32) for name in ("water", "fat", "t2_ms", "adc")}
        self.maps["t2_ms"] += 40
        self.maps["adc"] += 1
        self.gas = np.ones(CANVAS_SHAPE, np.float32)
        self.tissues = {name: _vary(tissue, rng) for name, tissue in TISSUES.items()}
        self.waves, self.texture = self.noise(9.0), self.noise(2.5)

    def noise(self, scale_mm: float) -> np.ndarray:
        """Correlated noise over the canvas."""
        return correlated_noise(CANVAS_SHAPE, scale_mm, CANVAS_SPACING, self.rng)

    def lay(self, depth: np.ndarray, tissue: str | Tissue, edge_mm: float = 2.0, box: Any = ...) -> None:
        """Paint tissue where ``depth`` (mm) is positive; ``box`` is the part of the canvas that depth covers."""
        kind = self.tissues[tissue] if isinstance(tissue, str) else tissue
        share = soft_edge(depth, edge_mm)
        for name, values in self.maps.items():
            part = values[box]
            part += share * (getattr(kind, name) - part)
        part = self.gas[box]
        part += share * (float(tissue == "gas") - part)

    def ball(
        self,
        centre: Triple,
        radii: Triple,
        tissue: str | Tissue,
        *,
        waves_mm: float = 0.0,
        edge_mm: float = 2.0,
        shell: tuple[str, float] | None = None,
    ) -> None:
        """Paint an ellipsoid (z, y, x; mm at a scale of 1) within the box around it, in a shell of another tissue."""
        middle, half = self.scale * np.asarray(centre, float), self.scale * np.asarray(radii, float)
        box = []
        for axis, c, r in zip(self.axes, middle, half, strict=True):
            first, last = np.searchsorted(axis, (c - 1.3 * r - 4, c + 1.3 * r + 4))
            box.append(slice(int(first), int(last)))
        parts = [axis[part] - c for axis, part, c in zip(self.axes, box, middle, strict=True)]
        grid = np.meshgrid(*(part / r for part, r in zip(parts, half, strict=True)), indexing="ij", sparse=True)
        depth = half.min() * (1 - np.sqrt(sum(g**2 for g in grid))) + waves_mm * self.waves[tuple(box)]
        if shell is not None:
            self.lay(depth, shell[0], edge_mm, tuple(box))
            depth = depth - shell[1]
        self.lay(depth, tissue, edge_mm, tuple(box))

    def column(self, y: float, x: float, half_y: float, half_x: float) -> np.ndarray:
        """Depth (mm) inside an elliptic column along z; shape (1, y, x)."""
        s = self.scale
        distance = np.sqrt(((self.y - s * y) / (s * half_y)) ** 2 + ((self.x - s * x) / (s * half_x)) ** 2)
        return s * min(half_y, half_x) * (1 - distance)


def _vary(tissue: Tissue, rng: np.random.Generator) -> Tissue:
    """One patient's tissue: T2 and ADC rise and fall together, as in the prostate (Simpkin et al. 2013)."""
    shared, own = rng.normal(0, 1, 2)
    return Tissue(
        water=tissue.water * float(np.exp(rng.normal(0, 0.05))),
        fat=tissue.fat * float(np.exp(rng.normal(0, 0.08))),
        t2_ms=tissue.t2_ms * float(np.exp(0.15 * shared)),
        adc=tissue.adc * float(np.exp(0.06 * shared + 0.06 * own)),
    )


def simulate_prostate_cohort(
    folder: str | Path,
    *,
    n: int = 60,
    seed: int = 0,
    centres: Sequence[str] | None = None,
    progress: bool = False,
) -> Path:
    """Simulate a cohort and write it to disk.

    Parameters
    ----------
    folder : path-like
        Gets ``images/`` (int16, five per patient) and ``series.csv`` (:data:`COLUMNS`; paths relative to it, labels as
        in :data:`CLASSES`).
    n : int
        Number of patients. The patients of a smaller cohort are the first ones of a larger cohort with the same seed
        and centres.
    seed : int
        Not negative. The same seed gives the same voxels.
    centres : sequence of str, optional
        Centres to draw from, see :data:`PROSTATE_SITES`; all of them by default. A patient who is drawn at the same
        centre looks the same whatever the others are.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        Of ``series.csv``: five rows per patient.

    Raises
    ------
    InputError
        For fewer than one patient, a negative seed or an unknown centre.
    """
    if n < 1:
        raise InputError(f"A cohort needs at least 1 patient; found n={n}.", advice="Simulate 40 or more.")
    names = _checked_centres(centres)
    _check_seed(0, seed)
    folder, rows = Path(folder), []
    for number in tqdm(range(n), desc="simulate", unit="patient", disable=not progress):
        site = names[int(np.random.default_rng([seed, number, 5]).integers(len(names)))]
        patient = f"mp{seed}_{number:04d}"
        for label, image in simulate_prostate_patient(number, centre=site, seed=seed).items():
            # A name that says nothing about the sequence.
            series = f"{patient}_s{_series_numbers(number, seed)[label]}"
            path = f"images/{series}.nii.gz"
            write_image(image, folder / path)
            rows.append(dict(zip(COLUMNS, (series, patient, path, label, site), strict=True)))
    return write_csv(pd.DataFrame(rows, columns=list(COLUMNS)), folder / "series.csv")


def simulate_prostate_patient(number: int, *, centre: str, seed: int = 0) -> dict[str, sitk.Image]:
    """Simulate the five series of one patient; patients can be simulated in any order and in parallel.

    Parameters
    ----------
    number, seed : int
        Not negative; with ``centre`` they determine every voxel. The anatomy depends on these two alone.
    centre : str
        Key of :data:`PROSTATE_SITES`.

    Returns
    -------
    dict of str to SimpleITK.Image
        int16 volumes in arbitrary units, never negative, by class (:data:`CLASSES`). Their grids differ: T2 with and
        without fat saturation have one each, DWI and ADC share a third.

    Raises
    ------
    InputError
        For a negative number or seed, or an unknown centre.
    """
    _check_seed(number, seed)
    site = PROSTATE_SITES[_checked_centres([centre])[0]]
    pelvis = _paint_pelvis(np.random.default_rng([seed, number, 96]))
    rng = np.random.default_rng([seed, number, 97, sorted(PROSTATE_SITES).index(centre)])
    grids = {family: _draw_grid(site, rng) for family in ("t2", "t2_fs", "dwi")}
    series = {name: (_scan_t2(pelvis, site, grids[name], name == "t2_fs", rng), grids[name]) for name in CLASSES[:2]}
    for name, values in _scan_diffusion(pelvis, site, grids["dwi"], rng).items():
        series[name] = (values, grids["dwi"])
    return {name: _store(*series[name], rng) for name in CLASSES}


def _checked_centres(centres: Sequence[str] | None) -> list[str]:
    if centres is None:
        return list(PROSTATE_SITES)
    if isinstance(centres, str) or not len(centres):
        raise InputError(
            f"Expected a list of centres; found {centres!r}.", advice=f"Valid: {', '.join(PROSTATE_SITES)}."
        )
    for name in centres:
        if name not in PROSTATE_SITES:
            raise unknown_name("centre", name, PROSTATE_SITES)
    return list(centres)


def _check_seed(number: int, seed: int) -> None:
    if number < 0 or seed < 0:
        raise InputError(f"Expected a number and a seed of 0 or more; found number={number} and seed={seed}.")


def _series_numbers(number: int, seed: int) -> dict[str, int]:
    """Order of the series within an examination, at random."""
    order = np.random.default_rng([seed, number, 6]).permutation(len(CLASSES))
    return {name: int(place) + 1 for name, place in zip(CLASSES, order, strict=True)}


def _paint_pelvis(rng: np.random.Generator) -> _Pelvis:
    """Paint one patient: body, muscles and bones from the outside in, then the organs, then texture."""
    pelvis = _Pelvis(rng)
    _body(pelvis)
    _bones(pelvis)
    _vessels(pelvis)
    _bladder(pelvis)
    _rectum(pelvis)
    _prostate(pelvis)
    fine = pelvis.noise(1.2)
    pelvis.maps["water"] *= 1 + 0.04 * pelvis.texture
    pelvis.maps["fat"] *= 1 + 0.05 * pelvis.texture
    pelvis.maps["t2_ms"] *= np.exp(0.07 * fine)
    pelvis.maps["adc"] *= np.exp(0.06 * fine)
    return pelvis


def _body(pelvis: _Pelvis) -> None:
    """Paint the outline, fat, the muscles of the wall and the floor, and the fat around the organs."""
    rng = pelvis.rng
    outline = pelvis.column(2, 0, rng.uniform(92, 115), rng.uniform(160, 190)) + 1.5 * pelvis.waves
    pelvis.lay(outline, "fat", 1.5)
    streaks = pelvis.noise(4.0)
    wall = pelvis.column(6, 0, rng.uniform(66, 76), rng.uniform(118, 135)) + 3 * pelvis.waves
    pelvis.lay(np.minimum(wall, 6 * (np.abs(streaks) - rng.uniform(0.1, 0.25))), "muscle")
    # Gluteus maximus on each side of the cleft, coarse bundles between fat.
    for side in (-1, 1):
        muscle = pelvis.column(62, 66 * side, rng.uniform(17, 24), 52) + 2 * pelvis.waves
        pelvis.lay(np.minimum(muscle, 6 * (np.abs(streaks) - rng.uniform(0.05, 0.3))), "muscle")
    pelvis.lay(pelvis.column(8, 0, 48, rng.uniform(42, 47)) + 1.5 * pelvis.waves, "fat", 3.0)
    # Levator ani: a thin sling around prostate and rectum, wider above.
    opening = pelvis.scale * (24 + 0.35 * np.clip(pelvis.z + 30, 0, 40))
    sling = np.sqrt(((pelvis.y - 12) / 1.4) ** 2 + pelvis.x**2) - opening
    low = 14 * pelvis.scale - pelvis.z
    pelvis.lay(np.minimum(np.minimum(2.2 - np.abs(sling), low), pelvis.y + 14), "muscle", 1.6)


def _bones(pelvis: _Pelvis) -> None:
    """Paint pubis, acetabulum, ischium and coccyx: marrow in a shell of cortex, cartilage in the symphysis."""
    rng = pelvis.rng
    marrow = "marrow" if rng.random() < 0.7 else "red_marrow"
    for side in (-1, 1):
        for centre, radii in (
            ((-6, -46, 19 * side), (19, 11, 17)),
            ((-2, -38, 48 * side), (9, 9, 22)),
            ((14, -4, 74 * side), (26, 30, 17)),
            ((-22, 24, 60 * side), (20, 17, 12)),
            ((12, -8, 104 * side), (24, 24, 24)),
        ):
            place = np.add(centre, rng.normal(0, 1.5, 3))
            pelvis.ball(place, np.multiply(radii, rng.normal(1, 0.06)), marrow, waves_mm=1.0, shell=("cortex", 3.0))
    pelvis.ball((-6, -47, 0), (17, 9, 3.0), "cartilage")
    pelvis.ball((12, 69, 0), (32, 8, 10), marrow, shell=("cortex", 2.0))


def _vessels(pelvis: _Pelvis) -> None:
    """Paint femoral vessels (flow voids), the venous plexus around the prostate, and the penile bulb."""
    rng = pelvis.rng
    for side in (-1, 1):
        for x in (46, 57):
            distance = np.hypot(pelvis.y + 66 + 0.15 * pelvis.z, pelvis.x - side * x * pelvis.scale)
            pelvis.lay(np.broadcast_to(rng.uniform(4, 6) - distance, CANVAS_SHAPE), "flow", 1.5)
        for _ in range(int(rng.integers(5, 12))):
            place = (rng.uniform(-18, 22), rng.uniform(0, 17), side * rng.uniform(24, 31))
            pelvis.ball(place, rng.uniform(1.8, 3.5) * np.array((2.0, 1.0, 1.0)), "vein", edge_mm=1.5)
    for _ in range(int(rng.integers(5, 14))):
        place = (rng.uniform(-24, 14), rng.uniform(-29, -21), rng.uniform(-16, 16))
        pelvis.ball(place, rng.uniform(2.0, 4.0, 3), "vein", edge_mm=1.5)
    pelvis.ball((-40, -2, 0), (11, 15, 14), "vein", waves_mm=1.0)


def _bladder(pelvis: _Pelvis) -> None:
    """Paint a more or less full bladder above the prostate."""
    rng = pelvis.rng
    radii = rng.uniform((16, 18, 22), (34, 32, 40))
    thick = rng.uniform(2.5, 6.0)
    place = (17 + radii[0], rng.uniform(-20, -10), rng.uniform(-4, 4))
    pelvis.ball(place, radii + thick, "urine", waves_mm=1.5, shell=("bladder_wall", thick))


def _rectum(pelvis: _Pelvis) -> None:
    """Paint the rectum with gas, which lies in front (the patient lies on the back), above stool or mucus."""
    rng, s = pelvis.rng, pelvis.scale
    wide = rng.random() < 0.6
    half = rng.uniform(9, 17) if wide else rng.uniform(5, 8)
    middle_y = s * (rng.uniform(22, 26) + half + 0.008 * (pelvis.z - 5) ** 2)
    middle_x = rng.uniform(-5, 5) * np.sin(pelvis.z / 22 + rng.uniform(0, 6))
    stretch = rng.uniform(1.0, 1.5)
    distance = np.hypot(pelvis.y - middle_y, (pelvis.x - middle_x) / stretch)
    lumen = s * half * (1 + 0.15 * np.sin(pelvis.z / 9 + rng.uniform(0, 6))) - distance + 0.8 * pelvis.waves
    pelvis.lay(lumen + rng.uniform(3, 5), "rectal_wall")
    pelvis.lay(lumen, "stool" if wide and rng.random() < 0.5 else "mucus", 1.5)
    if wide:
        level = middle_y + rng.uniform(-0.9, 1.0) * half
        gas = np.minimum(lumen, level - pelvis.y)
        pelvis.lay(np.minimum(gas, pelvis.z - rng.uniform(-40, 0)), "gas", 1.5)


def _prostate(pelvis: _Pelvis) -> None:
    """Paint seminal vesicles, capsule, peripheral zone, transition zone with nodules, stroma, urethra and tumours."""
    rng, s = pelvis.rng, pelvis.scale
    radii = np.array((19.0, 16.0, 23.0)) * np.exp(rng.normal(0, (0.10, 0.10, 0.08))) * s
    folds = pelvis.noise(1.8)
    for side in (-1, 1):
        vesicle = _tilted(pelvis, (radii[0] + 5, 15, 15 * side), (7, 6, 18), 0.25 * side)
        pelvis.lay(vesicle, "bladder_wall")
        pelvis.lay(np.minimum(vesicle - 1.0, 2.2 * (np.abs(folds) - 0.35)), "vesicle", 1.2)
    centre = [-float(axis[0]) for axis in pelvis.axes]
    whole = deformed_ellipsoid(CANVAS_SHAPE, CANVAS_SPACING, centre, radii, 0.04, rng)
    pelvis.lay(whole + 1.2, "capsule", 1.6)
    pelvis.lay(whole, "peripheral", 1.6)
    pelvis.maps["t2_ms"] *= np.exp(0.12 * folds * soft_edge(whole, 1.6))
    inner = radii * rng.uniform(0.58, 0.86) * np.array((1.0, 0.95, 1.0))
    middle = (0.12 * radii[0], -0.22 * radii[1], 0.0)
    place = [c + m for c, m in zip(centre, middle, strict=True)]
    transition = np.minimum(deformed_ellipsoid(CANVAS_SHAPE, CANVAS_SPACING, place, inner, 0.06, rng), whole - 1.0)
    pelvis.lay(transition + 1.0, "capsule", 1.5)
    pelvis.lay(transition, "transition", 1.5)
    for _ in range(int(rng.poisson(1 + 9 * (inner[2] / radii[2] - 0.5) / 0.3))):
        _nodule(pelvis, middle, inner)
    pelvis.ball((0, -0.85 * radii[1] / s, 0), (12, 3.5, 10), "capsule")
    pelvis.ball((-6, 1, 0), (9, 2.2, 2.5), "vesicle", edge_mm=1.5)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.4, 0.45, 0.15]))):
        angle = rng.uniform(0.1, np.pi - 0.1)
        spot = (rng.uniform(-10, 8), 0.72 * radii[1] * np.sin(angle) / s, 0.76 * radii[2] * np.cos(angle) / s)
        pelvis.ball(spot, rng.uniform(3.5, 8.5, 3), "tumour", waves_mm=0.8, edge_mm=3.0)


def _nodule(pelvis: _Pelvis, middle: Triple, inner: np.ndarray) -> None:
    """Paint a nodule of hyperplasia, glandular (bright) to stromal (dark), in its rim."""
    rng = pelvis.rng
    share = rng.beta(0.9, 0.9)
    tissue = Tissue(0.83, 0.0, 65 + 130 * share, 1.05 + 0.75 * share)
    direction = rng.normal(size=3)
    place = np.add(middle, inner * direction / np.linalg.norm(direction) * rng.uniform(0, 0.72)) / pelvis.scale
    pelvis.ball(place, rng.uniform(3, 9) * rng.uniform(0.8, 1.2, 3), tissue, waves_mm=0.5, shell=("capsule", 0.8))


def _tilted(pelvis: _Pelvis, centre: Triple, radii: Triple, slope: float) -> np.ndarray:
    """Depth (mm) in an ellipsoid that rises sideways."""
    (cz, cy, cx), (rz, ry, rx) = centre, radii
    z, x = pelvis.z - cz - slope * (pelvis.x - cx), pelvis.x - cx
    return min(radii) * (1 - np.sqrt((z / rz) ** 2 + ((pelvis.y - cy) / ry) ** 2 + (x / rx) ** 2))


def _draw_grid(site: ProstateSite, rng: np.random.Generator) -> _Grid:
    """Draw the stored grid of a series: the same choice for every sequence, as scanners interpolate."""
    step = float(np.round(rng.uniform(*site.field_of_view_mm) / site.matrix, 3))
    thickness = float(rng.choice(site.thickness_mm))
    z, y, x = rng.normal(0, (3, 3, 2)).tolist()
    return _Grid((site.slices, site.matrix, site.matrix), (thickness, step, step), (z, y, x))


def _sample(pelvis: _Pelvis, values: np.ndarray, grid: _Grid, shift_mm: tuple[float | np.ndarray, float]) -> np.ndarray:
    """Values of the canvas on a grid's slices; what lies ``shift_mm`` (y, x) before a voxel is seen in it."""
    z, y, x = np.meshgrid(*grid.axes(), indexing="ij", sparse=True)
    points = np.empty((3, 2 * grid.shape[0], *grid.shape[1:]), np.float32)
    for number, position in enumerate((z, y - shift_mm[0], x - shift_mm[1])):
        points[number] = (position - pelvis.axes[number][0]) / CANVAS_SPACING[number]
    return average_half_slices(ndimage.map_coordinates(values, points, order=1, mode="nearest"))


def _scan_t2(
    pelvis: _Pelvis, site: ProstateSite, grid: _Grid, suppressed: bool, rng: np.random.Generator
) -> np.ndarray:
    """Signal of a T2 series; fat lies a pixel or two beside water."""
    te = rng.uniform(*site.te_t2_ms)
    maps = pelvis.maps
    fat = maps["fat"] * np.exp(-te / (FAT_T2_MS * np.exp(rng.normal(0, 0.12))))
    if suppressed:
        fat *= _unsuppressed(pelvis, site, rng)
    water = maps["water"] * np.exp(-te / maps["t2_ms"])
    signal = _sample(pelvis, water, grid, (0.0, 0.0)) + _sample(pelvis, fat, grid, (0.0, rng.uniform(0.5, 3.0)))
    return _receive(signal, site, grid, site.resolution_mm[0], site.noise_t2 * np.exp(rng.normal(0, 0.25)), rng)[0]


def _scan_diffusion(
    pelvis: _Pelvis, site: ProstateSite, grid: _Grid, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Echo-planar images at two b-values, and the ADC (um2/ms) computed from them with their noise."""
    te, b_low, b_high = rng.uniform(*site.te_dwi_ms), rng.choice(site.b_low), rng.choice(site.b_high)
    polarity = float(rng.choice((-1, 1)))
    field_ppm = _field(pelvis) + rng.uniform(0.02, 0.08) * pelvis.waves
    shift = polarity * PROTON_MHZ / site.bandwidth_hz * _sample(pelvis, field_ppm, grid, (0.0, 0.0))
    fat_shift = polarity * PROTON_MHZ / site.bandwidth_hz * FAT_SHIFT_PPM
    maps = pelvis.maps
    fat = maps["fat"] * np.exp(-te / 70.0) * _unsuppressed(pelvis, site, rng)
    fat_seen = _sample(pelvis, fat, grid, (np.repeat(shift, 2, axis=0) + fat_shift, 0.0))
    ghost, noise = rng.uniform(0.2, 1.0) * site.ghost, site.noise_dwi * np.exp(rng.normal(0, 0.25))
    images, b_values, sensitivity = [], (b_low, b_high), None
    for b in b_values:
        water = maps["water"] * np.exp(-te / maps["t2_ms"] - b / 1000 * maps["adc"])
        # Eddy currents of the diffusion gradients stretch and shift by up to some millimetres.
        y = grid.axes()[1][:, None]
        eddy = b / 1000 * (rng.normal(0, 0.6) + rng.normal(0, 0.008) * y)
        seen = _sample(pelvis, water, grid, (np.repeat(shift + eddy, 2, axis=0), 0.0))
        # Stretched tissue is fainter, squeezed tissue brighter.
        seen *= np.clip(1 - np.gradient(shift, grid.spacing[1], axis=1), 0.2, 3.0)
        seen += fat_seen * np.exp(-b / 1000 * 0.05)
        seen += ghost * np.roll(seen, grid.shape[1] // 2, axis=1)
        averages = 1.0 if b < 500 else 1.5
        image, sensitivity = _receive(
            seen, site, grid, site.resolution_mm[1], noise / averages, rng, sensitivity=sensitivity
        )
        images.append(image)
    return {"dwi_low": images[0], "dwi_high": images[1], "adc": _adc(images, b_values, site, noise)}


def _adc(images: Sequence[np.ndarray], b_values: Sequence[float], site: ProstateSite, noise: float) -> np.ndarray:
    """ADC (um2/ms) from two noisy images, 0 to 4; some centres clear the background."""
    low, high = (np.maximum(image, 1e-4) for image in images)
    adc = np.clip(np.log(low / high) * 1000 / (b_values[1] - b_values[0]), 0, 4)
    return np.where(low < 5 * noise, 0.0, adc) if site.masked_adc else adc


def _unsuppressed(pelvis: _Pelvis, site: ProstateSite, rng: np.random.Generator) -> np.ndarray:
    """Share of the fat signal that remains: more where the field is off, mostly at the skin."""
    level = rng.uniform(*site.unsuppressed_fat)
    slope = rng.normal(0, (0.004, 0.005, 0.005))
    place = slope[0] * pelvis.z + slope[1] * pelvis.y + slope[2] * pelvis.x
    return np.clip(level * (1 + 0.4 * pelvis.waves) + np.maximum(place - 0.25, 0), 0.02, 1.0)


def _field(pelvis: _Pelvis) -> np.ndarray:
    """Field (ppm) of the rectal gas: its susceptibility convolved with a dipole along z; shimmed on the prostate."""
    near = np.hypot(pelvis.y - 30, pelvis.x) < 50
    spectrum = fft.rfftn(GAS_PPM * np.where(near, pelvis.gas, 0.0).astype(np.float32))
    frequencies = [fft.fftfreq(n, step) for n, step in zip(CANVAS_SHAPE[:2], CANVAS_SPACING[:2], strict=True)]
    frequencies.append(fft.rfftfreq(CANVAS_SHAPE[2], CANVAS_SPACING[2]))
    kz, ky, kx = np.meshgrid(*frequencies, indexing="ij", sparse=True)
    square = kz**2 + ky**2 + kx**2
    square[0, 0, 0] = 1.0
    dipole = 1 / 3 - kz**2 / square
    dipole[0, 0, 0] = 0.0
    field = fft.irfftn(spectrum * dipole.astype(np.float32), s=CANVAS_SHAPE)
    inside = (np.abs(pelvis.z) < 15) & (np.abs(pelvis.y) < 12) & (np.abs(pelvis.x) < 20)
    shimmed = field - np.median(field[inside])
    return np.clip(shimmed, -2.5, 2.5).astype(np.float32)


def _receive(
    signal: np.ndarray,
    site: ProstateSite,
    grid: _Grid,
    resolution_mm: float,
    noise: float,
    rng: np.random.Generator,
    *,
    sensitivity: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Blur, shade, add Rician noise; also the coils' sensitivity, which images of one scan share."""
    if sensitivity is None:
        _, y, x = np.meshgrid(*grid.axes(), indexing="ij", sparse=True)
        near_skin = (y / 90) ** 2 * (1 + 0.4 * rng.normal() * np.sign(y)) + 0.3 * (x / 90) ** 2
        sensitivity = np.exp(site.shading * (near_skin + 0.25 * correlated_noise(grid.shape, 45.0, grid.spacing, rng)))
    received = blur(signal, (0.1, resolution_mm, resolution_mm), grid.spacing) * sensitivity
    scale_mm = 0.25 * resolution_mm
    channels = [noise * correlated_noise(grid.shape, scale_mm, grid.spacing, rng) for _ in range(2)]
    magnitude = np.hypot(received + channels[0], channels[1])
    return (magnitude / sensitivity if site.normalised else magnitude), sensitivity


def _store(values: np.ndarray, grid: _Grid, rng: np.random.Generator) -> sitk.Image:
    """Scale and shift at random, so that no unit is left; int16."""
    highest = float(np.quantile(values, 0.995))
    gain = np.exp(rng.uniform(np.log(250), np.log(6000))) / max(highest, 1e-6)
    offset = rng.uniform(0, 0.15) * gain * highest * (rng.random() < 0.5)
    stored = np.clip(np.round(gain * values + offset), 0, 32767).astype(np.int16)
    reference = sitk.Image([int(n) for n in reversed(grid.shape)], sitk.sitkInt16)
    reference.SetSpacing(grid.spacing[::-1])
    corners = [c - (n - 1) / 2 * step for c, n, step in zip(grid.centre, grid.shape, grid.spacing, strict=True)]
    reference.SetOrigin(corners[::-1])
    return from_array(stored, reference)
