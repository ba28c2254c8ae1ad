"""Start weights from files of others, by path: what a file holds, the plan that fits it, and what was filled.

============  =========================================================================================================
convention    file
============  =========================================================================================================
``suprem``    ``supervised_suprem_unet_2100.pth``, ``..._segresnet_2100.pth``: dictionary with ``net``; names begin with
              ``module.backbone.`` (unet) or ``module.`` (segresnet); heads belong to their classes and are left out
``genesis``   ``Genesis_Chest_CT.pt``: dictionary with ``state_dict``, names begin with ``module.``
``ctfm``      folder with ``model.safetensors`` and ``config.json``: SegResNetDS, or its encoder alone
``monai``     state dict of MONAI's SegResNet, SegResNetDS, DynUNet or UNet (``.pt``, ``.pth``, ``.safetensors``), any
              prefix, also inside ``state_dict``, ``model``, ``network`` or ``model_state_dict``
``hybrid``    our own model folder: ``model.safetensors`` and ``model.json``
============  =========================================================================================================

The plan follows the file: network, width, kernels, strides, and as far as the authors' input is known voxel size and
intensities. A file is accepted when at least 95 % of the trunk's tensors fit by name and shape; the head of other
classes keeps its own start. Files are read with safetensors or ``torch.load(weights_only=True)``; nothing is unpickled.

Kernels are turned from the authors' axes (MONAI's ``RAS``: x to the right, y to the front, z upwards) to ours (``SPL``:
z upwards, y to the back, x to the left), so that the network meets the body as it knows it. Transposed axes change
nothing in the result. Mirrored ones do so only where the network has strided convolutions: these sample every other
voxel, counted from the other end, which moves a feature map by one voxel.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from torch import nn

from hybrid.deep.weights import MIN_COVERAGE, REPORT_COLUMNS, LoadReport, _as_float, _load, _shape_text, _status
from hybrid.errors import InputError, WeightsError, unknown_name
from hybrid.provenance import file_digest

from .branches import DUPLICATES, DualBranchNetwork, TaggedNetwork, _source_name, _with_tag
from .foreign_networks import GENESIS_NAMES, LAYOUTS, Structure, Triple, Triples
from .planning import SegmentationPlan
from .segmenter import FORMAT, MODEL_CARD, MODEL_FILE

logger = logging.getLogger(__name__)

CONFIG: Final = "config.json"
WRAPPERS: Final = ("net", "state_dict", "model", "network", "model_state_dict")
"""Keys under which files keep the tensors."""

CANONICAL: Final = "SPL"
"""Our array axes (z, y, x) point to superior, posterior, left."""

KEEPABLE: Final = ("spacing", "intensity", "strides")
STATUSES: Final = ("matched", "adapted", "own_start", "missing", "shape_mismatch", "unexpected")
NOT_SUPPORTED: Final = {
    "swinViT.": "SwinUNETR", "encoder.stages.": "nnU-Net", "conv_blocks_context.": "nnU-Net (version 1)",
}  # fmt: skip
MIN_DEPTH: Final = 2
_COUNTER: Final = "num_batches_tracked"
_OPPOSITE: Final = dict(zip("SIPALR", "ISAPRL", strict=True))
_SHOWN: Final = 5

Row = tuple[str, str, tuple[int, ...] | None, tuple[int, ...] | None]
"""Tensor, status, shape in the network, shape in the file."""


@dataclass(frozen=True)
class InputConvention:
    """How the authors of a kind of file prepared their images.

    Attributes
    ----------
    spacing : tuple of float, optional
        Voxel size (z, y, x) in mm; None: not fixed.
    hu_range : tuple of float, optional
        Hounsfield units that became 0 and 1, with clipping; None: unknown, or as in the model card.
    orientation : str
        Where the array axes point, for example ``"RAS"``.
    note : str
        Source, and what is left open.
    """

    spacing: tuple[float, float, float] | None
    hu_range: tuple[float, float] | None
    orientation: str
    note: str


INPUTS: Final[dict[str, InputConvention]] = {
    "hybrid": InputConvention(None, None, CANONICAL, "As written in model.json."),
    "suprem": InputConvention(
        (1.5, 1.5, 1.5), (-250.0, 250.0), "RAS",
        "Li et al. 2024 (ICLR). Range of their fine-tuning; their pre-training script has -175 to 250 HU.",
    ),
    "genesis": InputConvention(
        None, (-1000.0, 1000.0), "LPS",
        "Zhou et al. 2021, doi:10.1016/j.media.2020.101840. Crops of 64 x 64 x 32 voxels at the scanner's voxel size. "
        "The original normalises by the batch at hand, also in use; here the running statistics are used.",
    ),
    "ctfm": InputConvention(
        None, (-1024.0, 2048.0), "SPL",
        "Pai et al. 2025, arXiv:2501.09001. Pre-training at 3 x 1 x 1 mm (z, y, x).",
    ),
    "monai": InputConvention(None, None, CANONICAL, "Unknown: the file does not say how its images were prepared."),
}  # fmt: skip
"""Conventions by name, see the table at the top of this module."""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a weight file under the names that our networks use.

    Attributes
    ----------
    path : Path
        The file of the tensors.
    kind : str
        Name of the network in :data:`~hybrid.deep.segmentation.networks.SEGMENTERS`.
    tensors : dict of str to Tensor
        On the CPU, in float32, kernels turned to our axes.
    prefix : str
        What stood before the names, for example ``"module."``.
    sha256 : str
        Digest of the file.
    convention : str
        Name in :data:`INPUTS`.
    structure : Structure
        Width, kernels, strides and blocks.
    orientation : str
        Axes from which the kernels were turned.
    trunk : str
        First part of the names that the file is expected to fill; ``"encoder."`` where it holds no decoder.
    card : dict
        Content of ``model.json``; empty for files of others.
    """

    path: Path
    kind: str
    tensors: dict[str, torch.Tensor]
    prefix: str
    sha256: str
    convention: str
    structure: Structure
    orientation: str = CANONICAL
    trunk: str = ""
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def plan(self) -> SegmentationPlan | None:
        """Plan of an own model, or None."""
        return SegmentationPlan.from_dict(self.card["plan"]) if self.card else None

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Voxel size (z, y, x; mm) that the network was trained at, where it is known."""
        own = self.plan
        return INPUTS[self.convention].spacing if own is None else own.spacing

    @property
    def patients(self) -> tuple[str, ...]:
        """Hashed patients that an own model was trained or stopped on."""
        return tuple(self.card.get("patients", ()))


@dataclass(frozen=True)
class CheckpointReport(LoadReport):
    """What a weight file filled in a network.

    Two statuses more than :class:`~hybrid.deep.weights.LoadReport` has: ``adapted`` (the stem, to another number of
    input channels) and ``own_start`` (the head of other classes, or a decoder that the file does not have). The
    coverage is the share of matched and adapted tensors among those that do not keep their own start.
    """

    orientation: str = CANONICAL
    patients: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors by status."""
        found = self.table["status"].value_counts()
        return {status: int(found.get(status, 0)) for status in STATUSES}

    def describe(self) -> dict[str, Any]:
        """Plain data for ``model.json``: counts, and every tensor that is neither matched nor unexpected."""
        special = self.table[self.table["status"].isin(["adapted", "own_start", "missing", "shape_mismatch"])]
        return {
            **super().describe(), "path": Path(self.path).name, "orientation": self.orientation,
            "not_matched": special.to_dict("records"),
        }  # fmt: skip


