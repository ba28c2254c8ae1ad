"""Training of image classifiers from a table: split patients, prepare, train, calibrate, predict, write the folder.

The folder holds the model (``model.json``, ``model.safetensors``), ``curves.csv``, ``coverage_accuracy.csv`` and
``predictions.csv`` with every image of every split. Test images are prepared and predicted, and used for nothing else.
"""

from __future__ import annotations

import functools
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from hybrid.cases import Cohort
from hybrid.deep.classification.inputs import ImageInput, SliceInput, VolumeInput, input_from_dict
from hybrid.errors import HybridError, InputError, unknown_name
from hybrid.files import replacing, write_csv
from hybrid.provenance import code_version, digest, file_digest, hashed_patient, versions

from .image_audit import audit_images
from .image_splits import SplitBy, make_splits
from .image_tables import STAGE, TASKS, TEST, TRAIN, TUNING, class_names, image_table
from .runner import Rows, Task, run_tasks, write_failures

logger = logging.getLogger(__name__)

PREPARED: Final = "prepared"
PREDICTIONS: Final = "predictions.csv"
CURVES: Final = "curves.csv"


PREDICTION_COLUMNS: Final = (
    "id", "patient_id", "site", "slice", "fold", "split", "y_true", "y_pred", "confidence", "abstained",
)  # fmt: skip
"""Columns of ``predictions.csv`` besides ``y_prob_<class>``. ``split`` is train, tuning, test or external; ``y_true``
and ``y_pred`` are class names."""


_SHOWN: Final = 10
_AT_ONCE: Final = 64
"""Prepared images in memory while they are predicted."""


