"""A simulated MRI cohort: venous malformations of the head and neck on fat-suppressed T2, to be segmented.

The malformation is bright, but so are cerebrospinal fluid, eyes, glands, mucosa, lymph nodes, slow veins and fat that
escaped suppression: a threshold is not enough, see :func:`threshold_baseline`. Three types are painted: *multilobed*
(a chain of bright lobules), *septated* (one mass cut by dark septa) and *infiltrating* (between muscle fibres, with
margins that fade out). Some hold phleboliths, tiny dark dots.

The cohort has the size of Ryu et al. 2022 (https://doi.org/10.3390/jcm11195593): 53 patients, segmented by a 3D U-Net
with a Dice of 99.75 % in training and 60.62 % in the test patients. The patients here are a test object with known
truth. They were not fitted to real ones and say nothing about the disease.

Notes
-----
Signals are in arbitrary units before the scanner's gain, chosen by eye: muscle 32, fluid about 150.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage
from tqdm.auto import tqdm

from hybrid.cases import Cohort
from hybrid.errors import InputError
from hybrid.files import write_csv
from hybrid.images import from_array, to_array, write_image
from hybrid.mri import foreground_mask

from .fields import average_half_slices, blur, correlated_noise, largest_part, soft_edge

SHAPE: Final = (24, 112, 112)
"""Voxels (z, y, x); z points to the head, y to the back, x to the patient's left."""

TYPES: Final = ("multilobed", "septated", "infiltrating")
"""Types of malformation."""

TYPE_SHARES: Final = (0.4, 0.3, 0.3)
"""How often each type occurs."""

COHORT_COLUMNS: Final = ("case_id", "patient_id", "image", "mask", "site")
"""Columns of ``cohort.csv``; all others are truth."""


Triple: TypeAlias = Sequence[float] | np.ndarray


@dataclass(frozen=True)
class MRSite:
    """A scanner with its protocol.

    Attributes
    ----------
    spacing : tuple of float
        Voxel size (z, y, x) in mm; z is the slice thickness.
    noise : float
        Standard deviation of each channel of the noise (muscle is 32).
    shading : float
        Standard deviation of the logarithm of the coils' bias field.
    gain : float
        Typical factor from signal to stored value.
    """

    spacing: tuple[float, float, float]
    noise: float
    shading: float
    gain: float


MR_SITES: Final[Mapping[str, MRSite]] = {
    "A": MRSite((4.0, 1.6, 1.6), 3.0, 0.18, 8.0),
    "B": MRSite((5.0, 1.75, 1.75), 4.5, 0.28, 2.5),
    "C": MRSite((4.5, 1.65, 1.65), 4.0, 0.22, 1.2),
}
"""Simulated scanners by name."""

SIGNAL: Final[Mapping[str, float]] = {
    "skin": 55.0,
    "fat": 20.0,
    "muscle": 32.0,
    "marrow": 24.0,
    "cortex": 4.0,
    "brain": 62.0,
    "fluid": 150.0,
    "disc": 70.0,
    "parotid": 62.0,
    "submandibular": 82.0,
    "tongue": 42.0,
    "mucosa": 108.0,
    "tonsil": 98.0,
    "node": 95.0,
    "vein": 105.0,
    "artery": 5.0,
    "eye": 165.0,
}
"""Mean signal of tissues on fat-suppressed T2; each patient's differ by about a tenth."""

REGIONS: Final[Mapping[str, tuple[float, float, float]]] = {
    "masseter": (-5.0, -18.0, 50.0),
    "cheek": (2.0, -48.0, 42.0),
    "parotid": (0.0, 6.0, 54.0),
    "lip": (-8.0, -74.0, 16.0),
    "tongue": (-8.0, -42.0, 11.0),
    "floor_of_mouth": (-24.0, -38.0, 18.0),
    "submandibular": (-28.0, -12.0, 36.0),
    "neck": (-36.0, 14.0, 40.0),
    "temple": (30.0, -28.0, 58.0),
    "parapharyngeal": (-2.0, 0.0, 28.0),
}
"""Where malformations sit: offset (z, y, |x|) in mm from the middle of the head at a scale of 1."""

