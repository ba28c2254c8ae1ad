"""What the tensors of a foreign segmentation network say about it, and the one network that MONAI does not have.

A layout knows which tensor gives a network away, which tensors depend on the number of input channels (the stem) and of
classes (the head), and how width, kernels, strides and blocks are read off names and shapes. What does not show in the
tensors (the strides of MONAI's U-Net, group against instance normalisation, the activation) follows MONAI's defaults.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import nn

Tensors = Mapping[str, torch.Tensor]
Triple = tuple[int, int, int]
Triples = tuple[Triple, ...]

POOLED: Final = (2, 2, 2)


@dataclass(frozen=True)
class Structure:
    """What a plan needs to build the network of a file.

    Attributes
    ----------
    width : int
        Features of the first stage.
    kernels, strides : tuple of triples
        One per stage; the first stride is 1.
    architecture : dict
        Value of :attr:`~hybrid.deep.segmentation.planning.SegmentationPlan.architecture`.
    in_channels : int
        Input channels of the file's stem.
    """

    width: int
    kernels: Triples
    strides: Triples
    architecture: dict[str, Any] = field(default_factory=dict)
    in_channels: int = 1


@dataclass(frozen=True)
class Layout:
    """How the tensors of one kind of network are named.

    Attributes
    ----------
    anchors : tuple of str
        Names of the first convolution; a file that has one of them, with any prefix, is of this kind.
    stem, head : Pattern
        Names of tensors that depend on the number of input channels, and of classes.
    structure : callable
        Reads a :class:`Structure` off tensors without prefix.
    """

    anchors: tuple[str, ...]
    stem: re.Pattern[str]
    head: re.Pattern[str]
    structure: Callable[[Tensors], Structure]


def _shape(tensors: Tensors, name: str) -> Triple:
    size = tensors[name].shape
    return int(size[2]), int(size[3]), int(size[4])


def _count(tensors: Tensors, pattern: str) -> int:
    """One more than the largest number at the place of the pattern's group."""
    found = [int(match.group(1)) for name in tensors if (match := re.match(pattern, name))]
    return max(found) + 1 if found else 0


def _norm(tensors: Tensors, layer: str, affine: str) -> str:
    """Normalisation of a layer; ``affine`` names the one with weights and no running statistics."""
    if f"{layer}.running_mean" in tensors:
        return "batch"
    return affine if f"{layer}.weight" in tensors else "instance_plain"


def _dynunet(tensors: Tensors) -> Structure:
    middle = [f"downsamples.{number}" for number in range(_count(tensors, r"downsamples\.(\d+)\."))]
    stages = ["input_block", *middle, "bottleneck"]
    first = [tensors[f"{stage}.conv1.conv.weight"] for stage in stages]
    deepest_first = [_shape(tensors, f"upsamples.{i}.transp_conv.conv.weight") for i in range(len(stages) - 1)]
    return Structure(
        width=int(first[0].shape[0]),
        kernels=tuple(_shape(tensors, f"{stage}.conv1.conv.weight") for stage in stages),
        strides=((1, 1, 1), *reversed(deepest_first)),
        architecture={
            "features": tuple(int(weight.shape[0]) for weight in first),
            "heads": _count(tensors, r"deep_supervision_heads\.(\d+)\."),
            "norm": _norm(tensors, "input_block.norm1", "instance"),
            "residual": "input_block.conv3.conv.weight" in tensors,
            "bias": "upsamples.0.transp_conv.conv.bias" in tensors,
        },
        in_channels=int(first[0].shape[1]),
    )


def _unet(tensors: Tensors) -> Structure:
    """MONAI's U-Net nests: ``model.0`` leads down, ``model.1.submodule`` is the rest below, ``model.2`` leads up."""
    place, features, strides = "model.", [], [(1, 1, 1)]
    kernel = _shape(tensors, _first_convolution(tensors, "model.0."))
    while (name := _first_convolution(tensors, f"{place}0.")) in tensors:
        features.append(int(tensors[name].shape[0]))
        shortcut = f"{place}0.residual.weight"
        pooled = shortcut not in tensors or _shape(tensors, shortcut) == kernel
        strides.append(POOLED if pooled else (1, 1, 1))
        place = f"{place}1.submodule."
    features.append(int(tensors[_first_convolution(tensors, place)].shape[0]))
    units = _count(tensors, r"model\.0\.conv\.unit(\d+)\.")
    norms = "model.0.conv.unit0.adn" if units else "model.0.adn"
    stem = _first_convolution(tensors, "model.0.")
    return Structure(
        width=features[0],
        kernels=(kernel,) * len(features),
        strides=tuple(strides),
        architecture={
            "features": tuple(features),
            "residual_units": units,
            "up_kernel": _shape(tensors, "model.2.0.conv.weight" if units else "model.2.conv.weight"),
            "norm": _norm(tensors, f"{norms}.N", "instance"),
            "activation": "prelu" if f"{norms}.A.weight" in tensors else "relu",
            "bias": stem.removesuffix("weight") + "bias" in tensors,
        },
        in_channels=int(tensors[stem].shape[1]),
    )


