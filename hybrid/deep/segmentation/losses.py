"""Loss of a segmentation network: Dice and cross-entropy, in which lesions of any size can count alike.

A lesion of 20 voxels beside one of 20,000 hardly changes the sum over voxels: a network finds the large ones and stops
learning. Weights of the voxels, larger in small lesions, give each about the same share of the cross-entropy (the idea
of blob loss, Kofler et al. 2023, doi:10.1007/978-3-031-34048-2_58, without its Dice of single lesions).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from monai.losses.dice import DiceLoss
from torch import nn

FULL_VOXELS: Final = 300
"""Voxels of lesions of this size and above have weight 1; together, those of a smaller one weigh as much."""

MAX_WEIGHT: Final = 30
"""Largest weight of a voxel: lesions below 10 voxels stay lighter than the others."""


def lesion_weights(numbered: Sequence[np.ndarray]) -> np.ndarray:
    """Weigh the voxels of small lesions more than others.

    Parameters
    ----------
    numbered : sequence of ndarray of int, shape (z, y, x)
        Numbered lesions of each label, see :func:`hybrid.lesions.label_lesions`.

    Returns
    -------
    ndarray of uint8, shape (z, y, x)
        Weight minus one, rounded: 0 in the background and in lesions of :data:`FULL_VOXELS` and more.
    """
    extra = np.zeros(numbered[0].shape, np.uint8)
    for numbers in numbered:
        sizes = np.maximum(np.bincount(numbers.ravel()), 1)
        more = np.rint(np.clip(FULL_VOXELS / sizes, 1, MAX_WEIGHT)).astype(np.uint8) - 1
        more[0] = 0
        extra += more[numbers]
    return extra


class SegmentationLoss(nn.Module):
    """Dice (over the batch, without background) plus cross-entropy, whose voxels may have weights."""

    def __init__(self) -> None:
        super().__init__()
        self.dice = DiceLoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, extra: torch.Tensor | None = None) -> torch.Tensor:
        """Compute the loss.

        Parameters
        ----------
        logits : Tensor, shape (B, C, z, y, x)
            Background first.
        labels : Tensor of int, shape (B, 1, z, y, x)
            Channel numbers.
        extra : Tensor, shape (B, 1, z, y, x), optional
            What a voxel weighs more than 1 in the cross-entropy.

        Returns
        -------
        Tensor
            A number.
        """
        entropy = nn.functional.cross_entropy(logits, labels[:, 0].long(), reduction="none")
        if extra is not None:
            entropy = entropy * (1 + extra[:, 0])
        return self.dice(logits, labels) + entropy.mean()
