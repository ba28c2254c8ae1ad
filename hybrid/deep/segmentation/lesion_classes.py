"""A 3D ResNet that names a lesion: any list of classes, one crop per lesion, its embedding beside the probabilities."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from hybrid.deep.augmentation import jitter, random_symmetry
from hybrid.deep.embeddings import load_encoder
from hybrid.deep.fitting import bf16_helps, read_checkpoint, training_machine, write_checkpoint
from hybrid.deep.networks import Architecture, architecture_of, build_network
from hybrid.deep.preprocessing import Preprocessing, crop_lesion, network_input
from hybrid.errors import InputError
from hybrid.files import replacing, write_text
from hybrid.provenance import digest, file_digest

FORMAT: Final = "hybrid-lesion-classifier-1"
WEIGHTS: Final = "model.safetensors"
CARD: Final = "model.json"


@dataclass(frozen=True)
class LesionClassifier:
    """Trained classifier of lesions.

    Parameters
    ----------
    network : torch.nn.Module
        ResNet trunk: crop to embedding.
    head : torch.nn.Linear
        Embedding to logits.
    classes : tuple of str
        In the order of the logits.
    preprocessing : Preprocessing
        How a lesion is cropped and normalised.
    card : dict
        Training, hashed patients, metrics.
    """

    network: nn.Module
    head: nn.Linear
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    card: dict[str, Any]

    @property
    def digest(self) -> str:
        """Digest of the weights."""
        return str(self.card["sha256"])

    def classify(self, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and embeddings of lesions.

        Parameters
        ----------
        inputs : sequence of ndarray, shape (C, n, n, n)
            From :meth:`input`.

        Returns
        -------
        probabilities : ndarray, shape (lesions, classes)
        embeddings : ndarray, shape (lesions, dim)
        """
        if not inputs:
            return np.zeros((0, len(self.classes))), np.zeros((0, self.head.in_features))
        with torch.inference_mode():
            embeddings = torch.cat([self.network(torch.from_numpy(tensor)[None]) for tensor in inputs])
            probabilities = torch.softmax(self.head(embeddings), dim=1)
        return probabilities.double().numpy(), embeddings.double().numpy()

    def input(self, image: Any, region: Any, *, case_id: str | None = None) -> np.ndarray:
        """Crop of one lesion as the network sees it, from an image and a mask of that lesion alone."""
        return lesion_input(image, region, self.preprocessing, case_id=case_id)


def lesion_input(image: Any, region: Any, preprocessing: Preprocessing, *, case_id: str | None = None) -> np.ndarray:
    """Crop and normalise one lesion, shape (C, n, n, n)."""
    crop = crop_lesion(image, region, preprocessing, case_id=case_id)
    return network_input(crop, preprocessing)


def default_preprocessing(modality: str = "ct") -> Preprocessing:
    """Crop of the bundled encoder."""
    return load_encoder("bundled", modality=modality).preprocessing


def train_lesion_classifier(
    inputs: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    modality: str = "ct",
    start: str | Path = "bundled",
    classes: Sequence[str] | None = None,
    epochs: int = 40,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    seed: int = 0,
    precision: str = "auto",
    checkpoint: str | Path | None = None,
    progress: bool = False,
    card: dict[str, Any] | None = None,
) -> LesionClassifier:
    """Fit the trunk and the head end to end, on all threads of the CPU; classes are balanced by weights.

    Parameters
    ----------
    inputs : sequence of ndarray, shape (C, n, n, n)
        From :func:`lesion_input`; lesions of training patients only.
    names : sequence of str
        Class of each.
    modality : str
        Of the start encoder.
    start : str or path-like
        Encoder whose weights the trunk starts from, see :func:`~hybrid.deep.load_encoder`.
    classes : sequence of str, optional
        Order of the classes; default: sorted.
    epochs, batch_size, learning_rate, seed
        AdamW along a one-cycle schedule.
    precision : {"auto", "32-true", "bf16-mixed"}
        "auto" takes bfloat16 where the CPU has it and the results agree.
    checkpoint : path-like, optional
        File that is written after every epoch; a training that was interrupted goes on from it, a finished one is read.
    progress : bool
        Show a progress bar.
    card : dict, optional
        Entries for ``model.json``.

    Returns
    -------
    LesionClassifier
        In evaluation mode.

    Raises
    ------
    InputError
        For fewer than two classes, a class that is not in ``classes``, or a checkpoint of another training.
    """
    order = tuple(classes) if classes is not None else tuple(sorted(set(names)))
    unknown = sorted(set(names) - set(order))
    if unknown or len(set(names)) < 2:
        raise InputError(
            f"Lesions must belong to at least two of the classes {list(order)}; found {sorted(set(names))}.",
            advice="Check the class column of the lesion table.",
        )
    encoder = load_encoder(start, modality=modality, seed=seed)
    targets = np.array([order.index(name) for name in names])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(encoder.dim, len(order))
        model = nn.Sequential(encoder.network, head)
        fit = _Fit(model, inputs, targets, len(order), epochs, batch_size, learning_rate, seed)
        fit.run(precision, None if checkpoint is None else Path(checkpoint), progress=progress)
    details = {
        "start": str(start), "epochs": epochs, "lesions": len(names), "classes_counted": _counts(names),
        "trained_on": training_machine("cpu"),
    }  # fmt: skip
    state = digest([float(value.double().sum()) for value in head.state_dict().values()])
    return LesionClassifier(
        encoder.network.eval(), head.eval(), order, encoder.preprocessing, {**details, "sha256": state, **(card or {})}
    )


