"""A trained image classifier: a folder on disk, and an object that gives probabilities of images.

A model is a folder with ``model.safetensors``, ``model.json`` (architecture, input, classes, calibration, training,
patients hashed) and ``coverage_accuracy.csv`` of the tuning set. An ensemble is a folder whose ``model.json`` lists
member folders; its probability is the mean of theirs.

Probabilities are calibrated by one temperature (Guo et al. 2017, arXiv:1706.04599) on the tuning set. A classifier may
abstain where its confidence, the largest probability, is below a threshold that reached a wanted accuracy on the tuning
set (Geifman and El-Yaniv 2017, arXiv:1705.08500). Both were chosen on tuning images: what they are worth must be seen
on test images.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from monai.networks.nets.resnet import ResNet
from safetensors.torch import load_file, save_file
from scipy import optimize

from hybrid.deep.embeddings import one_thread
from hybrid.deep.hooks import watching
from hybrid.errors import HybridError, InputError, LeakageError, WeightsError
from hybrid.files import replacing, write_csv, write_text
from hybrid.provenance import digest, file_digest, hashed_patient

from .inputs import ImageInput, SliceInput, input_from_dict
from .networks import ClassifierArchitecture, architecture_of, build_classifier
from .training import weighted_log_loss

MODEL_FILE: Final = "model.safetensors"
MODEL_CARD: Final = "model.json"
CURVE_FILE: Final = "coverage_accuracy.csv"
FORMAT: Final = "hybrid-classifier-1"
ENSEMBLE_FORMAT: Final = "hybrid-classifier-ensemble-1"

COVERAGE_COLUMNS: Final = ("threshold", "coverage", "accuracy", "n")
"""Columns of the table that :func:`coverage_accuracy` returns."""

PROBABILITY: Final = "y_prob_"
"""Prefix of the column that holds the probability of a class."""

PASS: Final = 8
"""Slices that go through a network together."""

SLICE_AXES: Final = 3
"""Axes of a prepared slice: channels, rows, columns."""

TEMPERATURES: Final = (0.05, 20.0)
"""Range in which a temperature is looked for."""


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    Attributes
    ----------
    value : float
        Scores are divided by it; above 1 makes probabilities less extreme.
    images : int
        Tuning images that it was fitted on.
    note : str
        Why it is 1, when it could not be fitted.
    """

    value: float = 1.0
    images: int = 0
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``model.json``."""
        return {"temperature": self.value, "images": self.images, "note": self.note}


def fit_temperature(scores: np.ndarray, targets: np.ndarray, weights: np.ndarray | None = None) -> Temperature:
    """Temperature that minimises the log loss (Guo et al. 2017, arXiv:1706.04599).

    Parameters
    ----------
    scores : ndarray of shape (n, classes)
        Before softmax.
    targets : ndarray of int, shape (n,)
        Class numbers.
    weights : ndarray of shape (classes,), optional
        Weight of each class: those of the training, so that the probabilities refer to the same mix of classes.

    Returns
    -------
    Temperature
        1 with a note without images, or when every image is classified correctly: then the likelihood has no maximum.
    """
    targets = np.asarray(targets, dtype=np.int64)
    if not len(targets):
        return Temperature(note="There are no tuning images.")
    if (scores.argmax(axis=1) == targets).all():
        return Temperature(
            1.0, len(targets), "Every tuning image is classified correctly: no temperature can be fitted."
        )
    weights = np.ones(scores.shape[1]) if weights is None else weights
    found = optimize.minimize_scalar(
        lambda logarithm: weighted_log_loss(scores / np.exp(logarithm), targets, weights),
        bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-6},
    )  # fmt: skip
    return Temperature(float(np.exp(found.x)), len(targets))


def probabilities(scores: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of scores (n, classes) divided by a temperature."""
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    shares = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _scores(network: ResNet, batch: torch.Tensor) -> np.ndarray:
    """Scores before softmax, float64, shape (images, classes).

    The last layer is a sum in double precision: rows of a matrix product in single precision differ in their last
    bit by their place in the batch.
    """
    last: Any = network.fc
    kept: list[torch.Tensor] = []
    with watching(last, lambda _module, inputs: kept.append(inputs[0]), before=True):
        network(batch)
    features, weight, bias = (t.float().cpu().numpy().astype(np.float64) for t in (kept[0], last.weight, last.bias))
    return np.asarray((features[:, None, :] * weight[None]).sum(axis=-1) + bias)


