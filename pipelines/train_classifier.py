"""Training of image classifiers from a table: split patients, prepare, train, calibrate, predict, write the folder.

The folder holds the model (``model.json``, ``model.safetensors``), ``curves.csv``, ``coverage_accuracy.csv`` and
``predictions.csv`` with every image of every split. Test images are prepared and predicted, and used for nothing else.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from hybrid.cases import Cohort
from hybrid.deep.classification.inputs import ImageInput, SliceInput, VolumeInput, input_from_dict
from hybrid.errors import HybridError, InputError, LeakageError, unknown_name
from hybrid.provenance import code_version, digest, file_digest, hashed_patient, versions
from hybrid.tables import FAILURE_COLUMNS

from .files import write_csv
from .image_audit import audit_images
from .runner import Rows, Task, run_tasks, write_failures

logger = logging.getLogger(__name__)

PREPARED: Final = "prepared"
PREDICTIONS: Final = "predictions.csv"
CURVES: Final = "curves.csv"
STAGE: Final = "prepare"

TASKS: Final = ("volume", "slice")
TRAIN: Final = "train"
TUNING: Final = "tuning"
TEST: Final = "test"
EXTERNAL: Final = "external"
SPLIT_NAMES: Final = {TRAIN: TRAIN, TUNING: TUNING, "validation": TUNING, TEST: TEST, EXTERNAL: EXTERNAL}
"""Values of the column ``split``; ``validation`` is another word for ``tuning``."""

PREDICTION_COLUMNS: Final = (
    "id", "patient_id", "site", "slice", "fold", "split", "y_true", "y_pred", "confidence", "abstained",
)  # fmt: skip
"""Columns of ``predictions.csv`` besides ``y_prob_<class>``. ``split`` is train, tuning, test or external; ``y_true``
and ``y_pred`` are class names."""

IMAGE_COLUMNS: Final = ("id", "patient_id", "image", "slice", "label", "site", "split", "mask")
"""Columns of the table that :func:`image_table` returns."""

SplitBy = Literal["patient", "image"]
_SHOWN: Final = 10
_AT_ONCE: Final = 64
"""Prepared images in memory while they are predicted."""

_EMPTY: Final = ("", "nan", "na", "n/a")


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


def image_table(
    table: pd.DataFrame | Cohort | str | Path, *, task: str = "volume", folder: str | Path | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bring a table of images into one form, and name the rows that cannot be used.

    Parameters
    ----------
    table : DataFrame, Cohort or path-like
        Columns: an id (``slice_id``, ``series_id`` or ``case_id``, the first that is there; ids that repeat are made
        unique by the slice), ``image``, ``label`` (or ``outcome``), and optionally ``patient_id`` (needed for slices;
        for volumes the ``case_id``, or the id), ``slice`` (counted from 0), ``site``, ``split`` and ``mask``.
    task : {"volume", "slice"}
        What a row is.
    folder : path-like, optional
        Relative paths resolve against it; default: the folder of the file, or the present one.

    Returns
    -------
    images : DataFrame
        Columns :data:`IMAGE_COLUMNS`, one row per usable image; class names are text.
    problems : DataFrame
        Columns :data:`hybrid.tables.FAILURE_COLUMNS`: rows without an image or a label.

    Raises
    ------
    InputError
        When a column is missing, an id is empty or repeats, or a slice or split has an unknown value.
    """
    frame, base = _as_frame(table, folder)
    ids = _ids(frame, task)
    splits = _column(frame, "split", required=False)
    images = pd.DataFrame(
        {
            "id": ids,
            "patient_id": _patients(frame, ids, task),
            "image": [_path(value, base) for value in _column(frame, "image")],
            "slice": _slices(frame, ids) if task == "slice" else None,
            "label": _column(frame, "label" if "label" in frame.columns else "outcome"),
            "site": _column(frame, "site", required=False),
            "split": [_split(value, name) for value, name in zip(splits, ids, strict=True)],
            "mask": [_path(value, base) for value in _column(frame, "mask", required=False)],
        },
        columns=list(IMAGE_COLUMNS),
        dtype=object,
    )
    missing = images[["image", "label"]].isna()
    rows = [
        (
            row.id,
            STAGE,
            "InputError",
            f"The row has {'no image' if row.image is None else 'no label'}.",
            "Fill it in, or leave the row out.",
        )
        for row in images[missing.any(axis=1)].itertuples()
    ]
    return images[~missing.any(axis=1)].reset_index(drop=True), pd.DataFrame(rows, columns=list(FAILURE_COLUMNS))