def weights_file(path: str | Path) -> Path:
    """File of the tensors: the path itself, or ``model.safetensors`` in a folder."""
    path = Path(path)
    return path / MODEL_FILE if path.is_dir() else path


def read_checkpoint(path: str | Path, *, convention: str | None = None, orientation: str | None = None) -> Checkpoint:
    """Read start weights without executing anything in the file.

    Parameters
    ----------
    path : path-like
        Weight file, or folder with ``model.safetensors`` and ``model.json`` or ``config.json``.
    convention : str, optional
        Overrides what the file's layout suggests, see :data:`INPUTS`.
    orientation : str, optional
        Where the authors' array axes pointed, for example ``"RAS"``; default: that of the convention. MONAI's files do
        not say it and are taken as they are; after ``Orientationd(axcodes="RAS")`` it is ``"RAS"``.

    Returns
    -------
    Checkpoint
        Tensors, and what they say about the network.

    Raises
    ------
    WeightsError
        When the file is missing or damaged, holds pickled objects, or the tensors are of no known network.
    InputError
        For an unknown convention or an impossible orientation.
    """
    file = weights_file(path)
    if convention is not None and convention not in INPUTS:
        raise unknown_name("convention", convention, INPUTS)
    if not file.is_file():
        raise WeightsError("The weight file does not exist.", advice="Check the path.", path=file)
    card = _json(file.parent / MODEL_CARD) if file.name == MODEL_FILE else {}
    if card:
        if convention not in (None, "hybrid") or orientation not in (None, CANONICAL):
            raise InputError("An own model needs no convention and no orientation: model.json has them.", path=file)
        return _own_model(file, card)
    content = _load(file)
    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), "")
    found = content[wrapper] if wrapper else content
    tensors = {name: _as_float(value) for name, value in found.items() if isinstance(value, torch.Tensor)}
    kind, prefix, named = _recognise(tensors, content, file)
    config = _json(file.parent / CONFIG) if file.name == MODEL_FILE else {}
    chosen = convention or _convention(kind, wrapper, prefix, config)
    if chosen == "suprem":
        named = {name: value for name, value in named.items() if not LAYOUTS[kind].head.match(name)}
    axes = _checked_axes(orientation or INPUTS[chosen].orientation)
    named = {name: _turned(value, axes) for name, value in named.items()}
    structure = _structure(kind, named, file)
    _agree(config, structure, file)
    trunk = "encoder." if kind == "segresnet" and all(name.startswith("encoder.") for name in named) else ""
    return Checkpoint(file, kind, named, prefix, file_digest(file), chosen, structure, axes, trunk)


