"""What every training loop of this package shares: schedule, averaged weights, hardware, checkpoints."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from hybrid.errors import InputError
from hybrid.files import replacing

WARM_UP: Final = 0.03
"""Share of the training in which the learning rate rises."""

_SHORTEST_WARM_UP: Final = 60
"""Steps of warm-up, at most, of a training by time whose speed is not known yet."""


SMALLEST_SAMPLE: Final = 2**15
"""Values of a batch from which on bfloat16 is tried on a CPU."""

SAME_RESULT: Final = 0.99
SAME_DIRECTION: Final = 0.7
"""Cosines of results and of weights' gradients in both precisions; rounding alone leaves more than 0.85 of the latter,
an unwritten kernel 0.3 to 0.6 (seen on an AMD EPYC with AVX-512)."""


@dataclass(frozen=True)
class Schedule:
    """Length of a training, by epochs or by time, and the learning rate along it.

    Parameters
    ----------
    steps : int
        Steps per epoch.
    learning_rate : float
        Largest rate; it rises along a line over :data:`WARM_UP` and falls along a cosine to 0.
    epochs : int, optional
        Number of epochs; repeatable on any machine.
    minutes : float, optional
        Training time instead: the rate follows the time that was spent, so that it reaches its end on a busy machine,
        too. Exactly one of the two is given.
    """

    steps: int
    learning_rate: float
    epochs: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.minutes is None):
            raise InputError("Give minutes or epochs, not both.")
        for name in ("steps", "learning_rate", "epochs", "minutes"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"The '{name}' parameter must be positive; found {value}.")

    def progress(self, epoch: int, seconds: float) -> float:
        """Share of the training that is done, 0 to 1; half an epoch more or less than the time allowed counts as 1."""
        if self.epochs is not None:
            return min(1.0, epoch / self.epochs)
        if not epoch:
            return 0.0
        return min(1.0, (seconds + 0.5 * seconds / epoch) / (60 * (self.minutes or 1)))

    def done(self, epoch: int, number: int, seconds: float) -> float:
        """Share that is over at step ``number`` of ``epoch`` (both from 0), ``seconds`` spent on the epochs before."""
        step = epoch * self.steps + number + 1
        if self.epochs is not None:
            return step / (self.epochs * self.steps)
        spent = seconds * (1 + number / max(1, epoch * self.steps))
        return max(spent / (60 * (self.minutes or 1)), min(WARM_UP, WARM_UP * step / _SHORTEST_WARM_UP))

    def rate(self, epoch: int, number: int, seconds: float) -> float:
        """Learning rate of a step, see :meth:`done`."""
        return self.learning_rate * cosine(self.done(epoch, number, seconds))


def cosine(done: float) -> float:
    """Factor on the learning rate when a share ``done`` of the training is over: up along a line, down a cosine."""
    if done < WARM_UP:
        return done / WARM_UP
    share = min(1.0, (done - WARM_UP) / (1 - WARM_UP))
    return 0.5 * (1 + math.cos(math.pi * share))


@torch.no_grad()
def update_average(averaged: nn.Module, network: nn.Module, *, step: int, decay: float) -> None:
    """Move averaged weights towards those of the network; buffers are copied.

    Parameters
    ----------
    averaged, network : torch.nn.Module
        Of one architecture.
    step : int
        Steps before this one; early on the average follows faster, ``min(decay, (1 + step) / (10 + step))``.
    decay : float
        0 copies the weights.
    """
    now = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    own = dict(network.named_parameters())
    for name, value in averaged.named_parameters():
        value.lerp_(own[name], 1 - now)
    buffers = dict(network.named_buffers())
    for name, buffer in averaged.named_buffers():
        buffer.copy_(buffers[name])


def open_fabric(accelerator: str = "auto", precision: str = "auto") -> Any:
    """Lightning Fabric on one device.

    Parameters
    ----------
    accelerator : str
        "auto", "cpu" or "gpu".
    precision : str
        Fabric's name; "auto" takes bfloat16 on a GPU that has it and 32 bits anywhere else. See
        :func:`choose_precision` for what a CPU is better at.

    Returns
    -------
    lightning_fabric.Fabric
        Ready for ``setup``.
    """
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if precision == "auto":
        precision = "bf16-mixed" if on_gpu(accelerator) and torch.cuda.is_bf16_supported() else "32-true"
    return Fabric(accelerator=accelerator, devices=1, precision=precision)  # type: ignore[arg-type]


def on_gpu(accelerator: str) -> bool:
    """Whether Fabric's accelerator means a GPU of this machine."""
    return accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def training_machine(accelerator: str) -> dict[str, str | int]:
    """Name what decides in which order a training adds its numbers.

    Parameters
    ----------
    accelerator : str
        Of the training's settings.

    Returns
    -------
    dict
        ``device`` (name of the GPU, or ``"cpu"``), ``instructions`` (torch's name, for example ``"AVX512"``) and
        ``threads``. Where all three and the versions agree, a training with fixed epochs gives the same weights.
    """
    return {
        "device": torch.cuda.get_device_name() if on_gpu(accelerator) else "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(), "threads": torch.get_num_threads(),
    }  # fmt: skip


