"""Masks as a second lesson of a classifier: the network also says at which places of an inner feature map a lesion is.

A label of a slice names one bit; a mask says where to look. While training, a 1 x 1 convolution on an inner stage asks
every cell whether the mask touches it, and its loss is added to that of the label. The trained classifier is the plain
network: the convolution is dropped, and new images need no mask. Images without a mask take part with their label only.
The idea of deep supervision by a second head: Lee et al. 2015, arXiv:1409.5185; with lesion outlines on CT slices:
Kuo et al. 2019, https://doi.org/10.1073/pnas.1908021116.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Final

import numpy as np
import SimpleITK as sitk
import torch
from monai.networks.nets.resnet import ResNet
from torch import nn

from hybrid.deep.hooks import watching
from hybrid.deep.segmentation.geometry import resize
from hybrid.images import align_mask, orientation_of, read_mask, to_array

from .inputs import ImageInput, SliceInput, _opened, centred, cut_slice, inner_shape, read_slice

STAGE: Final = "layer3"
"""Stage of the ResNet that learns places: with the last one its cells would be too coarse for small lesions."""

_NEXT: Final = "layer4"

UNKNOWN: Final = -1.0
"""Value of a mask tensor where no mask was drawn."""


def prepare_mask(
    input: ImageInput,
    image: str | Path,
    mask: str | Path,
    index: int | None = None,
    *,
    case_id: str | None = None,
) -> np.ndarray:
    """Bring a mask onto the grid of a prepared image.

    Parameters
    ----------
    input : VolumeInput or SliceInput
        How the image is prepared.
    image, mask : path-like
        Files; the mask may lie on another grid of the same space. Every label but 0 counts.
    index : int, optional
        Slice, counted from 0.
    case_id : str, optional
        Named in errors.

    Returns
    -------
    ndarray of float32, shape (1, ...)
        Share of each cell that the mask covers, 0 outside the image.

    Raises
    ------
    InputError
        When a file cannot be read.
    GeometryError
        When the mask belongs to another image.
    """
    inside = _aligned(_stamped(Path(image)), _stamped(Path(mask)))
    if isinstance(input, SliceInput):
        cut = cut_slice(inside, index, case_id=case_id)
        values, spacing = cut.values[0], np.asarray(cut.spacing)
        if input.crop_border:
            values = values[input.part(read_slice(image, index, case_id=case_id))]
    else:
        orientation = orientation_of(inside)
        values = orientation.apply(to_array(inside))
        spacing = np.array(orientation.triple(tuple(inside.GetSpacing()[::-1])))
    inner = inner_shape(values.shape, spacing, input.size, input.fit)
    shares = resize(values[None] if values.ndim == 2 else values, (1, *inner) if values.ndim == 2 else inner)
    return (centred(shares.reshape((1, *inner)) - 1, input.size) + 1).clip(0, 1)


Stamped = tuple[Path, tuple[int, int]]


def _stamped(path: Path) -> Stamped:
    """Path, and what changes with the content of its file."""
    status = path.stat()
    return path, (status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2)
def _aligned(image: Stamped, mask: Stamped) -> sitk.Image:
    """Mask (1.0 inside) on the grid of the image; kept, because slices of one scan come one after the other."""
    drawn, _ = align_mask(_opened(*image).image, read_mask(mask[0]), path=mask[0])
    return sitk.Cast(drawn > 0, sitk.sitkFloat32)


class LocalisingNetwork(nn.Module):
    """A classifier with a second head that says of each cell of :data:`STAGE` whether a lesion is there.

    Parameters
    ----------
    trunk : monai.networks.nets.ResNet
        The classifier; training changes it in place.
    """

    def __init__(self, trunk: ResNet) -> None:
        super().__init__()
        self.trunk = trunk
        width = getattr(trunk, _NEXT)[0].conv1.in_channels
        first = next(m for m in trunk.modules() if isinstance(m, (nn.Conv2d, nn.Conv3d)))
        kind: Any = nn.Conv3d if isinstance(first, nn.Conv3d) else nn.Conv2d
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.places = kind(width, 1, 1)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (B, classes), and scores of the cells (B, 1, ...)."""
        kept: list[torch.Tensor] = []
        with watching(getattr(self.trunk, STAGE), lambda _m, _i, found: kept.append(found)):
            scores = self.trunk(images)
        return scores, self.places(kept[0])


def place_loss(cells: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the cells, those with and without lesion weighing the same within the batch.

    Parameters
    ----------
    cells : Tensor, shape (B, 1, ...)
        Scores of :class:`LocalisingNetwork`.
    masks : Tensor, shape (B, 1, ...)
        Shares on the grid of the images; :data:`UNKNOWN` where there is no mask.

    Returns
    -------
    Tensor
        A cell's target is the largest share within it. 0 when no image of the batch has a mask.
    """
    pool = nn.functional.adaptive_max_pool3d if cells.ndim == 5 else nn.functional.adaptive_max_pool2d
    targets = pool(masks, cells.shape[2:])
    known = targets >= 0
    if not known.any():
        return cells.sum() * 0.0
    losses = nn.functional.binary_cross_entropy_with_logits(cells.float(), targets.clamp(0, 1), reduction="none")
    weights = targets.clamp(0, 1) * known
    others = (1 - targets.clamp(0, 1)) * known
    balanced = weights / weights.sum().clamp(min=1.0) + others / others.sum().clamp(min=1.0)
    return 0.5 * (losses * balanced).sum()