def _json(path: Path) -> dict[str, Any]:
    """Content of a JSON file, empty when there is none."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"The file is no valid JSON ({error}).", advice="Copy it again.", path=path) from error
    if not isinstance(content, dict):
        raise WeightsError(f"Expected a JSON object, found {type(content).__name__}.", path=path)
    return content


def _own_model(file: Path, card: dict[str, Any]) -> Checkpoint:
    if card.get("format") != FORMAT:
        raise WeightsError(
            f"Only the folder of one segmentation network can give start weights; model.json has the format "
            f"{card.get('format')!r}.",
            advice="Give one member of an ensemble, or one stage of a cascade.",
            path=file.parent,
        )
    plan, sha256 = SegmentationPlan.from_dict(card["plan"]), file_digest(file)
    if plan.network not in LAYOUTS:
        raise WeightsError(
            f"Expected a network with one branch ({', '.join(LAYOUTS)}), found {plan.network!r}.", path=file.parent
        )
    if sha256 != card.get("sha256"):
        raise WeightsError(
            f"The weights are not those of the model card: expected SHA-256 {str(card.get('sha256'))[:12]}..., found "
            f"{sha256[:12]}....",
            advice="Copy the folder again.",
            path=file,
        )
    tensors = {name: _as_float(value) for name, value in _load(file).items() if not name.startswith(DUPLICATES)}
    architecture = dict(plan.architecture)
    if plan.network == "segresnet":  # its kernels follow the voxel size, which may change
        architecture.setdefault("resolution", plan.spacing)
    structure = Structure(plan.width, plan.kernels, plan.strides, architecture)
    return Checkpoint(file, plan.network, tensors, "", sha256, "hybrid", structure, card=card)


def _recognise(
    tensors: dict[str, torch.Tensor], content: Mapping[str, Any], file: Path
) -> tuple[str, str, dict[str, torch.Tensor]]:
    """Network, prefix, and tensors under the names of our networks."""
    renamed = {_renamed(name): value for name, value in tensors.items()}
    for kind, layout in LAYOUTS.items():
        for anchor in layout.anchors:
            prefix = _prefix(renamed, anchor)
            if prefix is not None:
                named = {name.removeprefix(prefix): value for name, value in renamed.items()}
                return kind, prefix, {k: v for k, v in named.items() if not k.startswith(DUPLICATES)}
    prefix = _prefix(tensors, "conv_init.weight")  # SegResNetDS's encoder alone
    if prefix is not None:
        return "segresnet", prefix, {f"encoder.{k.removeprefix(prefix)}": v for k, v in tensors.items()}
    raise _unknown(tensors, content, file)


def _renamed(name: str) -> str:
    """Name in :class:`GenesisUNet` of a tensor of its original; other names stay."""
    if not any(part in name for part in ("down_tr", "up_tr", "out_tr.")):
        return name
    for theirs, ours in GENESIS_NAMES:
        name = name.replace(theirs, ours)
    return name


def _prefix(names: Iterable[str], anchor: str) -> str | None:
    prefixes = [name.removesuffix(anchor) for name in names if name.endswith(anchor)]
    return min((prefix for prefix in prefixes if not prefix or prefix.endswith(".")), key=len, default=None)


def _unknown(tensors: Mapping[str, torch.Tensor], content: Mapping[str, Any], file: Path) -> WeightsError:
    if not tensors:
        keys = ", ".join(map(str, list(content)[:_SHOWN])) or "none"
        return WeightsError(f"The file holds no tensors; its keys are: {keys}.", path=file)
    known = [network for part, network in NOT_SUPPORTED.items() if any(part in name for name in tensors)]
    guess = f" They look like {known[0]}." if known else ""
    return WeightsError(
        f"These are not the tensors of a network that can be started: found {', '.join(list(tensors)[:_SHOWN])} and "
        f"{max(0, len(tensors) - _SHOWN)} more.{guess}",
        advice="Known: MONAI's SegResNet, SegResNetDS, DynUNet and UNet, the U-Net of Models Genesis and SuPreM, "
        "CT-FM, and our own model folders.",
        path=file,
    )


def _convention(kind: str, wrapper: str, prefix: str, config: Mapping[str, Any]) -> str:
    if wrapper == "net" and kind in ("genesis_unet", "segresnet_plain") and prefix.startswith("module."):
        return "suprem"
    if kind == "genesis_unet":
        return "suprem" if prefix.endswith("backbone.") else "genesis"
    return "ctfm" if kind == "segresnet" and "init_filters" in config else "monai"


def _checked_axes(orientation: str) -> str:
    axes = orientation.upper()
    if sorted(min(letter, _OPPOSITE.get(letter, letter)) for letter in axes) != ["A", "I", "L"]:
        raise InputError(
            f"An orientation has three letters, one of R/L, one of A/P and one of S/I; found {orientation!r}.",
            advice="Example: RAS.",
        )
    return axes


def _turned(tensor: torch.Tensor, orientation: str) -> torch.Tensor:
    """Kernel of shape (out, in, *axes) with its axes turned from an orientation to ours."""
    if tensor.ndim != 5 or orientation == CANONICAL:
        return tensor
    places = [next(i for i, end in enumerate(orientation) if end in (ours, _OPPOSITE[ours])) for ours in CANONICAL]
    mirrored = [2 + i for i, place in enumerate(places) if orientation[place] != CANONICAL[i]]
    return tensor.permute(0, 1, *[2 + place for place in places]).flip(mirrored).contiguous()


def _structure(kind: str, tensors: Mapping[str, torch.Tensor], file: Path) -> Structure:
    try:
        found = LAYOUTS[kind].structure(tensors)
        if len(found.strides) < MIN_DEPTH:
            raise KeyError("a second stage")
        return found
    except (KeyError, IndexError) as error:
        raise WeightsError(
            f"The file looks like {kind!r} but is not complete: {error} is missing.",
            advice="Were tensors renamed or left out?",
            path=file,
        ) from error


def _agree(config: Mapping[str, Any], structure: Structure, file: Path) -> None:
    """Compare CT-FM's ``config.json`` with the tensors."""
    found = {
        "init_filters": structure.width, "in_channels": structure.in_channels,
        "blocks_down": list(structure.architecture.get("blocks", ())),
    }  # fmt: skip
    for name, value in found.items():
        said = config.get(name, value)
        if (list(said) if isinstance(value, list) else said) != value:
            raise WeightsError(
                f"The tensors are not those of config.json: it has {name} = {said}, the tensors have {value}.",
                advice="Copy the folder again.",
                path=file,
            )


