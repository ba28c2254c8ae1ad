"""Predicted masks against reference masks: overlap, surfaces, and which lesions were found.

Values are raw: NaN where a quantity is not defined. What an empty mask should score is decided afterwards, and named,
with :func:`hybrid.analysis.conventions.by_convention`. Arrays are in (z, y, x) order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import SimpleITK as sitk
from scipy.spatial import KDTree

from .errors import InputError, unknown_name
from .images import ORIGIN_TOLERANCE_MM, compare_geometry, to_array
from .lesions import check_probability, check_region, label_lesions, measure_lesions
from .regions import bounding_box

STRUCTURES_KITS: Final[dict[str, tuple[int, ...]]] = {"kidney_and_mass": (1, 2, 3), "mass": (2, 3), "tumor": (2,)}
"""Structures of KiTS23: kidney 1, tumour 2, cyst 3 (github.com/neheller/kits23, kits23/configuration/labels.py)."""

KITS_TOLERANCES_MM: Final[dict[str, float]] = {
    "kidney_and_mass": 1.0330772532390826,
    "mass": 1.1328796488598762,
    "tumor": 1.1498198361434828,
}
"""Tolerances (mm) of the surface Dice of KiTS23, from the disagreement of its annotators (same file)."""

MASK_METRICS: Final = (
    "tp_voxels",
    "fp_voxels",
    "fn_voxels",
    "tn_voxels",
    "reference_volume_ml",
    "predicted_volume_ml",
    "volume_error_ml",
    "dice",
    "iou",
    "precision",
    "sensitivity",
    "specificity",
    "surface_dice",
    "hd95_mm",
    "assd_mm",
)
"""Rows per structure of :func:`measure_masks`, in this order."""

MATCHING_RULES: Final = {
    "any_overlap": "A predicted and a reference lesion match when they share at least one voxel.",
    "iou_0.1": "A predicted and a reference lesion match when their intersection over union is 0.1 or more.",
    "iou_0.5": "A predicted and a reference lesion match when their intersection over union is 0.5 or more.",
    "centre_in_mask": (
        "A predicted and a reference lesion match when the centre of mass of the predicted lesion, rounded to the "
        "nearest voxel, lies in the reference lesion."
    ),
}
"""When a lesion counts as found."""

REFERENCE_COLUMNS: Final = (
    "lesion_id",
    "volume_ml",
    "max_diameter_mm",
    "equivalent_diameter_mm",
    "detected",
    "n_matched",
    "dice",
    "best_confidence",
)
"""Columns of the first table of :func:`match_lesions`."""

PREDICTED_COLUMNS: Final = (
    "lesion_id",
    "volume_ml",
    "max_diameter_mm",
    "equivalent_diameter_mm",
    "true_positive",
    "n_matched",
    "confidence",
)
"""Columns of the second table of :func:`match_lesions`."""

_ROUNDING_MM: Final = 1e-6
"""Distances that exceed a tolerance by less (mm) lie within it, so that rounding of voxel sizes decides nothing."""

_PLANES: Final = 16


def measure_masks(
    prediction: sitk.Image,
    reference: sitk.Image,
    structures: Mapping[str, Sequence[int]],
    *,
    tolerances_mm: Mapping[str, float] | float = 2.0,
    case_id: str | None = None,
) -> pd.DataFrame:
    """Compare two label masks structure by structure.

    ``surface_dice`` is the normalised surface Dice of DeepMind (doi 10.2196/26151): area of the surface elements of
    either mask that lie within the tolerance of the other's surface, over the area of both surfaces. ``hd95_mm`` is
    the larger of the two 95th percentiles (linear interpolation) of the distances from the boundary voxels of one mask
    to the nearest of the other; ``assd_mm`` is the mean of the distances of both directions pooled. Boundary voxels
    are those with at least one of six neighbours outside the mask, as in MONAI, which gives the same values.

    Parameters
    ----------
    prediction, reference : SimpleITK.Image
        Masks of whole numbers on one grid, background 0. Labels of the reference that belong to no structure count
        as background.
    structures : mapping of str to sequence of int
        Labels that make up each structure; :data:`STRUCTURES_KITS`, for example.
    tolerances_mm : mapping of str to float, or float
        Tolerance of the surface Dice, by structure or for all; :data:`KITS_TOLERANCES_MM`, for example.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    DataFrame
        ``structure, metric, value``: the rows :data:`MASK_METRICS` of each structure. NaN: Dice, IoU and surface Dice
        when both masks are empty (0 when one is), precision of an empty prediction, sensitivity of an empty reference,
        distances when either is empty. ``volume_error_ml`` is predicted minus reference.

    Raises
    ------
    InputError
        When the grids differ by more than :data:`hybrid.images.ORIGIN_TOLERANCE_MM`, pixel types are not integer,
        structures or tolerances are unusable, or the prediction holds labels of no structure.
    """
    chosen = _check_structures(structures, case_id)
    tolerances = _check_tolerances(tolerances_mm, chosen, case_id)
    _check_grids(prediction, reference, case_id)
    arrays = to_array(prediction), to_array(reference)
    voxels = arrays[0].size
    box = bounding_box(*arrays) or (slice(0, 1),) * 3
    predicted, truth = (array[box].copy() for array in arrays)
    del arrays
    _check_labels(predicted, chosen, case_id)
    rows = []
    for name, labels in chosen.items():
        pair = _with_labels(predicted, labels), _with_labels(truth, labels)
        values = _measure(*pair, np.array(reference.GetSpacing()[::-1]), voxels, tolerances[name])
        rows += [{"structure": name, "metric": metric, "value": values[metric]} for metric in MASK_METRICS]
    return pd.DataFrame(rows, columns=["structure", "metric", "value"]).astype({"value": float})


def _check_structures(structures: Mapping[str, Sequence[int]], case_id: str | None) -> dict[str, list[int]]:
    if not isinstance(structures, Mapping) or not structures:
        raise InputError("Name at least one structure with its labels.", case_id=case_id)
    for name, labels in structures.items():
        whole = isinstance(labels, Sequence) and all(
            isinstance(value, int | np.integer) and not isinstance(value, bool) and value > 0 for value in labels
        )
        if not whole or not labels:
            raise InputError(
                f"The labels of structure {name!r} must be whole numbers from 1 upwards, found {labels!r}.",
                case_id=case_id,
            )
    return {str(name): [int(value) for value in labels] for name, labels in structures.items()}


def _check_tolerances(
    tolerances_mm: Mapping[str, float] | float, names: Mapping[str, Any], case_id: str | None
) -> dict[str, float]:
    if not isinstance(tolerances_mm, Mapping):
        tolerances_mm = dict.fromkeys(names, tolerances_mm)
    found = {}
    for name in names:
        if name not in tolerances_mm:
            raise InputError(f"No surface tolerance (mm) is given for structure {name!r}.", case_id=case_id)
        found[name] = float(tolerances_mm[name])
        if not (math.isfinite(found[name]) and found[name] >= 0):
            raise InputError(
                f"The surface tolerance of {name!r} must be 0 mm or more, found {found[name]}.", case_id=case_id
            )
    return found


def _check_grids(prediction: sitk.Image, reference: sitk.Image, case_id: str | None) -> None:
    for title, mask in (("prediction", prediction), ("reference", reference)):
        if (
            mask.GetDimension() != 3
            or mask.GetNumberOfComponentsPerPixel() != 1
            or "integer" not in mask.GetPixelIDTypeAsString()
        ):
            raise InputError(
                f"Expected the {title} as a 3D mask of whole numbers, found {mask.GetDimension()} dimensions of "
                f"{mask.GetPixelIDTypeAsString()}.",
                advice="Read it with hybrid.images.read_mask.",
                case_id=case_id,
            )
    advice = "Put the prediction on the reference's grid first (hybrid.images.align_mask)."
    if prediction.GetSize() != reference.GetSize():
        raise InputError(
            f"Prediction and reference differ in size: {prediction.GetSize()} and {reference.GetSize()} voxels.",
            advice=advice,
            case_id=case_id,
        )
    report = compare_geometry(reference, prediction)
    if report.corner_offset_mm > ORIGIN_TOLERANCE_MM:
        raise InputError(
            f"Prediction and reference lie on different grids: {report.describe()}.", advice=advice, case_id=case_id
        )


def _check_labels(predicted: np.ndarray, structures: Mapping[str, Sequence[int]], case_id: str | None) -> None:
    present = set().union(*(np.unique(plane).tolist() for plane in predicted))
    extra = sorted(present - {0}.union(*structures.values()))
    if extra:
        raise InputError(
            f"The prediction holds labels that belong to no structure: {', '.join(map(str, extra))}.",
            advice="Add them to a structure, or set them to 0.",
            case_id=case_id,
        )


def _with_labels(mask: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    region = mask == labels[0]
    for value in labels[1:]:
        region |= mask == value
    return region


def _measure(
    prediction: np.ndarray, reference: np.ndarray, spacing: np.ndarray, voxels: int, tolerance_mm: float
) -> dict[str, float]:
    """Metrics of two regions cropped from volumes of so many voxels."""
    found, wanted = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    hit = int(np.count_nonzero(prediction & reference))
    right_outside = voxels - found - wanted + hit
    millilitres = float(spacing.prod()) / 1000
    overlap = {
        "tp_voxels": hit,
        "fp_voxels": found - hit,
        "fn_voxels": wanted - hit,
        "tn_voxels": right_outside,
        "reference_volume_ml": wanted * millilitres,
        "predicted_volume_ml": found * millilitres,
        "volume_error_ml": (found - wanted) * millilitres,
        "dice": _ratio(2 * hit, found + wanted),
        "iou": _ratio(hit, found + wanted - hit),
        "precision": _ratio(hit, found),
        "sensitivity": _ratio(hit, wanted),
        "specificity": _ratio(right_outside, voxels - wanted),
    }
    return overlap | _surfaces(prediction, reference, spacing, tolerance_mm)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _surfaces(
    prediction: np.ndarray, reference: np.ndarray, spacing: np.ndarray, tolerance_mm: float
) -> dict[str, float]:
    box = bounding_box(prediction, reference)
    if box is None:
        return {"surface_dice": math.nan, "hd95_mm": math.nan, "assd_mm": math.nan}
    pair = prediction[box], reference[box]
    if not all(region.any() for region in pair):
        return {"surface_dice": 0.0, "hd95_mm": math.nan, "assd_mm": math.nan}
    ours, theirs = (_surface_of(region) for region in pair)
    there = _nearest(ours.boundary, theirs.boundary, spacing)
    back = _nearest(theirs.boundary, ours.boundary, spacing)
    return {
        "surface_dice": _surface_dice(ours, theirs, spacing, tolerance_mm),
        "hd95_mm": float(max(np.percentile(there, 95), np.percentile(back, 95))),
        "assd_mm": float((there.sum() + back.sum()) / (len(there) + len(back))),
    }


class _Surface(NamedTuple):
    """Boundary voxels (n, 3), cells of 2 x 2 x 2 voxels that the surface runs through (m, 3), and their codes (m,)."""

    boundary: np.ndarray
    cells: np.ndarray
    codes: np.ndarray


def _surface_of(region: np.ndarray) -> _Surface:
    """Surface of a region, a few planes at a time: masks far apart share a large box with little in it."""
    padded = np.pad(region, 1)
    parts = []
    for start in range(0, region.shape[0] + 1, _PLANES):
        planes = padded[start : start + _PLANES + 2]
        box = bounding_box(planes)
        if box is None:
            continue
        rows, columns = (slice(part.start - 1, part.stop + 1) for part in box[1:])
        planes = planes[:, rows, columns]
        corner = np.array([start, rows.start, columns.start])
        boundary = np.argwhere(_boundary(planes)) + corner
        codes = _cell_codes(planes[: _PLANES + 1])
        edge = (codes != 0) & (codes != 255)
        parts.append((boundary, np.argwhere(edge) + corner, codes[edge]))
    return _Surface(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _boundary(padded: np.ndarray) -> np.ndarray:
    """Foreground voxels with a neighbour, of six, that is background; without the outermost layer."""
    inner = padded[1:-1, 1:-1, 1:-1]
    enclosed = np.ones_like(inner)
    for axis in range(3):
        for part in (slice(None, -2), slice(2, None)):
            sides = [slice(1, -1)] * 3
            sides[axis] = part
            enclosed &= padded[tuple(sides)]
    return inner & ~enclosed


def _cell_codes(padded: np.ndarray) -> np.ndarray:
    """Which of its eight voxels are foreground, for each cell of 2 x 2 x 2 voxels."""
    codes = np.zeros([size - 1 for size in padded.shape], dtype=np.uint8)
    for bit, corner in enumerate(np.ndindex(2, 2, 2)):
        part = tuple(slice(start, start + size) for start, size in zip(corner, codes.shape, strict=True))
        codes |= padded[part].view(np.uint8) << np.uint8(bit)
    return codes


def _nearest(source: np.ndarray, target: np.ndarray, spacing: np.ndarray, limit_mm: float = math.inf) -> np.ndarray:
    """Distance (mm) of each place of ``source`` to the nearest of ``target``; infinite beyond the limit.

    A tree over the few places of a surface needs far less memory than a distance transform of the volume. Places of
    both surfaces, most of them where masks are good, need no search.
    """
    size = np.maximum(source.max(axis=0), target.max(axis=0)) + 1
    keys = [np.ravel_multi_index(tuple(places.T), tuple(size)) for places in (source, target)]
    distances = np.zeros(len(source))
    apart = ~np.isin(keys[0], keys[1])
    if apart.any():
        tree = KDTree(target * spacing, leafsize=32, balanced_tree=False)
        distances[apart] = tree.query(source[apart] * spacing, distance_upper_bound=limit_mm)[0]
    return distances


def _surface_dice(ours: _Surface, theirs: _Surface, spacing: np.ndarray, tolerance_mm: float) -> float:
    areas = _surface_elements(*(float(value) for value in spacing))
    within = total = 0.0
    for own, other in ((ours, theirs), (theirs, ours)):
        size = areas[own.codes]
        distances = _nearest(own.cells, other.cells, spacing, tolerance_mm + 2 * _ROUNDING_MM)
        within += size[distances <= tolerance_mm + _ROUNDING_MM].sum()
        total += size.sum()
    return float(within / total)


@functools.lru_cache(maxsize=16)
def _surface_elements(*spacing: float) -> np.ndarray:
    """Area (mm²) of the surface within a cell of 2 x 2 x 2 voxels, for each of the codes of :func:`_cell_codes`."""
    from monai.metrics.utils import get_code_to_measure_table

    areas, weights = get_code_to_measure_table(spacing)
    voxels = (np.arange(256)[:, None] >> np.arange(8)) & 1
    return areas.numpy().astype(float)[voxels @ weights.numpy().ravel().astype(int)]


def match_lesions(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing_zyx: Sequence[float] | np.ndarray,
    *,
    rule: str = "any_overlap",
    probability: np.ndarray | None = None,
    min_volume_mm3: float = 0.0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Which reference lesions were found, and which predicted lesions are right.

    A lesion may match several others; nothing is assigned one to one, splits and merges are counted instead.

    Parameters
    ----------
    prediction, reference : ndarray of bool, shape (z, y, x)
        Regions on one grid.
    spacing_zyx : sequence of float
        Voxel size (mm), in the order of the arrays.
    rule : str
        One of :data:`MATCHING_RULES`.
    probability : ndarray of float, shape (z, y, x), optional
        Predicted probability of lesion, 0 to 1.
    min_volume_mm3 : float
        Smaller lesions are left out of both regions before matching; a prediction on a reference lesion that is
        left out is a false positive.

    Returns
    -------
    reference : DataFrame
        One row per reference lesion, the largest first: ``lesion_id, volume_ml, max_diameter_mm,
        equivalent_diameter_mm, detected``, ``n_matched`` (predicted lesions that match; above 1 the lesion was split),
        ``dice`` (with the union of the predicted lesions that match; 0 when there is none) and ``best_confidence``
        (largest of theirs; NaN without probabilities or match).
    predicted : DataFrame
        One row per predicted lesion: sizes likewise, ``true_positive``, ``n_matched`` (reference lesions that match;
        above 1 they were merged) and ``confidence`` (largest probability in the lesion; NaN without probabilities).

    Raises
    ------
    InputError
        For an unknown rule, regions of different shape, or as :func:`hybrid.lesions.lesion_table`.
    """
    if rule not in MATCHING_RULES:
        raise unknown_name("matching rule", rule, MATCHING_RULES)
    spacing = check_region(prediction, spacing_zyx, name="prediction")
    check_region(reference, spacing_zyx, name="reference")
    if prediction.shape != reference.shape:
        raise InputError(f"Prediction and reference differ in shape: {prediction.shape} and {reference.shape}.")
    check_probability(probability, prediction)
    box = bounding_box(prediction, reference) or (slice(0, 1),) * 3
    numbers = [label_lesions(part[box], spacing, min_volume_mm3=min_volume_mm3)[0] for part in (prediction, reference)]
    predicted = measure_lesions(numbers[0], spacing, None if probability is None else probability[box])
    wanted = measure_lesions(numbers[1], spacing)
    shared = _shared_voxels(numbers[0], numbers[1], (len(predicted), len(wanted)))
    volumes = [np.array([row["voxels"] for row in rows], dtype=int) for rows in (predicted, wanted)]
    matched = _matches(rule, shared, volumes, predicted, numbers[1])
    return _reference_frame(wanted, predicted, matched, shared, volumes), _predicted_frame(predicted, matched)