def choose_precision(
    accelerator: str,
    precision: str,
    network: nn.Module,
    sample: torch.Tensor,
    *,
    layout: torch.memory_format | None = None,
) -> str:
    """Precision of a training: the wanted one, or for "auto" bfloat16 where the hardware has it.

    Parameters
    ----------
    accelerator, precision : str
        See :func:`open_fabric`.
    network : torch.nn.Module
        Of the architecture that will be trained; it is copied, so that its weights and statistics stay.
    sample : Tensor
        A batch as the training has it.
    layout : torch.memory_format, optional
        See :func:`bf16_helps`.

    Returns
    -------
    str
        Fabric's name, not "auto".
    """
    if precision != "auto":
        return precision
    if on_gpu(accelerator):
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    return "bf16-mixed" if bf16_helps(copy.deepcopy(network), sample, layout=layout) else "32-true"


def bf16_instructions() -> bool:
    """Whether this CPU multiplies in bfloat16 by matrix instructions of its own (AMX).

    Without them bfloat16 is emulated and slower (pytorch#86270). With those of AVX-512 alone (AMD, Zen 4) kernels of
    torch 2.13 leave gradients of small 3D feature maps unwritten, and a training diverged although a trial step agreed.
    Versions of PyTorch that cannot tell count as without.
    """
    known: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return bool(known().get("amx_bf16", False))


def bf16_helps(
    network: nn.Module,
    sample: torch.Tensor,
    *,
    layout: torch.memory_format | None = None,
    scores: Callable[[Any], torch.Tensor] | None = None,
) -> bool:
    """Whether this CPU has bfloat16 and computes the same with it within rounding.

    A kernel of PyTorch was wrong for narrow outputs (pytorch#169688), and others leave the gradient of a 3 x 3 x 3
    convolution over a single voxel (AMX) or 2 x 2 x 2 voxels (AVX-512) unwritten (seen with torch 2.13); so a step
    forwards and backwards of this network is compared, with NaN in the memory that is free. Speed is not measured: the
    clock of a busy machine would choose the precision, and with it the result.
    Of samples below :data:`SMALLEST_SAMPLE` values the answer is no: nothing is to be won.

    Parameters
    ----------
    network : torch.nn.Module
        Gets gradients, and its batch statistics move: give a copy. Its random numbers are those of a fork.
    sample : Tensor
        A batch as the training has it.
    layout : torch.memory_format, optional
        Layout of ``sample`` and ``network`` in bfloat16, for example ``torch.channels_last``.
    scores : callable, optional
        From what the network returns to the tensor that is compared; default: the returned value itself.

    Returns
    -------
    bool
        True when the CPU has the instructions, the cosine of both results is above :data:`SAME_RESULT`, and the
        gradients of every tensor are finite, of similar length and, for weights, of one direction
        (:data:`SAME_DIRECTION`).
    """
    if sample.numel() < SMALLEST_SAMPLE or not bf16_instructions():
        return False
    results, gradients = [], []
    for half in (False, True):
        values = sample
        if half and layout is not None:
            network, values = network.to(memory_format=layout), sample.contiguous(memory_format=layout)  # type: ignore[call-overload]
        _spoil_free_memory(network)
        results.append(_one_step(network.train(), values, half, scores))
        gradients.append([p.grad.detach().float().flatten() for p in network.parameters() if p.grad is not None])
    same = torch.nn.functional.cosine_similarity(results[0], results[1], dim=0)
    matrices = [p.dim() > 1 for p in network.parameters() if p.grad is not None]
    return bool(same > SAME_RESULT) and _alike(gradients[0], gradients[1], matrices)