def _first_convolution(tensors: Tensors, place: str) -> str:
    nested = f"{place}conv.unit0.conv.weight"
    return nested if nested in tensors else f"{place}conv.weight"


def _segresnet(tensors: Tensors) -> Structure:
    """SegResNetDS: an axis is pooled after the stages whose kernels are 3 wide there."""
    stages = _count(tensors, r"encoder\.layers\.(\d+)\.")
    kernels = tuple(_shape(tensors, f"encoder.layers.{i}.blocks.0.conv1.weight") for i in range(stages))
    pooled = tuple(_triple(2 if edge > 1 else 1 for edge in kernel) for kernel in kernels)
    architecture: dict[str, Any] = {
        "blocks": tuple(_count(tensors, rf"encoder\.layers\.{i}\.blocks\.(\d+)\.") for i in range(stages)),
        "norm": _norm(tensors, "encoder.layers.0.blocks.0.norm1", "instance"),
        "resolution": _resolution(kernels),
    }
    if any(name.startswith("up_layers.") for name in tensors):
        ups = range(stages - 1)
        architecture |= {
            "blocks_up": tuple(max(1, _count(tensors, rf"up_layers\.{i}\.blocks\.(\d+)\.")) for i in ups),
            "heads": max(1, sum(f"up_layers.{i}.head.weight" in tensors for i in ups)),
            "upsample": _upsampling(tensors, "up_layers.0.upsample."),
        }
    stem = tensors["encoder.conv_init.weight"]
    return Structure(
        int(stem.shape[0]), kernels, ((1, 1, 1), *pooled[:-1]), architecture, in_channels=int(stem.shape[1])
    )


def _resolution(kernels: Triples) -> tuple[float, float, float]:
    """Relative voxel size for which SegResNetDS has these kernels: an axis waits while it is coarser than others."""
    waiting = [kernel for kernel in kernels if 1 in kernel]
    pooled_first = [sum(kernel[axis] > 1 for kernel in waiting) for axis in range(3)]
    return 0.5 ** pooled_first[0], 0.5 ** pooled_first[1], 0.5 ** pooled_first[2]


def _segresnet_plain(tensors: Tensors) -> Structure:
    stages = _count(tensors, r"down_layers\.(\d+)\.")
    stem = tensors["convInit.conv.weight"]
    return Structure(
        width=int(stem.shape[0]),
        kernels=(_shape(tensors, "convInit.conv.weight"),) * stages,
        strides=((1, 1, 1), *[POOLED] * (stages - 1)),
        architecture={
            "blocks": tuple(max(1, _count(tensors, rf"down_layers\.{i}\.(\d+)\.conv1\.") - 1) for i in range(stages)),
            "blocks_up": tuple(max(1, _count(tensors, rf"up_layers\.{i}\.(\d+)\.")) for i in range(stages - 1)),
            "norm": _norm(tensors, "down_layers.0.1.norm1", "group"),
            "upsample": _upsampling(tensors, "up_samples.0.1."),
        },
        in_channels=int(stem.shape[1]),
    )


def _upsampling(tensors: Tensors, place: str) -> str:
    if f"{place}deconv.weight" in tensors:
        return "deconv"
    return "pixelshuffle" if any(name.startswith(f"{place}pixelshuffle.") for name in tensors) else "nontrainable"


def _genesis(tensors: Tensors) -> Structure:
    stages = _count(tensors, r"encoder\.(\d+)\.")
    stem = tensors["encoder.0.blocks.0.conv.weight"]
    features = tuple(int(tensors[f"encoder.{i}.blocks.1.conv.weight"].shape[0]) for i in range(stages))
    deepest_first = [_shape(tensors, f"decoder.{i}.up.weight") for i in range(stages - 1)]
    return Structure(
        width=features[0],
        kernels=tuple(_shape(tensors, f"encoder.{i}.blocks.0.conv.weight") for i in range(stages)),
        strides=((1, 1, 1), *reversed(deepest_first)),
        architecture={"features": features},
        in_channels=int(stem.shape[1]),
    )


def _triple(values: Any) -> Triple:
    first, second, third = values
    return first, second, third


