"""Training of segmentation networks from a cohort table: plan, prepare, train, write the model folder."""

from __future__ import annotations

import functools
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import pandas as pd
import SimpleITK as sitk
from joblib import effective_n_jobs

from hybrid.cases import UNNAMED, Case, Cohort
from hybrid.errors import HybridError, InputError, unknown_name
from hybrid.files import write_csv
from hybrid.images import align_mask, read_image, read_mask
from hybrid.provenance import digest, hashed_patient, versions

from .runner import Rows, Task, TaskResults, run_cases, run_tasks

logger = logging.getLogger(__name__)

PREPARED = "prepared"
SPLIT_COLUMN = "split"
"""Cohort column that says which cases are ``train``, ``validation`` or ``test``; test cases are never touched."""

SPLITS = ("train", "validation", "test", "external")


VALIDATION_SHARE: Final = 0.15
"""Of the patients, without folds."""


@dataclass(frozen=True)
class Fold:
    """Which cases train a network and which tell it when it is good."""

    training: tuple[str, ...]
    validation: tuple[str, ...]


def train_segmenter(
    cohort: Cohort,
    out: str | Path,
    *,
    network: str = "dynunet",
    minutes: float | None = None,
    epochs: int | None = None,
    folds: int | None = None,
    members: int | None = None,
    validation_share: float = VALIDATION_SHARE,
    image: str | None = None,
    seed: int = 0,
    plan: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    weights_orientation: str | None = None,
    resume: bool = True,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Train a 3D segmentation network, or one for every fold, on the masks of a cohort.

    Parameters
    ----------
    cohort : Cohort
        Cases with image and mask. A column ``split`` (train, validation, test) fixes the split; without it patients are
        split at random.
    out : path-like
        The model folder to write. An interrupted training goes on where it stopped when the same call is repeated.
    network : str
        ``"dynunet"``, ``"unet"`` or ``"segresnet"``; not used with ``weights``.
    minutes, epochs : optional
        Training time of each network, or its number of epochs.
    folds : int, optional
        Train that many networks, each with another part of the patients for validation: an ensemble. Default: one
        network with ``validation_share`` of the patients for validation.
    members : int, optional
        Train the first so many folds only. Default: all.
    validation_share : float
        Share of the patients that is not trained on; 0 trains on all.
    image : str, optional
        Name of the image when cases have several.
    seed : int
        Split, start weights and patches.
    plan : mapping, optional
        Arguments of :func:`hybrid.deep.segmentation.make_plan` to override, for example ``{"spacing": (3, 3, 3)}``.
    settings : mapping, optional
        Further fields of :class:`hybrid.deep.segmentation.TrainingSettings`.
    weights : path-like, optional
        Start from a weight file or model folder, see :mod:`hybrid.deep.segmentation.foreign`. Network, width and stages
        are those of the file; voxel size and intensities too where its authors fixed them, unless ``plan`` has them.
        What was filled is written into ``model.json`` under ``start``.
    weights_orientation : str, optional
        Where the array axes of the weights' authors pointed, for example ``"RAS"``, if the file's layout does not tell.
    resume : bool
        False starts again.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`: for the preparation of the images, and without a GPU for the networks of
        several folds, which are then trained side by side on a thread each.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    InputError
        For fewer than two patients, cases without masks, unreadable files (all are named before training starts), or a
        plan that does not fit into the memory.
    WeightsError
        For start weights that cannot be read or do not fit.
    """
    from hybrid.deep.segmentation.foreign import read_checkpoint
    from hybrid.deep.segmentation.planning import describe_plan
    from hybrid.deep.segmentation.training import TrainingSettings, check_memory
    from hybrid.deep.segmentation.transfer import Transfer

    out = Path(out)
    checkpoint = None if weights is None else read_checkpoint(weights, orientation=weights_orientation)
    transfer = None if weights is None else Transfer(Path(weights), orientation=weights_orientation)
    chosen = TrainingSettings(minutes=minutes, epochs=epochs, seed=seed, **(settings or {}))
    cases, splits = training_folds(one_image(cohort, image), folds, members, validation_share, seed)
    run = functools.partial(run_cases, out=out, n_jobs=n_jobs, backend=backend, progress=progress)
    prints = all_read(run(fingerprint_case, cases, stage="fingerprint", settings={}), cases)
    trained = {name for fold in splits for name in fold.training}
    rows = [as_fingerprint(prints[case.case_id][0]) for case in cases if case.case_id in trained]
    made = _make_plan(rows, network, plan or {}, checkpoint)
    _warn_of_seen(cases, splits, () if checkpoint is None else checkpoint.patients)
    for row in describe_plan(made).itertuples():
        logger.info("%s: %s", row.setting, row.value)
    at_once = networks_at_once(len(splits), n_jobs)
    check_memory(made, chosen, networks=at_once)
    prepared = prepare_cases(cases, made, out, run)
    train = functools.partial(
        _train_fold, cases=cases, plan=made, prepared=prepared, transfer=transfer, resume=resume,
        progress=progress and at_once == 1,
    )  # fmt: skip
    together = {"n_jobs": n_jobs, "backend": backend, "progress": progress} if at_once > 1 else None
    _train_folds(out, splits, chosen, train, together)
    shutil.rmtree(out / PREPARED)
    shutil.rmtree(out / "cache")
    return out


def training_folds(
    cases: Cohort,
    folds: int | None = None,
    members: int | None = None,
    validation_share: float = VALIDATION_SHARE,
    seed: int = 0,
) -> tuple[Cohort, list[Fold]]:
    """Folds that :func:`train_segmenter` trains with these arguments, and their cases."""
    if members is not None and not 1 <= members <= (folds or 1):
        raise InputError(
            f"The 'members' parameter must be from 1 to the number of folds ({folds or 1}); got {members}."
        )
    splits = make_folds(cases, folds, validation_share, seed)[:members]
    known = {name for fold in splits for name in (*fold.training, *fold.validation)}
    return Cohort(case for case in cases if case.case_id in known), splits


def _train_folds(
    out: Path, splits: Sequence[Fold], settings: Any, train: Callable[[Any, int], Rows],
    together: Mapping[str, Any] | None,
) -> None:  # fmt: skip
    """Train a network for every fold, in turn or ``together`` (see :func:`train_together`), each with its own seed."""
    from hybrid.deep.segmentation.segmenter import save_ensemble

    names = [f"fold_{number}" if len(splits) > 1 else "" for number in range(len(splits))]
    trainings = {
        name: _Training(out / name, fold, replace(settings, seed=settings.seed + number))
        for number, (name, fold) in enumerate(zip(names, splits, strict=True))
    }
    if together is not None:
        train_together(train, trainings, out, **together)
    else:
        for training in trainings.values():
            train(training, settings.seed)
    if len(splits) > 1:
        save_ensemble(out, names)


def _warn_of_seen(cases: Cohort, splits: Sequence[Fold], seen: Sequence[str]) -> None:
    """Say when own start weights know patients of the validation: stopping early and its Dice are too hopeful then."""
    validation = {cases[name].patient_id for fold in splits for name in fold.validation}
    count = sum(hashed_patient(patient) in seen for patient in validation)
    if count:
        logger.warning(
            "The start weights were trained on %d of the %d validation patients: their Dice is no test.",
            count, len(validation),
        )  # fmt: skip


def _make_plan(rows: Sequence[Mapping[str, Any]], network: str, wanted: Mapping[str, Any], checkpoint: Any) -> Any:
    """Plan of the cohort; with start weights the one that they fit into."""
    from hybrid.deep.segmentation.foreign import KEEPABLE, plan_from_checkpoint
    from hybrid.deep.segmentation.planning import make_plan

    if checkpoint is None:
        return make_plan(rows, network=network, **{**_hardware_defaults(), **wanted})
    options = {**_hardware_defaults(), **wanted, "width": checkpoint.structure.width}
    if checkpoint.spacing is not None:
        options.setdefault("spacing", checkpoint.spacing)
    made = make_plan(rows, network=checkpoint.kind, **options)
    return plan_from_checkpoint(checkpoint, made, keep=[name for name in KEEPABLE if name in wanted])


def _hardware_defaults() -> dict[str, Any]:
    """Memory of a step (GiB) and features of the first stage: on a CPU, time is the limit."""
    import torch

    return {"memory_gib": 8.0, "width": 32} if torch.cuda.is_available() else {"memory_gib": 0.5, "width": 16}


def one_image(cohort: Cohort, name: str | None) -> Cohort:
    """Reduce every case to one image and its mask; ``name`` is needed when cases have several."""
    cohort.require_unique_ids()
    cases = []
    for case in cohort:
        images, masks = case.images, case.masks
        chosen = name or (next(iter(images)) if len(images) == 1 else UNNAMED)
        if chosen not in images or chosen not in masks:
            raise InputError(
                f"Training needs an image and a mask; found the images {list(images)} and the masks {list(masks)}.",
                advice="Fill the columns image and mask, or name the image with --image.",
                case_id=case.case_id,
            )
        cases.append(replace(case, image=images[chosen], mask=masks[chosen]))
    return Cohort(cases)


def make_folds(cohort: Cohort, folds: int | None, validation_share: float, seed: int) -> list[Fold]:
    """Split patients, never cases, into training and validation.

    Parameters
    ----------
    cohort : Cohort
        All cases; those with ``split`` = ``test`` are left out.
    folds : int, optional
        Number of folds; each patient validates once.
    validation_share : float
        Without folds, the share of patients for validation.
    seed : int
        Of the random order.

    Returns
    -------
    list of Fold
        Case ids.

    Raises
    ------
    InputError
        For too few patients or an unknown value in the split column.
    """
    declared = {case.case_id: split_of(case) for case in cohort}
    usable = [case for case in cohort if declared[case.case_id] not in ("test", "external")]
    patients = sorted({case.patient_id for case in usable})
    if len(patients) < 2:
        raise InputError(
            f"Training needs at least two patients; found {len(patients)}.",
            advice="Add cases, or check the split column.",
        )
    if folds is None and "validation" in declared.values():
        return [_fold(usable, {case.patient_id for case in usable if declared[case.case_id] == "validation"})]
    order = np.random.default_rng([seed, 17]).permutation(len(patients))
    if folds is not None:
        if not 2 <= folds <= len(patients):
            raise InputError(f"Expected 2 to {len(patients)} folds (the number of patients); found {folds}.")
        return [_fold(usable, {patients[i] for i in order[k::folds]}) for k in range(folds)]
    count = min(len(patients) - 2, math.ceil(validation_share * len(patients))) if validation_share > 0 else 0
    return [_fold(usable, {patients[i] for i in order[: max(count, 0)]})]


def split_of(case: Case) -> str:
    """Set that the cohort's column ``split`` puts a case into, or an empty text.

    Raises
    ------
    InputError
        For a value that is none of :data:`SPLITS`.
    """
    value = case.covariates.get(SPLIT_COLUMN)
    text = "" if value is None or pd.isna(value) else str(value).strip()
    if text and text not in SPLITS:
        raise unknown_name("split", text, SPLITS, case_id=case.case_id)
    return text


def _fold(cases: Sequence[Case], validation: set[str]) -> Fold:
    return Fold(
        tuple(case.case_id for case in cases if case.patient_id not in validation),
        tuple(case.case_id for case in cases if case.patient_id in validation),
    )


def read_pair(case: Case) -> tuple[sitk.Image, sitk.Image]:
    """Image and mask of a case with one image, the mask on the image's grid."""
    if not isinstance(case.image, Path) or not isinstance(case.mask, Path):
        raise InputError("The case needs one image and one mask.", case_id=case.case_id)
    image = read_image(case.image, case_id=case.case_id)
    mask, _ = align_mask(image, read_mask(case.mask, case_id=case.case_id), case_id=case.case_id, path=case.mask)
    return image, mask


def fingerprint_case(case: Case, seed: int) -> Rows:
    """Row of one case for the plan; arrays as lists."""
    from hybrid.deep.segmentation.planning import fingerprint

    found = fingerprint(*read_pair(case), case_id=case.case_id, seed=seed)
    return [
        {**found, "labels": {str(k): v for k, v in found["labels"].items()}, "foreground": found["foreground"].tolist()}
    ]


def as_fingerprint(row: Mapping[str, Any]) -> dict[str, Any]:
    """Undo what the cache did to a row of :func:`fingerprint_case`."""
    labels = {int(value): count for value, count in row["labels"].items()}
    return {**row, "labels": labels, "foreground": np.asarray(row["foreground"])}


def prepare_case(case: Case, seed: int, *, plan: Mapping[str, Any], folder: Path) -> Rows:
    """Store one case as training reads it."""
    from hybrid.deep.segmentation.planning import SegmentationPlan
    from hybrid.deep.segmentation.preprocessing import write_training_case

    path = folder / f"{quote(case.case_id, safe='')}.npz"
    row = write_training_case(*read_pair(case), SegmentationPlan.from_dict(plan), path, case_id=case.case_id)
    return [{"path": str(path), **row}]


def _is_prepared(path: Path) -> bool:
    from hybrid.deep.segmentation.preprocessing import voxel_files

    return all(file.is_file() for file in (path, *voxel_files(path)))


def prepare_cases(cases: Cohort, plan: Any, out: Path, run: Any) -> dict[str, Any]:
    """Store all cases as training reads them; ``run`` is :func:`run_cases` with its settings filled in."""
    from hybrid.deep.segmentation.training import PreparedCase

    content = plan.to_dict()
    folder = out / PREPARED / digest(content)[:12]
    function = functools.partial(prepare_case, plan=content, folder=folder)
    results = run(
        function,
        cases,
        stage="prepare",
        settings={"plan": content},
        valid=lambda rows: _is_prepared(Path(rows[0]["path"])),
    )
    rows = all_read(results, cases)
    return {name: PreparedCase(name, Path(row[0]["path"]), row[0]["content"]) for name, row in rows.items()}


def all_read(results: TaskResults, cases: Cohort) -> dict[str, Rows]:
    """Rows of all cases.

    Raises
    ------
    InputError
        When a case failed; all of them are named.
    """
    if len(results.failures):
        first = results.failures.iloc[0]
        names = ", ".join(results.failures["case_id"])
        raise InputError(
            f"{len(results.failures)} of {len(cases)} cases cannot be used for training ({names}). "
            f"First: {first['message']}",
            advice=f"{first['advice']} The good cases are kept for the next run.",
            case_id=str(first["case_id"]),
        )
    return results.rows


@dataclass(frozen=True)
class _Training:
    """One network of an ensemble: where it goes, its cases, and its settings."""

    folder: Path
    fold: Fold
    settings: Any


def _train_fold(
    training: _Training, seed: int, *, cases: Cohort, plan: Any, prepared: Mapping[str, Any], transfer: Any,
    resume: bool, progress: bool,
) -> Rows:  # fmt: skip
    """Train one network; a function of its payload, so that another process can do it."""
    fold = training.fold
    patients = [cases[name].patient_id for name in (*fold.training, *fold.validation)]
    train_and_save(
        training.folder, plan, [prepared[name] for name in fold.training], [prepared[name] for name in fold.validation],
        patients, training.settings, transfer=transfer, resume=resume, progress=progress,
    )  # fmt: skip
    return []


def networks_at_once(networks: int, n_jobs: int) -> int:
    """How many networks are trained at once: on a CPU, a core for each is faster than all cores for each in turn."""
    import torch

    return 1 if torch.cuda.is_available() else min(networks, effective_n_jobs(n_jobs))


def train_together(function: Callable[[Any, int], Rows], trainings: Mapping[str, Any], out: Path, **work: Any) -> None:
    """Run several trainings at once.

    Parameters
    ----------
    function : callable
        Trains what its first argument describes and leaves the result on disk.
    trainings : mapping
        What is given to the function, by a name for messages.
    out : Path
        Folder of all, for messages.
    **work
        ``n_jobs``, ``backend``, ``progress`` of :func:`run_tasks`.

    Raises
    ------
    HybridError
        When a training failed; the others are kept.
    """
    tasks = [Task(name, digest([name]), training) for name, training in trainings.items()]
    failures = run_tasks(function, tasks, stage="train", **work).failures
    if len(failures):
        first = failures.iloc[0]
        raise HybridError(
            f"{len(failures)} of {len(tasks)} trainings failed, the first one ({first['case_id']}): {first['message']}",
            advice=f"{first['advice']} The same command goes on with what is missing.",
            path=out,
        )


def train_and_save(
    out: Path, plan: Any, training: Sequence[Any], validation: Sequence[Any], patients: Sequence[str], settings: Any, *,
    transfer: Any = None, resume: bool = True, progress: bool = True,
) -> None:  # fmt: skip
    """Train one network on prepared cases and write its model folder, unless it is there already.

    Parameters
    ----------
    out : Path
        Model folder.
    plan : SegmentationPlan
        Of the network.
    training, validation : sequence of PreparedCase
        Cases.
    patients : sequence of str
        All patients whose images the network learns from; kept hashed, with those of own start weights.
    settings : TrainingSettings
        Length and optimiser.
    transfer : Transfer, optional
        What is borrowed from another cohort.
    resume, progress : bool
        See :func:`train_segmenter`.
    """
    from hybrid.deep.fitting import training_machine
    from hybrid.deep.segmentation.segmenter import MODEL_CARD, save_segmenter
    from hybrid.deep.segmentation.training import CHECKPOINT, train_network

    cases = [[case.case_id, case.content] for case in (*training, *validation)]
    key = digest([plan.to_dict(), asdict(settings), cases, *([] if transfer is None else [transfer.key])])
    if resume and _finished(out / MODEL_CARD, key):
        logger.info("%s is trained already.", out)
        return
    trained = train_network(
        plan, training, validation, out, settings, transfer=transfer, resume=resume, progress=progress
    )
    start = dict(trained.start)
    hashed = sorted({hashed_patient(patient) for patient in patients} | set(start.pop("patients", [])))
    card = {
        "training_key": key, "patients": hashed, "settings": asdict(settings), "epochs": trained.epochs,
        "best_epoch": trained.best_epoch, "cases": {"training": len(training), "validation": len(validation)},
        "metrics": _metrics(trained.curves, trained.best_epoch), "curves": "curves.csv", "versions": versions(),
        "trained_on": training_machine(settings.accelerator), **({"start": start} if start else {}),
    }  # fmt: skip
    save_segmenter(out, trained.network, plan, card)
    write_csv(trained.curves, out / "curves.csv")
    (out / CHECKPOINT).unlink(missing_ok=True)


def _finished(card: Path, key: str) -> bool:
    import json

    if not card.is_file():
        return False
    try:
        return bool(json.loads(card.read_text(encoding="utf-8")).get("training_key") == key)
    except ValueError as error:
        raise HybridError("The model card is damaged.", advice="Delete it and train again.", path=card) from error


def _metrics(curves: pd.DataFrame, epoch: int) -> dict[str, float | None]:
    row = curves[curves["epoch"] == epoch].iloc[0]
    names = [name for name in curves.columns if "dice" in name or name == "train_loss"]
    return {name: None if pd.isna(row[name]) else float(row[name]) for name in names}
