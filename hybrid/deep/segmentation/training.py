"""Training of one segmentation network.

The loop is deterministic: patch ``i`` of epoch ``e`` is drawn from the seed ``(seed, e, i)`` whatever process makes it,
and a run that was interrupted goes on from its last checkpoint with the same patches and the same learning rates as one
that was not. Several GPUs, and mixed precision, are Lightning Fabric's (``lightning_fabric``).
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import psutil
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hybrid.deep.fitting import Schedule, bf16_helps, on_gpu, read_checkpoint, update_average, write_checkpoint
from hybrid.errors import InputError
from hybrid.provenance import digest

from .augmentation import random_patch
from .branches import encoder_parameters
from .engines import InferenceOptions, make_engine
from .foreign import load_checkpoint
from .inference import choose_windows, predict_array
from .losses import SegmentationLoss
from .networks import TRANSFER_SEGMENTERS, build_segmenter, outputs
from .planning import SegmentationPlan
from .preprocessing import voxel_files
from .transfer import Transfer, annotated_only

logger = logging.getLogger(__name__)

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images of shape (B, 1, z, y, x) and labels; where the plan names lesions, the weights (minus 1) of the voxels are the
second channel of the labels."""

CHECKPOINT: Final = "checkpoint.pt"
CURVES: Final = "curves.csv"

MONITORED_OVERLAP: Final = 0.25
MONITORED_SHARE: Final = 0.15
"""Work that computing the Dice may take, relative to the steps. With large scans it is not computed after every epoch:
of 48 windows a case it took half of the time."""

WINDOWS_PER_PATCH: Final = 3
"""A patch in a training step, forwards and backwards, costs about as much as so many windows of inference."""

MEMORY_SHARE: Final = 0.9

NARROW: Final = 16
"""With fewer features in the first stage, a CPU trains faster on channels that lie together in memory: a step with 8
features took 0.79 s instead of 0.95 s; with 16 it made no difference (``tests/benchmarks/small_networks.py``)."""


@dataclass(frozen=True)
class TrainingSettings:
    """How long and how a network is trained.

    Parameters
    ----------
    minutes : float, optional
        Training time; the learning rate follows the time that was spent (an interruption does not count), so that it
        reaches its end on a busy machine, too.
    epochs : int, optional
        Number of epochs instead; repeatable on any machine. Default without both: 200.
    steps : int
        Training steps per epoch.
    learning_rate, weight_decay : float
        Of AdamW; the rate rises over 3 % of the steps and falls along a cosine.
    ema : float
        Decay of the averaged weights that are validated and kept; 0 keeps the last weights.
    patience : int
        Stop when the smoothed validation Dice has not risen for so many epochs, and keep the best epoch's weights; 0
        trains to the end, where the learning rate is smallest, and keeps the last.
    augment : bool
        Change space and intensities of the patches at random.
    strength : float
        How far patches are turned and scaled: 1 by up to 30 degrees and by 0.75 to 1.35, 0 not at all. Less of it can
        suit a short training of a structure that lies the same way in all patients.
    calm : float
        Share of the training, at its end, in which patches are only mirrored: interpolation and noise blur the finest
        detail, and the last steps see images as inference does.
    growing : float
        Share of the training, at its beginning, in which patches grow from half their edges: more of them are seen in
        the same time, and lesions fill more of each (Fischer et al. 2025, doi:10.48550/arXiv.2510.23241).
    seed : int
        Start weights and patches.
    precision : {"auto", "32-true", "bf16-mixed", "16-mixed"}
        "auto" takes mixed precision where the hardware has it and the results agree.
    workers : int
        Processes that prepare patches; 0 prepares them in this one.
    accelerator : str
        "auto", "cpu", "gpu": Lightning Fabric's name.
    devices : int
        Number of GPUs or processes.
    checkpoint_minutes : float
        How often the state is written.
    monitored : int
        Cases of each set whose Dice is computed after an epoch; 0 computes none. Stopping early needs them.
    """

    minutes: float | None = None
    epochs: int | None = None
    steps: int = 50
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    ema: float = 0.995
    patience: int = 0
    augment: bool = True
    strength: float = 1.0
    calm: float = 0.2
    growing: float = 0.0
    seed: int = 0
    precision: str = "auto"
    workers: int = 0
    accelerator: str = "auto"
    devices: int = 1
    checkpoint_minutes: float = 3.0
    monitored: int = 6

    def __post_init__(self) -> None:
        for name in ("minutes", "epochs", "steps", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"The '{name}' parameter must be positive; found {value}.")
        if self.monitored < (self.patience > 0):
            raise InputError(
                f"The 'monitored' parameter counts cases; found {self.monitored}.",
                advice="Stopping early (patience) needs one or more; without it 0 is possible.",
            )
        for name in ("strength", "calm", "growing"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"The '{name}' parameter must be from 0 to 1; found {getattr(self, name)}.")
        if self.minutes is not None and self.epochs is not None:
            raise InputError("Give minutes or epochs, not both.")


