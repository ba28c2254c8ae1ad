"""Everything that a segmentation network's training needs to know, worked out from the data.

The rules follow the published ones of nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z): median voxel size,
patch as large as the memory allows, pooling until a feature map is 4 voxels wide, no pooling along thick slices.
A plan is a value: it is written into ``model.json`` and is all that inference needs besides the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk

from hybrid.errors import InputError, unknown_name
from hybrid.images import labels_in, orientation_of, to_array

MODALITIES: Final = ("ct", "mr")
MIN_FEATURE_EDGE: Final = 4
ANISOTROPY: Final = 3.0
"""Ratio of the largest to the smaller voxel edges from which a data set counts as anisotropic (nnU-Net)."""

MIN_PATCH_MM: Final = 8.0
MAX_PATCH_MM: Final = 2000.0
"""Edges of a patch that are tried."""

MAX_STAGES: Final = 6
MIN_STAGES: Final = 3
"""DynUNet has no fewer."""

POOLS_EVERY_AXIS: Final = ("segresnet", "segresnet_plain")
"""Networks that cannot spare an axis of thick slices from pooling."""

BYTES_PER_VOXEL_AND_FEATURE: Final = 100
"""Memory of a training step per voxel of the batch and feature of the first stage: activations, gradients, copies.
Measured on DynUNet and SegResNet in full precision (84 to 125 for 16 or 32 features); half precision and the plain
U-Net take less."""

SAMPLED_VOXELS: Final = 5000


@dataclass(frozen=True)
class SegmentationPlan:
    """How images become patches and which network sees them.

    All triples are in array order (z, y, x) of the canonical orientation: towards superior, posterior, left.

    Parameters
    ----------
    network : str
        Name in :data:`~hybrid.deep.segmentation.networks.SEGMENTERS`.
    modality : {"ct", "mr"}
        CT: clipped to and scaled by the foreground's statistics over the training cohort; MR: each image by its own.
    labels : tuple of int
        Label values of the foreground classes, in the order of the network's output channels 1, 2, ...
    label_names : tuple of str
        Their names.
    label_map : dict of int to int
        Values of the training masks to ``labels``; identity where a value is not listed.
    spacing : tuple of float
        Voxel size (mm) that the network sees.
    patch : tuple of int
        Patch size in voxels.
    batch : int
        Patches per training step.
    width : int
        Features of the first stage.
    kernels, strides : tuple of tuples
        One triple per stage; the first stride is 1.
    intensity : dict
        ``low, high, mean, sd`` of the foreground voxels (used by CT). Where low and high are those of a weight file,
        also ``foreground_mean`` and ``foreground_sd`` of the cohort.
    bias_correction : bool
        N4 before anything else (MR).
    mirror_axes : tuple of int
        Axes that may be mirrored (0 = z, 1 = y, 2 = x). Left-right by default: bodies are nearly symmetric only
        that way.
    foreground_share : float
        Share of training patches that are centred on foreground.
    crop_margin_mm : float, optional
        The network is asked about the foreground's bounding box and this margin only (the second stage of a cascade):
        training cases are cropped to it and to what windows see around it. None: whole scans.
    lesions : tuple of str
        Names of labels whose connected regions count alike, whatever their size: patches are centred on each of them
        equally often, and the voxels of small ones weigh more (:mod:`~hybrid.deep.segmentation.losses`).
    architecture : dict
        What the fields above do not say of a network that follows a weight file: features, blocks, normalisation (see
        :mod:`~hybrid.deep.segmentation.networks`). Empty for our own.
    """

    network: str
    modality: str
    labels: tuple[int, ...]
    label_names: tuple[str, ...]
    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    batch: int
    width: int
    kernels: tuple[tuple[int, int, int], ...]
    strides: tuple[tuple[int, int, int], ...]
    intensity: dict[str, float]
    label_map: dict[int, int] = field(default_factory=dict)
    bias_correction: bool = False
    mirror_axes: tuple[int, ...] = (2,)
    foreground_share: float = 0.5
    crop_margin_mm: float | None = None
    lesions: tuple[str, ...] = ()
    architecture: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Output channels: background and one for each label."""
        return len(self.labels) + 1

    @property
    def lesion_channels(self) -> tuple[int, ...]:
        """Channels of the labels named in ``lesions``."""
        return tuple(1 + self.label_names.index(name) for name in self.lesions)

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Edge lengths that the network accepts are multiples of this."""
        product = np.prod(np.asarray(self.strides), axis=0)
        return int(product[0]), int(product[1]), int(product[2])

    @property
    def memory_gib(self) -> float:
        """Estimated memory of a training step (GiB)."""
        return training_gib(self.patch, self.batch, self.width)

    @property
    def foreground(self) -> tuple[float, float]:
        """Mean and standard deviation of the foreground in the values that the network sees.

        0 and 1, except where the plan follows the intensities of a weight file.
        """
        known = self.intensity
        if self.modality != "ct" or "foreground_sd" not in known:
            return 0.0, 1.0
        return (known["foreground_mean"] - known["mean"]) / known["sd"], known["foreground_sd"] / known["sd"]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``model.json``; without ``architecture`` and ``lesions`` where they are empty."""
        values = {name: _listed(value) for name, value in asdict(self).items()}
        for name in ("architecture", "lesions"):
            if not values[name]:  # earlier trainings did not write it, and go on only with an equal plan
                del values[name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SegmentationPlan:
        """Rebuild from :meth:`to_dict`.

        Raises
        ------
        InputError
            For an unknown or absent field.
        """
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                raise unknown_name("field of the plan", name, known)
        plain = {name: _tupled(value) for name, value in values.items()}
        plain["label_map"] = {int(k): int(v) for k, v in plain.get("label_map", {}).items()}
        try:
            return cls(**plain)
        except TypeError as error:
            raise InputError(f"The plan is incomplete: {error}.", advice="Train the model again.") from error


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _listed(item) for name, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (tuple, list)) else value