def _shared_voxels(predicted: np.ndarray, wanted: np.ndarray, counts: tuple[int, int]) -> np.ndarray:
    """Voxels that each predicted lesion (rows) shares with each reference lesion (columns)."""
    shared = np.zeros(counts, dtype=np.int64)
    both = (predicted > 0) & (wanted > 0)
    np.add.at(shared, (predicted[both] - 1, wanted[both] - 1), 1)
    return shared


def _matches(
    rule: str, shared: np.ndarray, volumes: list[np.ndarray], predicted: list[dict[str, Any]], numbers: np.ndarray
) -> np.ndarray:
    """Whether each predicted lesion (rows) matches each reference lesion (columns)."""
    if rule == "centre_in_mask":
        matched = np.zeros(shared.shape, dtype=bool)
        for row, lesion in enumerate(predicted):
            hit = numbers[tuple(np.floor(lesion["index"] + 0.5).astype(int))]
            if hit:
                matched[row, hit - 1] = True
        return matched
    if rule == "any_overlap":
        return shared > 0
    union = volumes[0][:, None] + volumes[1][None, :] - shared
    return shared >= float(rule.removeprefix("iou_")) * union * (1 - 1e-9)


def _reference_frame(
    wanted: list[dict[str, Any]], predicted: list[dict[str, Any]], matched: np.ndarray, shared: np.ndarray,
    volumes: list[np.ndarray],
) -> pd.DataFrame:  # fmt: skip
    common = (shared * matched).sum(axis=0)
    total = volumes[1] + (volumes[0][:, None] * matched).sum(axis=0)
    scores = np.array([row.get("confidence", math.nan) for row in predicted])
    rows = [
        row
        | {
            "detected": bool(matched[:, i].any()),
            "n_matched": int(matched[:, i].sum()),
            "dice": float(2 * common[i] / total[i]),
            "best_confidence": float(scores[matched[:, i]].max(initial=-math.inf)) if matched[:, i].any() else math.nan,
        }
        for i, row in enumerate(wanted)
    ]
    return _typed(rows, REFERENCE_COLUMNS)


def _predicted_frame(predicted: list[dict[str, Any]], matched: np.ndarray) -> pd.DataFrame:
    rows = [
        {"confidence": math.nan} | row | {"true_positive": bool(matched[i].any()), "n_matched": int(matched[i].sum())}
        for i, row in enumerate(predicted)
    ]
    return _typed(rows, PREDICTED_COLUMNS)


def _typed(rows: list[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    kinds = {"lesion_id": int, "n_matched": int, "detected": bool, "true_positive": bool}
    return pd.DataFrame(rows, columns=list(columns)).astype({name: kinds.get(name, float) for name in columns})
