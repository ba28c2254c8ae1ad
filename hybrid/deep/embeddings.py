"""Embedding of one lesion: an encoder is a network with its preprocessing, known by name or by file.

One case per forward pass, evaluation mode, one thread: the numbers of a case depend on nothing else, and are the same
bits on one machine type.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import SimpleITK as sitk
import torch
from monai.networks.nets.resnet import ResNet

from hybrid.errors import InputError, WeightsError, unknown_name
from hybrid.provenance import digest, versions
from hybrid.tables import DEEP_PREFIX

from .networks import ARCHITECTURES, Architecture, architecture_of, build_network
from .preprocessing import MODALITIES, Preprocessing, crop_lesion, network_input
from .weights import CONVENTIONS, StoredTensors, guess_architecture, load_weights, read_weights

BUNDLED: Final = Path(__file__).parent / "bundled"
_RANDOM: Final = "random-"

ENCODERS: Final = ("bundled", *(f"{_RANDOM}{name}" for name in ARCHITECTURES))
"""Encoders by name: the one that comes with this package (trained on simulated lesions) and untrained networks, which
are baselines. Anything else is a path."""


@dataclass(frozen=True)
class EncoderSpec:
    """Everything needed to load an encoder again, in this process or another.

    Parameters
    ----------
    source : str
        A name in :data:`ENCODERS`, or the path of a weight file or model folder.
    modality : str, optional
        See :data:`hybrid.deep.MODALITIES`; None keeps the encoder's own.
    device : str
        A torch device.
    network : str or Architecture, optional
        Network that the file belongs to; None reads it from the tensors.
    convention : str, optional
        See :data:`hybrid.deep.CONVENTIONS`; None reads it from the file's layout.
    dilated : bool, optional
        MedicalNet only: its own dilated form (default) or MONAI's strided one.
    preprocessing : Preprocessing, optional
        Replaces the encoder's own input settings (``modality`` still applies).
    seed : int
        Seed of an untrained network.
    """

    source: str = "bundled"
    modality: str | None = None
    device: str = "cpu"
    network: str | Architecture | None = None
    convention: str | None = None
    dilated: bool | None = None
    preprocessing: Preprocessing | None = None
    seed: int = 0

    def load(self) -> Encoder:
        """Load the encoder; once per process for each specification."""
        return _cached_encoder(self)


@functools.lru_cache(maxsize=8)
def _cached_encoder(spec: EncoderSpec) -> Encoder:
    return _load(spec)


def _same_encoder(spec: EncoderSpec, expected: str) -> Encoder:
    """Rebuild a pickled encoder from its file, provided that the file is still the same."""
    encoder = spec.load()
    if encoder.digest != expected:
        _cached_encoder.cache_clear()
        encoder = spec.load()
    if encoder.digest != expected:
        raise WeightsError("The encoder's weight file has changed since it was loaded.", path=spec.source)
    return encoder


@dataclass(frozen=True)
class Encoder:
    """A network with its preprocessing.

    Attributes
    ----------
    name : str
        Name or file it was loaded from.
    network : monai.networks.nets.ResNet
        In evaluation mode.
    preprocessing : Preprocessing
        How a lesion becomes its input.
    sha256 : str
        Digest of the weight file, or of the tensors of an untrained network.
    details : dict
        Convention, network variant, share of tensors that matched and so on.
    device : str
        Where the forward pass runs.
    spec : EncoderSpec, optional
        Source of the encoder; with it, pickling stores the source and not the weights.
    """

    name: str
    network: ResNet = field(repr=False)
    preprocessing: Preprocessing
    sha256: str
    details: dict[str, Any] = field(default_factory=dict, repr=False)
    device: str = "cpu"
    spec: EncoderSpec | None = field(default=None, repr=False)

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return architecture_of(self.network).dim

    @property
    def digest(self) -> str:
        """Digest of weights, network, preprocessing and device: the same digest, the same numbers."""
        architecture = architecture_of(self.network).to_dict()
        return digest([self.sha256, architecture, self.preprocessing.to_dict(), self.device.split(":")[0]])

    def describe(self) -> dict[str, Any]:
        """Plain data for provenance."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "digest": self.digest,
            "dim": self.dim,
            "architecture": architecture_of(self.network).to_dict(),
            "variant": architecture_of(self.network).variant,
            "preprocessing": self.preprocessing.to_dict(),
            "device": self.device,
            "torch": versions()["torch"],
            **self.details,
        }

    def columns(self, image_name: str | None = None) -> list[str]:
        """Column names of the embedding: ``deep_0000``, or ``deep_<image>_0000`` for a named image."""
        prefix = DEEP_PREFIX if image_name is None else f"{DEEP_PREFIX}{image_name}_"
        return [f"{prefix}{i:04d}" for i in range(self.dim)]

    def embed(
        self,
        image: sitk.Image,
        mask: sitk.Image,
        *,
        label: int | None = None,
        scale: float = 1.0,
        case_id: str | None = None,
        image_name: str | None = None,
    ) -> dict[str, float]:
        """Embed one lesion.

        Parameters
        ----------
        image, mask : SimpleITK.Image
            3D; any spacing and orientation.
        label : int, optional
            Label of the region; None takes every label above 0 as one region.
        scale : float
            Factor on the voxel values before anything else (0.001 for SUV stored times 1000).
        case_id : str, optional
            Named in errors.
        image_name : str, optional
            Part of the column names when a case has several images.

        Returns
        -------
        dict of str to float
            ``deep_0000`` and so on.

        Raises
        ------
        InputError
            For an empty mask, an absent label, geometry that does not fit, or voxels that are not finite.
        """
        with one_thread():
            crop = crop_lesion(image, mask, self.preprocessing, label=label, scale=scale, case_id=case_id)
            values = self.embed_input(network_input(crop, self.preprocessing))
        if not np.isfinite(values).all():
            raise InputError(
                "The embedding is not finite.",
                advice="Are the weights damaged, or the voxel values far outside the modality's range?",
                case_id=case_id,
            )
        return dict(zip(self.columns(image_name), values.tolist(), strict=True))

    def embed_input(self, tensor: np.ndarray) -> np.ndarray:
        """Embedding of a prepared input.

        Parameters
        ----------
        tensor : ndarray of float32, shape (C, D, H, W)
            As :func:`~hybrid.deep.preprocessing.network_input` returns it.

        Returns
        -------
        ndarray of float64, shape (dim,)
            The network's float32 output.
        """
        with one_thread(), torch.inference_mode():
            batch = torch.from_numpy(np.array(tensor, dtype=np.float32, order="C"))[None].to(self.device)
            return self.network(batch)[0].cpu().numpy().astype(np.float64)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.spec is not None:
            return _same_encoder, (self.spec, self.digest)
        return type(self), (
            self.name, self.network, self.preprocessing, self.sha256, self.details, self.device, self.spec,
        )  # fmt: skip


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one CPU thread, and reproducibly on a GPU, whatever the process is set to."""
    threads = torch.get_num_threads()
    if threads != 1:
        torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        if threads != 1:
            torch.set_num_threads(threads)


def load_encoder(
    name_or_path: str | Path = "bundled",
    *,
    modality: str | None = None,
    device: str = "cpu",
    network: str | Architecture | None = None,
    convention: str | None = None,
    dilated: bool | None = None,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
) -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    name_or_path : str or path-like
        ``"bundled"``, ``"random-resnet10"`` and so on (:data:`ENCODERS`), or the path of a weight file (MedicalNet,
        FMCIB, MONAI) or model folder.
    modality, device, network, convention, dilated, preprocessing, seed
        See :class:`EncoderSpec`.

    Returns
    -------
    Encoder
        Loaded and checked; can be pickled to worker processes, which load it once each.

    Raises
    ------
    InputError
        For an unknown name, modality, convention, network or device.
    WeightsError
        For a file that cannot be read or does not fit.

    Examples
    --------
    >>> load_encoder("random-narrow", modality="ct").dim
    128
    """
    source = str(name_or_path)
    if source not in ENCODERS:
        source = _existing(source)
    spec = EncoderSpec(source, modality, device, network, convention, dilated, preprocessing, seed)
    return _load(spec)


