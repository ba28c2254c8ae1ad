"""How one training borrows from another cohort: start weights, a frozen encoder, auxiliary patches in every step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hybrid.errors import InputError
from hybrid.provenance import file_digest

from .foreign import Checkpoint, read_checkpoint, weights_file

if TYPE_CHECKING:
    from .training import PreparedCase


@dataclass(frozen=True)
class Transfer:
    """What a training borrows.

    Parameters
    ----------
    start : Path, optional
        Weight file or model folder of a network that the plan's network can be filled with, see
        :mod:`~hybrid.deep.segmentation.foreign`.
    freeze : float
        Share of the training, from its beginning, in which the encoder is not changed.
    auxiliary : tuple of PreparedCase
        Cases of which every step sees as many patches as of the primary cases.
    annotated : tuple of int, optional
        Channels (1, 2, ...) that are drawn in the auxiliary masks; the others count as background there. Default: all.
    weight : float
        Weight of the auxiliary loss at the start.
    decays : bool
        Whether that weight falls along a line to 0 at the end.
    orientation : str, optional
        Where the array axes of the start weights' authors pointed, for example ``"RAS"``; default: their convention.
    """

    start: Path | None = None
    freeze: float = 0.0
    auxiliary: tuple[PreparedCase, ...] = ()
    annotated: tuple[int, ...] | None = None
    weight: float = 1.0
    decays: bool = False
    orientation: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.freeze <= 1:
            raise InputError(f"The frozen share of the training lies between 0 and 1; found {self.freeze}.")
        if self.weight < 0:
            raise InputError(f"The weight of the auxiliary loss is not negative; found {self.weight}.")

    @property
    def key(self) -> list[Any]:
        """What a checkpoint must share with a training."""
        cases = [[case.case_id, case.content] for case in self.auxiliary]
        start = file_digest(weights_file(self.start)) if self.start is not None else None
        turned = [] if self.orientation is None else [self.orientation]
        return [start, self.freeze, cases, self.annotated, self.weight, self.decays, *turned]

    def weight_at(self, done: float) -> float:
        """Weight of the auxiliary loss when the share ``done`` of the training is behind."""
        return self.weight * (1 - min(max(done, 0.0), 1.0)) if self.decays else self.weight

    def read_start(self) -> Checkpoint:
        """Start weights.

        Raises
        ------
        InputError
            When there are none.
        WeightsError
            When the file cannot be read, see :func:`~hybrid.deep.segmentation.foreign.read_checkpoint`.
        """
        if self.start is None or not weights_file(self.start).is_file():
            raise InputError(
                "The start weights do not exist.",
                advice="Check the path; in a transfer study, train the auxiliary network first.",
                path=self.start,
            )
        return read_checkpoint(self.start, orientation=self.orientation)


def annotated_only(
    logits: torch.Tensor, labels: torch.Tensor, annotated: tuple[int, ...] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Merge classes that a cohort does not draw into its background (marginal loss, Shi et al. 2021).

    The probability of the merged background is the sum over background and the classes that are not drawn, so that the
    network may name them without being punished (doi:10.1016/j.media.2021.101979).

    Parameters
    ----------
    logits : Tensor, shape (B, C, ...)
        Of all classes, background first.
    labels : Tensor, shape (B, 1, ...)
        Channel numbers; those of classes that are not drawn must not occur.
    annotated : tuple of int, optional
        Channels that are drawn; None: all.

    Returns
    -------
    logits : Tensor, shape (B, 1 + len(annotated), ...)
        Of the merged background and the drawn classes.
    labels : Tensor
        Renumbered.
    """
    if annotated is None or len(annotated) == logits.shape[1] - 1:
        return logits, labels
    hidden = [channel for channel in range(logits.shape[1]) if channel not in annotated]
    background = torch.logsumexp(logits[:, hidden], dim=1, keepdim=True)
    renumbered = torch.zeros_like(labels)
    for number, channel in enumerate(annotated, start=1):
        renumbered[labels == channel] = number
    return torch.cat([background, logits[:, list(annotated)]], dim=1), renumbered
