"""Weight files by path: three foreign conventions, our own folder, and a table of what fitted.

===============  ======================================================================================================
convention       file
===============  ======================================================================================================
``hybrid``       folder with ``model.safetensors`` and ``model.json`` (architecture, preprocessing, training, metrics)
``medicalnet``   ``resnet_18.pth`` and so on: dictionary with ``state_dict``, names with ``module.`` in front, often a
                 ``conv_seg`` head
``fmcib``        ``model_weights.torch``: dictionary with ``trunk_state_dict``
``monai``        plain state dict of a MONAI ResNet (``.pt``, ``.pth``, ``.safetensors``), any prefix
===============  ======================================================================================================

Files are read with ``torch.load(weights_only=True)`` or safetensors; nothing is ever unpickled. A file is accepted when
at least 95 % of the trunk's tensors match by name and shape; loading "what fits" gives a random network otherwise.
Counters of batch normalisation (``num_batches_tracked``) do not count: they play no part and older files lack them.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from monai.networks.nets.resnet import ResNet
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hybrid.errors import WeightsError, unknown_name
from hybrid.files import replacing, write_text
from hybrid.provenance import file_digest

from .networks import ARCHITECTURES, Architecture, architecture_of
from .preprocessing import Preprocessing

logger = logging.getLogger(__name__)

MIN_COVERAGE: Final = 0.95
"""Share of the trunk's tensors that must match."""

REPORT_COLUMNS: Final = ("tensor", "status", "shape_expected", "shape_found")
MODEL_FILE: Final = "model.safetensors"
MODEL_CARD: Final = "model.json"
MODEL_FORMAT: Final = 1
_ANCHOR: Final = "layer1.0.conv1.weight"
_COUNTER: Final = "num_batches_tracked"
_SHOWN: Final = 5


@dataclass(frozen=True)
class Convention:
    """How the authors of a kind of weight file ran their networks.

    Attributes
    ----------
    preprocessing : Preprocessing
        Their input, as far as it can be reproduced.
    architecture : dict
        Fields of :class:`~hybrid.deep.networks.Architecture` that do not show in the tensors.
    note : str
        What differs from the original, and the source.
    """

    preprocessing: Preprocessing
    architecture: dict[str, Any]
    note: str


CONVENTIONS: Final[dict[str, Convention]] = {
    "hybrid": Convention(Preprocessing(), {}, "As written in model.json."),
    "medicalnet": Convention(
        Preprocessing(size=64, margin_mm=10.0, intensity="medicalnet"),
        {"first_stride": 2, "dilated": True},
        "Chen et al. 2019, arXiv 1904.00625. z-score over voxels above 0 (CT: above -1024 HU); the others become 0, "
        "where the original draws random numbers, which cannot be reproduced. Linear interpolation of the lesion "
        "with its margin, where the original zooms a whole volume by nearest neighbour.",
    ),
    "fmcib": Convention(
        Preprocessing(
            size=50, spacing_mm=1.0, centre="centroid", intensity="fmcib", modality="ct", antialias=False,
            outside=-1024.0,
        ),
        {"first_stride": 2, "dilated": False},
        "Pai et al. 2024, doi 10.1038/s42256-024-00807-9. 50 voxels of 1 mm around the lesion's centroid, "
        "(HU + 1024) / 3072; the cube is centred to a fraction of a voxel, where the original rounds.",
    ),
    "monai": Convention(
        Preprocessing(size=64, margin_mm=10.0),
        {"first_stride": 1, "dilated": False},
        "MONAI's own defaults (stride 1 in the first convolution); our own crop and normalisation.",
    ),
}  # fmt: skip
"""Conventions by name, see the table at the top of this module."""


@dataclass(frozen=True)
class StoredTensors:
    """Tensors of a weight file with the names that the network uses.

    Attributes
    ----------
    path : Path
        The file.
    convention : str
        Name in :data:`CONVENTIONS`.
    tensors : dict of str to Tensor
        Trunk and other tensors; the prefix of the trunk is removed.
    prefix : str
        What was removed, for example ``"module."``.
    sha256 : str
        Digest of the file.
    card : dict
        Content of ``model.json``; empty for foreign files.
    """

    path: Path
    convention: str
    tensors: dict[str, torch.Tensor]
    prefix: str
    sha256: str
    card: dict[str, Any]