def _existing(source: str) -> str:
    path = Path(source).expanduser()
    if path.exists():
        return str(path.resolve())
    if path.suffix or len(path.parts) > 1:
        raise WeightsError(
            "The weight file or model folder does not exist.",
            advice=f"Check the path, or use a name: {', '.join(ENCODERS)}.",
            path=path,
        )
    raise unknown_name("encoder", source, ENCODERS)


def _load(spec: EncoderSpec) -> Encoder:
    if spec.modality is not None and spec.modality not in MODALITIES:
        raise unknown_name("modality", spec.modality, MODALITIES)
    device = _usable_device(spec.device)
    if spec.source.startswith(_RANDOM) and spec.source in ENCODERS:
        return _random_encoder(spec, device)
    stored = read_weights(BUNDLED if spec.source == "bundled" else spec.source, convention=spec.convention)
    network = build_network(_architecture(spec, stored), seed=spec.seed)
    report = load_weights(network, stored)
    own = _own_preprocessing(stored)
    details = {
        "convention": stored.convention,
        "note": CONVENTIONS[stored.convention].note,
        "coverage": report.coverage,
        "tensors": report.counts,
    }
    return _assemble(spec, network.to(device), own, stored.sha256, details)


def _usable_device(name: str) -> str:
    try:
        torch.zeros(1, device=name)
    # torch raises AssertionError when it was built without CUDA.
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"The device {name!r} cannot be used.", advice="Use device='cpu'.") from error
    return name