def _counts(names: Sequence[str]) -> dict[str, int]:
    return {name: list(names).count(name) for name in sorted(set(names))}


class _Fit:
    """Training of trunk and head, epoch by epoch; every epoch has random numbers of its own, so that it can resume."""

    def __init__(
        self, model: nn.Sequential, inputs: Sequence[np.ndarray], targets: np.ndarray, n_classes: int, epochs: int,
        batch_size: int, learning_rate: float, seed: int,
    ) -> None:  # fmt: skip
        self.model, self.inputs, self.targets, self.epochs, self.seed = model, inputs, targets, epochs, seed
        counts = np.bincount(targets, minlength=n_classes)
        weights = np.where(counts > 0, len(targets) / (n_classes * np.maximum(counts, 1)), 0.0)
        self.loss = nn.CrossEntropyLoss(torch.tensor(weights, dtype=torch.float32), label_smoothing=0.02)
        self.optimiser = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=1e-2)
        self.batches = max(1, round(len(targets) / batch_size))
        total = epochs * self.batches
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimiser, learning_rate, total_steps=total)
        start = [float(value.detach().double().sum()) for value in model.parameters()]
        self.settings = [epochs, batch_size, learning_rate, seed, start]

    def run(self, precision: str, checkpoint: Path | None, *, progress: bool) -> None:
        """Train up to the last epoch, from a checkpoint where there is one."""
        done = self._resume(checkpoint)
        half = precision == "bf16-mixed" or (precision == "auto" and self._bf16_helps())
        for epoch in tqdm(range(done, self.epochs), desc="lesion classes", unit="epoch", disable=not progress):
            self._epoch(epoch, half)
            if checkpoint is not None:
                parts = {name: getattr(self, name).state_dict() for name in ("model", "optimiser", "schedule")}
                write_checkpoint({"key": self.key, "epoch": epoch + 1, **parts}, checkpoint)
        self.model.eval()

    @property
    def key(self) -> str:
        """What a checkpoint must share with this training."""
        sums = [float(np.sum(values, dtype=np.float64)) for values in self.inputs]
        return digest([self.settings, self.targets.tolist(), sums])

    def _resume(self, checkpoint: Path | None) -> int:
        if checkpoint is None or not checkpoint.is_file():
            return 0
        state = read_checkpoint(checkpoint, self.key)
        for name in ("model", "optimiser", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        return int(state["epoch"])

    def _bf16_helps(self) -> bool:
        sample = torch.from_numpy(np.stack(self.inputs[: max(2, round(len(self.inputs) / self.batches))]))
        return bf16_helps(copy.deepcopy(self.model), sample)

    def _epoch(self, epoch: int, half: bool) -> None:
        rng = np.random.default_rng([self.seed, epoch])
        self.model.train()
        for batch in np.array_split(rng.permutation(len(self.targets)), self.batches):
            tensors = torch.from_numpy(np.stack([_changed(self.inputs[i], rng) for i in batch]))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                scores = self.model(tensors)
            value = self.loss(scores.float(), torch.from_numpy(self.targets[batch]))
            self.optimiser.zero_grad()
            value.backward()
            self.optimiser.step()
            self.schedule.step()


def _changed(tensor: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    changed = random_symmetry(tensor, rng).copy()
    changed[0] = jitter(changed[0], rng, noise=0.03, contrast=0.05)
    return changed


def save_lesion_classifier(folder: str | Path, classifier: LesionClassifier) -> Path:
    """Write the folder of a classifier: safetensors and ``model.json``."""
    folder = Path(folder)
    tensors = {f"trunk.{name}": value for name, value in classifier.network.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in classifier.head.state_dict().items()}
    with replacing(folder / WEIGHTS) as partial:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, partial)
    content = {
        **classifier.card, "format": FORMAT, "classes": list(classifier.classes),
        "architecture": architecture_of(classifier.network).to_dict(),
        "preprocessing": classifier.preprocessing.to_dict(), "sha256": file_digest(folder / WEIGHTS),
    }  # fmt: skip
    write_text(json.dumps(content, indent=2) + "\n", folder / CARD)
    return folder


def load_lesion_classifier(folder: str | Path) -> LesionClassifier:
    """Load a folder written by :func:`save_lesion_classifier`.

    Raises
    ------
    InputError
        When it is none.
    """
    folder = Path(folder)
    path = folder / CARD
    card = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if card.get("format") != FORMAT:
        raise InputError("The folder holds no lesion classifier.", path=folder)
    network = build_network(Architecture.from_dict(card["architecture"]))
    tensors = load_file(folder / WEIGHTS)
    head = nn.Linear(tensors["head.weight"].shape[1], tensors["head.weight"].shape[0])
    network.load_state_dict({k.removeprefix("trunk."): v for k, v in tensors.items() if k.startswith("trunk.")})
    head.load_state_dict({k.removeprefix("head."): v for k, v in tensors.items() if k.startswith("head.")})
    preprocessing = Preprocessing.from_dict(card["preprocessing"])
    return LesionClassifier(network.eval(), head.eval(), tuple(card["classes"]), preprocessing, card)