def coverage_accuracy(confidence: Sequence[float] | np.ndarray, correct: Sequence[bool] | np.ndarray) -> pd.DataFrame:
    """Share of images that are answered, and accuracy among them, for every threshold on the confidence.

    Parameters
    ----------
    confidence : array-like of shape (n,)
        Largest probability of each image.
    correct : array-like of bool, shape (n,)
        Whether the most probable class is the true one.

    Returns
    -------
    DataFrame
        Columns :data:`COVERAGE_COLUMNS`, one row per distinct confidence, ascending: an image is answered when its
        confidence is at least ``threshold``; ``n`` images are.

    Raises
    ------
    InputError
        When lengths differ or there are no images.
    """
    values, hits = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if values.ndim != 1 or values.shape != hits.shape or not len(values):
        raise InputError(f"Expected one confidence and one answer per image; found {values.shape} and {hits.shape}.")
    order = np.argsort(-values, kind="stable")
    answered = np.arange(1, len(values) + 1)
    accuracy = np.cumsum(hits[order]) / answered
    # Images of equal confidence are answered together.
    last = np.append(np.diff(values[order]) != 0, True)
    table = pd.DataFrame(
        {
            "threshold": values[order][last],
            "coverage": answered[last] / len(values),
            "accuracy": accuracy[last],
            "n": answered[last],
        }
    )
    return table[::-1].reset_index(drop=True)


def abstention_threshold(curve: pd.DataFrame, accuracy: float) -> float:
    """Lowest threshold of :func:`coverage_accuracy` whose answered images reach a wanted accuracy.

    Parameters
    ----------
    curve : DataFrame
        Of the tuning set.
    accuracy : float
        Above 0, at most 1.

    Raises
    ------
    InputError
        When no threshold reaches it.
    """
    if not 0 < accuracy <= 1:
        raise InputError(f"Expected an accuracy above 0 and at most 1; found {accuracy}.")
    reached = curve[curve["accuracy"] >= accuracy]
    if reached.empty:
        best = "there are no tuning images" if curve.empty else f"at most {curve['accuracy'].max():.3f} is reached"
        raise InputError(
            f"No threshold reaches an accuracy of {accuracy:g} on the tuning set: {best}.",
            advice="Ask for a lower accuracy, or let the classifier answer every image.",
        )
    return float(reached["threshold"].iloc[0])


