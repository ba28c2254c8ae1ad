"""Segmentation networks by name, built from a plan. All are MONAI's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet_ds import SegResNetDS
from monai.networks.nets.unet import UNet
from torch import nn

from hybrid.errors import unknown_name

from .branches import DualBranchNetwork, TaggedNetwork
from .planning import SegmentationPlan

MAX_FEATURES: Final = 320


def _features(plan: SegmentationPlan) -> list[int]:
    return [min(plan.width * 2**stage, MAX_FEATURES) for stage in range(len(plan.strides))]


def _dynunet(plan: SegmentationPlan, in_channels: int = 1) -> DynUNet:
    heads = max(0, min(3, len(plan.strides) - 2))
    return DynUNet(
        spatial_dims=3, in_channels=in_channels, out_channels=plan.channels, kernel_size=list(plan.kernels),
        strides=list(plan.strides), upsample_kernel_size=list(plan.strides[1:]), filters=_features(plan),
        norm_name=("INSTANCE", {"affine": True}), deep_supervision=heads > 0, deep_supr_num=max(heads, 1),
    )  # fmt: skip


def _unet(plan: SegmentationPlan) -> nn.Module:
    strides: Any = plan.strides[1:]  # MONAI takes triples, its type hint does not say so
    return UNet(
        spatial_dims=3, in_channels=1, out_channels=plan.channels, channels=_features(plan), strides=strides,
        kernel_size=3, num_res_units=2, norm=("INSTANCE", {"affine": True}),
    )  # fmt: skip


def _segresnet(plan: SegmentationPlan) -> nn.Module:
    spacing = tuple(plan.spacing)
    blocks = (1, 2, 2, 4, 4, 4)[: len(plan.strides)]
    return SegResNetDS(
        spatial_dims=3, in_channels=1, out_channels=plan.channels, init_filters=plan.width, blocks_down=blocks,
        norm="instance", dsdepth=max(1, min(3, len(blocks) - 1)), resolution=spacing,
    )  # fmt: skip


def _tagged(plan: SegmentationPlan) -> nn.Module:
    return TaggedNetwork(_dynunet(plan, in_channels=2))


def _dual(plan: SegmentationPlan) -> nn.Module:
    return DualBranchNetwork(_dynunet(plan), _dynunet(plan), _features(plan))


SEGMENTERS: Final[dict[str, Callable[[SegmentationPlan], nn.Module]]] = {
    "unet": _unet,
    "dynunet": _dynunet,
    "segresnet": _segresnet,
}
"""Networks by name: MONAI's residual U-Net, DynUNet (nnU-Net's plain U-Net) and SegResNet with deep supervision."""

TRANSFER_SEGMENTERS: Final[dict[str, Callable[[SegmentationPlan], nn.Module]]] = {
    "dynunet_tagged": _tagged,
    "dynunet_dual": _dual,
}
"""Networks that learn from two cohorts, see :mod:`hybrid.deep.segmentation.branches`."""


def build_segmenter(plan: SegmentationPlan, *, seed: int = 0) -> nn.Module:
    """Build the network of a plan with reproducible random weights; the global random state is left alone.

    Returns
    -------
    torch.nn.Module
        Maps ``(B, 1, D, H, W)`` to logits ``(B, channels, D, H, W)`` in evaluation mode; see :func:`outputs` for
        training mode.

    Raises
    ------
    InputError
        For an unknown network name.
    """
    known = {**SEGMENTERS, **TRANSFER_SEGMENTERS}
    if plan.network not in known:
        raise unknown_name("network", plan.network, known)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return known[plan.network](plan)


def outputs(prediction: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
    """Logits of every supervised depth, finest first, whatever form the network returns in training mode."""
    if isinstance(prediction, (list, tuple)):
        return list(prediction)
    return list(prediction.unbind(1)) if prediction.ndim == 6 else [prediction]
