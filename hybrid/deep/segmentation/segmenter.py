"""A trained segmentation model: a folder on disk, and an object that segments one image.

A model is a folder with ``model.safetensors`` and ``model.json`` (plan, labels, training, patients hashed, curves,
metrics). An ensemble is a folder whose ``model.json`` lists member folders.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk
from safetensors.torch import load_file, save_file
from torch import nn

from hybrid.errors import InputError, LeakageError, WeightsError
from hybrid.files import replacing, write_text
from hybrid.images import from_array
from hybrid.lesions import label_lesions, lesion_table
from hybrid.provenance import digest, file_digest, hashed_patient

from .engines import Engine, InferenceOptions, make_engine
from .inference import Segmentation, segment_scan
from .networks import build_segmenter
from .planning import SegmentationPlan
from .preprocessing import Scan, open_scan

MODEL_FILE: Final = "model.safetensors"
MODEL_CARD: Final = "model.json"
FORMAT: Final = "hybrid-segmenter-1"
ENSEMBLE_FORMAT: Final = "hybrid-segmenter-ensemble-1"

LESION_COLUMNS: Final = (
    "label", "label_name", "lesion_id", "volume_ml", "max_diameter_mm", "equivalent_diameter_mm",
    "centre_x", "centre_y", "centre_z", "confidence", "mean_probability",
)  # fmt: skip


@dataclass(frozen=True)
class SegmentedCase:
    """What a model found in one image.

    Attributes
    ----------
    mask : SimpleITK.Image
        uint8 labels on the image's own grid.
    lesions : DataFrame
        One row per connected region of each label (26-neighbourhood), see :data:`LESION_COLUMNS`; further columns by
        model.
    maps : dict of str to SimpleITK.Image
        Further label maps on the same grid, by name.
    embeddings : DataFrame
        One row per lesion, columns ``deep_0000`` ...; empty when the model has no classifier.
    dropped : DataFrame
        One row per candidate that the second look of a cascade dropped: ``lesion_id`` (its number in the map
        ``dropped``) and ``confidence``; empty for other models.
    details : dict
        Windows run and skipped, seconds.
    """

    mask: sitk.Image
    lesions: pd.DataFrame
    maps: dict[str, sitk.Image] = field(default_factory=dict)
    embeddings: pd.DataFrame = field(default_factory=pd.DataFrame)
    dropped: pd.DataFrame = field(default_factory=pd.DataFrame)
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Segmenter:
    """One network, or an ensemble with one plan.

    Parameters
    ----------
    plan : SegmentationPlan
        Shared by the members.
    networks : tuple of torch.nn.Module
        In evaluation mode.
    cards : tuple of dict
        Content of every member's ``model.json``.
    path : Path
        The folder.
    options : InferenceOptions
        How windows are slid.
    """

    plan: SegmentationPlan
    networks: tuple[nn.Module, ...]
    cards: tuple[dict[str, Any], ...]
    path: Path
    options: InferenceOptions = field(default_factory=InferenceOptions)

    @property
    def digest(self) -> str:
        """Digest of weights and options, for cache keys."""
        own = [
            self.options.overlap,
            self.options.blending,
            self.options.mirror,
            self.options.engine,
            self.options.precision,
        ]
        return digest([[card["sha256"] for card in self.cards], own])

    @property
    def labels(self) -> dict[int, str]:
        """Names of the labels that the mask may hold."""
        return dict(zip(self.plan.labels, self.plan.label_names, strict=True))

    @property
    def patients(self) -> frozenset[str]:
        """Hashed patients that any member was trained or stopped on."""
        return frozenset(patient for card in self.cards for patient in card.get("patients", []))

    @cached_property
    def engine(self) -> Engine:
        """Engine, compiled once."""
        return make_engine(self.networks, self.options, patch=self.plan.patch, mirror_axes=self.plan.mirror_axes)

    def with_options(self, **changes: Any) -> Segmenter:
        """Return the same model with other inference options."""
        return replace(self, options=replace(self.options, **changes))

    def describe(self) -> dict[str, Any]:
        """Plain data for provenance."""
        members = [{"sha256": card["sha256"], "metrics": card.get("metrics", {})} for card in self.cards]
        return {"path": self.path.name, "network": self.plan.network, "members": members}

    def refuse_trained(self, patients: Iterable[str]) -> None:
        """Raise when one of the patients was trained on.

        Raises
        ------
        LeakageError
            Naming the first such patient.
        """
        for patient in patients:
            if hashed_patient(patient) in self.patients:
                raise LeakageError(
                    f"Patient {patient!r} was used to train this model; figures on training patients are not a test.",
                    advice='Evaluate other patients, or say split="train" where training figures are wanted.',
                    path=self.path,
                )

    def run(self, scan: Scan, **how: Any) -> Segmentation:
        """Channel numbers on the scan's grid (canonical orientation); ``how`` as for :func:`segment_scan`."""
        return segment_scan(scan, self.plan, self.engine, self.options, **how)

    def segment(self, image: sitk.Image, *, case_id: str | None = None) -> SegmentedCase:
        """Segment one image.

        Parameters
        ----------
        image : SimpleITK.Image
            Any orientation and voxel size.
        case_id : str, optional
            Named in errors.

        Returns
        -------
        SegmentedCase
            Mask on the image's grid and the table of its connected regions.

        Raises
        ------
        InputError
            For an image that is not a volume.
        """
        begin = time.monotonic()
        scan = open_scan(image, bias_correction=self.plan.bias_correction, case_id=case_id)
        found = self.run(scan)
        values = np.array([0, *self.plan.labels], np.uint8)[found.labels]
        tables = [
            regions_of(found.labels == channel, image, scan, found, channel).assign(label=value, label_name=name)
            for channel, (value, name) in enumerate(self.labels.items(), start=1)
        ]
        details = {
            "windows": found.windows.total, "windows_run": found.windows.run, "seconds": time.monotonic() - begin,
        }  # fmt: skip
        mask = from_array(scan.orientation.undo(values), image)
        return SegmentedCase(mask, pd.concat(tables, ignore_index=True)[list(LESION_COLUMNS)], details=details)