def _as_frame(table: pd.DataFrame | Cohort | str | Path, folder: str | Path | None) -> tuple[pd.DataFrame, Path]:
    if isinstance(table, Cohort):
        return table.to_frame(), Path(folder or ".")
    if isinstance(table, pd.DataFrame):
        named = table.index.name in ("case_id", "series_id", "slice_id")
        return (table.reset_index() if named else table), Path(folder or ".")
    path = Path(table)
    if not path.is_file():
        raise InputError("The table does not exist.", advice="Check the spelling and the folder.", path=path)
    try:
        if path.suffix.lower() in (".xlsx", ".xls"):
            frame = pd.read_excel(path, dtype=str, keep_default_na=False)
        else:
            frame = pd.read_csv(path, sep=None, engine="python", dtype=str, encoding="utf-8-sig", keep_default_na=False)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise InputError(f"The table cannot be read ({error}).", advice="Save it as CSV (UTF-8).", path=path) from error
    return frame, Path(folder) if folder is not None else path.parent


def _column(frame: pd.DataFrame, name: str, *, required: bool = True) -> list[str | None]:
    """Values of a column as text, None where a cell is empty."""
    if name not in frame.columns:
        if required:
            error = unknown_name("column", name, frame.columns)
            raise InputError(f"The table of images has no column {name!r}.", advice=error.advice)
        return [None] * len(frame)
    return [_text(value) for value in frame[name]]


def _text(value: Any) -> str | None:
    if value is None or pd.isna(value):
        return None
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        value = int(value)
    text = str(value).strip()
    return None if text.lower() in _EMPTY else text


def _path(value: str | None, folder: Path) -> Path | None:
    if value is None:
        return None
    # Spreadsheets written on Windows carry backslashes, which are ordinary characters elsewhere.
    path = Path(value.replace("\\", "/") if os.sep == "/" else value).expanduser()
    return path if path.is_absolute() else folder / path


def _ids(frame: pd.DataFrame, task: str) -> list[str]:
    names = ("slice_id", "series_id", "case_id") if task == "slice" else ("series_id", "case_id")
    found = next((name for name in names if name in frame.columns), None)
    if found is None:
        raise InputError(f"The table of images has no id; expected one of the columns {', '.join(names)}.")
    ids = _column(frame, found)
    if None in ids:
        raise InputError(f"Row {ids.index(None) + 1} of the table of images has no {found}.", advice="Fill it in.")
    if task == "slice" and len(set(ids)) < len(ids) and "slice" in frame.columns:
        ids = [f"{name}/{number}" for name, number in zip(ids, _column(frame, "slice"), strict=True)]
    repeated = pd.Series(ids)[pd.Series(ids).duplicated()]
    if len(repeated):
        raise InputError(
            f"The id stands in several rows of the table of images ({len(repeated)} ids repeat).",
            advice="Give each image its own id; images of one patient share the patient_id.",
            case_id=repeated.iloc[0],
        )
    return [str(name) for name in ids]


def _patients(frame: pd.DataFrame, ids: Sequence[str], task: str) -> list[str]:
    given = _column(frame, "patient_id", required=task == "slice")
    if task == "volume":
        cases = _column(frame, "case_id", required=False)
        return [name or case or own for name, case, own in zip(given, cases, ids, strict=True)]
    if None in given:
        raise InputError(
            "The slice has no patient_id.",
            advice="Fill it in: slices of one patient must stay on one side of a split.",
            case_id=ids[given.index(None)],
        )
    return [str(name) for name in given]


def _slices(frame: pd.DataFrame, ids: Sequence[str]) -> list[int | None]:
    numbers: list[int | None] = []
    for text, name in zip(_column(frame, "slice", required=False), ids, strict=True):
        value = pd.to_numeric(text, errors="coerce") if text is not None else None
        if value is not None and (pd.isna(value) or value < 0 or value != int(value)):
            raise InputError(f"A slice is a whole number from 0; found {text!r}.", case_id=name)
        numbers.append(None if value is None else int(value))
    return numbers


def _split(value: str | None, name: str) -> str | None:
    if value is not None and value.lower() not in SPLIT_NAMES:
        raise unknown_name("split", value, SPLIT_NAMES, case_id=name)
    return None if value is None else SPLIT_NAMES[value.lower()]