def _tupled(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _tupled(item) for name, item in value.items()}
    return tuple(_tupled(item) for item in value) if isinstance(value, (tuple, list)) else value


def training_gib(patch: Sequence[int], batch: int, width: int) -> float:
    """Estimated memory of one training step (GiB), see :data:`BYTES_PER_VOXEL_AND_FEATURE`."""
    return BYTES_PER_VOXEL_AND_FEATURE * math.prod(patch) * batch * width / 2**30


def fingerprint(image: sitk.Image, mask: sitk.Image, *, case_id: str, seed: int = 0) -> dict[str, Any]:
    """Collect what a plan needs to know of one case.

    Parameters
    ----------
    image, mask : SimpleITK.Image
        On one grid.
    case_id : str
        Named in errors.
    seed : int
        Of the sample of foreground voxels.

    Returns
    -------
    dict
        ``case_id``, ``spacing`` and ``size`` (z, y, x; canonical orientation), ``labels`` (value to voxel count),
        ``minimum`` (smallest intensity) and ``foreground`` (up to 5000 sampled intensities).
    """
    orientation = orientation_of(image)
    array, region = to_array(image), to_array(mask) > 0
    inside = array[region].astype(np.float64)
    rng = np.random.default_rng(seed)
    sample = inside if inside.size <= SAMPLED_VOXELS else rng.choice(inside, SAMPLED_VOXELS, replace=False)
    return {
        "case_id": case_id,
        "spacing": orientation.triple(tuple(image.GetSpacing()[::-1])),
        "size": orientation.triple(array.shape),
        "labels": labels_in(mask),
        "minimum": float(array.min()),
        "foreground": sample,
    }


