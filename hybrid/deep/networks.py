"""3D residual networks by name, and the architecture of a network as a small value.

The networks are MONAI's :class:`monai.networks.nets.ResNet` (3D, without a classification layer): the output of a
forward pass is the globally averaged last feature map. :class:`Architecture` names everything that changes the numbers
but does not show in the weights, above all strides and dilation, so that it can be written beside every result.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

import torch
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from torch import nn

from hybrid.errors import InputError, unknown_name

DILATIONS: Final = {"layer3": 2, "layer4": 4}
"""Dilation that replaces the stride of a stage in MedicalNet's own networks."""

_ATTRIBUTE: Final = "architecture"


@dataclass(frozen=True)
class Architecture:
    """A 3D ResNet trunk.

    Parameters
    ----------
    name : str
        Family name, for example ``"resnet18"``.
    block : {"basic", "bottleneck"}
        Residual block; its output has 1 or 4 times the planes.
    layers : tuple of int
        Blocks in each of the four stages.
    planes : tuple of int
        Channels of each stage before ``widen``.
    in_channels : int
        Input channels.
    first_kernel, first_stride : int
        First convolution. MedicalNet and FMCIB use stride 2; MONAI's own default is 1.
    max_pool : bool
        3x3x3 pooling with stride 2 after the first convolution.
    shortcut : {"A", "B"}
        Zero padding without weights, or a 1x1x1 convolution.
    bias_downsample : bool
        Whether that convolution has a bias.
    widen : float
        Factor on ``planes``.
    dilated : bool
        Stages 3 and 4 with stride 1 and dilation 2 and 4, as in MedicalNet's own code; MONAI uses stride 2. The
        weights fit both, the features differ.
    """

    name: str
    block: str
    layers: tuple[int, ...]
    planes: tuple[int, ...] = (64, 128, 256, 512)
    in_channels: int = 1
    first_kernel: int = 7
    first_stride: int = 2
    max_pool: bool = True
    shortcut: str = "B"
    bias_downsample: bool = False
    widen: float = 1.0
    dilated: bool = False

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return int(self.planes[-1] * self.widen) * (4 if self.block == "bottleneck" else 1)

    @property
    def variant(self) -> str:
        """Name with everything that the weights do not show, for example ``resnet18-stride2-dilated``."""
        parts = [self.name, f"stride{self.first_stride}"]
        parts += [f"wide{self.widen:g}"] if self.widen != 1 else []
        parts += ["dilated"] if self.dilated else []
        return "-".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``model.json`` and provenance."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Architecture:
        """Rebuild from :meth:`to_dict`.

        Raises
        ------
        InputError
            For an unknown field.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise unknown_name("architecture field", key, known)
        plain: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**plain)


ARCHITECTURES: Final[dict[str, Architecture]] = {
    "narrow": Architecture(
        "narrow", "basic", (1, 1, 1, 1), planes=(16, 32, 64, 128), in_channels=3, first_kernel=5, max_pool=False
    ),
    "resnet10": Architecture("resnet10", "basic", (1, 1, 1, 1)),
    "resnet18": Architecture("resnet18", "basic", (2, 2, 2, 2), shortcut="A", bias_downsample=True),
    "resnet34": Architecture("resnet34", "basic", (3, 4, 6, 3), shortcut="A", bias_downsample=True),
    "resnet50": Architecture("resnet50", "bottleneck", (3, 4, 6, 3)),
}
"""Architectures by name. ``narrow`` is that of the bundled encoder: its three input channels are the image, the mask
and the voxel size. The others have MedicalNet's layout and one channel."""


def build_network(name: str | Architecture, *, seed: int = 0, **options: Any) -> ResNet:
    """Build a network with reproducible random weights, in evaluation mode.

    Parameters
    ----------
    name : str or Architecture
        A name in :data:`RESNETS`, or an architecture.
    seed : int
        Seed of the initial weights; the global random state is left alone.
    **options
        Fields of :class:`Architecture` to change, for example ``dilated=True`` or ``first_stride=1``.

    Returns
    -------
    monai.networks.nets.ResNet
        Maps ``(B, C, D, H, W)`` to ``(B, dim)``; its ``architecture`` attribute says what it is.

    Raises
    ------
    InputError
        For an unknown name or option, or an architecture that cannot be built.

    Examples
    --------
    >>> build_network("resnet18", dilated=True).architecture.variant
    'resnet18-stride2-dilated'
    """
    architecture = _resolve(name, options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _monai_resnet(architecture)
    if architecture.dilated:
        for stage, dilation in DILATIONS.items():
            _dilate(getattr(network, stage), dilation)
    setattr(network, _ATTRIBUTE, architecture)
    return network.eval()


RESNETS: Final[dict[str, Callable[..., ResNet]]] = {
    name: functools.partial(build_network, name) for name in ARCHITECTURES
}
"""Factories by name; each takes the options of :func:`build_network`."""


def architecture_of(network: nn.Module) -> Architecture:
    """Architecture of a network that :func:`build_network` made.

    Raises
    ------
    InputError
        For any other network.
    """
    architecture = getattr(network, _ATTRIBUTE, None)
    if not isinstance(architecture, Architecture):
        raise InputError(
            f"The network ({type(network).__name__}) does not say what architecture it has.",
            advice="Build it with hybrid.deep.build_network.",
        )
    return architecture


def _resolve(name: str | Architecture, options: Mapping[str, Any]) -> Architecture:
    if isinstance(name, str) and name not in ARCHITECTURES:
        raise unknown_name("network", name, ARCHITECTURES)
    known = [field.name for field in fields(Architecture) if field.name != "name"]
    for option in options:
        if option not in known:
            raise unknown_name("network option", option, known)
    architecture = replace(ARCHITECTURES[name] if isinstance(name, str) else name, **options)
    for field_name, valid in (("block", ("basic", "bottleneck")), ("shortcut", ("A", "B"))):
        if getattr(architecture, field_name) not in valid:
            raise unknown_name(f"value of {field_name!r}", getattr(architecture, field_name), valid)
    if len(architecture.layers) != 4 or len(architecture.planes) != 4:
        raise InputError(
            f"A ResNet has four stages; 'layers' is {architecture.layers} and 'planes' is {architecture.planes}."
        )
    return architecture


def _monai_resnet(architecture: Architecture) -> ResNet:
    return ResNet(
        block=ResNetBottleneck if architecture.block == "bottleneck" else ResNetBlock,
        layers=list(architecture.layers),
        block_inplanes=list(architecture.planes),
        spatial_dims=3,
        n_input_channels=architecture.in_channels,
        conv1_t_size=architecture.first_kernel,
        conv1_t_stride=architecture.first_stride,
        no_max_pool=not architecture.max_pool,
        shortcut_type=architecture.shortcut,
        widen_factor=architecture.widen,
        feed_forward=False,
        bias_downsample=architecture.bias_downsample,
    )


def _dilate(stage: nn.Module, dilation: int) -> None:
    """Replace the stride of a stage by dilation; the tensors keep their names and shapes."""
    for module in stage.modules():
        if isinstance(module, nn.Conv3d):
            module.stride = (1, 1, 1)
            if module.kernel_size == (3, 3, 3):
                module.dilation = (dilation,) * 3
                module.padding = (dilation,) * 3
        shortcut = getattr(module, "downsample", None)
        if isinstance(shortcut, functools.partial):
            strided = {**shortcut.keywords, "stride": 1}
            setattr(module, "downsample", functools.partial(shortcut.func, **strided))  # noqa: B010