@dataclass(frozen=True)
class LoadReport:
    """What fitted when a weight file met a network.

    Attributes
    ----------
    table : DataFrame
        ``tensor, status, shape_expected, shape_found``; status is ``matched``, ``missing`` (in the file),
        ``unexpected`` (in the file, not in the network) or ``shape_mismatch``; shapes as text.
    coverage : float
        Matched share of the network's tensors, 0 to 1.
    path, convention, sha256 : str
        The file, how it was read, its SHA-256.
    variant : str
        The network, with what the weights do not show.
    """

    table: pd.DataFrame
    coverage: float
    path: str
    convention: str
    sha256: str
    variant: str

    @property
    def counts(self) -> dict[str, int]:
        """Number of tensors by status."""
        order = ("matched", "missing", "shape_mismatch", "unexpected")
        found = self.table["status"].value_counts()
        return {status: int(found.get(status, 0)) for status in order}

    def describe(self) -> dict[str, Any]:
        """Plain data for provenance."""
        return {
            "path": self.path, "convention": self.convention, "sha256": self.sha256, "variant": self.variant,
            "coverage": self.coverage, **self.counts,
        }  # fmt: skip

    def _repr_html_(self) -> str:
        return self.table[self.table["status"] != "matched"].to_html(index=False, max_rows=20)


def read_weights(path: str | Path, *, convention: str | None = None) -> StoredTensors:
    """Read a weight file or model folder without executing anything in it.

    Parameters
    ----------
    path : path-like
        See the table at the top of this module.
    convention : str, optional
        Overrides what the file's layout suggests.

    Returns
    -------
    StoredTensors
        On the CPU, in float32.

    Raises
    ------
    WeightsError
        When the file is missing, damaged, holds pickled objects, or no tensors.
    """
    path = Path(path)
    if convention is not None and convention not in CONVENTIONS:
        raise unknown_name("convention", convention, CONVENTIONS)
    if path.is_dir():
        return _read_folder(path, convention)
    if not path.is_file():
        raise WeightsError("The weight file does not exist.", advice="Check the path.", path=path)
    content = _load(path)
    detected, found = _unwrap(content)
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:_SHOWN])) or "none"
        raise WeightsError(f"The file holds no tensors; its keys are: {keys}.", path=path)
    prefix = _trunk_prefix(tensors)
    if detected == "state_dict":
        detected = "medicalnet" if prefix == "module." else "monai"
    named = {name.removeprefix(prefix): _as_float(value) for name, value in tensors.items()}
    return StoredTensors(path, convention or detected, named, prefix, file_digest(path), {})


def _read_folder(folder: Path, convention: str | None) -> StoredTensors:
    file, card = folder / MODEL_FILE, folder / MODEL_CARD
    for needed in (file, card):
        if not needed.is_file():
            raise WeightsError(
                f"A model folder holds {MODEL_FILE} and {MODEL_CARD}; {needed.name} is missing.", path=folder
            )
    try:
        content = json.loads(card.read_text(encoding="utf-8"))
        content["architecture"], content["preprocessing"], content["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"The model card cannot be used ({error!r}).", path=card) from error
    stored = read_weights(file, convention=convention or "hybrid")
    if stored.sha256 != content["sha256"]:
        raise WeightsError(
            f"The weights are not those of the model card: expected SHA-256 {content['sha256'][:12]}..., "
            f"found {stored.sha256[:12]}....",
            advice="Copy the folder again.",
            path=file,
        )
    return replace(stored, card=content)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "The file holds pickled objects besides tensors, or is damaged; it is not opened, because unpickling runs "
            "code.",
            advice="Save only the tensors: torch.save(model.state_dict(), path).",
            path=path,
        ) from error
    # Damaged archives surface as any of these, depending on where the damage lies.
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError, IndexError, TypeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"The weight file cannot be read ({reason}).", advice="Copy or download it again.", path=path
        ) from error
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"Expected a dictionary of tensors, found {type(content).__name__}.",
            advice="Save model.state_dict().",
            path=path,
        )
    return content