READER_MM: Final = (0.5, 0.6)
"""A reader's error of the border: SD over patients, and SD along the border (mm)."""


@dataclass(frozen=True)
class Malformation:
    """What a malformation is painted from.

    Attributes
    ----------
    type : {"multilobed", "septated", "infiltrating"}
        See the head of this module.
    region, side : str
        Key of :data:`REGIONS`; ``"left"`` or ``"right"``.
    n_lobes : int
        Number of lobules.
    lobe_mm : float
        Mean radius of a lobule (mm).
    signal : float
        Signal of the blood-filled spaces.
    n_phleboliths : int
        Number of dark dots.
    edge_mm : float
        Width of the border (mm).
    """

    type: str
    region: str
    side: str
    n_lobes: int
    lobe_mm: float
    signal: float
    n_phleboliths: int
    edge_mm: float


@dataclass
class _Canvas:
    """Signal on half slices, with coordinates (mm) from the middle of the head; ``lay`` paints over it."""

    values: np.ndarray
    z: np.ndarray
    y: np.ndarray
    x: np.ndarray
    spacing: tuple[float, float, float]
    scale: float
    signal: Mapping[str, float]
    rng: np.random.Generator

    def noise(self, scale_mm: float) -> np.ndarray:
        """Correlated noise over the whole field."""
        return correlated_noise(self.values.shape, scale_mm, self.spacing, self.rng)

    def lay(self, depth: np.ndarray, signal: str | float | np.ndarray, edge_mm: float = 1.5) -> None:
        """Paint tissue where ``depth`` (mm) is positive."""
        value = self.signal[signal] if isinstance(signal, str) else signal
        self.values += soft_edge(depth, edge_mm) * (value - self.values)

    def ball(self, centre: Triple, radii: Triple, signal: str | float, edge_mm: float = 1.5) -> None:
        """Paint an ellipsoid (z, y, x; mm at a scale of 1), within the box around it only."""
        middle, half = self.scale * np.asarray(centre), self.scale * np.asarray(radii)
        axes = (self.z.ravel(), self.y.ravel(), self.x.ravel())
        parts = []
        for axis, c, r in zip(axes, middle, half, strict=True):
            first, last = np.searchsorted(axis, (c - r - 3, c + r + 3))
            parts.append(slice(int(first), int(last)))
        z, y, x = (
            ((axis[part] - c) / r).reshape([-1 if k == axis_number else 1 for k in range(3)])
            for axis_number, (axis, part, c, r) in enumerate(zip(axes, parts, middle, half, strict=True))
        )
        depth = half.min() * (1 - np.sqrt(z**2 + y**2 + x**2))
        box = self.values[tuple(parts)]
        value = self.signal[signal] if isinstance(signal, str) else signal
        box += soft_edge(depth, edge_mm) * (value - box)

    def column(self, y: float, x: float, half_y: float, half_x: float) -> np.ndarray:
        """Depth (mm) inside an elliptic column along z; shape (1, y, x)."""
        s = self.scale
        distance = np.sqrt(((self.y - s * y) / (s * half_y)) ** 2 + ((self.x - s * x) / (s * half_x)) ** 2)
        return s * min(half_y, half_x) * (1 - distance)

    def upto(self, low: float, high: float) -> np.ndarray:
        """Depth (mm) inside the slab from ``low`` to ``high`` along z; shape (z, 1, 1)."""
        return np.minimum(self.z - self.scale * low, self.scale * high - self.z)