@dataclass(frozen=True)
class PreparedCase:
    """A case on disk as training reads it (see ``write_training_case``)."""

    case_id: str
    path: Path
    content: str = ""
    """Digest of the image and mask that it was made from."""

    def load(self) -> Mapping[str, np.ndarray]:
        """Arrays of the case; those of voxels are mapped, not read.

        Returns
        -------
        mapping of str to ndarray
            ``image``; ``drawn`` (channel, z, y, x), whose channels are ``labels`` and, where the plan names lesions,
            ``weights``; ``minimum`` of the image, ``places_1, ...``, and ``inner`` where the plan crops.

        Raises
        ------
        InputError
            When a file is damaged.
        """
        path = self.path
        try:
            with np.load(path) as stored:
                arrays = {name: stored[name] for name in stored.files}
            for name, file in zip(("image", "drawn"), voxel_files(self.path), strict=True):
                path = file
                arrays[name] = np.load(file, mmap_mode="r")
        # A damaged file raises what NumPy, zipfile or the parser of its header raise; they share no narrower base.
        except Exception as error:
            raise InputError(
                f"The prepared case cannot be read: {error}.",
                advice="Delete the file and run the same command again; training goes on where it stopped.",
                case_id=self.case_id,
                path=path,
            ) from error
        return {**arrays, **dict(zip(("labels", "weights"), arrays["drawn"], strict=False))}


@dataclass(frozen=True)
class TrainedNetwork:
    """Result of :func:`train_network`.

    Attributes
    ----------
    network : torch.nn.Module
        On the CPU, in evaluation mode.
    curves : DataFrame
        ``epoch, train_loss, train_dice, validation_dice, learning_rate, seconds, patch_voxels`` and the Dice of each
        label; NaN where it was not computed, see :data:`MONITORED_SHARE`.
    epochs : int
        Epochs trained.
    best_epoch : int
        Epoch whose weights were kept.
    start : dict
        What the start weights filled (see :meth:`~hybrid.deep.segmentation.foreign.CheckpointReport.describe`), and the
        hashed ``patients`` that they were trained on; empty without start weights.
    """

    network: nn.Module
    curves: pd.DataFrame
    epochs: int
    best_epoch: int
    start: dict[str, Any] = field(default_factory=dict)


class PatchDataset(Dataset):
    """Patches of one epoch by number; voxels stay in memory as far as the operating system keeps their files."""

    def __init__(
        self, cases: Sequence[PreparedCase], plan: SegmentationPlan, settings: TrainingSettings, count: int
    ) -> None:
        self.cases, self.plan, self.settings, self.count = list(cases), plan, settings, count
        self.epoch, self.calm, self.patch = 0, False, plan.patch

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        number = self.epoch * self.count + index
        turn, position = divmod(number, len(self.cases))
        order = np.random.default_rng([self.settings.seed, 1, turn]).permutation(len(self.cases))
        stored = self.cases[int(order[position])].load()
        places = [stored[f"places_{channel}"] for channel in range(1, self.plan.channels)]
        return random_patch(
            stored["image"], stored["drawn"], places, replace(self.plan, patch=self.patch),
            [self.settings.seed, self.epoch, index], augment=self.settings.augment, strength=self.settings.strength,
            calm=self.calm, fill=float(stored["minimum"]),
        )  # fmt: skip


