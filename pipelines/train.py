"""Training of segmentation networks from a cohort table: plan, prepare, train, write the model folder."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import effective_n_jobs

from hybrid.cases import Cohort
from hybrid.errors import HybridError
from hybrid.files import write_csv
from hybrid.provenance import digest, hashed_patient, versions

from .runner import Rows, Task, run_cases, run_tasks
from .training_cases import (
    PREPARED,
    VALIDATION_SHARE,
    Fold,
    all_read,
    as_fingerprint,
    fingerprint_case,
    one_image,
    prepare_cases,
    training_folds,
)
from .training_progress import ProgressFile, training_bar

logger = logging.getLogger(__name__)


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
        several folds, which are then trained side by side, each on its share of the cores.

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
    from hybrid.deep.segmentation.training import TrainingSettings

    chosen = TrainingSettings(minutes=minutes, epochs=epochs, seed=seed, **(settings or {}))
    work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    planned = plan_segmenter(
        one_image(cohort, image), out, chosen, network=network, folds=folds, members=members, plan=plan,
        validation_share=validation_share, weights=weights, weights_orientation=weights_orientation, **work,
    )  # fmt: skip
    train_planned([planned], resume=resume, **work)
    return planned.out


@dataclass(frozen=True)
class PlannedSegmenter:
    """A model folder whose networks are planned and whose images are prepared, but not trained.

    Attributes
    ----------
    out : Path
        The model folder.
    folders : tuple of Path
        Of each network.
    folds : tuple of Fold
        Cases of each network.
    settings : TrainingSettings
        Of the first network; each further one has the next seed.
    cases : Cohort
        All cases that are trained or validated on.
    plan : SegmentationPlan
        Of all networks.
    prepared : dict of str to PreparedCase
        By ``case_id``.
    transfer : Transfer or None
        Start weights.
    """

    out: Path
    folders: tuple[Path, ...]
    folds: tuple[Fold, ...]
    settings: Any
    cases: Cohort
    plan: Any
    prepared: dict[str, Any]
    transfer: Any

    def train(self, number: int, *, resume: bool, progress: bool, monitor: ProgressFile | None = None) -> None:
        """Train one network, by its number, unless it is there already."""
        fold = self.folds[number]
        patients = [self.cases[name].patient_id for name in (*fold.training, *fold.validation)]
        train_and_save(
            self.folders[number], self.plan, [self.prepared[name] for name in fold.training],
            [self.prepared[name] for name in fold.validation], patients,
            replace(self.settings, seed=self.settings.seed + number), transfer=self.transfer, resume=resume,
            progress=progress, monitor=monitor,
        )  # fmt: skip

    def finish(self) -> None:
        """Write the card of an ensemble, and remove the prepared images."""
        from hybrid.deep.segmentation.segmenter import save_ensemble

        if len(self.folders) > 1:
            save_ensemble(self.out, [folder.name for folder in self.folders])
        shutil.rmtree(self.out / PREPARED)
        shutil.rmtree(self.out / "cache")


def plan_segmenter(
    cohort: Cohort,
    out: str | Path,
    settings: Any,
    *,
    network: str = "dynunet",
    folds: int | None = None,
    members: int | None = None,
    validation_share: float = VALIDATION_SHARE,
    plan: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    weights_orientation: str | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> PlannedSegmenter:
    """Do what :func:`train_segmenter` does before it trains.

    Parameters
    ----------
    cohort : Cohort
        Cases with one image and one mask, see :func:`~.training_cases.one_image`.
    out : path-like
        The model folder.
    settings : TrainingSettings
        Length, optimiser, seed (of the folds, too).
    network, folds, members, validation_share, plan, weights, weights_orientation, n_jobs, backend, progress
        See :func:`train_segmenter`, whose errors are raised.

    Returns
    -------
    PlannedSegmenter
        For :func:`train_planned`.
    """
    from hybrid.deep.segmentation.foreign import read_checkpoint
    from hybrid.deep.segmentation.planning import describe_plan
    from hybrid.deep.segmentation.training import check_memory
    from hybrid.deep.segmentation.transfer import Transfer

    out = Path(out)
    checkpoint = None if weights is None else read_checkpoint(weights, orientation=weights_orientation)
    transfer = None if weights is None else Transfer(Path(weights), orientation=weights_orientation)
    cases, splits = training_folds(cohort, folds, members, validation_share, settings.seed)
    run = functools.partial(run_cases, out=out, n_jobs=n_jobs, backend=backend, progress=progress)
    prints = all_read(run(fingerprint_case, cases, stage="fingerprint", settings={}), cases)
    trained = {name for fold in splits for name in fold.training}
    rows = [as_fingerprint(prints[case.case_id][0]) for case in cases if case.case_id in trained]
    made = _make_plan(rows, network, plan or {}, checkpoint)
    _warn_of_seen(cases, splits, () if checkpoint is None else checkpoint.patients)
    for row in describe_plan(made).itertuples():
        logger.info("%s: %s", row.setting, row.value)
    check_memory([made] * networks_at_once(len(splits), n_jobs), settings)
    folders = [out / f"fold_{number}" for number in range(len(splits))] if len(splits) > 1 else [out]
    prepared = prepare_cases(cases, made, out, run)
    return PlannedSegmenter(out, tuple(folders), tuple(splits), settings, cases, made, prepared, transfer)


def train_planned(
    planned: Sequence[PlannedSegmenter], *, resume: bool = True, n_jobs: int = 1, backend: str = "loky",
    progress: bool = True,
) -> None:  # fmt: skip
    """Train the networks of one or several model folders, in turn or side by side.

    Parameters
    ----------
    planned : sequence of PlannedSegmenter
        Their networks are trained side by side as far as :func:`networks_at_once` allows.
    resume, n_jobs, backend, progress
        See :func:`train_segmenter`.

    Raises
    ------
    InputError
        When the memory is too small for the networks that are trained at once.
    HybridError
        When a training failed; the others are kept.
    """
    from hybrid.deep.segmentation.training import check_memory

    networks = _named(planned)
    at_once = networks_at_once(len(networks), n_jobs)
    if at_once == 1:
        for one, number in networks.values():
            one.train(number, resume=resume, progress=progress)
    else:
        largest = sorted((one.plan for one, _ in networks.values()), key=lambda plan: -plan.memory_gib)
        check_memory(largest[:at_once], planned[0].settings)
        function = functools.partial(_train_beside, resume=resume, threads=effective_n_jobs(n_jobs) // at_once)
        folders = {name: one.folders[number] for name, (one, number) in networks.items()}
        with training_bar(folders, shown=progress):
            train_together(function, networks, planned[0].out, n_jobs=n_jobs, backend=backend, progress=False)
    for one in planned:
        one.finish()


def _named(planned: Sequence[PlannedSegmenter]) -> dict[str, tuple[PlannedSegmenter, int]]:
    """Networks by the part of their folder in which they differ."""
    alone = len(planned) == 1 and len(planned[0].folders) > 1
    base = planned[0].out if alone else Path(os.path.commonpath([one.out.parent for one in planned]))
    return {
        folder.relative_to(base).as_posix(): (one, number)
        for one in planned
        for number, folder in enumerate(one.folders)
    }


def _train_beside(network: tuple[PlannedSegmenter, int], seed: int, *, resume: bool, threads: int) -> Rows:
    """Train one network in another process, on its share of the cores."""
    import torch

    torch.set_num_threads(threads)
    planned, number = network
    progress = ProgressFile(planned.folders[number])
    planned.train(number, resume=resume, progress=False, monitor=progress)
    progress.finish()
    return []


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
    transfer: Any = None, resume: bool = True, progress: bool = True, monitor: Callable[..., None] | None = None,
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
    monitor : callable, optional
        See :func:`hybrid.deep.segmentation.training.train_network`.
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
        plan, training, validation, out, settings, transfer=transfer, resume=resume, progress=progress, monitor=monitor
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