def make_plan(
    fingerprints: Sequence[Mapping[str, Any]],
    *,
    network: str = "dynunet",
    modality: str | None = None,
    labels: Mapping[str, int] | None = None,
    label_map: Mapping[int, int] | None = None,
    spacing: Sequence[float] | None = None,
    patch: Sequence[int] | None = None,
    batch: int = 2,
    width: int = 16,
    memory_gib: float = 2.0,
    patch_mm: float = MAX_PATCH_MM,
    **options: Any,
) -> SegmentationPlan:
    """Work out a plan from the fingerprints of the training cases.

    Parameters
    ----------
    fingerprints : sequence of dict
        From :func:`fingerprint`; training cases only.
    network : str
        Name in :data:`~hybrid.deep.segmentation.networks.SEGMENTERS`.
    modality : {"ct", "mr"}, optional
        Default: CT when a typical image holds values below -500.
    labels : mapping of str to int, optional
        Names and values of the foreground classes; default: every value in the masks.
    label_map : mapping of int to int, optional
        Values to merge, for example ``{2: 1, 3: 1}``.
    spacing, patch : sequence, optional
        Override (z, y, x).
    batch : int
        Patches per step.
    width : int
        Features of the first stage. On two CPU cores, 16 learn more in half an hour than 32 do.
    memory_gib : float
        What a training step may take.
    patch_mm : float
        Longest edge of a patch where the memory allows more: small patches are many in the same time.
    **options
        Further fields of :class:`SegmentationPlan`.

    Returns
    -------
    SegmentationPlan
        Ready for training.

    Raises
    ------
    InputError
        For no cases, unknown names, a mask value that is not declared, or a memory budget that no patch fits.
    """
    if not fingerprints:
        raise InputError("A plan needs at least one case with a mask.")
    merged = {int(k): int(v) for k, v in (label_map or {}).items()}
    values, names = _labels(fingerprints, labels, merged)
    size, target = _grid(fingerprints, spacing)
    every = network in POOLS_EVERY_AXIS
    fitting = _patch(size, target, batch, width, memory_gib, every, patch_mm)
    chosen = fitting if patch is None else _triple(patch)
    kernels, strides = stages(chosen, target, every_axis=every)
    if len(strides) < MIN_STAGES:  # a tiny image is padded to a patch that the network can pool
        chosen = _triple(np.maximum(chosen, MIN_FEATURE_EDGE * 2 ** (MIN_STAGES - 1)))
        kernels, strides = stages(chosen, target, every_axis=every)
    divisor = np.prod(np.asarray(strides), axis=0)
    chosen = _triple([math.ceil(n / d) * d for n, d in zip(chosen, divisor, strict=True)])
    plan = SegmentationPlan(
        network=network, modality=modality or _guess_modality(fingerprints), labels=values, label_names=names,
        label_map=merged, spacing=target, patch=chosen, batch=batch, width=width, kernels=kernels,
        strides=strides, intensity=_intensity(fingerprints),
    )  # fmt: skip
    if plan.modality not in MODALITIES:
        raise unknown_name("modality", plan.modality, MODALITIES)
    for name in options.get("lesions", ()):
        if name not in names:
            raise unknown_name("label", name, names)
    return replace(plan, **options)