def simulate_malformation_cohort(folder: str | Path, *, n: int = 53, seed: int = 0, progress: bool = False) -> Cohort:
    """Simulate a cohort and write it to disk.

    Parameters
    ----------
    folder : path-like
        Gets ``images/`` (int16), ``masks/`` (the malformation, 1, as an imperfect reader draws it), ``cohort.csv``
        (case_id, patient_id, image, mask, site; paths relative to it) and ``truth.csv`` (type, volume and what else
        each malformation was painted from: to judge results by, never to predict from).
    n : int
        Number of patients, one malformation each. The patients of a smaller cohort are the first ones of a larger
        cohort with the same seed; half of them have it on the left.
    seed : int
        Not negative. The same seed gives the same voxels.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Cohort
        The cases of ``cohort.csv``.

    Raises
    ------
    InputError
        For fewer than one patient or a negative seed.
    """
    if n < 1:
        raise InputError(f"A cohort needs at least 1 patient; found n={n}.", advice="53 as published.")
    folder, rows = Path(folder), []
    for number in tqdm(range(n), desc="simulate", unit="patient", disable=not progress):
        image, mask, row = simulate_malformation_patient(number, seed)
        write_image(image, folder / row["image"])
        write_image(mask, folder / row["mask"])
        rows.append(row)
    table = pd.DataFrame(rows)
    truth = ["case_id", *(name for name in table.columns if name not in COHORT_COLUMNS)]
    write_csv(table[truth], folder / "truth.csv")
    write_csv(table[list(COHORT_COLUMNS)], folder / "cohort.csv")
    return Cohort.from_csv(folder / "cohort.csv")


def simulate_malformation_patient(number: int, seed: int = 0) -> tuple[sitk.Image, sitk.Image, dict[str, Any]]:
    """Simulate one patient; patients can be simulated in any order and in parallel.

    Parameters
    ----------
    number, seed : int
        Not negative; they determine the case id and every voxel.

    Returns
    -------
    image : SimpleITK.Image
        int16, arbitrary units, never negative; :data:`SHAPE` voxels.
    mask : SimpleITK.Image
        uint8: the malformation (1) as a reader draws it, with its septa and phleboliths.
    row : dict
        The columns of ``cohort.csv`` (:data:`COHORT_COLUMNS`), then those of ``truth.csv``.

    Raises
    ------
    InputError
        For a negative number or seed.
    """
    if number < 0 or seed < 0:
        raise InputError(f"Expected a number and a seed of 0 or more; found number={number} and seed={seed}.")
    rng = np.random.default_rng([seed, number, 53])
    case_id = f"vm{seed}_{number:04d}"
    name = str(rng.choice(list(MR_SITES)))
    lesion = draw_malformation("left" if _is_left(number, seed) else "right", rng)
    image, mask = paint_malformation(lesion, MR_SITES[name], rng)
    volume_ml = float(to_array(mask).sum() * np.prod(image.GetSpacing()) / 1000)
    row = {
        "case_id": case_id,
        "patient_id": case_id,
        "image": f"images/{case_id}.nii.gz",
        "mask": f"masks/{case_id}.nii.gz",
        "site": name,
        **asdict(lesion),
        "volume_ml": volume_ml,
    }
    return image, mask, row


def draw_malformation(side: str, rng: np.random.Generator) -> Malformation:
    """Draw type, place, size and signal of a malformation.

    Parameters
    ----------
    side : {"left", "right"}
        Side of the patient.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    Malformation
        Its lobules aim at 1.5 to 60 ml; overlap, stretch and the skin make that 0.5 to 120 ml.
    """
    kind = str(rng.choice(TYPES, p=TYPE_SHARES))
    low, high = {"multilobed": (4, 12), "septated": (1, 3), "infiltrating": (2, 6)}[kind]
    lobes = int(rng.integers(low, high + 1))
    volume_ml = float(np.clip(np.exp(rng.normal(np.log(9.0), 0.8)), 1.5, 60.0))
    mean, spread = (112.0, 18.0) if kind == "infiltrating" else (138.0, 22.0)
    return Malformation(
        type=kind,
        region=str(rng.choice(list(REGIONS))),
        side=side,
        n_lobes=lobes,
        lobe_mm=float((1000 * volume_ml / lobes / (4.19 * 0.75)) ** (1 / 3)),
        signal=float(np.clip(rng.normal(mean, spread), 75, 190)),
        n_phleboliths=int(rng.poisson(0.6 if kind == "infiltrating" else 1.8)),
        edge_mm=float(rng.uniform(4.0, 9.0) if kind == "infiltrating" else rng.uniform(1.0, 2.5)),
    )


