"""Training of one image classifier on prepared inputs.

The loop is deterministic: order and changes of image ``i`` in epoch ``e`` come from the seed ``(seed, e, i)`` in any
process, and a run that was interrupted goes on from its last checkpoint. With ``epochs`` it ends with the same bits as
an undisturbed one (one machine type, the same number of threads, CPU; on a GPU some gradients of pooling differ in the
last bits). Only the tuning set decides when training stops and which weights are kept; test images never come here.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from monai.networks.nets.resnet import ResNet
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hybrid.deep.fitting import (
    Schedule,
    choose_precision,
    on_gpu,
    open_fabric,
    read_checkpoint,
    reproducible,
    update_average,
    write_checkpoint,
)
from hybrid.errors import InputError, unknown_name
from hybrid.provenance import digest

from .augmentation import Augmentation
from .localisation import UNKNOWN, LocalisingNetwork, place_loss
from .networks import ClassifierArchitecture, build_classifier, load_pretrained

logger = logging.getLogger(__name__)

CHECKPOINT: Final = "checkpoint.pt"
CURVES: Final = "curves.csv"
CURVE_COLUMNS: Final = (
    "epoch", "train_loss", "tuning_loss", "tuning_accuracy", "tuning_auc", "learning_rate", "seconds",
)  # fmt: skip
"""Columns of ``curves.csv``. Losses are weighted by class; ``tuning_auc`` is the mean over classes against the rest,
NaN unless the tuning set holds every class."""

PRECISIONS: Final = ("auto", "32-true", "bf16-mixed")
HARDWARE: Final = ("workers", "accelerator", "checkpoint_minutes", "precision")
"""Settings that an interrupted training may change."""

BALANCED: Final = "balanced"
DEFAULT_EPOCHS: Final = 60


@dataclass(frozen=True)
class ClassifierSettings:
    """How long and how a classifier is trained.

    Parameters
    ----------
    minutes : float, optional
        Training time; the learning rate follows the time that was spent (an interruption does not count).
    epochs : int, optional
        Passes over the training images instead; repeatable. Default without both: :data:`DEFAULT_EPOCHS`.
    batch : int
        Images per step, at least 2.
    learning_rate, weight_decay : float
        Of AdamW; the rate rises over 3 % of the steps and falls along a cosine.
    ema : float
        Decay of the averaged weights that are tuned and kept; 0 keeps the last weights.
    patience : int
        Stop when the loss of the tuning set has not fallen for so many epochs, and keep the weights of its lowest
        value; 0 trains to the end and keeps the last.
    augmentation : Augmentation
        Random changes of the training images.
    mask_weight : float
        Weight of the loss of places, where training images have masks: the network also learns where the lesion is, see
        :mod:`hybrid.deep.classification.localisation`. 0 learns from labels alone.
    seed : int
        Start weights, order and changes.
    precision : {"auto", "32-true", "bf16-mixed"}
        "auto": bfloat16 on a GPU that has it, and on a CPU that was measured to be faster with it (a network of this
        size, see :func:`hybrid.deep.fitting.bf16_helps`); 32 bits otherwise.
    workers : int
        Processes that change the images; 0 does it in this one.
    accelerator : str
        "auto", "cpu", "gpu": Lightning Fabric's name.
    checkpoint_minutes : float
        How often the state is written.
    """

    minutes: float | None = None
    epochs: int | None = None
    batch: int = 8
    learning_rate: float = 5e-4
    weight_decay: float = 1e-2
    ema: float = 0.99
    patience: int = 20
    augmentation: Augmentation = field(default_factory=Augmentation)
    mask_weight: float = 0.0
    seed: int = 0
    precision: str = "auto"
    workers: int = 0
    accelerator: str = "auto"
    checkpoint_minutes: float = 3.0

    def __post_init__(self) -> None:
        self.schedule(1)
        if self.batch < 2 or self.patience < 0 or not 0 <= self.ema < 1:
            raise InputError(
                f"Expected batch >= 2, patience >= 0 and 0 <= ema < 1; found {self.batch}, {self.patience}, {self.ema}."
            )
        if self.mask_weight < 0:
            raise InputError(f"Expected a mask_weight of at least 0; found {self.mask_weight}.")
        if self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)

    def schedule(self, steps: int) -> Schedule:
        """Length and learning rate with so many steps per epoch."""
        epochs = DEFAULT_EPOCHS if self.minutes is None and self.epochs is None else self.epochs
        return Schedule(steps, self.learning_rate, epochs, self.minutes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``model.json``."""
        return {**asdict(self), "augmentation": self.augmentation.to_dict()}

    def recipe(self) -> dict[str, Any]:
        """Return what a training is recognised by: everything but :data:`HARDWARE`."""
        unset = ("mask_weight",) if not self.mask_weight else ()
        return {name: value for name, value in self.to_dict().items() if name not in (*HARDWARE, *unset)}


