"""What runs the network: torch, or OpenVINO on a CPU; half precision only where it was checked to agree.

An engine maps a batch of patches to the mean class probabilities of its networks (an ensemble has several).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import nn

from hybrid.errors import InputError, MissingDependencyError, unknown_name

logger = logging.getLogger(__name__)

Engine = Callable[[np.ndarray], np.ndarray]
"""Maps float32 patches (B, 1, z, y, x) to probabilities (B, channels, z, y, x)."""

ENGINES: Final = ("torch", "openvino")
PRECISIONS: Final = ("float32", "half", "auto")

PAIR: Final = 2
"""Patches that a small network sees at once on a CPU, see :func:`_at_once`."""

SMALL: Final = 40_000
"""Features times depth and height after the first convolution, up to which a network counts as small."""

MAX_DIFFERENCE: Final = 0.01
"""Largest mean difference of probabilities on a random patch with which half precision is still used."""


@dataclass(frozen=True)
class InferenceOptions:
    """How a network is slid over a scan.

    Parameters
    ----------
    overlap : float
        Share of a window that its neighbour covers, 0 to less than 1.
    blending : {"gaussian", "constant"}
        Weight of a window's voxels.
    mirror : bool
        Also mirror every window along the plan's axes and average: up to 8 times the work.
    engine : {"torch", "openvino"}
        OpenVINO (an optional extra) is faster on CPUs.
    precision : {"float32", "half", "auto"}
        Half precision (bfloat16 on CPUs, float16 on GPUs) is used only if a parity check passes; "auto" takes it on a
        GPU.
    device : str
        A torch device; "auto" takes a GPU when there is one.
    """

    overlap: float = 0.5
    blending: str = "gaussian"
    mirror: bool = False
    engine: str = "torch"
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise InputError(f"The overlap must be at least 0 and less than 1; found {self.overlap}.")
        for value, known, what in (
            (self.blending, ("gaussian", "constant"), "blending"),
            (self.engine, ENGINES, "engine"),
            (self.precision, PRECISIONS, "precision"),
        ):
            if value not in known:
                raise unknown_name(what, value, known)


def choose_device(name: str = "auto") -> torch.device:
    """Torch device by name.

    Raises
    ------
    InputError
        When a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("There is no CUDA device.", advice="Use device='cpu' or 'auto'.")
    return device


def make_engine(
    networks: Sequence[nn.Module],
    options: InferenceOptions,
    *,
    patch: Sequence[int],
    mirror_axes: Sequence[int] = (),
) -> Engine:
    """Build the engine that the options ask for.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        In evaluation mode; their probabilities are averaged.
    options : InferenceOptions
        Engine, precision, device, mirroring.
    patch : sequence of int
        Window size, for compilation and the parity check.
    mirror_axes : sequence of int
        Axes (0 = z) to mirror when ``options.mirror``.

    Returns
    -------
    callable
        See :data:`Engine`.

    Raises
    ------
    MissingDependencyError
        When OpenVINO is asked for and not installed.
    """
    axes = tuple(mirror_axes) if options.mirror else ()
    if options.engine == "openvino":
        return _mirrored(_openvino(networks, patch, half=options.precision == "half"), axes)
    device = choose_device(options.device)
    networks = [network.to(device).eval() for network in networks]
    size = _at_once(networks, patch, device)
    full = _torch(networks, device, None, size)
    if not (options.precision == "half" or (options.precision == "auto" and device.type == "cuda")):
        return _mirrored(full, axes)
    half = _torch(networks, device, torch.float16 if device.type == "cuda" else torch.bfloat16, size)
    return _mirrored(_checked(half, full, patch), axes)