def plan_from_checkpoint(
    checkpoint: Checkpoint, plan: SegmentationPlan, *, keep: Iterable[str] = ()
) -> SegmentationPlan:
    """Let a plan follow a weight file, so that ``build_segmenter`` gives the network that the weights belong to.

    Parameters
    ----------
    checkpoint : Checkpoint
        From :func:`read_checkpoint`.
    plan : SegmentationPlan
        Of the cohort at hand: labels, patch, intensities of its foreground.
    keep : iterable of {"spacing", "intensity", "strides"}
        What the plan has and the file shall not change. Strides (with kernels) matter for MONAI's U-Net, whose file
        shows none: 2 along every axis is assumed.

    Returns
    -------
    SegmentationPlan
        With the file's network, width, kernels, strides and ``architecture``; voxel size and intensities where the
        convention fixes them (intensities of CT only); the patch rounded down to what the network can pool.

    Raises
    ------
    InputError
        For an unknown name in ``keep``, or strides of another number of stages.
    """
    kept = set(keep)
    for name in kept - set(KEEPABLE):
        raise unknown_name("part of the plan to keep", name, KEEPABLE)
    found = checkpoint.structure
    kernels, strides = (plan.kernels, plan.strides) if "strides" in kept else (found.kernels, found.strides)
    if len(strides) != len(found.strides):
        raise InputError(
            f"The network of the weights has {len(found.strides)} stages; the strides to keep are for {len(strides)}."
        )
    changes: dict[str, Any] = {}
    if "spacing" not in kept and checkpoint.spacing is not None:
        changes["spacing"] = checkpoint.spacing
    if "intensity" not in kept and plan.modality == "ct":
        changes["intensity"] = _intensity(checkpoint, plan)
    return replace(
        plan, network=checkpoint.kind, width=found.width, kernels=kernels, strides=strides,
        architecture=dict(found.architecture), patch=_patch(plan.patch, strides), **changes,
    )  # fmt: skip


