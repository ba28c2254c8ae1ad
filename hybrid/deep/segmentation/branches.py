"""Networks that know two cohorts: the primary one, which counts, and an auxiliary one to borrow from.

``TaggedNetwork`` is told by a second input channel which cohort an image comes from. ``DualBranchNetwork`` is our
reading of the dual-channel FS-Net (Zhu et al. 2022, doi:10.1007/s11548-022-02587-2), whose wiring is not public; hence
"FS-Net-style"::

    image -> primary encoder   -> p_0 ... p_n ----------------------(+)-> decoder -> logits
          -> auxiliary encoder -> a_0 ... a_n -> mix 1x1x1 -> gate --^

At every scale the decoder gets ``p + tanh(gate) * mix(a)``. All gates start at 0: training begins with the primary
branch alone, and what the auxiliary encoder knows enters only as far as it lowers the primary loss. Auxiliary images go
through the auxiliary encoder and the same decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from monai.networks.nets.dynunet import DynUNet
from torch import nn

from hybrid.errors import InputError, WeightsError

ENCODER: Final = ("input_block.", "downsamples.", "bottleneck.")
"""First parts of the names of a DynUNet's encoder."""

DUPLICATES: Final = "skip_layers."
"""DynUNet lists its parameters a second time under this name."""

MIN_COVERAGE: Final = 0.95
"""Least share of a network's tensors that start weights must fill."""


class TaggedNetwork(nn.Module):
    """A network with a second input channel that is 0 for primary and 1 for auxiliary images.

    Parameters
    ----------
    network : torch.nn.Module
        With two input channels.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor, auxiliary: bool = False) -> Any:
        """Logits of images of shape ``(B, 1, D, H, W)``."""
        tag = torch.full_like(images, float(auxiliary))
        return self.network(torch.cat([images, tag], dim=1))


class DualBranchNetwork(nn.Module):
    """Two encoders, gated fusion at every scale, one decoder; see the module's text.

    Parameters
    ----------
    primary, auxiliary : DynUNet
        The primary one gives encoder, decoder and heads, the auxiliary one an encoder.
    features : sequence of int
        Features of each scale, finest first.
    """

    def __init__(self, primary: DynUNet, auxiliary: DynUNet, features: Sequence[int]) -> None:
        super().__init__()
        self.primary = nn.ModuleList([primary.input_block, *primary.downsamples, primary.bottleneck])
        self.auxiliary = nn.ModuleList([auxiliary.input_block, *auxiliary.downsamples, auxiliary.bottleneck])
        self.mix = nn.ModuleList(nn.Conv3d(count, count, 1) for count in features)
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(1, count, 1, 1, 1)) for count in features)
        self.upsamples, self.output_block = primary.upsamples, primary.output_block
        self.heads = primary.deep_supervision_heads if primary.deep_supervision else nn.ModuleList()

    def forward(self, images: torch.Tensor, auxiliary: bool = False) -> Any:
        """Logits of images of shape ``(B, 1, D, H, W)``; in training mode a list, finest scale first."""
        theirs = _encode(self.auxiliary, images)
        if auxiliary:
            return self._decode(theirs)
        ours = _encode(self.primary, images)
        mixed = [mix(feature) for mix, feature in zip(self.mix, theirs, strict=True)]
        return self._decode([p + torch.tanh(g) * m for p, g, m in zip(ours, self.gates, mixed, strict=True)])

    def _decode(self, features: list[torch.Tensor]) -> Any:
        scales = [features[-1]]
        for up, skip in zip(self.upsamples, reversed(features[:-1]), strict=True):
            scales.append(up(scales[-1], skip))
        finest_first = scales[:0:-1]
        logits = [self.output_block(finest_first[0])]
        if not self.training:
            return logits[0]
        return logits + [head(scale) for head, scale in zip(self.heads, finest_first[1:], strict=False)]

    def gate_openings(self) -> list[float]:
        """Mean absolute opening of the gates of each scale, finest first: 0 means that nothing is borrowed."""
        return [float(torch.tanh(gate.detach()).abs().mean()) for gate in self.gates]


def _encode(blocks: nn.ModuleList, images: torch.Tensor) -> list[torch.Tensor]:
    features = []
    for block in blocks:
        images = block(images)
        features.append(images)
    return features


def encoder_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of a DynUNet's encoder, with or without tag; of both encoders of a dual-branch network.

    Raises
    ------
    InputError
        For another network.
    """
    inner = network.network if isinstance(network, TaggedNetwork) else network
    if isinstance(inner, DualBranchNetwork):
        return [*inner.primary.parameters(), *inner.auxiliary.parameters()]
    if not isinstance(inner, DynUNet):
        raise InputError(
            f"Only the encoder of a DynUNet can be frozen; found {type(inner).__name__}.",
            advice="Use network 'dynunet'.",
        )
    return [value for name, value in inner.named_parameters() if name.startswith(ENCODER)]


def start_from(network: nn.Module, state: Mapping[str, torch.Tensor]) -> float:
    """Fill a network, in place, with the tensors of a trained network of the same plan.

    A tagged network starts with zero weights for its tag. A dual-branch network gets both encoders from the one of the
    plain network. A head with another number of classes keeps its own start.

    Parameters
    ----------
    network : torch.nn.Module
        Plain, tagged or dual-branch.
    state : mapping of str to Tensor
        Of a plain network.

    Returns
    -------
    float
        Share of the network's tensors (gates and mixing left out) that were filled.

    Raises
    ------
    WeightsError
        When fewer than 95 % of them were.
    """
    plain = {name: value for name, value in state.items() if not name.startswith(DUPLICATES)}
    own = network.state_dict()
    filled, wanted = {}, 0
    for name, tensor in own.items():
        if name.startswith(DUPLICATES) or ".skip_layers." in name or name.startswith(("mix.", "gates.")):
            continue
        wanted += 1
        source = plain.get(_source_name(network, name))
        if source is not None and source.shape != tensor.shape:
            source = _with_tag(source, tensor)
        if source is not None:
            filled[name] = source
    coverage = len(filled) / max(wanted, 1)
    if coverage < MIN_COVERAGE:
        raise WeightsError(
            f"Only {100 * coverage:.0f} % of the network's tensors are in the start weights.",
            advice="Both need the same plan: patch, voxel size, width and stages.",
        )
    network.load_state_dict(filled, strict=False)
    return coverage


def _source_name(network: nn.Module, name: str) -> str:
    """Name of a tensor in a plain DynUNet."""
    if isinstance(network, TaggedNetwork):
        return name.removeprefix("network.")
    if not isinstance(network, DualBranchNetwork):
        return name
    first, _, rest = name.partition(".")
    if first == "heads":
        return f"deep_supervision_heads.{rest}"
    if first not in ("primary", "auxiliary"):
        return name
    index, _, rest = rest.partition(".")
    last = len(network.primary) - 1
    stage = {0: "input_block", last: "bottleneck"}.get(int(index), f"downsamples.{int(index) - 1}")
    return f"{stage}.{rest}"


def _with_tag(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor | None:
    """First convolution with a zero kernel for the tag, or None for any other difference of shape."""
    wider = source.ndim == 5 and target.shape[1] == source.shape[1] + 1 and target.shape[0] == source.shape[0]
    if not wider or source.shape[2:] != target.shape[2:]:
        return None
    return torch.cat([source, torch.zeros_like(source[:, :1])], dim=1)
