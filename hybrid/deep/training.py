"""An encoder trained on outcomes, for use inside a training fold.

:class:`OutcomeEncoder` has ``fit(cases, y)`` and ``transform(cases)``. It must only see patients of the training fold,
and the classifier that follows should be fitted on other patients than the encoder was: embeddings of its own training
patients are over-confident.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.networks.nets.resnet import ResNet
from torch import nn

from hybrid.cases import UNNAMED, Case, load_pair
from hybrid.errors import InputError, unknown_name
from hybrid.provenance import digest

from .augmentation import jitter, random_symmetry
from .embeddings import Encoder, load_encoder, one_thread
from .preprocessing import Preprocessing, crop_lesion, network_input

CACHED_INPUTS = 512
"""Inputs kept in memory per process (about 400 kB each at 32 voxels), so that folds need not read the images again."""


class OutcomeEncoder:
    """Encoder fitted to the outcomes of a training fold.

    A start encoder is trained end to end with a linear layer on its embedding, which is thrown away afterwards; class
    weights balance the outcomes. The same seed and cases give the same weights, bit for bit on one machine type.

    Parameters
    ----------
    start : str or path-like
        Where the weights start: a name or path as in :func:`~hybrid.deep.load_encoder`. ``"bundled"`` (default) keeps
        its batch statistics; ``"random-narrow"`` and the like start from nothing.
    epochs : int
        Passes over the training cases; fixed, so that no case is spent on stopping early.
    seed : int
        Start weights of the new layer (and of a random start), order, augmentation.
    image : str, optional
        Name of the image to use when cases have several.
    modality : str
        See :data:`hybrid.deep.MODALITIES`.
    scale : float
        Factor on the voxel values.
    size : int
        Edge of the input cube in voxels.
    batch_size : int
        Cases per step.
    learning_rate, weight_decay : float
        Of AdamW; the rate falls along a cosine.

    Examples
    --------
    As an encoder factory of cross-validation: ``encoder=functools.partial(OutcomeEncoder, epochs=20)``, called with
    ``seed=`` for every fold.
    """

    def __init__(
        self,
        *,
        start: str | Path = "bundled",
        epochs: int = 30,
        seed: int = 0,
        image: str | None = None,
        modality: str = "any",
        scale: float = 1.0,
        size: int = 32,
        batch_size: int = 8,
        learning_rate: float = 5e-4,
        weight_decay: float = 1e-2,
    ) -> None:
        if epochs < 1 or batch_size < 2 or learning_rate <= 0:
            raise InputError(
                "Expected epochs >= 1, batch_size >= 2 and learning_rate > 0; found "
                f"{epochs}, {batch_size} and {learning_rate}."
            )
        self.start = str(start)
        self.epochs = epochs
        self.seed = seed
        self.image = image
        self.modality = modality
        self.scale = scale
        self.size = size
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay

    @property
    def settings(self) -> dict[str, Any]:
        """Parameters as plain data."""
        names = ("start", "epochs", "seed", "image", "modality", "scale", "size", "batch_size", "learning_rate",
                 "weight_decay")  # fmt: skip
        return {name: getattr(self, name) for name in names}

    @property
    def digest(self) -> str:
        """Digest of the settings and of the start encoder, for the key of a cached fold."""
        return digest([self.settings, self._start_encoder().digest])

    def describe(self) -> dict[str, Any]:
        """Plain data for provenance."""
        return {"name": "outcome", **self.settings, "start_encoder": self._start_encoder().describe()}

    def fit(self, cases: Sequence[Case], y: Sequence[Any] | np.ndarray | pd.Series) -> OutcomeEncoder:
        """Train on cases and their outcomes.

        Parameters
        ----------
        cases : sequence of Case
            Training patients only.
        y : array-like
            Class of each case; two classes or more.

        Returns
        -------
        OutcomeEncoder
            Itself, with ``encoder_``, ``classes_`` and ``loss_`` (mean loss of each epoch).

        Raises
        ------
        InputError
            When lengths differ, an outcome is missing, there is only one class, or a case cannot be read.
        """
        classes, targets = _targets(cases, y)
        start = self._start_encoder()
        inputs = [self._input(case, start.preprocessing) for case in cases]
        with one_thread(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network, losses = self._train(start, inputs, targets, len(classes))
        settings = {**self.settings, "cases": len(targets), "final_loss": losses[-1]}
        state = digest({name: tensor.double().sum().item() for name, tensor in network.state_dict().items()})
        sha256 = digest([self.digest, sorted(case.case_id for case in cases), state])
        self.encoder_ = Encoder("outcome", network, start.preprocessing, sha256, settings)
        self.classes_ = classes
        self.loss_ = losses
        return self

    def transform(self, cases: Sequence[Case]) -> pd.DataFrame:
        """Embed cases.

        Returns
        -------
        DataFrame
            Index ``case_id``, columns ``deep_0000`` and so on, one row per case in the order given.

        Raises
        ------
        InputError
            When the encoder is not fitted or a case cannot be read.
        """
        if not hasattr(self, "encoder_"):
            raise InputError("The encoder is not fitted.", advice="Call fit first.")
        rows = [self.encoder_.embed_input(self._input(case, self.encoder_.preprocessing)) for case in cases]
        index = pd.Index([case.case_id for case in cases], name="case_id")
        return pd.DataFrame(rows, index=index, columns=self.encoder_.columns(), dtype=np.float64)

    def fit_transform(self, cases: Sequence[Case], y: Sequence[Any] | np.ndarray | pd.Series) -> pd.DataFrame:
        """Fit, then embed the same cases."""
        return self.fit(cases, y).transform(cases)

    def _start_encoder(self) -> Encoder:
        encoder = load_encoder(self.start, modality=self.modality, seed=self.seed)
        return replace(encoder, preprocessing=replace(encoder.preprocessing, size=self.size), spec=None)

    def _input(self, case: Case, preprocessing: Preprocessing) -> np.ndarray:
        name = _image_name(case, self.image)
        stamps = tuple(_stamp(paths.get(name)) for paths in (case.images, case.masks))
        return _cached_input(_CaseKey(case, name, case.roi_label, stamps), preprocessing, self.scale)

    def _train(
        self, start: Encoder, inputs: list[np.ndarray], targets: np.ndarray, n_classes: int
    ) -> tuple[ResNet, list[float]]:
        network = start.network
        model = nn.Sequential(network, nn.Linear(start.dim, n_classes))
        weights = len(targets) / (n_classes * np.bincount(targets, minlength=n_classes))
        loss_function = nn.CrossEntropyLoss(torch.tensor(weights, dtype=torch.float32))
        optimiser = torch.optim.AdamW(model.parameters(), self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs)
        rng = np.random.default_rng(self.seed)
        image_channels = [i for i, name in enumerate(start.preprocessing.channels) if name == "image"]
        model.train(self.start.startswith("random-"))
        losses = []
        for _ in range(self.epochs):
            total = 0.0
            for batch in _batches(len(targets), self.batch_size, rng):
                tensors = torch.from_numpy(np.stack([_augmented(inputs[i], image_channels, rng) for i in batch]))
                loss = loss_function(model(tensors), torch.from_numpy(targets[batch]))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += loss.item() * len(batch)
            schedule.step()
            losses.append(total / len(targets))
        return network.eval(), losses


def _targets(cases: Sequence[Case], y: Any) -> tuple[np.ndarray, np.ndarray]:
    labels = np.asarray(y)
    if len(labels) != len(cases) or labels.ndim != 1:
        raise InputError(f"Expected one outcome for each of {len(cases)} cases, found an array of {labels.shape}.")
    missing = pd.isna(labels)
    if missing.any():
        raise InputError(
            "The outcome is missing.",
            advice="Leave the case out of training.",
            case_id=cases[int(np.flatnonzero(missing)[0])].case_id,
        )
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"An encoder needs at least two outcome classes to learn from; found {classes.tolist()}.")
    return classes, targets.astype(np.int64)


def _image_name(case: Case, wanted: str | None) -> str:
    names = list(case.images)
    if wanted is not None and wanted not in names:
        raise unknown_name("image", wanted, names, case_id=case.case_id)
    if wanted is None and len(names) > 1:
        raise InputError(
            f"The case has several images: {', '.join(names)}.",
            advice="Say which one trains the encoder: OutcomeEncoder(image=...).",
            case_id=case.case_id,
        )
    return wanted or (names[0] if names else UNNAMED)


class _CaseKey:
    """A case as a dictionary key: equal when file, time stamp, label are."""

    def __init__(self, case: Case, name: str, label: int | None, stamps: tuple[Any, ...]) -> None:
        self.case, self.name, self.label = case, name, label
        self._key = (case.case_id, name, label, stamps)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _CaseKey) and self._key == other._key


def _stamp(path: Path | None) -> tuple[Any, ...]:
    if path is None or not Path(path).exists():
        return (str(path),)
    status = Path(path).stat()
    return str(path), status.st_mtime_ns, status.st_size


@functools.lru_cache(maxsize=CACHED_INPUTS)
def _cached_input(key: _CaseKey, preprocessing: Preprocessing, scale: float) -> np.ndarray:
    image, mask, _ = load_pair(key.case, key.name)
    crop = crop_lesion(image, mask, preprocessing, label=key.label, scale=scale, case_id=key.case.case_id)
    tensor = network_input(crop, preprocessing)
    tensor.flags.writeable = False
    return tensor


def _batches(count: int, size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shuffled batches of nearly equal length, none of a single case when it can be avoided."""
    return np.array_split(rng.permutation(count), max(1, round(count / size)))


def _augmented(tensor: np.ndarray, image_channels: list[int], rng: np.random.Generator) -> np.ndarray:
    changed = random_symmetry(tensor, rng).copy()
    for channel in image_channels:
        changed[channel] = jitter(changed[channel], rng)
    return changed