def regions_of(
    region: np.ndarray,
    image: sitk.Image,
    scan: Scan,
    found: Segmentation,
    channel: int,
    *,
    min_volume_mm3: float = 0.0,
) -> pd.DataFrame:
    """Table of the connected regions (see :func:`hybrid.lesions.lesion_table`) with the network's confidence.

    Parameters
    ----------
    region : ndarray of bool, shape (z, y, x)
        On the source's grid, canonical orientation.
    image : SimpleITK.Image
        The source.
    scan, found
        The scan and its segmentation.
    channel : int
        Number of the label, whose largest probability in the region is the confidence.
    min_volume_mm3 : float
        Smaller regions are left out.
    """
    original = scan.orientation.undo(region)
    table = lesion_table(original, image, min_volume_mm3=min_volume_mm3)
    numbers, _ = label_lesions(original, image.GetSpacing()[::-1], min_volume_mm3=min_volume_mm3)
    canonical = scan.orientation.apply(numbers)
    scores = [confidence(canonical == number, found, channel) for number in table["lesion_id"]]
    return table.assign(
        confidence=[score[0] for score in scores], mean_probability=[score[1] for score in scores]
    )  # fmt: skip


def confidence(region: np.ndarray, found: Segmentation, channel: int) -> tuple[float, float]:
    """Largest and mean probability of a label in a region of the source's grid, read on the plan's grid.

    Voxels of the plan's grid count that have this label; a small region that holds none of them gets 0, the last rank.
    """
    values = found.probability[on_plan_grid(np.argwhere(region), region.shape, found, channel)].astype(float)
    return (float(values.max()), float(values.mean())) if values.size else (0.0, 0.0)