def _labels(
    fingerprints: Sequence[Mapping[str, Any]], names: Mapping[str, int] | None, merged: Mapping[int, int]
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    found = sorted({merged.get(value, value) for item in fingerprints for value in item["labels"]} - {0})
    if not found:
        raise InputError("No training mask holds any label.", advice="Are the masks empty?")
    if names is None:
        return tuple(found), tuple(f"label_{value}" for value in found)
    declared = {int(value): str(name) for name, value in names.items()}
    for item in fingerprints:
        extra = sorted({merged.get(value, value) for value in item["labels"]} - set(declared) - {0})
        if extra:
            raise InputError(
                f"The mask holds the labels {extra}, which are not among the declared ones: {declared}.",
                advice="Declare them, or merge them with label_map.",
                case_id=item["case_id"],
            )
    for value in sorted(set(declared) - set(found)):
        raise InputError(
            f"No training mask holds the label {value} ({declared[value]}); found {found}.",
            advice="Leave it out, or add cases that have it.",
        )
    ordered = sorted(declared)
    return tuple(ordered), tuple(declared[value] for value in ordered)


def _guess_modality(fingerprints: Sequence[Mapping[str, Any]]) -> str:
    return "ct" if float(np.median([item["minimum"] for item in fingerprints])) < -500 else "mr"


def _grid(
    fingerprints: Sequence[Mapping[str, Any]], spacing: Sequence[float] | None
) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Median size on the target grid, and its spacing."""
    spacings = np.array([item["spacing"] for item in fingerprints], dtype=float)
    sizes = np.array([item["size"] for item in fingerprints], dtype=float)
    if spacing is None:
        target = np.median(spacings, axis=0)
        thick = int(np.argmax(target))
        if target[thick] > ANISOTROPY * np.delete(target, thick).max():
            finest = float(np.percentile(spacings[:, thick], 10))
            target[thick] = max(finest, float(np.delete(target, thick).max()))
    else:
        target = np.asarray(spacing, dtype=float)
        if target.shape != (3,) or (target <= 0).any():
            raise InputError(f"Expected a spacing of three positive numbers (z, y, x, mm); found {spacing}.")
    size = np.median(sizes * spacings / target, axis=0)
    return np.maximum(np.round(size), 1), (float(target[0]), float(target[1]), float(target[2]))


def _patch(
    size: np.ndarray, spacing: Sequence[float], batch: int, width: int, memory_gib: float, every_axis: bool,
    longest_mm: float,
) -> tuple[int, int, int]:  # fmt: skip
    """Largest patch of the image's proportions (in mm, but never larger than the image) within the budget."""
    best = None
    for edge_mm in np.geomspace(MIN_PATCH_MM, max(longest_mm, MIN_PATCH_MM), 200):
        wanted = np.minimum(np.maximum(np.round(edge_mm / np.asarray(spacing)), MIN_FEATURE_EDGE), size)
        divisor = np.prod(np.asarray(stages(wanted, spacing, every_axis=every_axis)[1]), axis=0)
        rounded = np.maximum(np.ceil(wanted / divisor) * divisor, divisor).astype(int)
        if training_gib(rounded.tolist(), batch, width) > memory_gib:
            break
        best = rounded
    if best is None or (math.prod(best) < 8**3 and math.prod(size) > 8**3):
        needed = training_gib([16, 16, 16], batch, width)
        raise InputError(
            f"A training step with the smallest useful patch needs about {needed:.2f} GiB; {memory_gib:.2f} GiB are "
            "allowed.",
            advice="Allow more memory, or lower the batch or the width.",
        )
    return _triple(best)


def _triple(values: Sequence[Any] | np.ndarray) -> tuple[int, int, int]:
    return int(values[0]), int(values[1]), int(values[2])


Triples = tuple[tuple[int, int, int], ...]


def stages(
    patch: Sequence[float] | np.ndarray, spacing: Sequence[float], *, every_axis: bool = False
) -> tuple[Triples, Triples]:
    """Kernel sizes and strides of each stage.

    An axis is pooled while its feature map keeps at least 4 voxels and its voxels are not thicker than twice the
    finest; its kernel is 1 until then. (The rule of nnU-Net, Isensee et al. 2021, doi:10.1038/s41592-020-01008-z.)

    Parameters
    ----------
    patch : sequence of int
        Patch (z, y, x).
    spacing : sequence of float
        Voxel size (z, y, x) in mm.
    every_axis : bool
        Pool all axes or none.

    Returns
    -------
    kernels, strides : tuple of triples
        One per stage; the first stride is (1, 1, 1).
    """
    size, voxel = np.asarray(patch, dtype=float), np.asarray(spacing, dtype=float)
    kernels, strides = [_kernel(voxel)], [(1, 1, 1)]
    while len(strides) < MAX_STAGES:
        able = size >= 2 * MIN_FEATURE_EDGE
        if not able.any():
            break
        if every_axis and not able.all():
            break
        able &= every_axis | (voxel < 2 * voxel[able].min())
        stride = np.where(able, 2, 1)
        size, voxel = np.floor(size / stride), voxel * stride
        strides.append(_triple(stride))
        kernels.append(_kernel(voxel))
    return tuple(kernels), tuple(strides)


def _kernel(voxel: np.ndarray) -> tuple[int, int, int]:
    return _triple(np.where(voxel < 2 * voxel.min(), 3, 1))


def _intensity(fingerprints: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    values = np.concatenate([item["foreground"] for item in fingerprints])
    low, high = np.percentile(values, [0.5, 99.5])
    return {"low": float(low), "high": float(high), "mean": float(values.mean()), "sd": float(max(values.std(), 1e-6))}


def describe_plan(plan: SegmentationPlan) -> pd.DataFrame:
    """Table of the plan for a report: ``setting, value``."""
    rows = {
        "Network": f"{plan.network}, {len(plan.strides)} stages, {plan.width} features in the first",
        "Voxel size (z, y, x)": " × ".join(f"{v:.2f}" for v in plan.spacing) + " mm",
        "Patch (z, y, x)": " × ".join(str(n) for n in plan.patch) + " voxels",
        "Patches per step": str(plan.batch),
        "Labels": ", ".join(f"{v} {name}" for v, name in zip(plan.labels, plan.label_names, strict=True)),
        "Intensities": _describe_intensity(plan),
        "Bias correction": "N4" if plan.bias_correction else "none",
    }
    if plan.lesions:
        rows["Lesions of any size count alike"] = ", ".join(plan.lesions)
    return pd.DataFrame({"setting": list(rows), "value": list(rows.values())})


def _describe_intensity(plan: SegmentationPlan) -> str:
    if plan.modality != "ct":
        return "each image by its own"
    if "foreground_sd" not in plan.intensity:
        return "foreground statistics of the cohort"
    return f"{plan.intensity['low']:g} to {plan.intensity['high']:g} HU, as for the start weights"