def train_classifier(
    table: pd.DataFrame | Cohort | str | Path,
    out: str | Path,
    *,
    task: str = "volume",
    network: str = "resnet18",
    input: ImageInput | None = None,
    ratio: tuple[float, float, float] = (8, 1, 1),
    folds: int | None = None,
    split_by: SplitBy = "patient",
    class_weights: str | Mapping[str, float] | None = "balanced",
    augmentation: bool | Mapping[str, Any] = True,
    minutes: float | None = None,
    epochs: int | None = None,
    seed: int = 0,
    weights: str | Path | None = None,
    accuracy: float | None = None,
    settings: Mapping[str, Any] | None = None,
    network_options: Mapping[str, Any] | None = None,
    on_problem: Literal["raise", "skip"] = "raise",
    folder: str | Path | None = None,
    cache: str | Path | None = None,
    resume: bool = True,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Train a classifier of volumes or slices, or one for every fold.

    Parameters
    ----------
    table : DataFrame, Cohort or path-like
        One row per volume or slice, see :func:`image_table`. A column ``split`` (train, tuning, test, external) fixes
        the split; without it patients are split at random, stratified by class.
    out : path-like
        The model folder to write. An interrupted training goes on where it stopped when the same call is repeated.
    task : {"volume", "slice"}
        3D or 2D network.
    network : str
        ``"resnet10"``, ``"resnet18"``, ``"resnet34"`` or ``"resnet50"``.
    input : VolumeInput or SliceInput, optional
        How images are prepared.
    ratio : tuple of three numbers
        Shares of the patients for training, tuning and testing. Without tuning patients nothing stops early and
        probabilities are not calibrated.
    folds : int, optional
        Cross-validation instead: as many networks, each tested on another part of the patients; the other parts are
        divided into training and tuning by ``ratio``. The folder becomes an ensemble.
    split_by : {"patient", "image"}
        ``"image"`` puts images of one patient on both sides of a split, which makes figures too good. It is here to
        show the difference, is warned about, and is recorded in ``model.json``.
    class_weights : "balanced", mapping of class to weight, or None
        Balanced (default): all classes count the same in training; the probabilities then refer to equally common
        classes. None: all images count the same and the probabilities refer to the classes as common as in training.
    augmentation : bool or mapping
        Random changes of training images; a mapping holds fields of
        :class:`hybrid.deep.classification.augmentation.Augmentation`.
    minutes, epochs : optional
        Training time of each network, or its passes over the images. The tuning loss ends it earlier.
    seed : int
        Split, start weights, order and changes.
    weights : path-like, optional
        Pretrained weights of the trunk; at least 95 % of its tensors must match.
    accuracy : float, optional
        Let the classifier abstain where its confidence is too low to reach this accuracy on the tuning set.
    settings : mapping, optional
        Further fields of :class:`hybrid.deep.classification.training.ClassifierSettings`.
    network_options : mapping, optional
        Fields of :class:`hybrid.deep.networks.Architecture` to change.
    on_problem : {"raise", "skip"}
        Whether rows that cannot be used (no image, no label, an unreadable file) stop the training, all of them named,
        or are left out. They are rows of ``failures.csv`` either way.
    folder : path-like, optional
        Relative paths of a DataFrame resolve against it; default: the folder of the table's file, or the present one.
    cache : path-like, optional
        Where prepared images are kept for further trainings; default: inside ``out``, deleted at the end.
    resume : bool
        False starts again.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`; they concern the preparation of the images.

    Returns
    -------
    Path
        The model folder. ``shortcuts.csv`` in it says which facts of the files alone tell the classes of the patients
        that are trained on, see :func:`hybrid.analysis.audit_shortcuts`; those with an AUC above 0.7 are warned about.

    Raises
    ------
    InputError
        When the table cannot be used as described, there are fewer than two classes, or a class has one patient.
    LeakageError
        When the column ``split`` puts a patient into two splits.
    WeightsError
        When the pretrained weights do not fit.
    """
    out = Path(out)
    if on_problem not in ("raise", "skip"):
        raise unknown_name("value of 'on_problem'", on_problem, ("raise", "skip"))
    own = {"minutes": minutes, "epochs": epochs, "seed": seed, "augmentation": augmentation}
    chosen = _merged(own, settings or {})
    plan = _make_plan(task, network, input, dict(network_options or {}), weights, class_weights, accuracy, chosen)
    images, problems = image_table(table, task=task, folder=folder)
    divide = functools.partial(make_splits, ratio=ratio, folds=folds, split_by=split_by, seed=seed)
    divide(images)  # whatever is wrong with classes and splits is said before the images are read
    images = images if plan.settings.mask_weight else images.assign(mask=None)
    images = images.assign(content=_contents(images, plan.input))
    images = images.assign(mask_content=_mask_contents(images))
    design = {"split_by": split_by, "ratio": list(ratio), "folds": folds}
    key = digest([_as_trained(images), plan.recipe(), design])
    if resume and _finished(out, key):
        logger.info("%s is trained already.", out)
        return out
    store = Path(cache) if cache is not None else out / PREPARED
    paths, facts, failures = _prepare(images, plan.input, store, n_jobs, backend, progress)
    _report_problems(pd.concat([problems, failures], ignore_index=True), out, on_problem)
    images = images[images["id"].isin(paths)].assign(path=lambda t: t["id"].map(paths)).reset_index(drop=True)
    _refuse_copies(images)
    splits = divide(images)
    audit_images(images if folds else images.assign(split=images["id"].map(splits[0])), facts, out, seed=seed)
    card = {"table_key": key, **design, "warnings": _warnings(images, splits, split_by)}
    _train_folds(plan, images, splits, out, card, resume, progress)
    if cache is None:
        shutil.rmtree(store)
    return out


@dataclass(frozen=True)
class _Plan:
    """How every network of one call is trained."""

    input: ImageInput
    network: str
    options: dict[str, Any]
    weights: Path | None
    pretrained: dict[str, Any]
    class_weights: str | Mapping[str, float] | None
    accuracy: float | None
    settings: Any

    def architecture(self, classes: int) -> Any:
        """Architecture for a number of classes."""
        from hybrid.deep.classification.networks import classifier_architecture

        shape = self.input.shape
        return classifier_architecture(
            self.network, dims=len(shape) - 1, in_channels=shape[0], classes=classes, **self.options
        )

    def describe(self) -> dict[str, Any]:
        """Everything that changes the result, as plain data."""
        return {
            "preprocessing": self.input.to_dict(), "network": self.network, "network_options": self.options,
            "pretrained": self.pretrained, "class_weighting": self.class_weights, "accuracy": self.accuracy,
            "settings": self.settings.to_dict(),
        }  # fmt: skip

    def recipe(self) -> dict[str, Any]:
        """Return what a training is recognised by: :meth:`describe` without the hardware."""
        return {**self.describe(), "settings": self.settings.recipe()}


def _merged(own: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    for name in settings:
        if name in own:
            raise InputError(f"{name!r} is an argument of its own, not one of the further settings.")
    return {**own, **settings}


def _make_plan(
    task: str,
    network: str,
    input: ImageInput | None,
    options: dict[str, Any],
    weights: str | Path | None,
    class_weights: str | Mapping[str, float] | None,
    accuracy: float | None,
    settings: dict[str, Any],
) -> _Plan:
    from hybrid.deep.classification.augmentation import NO_AUGMENTATION, Augmentation
    from hybrid.deep.classification.training import ClassifierSettings

    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    kinds: dict[str, type[ImageInput]] = {"volume": VolumeInput, "slice": SliceInput}
    chosen = kinds[task]() if input is None else input
    if not isinstance(chosen, kinds[task]):
        raise InputError(f"task={task!r} needs a {kinds[task].__name__}; found {type(chosen).__name__}.")
    if accuracy is not None and not 0 < accuracy <= 1:
        raise InputError(f"Expected an accuracy above 0 and at most 1; found {accuracy}.")
    known = {field.name for field in fields(ClassifierSettings)}
    for name in settings:
        if name not in known:
            raise unknown_name("setting", name, known)
    wanted = settings["augmentation"]
    if isinstance(wanted, Mapping):
        wanted = Augmentation(**_known_fields(Augmentation, wanted))
    elif isinstance(wanted, bool):
        wanted = Augmentation() if wanted else NO_AUGMENTATION
    if not isinstance(wanted, Augmentation):
        raise InputError(f"Expected augmentation=True, False or a mapping; found {type(wanted).__name__}.")
    plan = _Plan(
        chosen, network, options, None if weights is None else Path(weights), {}, class_weights, accuracy,
        ClassifierSettings(**{**settings, "augmentation": wanted}),
    )  # fmt: skip
    return replace(plan, pretrained=_try_weights(plan))


def _known_fields(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name for field in fields(kind)}
    for name in values:
        if name not in known:
            raise unknown_name("augmentation", name, known)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _try_weights(plan: _Plan) -> dict[str, Any]:
    """Load the pretrained weights once, so that a file that does not fit is refused before the images are read."""
    from hybrid.deep.classification.networks import build_classifier, load_pretrained

    network = build_classifier(plan.architecture(2))
    if plan.weights is None:
        return {}
    return {**load_pretrained(network, plan.weights).describe(), "path": plan.weights.name}


def _contents(images: pd.DataFrame, input: ImageInput) -> list[str]:
    """Digest of the content that each input is made from: file, slice, preparation."""
    files = {path: _file_content(path) for path in dict.fromkeys(images["image"])}
    settings = input.to_dict()
    return [digest([files[row.image], _whole(row.slice), settings]) for row in images.itertuples()]


def _mask_contents(images: pd.DataFrame) -> list[str]:
    """Digest of what each prepared mask is made from; empty without a mask."""
    files = {path: _file_content(path) for path in dict.fromkeys(images["mask"]) if path is not None}
    return ["" if row.mask is None else digest([files[row.mask], row.content]) for row in images.itertuples()]


def _as_trained(images: pd.DataFrame) -> dict[str, list[Any]]:
    """Columns that change a training; where the files lie does not."""
    masks = ["mask_content"] if (images["mask_content"] != "").any() else []
    return images[["id", "patient_id", "label", "split", "content", *masks]].to_dict("list")


def _whole(value: Any) -> int | None:
    return None if value is None or pd.isna(value) else int(value)


def _file_content(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        return f"unreadable: {path.name}"


def prepare_image(row: Mapping[str, Any], seed: int, *, input: Mapping[str, Any], store: Path) -> Rows:
    """Prepare one image and store it in half precision under the digest of its content; its row has its facts."""
    from hybrid.deep.classification.localisation import prepare_mask
    from hybrid.shortcuts import image_facts

    prepare, place = input_from_dict(input), Path(row["image"])
    target = store / f"{row['content']}.npy"
    _store(prepare.read(place, row["slice"], case_id=row["id"]).astype(np.float16), target)
    outline = _mask_file(store, row["mask_content"])
    if outline is not None:
        shares = prepare_mask(prepare, place, row["mask"], row["slice"], case_id=row["id"])
        _store(np.round(255 * shares).astype(np.uint8), outline)
    return [{"path": str(target), **image_facts(place, row["slice"], case_id=row["id"])}]


def _store(values: np.ndarray, target: Path) -> None:
    with replacing(target) as partial:
        np.save(partial, values)


def _mask_file(store: Path, content: str) -> Path | None:
    """Place of a prepared mask; None without one."""
    return store / f"{content}-mask.npy" if content else None


def _prepare(
    images: pd.DataFrame, input: ImageInput, store: Path, n_jobs: int, backend: str, progress: bool
) -> tuple[dict[str, Path], dict[str, dict[str, Any]], pd.DataFrame]:
    """Write the prepared file of each image; return their paths, their facts and the failures."""
    function = functools.partial(prepare_image, input=input.to_dict(), store=store)
    tasks = [
        Task(row.id, digest([row.content, row.mask_content, code_version()]), {
            "id": row.id, "image": str(row.image), "slice": _whole(row.slice), "content": row.content,
            "mask": None if row.mask is None else str(row.mask), "mask_content": row.mask_content,
        })
        for row in images.itertuples()
    ]  # fmt: skip
    results = run_tasks(
        function, tasks, stage=STAGE, out=store, n_jobs=n_jobs, backend=backend, progress=progress,
        valid=lambda rows: Path(rows[0]["path"]).is_file(),
    )  # fmt: skip
    found = {name: dict(rows[0]) for name, rows in results.rows.items()}
    return {name: Path(row.pop("path")) for name, row in found.items()}, found, results.failures


def _report_problems(problems: pd.DataFrame, out: Path, on_problem: str) -> None:
    write_failures(problems, out, STAGE)
    if problems.empty:
        return
    first = problems.iloc[0]
    names = ", ".join(problems["case_id"].head(_SHOWN)) + (" ..." if len(problems) > _SHOWN else "")
    if on_problem == "skip":
        logger.warning("%d images are left out (%s); see failures.csv.", len(problems), names)
        return
    raise InputError(
        f"{len(problems)} images cannot be used ({names}). First: {first['message']}",
        advice=f"{first['advice']} All are in failures.csv; on_problem='skip' leaves them out. Nothing was trained.",
        case_id=str(first["case_id"]),
    )


def _refuse_copies(images: pd.DataFrame) -> None:
    """Raise when two patients have the same image: a copy would be trained and tested on. Blank slices are no copy."""
    patients = images.groupby("content")["patient_id"].nunique()
    for content in patients.index[patients > 1]:
        same = images[images["content"] == content]
        if np.ptp(np.load(same["path"].iloc[0])) > 0:
            raise InputError(
                f"Different patients have the same image: {' and '.join(same['id'].head(2))}.",
                advice="Give one patient one patient_id, or remove the copies.",
            )


def _warnings(images: pd.DataFrame, splits: Sequence[pd.Series], split_by: str) -> list[str]:
    notes = []
    if split_by == "image":
        torn = max(int((images["id"].map(s).groupby(images["patient_id"]).nunique() > 1).sum()) for s in splits)
        notes.append(
            f"Split by image, not by patient: {torn} of {images['patient_id'].nunique()} patients have images in "
            "several sets, so that figures on tuning and test images are too good. Not for a publication."
        )
    for name in (TUNING, TEST):
        for number, split in enumerate(splits):
            there = set(images.loc[images["id"].map(split) == name, "label"])
            absent = sorted(set(images["label"]) - there)
            if there and absent:
                notes.append(f"The {name} set of fold {number} has no image of class {', '.join(absent)}.")
    for note in notes:
        logger.warning("%s", note)
    return notes


def _train_folds(
    plan: _Plan, images: pd.DataFrame, splits: Sequence[pd.Series], out: Path, card: Mapping[str, Any], resume: bool,
    progress: bool,
) -> None:  # fmt: skip
    tables, members = [], []
    for number, split in enumerate(splits):
        members.append(f"fold_{number}" if len(splits) > 1 else "")
        fold = replace(plan, settings=replace(plan.settings, seed=plan.settings.seed + number))
        rows = images.assign(split=images["id"].map(split), fold=number)
        tables.append(_train_fold(fold, rows, out / members[-1], card, resume, progress))
    if len(splits) > 1:
        from hybrid.deep.classification.classifier import save_ensemble

        pooled = pd.concat(tables, ignore_index=True)
        write_csv(pooled, out / PREDICTIONS)
        # The members' tuning images together choose the threshold of the ensemble.
        save_ensemble(out, members, *_abstention(pooled, plan.accuracy), card)


def _train_fold(
    plan: _Plan, images: pd.DataFrame, out: Path, card: Mapping[str, Any], resume: bool, progress: bool
) -> pd.DataFrame:
    """Train, calibrate, predict and write one network; images carry their split."""
    from hybrid.deep.classification.classifier import ImageClassifier, fit_temperature
    from hybrid.deep.classification.training import (
        CHECKPOINT,
        PreparedImage,
        class_scores,
        class_weights,
        train_network,
    )
    from hybrid.deep.embeddings import one_thread
    from hybrid.deep.fitting import training_machine

    key = digest([plan.recipe(), _as_trained(images)])
    if resume and _finished(out, key, name="training_key"):
        logger.info("%s is trained already.", out)
        return read_predictions(out / PREDICTIONS)
    classes = class_names(images["label"])
    number = {name: i for i, name in enumerate(classes)}
    prepared = [
        PreparedImage(r.id, r.path, number[r.label], r.content, _mask_file(r.path.parent, r.mask_content))
        for r in images.itertuples()
    ]
    sets = {name: [p for p, s in zip(prepared, images["split"], strict=True) if s == name] for name in (TRAIN, TUNING)}
    weighting = class_weights([p.target for p in sets[TRAIN]], classes, plan.class_weights)
    trained = train_network(
        plan.architecture(len(classes)), sets[TRAIN], sets[TUNING], out, plan.settings, weights=weighting,
        constant_channels=plan.input.constant_channels, pretrained=plan.weights,
        pretrained_sha256=plan.pretrained.get("sha256", ""), resume=resume, progress=progress,
    )  # fmt: skip
    with one_thread():
        scores = class_scores(trained.network, sets[TUNING], batch=1, classes=len(classes))
    temperature = fit_temperature(scores, np.array([p.target for p in sets[TUNING]], dtype=int), weighting)
    content = {
        **card, "training_key": key, **plan.describe(), "calibration": temperature.to_dict(),
        "class_weights": dict(zip(classes, weighting.tolist(), strict=True)), "counts": _counts(images),
        "patients": sorted(map(hashed_patient, images.loc[images["split"].isin(sets), "patient_id"].unique())),
        "epochs": trained.epochs, "best_epoch": trained.best_epoch, "versions": versions(),
        "trained_on": training_machine(plan.settings.accelerator),
    }  # fmt: skip
    classifier = ImageClassifier(plan.input, classes, (trained.network,), (content,))
    predictions = _predict(classifier, images, prepared)
    curve, threshold = _abstention(predictions, plan.accuracy)
    predictions["abstained"] = predictions["confidence"] < (threshold or 0.0)
    write_csv(trained.curves, out / CURVES)
    write_csv(predictions, out / PREDICTIONS)
    replace(classifier, curve=curve, threshold=threshold).save(out)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return predictions


def _predict(classifier: Any, images: pd.DataFrame, prepared: Sequence[Any]) -> pd.DataFrame:
    found: list[np.ndarray] = []
    for start in range(0, len(prepared), _AT_ONCE):
        found.extend(classifier.probabilities_of([image.load() for image in prepared[start : start + _AT_ONCE]]))
    rows = [
        {
            "id": row.id, "patient_id": row.patient_id, "site": row.site, "slice": row.slice, "fold": row.fold,
            "split": row.split, "y_true": row.label, **classifier.row(values),
        }
        for row, values in zip(images.itertuples(), found, strict=True)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table[[*PREDICTION_COLUMNS, *(name for name in table.columns if name not in PREDICTION_COLUMNS)]]


def _abstention(predictions: pd.DataFrame, accuracy: float | None) -> tuple[pd.DataFrame, float | None]:
    """Coverage and accuracy of the tuning images, and the threshold that reaches the wanted accuracy, if any does."""
    from hybrid.deep.classification.classifier import COVERAGE_COLUMNS, abstention_threshold, coverage_accuracy

    tuned = predictions[predictions["split"] == TUNING]
    curve = pd.DataFrame(columns=list(COVERAGE_COLUMNS))
    if len(tuned):
        curve = coverage_accuracy(tuned["confidence"].to_numpy(), (tuned["y_pred"] == tuned["y_true"]).to_numpy())
    if accuracy is None:
        return curve, None
    try:
        return curve, abstention_threshold(curve, accuracy)
    except InputError as error:
        logger.warning("%s Every image is answered.", error.message)
        return curve, None


def _counts(images: pd.DataFrame) -> dict[str, dict[str, dict[str, int]]]:
    """Images and patients of each class in each split."""
    return {
        str(split): {
            str(label): {"images": len(rows), "patients": int(rows["patient_id"].nunique())}
            for label, rows in part.groupby("label")
        }
        for split, part in images.groupby("split")
    }


def _finished(out: Path, key: str, *, name: str = "table_key") -> bool:
    card = out / "model.json"
    if not card.is_file() or not (out / PREDICTIONS).is_file():
        return False
    try:
        return bool(json.loads(card.read_text(encoding="utf-8")).get(name) == key)
    except ValueError as error:
        raise HybridError("The model card is damaged.", advice="Delete it and train again.", path=card) from error


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read ``predictions.csv`` of a classifier, every digit kept.

    Raises
    ------
    InputError
        When there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("The predictions table does not exist.", advice="Train a classifier first.", path=path)
    # A class may be called "None"; numbers are read as they were written.
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    numbers = [name for name in table.columns if name == "confidence" or name.startswith("y_prob_")]
    return table.assign(
        **{name: table[name].replace("", "nan").astype(float) for name in numbers},
        fold=table["fold"].astype(int),
        slice=table["slice"].replace("", pd.NA).astype("Int64"),
        abstained=table["abstained"] == "True",
    )