@dataclass(frozen=True)
class PreparedImage:
    """An input on disk as training reads it (``.npy``, half precision), and its class.

    Parameters
    ----------
    image_id : str
        Named in errors.
    path : Path
        Array of shape (channels, ...).
    target : int
        Number of the class.
    content : str
        Digest of the file that it was made from and of the input settings.
    mask : Path, optional
        Share of each pixel that the mask covers, in 255ths (uint8), shape (1, ...).
    """

    image_id: str
    path: Path
    target: int
    content: str = ""
    mask: Path | None = None

    def load(self) -> np.ndarray:
        """Array of float32.

        Raises
        ------
        InputError
            When the file is missing or damaged.
        """
        return self._load(self.path)

    def load_mask(self) -> np.ndarray:
        """Shares, float32; :data:`~hybrid.deep.classification.localisation.UNKNOWN` everywhere without a mask."""
        if self.mask is None:
            return np.full((1, *np.load(self.path, mmap_mode="r").shape[1:]), UNKNOWN, np.float32)
        return self._load(self.mask) / np.float32(255)

    def _load(self, path: Path) -> np.ndarray:
        try:
            return np.load(path).astype(np.float32)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(
                f"The prepared image cannot be read: {error}.",
                advice="Delete the file and run the same command again; training goes on where it stopped.",
                case_id=self.image_id,
                path=path,
            ) from error


@dataclass(frozen=True)
class TrainedNetwork:
    """Result of :func:`train_network`.

    Attributes
    ----------
    network : monai.networks.nets.ResNet
        On the CPU, in evaluation mode.
    curves : DataFrame
        See :data:`CURVE_COLUMNS`.
    epochs : int
        Epochs trained.
    best_epoch : int
        Epoch whose weights were kept.
    """

    network: ResNet
    curves: pd.DataFrame
    epochs: int
    best_epoch: int


def class_weights(
    targets: Sequence[int] | np.ndarray, classes: Sequence[str], wanted: str | Mapping[str, float] | None
) -> np.ndarray:
    """Weight of each class in the loss.

    Parameters
    ----------
    targets : sequence of int
        Class number of every training image.
    classes : sequence of str
        Names in the order of the numbers.
    wanted : "balanced", mapping of class to weight, or None
        Balanced: inversely to how often a class occurs, so that all classes count the same; None: all images do.

    Returns
    -------
    ndarray of float64, shape (n_classes,)
        Scaled so that the mean over the training images is 1.

    Raises
    ------
    InputError
        For a class without training images, a missing or unknown class, or a weight that is not positive.
    """
    counts = np.bincount(np.asarray(targets, dtype=np.int64), minlength=len(classes)).astype(np.float64)
    if (counts == 0).any():
        raise InputError(f"Class {classes[int(np.argmin(counts))]!r} has no training images.")
    if wanted is None:
        weights = np.ones(len(classes))
    elif isinstance(wanted, str):
        if wanted != BALANCED:
            raise unknown_name("class weighting", wanted, (BALANCED,))
        weights = 1 / counts
    else:
        given = {str(name): float(value) for name, value in wanted.items()}
        for name in given:
            if name not in classes:
                raise unknown_name("class", name, classes)
        if set(given) != set(classes) or min(given.values()) <= 0:
            raise InputError(f"Every class needs a weight above 0; found {given} for {', '.join(classes)}.")
        weights = np.array([given[name] for name in classes])
    return np.asarray(weights * counts.sum() / (weights * counts).sum())