@dataclass(frozen=True)
class ImageClassifier:
    """One network, or an ensemble with one input and one set of classes.

    Parameters
    ----------
    input : VolumeInput or SliceInput
        How an image is prepared.
    classes : tuple of str
        In the order of the scores.
    networks : tuple of monai.networks.nets.ResNet
        In evaluation mode; each maps (1, C, ...) to scores, so that ``hybrid.deep.saliency`` can explain it.
    cards : tuple of dict
        Content of every member's ``model.json``.
    curve : DataFrame
        :func:`coverage_accuracy` of the tuning images.
    threshold : float, optional
        Confidence below which it abstains; None answers every image.
    path : Path, optional
        The folder it was loaded from.
    device : str
        A torch device.

    Examples
    --------
    >>> classifier = ImageClassifier.load("model")  # doctest: +SKIP
    >>> classifier.abstaining(0.95).predict(["a.nii.gz"])  # doctest: +SKIP
    """

    input: ImageInput
    classes: tuple[str, ...]
    networks: tuple[ResNet, ...]
    cards: tuple[dict[str, Any], ...]
    curve: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(COVERAGE_COLUMNS)))
    threshold: float | None = None
    path: Path | None = None
    device: str = "cpu"

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperature of each member."""
        return tuple(float(card.get("calibration", {}).get("temperature", 1.0)) for card in self.cards)

    @property
    def patients(self) -> frozenset[str]:
        """Hashed patients that any member was trained, stopped or calibrated on."""
        return frozenset(patient for card in self.cards for patient in card.get("patients", []))

    @property
    def digest(self) -> str:
        """Digest of weights, temperatures and input, for cache keys."""
        return digest([[card.get("sha256") for card in self.cards], self.temperatures, self.input.to_dict()])

    def describe(self) -> dict[str, Any]:
        """Plain data for provenance."""
        members = [{name: card.get(name) for name in ("sha256", "calibration")} for card in self.cards]
        return {
            "path": self.path.name if self.path else None, "network": architecture_of(self.networks[0]).variant,
            "classes": list(self.classes), "threshold": self.threshold, "members": members,
        }  # fmt: skip

    def on(self, device: str) -> ImageClassifier:
        """Return the same classifier on another device; its networks are moved."""
        return replace(self, networks=tuple(network.to(device) for network in self.networks), device=device)

    def abstaining(self, accuracy: float | None) -> ImageClassifier:
        """Return the same classifier, abstaining so that the tuning images that it answers reach an accuracy.

        Parameters
        ----------
        accuracy : float or None
            None answers every image.

        Raises
        ------
        InputError
            When no threshold reaches it.
        """
        return replace(self, threshold=None if accuracy is None else abstention_threshold(self.curve, accuracy))

    def refuse_trained(self, patients: Iterable[str]) -> None:
        """Raise when one of the patients was trained or tuned on.

        Raises
        ------
        LeakageError
            Naming the first such patient.
        """
        for patient in patients:
            if hashed_patient(str(patient)) in self.patients:
                raise LeakageError(
                    f"Patient {patient!r} was used to train this classifier; figures on training patients are no test.",
                    advice="Evaluate other patients.",
                    path=self.path,
                )

    def probabilities(self, prepared: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of one prepared input.

        Parameters
        ----------
        prepared : ndarray of shape (channels, ...)
            As ``input.read`` returns it; rounded to half precision, as training reads its inputs.

        Returns
        -------
        ndarray of float64, shape (classes,)
            They add up to 1; mean over the members. They do not depend on other images: one image per pass, one thread.

        Raises
        ------
        InputError
            For another shape.
        """
        return self._pass(prepared[None])[0]

    def probabilities_of(self, prepared: Sequence[np.ndarray]) -> np.ndarray:
        """Calibrated probabilities of several prepared inputs, about twice as fast for slices as one by one.

        Parameters
        ----------
        prepared : sequence of ndarray of shape (channels, ...)
            See :meth:`probabilities`.

        Returns
        -------
        ndarray of float64, shape (images, classes)
            Slices go through in passes of :data:`PASS`, the last one filled up with zeros: every pass does the same
            arithmetic, so that the result of a slice does not depend on the others. From :meth:`probabilities` it
            differs by rounding (below 1e-5). Volumes go through one by one.

        Raises
        ------
        InputError
            For another shape.
        """
        if len(self.input.shape) != SLICE_AXES:
            return np.array([self.probabilities(values) for values in prepared]).reshape(-1, len(self.classes))
        rows = [np.zeros((0, len(self.classes)))]
        for start in range(0, len(prepared), PASS):
            values = np.stack(prepared[start : start + PASS])
            filled = np.zeros((PASS, *values.shape[1:]), values.dtype)
            filled[: len(values)] = values
            rows.append(self._pass(filled)[: len(values)])
        return np.concatenate(rows)

    def _pass(self, prepared: np.ndarray) -> np.ndarray:
        """Probabilities of one pass through the networks."""
        if tuple(prepared.shape[1:]) != self.input.shape:
            raise InputError(f"Expected an input of shape {self.input.shape}; found {tuple(prepared.shape[1:])}.")
        batch = torch.from_numpy(np.array(prepared.astype(np.float16), dtype=np.float32, order="C")).to(self.device)
        if batch.ndim == SLICE_AXES + 1:
            batch = batch.contiguous(memory_format=torch.channels_last)
            for network in self.networks:  # in place; nothing to do from the second pass on
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with one_thread(), torch.inference_mode():
            scores = [_scores(network, batch) for network in self.networks]
        members = [probabilities(s, t) for s, t in zip(scores, self.temperatures, strict=True)]
        return np.asarray(np.mean(members, axis=0))

    def predict(
        self,
        images: Sequence[str | Path | sitk.Image],
        *,
        slices: Sequence[int | None] | None = None,
        ids: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Classify images.

        Parameters
        ----------
        images : sequence of path-like or SimpleITK.Image
            Files as in :mod:`hybrid.deep.classification.inputs`, or images in memory.
        slices : sequence of int or None, optional
            Slice of each image, for a classifier of slices.
        ids : sequence of str, optional
            Default: numbers from 0.

        Returns
        -------
        DataFrame
            One row per image: ``id``, ``y_prob_<class>`` for every class, ``y_pred`` (the most probable class),
            ``confidence`` (its probability), ``abstained`` (confidence below ``threshold``) and ``problem`` (empty; for
            an image that cannot be used, why: then the probabilities are NaN, ``y_pred`` is empty and it abstains).

        Raises
        ------
        InputError
            When the lengths differ.
        """
        count = len(images)
        places = [None] * count if slices is None else [None if n is None or pd.isna(n) else int(n) for n in slices]
        names = [str(number) for number in range(count)] if ids is None else [str(name) for name in ids]
        if len(places) != count or len(names) != count:
            raise InputError(f"Expected {count} slices and ids; found {len(places)} and {len(names)}.")
        rows = []
        for image, place, name in zip(images, places, names, strict=True):
            values, problem = np.full(len(self.classes), np.nan), ""
            try:
                values = self.probabilities(self._prepared(image, place, name))
            except HybridError as error:
                problem = f"{error.message} {error.advice}".strip()
            rows.append({"id": name, **self.row(values), "problem": problem})
        return pd.DataFrame(rows, columns=["id", *self.row(np.full(len(self.classes), np.nan)), "problem"])

    def row(self, values: np.ndarray) -> dict[str, Any]:
        """Columns of a table of predictions for the probabilities of one image."""
        known = bool(np.isfinite(values).all())
        confidence = float(values.max()) if known else float("nan")
        return {
            **{f"{PROBABILITY}{name}": float(value) for name, value in zip(self.classes, values, strict=True)},
            "y_pred": self.classes[int(values.argmax())] if known else "",
            "confidence": confidence,
            "abstained": not known or (self.threshold is not None and confidence < self.threshold),
        }

    def _prepared(self, image: str | Path | sitk.Image, place: int | None, name: str) -> np.ndarray:
        if not isinstance(image, sitk.Image):
            return self.input.read(image, place, case_id=name)
        if isinstance(self.input, SliceInput):
            return self.input.prepare(image, place, case_id=name)
        return self.input.prepare(image, case_id=name)

    def save(self, folder: str | Path) -> Path:
        """Write a model folder; an ensemble becomes a folder of folders ``member_0`` and so on.

        Returns
        -------
        Path
            The folder.
        """
        folder = Path(folder)
        if len(self.networks) == 1:
            _save_member(folder, self)
        else:
            names = [f"member_{number}" for number in range(len(self.networks))]
            for name, network, card in zip(names, self.networks, self.cards, strict=True):
                _save_member(folder / name, replace(self, networks=(network,), cards=(card,)))
            save_ensemble(folder, names, self.curve, self.threshold)
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, device: str = "cpu") -> ImageClassifier:
        """Load a model folder, single or ensemble.

        Raises
        ------
        InputError
            When the folder holds no classifier, or the members differ in classes or input.
        WeightsError
            When the weights do not belong to the card.
        """
        folder = Path(folder)
        card = _read_card(folder)
        ensemble = card.get("format") == ENSEMBLE_FORMAT
        members = [_load_member(folder / name) for name in card["members"]] if ensemble else [_load_member(folder)]
        first = members[0]
        if any((m.classes, m.input) != (first.classes, first.input) for m in members):
            raise InputError(
                "The members of the ensemble differ in classes or input.", advice="Train them together.", path=folder
            )
        loaded = cls(
            first.input, first.classes, tuple(m.networks[0] for m in members), tuple(m.cards[0] for m in members),
            _read_curve(folder), card.get("threshold"), folder,
        )  # fmt: skip
        return loaded.on(device)


def save_ensemble(
    folder: str | Path,
    members: Sequence[str],
    curve: pd.DataFrame,
    threshold: float | None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write the card of an ensemble whose member folders lie inside ``folder``."""
    folder = Path(folder)
    write_csv(curve, folder / CURVE_FILE)
    content = {**(card or {}), "format": ENSEMBLE_FORMAT, "members": list(members), "threshold": threshold}
    _write_card(folder, content)
    return folder


def _save_member(folder: Path, classifier: ImageClassifier) -> None:
    network = classifier.networks[0]
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    with replacing(folder / MODEL_FILE) as partial:
        save_file(tensors, partial)
    write_csv(classifier.curve, folder / CURVE_FILE)
    content = {
        **classifier.cards[0],
        "format": FORMAT,
        "architecture": architecture_of(network).to_dict(),
        "preprocessing": classifier.input.to_dict(),
        "classes": list(classifier.classes),
        "threshold": classifier.threshold,
        "sha256": file_digest(folder / MODEL_FILE),
    }
    _write_card(folder, content)


def _write_card(folder: Path, content: Mapping[str, Any]) -> None:
    write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", folder / MODEL_CARD)


def _read_curve(folder: Path) -> pd.DataFrame:
    path = folder / CURVE_FILE
    if not path.is_file():
        return pd.DataFrame(columns=list(COVERAGE_COLUMNS))
    # Text becomes the number that was written; the parser of older pandas rounds the last digit.
    return pd.read_csv(path, dtype=str).astype(dict(zip(COVERAGE_COLUMNS, (float, float, float, int), strict=True)))


def _read_card(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_CARD
    if not path.is_file():
        raise InputError(
            "This is not a model folder: it holds no model.json.", advice="Train a classifier first.", path=folder
        )
    try:
        card: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError("The model card is damaged.", advice="Copy the folder again.", path=path) from error
    if card.get("format") not in (FORMAT, ENSEMBLE_FORMAT):
        raise InputError(f"The folder holds no image classifier (format {card.get('format')!r}).", path=folder)
    return card


def _load_member(folder: Path) -> ImageClassifier:
    card = _read_card(folder)
    if card["format"] != FORMAT:
        raise InputError("A member of an ensemble must be a single classifier.", path=folder)
    file = folder / MODEL_FILE
    if not file.is_file() or file_digest(file) != card["sha256"]:
        raise WeightsError(
            "The weights are missing or are not those of model.json.", advice="Copy the folder again.", path=file
        )
    architecture = ClassifierArchitecture.from_dict(card["architecture"])
    network = build_classifier(architecture)
    network.load_state_dict(load_file(file))
    return ImageClassifier(
        input_from_dict(card["preprocessing"]), tuple(card["classes"]), (network.eval(),), (card,),
        _read_curve(folder), card.get("threshold"), folder,
    )  # fmt: skip