def _at_once(networks: Sequence[nn.Module], patch: Sequence[int], device: torch.device) -> int:
    """Patches to hand over at a time.

    torch computes a convolution of one image without oneDNN where features x depth x height are 20,480 or fewer, four
    times more slowly (8 features, 48 voxels). Two patches avoid that, but need more memory and gain nothing in networks
    whose costly convolutions are larger.
    """
    first = next((part for network in networks for part in network.modules() if isinstance(part, nn.Conv3d)), None)
    if first is None or device.type != "cpu":
        return 1
    depth, height = (n // stride for n, stride in zip(patch, first.stride[:2], strict=False))
    return PAIR if first.out_channels * depth * height <= SMALL else 1


def _torch(networks: Sequence[nn.Module], device: torch.device, half: torch.dtype | None, size: int) -> Engine:
    def run(patches: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast(device.type, dtype=half, enabled=half is not None):
            batch = torch.from_numpy(np.ascontiguousarray(patches)).to(device)
            total: torch.Tensor | None = None
            for network in networks:
                probabilities = torch.softmax(network(batch).float(), dim=1)
                total = probabilities if total is None else total + probabilities
            if total is None:
                raise InputError("A segmentation model needs at least one network.")
            return (total / len(networks)).cpu().numpy()

    return _in_groups(run, size)


def _in_groups(engine: Engine, size: int) -> Engine:
    """Hand over ``size`` patches at a time, always as many, so that a result does not depend on what comes with it."""

    def run(patches: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(patches), size):
            group = patches[start : start + size]
            filled = np.concatenate([group, *[group[-1:]] * (size - len(group))])
            found.append(engine(filled)[: len(group)])
        return np.concatenate(found)

    return run


def _openvino(networks: Sequence[nn.Module], patch: Sequence[int], *, half: bool) -> Engine:
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(
            "OpenVINO is not installed.", advice='Install it with: pip install "hybrid-radiomics[openvino]"'
        ) from error
    core = openvino.Core()
    example = torch.zeros(1, 1, *(int(n) for n in patch))

    def compiled(network: nn.Module, precision: str) -> Callable[[np.ndarray], np.ndarray]:
        with torch.inference_mode(), warnings.catch_warnings():
            # Checks of sizes that hold for every patch become constants; that is meant.
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            warnings.filterwarnings("ignore", "`torch.jit.trace", DeprecationWarning)
            # OpenVINO would run the network several times more, to check the trace: most of the time of a conversion.
            traced = torch.jit.trace(network.cpu().eval(), example, check_trace=False)
            converted = openvino.convert_model(traced, example_input=example, input=list(example.shape))
        model = core.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        return lambda patches: np.concatenate([next(iter(model(one[None]).values())) for one in patches])

    def mean(precision: str) -> Engine:
        models = [compiled(network, precision) for network in networks]
        return lambda patches: np.stack([_softmax(model(patches)) for model in models]).mean(axis=0)

    full = mean("f32")
    return _checked(mean("bf16"), full, patch) if half else full


def _softmax(logits: np.ndarray) -> np.ndarray:
    return torch.softmax(torch.from_numpy(logits), dim=1).numpy()


def _checked(half: Engine, full: Engine, patch: Sequence[int]) -> Engine:
    """Return the half precision engine if it agrees on a random patch, else the full one (and say so)."""
    probe = np.random.default_rng(0).standard_normal((1, 1, *patch), dtype=np.float32)
    difference = float(np.abs(half(probe) - full(probe)).mean())
    if difference <= MAX_DIFFERENCE:
        return half
    logger.warning(
        "Half precision is not used: its probabilities differ by %.4f on average on a test patch (allowed: %.4f).",
        difference, MAX_DIFFERENCE,
    )  # fmt: skip
    return full


def _mirrored(engine: Engine, axes: Sequence[int]) -> Engine:
    if not axes:
        return engine
    sets = [tuple(axis + 2 for bit, axis in enumerate(axes) if number >> bit & 1) for number in range(2 ** len(axes))]

    def run(patches: np.ndarray) -> np.ndarray:
        total = engine(patches)
        for flipped in sets[1:]:
            total = total + np.flip(engine(np.ascontiguousarray(np.flip(patches, flipped))), flipped)
        return total / np.float32(len(sets))

    return run
