"""Painted CT: a real label map of kidneys, tumours and cysts becomes an abdominal CT with known truth.

The shapes and places of kidneys and lesions are those of the label map. Everything else - body, fat, spine, ribs,
liver, spleen, bowel, vessels, texture, noise - is painted around them. Liver, spleen, bowel wall, contrast in the bowel
and vessels have densities that overlap with the kidney's: a threshold is not enough, nor is the usual
place: :mod:`hybrid.mask_baselines` has both, and both belong beside the result of a network. The paint of a lesion is
drawn by chance and does not depend on its histology: nothing about malignancy can be learned but from shape, size and
place.

The anatomy follows from the seed alone, so that two styles with one seed show the same patient on two scanners. The
densities (HU) of :data:`TISSUE_HU` are typical values, rounded, by phase of contrast; they were not fitted to patients.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy import ndimage
from tqdm.auto import tqdm

from hybrid.cases import Cohort
from hybrid.errors import InputError, unknown_name
from hybrid.files import write_csv, write_text
from hybrid.images import from_array, read_mask, write_image

from .fields import blur, correlated_noise
from .label_maps import Grid, LabelMap, SmallLesion, block_means, draw_kinds, place_small, read_labels
from .painted_body import PHASES, draw_hu, draw_plan, output_grid, paint_body, renal_vessels
from .painted_kidneys import Scene, draw_paint, kidney_parts, paint_kidneys, perirenal_fat

COHORT_COLUMNS: Final = ("case_id", "patient_id", "image", "mask", "site")
"""Columns of ``cohort.csv``."""

LESION_COLUMNS: Final = (
    "lesion_id", "label", "kind", "volume_ml", "diameter_mm", "centre_x", "centre_y", "centre_z",
)  # fmt: skip
"""Columns of a case's table of lesions; volume, largest diameter and centre (LPS, mm) are those in the mask."""

MAX_SUBSLICE_MM: Final = 3.0
"""Slices thicker than this are painted as several thinner ones and averaged."""

SMALL_SLICE_MM: Final = 1.5
"""Thickest slice that small lesions may be asked for."""

FINE_STEP_MM: Final = 1.5
"""Kidneys are painted on a grid at least this fine."""

SMALL_STEP_MM: Final = 1.0
"""Kidneys with small lesions are painted on a grid at least this fine."""