def _random_encoder(spec: EncoderSpec, device: str) -> Encoder:
    network = build_network(spec.source.removeprefix(_RANDOM), seed=spec.seed)
    three = architecture_of(network).in_channels == 3
    own = Preprocessing(channels=("image", "mask", "voxel_size") if three else ("image",))
    tensors = digest({name: tensor.double().sum().item() for name, tensor in network.state_dict().items()})
    sha256 = digest([spec.source, spec.seed, tensors])
    return _assemble(spec, network.to(device), own, sha256, {"convention": "random", "seed": spec.seed})


def _architecture(spec: EncoderSpec, stored: StoredTensors) -> str | Architecture:
    found: str | Architecture = guess_architecture(stored) if spec.network is None else spec.network
    if spec.dilated is None:
        return found
    if isinstance(found, str):
        if found not in ARCHITECTURES:
            raise unknown_name("network", found, ARCHITECTURES)
        found = ARCHITECTURES[found]
    return replace(found, dilated=spec.dilated)


def _own_preprocessing(stored: StoredTensors) -> Preprocessing:
    if stored.card:
        return Preprocessing.from_dict(stored.card["preprocessing"])
    return CONVENTIONS[stored.convention].preprocessing


def _assemble(spec: EncoderSpec, network: ResNet, own: Preprocessing, sha256: str, details: dict[str, Any]) -> Encoder:
    preprocessing = spec.preprocessing or own
    if spec.modality is not None:
        preprocessing = replace(preprocessing, modality=spec.modality)
    channels, expected = len(preprocessing.channels), architecture_of(network).in_channels
    if channels != expected:
        raise InputError(
            f"The network takes {expected} input channels, the preprocessing gives {channels}: "
            f"{', '.join(preprocessing.channels)}.",
            advice="Set Preprocessing(channels=...) to match.",
        )
    name = spec.source if spec.source in ENCODERS else Path(spec.source).name
    return Encoder(name, network.eval(), preprocessing, sha256, details, spec.device, spec)