def train_network(
    architecture: ClassifierArchitecture,
    training: Sequence[PreparedImage],
    tuning: Sequence[PreparedImage],
    folder: str | Path,
    settings: ClassifierSettings | None = None,
    *,
    weights: np.ndarray | None = None,
    constant_channels: int = 0,
    pretrained: str | Path | None = None,
    pretrained_sha256: str = "",
    resume: bool = True,
    progress: bool = True,
    stop_after: int | None = None,
    monitor: Callable[[Mapping[str, Any]], None] | None = None,
) -> TrainedNetwork:
    """Train a classifier.

    Parameters
    ----------
    architecture : ClassifierArchitecture
        The network.
    training, tuning : sequence of PreparedImage
        The latter may be empty: then nothing stops early and the last weights are kept.
    folder : path-like
        Where ``checkpoint.pt`` and ``curves.csv`` are kept.
    settings : ClassifierSettings, optional
        Length, optimiser, augmentation, seed, hardware.
    weights : ndarray of shape (n_classes,), optional
        See :func:`class_weights`; default: all images count the same.
    constant_channels : int
        Channels at the end of each input that are not augmented.
    pretrained : path-like, optional
        Weight file of the trunk, see :func:`~hybrid.deep.classification.networks.load_pretrained`.
    pretrained_sha256 : str
        Its digest; a checkpoint of other start weights is refused.
    resume : bool
        Go on from ``checkpoint.pt`` if it belongs to this network, these images and these settings.
    progress : bool
        Show a progress bar.
    stop_after : int, optional
        Leave after so many epochs of this call, as an interruption would.
    monitor : callable, optional
        Called with each row of the curves.

    Returns
    -------
    TrainedNetwork
        Averaged weights and the curves.

    Raises
    ------
    InputError
        For fewer than two training images, a checkpoint of another training, or too little GPU memory.
    """
    settings = settings or ClassifierSettings()
    if len(training) < 2:
        raise InputError(f"Training needs at least two images; found {len(training)}.", advice="Add labelled images.")
    run = _Run(
        architecture, list(training), list(tuning), Path(folder), settings,
        np.ones(architecture.classes) if weights is None else weights, constant_channels, pretrained, pretrained_sha256,
    )  # fmt: skip
    try:
        with reproducible():
            run.start(resume=resume)
            run.train(progress=progress, stop_after=stop_after, monitor=monitor)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"The GPU's memory does not hold a batch of {settings.batch} images.",
            advice="Lower settings={'batch': ...}, or the size of the input.",
        ) from error
    return run.result()


def class_scores(
    network: nn.Module,
    images: Sequence[PreparedImage],
    *,
    batch: int,
    classes: int,
    device: Any = "cpu",
    layout: torch.memory_format = torch.contiguous_format,
) -> np.ndarray:
    """Scores before softmax, float64, shape (images, classes); ``layout`` is the order of the values in memory."""
    rows = [np.zeros((0, classes), np.float32)]
    with torch.inference_mode():
        for start in range(0, len(images), batch):
            arrays = np.stack([image.load() for image in images[start : start + batch]])
            batch_values = torch.from_numpy(arrays).to(device, memory_format=layout)
            rows.append(network(batch_values).float().cpu().numpy())
    return np.concatenate(rows).astype(np.float64)