@dataclass(frozen=True)
class ScanStyle:
    """A scanner with its protocol.

    Attributes
    ----------
    name : str
        Name; the ``site`` of a cohort.
    phase : {"unenhanced", "corticomedullary", "nephrographic", "portal"}
        Phase of contrast.
    noise_hu : float
        Standard deviation of the noise (HU).
    noise_scale_mm : float
        Correlation length of the noise (mm): small for a sharp kernel.
    fwhm_mm : float
        In-plane point spread, full width at half maximum (mm).
    slice_mm : float
        Thickness and spacing of the slices (mm).
    pixel_mm : float
        In-plane voxel size (mm).
    """

    name: str
    phase: str
    noise_hu: float
    noise_scale_mm: float
    fwhm_mm: float
    slice_mm: float
    pixel_mm: float

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise unknown_name("phase", self.phase, PHASES)
        if min(self.slice_mm, self.pixel_mm) <= 0:
            raise InputError(f"A style needs voxels > 0 mm; found slice {self.slice_mm}, pixel {self.pixel_mm}.")
        if min(self.noise_hu, self.noise_scale_mm, self.fwhm_mm) < 0:
            raise InputError(f"Noise and point spread of a style must not be negative; found {self}.")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size (z, y, x) in mm."""
        return self.slice_mm, self.pixel_mm, self.pixel_mm


STYLES: Final[Mapping[str, ScanStyle]] = {
    style.name: style
    for style in (
        ScanStyle("primary", "nephrographic", 12.0, 1.0, 1.6, 3.0, 1.5),
        ScanStyle("external", "portal", 20.0, 0.6, 1.1, 5.0, 1.5),
        ScanStyle("arterial", "corticomedullary", 15.0, 0.8, 1.4, 3.0, 1.5),
        ScanStyle("native", "unenhanced", 14.0, 1.2, 1.8, 3.0, 1.5),
        ScanStyle("thin", "nephrographic", 16.0, 0.9, 1.4, 1.5, 1.5),
        ScanStyle("lowres", "nephrographic", 10.0, 1.5, 2.5, 3.0, 3.0),
    )
}
"""Styles by name. ``external`` differs from ``primary`` in phase, kernel, noise and slices; ``lowres`` is 3 mm."""


@dataclass(frozen=True)
class PaintedCase:
    """A painted CT with its truth.

    Attributes
    ----------
    image : SimpleITK.Image
        int16 HU; x points to the patient's left, y to the back, z to the head.
    mask : SimpleITK.Image
        uint8 on the same grid: 1 kidney, 2 tumour, 3 cyst.
    lesions : pandas.DataFrame
        One row per lesion, see :data:`LESION_COLUMNS`.
    """

    image: sitk.Image
    mask: sitk.Image
    lesions: pd.DataFrame


def paint_ct(
    labels: sitk.Image,
    style: ScanStyle | str,
    *,
    seed: int,
    field_mm: Sequence[float] = (350.0, 350.0, 350.0),
    kinds: Mapping[int, str] | None = None,
    small_lesions: int = 0,
) -> PaintedCase:
    """Paint an abdominal CT around and into a label map.

    Parameters
    ----------
    labels : SimpleITK.Image
        1 kidney, 2 tumour, 3 cyst; any axis-aligned orientation, a box around the kidneys is enough.
    style : ScanStyle or str
        Scanner, or its name in :data:`STYLES`.
    seed : int
        Not negative. The same seed gives the same voxels, and, for every style, the same patient.
    field_mm : sequence of float
        Least field of view (z, y, x) in mm; larger where the body or the label map needs it.
    kinds : mapping of int to str, optional
        Kind (:data:`LESION_KINDS`) by lesion, instead of a drawn one. Lesions are numbered from 1: connected components
        (26 neighbours) of label 2, then of label 3, in the order of the LPS-oriented map.
    small_lesions : int
        Number of further lesions of 3 to 10 mm, of random kind, placed inside the kidneys.

    Returns
    -------
    PaintedCase
        Image, mask and lesions. A lesion too small for the output voxels is not in the table.

    Raises
    ------
    InputError
        For an unknown style, kind or lesion, a negative seed, a label map without labels 1 to 3 or with oblique axes,
        or small lesions with slices thicker than 1.5 mm.
    """
    style = _checked_style(style, seed, field_mm, small_lesions)
    known = read_labels(labels)
    small = place_small(known, small_lesions, np.random.default_rng([seed, 1]))
    kind_names = draw_kinds(known.lesion_labels, kinds, np.random.default_rng([seed, 2]))
    kind_names += [ball.kind for ball in small]
    plan = draw_plan(known, np.random.default_rng([seed, 3]))
    output = output_grid(known, plan, np.asarray(style.spacing), field_mm, np.random.default_rng([seed, 4]))
    hu = draw_hu(style.phase, np.random.default_rng([seed, 5]))
    scene = _scene(known, small, kind_names, style, hu, seed)
    canvas = paint_body(output.split((scene.subslices, 1, 1)), plan, hu, seed)
    perirenal_fat(canvas, scene.parts)
    renal_vessels(canvas)
    mask, numbers = paint_kidneys(canvas, output, scene)
    image = _image(_scan(canvas.values, scene.subslices, style, seed), output)
    table = _lesion_table(numbers, scene.lesion_labels.tolist(), kind_names, output)
    return PaintedCase(image, from_array(mask, image), table)


def _checked_style(style: ScanStyle | str, seed: int, field_mm: Sequence[float], small_lesions: int) -> ScanStyle:
    if isinstance(style, str):
        if style not in STYLES:
            raise unknown_name("style", style, STYLES)
        style = STYLES[style]
    if seed < 0 or small_lesions < 0:
        raise InputError(f"Expected seed and small_lesions of 0 or more; found {seed} and {small_lesions}.")
    if len(field_mm) != 3 or min(field_mm) <= 0:
        raise InputError(f"Expected three positive lengths (z, y, x) in mm as field_mm; found {field_mm}.")
    if small_lesions and style.slice_mm > SMALL_SLICE_MM:
        raise InputError(
            f"Small lesions need slices of at most {SMALL_SLICE_MM:g} mm; "
            f"style {style.name!r} has {style.slice_mm:g} mm.",
            advice="Use a style with thinner slices, for example 'thin', or small_lesions=0.",
        )
    return style


def _scene(
    known: LabelMap,
    small: Sequence[SmallLesion],
    kinds: Sequence[str],
    style: ScanStyle,
    hu: Mapping[str, float],
    seed: int,
) -> Scene:
    """Decide how finely to paint, and draw the lesions' paint."""
    parts = kidney_parts(known)
    depths = np.zeros(len(known.lesion_labels))
    for part in parts:
        np.maximum.at(depths, part.ids[part.ids > 0] - 1, part.lesion_depth[part.ids > 0])
    depths = np.concatenate([depths, [ball.radius_mm for ball in small]])
    subslices = int(np.ceil(style.slice_mm / MAX_SUBSLICE_MM - 1e-6))
    step = np.array([style.slice_mm / subslices, style.pixel_mm, style.pixel_mm])
    finest = np.full(3, SMALL_STEP_MM) if small else np.minimum(known.grid.spacing, FINE_STEP_MM)
    factors = np.maximum(np.ceil(step / finest - 1e-2), 1).astype(int).tolist()
    paint = draw_paint(kinds, depths.tolist(), style.phase, hu, np.random.default_rng([seed, 6]))
    labels = np.array([*known.lesion_labels, *(ball.label for ball in small)], np.uint8)
    return Scene(parts, small, labels, paint, subslices, tuple(factors), seed)