def paint_malformation(lesion: Malformation, site: MRSite, rng: np.random.Generator) -> tuple[sitk.Image, sitk.Image]:
    """Paint head, neck and malformation on half slices, and scan them.

    Parameters
    ----------
    lesion : Malformation
        What to paint.
    site : MRSite
        Scanner.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    image : SimpleITK.Image
        int16.
    mask : SimpleITK.Image
        uint8: the malformation (1) as a reader draws it.
    """
    canvas, skin_depth = _head(site, rng)
    depth = _lesion_depth(lesion, canvas, skin_depth)
    _lay_lesion(lesion, canvas, depth)
    canvas.values *= soft_edge(skin_depth, 1.5)
    whole, local = READER_MM
    drawn = depth + rng.normal(0, whole) + local * canvas.noise(5.0)
    mask = largest_part(average_half_slices(((drawn > 0) & (skin_depth > 0)).astype(np.float32)) >= 0.5)
    volumes = [_scan(canvas, site), mask.astype(np.uint8)]
    reference = sitk.Image([int(n) for n in reversed(SHAPE)], sitk.sitkUInt8)
    reference.SetSpacing(site.spacing[::-1])
    return from_array(volumes[0], reference), from_array(volumes[1], reference)


def threshold_baseline(image: sitk.Image) -> sitk.Image:
    """Segment the largest connected set of bright voxels: a yardstick that should do badly.

    Bright is more than twice as far above the foreground's median as its 75th percentile, and at least twice the
    median. Nothing is learned. The result is often the brain or its fluid.

    Parameters
    ----------
    image : SimpleITK.Image
        Fat-suppressed T2 image, not negative.

    Returns
    -------
    SimpleITK.Image
        uint8, 1 in the segmented part; on the grid of ``image``. Empty when nothing is bright.

    Raises
    ------
    InputError
        For values that are negative, not finite or all the same.
    """
    inside = to_array(foreground_mask(image)) > 0
    values = to_array(image).astype(np.float32)
    median, third = np.percentile(values[inside], (50, 75))
    bright = inside & (values > max(median + 2 * (third - median), 2 * median))
    return from_array(largest_part(ndimage.binary_opening(bright, np.ones((1, 2, 2)))).astype(np.uint8), image)