def on_plan_grid(places: np.ndarray, shape: Sequence[int], found: Segmentation, channel: int) -> tuple[np.ndarray, ...]:
    """Index, inside ``found.box``, of the plan's voxels with a label under places of the source's grid.

    ``places`` has the shape (n, 3), ``shape`` is that of the source (z, y, x).
    """
    coarse = np.array(found.coarse.shape)
    index = np.minimum(((places + 0.5) * coarse / np.asarray(shape)).astype(int), coarse - 1)
    index = index[found.coarse[tuple(index.T)] == channel] - [part.start for part in found.box]
    return tuple(index.T)


def save_segmenter(folder: str | Path, network: nn.Module, plan: SegmentationPlan, card: Mapping[str, Any]) -> Path:
    """Write a model folder: weights as safetensors, everything else as JSON.

    Parameters
    ----------
    folder : path-like
        Created when absent.
    network : torch.nn.Module
        Built from the plan.
    plan : SegmentationPlan
        Written into the card.
    card : mapping
        JSON-able: training settings, hashed patients, metrics, curves, versions.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    with replacing(folder / MODEL_FILE) as partial:
        save_file(tensors, partial)
    content = {"format": FORMAT, "plan": plan.to_dict(), "sha256": file_digest(folder / MODEL_FILE), **card}
    write_card(folder, content)
    return folder


def write_card(folder: Path, content: Mapping[str, Any]) -> None:
    """Write ``model.json`` under a temporary name, then move it."""
    write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", folder / MODEL_CARD)


def save_ensemble(folder: str | Path, members: Iterable[str]) -> Path:
    """Write the card of an ensemble whose member folders lie inside ``folder``."""
    folder = Path(folder)
    write_card(folder, {"format": ENSEMBLE_FORMAT, "members": list(members)})
    return folder


def read_card(folder: str | Path) -> dict[str, Any]:
    """Content of a folder's ``model.json``.

    Raises
    ------
    InputError
        When there is none.
    """
    path = Path(folder) / MODEL_CARD
    if not path.is_file():
        raise InputError(
            "This is not a model folder: it holds no model.json.", advice="Run `hybrid train` first.", path=path
        )
    card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return card


def load_segmenter(folder: str | Path, *, options: InferenceOptions | None = None) -> Segmenter:
    """Load a model folder, single or ensemble.

    Parameters
    ----------
    folder : path-like
        Written by ``hybrid train``.
    options : InferenceOptions, optional
        How windows are slid.

    Returns
    -------
    Segmenter
        Ready to segment.

    Raises
    ------
    InputError
        When the folder is no segmentation model, or the members of an ensemble have different labels.
    WeightsError
        When the weights do not belong to the card.
    """
    folder = Path(folder)
    card = read_card(folder)
    members = [folder / name for name in card["members"]] if card.get("format") == ENSEMBLE_FORMAT else [folder]
    loaded = [_load_member(member) for member in members]
    plans = [plan for _, plan, _ in loaded]
    if any((plan.labels, plan.label_names) != (plans[0].labels, plans[0].label_names) for plan in plans):
        raise InputError(
            "The members of the ensemble have different labels.", advice="Train them together.", path=folder
        )
    networks = tuple(network for network, _, _ in loaded)
    return Segmenter(plans[0], networks, tuple(c for _, _, c in loaded), folder, options or InferenceOptions())


def _load_member(folder: Path) -> tuple[nn.Module, SegmentationPlan, dict[str, Any]]:
    card = read_card(folder)
    if card.get("format") != FORMAT:
        raise InputError(f"The folder holds no segmentation model (format {card.get('format')!r}).", path=folder)
    plan = SegmentationPlan.from_dict(card["plan"])
    network = build_segmenter(plan)
    tensors = load_file(folder / MODEL_FILE)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise WeightsError(
            f"{len(wrong)} of {len(expected)} tensors do not belong to the network of model.json; first: {wrong[0]}.",
            advice="Was one of the two files copied from another model?",
            path=folder / MODEL_FILE,
        )
    network.load_state_dict(tensors)
    return network.eval(), plan, card