LAYOUTS: Final[dict[str, Layout]] = {
    "genesis_unet": Layout(
        ("encoder.0.blocks.0.conv.weight",),
        re.compile(r"encoder\.0\.blocks\.0\.conv\.weight"),
        re.compile(r"head\."),
        _genesis,
    ),
    "segresnet_plain": Layout(
        ("convInit.conv.weight",),
        re.compile(r"convInit\.conv\.weight"),
        re.compile(r"conv_final\.2\."),
        _segresnet_plain,
    ),
    "segresnet": Layout(
        ("encoder.conv_init.weight",),
        re.compile(r"encoder\.conv_init\.weight"),
        re.compile(r"up_layers\.\d+\.head\."),
        _segresnet,
    ),
    "dynunet": Layout(
        ("input_block.conv1.conv.weight",),
        re.compile(r"input_block\.conv[13]\.conv\.weight"),
        re.compile(r"output_block\.|deep_supervision_heads\."),
        _dynunet,
    ),
    "unet": Layout(
        ("model.0.conv.unit0.conv.weight", "model.0.conv.weight"),
        re.compile(r"model\.0\.(conv\.unit0\.conv|conv|residual)\.weight"),
        re.compile(r"model\.2\."),
        _unet,
    ),
}
"""Layouts by network name, see :data:`~hybrid.deep.segmentation.networks.SEGMENTERS`."""

GENESIS_NAMES: Final = (
    ("down_tr64.", "encoder.0."), ("down_tr128.", "encoder.1."), ("down_tr256.", "encoder.2."),
    ("down_tr512.", "encoder.3."), ("up_tr256.", "decoder.0."), ("up_tr128.", "decoder.1."),
    ("up_tr64.", "decoder.2."), (".up_conv.", ".up."), (".ops.", ".blocks."), (".conv1.", ".conv."),
    (".bn1.", ".norm."), ("out_tr.final_conv.", "head."),
)  # fmt: skip
"""Parts of the names in Models Genesis' and SuPreM's files, and those of :class:`GenesisUNet`."""


def _convolution(inputs: int, outputs: int, kernel: Triple) -> nn.ModuleDict:
    padding = _triple(edge // 2 for edge in kernel)
    return nn.ModuleDict({"conv": nn.Conv3d(inputs, outputs, kernel, padding=padding), "norm": nn.BatchNorm3d(outputs)})


class _Stage(nn.Module):
    """Two convolutions with batch normalisation, before them an optional transposed one that is joined by the skip."""

    def __init__(self, inputs: int, middle: int, outputs: int, kernel: Triple, up: nn.Module | None = None) -> None:
        super().__init__()
        if up is not None:
            self.up = up
        self.blocks = nn.ModuleList([_convolution(inputs, middle, kernel), _convolution(middle, outputs, kernel)])

    def forward(self, values: torch.Tensor, skip: torch.Tensor | None = None) -> torch.Tensor:
        if skip is not None:
            values = torch.cat([self.up(values), skip], dim=1)
        for block in self.blocks:
            layers: Any = block
            values = torch.relu(layers["norm"](layers["conv"](values)))
        return values


class GenesisUNet(nn.Module):
    """The 3D U-Net of Models Genesis and of SuPreM's ``unet`` (Zhou et al. 2021, doi:10.1016/j.media.2020.101840).

    Each stage of the encoder widens in its second convolution; a transposed convolution keeps the number of features
    until the skip has joined. The original normalises by the statistics of the batch at hand even when it is applied,
    so that a case's result depends on its neighbours; here inference uses the running statistics of the file.

    Parameters
    ----------
    in_channels, out_channels : int
        Images and classes.
    features : sequence of int
        Of each stage, finest first; even numbers.
    kernels, strides : sequence of triples
        Of each stage; the first stride is not used.
    """

    def __init__(
        self, in_channels: int, out_channels: int, features: Sequence[int], kernels: Triples, strides: Triples
    ) -> None:
        super().__init__()
        inputs = [in_channels, *features[:-1]]
        self.pools = nn.ModuleList(nn.MaxPool3d(stride) for stride in strides[1:])
        self.encoder = nn.ModuleList(
            _Stage(before, count // 2, count, kernel)
            for before, count, kernel in zip(inputs, features, kernels, strict=True)
        )
        self.decoder = nn.ModuleList(
            _Stage(
                deep + count, count, count, kernels[level],
                up=nn.ConvTranspose3d(deep, deep, strides[level + 1], stride=strides[level + 1]),
            )
            for level, (count, deep) in reversed(list(enumerate(itertools.pairwise(features))))
        )  # fmt: skip
        self.head = nn.Conv3d(features[0], out_channels, 1)
        for layer in self.modules():  # He et al. 2015, doi:10.1109/ICCV.2015.123
            if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
                nn.init.kaiming_normal_(layer.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``(B, out_channels, D, H, W)`` of images ``(B, in_channels, D, H, W)``."""
        values = self.encoder[0](images)
        skips = [values]
        for pool, stage in zip(self.pools, self.encoder[1:], strict=True):
            values = stage(pool(values))
            skips.append(values)
        for stage, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            values = stage(values, skip)
        return self.head(values)