def class_names(labels: Sequence[str]) -> tuple[str, ...]:
    """Classes in order: as numbers where all are numbers, otherwise as text."""
    names = sorted(set(labels))
    numbers = pd.to_numeric(pd.Series(names, dtype=object), errors="coerce")
    return (
        tuple(names) if numbers.isna().any() else tuple(np.array(names, dtype=object)[numbers.argsort(kind="stable")])
    )


def make_splits(
    images: pd.DataFrame,
    *,
    ratio: tuple[float, float, float] = (8, 1, 1),
    folds: int | None = None,
    split_by: SplitBy = "patient",
    seed: int = 0,
) -> list[pd.Series]:
    """Split patients into training, tuning and test, stratified by class.

    Parameters
    ----------
    images : DataFrame
        As returned by :func:`image_table`. Rows whose ``split`` is ``external`` stay out; if other rows are declared,
        all must be.
    ratio : tuple of three numbers
        Shares for training, tuning and testing.
    folds : int, optional
        Number of folds, each tested once.
    split_by : {"patient", "image"}
        What must not be torn apart.
    seed : int
        Of the random order.

    Returns
    -------
    list of Series
        One for each fold, or one: ``train``, ``tuning``, ``test`` or ``external`` by image id.

    Raises
    ------
    InputError
        For fewer than two classes, a class with one patient, too many folds, or rows without a declared split.
    LeakageError
        When a declared split tears a patient apart.
    """
    _check_design(ratio, folds, split_by)
    inside = images[images["split"] != EXTERNAL]
    groups = inside["patient_id"] if split_by == "patient" else inside["id"]
    _check_classes(inside, groups, split_by)
    unknown = sorted(set(images["label"]) - set(inside["label"]))
    if unknown:
        raise InputError(f"Only external images have the class {unknown[0]!r}.", advice="Leave these images out.")
    fixed = pd.Series(EXTERNAL, index=images.loc[images["split"] == EXTERNAL, "id"], dtype=object)
    if inside["split"].notna().any():
        if folds is not None:
            raise InputError("The column 'split' fixes the split.", advice="Remove it, or leave out folds.")
        made = [_declared(inside, groups, ratio, split_by, seed)]
    elif folds is not None:
        made = _cross_validation(inside, groups, ratio, folds, seed)
    else:
        # Where a class has two patients only, a test image is worth more than a tuning image.
        made = [_random_split(inside, groups, {TRAIN: ratio[0], TEST: ratio[2], TUNING: ratio[1]}, seed)]
    for split in made:
        _require_all_classes(inside, split)
    return [pd.concat([split, fixed]).reindex(images["id"]) for split in made]


def _check_design(ratio: Sequence[float], folds: int | None, split_by: str) -> None:
    if len(ratio) != 3 or min(ratio) < 0 or ratio[0] <= 0:
        raise InputError(f"Expected ratio=(training, tuning, test) with a share for training; found {tuple(ratio)}.")
    if folds is not None and folds < 2:
        raise InputError(f"Expected at least two folds; found {folds}.")
    if split_by not in ("patient", "image"):
        raise unknown_name("value of 'split_by'", split_by, ("patient", "image"))


def _check_classes(images: pd.DataFrame, groups: pd.Series, split_by: str) -> None:
    counts = groups.groupby(images["label"]).nunique()
    if len(counts) < 2:
        found = ", ".join(f"{name} ({count} {split_by}s)" for name, count in counts.items()) or "none"
        raise InputError(f"A classifier needs at least two classes; found {found}.", advice="Check the column 'label'.")
    single = [str(name) for name, count in counts.items() if count < 2]
    if single:
        raise InputError(
            f"Class {single[0]!r} has one {split_by} only, so that it cannot be both trained and tested"
            + (f" (also {', '.join(single[1:])})." if single[1:] else "."),
            advice="Collect more, merge the class with another, or leave it out.",
        )


def _require_all_classes(images: pd.DataFrame, split: pd.Series) -> None:
    trained = set(images.loc[images["id"].map(split) == TRAIN, "label"])
    absent = sorted(set(images["label"]) - trained)
    if absent:
        raise InputError(
            f"Class {absent[0]!r} has no training images.", advice="Use fewer folds, another seed, or another split."
        )