def _scan(values: np.ndarray, subslices: int, style: ScanStyle, seed: int) -> np.ndarray:
    """Point spread, slice averaging, noise; int16 HU."""
    spread = (0.0, style.fwhm_mm, style.fwhm_mm)
    values = block_means(blur(values, spread, style.spacing), (subslices, 1, 1))
    noise = correlated_noise(values.shape, style.noise_scale_mm, style.spacing, np.random.default_rng([seed, 30]))
    # Fewer photons are lost around the body than through it.
    noise *= np.where(values < -950, np.float32(0.4 * style.noise_hu), np.float32(style.noise_hu))
    values += noise
    return np.clip(np.rint(values, out=values), -1024, 3071).astype(np.int16)


def _image(values: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(grid.spacing[::-1].tolist())
    image.SetOrigin(grid.origin[::-1].tolist())
    return image


def _lesion_table(numbers: np.ndarray, labels: Sequence[int], kinds: Sequence[str], grid: Grid) -> pd.DataFrame:
    rows = []
    for number, box in enumerate(ndimage.find_objects(numbers), start=1):
        if box is None:
            continue
        points = np.argwhere(numbers[box] == number) * grid.spacing
        corner = grid.crop(box).origin
        z, y, x = (points.mean(axis=0) + corner).tolist()
        volume = len(points) * float(np.prod(grid.spacing)) / 1000
        label, kind = int(labels[number - 1]), kinds[number - 1]
        rows.append((number, label, kind, volume, _diameter(points, float(grid.spacing.min())), x, y, z))
    return pd.DataFrame(rows, columns=list(LESION_COLUMNS))


def _diameter(points: np.ndarray, step: float) -> float:
    """Largest extent (mm) over 200 directions, plus one voxel."""
    turn = np.arange(200) + 0.5
    height, angle = 1 - turn / 200, turn * np.pi * (1 + 5**0.5)
    flat = np.sqrt(1 - height**2)
    directions = np.stack([height, flat * np.sin(angle), flat * np.cos(angle)])
    return float(np.ptp(points @ directions, axis=0).max() + step)


def simulate_painted_cohort(
    folder: str | Path,
    label_maps: Sequence[Path],
    *,
    style: ScanStyle | str,
    seed: int,
    progress: bool = False,
    small_lesions: int = 0,
    field_mm: Sequence[float] = (350.0, 350.0, 350.0),
) -> Cohort:
    """Paint every label map and write the cohort.

    Parameters
    ----------
    folder : path-like
        Gets ``images/`` and ``masks/`` (``<case_id>.nii.gz``), ``lesions/`` (one table per case), ``cohort.csv``,
        ``lesions.csv`` and ``painting.json``. Cases that are already complete are kept.
    label_maps : sequence of path-like
        Label maps, see :func:`paint_ct`; the file's name without ending is the case.
    style, small_lesions, field_mm
        As for :func:`paint_ct`.
    seed : int
        With the case's name it determines every voxel; order and number of cases do not matter.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Cohort
        The cases of ``cohort.csv``.

    Raises
    ------
    InputError
        When there is no label map or two of them share a name, when the folder holds cases painted with other settings,
        or as :func:`paint_ct`.
    """
    folder, style = Path(folder), _checked_style(style, seed, field_mm, small_lesions)
    sources = _sources(label_maps)
    settings = {"style": asdict(style), "seed": seed, "small_lesions": small_lesions, "field_mm": list(field_mm)}
    _require_settings(folder, json.loads(json.dumps(settings)))
    tables = []
    for case_id, path in tqdm(sources.items(), desc="paint", unit="case", disable=not progress):
        if not all(_case_file(folder, part, case_id).is_file() for part in ("images", "masks", "lesions")):
            labels = read_mask(path, case_id=case_id)
            case = paint_ct(
                labels, style, seed=_case_seed(seed, case_id), field_mm=field_mm, small_lesions=small_lesions
            )
            write_csv(case.lesions, _case_file(folder, "lesions", case_id))
            write_image(case.image, _case_file(folder, "images", case_id))
            write_image(case.mask, _case_file(folder, "masks", case_id))
        table = pd.read_csv(_case_file(folder, "lesions", case_id))
        table.insert(0, "case_id", case_id)
        tables.append(table)
    rows = [(case, case, f"images/{case}.nii.gz", f"masks/{case}.nii.gz", style.name) for case in sources]
    full = [table for table in tables if len(table)] or tables[:1]
    write_csv(pd.concat(full, ignore_index=True), folder / "lesions.csv")
    return Cohort.from_csv(write_csv(pd.DataFrame(rows, columns=list(COHORT_COLUMNS)), folder / "cohort.csv"))


def _sources(label_maps: Sequence[Path]) -> dict[str, Path]:
    """Label maps by case."""
    sources: dict[str, Path] = {}
    for path in map(Path, label_maps):
        case_id = path.name.split(".")[0]
        if case_id in sources:
            raise InputError("Two label maps have the same name.", case_id=case_id, path=path)
        sources[case_id] = path
    if not sources:
        raise InputError("A cohort needs at least one label map; found none.")
    return sources


def _case_file(folder: Path, part: str, case_id: str) -> Path:
    return folder / part / f"{case_id}{'.csv' if part == 'lesions' else '.nii.gz'}"


def _case_seed(seed: int, case_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}:{case_id}".encode(), digest_size=7).digest(), "big")


def _require_settings(folder: Path, settings: dict[str, object]) -> None:
    """Remember the settings; refuse a folder that holds cases with other ones."""
    path = folder / "painting.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found != settings:
            raise InputError(
                f"The folder holds cases painted with other settings: expected {settings}, found {found}.",
                advice="Choose another folder, or delete this one.",
                path=path,
            )
        return
    write_text(json.dumps(settings, indent=2) + "\n", path)