def growing_patches(plan: SegmentationPlan) -> list[tuple[int, int, int]]:
    """Patches of a training that grows them: from half the plan's edges to these, one axis at a time."""
    divisor = np.asarray(plan.divisor)
    whole = np.asarray(plan.patch)
    edges = np.minimum(whole, np.maximum(2 * divisor, -(-whole // (2 * divisor)) * divisor))
    found = [tuple(edges.tolist())]
    while (edges < whole).any():
        axis = int(np.argmin(np.where(edges < whole, edges / whole, np.inf)))
        edges[axis] = min(whole[axis], edges[axis] + divisor[axis])
        found.append(tuple(edges.tolist()))
    return found


def check_memory(plans: Sequence[SegmentationPlan], settings: TrainingSettings) -> None:
    """Refuse, before the start, a training that the memory cannot hold; several plans: of networks at once.

    Raises
    ------
    InputError
        With the estimate, the memory there is, and what to lower.
    """
    free = torch.cuda.mem_get_info()[0] if on_gpu(settings.accelerator) else psutil.virtual_memory().available
    available = free / 2**30
    needed = sum(plan.memory_gib for plan in plans)
    if needed > MEMORY_SHARE * available:
        raise InputError(
            f"A training step needs about {needed:.1f} GiB, {available:.1f} GiB are free.",
            advice="Close other programs, or lower the batch, the patch or the width (for example --memory "
            f"{max(MEMORY_SHARE * available / 2 / len(plans), 0.2):.1f})"
            + (", or train one network at a time (--jobs 1)." if len(plans) > 1 else "."),
        )


def train_network(
    plan: SegmentationPlan,
    training: Sequence[PreparedCase],
    validation: Sequence[PreparedCase],
    folder: Path,
    settings: TrainingSettings | None = None,
    *,
    transfer: Transfer | None = None,
    resume: bool = True,
    progress: bool = True,
    stop_after: int | None = None,
    monitor: Callable[[Mapping[str, Any]], None] | None = None,
) -> TrainedNetwork:
    """Train a network on prepared cases.

    Parameters
    ----------
    plan : SegmentationPlan
        Network, patch, labels.
    training, validation : sequence of PreparedCase
        The latter may be empty: then the training Dice is all there is, and nothing stops early.
    folder : Path
        Where ``checkpoint.pt`` and ``curves.csv`` are kept.
    settings : TrainingSettings, optional
        Length, optimiser, seed, hardware.
    transfer : Transfer, optional
        What is borrowed from another cohort; more than start weights on one device only.
    resume : bool
        Go on from ``checkpoint.pt`` if it belongs to this plan, these cases and these settings.
    progress : bool
        Show a progress bar.
    stop_after : int, optional
        Leave after so many epochs of this call, as an interruption would.
    monitor : callable, optional
        Called with each row of the curves, and the share of the training that is done as ``progress`` (0 to 1); with
        several devices it must be picklable.

    Returns
    -------
    TrainedNetwork
        Averaged weights and the curves.

    Raises
    ------
    InputError
        For fewer than two training cases, too little memory, or a checkpoint of another training.
    WeightsError
        When start weights cannot be read, or belong to another plan.
    """
    settings = settings or TrainingSettings()
    if len(training) < 2:
        raise InputError(f"Training needs at least two cases; found {len(training)}.", advice="Add cases with masks.")
    if transfer is not None and (transfer.freeze > 0 or transfer.auxiliary) and settings.devices > 1:
        raise InputError(
            f"A frozen encoder and auxiliary cases need training on one device; found devices={settings.devices}."
        )
    check_memory([plan], settings)
    fabric = _fabric(settings, plan)
    train = functools.partial(
        _train, plan=plan, training=list(training), validation=list(validation), folder=Path(folder),
        settings=settings, transfer=transfer or Transfer(), resume=resume, progress=progress, stop_after=stop_after,
        monitor=monitor,
    )  # fmt: skip
    if settings.devices > 1:
        fabric.launch(train)
    else:
        train(fabric)
    return _trained(plan, Path(folder), settings)


def _trained(plan: SegmentationPlan, folder: Path, settings: TrainingSettings) -> TrainedNetwork:
    """Read the result from the checkpoint: processes that trained for each device are gone by now."""
    state = torch.load(folder / CHECKPOINT, map_location="cpu", weights_only=True)
    network = build_segmenter(plan, seed=settings.seed)
    network.load_state_dict(state["best"])
    curves, start = pd.DataFrame(json.loads(state["rows"])), json.loads(state.get("start", "{}"))
    return TrainedNetwork(network.eval(), curves, state["epoch"], state["best_epoch"], start)


def _train(
    fabric: Any,
    *,
    plan: SegmentationPlan,
    training: list[PreparedCase],
    validation: list[PreparedCase],
    folder: Path,
    settings: TrainingSettings,
    transfer: Transfer,
    resume: bool,
    progress: bool,
    stop_after: int | None,
    monitor: Callable[[Mapping[str, Any]], None] | None,
) -> None:
    """Train in this process, the only one or one of several, up to the last checkpoint."""
    run = _Run(fabric, plan, training, validation, folder, settings, transfer)
    run.start(resume=resume)
    main = fabric.is_global_zero
    last = None if stop_after is None else run.epoch + stop_after
    silent = not (progress and main)
    with tqdm(total=100, initial=round(100 * run.progress), desc="training", unit="%", disable=silent) as bar:
        while not run.finished and run.epoch != last:
            row = run.one_epoch()
            bar.update(round(100 * run.progress) - bar.n)
            bar.set_postfix(epoch=run.epoch, loss=f"{row['train_loss']:.3f}", dice=f"{run.last_dice:.3f}")
            if monitor is not None and main:
                monitor({**row, "progress": run.progress})
    run.save()


class _Run:
    """State of a training: network, averaged weights, optimiser, curves."""

    def __init__(
        self,
        fabric: Any,
        plan: SegmentationPlan,
        training: list[PreparedCase],
        validation: list[PreparedCase],
        folder: Path,
        settings: TrainingSettings,
        transfer: Transfer,
    ) -> None:
        self.plan, self.training, self.validation = plan, training, validation
        self.folder, self.settings, self.transfer = folder, settings, transfer
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fabric = fabric
        network = build_segmenter(plan, seed=settings.seed)
        self.started: dict[str, Any] = {}
        if transfer.start is not None:
            report = load_checkpoint(network, transfer.read_start())
            self.started = {**report.describe(), "patients": list(report.patients)}
        together = plan.width < NARROW and fabric.device.type == "cpu"
        self._layout = torch.channels_last_3d if together else torch.contiguous_format
        network.to(memory_format=self._layout)  # type: ignore[call-overload]
        self._encoder = encoder_parameters(network) if transfer.freeze > 0 else []
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False)
        optimiser = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        self.network, self.optimiser = self.fabric.setup(network, optimiser)
        self.averaged.to(self.fabric.device)
        self._half = "float32" if "32" in str(getattr(self.fabric, "_precision", self.fabric).precision) else "half"
        self.loss = SegmentationLoss()
        count = settings.steps * plan.batch * fabric.world_size
        self.dataset = PatchDataset(training, plan, settings, count)
        self.auxiliary = PatchDataset(transfer.auxiliary, plan, settings, count) if transfer.auxiliary else None
        self.epoch, self.epochs, self.seconds = 0, 0, 0.0
        self.rows: list[dict[str, Any]] = []
        self.best: tuple[float, int, dict[str, torch.Tensor]] | None = None
        self.written = time.monotonic()

    @property
    def key(self) -> str:
        """What a checkpoint must share with this run."""
        ignored = ("workers", "devices", "accelerator", "checkpoint_minutes", "precision")
        settings = {name: value for name, value in asdict(self.settings).items() if name not in ignored}
        cases = [[[case.case_id, case.content] for case in group] for group in (self.training, self.validation)]
        borrowed = [] if self.transfer == Transfer() else [self.transfer.key]
        return digest([self.plan.to_dict(), settings, cases, *borrowed])

    @property
    def finished(self) -> bool:
        """Nothing is left to do: all epochs, no time for another one, or too long without progress."""
        stale = self._stops_early and self.best is not None and self.epoch - self.best[1] > self.settings.patience
        return stale or self.progress >= 1

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        return self.schedule.progress(self.epoch, self.seconds)

    @property
    def schedule(self) -> Schedule:
        """Length and learning rate; the number of epochs is that of the checkpoint."""
        steps, rate = self.settings.steps, self.settings.learning_rate
        return Schedule(steps, rate, None if self.settings.minutes else self.epochs, self.settings.minutes)

    @property
    def last_dice(self) -> float:
        """Validation Dice when it was last computed."""
        known = [row["validation_dice"] for row in self.rows if math.isfinite(row["validation_dice"])]
        return known[-1] if known else math.nan

    @property
    def _patch(self) -> tuple[int, int, int]:
        """Size of the patches of the epoch that comes next."""
        if self.progress >= self.settings.growing:
            return self.plan.patch
        sizes = growing_patches(self.plan)[:-1]
        return sizes[int(len(sizes) * self.progress / self.settings.growing)] if sizes else self.plan.patch

    def start(self, *, resume: bool) -> None:
        path = self.folder / CHECKPOINT
        if resume and path.is_file():
            self._load(path)
            logger.info("Training goes on after epoch %d (%s).", self.epoch, path)
        else:
            self.epochs = 0 if self.settings.minutes else self.settings.epochs or 200

    def one_epoch(self) -> dict[str, Any]:
        begin, schedule = time.monotonic(), self.schedule
        losses = []
        batches = self._batches(self.dataset)
        borrowed = self._batches(self.auxiliary) if self.auxiliary is not None else itertools.repeat(None)
        for number, (batch, other) in enumerate(zip(batches, borrowed, strict=False)):
            done = schedule.done(self.epoch, number, self.seconds)
            rate = schedule.rate(self.epoch, number, self.seconds)
            losses.append(self._step(batch, other, done=done, rate=rate))
            step = self.epoch * self.settings.steps + number
            update_average(self.averaged, self._plain(), step=step, decay=self.settings.ema)
        self.epoch += 1
        # All processes go by one clock, so that they agree on the learning rate and on the end.
        self.seconds += self.fabric.broadcast(time.monotonic() - begin)
        begin = time.monotonic()
        is_due = self._is_monitored()
        train = self._dice(self._monitored(self.training) if is_due else [])
        validation = self._dice(self._monitored(self.validation) if is_due else [])
        self.seconds += self.fabric.broadcast(time.monotonic() - begin)
        row = {
            "epoch": self.epoch, "train_loss": float(np.mean(losses)), "train_dice": _mean(train),
            "validation_dice": _mean(validation), "learning_rate": rate, "seconds": self.seconds,
            "patch_voxels": math.prod(self.dataset.patch),
            **{f"validation_dice_{name}": v for name, v in zip(self.plan.label_names, validation, strict=True)},
        }  # fmt: skip
        self.rows.append(row)
        self._keep_best()
        if time.monotonic() - self.written > 60 * self.settings.checkpoint_minutes:
            self.save()
        return row

    def _batches(self, dataset: PatchDataset) -> Iterator[Batch]:
        dataset.epoch, dataset.calm = self.epoch, self.progress >= 1 - self.settings.calm
        dataset.patch = self._patch
        workers, batch = self.settings.workers, self.plan.batch
        own = [i for i in range(len(dataset)) if i // batch % self.fabric.world_size == self.fabric.global_rank]
        loader = DataLoader(
            dataset, batch_size=batch, sampler=own, num_workers=workers,
            multiprocessing_context="spawn" if workers else None,
        )  # fmt: skip
        for images, labels in loader:
            yield images.to(self.fabric.device, memory_format=self._layout), labels.to(self.fabric.device)

    def _step(self, batch: Batch, borrowed: Batch | None, *, done: float, rate: float) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        for parameter in self._encoder:
            parameter.requires_grad_(done >= self.transfer.freeze)
        loss = self._loss(outputs(self.network(batch[0])), batch[1])
        share = self.transfer.weight_at(done)
        if borrowed is not None and share > 0:
            knows = self.plan.network in TRANSFER_SEGMENTERS
            depths = outputs(self.network(borrowed[0], **({"auxiliary": True} if knows else {})))
            loss = loss + share * self._loss(depths, borrowed[1], self.transfer.annotated)
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.clip_gradients(self.network, self.optimiser, max_norm=12.0, error_if_nonfinite=False)
        self.optimiser.step()
        return float(loss.detach())

    def _loss(
        self, depths: Sequence[torch.Tensor], labels: torch.Tensor, annotated: tuple[int, ...] | None = None
    ) -> torch.Tensor:
        """Mean loss over the supervised depths, each half as heavy as the finer one."""
        weights = [0.5**i for i in range(len(depths))]
        known, extra = labels[:, :1], labels[:, 1:] if labels.shape[1] > 1 else None
        parts = [self.loss(*annotated_only(_fitting(depth, known), known, annotated), extra) for depth in depths]
        return torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum() / sum(weights)

    def _plain(self) -> nn.Module:
        return getattr(self.network, "module", self.network)

    @property
    def _stops_early(self) -> bool:
        return self.settings.patience > 0 and bool(self.validation)

    def _monitored(self, cases: list[PreparedCase]) -> list[PreparedCase]:
        wanted = self.settings.monitored
        return cases[:: max(1, math.ceil(len(cases) / wanted))] if wanted else []

    @functools.cached_property
    def _windows(self) -> int:
        """Windows of inference that the Dice of all monitored cases takes."""
        cases = [case.load() for case in (*self._monitored(self.training), *self._monitored(self.validation))]
        windows = (
            choose_windows(case["image"].shape, self.plan.patch, MONITORED_OVERLAP, _of_interest(case))[0]
            for case in cases
        )
        return sum(len(chosen) for chosen in windows)

    def _is_monitored(self) -> bool:
        """Whether the Dice is due after this epoch: the same ones in a resumed training, always the first and last."""
        if not self.settings.monitored:
            return False
        affordable = MONITORED_SHARE * WINDOWS_PER_PATCH * self.settings.steps * self.plan.batch / self._windows
        whole = math.prod(self.plan.patch)
        before = sum(row["patch_voxels"] for row in self.rows) / whole
        after = before + math.prod(self.dataset.patch) / whole
        is_turn = int(after * affordable) > int(before * affordable)
        return is_turn or self.epoch == 1 or self.finished

    def _dice(self, cases: Sequence[PreparedCase]) -> list[float]:
        """Mean Dice of each label over whole cases (NaN without cases)."""
        if not cases:
            return [math.nan] * len(self.plan.labels)
        options = InferenceOptions(overlap=MONITORED_OVERLAP, precision=self._half, device=str(self.fabric.device))
        engine = make_engine([self.averaged], options, patch=self.plan.patch)
        table = []
        for case in cases:
            stored = case.load()
            predicted = predict_array(
                stored["image"].astype(np.float32), self.plan, engine, options, relevant=_of_interest(stored)
            )
            table.append([_dice(predicted == c, stored["labels"] == c) for c in range(1, self.plan.channels)])
        with np.errstate(all="ignore"):
            values = np.array(table, dtype=float)
            known = np.isfinite(values)
            return [float(v) for v in np.where(known, values, 0).sum(0) / np.maximum(known.sum(0), 1)]

    def _keep_best(self) -> None:
        """Keep the averaged weights: the latest, or with early stopping those of the best smoothed validation Dice."""
        rows = self.rows
        if self._stops_early:
            if not math.isfinite(rows[-1]["validation_dice"]):
                return
            rows = [row for row in rows if math.isfinite(row["validation_dice"])]
        recent = [row["validation_dice"] if self._stops_early else row["epoch"] for row in rows[-5:]]
        score = float(np.mean(recent)) if len(recent) == 5 or not self._stops_early else float(np.mean(recent)) - 1.0
        if self.best is None or score > self.best[0]:
            weights = {name: value.detach().cpu().clone() for name, value in self.averaged.state_dict().items()}
            self.best = (score, self.epoch, weights)

    def save(self) -> None:
        """Write the checkpoint and the curves (temporary name, then moved)."""
        if not self.fabric.is_global_zero or self.best is None:
            return
        state = {
            "key": self.key, "epoch": self.epoch, "epochs": self.epochs, "seconds": self.seconds,
            "rows": json.dumps(self.rows), "start": json.dumps(self.started), "network": self._plain().state_dict(),
            "averaged": self.averaged.state_dict(), "optimiser": self.optimiser.state_dict(),
            "best_score": self.best[0], "best_epoch": self.best[1], "best": self.best[2],
        }  # fmt: skip
        write_checkpoint(state, self.folder / CHECKPOINT)
        pd.DataFrame(self.rows).to_csv(self.folder / CURVES, index=False)
        self.written = time.monotonic()

    def _load(self, path: Path) -> None:
        state = read_checkpoint(path, self.key)
        self.epoch, self.epochs, self.seconds = state["epoch"], state["epochs"], state["seconds"]
        self.rows = json.loads(state["rows"])
        self._plain().load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = (state["best_score"], state["best_epoch"], state["best"])


def _fitting(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits of a coarser depth on the labels' grid."""
    if logits.shape[2:] == labels.shape[2:]:
        return logits.float()
    return nn.functional.interpolate(logits.float(), labels.shape[2:], mode="trilinear")


def _dice(predicted: np.ndarray, reference: np.ndarray) -> float:
    total = int(predicted.sum()) + int(reference.sum())
    return math.nan if total == 0 else 2 * int((predicted & reference).sum()) / total


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.mean(known)) if known else math.nan


def _of_interest(stored: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Voxels of a prepared case where a cascade asks this network; None: everywhere."""
    if "inner" not in stored:
        return None
    region = np.zeros(stored["labels"].shape, bool)
    region[tuple(slice(*bounds) for bounds in stored["inner"])] = True
    return region


def _fabric(settings: TrainingSettings, plan: SegmentationPlan) -> Any:
    from lightning_fabric import Fabric

    precision = settings.precision
    if precision == "auto":
        halved = not on_gpu(settings.accelerator) and _bf16_helps(plan, settings)
        precision = "16-mixed" if on_gpu(settings.accelerator) else ("bf16-mixed" if halved else "32-true")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    interactive = hasattr(sys, "ps1")  # a notebook cannot be imported by spawned processes
    strategy = "auto" if settings.devices < 2 else "ddp_notebook" if interactive else "ddp_spawn"
    return Fabric(
        accelerator=settings.accelerator, devices=settings.devices, precision=precision, strategy=strategy  # type: ignore[arg-type]
    )  # fmt: skip


def _bf16_helps(plan: SegmentationPlan, settings: TrainingSettings) -> bool:
    """Whether this CPU trains on the patches, the smallest too, in bfloat16 as well as in 32 bits, and faster."""
    network, random = build_segmenter(plan), torch.Generator().manual_seed(0)
    sizes = sorted({plan.patch, growing_patches(plan)[0]} if settings.growing else {plan.patch})
    return all(
        bf16_helps(copy.deepcopy(network), torch.randn((1, 1, *size), generator=random), scores=lambda f: outputs(f)[0])
        for size in sizes
    )