def _declared(images: pd.DataFrame, groups: pd.Series, ratio: Sequence[float], split_by: str, seed: int) -> pd.Series:
    if images["split"].isna().any():
        raise InputError(
            f"{int(images['split'].isna().sum())} rows have no split although others do.",
            advice="Fill the column 'split' for every row, or for none.",
            case_id=images.loc[images["split"].isna(), "id"].iloc[0],
        )
    if split_by == "patient":
        torn = images.groupby("patient_id")["split"].nunique()
        if (torn > 1).any():
            raise LeakageError(
                f"Patient {torn.index[torn > 1][0]!r} lies in several splits ({int((torn > 1).sum())} patients do).",
                advice="Put all images of a patient into one split.",
            )
    split = pd.Series(images["split"].to_numpy(), index=images["id"], dtype=object)
    if TUNING in set(split) or not ratio[1]:
        return split
    training = images[images["split"] == TRAIN]
    carved = _random_split(training, groups[training.index], {TRAIN: ratio[0], TUNING: ratio[1]}, seed)
    return carved.combine_first(split)


def _cross_validation(
    images: pd.DataFrame, groups: pd.Series, ratio: Sequence[float], folds: int, seed: int
) -> list[pd.Series]:
    from sklearn.model_selection import StratifiedGroupKFold

    if folds > groups.nunique():
        raise InputError(f"Expected at most {groups.nunique()} folds, one patient each; found {folds}.")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    made = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class")
        parts = list(splitter.split(images, images["label"], groups))
    for number, (rest, test) in enumerate(parts):
        training = images.iloc[rest]
        split = _random_split(training, groups.iloc[rest], {TRAIN: ratio[0], TUNING: ratio[1]}, seed + number)
        made.append(pd.concat([split, pd.Series(TEST, index=images["id"].iloc[test], dtype=object)]))
    return made


def _random_split(images: pd.DataFrame, groups: pd.Series, shares: Mapping[str, float], seed: int) -> pd.Series:
    """Greedy stratified split of groups; splits earlier in ``shares`` get a patient of a rare class first."""
    used = {name: share for name, share in shares.items() if share > 0}
    counts = pd.crosstab(groups, images["label"]).sort_index()
    order = np.random.default_rng([seed, 23]).permutation(len(counts))
    counts = counts.iloc[order]
    chosen = greedy_split(counts.to_numpy(), np.array(list(used.values())) / sum(used.values()))
    by_group = dict(zip(counts.index, np.array(list(used), dtype=object)[chosen], strict=True))
    return pd.Series(groups.map(by_group).to_numpy(), index=images["id"], dtype=object)


def greedy_split(counts: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Assign groups to splits so that every split gets its share of the images and of the groups of each class.

    Each class is first seen to in every split, in the order of the splits, as far as it has groups. Then groups, those
    with the rarest class and the most images first, go where the squared distance from the wanted shares, divided by
    the share, grows least.

    Parameters
    ----------
    counts : ndarray of int, shape (groups, classes)
        Images of each class in each group; the order of the groups breaks ties.
    shares : ndarray of float, shape (splits,)
        They add up to 1.

    Returns
    -------
    ndarray of int, shape (groups,)
        Number of the split.
    """
    present = counts > 0
    parts = np.concatenate([counts / counts.sum(axis=0), present / present.sum(axis=0)], axis=1)
    chosen = np.full(len(counts), -1)
    rarity = np.argsort(present.sum(axis=0), kind="stable")
    for label in rarity:
        for split in range(len(shares)):
            if not (present[:, label] & (chosen == split)).any():
                free = np.flatnonzero(present[:, label] & (chosen < 0))
                fitting = free[parts[free, label] <= shares[split]]
                if len(free):
                    chosen[fitting[0] if len(fitting) else free[np.argmin(parts[free, label])]] = split
    filled = np.stack([parts[chosen == split].sum(axis=0) for split in range(len(shares))])
    rank = np.argmax(present[:, rarity], axis=1)
    for group in sorted(np.flatnonzero(chosen < 0), key=lambda g: (rank[g], -parts[g].sum())):
        cost = (parts[group] * (parts[group] + 2 * (filled - shares[:, None])) / shares[:, None]).sum(axis=1)
        chosen[group] = int(np.argmin(cost))
        filled[chosen[group]] += parts[group]
    return chosen


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
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    with partial.open("wb") as stream:
        np.save(stream, values)
    partial.replace(target)


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