def weighted_log_loss(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    """Cross-entropy of scores (n, classes), the images weighted by their class."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]
    return float(np.average(losses, weights=weights[targets]))


class _Images(Dataset):
    """Changed training images by (epoch, number); the same pair gives the same bits in any process."""

    def __init__(self, images: Sequence[PreparedImage], settings: ClassifierSettings, constant_channels: int) -> None:
        self.images, self.settings, self.constant = list(images), settings, constant_channels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[int, int]) -> tuple[torch.Tensor, int, torch.Tensor]:
        epoch, number = place
        image = self.images[number]
        values = image.load()
        mask = image.load_mask() if self.settings.mask_weight else values[:0]
        augmentation = self.settings.augmentation
        if not augmentation.is_off:
            rng, end = np.random.default_rng([self.settings.seed, 2, epoch, number]), len(values) - self.constant
            changed, mask = augmentation.change(values[:end], mask, rng)
            values = np.concatenate([changed, values[end:]])
        return torch.from_numpy(values), image.target, torch.from_numpy(mask)


class _Batches:
    """Batches of (epoch, number) in random order; nearly equal in size, never of one image (batch normalisation)."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0
        self.steps = max(1, min(math.ceil(count / size), count // 2))

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng([self.seed, 1, self.epoch]).permutation(self.count)
        for part in np.array_split(order, self.steps):
            yield [(self.epoch, int(number)) for number in part]


class _Run:
    """State of a training: network, averaged weights, optimiser, curves."""

    def __init__(
        self,
        architecture: ClassifierArchitecture,
        training: list[PreparedImage],
        tuning: list[PreparedImage],
        folder: Path,
        settings: ClassifierSettings,
        weights: np.ndarray,
        constant_channels: int,
        pretrained: str | Path | None,
        pretrained_sha256: str,
    ) -> None:
        self.architecture, self.training, self.tuning = architecture, training, tuning
        self.folder, self.settings, self.weights = folder, settings, weights
        self.pretrained, self.pretrained_sha256 = pretrained, pretrained_sha256
        self.targets = np.array([image.target for image in tuning], dtype=np.int64)
        self.batches = _Batches(len(training), settings.batch, settings.seed)
        self.schedule = settings.schedule(self.batches.steps)
        workers = settings.workers
        self.loader = DataLoader(
            _Images(training, settings, constant_channels), batch_sampler=self.batches, num_workers=workers,
            multiprocessing_context="spawn" if workers else None, persistent_workers=workers > 0,
            generator=torch.Generator(),
        )  # fmt: skip
        self.epoch, self.seconds = 0, 0.0
        self.rows: list[dict[str, Any]] = []
        self.best: tuple[float, int, dict[str, torch.Tensor]] | None = None
        self.written = time.monotonic()

    @property
    def key(self) -> str:
        """What a checkpoint must share with this run."""
        images = [
            [[i.image_id, i.target, i.content, *([] if i.mask is None else [i.mask.name])] for i in group]
            for group in (self.training, self.tuning)
        ]
        start = [self.architecture.to_dict(), self.settings.recipe(), self.pretrained_sha256]
        return digest([start, images, self.weights.tolist()])

    @property
    def progress(self) -> float:
        return self.schedule.progress(self.epoch, self.seconds)

    @property
    def stops_early(self) -> bool:
        return self.settings.patience > 0 and bool(self.tuning)

    @property
    def finished(self) -> bool:
        stale = self.stops_early and self.best is not None and self.epoch - self.best[1] >= self.settings.patience
        return stale or self.progress >= 1

    def start(self, *, resume: bool) -> None:
        """Build the network, or take up the state of an interrupted training."""
        network = build_classifier(self.architecture, seed=self.settings.seed)
        path = self.folder / CHECKPOINT
        goes_on = resume and path.is_file()
        if self.pretrained is not None and not goes_on:
            load_pretrained(network, self.pretrained)
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False)
        whole: nn.Module = LocalisingNetwork(network) if self.settings.mask_weight else network
        optimiser = torch.optim.AdamW(
            whole.parameters(), self.settings.learning_rate, weight_decay=self.settings.weight_decay
        )
        state = read_checkpoint(path, self.key) if goes_on else None
        self.precision = self._precision(network, state)
        self.fabric = open_fabric(self.settings.accelerator, self.precision)
        for own in (whole, self.averaged):
            own.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.network, self.optimiser = self.fabric.setup(whole, optimiser)
        self.averaged.to(self.fabric.device)
        self.loss = nn.CrossEntropyLoss(torch.tensor(self.weights, dtype=torch.float32, device=self.fabric.device))
        if state is not None:
            self._load(state)
            logger.info("Training goes on after epoch %d (%s).", self.epoch, path)

    def _precision(self, network: nn.Module, state: Mapping[str, Any] | None) -> str:
        """Wanted precision, that of the interrupted training, or the one that this machine is faster with."""
        if self.settings.precision == "auto" and state is not None and "precision" in state:
            return str(state["precision"])
        first = self.training[0].load()
        count = min(self.settings.batch, len(self.training))
        sample = torch.randn((count, *first.shape), generator=torch.Generator().manual_seed(0))
        return choose_precision(self.settings.accelerator, self.settings.precision, network, sample, layout=self._last)

    @property
    def _last(self) -> torch.memory_format:
        return torch.channels_last if self.architecture.dims == 2 else torch.channels_last_3d

    @property
    def layout(self) -> torch.memory_format:
        """Order of the values in memory; a CPU's convolutions in bfloat16 are fastest with the channels last."""
        return self._last if self.precision == "bf16-mixed" and not self._on_gpu else torch.contiguous_format

    @property
    def _on_gpu(self) -> bool:
        return on_gpu(self.settings.accelerator)

    def train(
        self, *, progress: bool, stop_after: int | None, monitor: Callable[[Mapping[str, Any]], None] | None
    ) -> None:
        last = None if stop_after is None else self.epoch + stop_after
        with tqdm(
            total=100, initial=round(100 * self.progress), desc="training", unit="%", disable=not progress
        ) as bar:  # fmt: skip
            while not self.finished and self.epoch != last:
                row = self.one_epoch()
                bar.update(round(100 * self.progress) - bar.n)
                bar.set_postfix(epoch=self.epoch, loss=f"{row['train_loss']:.3f}", tuning=f"{row['tuning_loss']:.3f}")
                if monitor is not None:
                    monitor(row)
        self.save()

    def one_epoch(self) -> dict[str, Any]:
        begin = time.monotonic()
        losses, rate = [], 0.0
        self.batches.epoch = self.epoch
        for number, (images, targets, masks) in enumerate(self.loader):
            rate = self.schedule.rate(self.epoch, number, self.seconds)
            images = images.to(self.fabric.device, memory_format=self.layout)
            losses.append(self._step(images, targets.to(self.fabric.device), masks.to(self.fabric.device), rate=rate))
            if not math.isfinite(losses[-1]):
                raise InputError(
                    f"The training diverged in epoch {self.epoch + 1}: the loss is {losses[-1]}.",
                    advice="Lower the learning rate: settings={'learning_rate': ...}.",
                )
            step = self.epoch * self.batches.steps + number
            update_average(self.averaged, self._trunk, step=step, decay=self.settings.ema)
        self.epoch += 1
        row = {"epoch": self.epoch, "train_loss": float(np.mean(losses)), **self._tuning_figures()}
        self.seconds += time.monotonic() - begin
        row |= {"learning_rate": rate, "seconds": self.seconds}
        self.rows.append(row)
        self._keep_best(row)
        if time.monotonic() - self.written > 60 * self.settings.checkpoint_minutes:
            self.save()
        return row

    @property
    def _trunk(self) -> nn.Module:
        """The classifier, without the head that learns places."""
        whole: nn.Module = self.network.module
        return whole.trunk if isinstance(whole, LocalisingNetwork) else whole

    def _step(self, images: torch.Tensor, targets: torch.Tensor, masks: torch.Tensor, *, rate: float) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        found = self.network(images)
        scores, cells = found if self.settings.mask_weight else (found, None)
        loss = self.loss(scores.float(), targets)
        label_loss = float(loss.detach())
        if cells is not None:
            loss = loss + self.settings.mask_weight * place_loss(cells, masks)
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.network, self.optimiser, max_norm=5.0, error_if_nonfinite=False)
        self.optimiser.step()
        return label_loss if math.isfinite(float(loss.detach())) else math.nan

    def _tuning_figures(self) -> dict[str, float]:
        if not self.tuning:
            return dict.fromkeys(("tuning_loss", "tuning_accuracy", "tuning_auc"), math.nan)
        with self.fabric.autocast():
            scores = class_scores(
                self.averaged, self.tuning, batch=self.settings.batch, classes=self.architecture.classes,
                device=self.fabric.device, layout=self.layout,
            )  # fmt: skip
        return {
            "tuning_loss": weighted_log_loss(scores, self.targets, self.weights),
            "tuning_accuracy": float((scores.argmax(axis=1) == self.targets).mean()),
            "tuning_auc": _mean_auc(scores, self.targets),
        }

    def _keep_best(self, row: Mapping[str, Any]) -> None:
        """Keep the averaged weights: the latest, or with early stopping those of the lowest loss of the tuning set."""
        score = -row["tuning_loss"] if self.stops_early else float(self.epoch)
        if self.best is None or score > self.best[0]:
            state = {name: value.detach().cpu().clone() for name, value in self.averaged.state_dict().items()}
            self.best = (score, self.epoch, state)

    def save(self) -> None:
        """Write the checkpoint and the curves."""
        if self.best is None:
            return
        state = {
            "key": self.key, "epoch": self.epoch, "seconds": self.seconds, "rows": json.dumps(self.rows),
            "network": self.network.module.state_dict(), "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(), "best_score": self.best[0], "best_epoch": self.best[1],
            "best": self.best[2], "precision": self.precision,
        }  # fmt: skip
        write_checkpoint(state, self.folder / CHECKPOINT)
        pd.DataFrame(self.rows, columns=list(CURVE_COLUMNS)).to_csv(self.folder / CURVES, index=False)
        self.written = time.monotonic()

    def _load(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.seconds, self.rows = state["epoch"], state["seconds"], json.loads(state["rows"])
        self.network.module.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = (state["best_score"], state["best_epoch"], state["best"])

    def result(self) -> TrainedNetwork:
        if self.best is None:
            raise InputError("No epoch was trained.", advice="Give more epochs or minutes.")
        network = build_classifier(self.architecture, seed=self.settings.seed)
        network.load_state_dict(self.best[2])
        curves = pd.DataFrame(self.rows, columns=list(CURVE_COLUMNS))
        return TrainedNetwork(network.eval(), curves, self.epoch, self.best[1])


def _mean_auc(scores: np.ndarray, targets: np.ndarray) -> float:
    """Mean over classes of the AUC against the rest; NaN unless every class is there."""
    count = scores.shape[1]
    if len(np.unique(targets)) < count or not np.isfinite(scores).all():
        return math.nan
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares = shifted / shifted.sum(axis=1, keepdims=True)
    return float(np.mean([roc_auc_score(targets == c, shares[:, c]) for c in range(count)]))