def _spoil_free_memory(network: nn.Module) -> None:
    """Fill memory that gradients are going to lie in with NaN, so that what a kernel leaves unwritten is seen."""
    for parameter in network.parameters():
        parameter.grad = None
    spoilt = [
        torch.full_like(parameter, math.nan, dtype=kind)
        for parameter in network.parameters() for kind in (torch.float32, torch.bfloat16) for _ in range(3)
    ]  # fmt: skip
    del spoilt


def _alike(full: list[torch.Tensor], half: list[torch.Tensor], matrices: list[bool]) -> bool:
    """Whether gradients are of similar length, and those of weights (not of shifts and scales) of one direction."""
    lengths = torch.stack([torch.stack([a.norm(), b.norm()]) for a, b in zip(full, half, strict=True)])
    small = 1e-3 * lengths[:, 0].max()
    if not ((lengths[:, 1] - lengths[:, 0]).abs() <= 0.9 * lengths[:, 0] + small).all():  # so for NaN
        return False
    compared = [
        torch.nn.functional.cosine_similarity(a, b, dim=0)
        for a, b, is_matrix in zip(full, half, matrices, strict=True) if is_matrix and a.norm() > small
    ]  # fmt: skip
    return not compared or bool(torch.stack(compared).min() > SAME_DIRECTION)


def _one_step(
    network: nn.Module, sample: torch.Tensor, half: bool, scores: Callable[[Any], torch.Tensor] | None
) -> torch.Tensor:
    """Leave the gradients of a step in the network and return its flat result."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            found = network(sample)
            found = found if scores is None else scores(found)
        found.float().square().mean().backward()
    return found.detach().float().flatten()


@contextlib.contextmanager
def reproducible() -> Iterator[None]:
    """Choose cuDNN's deterministic kernels; some pooling gradients on a GPU still differ in the last bits."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=True):
        yield


def write_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a training state under a temporary name, then move it into place; tensors and plain data only."""
    with replacing(path) as partial:
        torch.save(dict(state), partial)


def read_checkpoint(path: Path, key: str) -> dict[str, Any]:
    """Read a training state that :func:`write_checkpoint` wrote.

    Parameters
    ----------
    path : Path
        The file.
    key : str
        Digest of what the training depends on, as stored under ``"key"``.

    Raises
    ------
    InputError
        When the file is damaged or belongs to another training.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    # Zip, unpickling and tensor errors share no narrower base.
    except Exception as error:
        raise InputError(
            f"The checkpoint cannot be read ({type(error).__name__}).",
            advice="Delete it, or start again with --restart (resume=False).",
            path=path,
        ) from error
    if state.get("key") != key:
        raise InputError(
            "The folder holds the checkpoint of another training (other cases, plan, network or settings).",
            advice="Choose another folder, or start again with --restart (resume=False).",
            path=path,
        )
    return state