def _unwrap(content: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Convention by the outer keys, and the dictionary of tensors."""
    for key, convention in (("trunk_state_dict", "fmcib"), ("state_dict", "state_dict")):
        if isinstance(content.get(key), Mapping):
            return convention, content[key]
    return "monai", content


def _trunk_prefix(names: Mapping[str, Any]) -> str:
    prefixes = [name.removesuffix(_ANCHOR) for name in names if name.endswith(_ANCHOR)]
    return min((prefix for prefix in prefixes if not prefix or prefix.endswith(".")), key=len, default="")


def _as_float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def guess_architecture(stored: StoredTensors) -> Architecture:
    """Architecture that the names and shapes of the tensors imply.

    Strides and dilation do not show in the tensors and follow the convention.

    Raises
    ------
    WeightsError
        When these are not the tensors of a 3D ResNet.
    """
    if stored.card:
        return Architecture.from_dict(stored.card["architecture"])
    tensors = stored.tensors
    if _ANCHOR not in tensors or "conv1.weight" not in tensors or tensors["conv1.weight"].ndim != 5:
        raise WeightsError(
            f"These are not the tensors of a 3D ResNet: expected conv1.weight (5 dimensions) and {_ANCHOR}, found "
            f"{', '.join(list(tensors)[:_SHOWN])} and {max(0, len(tensors) - _SHOWN)} more.",
            advice="Only ResNet trunks can be loaded; rename the tensors or pass the network they belong to.",
            path=stored.path,
        )
    bottleneck = "layer1.0.conv3.weight" in tensors
    layers = tuple(_count_blocks(tensors, stage) for stage in (1, 2, 3, 4))
    planes = tuple(int(tensors[f"layer{i}.0.conv1.weight"].shape[0]) for i in (1, 2, 3, 4) if layers[i - 1])
    if len(planes) < 4:
        raise WeightsError(f"Expected four stages, found {len(planes)}.", path=stored.path)
    first = tensors["conv1.weight"]
    known = CONVENTIONS[stored.convention].architecture
    return _named(
        Architecture(
            name="resnet",
            block="bottleneck" if bottleneck else "basic",
            layers=layers,
            planes=planes,
            in_channels=int(first.shape[1]),
            first_kernel=int(first.shape[2]),
            first_stride=known.get("first_stride", 2),
            shortcut="B" if "layer2.0.downsample.0.weight" in tensors else "A",
            bias_downsample="layer2.0.downsample.0.bias" in tensors,
            dilated=known.get("dilated", False),
        )
    )


def _count_blocks(tensors: Mapping[str, Any], stage: int) -> int:
    pattern = re.compile(rf"layer{stage}\.(\d+)\.conv1\.weight")
    return len({match.group(1) for name in tensors if (match := pattern.fullmatch(name))})


def _named(found: Architecture) -> Architecture:
    """Give the family name when blocks and planes are those of a known one, up to a factor."""
    for name, known in ARCHITECTURES.items():
        factor = found.planes[0] / known.planes[0]
        scaled = tuple(int(plane * factor) for plane in known.planes)
        if (found.block, found.layers, found.planes) == (known.block, known.layers, scaled) and name != "narrow":
            return replace(found, name=name, planes=known.planes, widen=factor)
    return found


def compare_weights(network: ResNet, stored: StoredTensors) -> LoadReport:
    """Compare the tensors of a file with those of a network; nothing is loaded and nothing raised.

    Returns
    -------
    LoadReport
        With a row for every tensor of either side.
    """
    expected = {name: tuple(t.shape) for name, t in network.state_dict().items() if not name.endswith(_COUNTER)}
    found = {name: tuple(t.shape) for name, t in stored.tensors.items() if not name.endswith(_COUNTER)}
    rows: list[tuple[str, str, Any, Any]]
    rows = [(name, _status(shape, found.get(name)), shape, found.get(name)) for name, shape in expected.items()]
    rows += [(name, "unexpected", None, shape) for name, shape in found.items() if name not in expected]
    text = [(name, status, _shape_text(wanted), _shape_text(there)) for name, status, wanted, there in rows]
    matched = sum(row[1] == "matched" for row in rows)
    architecture = getattr(network, "architecture", None)
    return LoadReport(
        pd.DataFrame(text, columns=list(REPORT_COLUMNS)),
        matched / max(1, len(expected)),
        str(stored.path),
        stored.convention,
        stored.sha256,
        architecture.variant if architecture is not None else type(network).__name__,
    )


def _status(expected: tuple[int, ...], found: tuple[int, ...] | None) -> str:
    if found is None:
        return "missing"
    return "matched" if found == expected else "shape_mismatch"


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "" if shape is None else "x".join(map(str, shape)) or "scalar"


def load_weights(
    network: ResNet,
    path: str | Path | StoredTensors,
    *,
    convention: str | None = None,
    min_coverage: float = MIN_COVERAGE,
) -> LoadReport:
    """Load a weight file into a network, or refuse.

    Parameters
    ----------
    network : monai.networks.nets.ResNet
        Changed in place when the file is accepted, and only then.
    path : path-like or StoredTensors
        Weight file or model folder, or what :func:`read_weights` returned.
    convention : str, optional
        Overrides what the file's layout suggests.
    min_coverage : float
        Smallest matched share of the network's tensors.

    Returns
    -------
    LoadReport
        Table of all tensors; those that did not match keep their random start and are named in a warning.

    Raises
    ------
    WeightsError
        When the file cannot be read or fewer tensors match; the message shows counts and the first mismatches. The
        whole table: ``compare_weights(network, read_weights(path)).table``.
    """
    stored = path if isinstance(path, StoredTensors) else read_weights(path, convention=convention)
    report = compare_weights(network, stored)
    if report.coverage < min_coverage:
        raise _refusal(report, min_coverage)
    matched = report.table.loc[report.table["status"] == "matched", "tensor"]
    network.load_state_dict({name: stored.tensors[name] for name in matched}, strict=False)
    left = report.table.loc[report.table["status"].isin(["missing", "shape_mismatch"]), "tensor"]
    if len(left):
        logger.warning("%s: %d tensors keep their random start: %s", report.path, len(left), ", ".join(left))
    return report


def _refusal(report: LoadReport, min_coverage: float) -> WeightsError:
    counts = report.counts
    wrong = report.table[report.table["status"] != "matched"].head(_SHOWN)
    lines = [
        f"{row.tensor} ({row.status}: expected {row.shape_expected or 'nothing'}, found {row.shape_found or 'nothing'})"
        for row in wrong.itertuples()
    ]
    expected = counts["matched"] + counts["missing"] + counts["shape_mismatch"]
    return WeightsError(
        f"Only {counts['matched']} of {expected} tensors of {report.variant} match ({100 * report.coverage:.0f} %; at "
        f"least {100 * min_coverage:.0f} % are needed): {counts['missing']} missing, {counts['shape_mismatch']} of "
        f"another shape, {counts['unexpected']} unexpected. First: {'; '.join(lines)}.",
        advice="The file belongs to another network; without a 'network' the architecture is read from the file.",
        path=report.path,
    )


def save_model(folder: str | Path, network: ResNet, preprocessing: Preprocessing, **card: Any) -> Path:
    """Write a model folder: weights as safetensors, everything else as JSON.

    Parameters
    ----------
    folder : path-like
        Created when absent.
    network : monai.networks.nets.ResNet
        Built by :func:`~hybrid.deep.networks.build_network`.
    preprocessing : Preprocessing
        Input that the network was trained on.
    **card
        Further JSON-able entries: training, metrics, patients (hashed).

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(folder / MODEL_FILE) as partial:
        save_file({name: tensor for name, tensor in tensors.items() if not name.endswith(_COUNTER)}, partial)
    content = {
        "format": MODEL_FORMAT,
        "architecture": architecture_of(network).to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "sha256": file_digest(folder / MODEL_FILE),
        **card,
    }
    write_text(json.dumps(content, indent=2) + "\n", folder / MODEL_CARD)
    return folder