def _is_left(number: int, seed: int) -> bool:
    """One of each pair of patients, in random order: every even number of patients is balanced."""
    return bool((number + int(np.random.default_rng([seed, number // 2, 7]).integers(2))) % 2)


def _head(site: MRSite, rng: np.random.Generator) -> tuple[_Canvas, np.ndarray]:
    """Paint everything but the malformation; also the depth below the skin (mm)."""
    canvas = _blank(site, rng)
    texture, streaks = canvas.noise(1.5), canvas.noise(4.0)
    skin_depth = _outline(canvas) + 1.2 * canvas.noise(14.0)
    fat_mm = float(rng.uniform(3, 9))
    muscle = canvas.signal["muscle"] * (1 + 0.08 * texture)
    # Planes of fat between muscles.
    muscle = muscle + soft_edge(0.25 - np.abs(streaks), 0.3) * (canvas.signal["fat"] - muscle)
    for depth, signal, edge in (
        (skin_depth, canvas.signal["skin"] + 5 * texture, 1.5),
        (skin_depth - 2.0, canvas.signal["fat"] * (1 + 0.12 * texture), 1.5),
        (skin_depth - 2.0 - fat_mm, muscle, 2.0),
    ):
        canvas.lay(depth, signal, edge)
    steps: tuple[Callable[[_Canvas], None], ...] = (
        _spine, _skull, _glands, _face_bones, _sinuses, _airway, _vessels, _nodes, _eyes,
    )  # fmt: skip
    for paint in steps:
        paint(canvas)
    _escaped_fat(canvas, skin_depth, fat_mm)
    canvas.values *= 1 + 0.05 * texture
    return canvas, skin_depth


def _blank(site: MRSite, rng: np.random.Generator) -> _Canvas:
    """Empty field of view; the head is shifted and scaled a little."""
    shape = (2 * SHAPE[0], SHAPE[1], SHAPE[2])
    spacing = (site.spacing[0] / 2, site.spacing[1], site.spacing[2])
    shift = rng.normal(0, (8, 3, 3)) - (0, 6, 0)
    axes = [
        ((np.arange(n) - (n - 1) / 2) * step + offset).astype(np.float32)
        for n, step, offset in zip(shape, spacing, shift, strict=True)
    ]
    signal = {name: value * float(np.exp(rng.normal(0, 0.13))) for name, value in SIGNAL.items()}
    scale = float(np.clip(rng.normal(0.97, 0.05), 0.85, 1.05))
    z, y, x = axes[0][:, None, None], axes[1][None, :, None], axes[2][None, None, :]
    return _Canvas(np.zeros(shape, np.float32), z, y, x, spacing, scale, signal, rng)


def _outline(canvas: _Canvas) -> np.ndarray:
    """Depth below the skin (mm): a neck that widens into face and head, with chin and nose."""
    s = canvas.scale
    rise = 1 / (1 + np.exp(-(canvas.z + 24 * s) / (7 * s)))
    half_y, half_x, middle = s * (52 + 30 * rise), s * (52 + 17 * rise), s * (14 - 18 * rise)
    distance = np.sqrt(((canvas.y - middle) / half_y) ** 2 + (canvas.x / half_x) ** 2)
    depth = s * 56 * (1 - distance)
    nose = 1 - np.sqrt(((canvas.z - 8 * s) / (20 * s)) ** 2 + ((canvas.y + 80 * s) / (17 * s)) ** 2
                       + (canvas.x / (13 * s)) ** 2)  # fmt: skip
    return np.maximum(depth, 13 * s * nose).astype(np.float32)


def _spine(canvas: _Canvas) -> None:
    """Paint vertebrae with discs, and the cord in its fluid."""
    rng, below = canvas.rng, canvas.upto(-200, 14)
    column = np.minimum(canvas.column(20, 0, 10, 13), below)
    canvas.lay(column, "cortex", 2.0)
    phase = rng.uniform(0, 16)
    disc = np.abs((canvas.z + phase) % 16 - 8) - 6.3
    canvas.lay(column - 1.5, "marrow", 1.5)
    canvas.lay(np.minimum(column - 1.5, disc), "disc", 1.5)
    canvas.lay(np.minimum(canvas.column(40, 0, 11, 13), below), "cortex", 2.0)
    canvas.lay(np.minimum(canvas.column(40, 0, 8, 10), below), "fluid", 1.5)
    canvas.lay(np.minimum(canvas.column(40, 0, 4, 6), below), "brain", 1.5)


def _skull(canvas: _Canvas) -> None:
    """Paint skull, fluid and brain above the neck."""
    s = canvas.scale
    back = 10 * s + 0.25 * (66 * s - canvas.z)
    r = np.sqrt(((canvas.z - 66 * s) / (58 * s)) ** 2 + ((canvas.y - back) / (67 * s)) ** 2
                + (canvas.x / (63 * s)) ** 2)  # fmt: skip
    folds = canvas.noise(3.0)
    depth = (56 * s * (1 - r)).astype(np.float32)
    canvas.lay(depth, "cortex", 2.0)
    canvas.lay(depth - 5, "fluid", 1.5)
    brain = canvas.signal["brain"] + 8 * folds
    canvas.lay(depth - 7.5 - 1.5 * folds, brain, 1.5)
    canvas.ball((40, 40, 0), (9, 6, 9), "fluid")


def _glands(canvas: _Canvas) -> None:
    """Paint parotid and submandibular glands, and the tongue."""
    rng = canvas.rng
    for side in (-1, 1):
        canvas.ball(
            np.add(rng.normal(0, 1.5, 3), (-2, 8, 56 * side)), rng.normal(1, 0.1, 3) * (24, 15, 11), "parotid", 3.0
        )
        canvas.ball(
            np.add(rng.normal(0, 2, 3), (-30, -14, 33 * side)), rng.normal(1, 0.12, 3) * (11, 12, 8), "submandibular"
        )
        canvas.ball((-26, -38, 14 * side), (5, 13, 5), 0.85 * canvas.signal["submandibular"])
    canvas.ball((-8, -38, 0), (17, 27, 22), "mucosa")
    canvas.ball((-10, -37, 0), (16, 26, 20), "tongue", 3.0)


def _face_bones(canvas: _Canvas) -> None:
    """Paint mandible, maxilla and teeth: an arch of cortex with marrow inside."""
    s, rng = canvas.scale, canvas.rng
    arch = np.abs(np.sqrt(((canvas.y + 20 * s) / (48 * s)) ** 2 + (canvas.x / (40 * s)) ** 2) - 1) * 42 * s
    front = np.minimum(6 * s - arch, -8 * s - canvas.y)
    for low, high in ((-34, -16), (2, 12)):
        bone = np.minimum(front, canvas.upto(low, high))
        canvas.lay(bone, "cortex", 1.5)
        canvas.lay(bone - 2.5, "marrow", 1.5)
    canvas.lay(np.minimum(np.minimum(front - 1.5, canvas.upto(-16, 2)), 30.0), 0.5 * canvas.signal["muscle"], 2.0)
    for angle in np.linspace(0.25, np.pi - 0.25, 12):
        y, x = -20 - 48 * np.sin(angle), 40 * np.cos(angle)
        canvas.ball((-7, y, x), (9, 2.6, 2.6), 2.0)
    for side in (-1, 1):
        ramus = np.minimum(canvas.column(-4, 43 * side, 13, 4.5), canvas.upto(-28, 22))
        canvas.lay(ramus, "cortex", 1.5)
        canvas.lay(ramus - 1.8, "marrow", 1.5)
    if rng.random() < 0.2:
        canvas.ball((-7, -20 - 48 * np.sin(0.6), 40 * np.cos(0.6) * rng.choice((-1, 1))), (10, 12, 10), 0.0, 6.0)


def _sinuses(canvas: _Canvas) -> None:
    """Paint nose and maxillary sinuses: air with swollen mucosa, sometimes a bright cyst."""
    rng = canvas.rng
    canvas.ball((20, -52, 0), (19, 32, 14), "cortex")
    canvas.ball((20, -52, 0), (17, 30, 12), 0.0)
    for side in (-1, 1):
        for z in (10, 20):
            canvas.ball((z, -50, 6 * side), (4, 22, rng.uniform(2.5, 4)), "mucosa")
        thick = rng.uniform(0.5, 4.0) if rng.random() < 0.75 else rng.uniform(6, 11)
        radii = np.asarray((14.0, 16.0, 12.5)) * rng.normal(1, 0.1)
        canvas.ball((22, -48, 30 * side), radii + 2, "cortex")
        canvas.ball((22, -48, 30 * side), radii, "mucosa")
        canvas.ball((22 + thick / 3, -48, 30 * side), np.maximum(radii - thick, 2.0), 0.0)
        if rng.random() < 0.3:
            canvas.ball((15, -44, 30 * side), (7, 8, 8), 0.95 * canvas.signal["fluid"])
    canvas.lay(np.minimum(canvas.column(-50, 0, 26, 1.2), canvas.upto(6, 36)), "mucosa")


def _airway(canvas: _Canvas) -> None:
    """Paint pharynx, larynx and trachea in their mucosa, and the tonsils."""
    rng = canvas.rng
    wall, half = rng.uniform(2, 4), float(rng.uniform(5, 8))
    inside = np.minimum(canvas.column(-5, 0, half, 10), canvas.upto(-200, 14))
    canvas.lay(inside + wall, "mucosa", 2.0)
    for side in (-1, 1):
        tonsil = rng.uniform(5, 9)
        canvas.ball(np.add(rng.normal(0, 1, 3), (-4, -7, 15 * side)), (1.5 * tonsil, tonsil, 0.7 * tonsil), "tonsil")
    canvas.lay(inside, 0.0, 1.5)
    if rng.random() < 0.5:
        canvas.ball((10, 3, 0), (8, rng.uniform(3, 6), 11), "tonsil")


def _vessels(canvas: _Canvas) -> None:
    """Paint carotid arteries (flow void) and veins (dark to bright: slow flow)."""
    rng = canvas.rng
    sway = 4 * np.sin(canvas.z / 25 + rng.uniform(0, 6))
    for side in (-1, 1):
        for name, y, x, radius in (
            ("artery", 6, 26, 3.2),
            ("vein", 12, 33, rng.uniform(3.5, 6)),
            ("vein", -2, 48, rng.uniform(1.5, 2.6)),
            ("vein", 22, 50, rng.uniform(1.5, 3.0)),
        ):
            signal = canvas.signal[name] * (float(rng.uniform(0.15, 1.25)) if name == "vein" else 1.0)
            s = canvas.scale
            distance = np.sqrt((canvas.y - s * y - sway) ** 2 + (canvas.x - s * x * side + 0.5 * sway) ** 2)
            canvas.lay(np.minimum(s * radius - distance, canvas.upto(-200, 18)), signal)


def _nodes(canvas: _Canvas) -> None:
    """Paint lymph nodes along the veins and below the jaw."""
    rng = canvas.rng
    for _ in range(int(rng.integers(8, 22))):
        side = rng.choice((-1, 1))
        centre = (rng.uniform(-50, 4), rng.uniform(-20, 34), side * rng.uniform(28, 50))
        radius = float(np.clip(np.exp(rng.normal(np.log(3.2), 0.4)), 1.8, 9))
        canvas.ball(centre, radius * rng.uniform(0.7, 1.4, 3), canvas.signal["node"] * rng.uniform(0.75, 1.3))


def _eyes(canvas: _Canvas) -> None:
    """Paint eyes in orbital fat, with their muscles."""
    for side in (-1, 1):
        canvas.ball((44, -46, 32 * side), (15, 22, 15), 1.3 * canvas.signal["fat"], 2.0)
        canvas.ball((44, -42, 32 * side), (3, 20, 9), "muscle")
        canvas.ball((44, -60, 32 * side), (12, 12, 12), "eye")
        canvas.ball((44, -69, 32 * side), (4.5, 2.2, 4.5), "muscle")


def _escaped_fat(canvas: _Canvas, skin_depth: np.ndarray, fat_mm: float) -> None:
    """Brighten subcutaneous fat where suppression failed: near the field's ends and at sharp curves."""
    rng = canvas.rng
    patches = soft_edge(canvas.noise(18.0) - rng.uniform(1.0, 2.2), 0.6)
    patches = np.maximum(patches, soft_edge(-canvas.z - rng.uniform(38, 60), 12.0) * rng.uniform(0, 1))
    layer = soft_edge(skin_depth - 2.0, 1.5) * soft_edge(2.0 + fat_mm - skin_depth, 1.5)
    canvas.values += patches * layer * (rng.uniform(70, 120) - canvas.values)


def _lesion_depth(lesion: Malformation, canvas: _Canvas, skin_depth: np.ndarray) -> np.ndarray:
    """Depth (mm) below the surface of the malformation: balls along a random walk, with a wavy surface."""
    rng = canvas.rng
    sign = 1 if lesion.side == "left" else -1
    place = canvas.scale * (np.asarray(REGIONS[lesion.region]) * (1, 1, sign) + rng.normal(0, 4, 3))
    room = (float(canvas.z[0, 0, 0]) + 10, float(canvas.z[-1, 0, 0]) - 10)
    place[0] = np.clip(place[0], *room)
    stretch = rng.uniform(0.75, 1.35, 3)
    depth = np.full(canvas.values.shape, -1e3, np.float32)
    centre = place.copy()
    for _ in range(lesion.n_lobes):
        radius = lesion.lobe_mm * float(np.clip(np.exp(rng.normal(0, 0.25)), 0.6, 1.6))
        z, y, x = ((axis - c) / f for axis, c, f in zip((canvas.z, canvas.y, canvas.x), centre, stretch, strict=True))
        np.maximum(depth, radius - np.sqrt(z**2 + y**2 + x**2), out=depth)
        step = rng.normal(size=3)
        centre = centre + 1.1 * lesion.lobe_mm * step / np.linalg.norm(step) + 0.25 * (place - centre)
        centre[0] = np.clip(centre[0], *room)
    infiltrates = lesion.type == "infiltrating"
    depth += (0.3 if infiltrates else 0.12) * lesion.lobe_mm * canvas.noise(5.0 if infiltrates else 4.0)
    return np.minimum(depth, skin_depth - 0.5)


def _lay_lesion(lesion: Malformation, canvas: _Canvas, depth: np.ndarray) -> None:
    """Paint the malformation over what is there; fibres stay visible where it infiltrates."""
    rng, texture = canvas.rng, canvas.noise(2.0)
    signal = lesion.signal * (1 + 0.07 * texture)
    share = soft_edge(depth, lesion.edge_mm)
    if lesion.type == "infiltrating":
        # Voxels declared shorter along the fibres give a pattern that is longer there.
        longer = (2.0, 5.0, 1.0) if rng.random() < 0.5 else (2.0, 1.0, 5.0)
        fibres = correlated_noise(share.shape, 1.8, np.divide(canvas.spacing, longer).tolist(), rng)
        share = share * np.clip(rng.uniform(0.6, 0.85) + 0.22 * fibres, 0.1, 1.0)
    else:
        width, scale = (0.22, 5.0) if lesion.type == "septated" else (0.10, 4.0)
        septa = soft_edge(width - np.abs(canvas.noise(scale)), 0.2)
        signal = signal + 0.8 * septa * (0.9 * canvas.signal["muscle"] - signal)
    canvas.values += share * (signal - canvas.values)
    where = np.argwhere(depth > 1.5)
    for index in rng.integers(len(where), size=lesion.n_phleboliths) if len(where) else ():
        z, y, x = (axis.ravel()[k] for axis, k in zip((canvas.z, canvas.y, canvas.x), where[index], strict=True))
        dot = rng.uniform(1.5, 3.0) - np.sqrt((canvas.z - z) ** 2 + (canvas.y - y) ** 2 + (canvas.x - x) ** 2)
        canvas.lay(dot, 3.0)


def _scan(canvas: _Canvas, site: MRSite) -> np.ndarray:
    """Blur, average half slices, shade, add Rician noise, scale; int16."""
    rng = canvas.rng
    fwhm = (0.6 * site.spacing[0], 1.1 * site.spacing[1], 1.1 * site.spacing[2])
    signal = average_half_slices(blur(canvas.values, fwhm, canvas.spacing))
    signal *= np.exp(site.shading * correlated_noise(signal.shape, 55.0, site.spacing, rng))
    noisy = np.hypot(*(part + rng.normal(0, site.noise, signal.shape) for part in (signal, 0.0)))
    gain = site.gain * float(np.exp(rng.normal(0, 0.25)))
    return np.clip(np.round(gain * noisy), 0, 32767).astype(np.int16)
