"""Residual networks that classify volumes (3D) or slices (2D): MONAI's ResNet with one score per class.

The 3D trunks have MedicalNet's layout, the 2D trunks that of torchvision, so that weight files of either fit by path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import torch
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from torch import nn

from hybrid.deep.networks import ARCHITECTURES, Architecture
from hybrid.deep.weights import LoadReport, StoredTensors, load_weights, read_weights
from hybrid.errors import InputError, unknown_name

CLASSIFIERS: Final = ("resnet10", "resnet18", "resnet34", "resnet50")
"""Networks by name; more blocks, more memory."""

_FIRST: Final = "conv1.weight"
_HEAD: Final = "fc."


@dataclass(frozen=True)
class ClassifierArchitecture:
    """A ResNet with a linear layer on its pooled last feature map.

    Parameters
    ----------
    trunk : Architecture
        Blocks, channels, first convolution; ``dilated`` is not supported here.
    dims : {2, 3}
        Axes of the image.
    classes : int
        Scores that the network gives.
    """

    trunk: Architecture
    dims: int
    classes: int

    def __post_init__(self) -> None:
        if self.dims not in (2, 3):
            raise InputError(f"A classifier sees slices (2 axes) or volumes (3 axes); found dims={self.dims}.")
        if self.classes < 2 or self.trunk.in_channels < 1:
            raise InputError(
                f"Expected at least two classes and one channel; found {self.classes} and {self.trunk.in_channels}."
            )
        if self.trunk.dilated:
            raise InputError("Classifiers have no dilated form.", advice="Leave out dilated=True.")

    @property
    def variant(self) -> str:
        """Name with what the weights do not show, for example ``resnet18-stride2-2d``."""
        return f"{self.trunk.variant}-{self.dims}d"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``model.json``."""
        return {"trunk": self.trunk.to_dict(), "dims": self.dims, "classes": self.classes}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClassifierArchitecture:
        """Rebuild from :meth:`to_dict`.

        Raises
        ------
        InputError
            When a field is unknown or missing.
        """
        if set(values) != {"trunk", "dims", "classes"}:
            raise InputError(f"Expected the fields trunk, dims and classes; found {', '.join(map(str, values))}.")
        return cls(Architecture.from_dict(values["trunk"]), values["dims"], values["classes"])


def classifier_architecture(
    name: str, *, dims: int, in_channels: int, classes: int, **options: Any
) -> ClassifierArchitecture:
    """Architecture by name.

    Parameters
    ----------
    name : str
        One of :data:`CLASSIFIERS`.
    dims : {2, 3}
        Axes of the image.
    in_channels, classes : int
        Input channels and output scores.
    **options
        Fields of :class:`~hybrid.deep.networks.Architecture` to change, for example ``widen=0.25``.

    Raises
    ------
    InputError
        For an unknown name or option.
    """
    if name not in CLASSIFIERS:
        raise unknown_name("network", name, CLASSIFIERS)
    known = [field.name for field in fields(Architecture) if field.name not in ("name", "in_channels")]
    for option in options:
        if option not in known:
            raise unknown_name("network option", option, known)
    # torchvision's 2D networks have convolutions without bias as shortcuts, MedicalNet's smaller 3D ones have none.
    layout = {"shortcut": "B", "bias_downsample": False} if dims == 2 else {}
    trunk = replace(ARCHITECTURES[name], **{**layout, **options, "in_channels": in_channels})
    return ClassifierArchitecture(trunk, dims, classes)


def build_classifier(architecture: ClassifierArchitecture, *, seed: int = 0) -> ResNet:
    """Build a network with reproducible random weights, in evaluation mode; the global random state is left alone.

    Returns
    -------
    monai.networks.nets.ResNet
        Maps ``(B, C, H, W)`` or ``(B, C, D, H, W)`` to scores ``(B, classes)`` before softmax; its ``architecture``
        attribute says what it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _resnet(architecture, head=True)


def _resnet(architecture: ClassifierArchitecture, *, head: bool) -> ResNet:
    trunk = architecture.trunk
    network = ResNet(
        block=ResNetBottleneck if trunk.block == "bottleneck" else ResNetBlock,
        layers=list(trunk.layers),
        block_inplanes=list(trunk.planes),
        spatial_dims=architecture.dims,
        n_input_channels=trunk.in_channels,
        conv1_t_size=trunk.first_kernel,
        conv1_t_stride=trunk.first_stride,
        no_max_pool=not trunk.max_pool,
        shortcut_type=trunk.shortcut,
        widen_factor=trunk.widen,
        num_classes=architecture.classes,
        feed_forward=head,
        bias_downsample=trunk.bias_downsample,
    )
    setattr(network, "architecture", architecture)  # noqa: B010
    return network.eval()


def architecture_of(network: nn.Module) -> ClassifierArchitecture:
    """Architecture of a network that :func:`build_classifier` made.

    Raises
    ------
    InputError
        For any other network.
    """
    found = getattr(network, "architecture", None)
    if not isinstance(found, ClassifierArchitecture):
        raise InputError(
            f"The network ({type(network).__name__}) is no classifier of this package.",
            advice="Build it with hybrid.deep.classification.build_classifier.",
        )
    return found


def load_pretrained(network: ResNet, path: str | Path) -> LoadReport:
    """Load pretrained weights into the trunk of a classifier; its last layer keeps its random start.

    Parameters
    ----------
    network : monai.networks.nets.ResNet
        Built by :func:`build_classifier`; changed in place when the file is accepted, and only then.
    path : path-like
        Weight file (see :mod:`hybrid.deep.weights`) or the folder of a trained classifier.

    Returns
    -------
    LoadReport
        What fitted. A first convolution of a file with another number of input channels is averaged over them and
        repeated, so that the response to equal channels stays; it counts as matched.

    Raises
    ------
    WeightsError
        When less than 95 % of the trunk's tensors match.
    """
    architecture = architecture_of(network)
    trunk = _resnet(architecture, head=False)
    trunk.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith(_HEAD)})
    report = load_weights(trunk, _for_channels(read_weights(path), architecture.trunk.in_channels))
    network.load_state_dict({**network.state_dict(), **trunk.state_dict()})
    return report


def _for_channels(stored: StoredTensors, channels: int) -> StoredTensors:
    first = stored.tensors.get(_FIRST)
    if first is None or first.ndim < 4 or first.shape[1] == channels:
        return stored
    repeats = (1, channels, *(1,) * (first.ndim - 2))
    adapted = first.sum(dim=1, keepdim=True).repeat(repeats) / channels
    return replace(stored, tensors={**stored.tensors, _FIRST: adapted})