def _intensity(checkpoint: Checkpoint, plan: SegmentationPlan) -> dict[str, float]:
    own, hu_range = checkpoint.plan, INPUTS[checkpoint.convention].hu_range
    if own is not None:
        return dict(own.intensity if own.modality == "ct" else plan.intensity)
    if hu_range is None:
        return plan.intensity
    low, high = hu_range
    cohort = {f"foreground_{name}": plan.intensity[name] for name in ("mean", "sd")}
    return {"low": low, "high": high, "mean": low, "sd": high - low, **cohort}


def _patch(patch: Triple, strides: Triples) -> Triple:
    """Patch rounded down to multiples of the divisor; the deepest feature map has more than one voxel."""
    divisor = [math.prod(stride[axis] for stride in strides) for axis in range(3)]
    counts = [max(1, edge // step) for edge, step in zip(patch, divisor, strict=True)]
    if math.prod(counts) == 1:
        counts = [2, 2, 2]
    first, second, third = (count * step for count, step in zip(counts, divisor, strict=True))
    return first, second, third


def load_checkpoint(
    network: nn.Module, checkpoint: Checkpoint, *, min_coverage: float = MIN_COVERAGE
) -> CheckpointReport:
    """Fill a network with start weights, or refuse.

    A stem with another number of input channels gets the mean of the file's kernels in each of its channels, scaled so
    that an image repeated in all channels gives the same response. A head with another number of classes keeps its own
    start, as does the decoder when the file is an encoder. Tagged and dual-branch networks get the weights of a DynUNet
    as :func:`~hybrid.deep.segmentation.branches.start_from` describes.

    Parameters
    ----------
    network : torch.nn.Module
        Built from a plan; changed in place when the file is accepted, and only then.
    checkpoint : Checkpoint
        From :func:`read_checkpoint`.
    min_coverage : float
        Smallest share of the trunk's tensors that must fit.

    Returns
    -------
    CheckpointReport
        A row for every tensor of the network and of the file.

    Raises
    ------
    WeightsError
        When fewer tensors fit; the message shows counts and the first misfits. The network is left as it was.
    """
    own = network.state_dict()
    rows: list[Row] = []
    filled, used = {}, set()
    for name, tensor in own.items():
        if _is_left_out(network, name):
            continue
        source = _source_name(network, name)
        used.add(source)
        theirs = checkpoint.tensors.get(source)
        status, value = _fitted(network, checkpoint, source, tensor, theirs)
        rows.append((name, status, tuple(tensor.shape), None if theirs is None else tuple(theirs.shape)))
        if value is not None:
            filled[name] = value
    rows += [
        (name, "unexpected", None, tuple(value.shape))
        for name, value in checkpoint.tensors.items() if name not in used and not name.endswith(_COUNTER)
    ]  # fmt: skip
    report = _report(rows, checkpoint)
    if report.coverage < min_coverage:
        raise _refusal(report, min_coverage)
    with torch.no_grad():
        for name, value in filled.items():
            own[name].copy_(value)
    _log(report)
    return report


def _is_left_out(network: nn.Module, name: str) -> bool:
    """Whether a tensor is a duplicate, a counter, or belongs to the gates that only a dual-branch network has."""
    gates = isinstance(network, DualBranchNetwork) and name.startswith(("mix.", "gates."))
    return gates or name.endswith(_COUNTER) or name.startswith(DUPLICATES) or f".{DUPLICATES}" in name


def _fitted(
    network: nn.Module, checkpoint: Checkpoint, name: str, own: torch.Tensor, theirs: torch.Tensor | None
) -> tuple[str, torch.Tensor | None]:
    """Status of one tensor of the network, and what it is filled with."""
    layout = LAYOUTS[checkpoint.kind]
    status = _status(tuple(own.shape), None if theirs is None else tuple(theirs.shape))
    if status == "matched":
        return status, theirs
    if layout.head.match(name) or not name.startswith(checkpoint.trunk):
        return "own_start", None
    if theirs is not None and layout.stem.fullmatch(name):
        tagged = isinstance(network, TaggedNetwork)
        adapted = _with_tag(theirs, own) if tagged else _adapted_stem(theirs, own)
        if adapted is not None:
            return "adapted", adapted
    return status, None


def _adapted_stem(theirs: torch.Tensor, own: torch.Tensor) -> torch.Tensor | None:
    """Mean kernel for every input channel, scaled to keep the sum; None when more than the channels differ."""
    if theirs.shape[0] != own.shape[0] or theirs.shape[2:] != own.shape[2:]:
        return None
    return (theirs.sum(dim=1, keepdim=True) / own.shape[1]).expand_as(own)


def _report(rows: list[Row], checkpoint: Checkpoint) -> CheckpointReport:
    text = [(name, status, _shape_text(wanted), _shape_text(there)) for name, status, wanted, there in rows]
    statuses = [row[1] for row in rows]
    fitting = sum(status in ("matched", "adapted") for status in statuses)
    trunk = fitting + sum(status in ("missing", "shape_mismatch") for status in statuses)
    return CheckpointReport(
        pd.DataFrame(text, columns=list(REPORT_COLUMNS)), fitting / max(1, trunk), str(checkpoint.path),
        checkpoint.convention, checkpoint.sha256, checkpoint.kind, checkpoint.orientation, checkpoint.patients,
    )  # fmt: skip


def _refusal(report: CheckpointReport, min_coverage: float) -> WeightsError:
    counts, table = report.counts, report.table
    fitting = counts["matched"] + counts["adapted"]
    trunk = fitting + counts["missing"] + counts["shape_mismatch"]
    wrong = table[table["status"].isin(["missing", "shape_mismatch"])].head(_SHOWN)
    lines = [
        f"{row.tensor} ({row.status}: expected {row.shape_expected}, found {row.shape_found or 'nothing'})"
        for row in wrong.itertuples()
    ]
    spare = table.loc[table["status"] == "unexpected", "tensor"].head(_SHOWN)
    return WeightsError(
        f"Only {fitting} of {trunk} tensors of the trunk fit ({100 * report.coverage:.0f} %; at least "
        f"{100 * min_coverage:.0f} % are needed): {counts['missing']} missing, {counts['shape_mismatch']} of another "
        f"shape. First: {'; '.join(lines)}. Unexpected in the file: {', '.join(spare) or 'none'}.",
        advice="Were tensors renamed? Both need the same network, width and stages: let the plan follow the file "
        "(plan_from_checkpoint, or `hybrid train --weights`).",
        path=report.path,
    )


def _log(report: CheckpointReport) -> None:
    left = report.table.loc[report.table["status"].isin(["own_start", "missing", "shape_mismatch"]), "tensor"]
    logger.info("%s: %d tensors filled.", Path(report.path).name, report.counts["matched"] + report.counts["adapted"])
    if len(left):
        logger.warning(
            "%s: %d tensors keep their random start: %s%s", Path(report.path).name, len(left),
            ", ".join(left[: 2 * _SHOWN]), " ..." if len(left) > 2 * _SHOWN else "",
        )  # fmt: skip
