"""Segmentation networks by name, built from a plan. All are MONAI's, except the U-Net of Models Genesis.

A plan that follows a weight file says in ``architecture`` what its other fields do not:

===================  ==================================================================================================
entry                networks: meaning
===================  ==================================================================================================
``features``         dynunet, unet, genesis_unet: of each stage
``norm``             all but genesis_unet: batch, group (of 8), instance, instance_plain (nothing learned)
``heads``            dynunet, segresnet: supervised depths (dynunet: besides the finest)
``residual, bias``   dynunet: residual blocks; bias of transposed convolutions
``residual_units``   unet: convolutions of a residual unit, 0 for none
``up_kernel``        unet: kernel of the transposed convolutions
``activation``       unet: prelu or relu
``bias``             unet: bias of convolutions
``blocks``           segresnet, segresnet_plain: residual blocks of each stage; ``blocks_up`` of the decoder
``upsample``         segresnet, segresnet_plain: deconv, nontrainable or pixelshuffle
``resolution``       segresnet: voxel size that decides which axes are pooled first, if not the plan's
===================  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.segresnet_ds import SegResNetDS
from monai.networks.nets.unet import UNet
from torch import nn

from hybrid.errors import unknown_name

from .branches import DualBranchNetwork, TaggedNetwork
from .foreign_networks import GenesisUNet
from .planning import SegmentationPlan

MAX_FEATURES: Final = 320
BLOCKS: Final = (1, 2, 2, 4, 4, 4)
"""Residual blocks of SegResNet's stages."""

NORMS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "batch": ("BATCH", {}),
    "group": ("GROUP", {"num_groups": 8}),
    "instance": ("INSTANCE", {"affine": True}),
    "instance_plain": ("INSTANCE", {"affine": False}),
}


def _features(plan: SegmentationPlan) -> list[int]:
    default = [min(plan.width * 2**stage, MAX_FEATURES) for stage in range(len(plan.strides))]
    return list(plan.architecture.get("features", default))


def _norm(plan: SegmentationPlan, default: str) -> tuple[str, dict[str, Any]]:
    name, options = NORMS[plan.architecture.get("norm", default)]
    return name, dict(options)


def _dynunet(plan: SegmentationPlan, in_channels: int = 1) -> DynUNet:
    known = plan.architecture
    heads = known.get("heads", max(0, min(3, len(plan.strides) - 2)))
    return DynUNet(
        spatial_dims=3, in_channels=in_channels, out_channels=plan.channels, kernel_size=list(plan.kernels),
        strides=list(plan.strides), upsample_kernel_size=list(plan.strides[1:]), filters=_features(plan),
        norm_name=_norm(plan, "instance"), deep_supervision=heads > 0, deep_supr_num=max(heads, 1),
        res_block=known.get("residual", False), trans_bias=known.get("bias", False),
    )  # fmt: skip


def _unet(plan: SegmentationPlan) -> nn.Module:
    known = plan.architecture
    strides: Any = plan.strides[1:]  # MONAI takes triples, its type hint does not say so
    kernel = plan.kernels[0] if known else 3
    return UNet(
        spatial_dims=3, in_channels=1, out_channels=plan.channels, channels=_features(plan), strides=strides,
        kernel_size=kernel, up_kernel_size=known.get("up_kernel", 3), num_res_units=known.get("residual_units", 2),
        act=known.get("activation", "prelu"), norm=_norm(plan, "instance"), bias=known.get("bias", True),
    )  # fmt: skip


def _segresnet(plan: SegmentationPlan) -> nn.Module:
    known = plan.architecture
    blocks = known.get("blocks", BLOCKS[: len(plan.strides)])
    return SegResNetDS(
        spatial_dims=3, in_channels=1, out_channels=plan.channels, init_filters=plan.width, blocks_down=blocks,
        blocks_up=known.get("blocks_up"), norm=_norm(plan, "instance"), upsample_mode=known.get("upsample", "deconv"),
        dsdepth=known.get("heads", max(1, min(3, len(blocks) - 1))),
        resolution=tuple(known.get("resolution", plan.spacing)),
    )  # fmt: skip


def _segresnet_plain(plan: SegmentationPlan) -> nn.Module:
    known, stages = plan.architecture, len(plan.strides)
    return SegResNet(
        spatial_dims=3, in_channels=1, out_channels=plan.channels, init_filters=plan.width,
        blocks_down=known.get("blocks", BLOCKS[:stages]), blocks_up=known.get("blocks_up", (1,) * (stages - 1)),
        norm=_norm(plan, "group"), upsample_mode=known.get("upsample", "nontrainable"),
    )  # fmt: skip


def _genesis_unet(plan: SegmentationPlan) -> nn.Module:
    return GenesisUNet(1, plan.channels, _features(plan), plan.kernels, plan.strides)


def _tagged(plan: SegmentationPlan) -> nn.Module:
    return TaggedNetwork(_dynunet(plan, in_channels=2))


def _dual(plan: SegmentationPlan) -> nn.Module:
    return DualBranchNetwork(_dynunet(plan), _dynunet(plan), _features(plan))


SEGMENTERS: Final[dict[str, Callable[[SegmentationPlan], nn.Module]]] = {
    "unet": _unet,
    "dynunet": _dynunet,
    "segresnet": _segresnet,
    "segresnet_plain": _segresnet_plain,
    "genesis_unet": _genesis_unet,
}
"""Networks by name: MONAI's residual U-Net, DynUNet (nnU-Net's plain U-Net), SegResNet with deep supervision, and two
for start weights: MONAI's SegResNet without it, and the U-Net of Models Genesis and SuPreM."""

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
