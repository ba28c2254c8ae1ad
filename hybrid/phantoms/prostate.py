"""A simulated cohort of multiparametric prostate MRI: which sequence is a series, when its header cannot be trusted?

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
    "A": ProstateSite(96, (165, 200), 20, (3.5, 4.0), (95, 120), (60, 75), (0, 50), (800, 1000, 1400),
                      (1.6, 2.0), 0.016, 0.014, 0.5, True, 14.0, 0.04, (0.05, 0.3), False),
    "B": ProstateSite(104, (150, 190), 22, (3.0, 3.5), (85, 105), (70, 85), (50, 100, 200), (600, 800, 1000),
                      (1.8, 2.6), 0.030, 0.022, 0.8, False, 9.0, 0.09, (0.1, 0.45), True),
    "C": ProstateSite(88, (175, 205), 18, (4.0, 4.4), (100, 140), (65, 90), (0, 100, 300), (500, 1000, 2000),
                      (2.0, 2.3), 0.022, 0.018, 0.6, False, 11.0, 0.06, (0.05, 0.35), False),
}  # fmt: skip
"""Simulated centres by name."""


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

    def ball(self, centre: Triple, radii: Triple, tissue: str | Tissue, *, waves_mm: float = 0.0,
             edge_mm: float = 2.0, shell: tuple[str, float] | None = None) -> None:  # fmt: skip
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
