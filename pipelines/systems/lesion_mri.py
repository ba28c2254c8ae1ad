"""System c: one kind of lesion on T2 MRI, a 3D U-Net, training and test side by side.

After Ryu et al. 2022 (doi:10.3390/jcm11195593), who report a Dice of 99.75 % on training and 60.62 % on test patients:
the tables show all sets beside each other, with the generalisation gap, its interval and a flag fixed beforehand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.cases import Case, Cohort
from hybrid.errors import InputError
from hybrid.files import write_csv
from hybrid.provenance import versions

from ..evaluate_masks import evaluate_masks
from ..files import read_exact, write_json
from ..segment import segment_cohort
from ..train import train_segmenter
from ..training_cases import SPLIT_COLUMN, split_of

logger = logging.getLogger(__name__)

SHARES: Final = {"train": 0.6, "validation": 0.2, "test": 0.2}
MODEL: Final = "model"
STRUCTURE: Final = "lesion"
DEMO_PATIENTS: Final = 20
DEMO_MINUTES: Final = 3.0


def run_lesion_mri(
    cohort: Cohort,
    out: str | Path,
    *,
    network: str = "dynunet",
    minutes: float | None = None,
    epochs: int | None = None,
    sizes: Sequence[int] = (),
    bias_correction: bool = True,
    augment: bool = True,
    seed: int = 0,
    plan: dict[str, Any] | None = None,
    title: str = "Lesion on T2 MRI",
    simulated: bool = False,
    resume: bool = True,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Train on part of the patients and show every figure for training, validation and test patients.

    Parameters
    ----------
    cohort : Cohort
        T2 images and lesion masks (any label above 0). A column ``split`` fixes the sets; otherwise patients are drawn
        60 : 20 : 20.
    out : path-like
        Folder for ``model/``, ``predicted/``, ``masks.csv``, ``tables/`` and ``report.html``.
    network, minutes, epochs, seed, resume
        See :func:`hybrid.pipelines.train_segmenter`.
    sizes : sequence of int
        Numbers of training patients for the curve of the gap; each trains a network of its own.
    bias_correction : bool
        N4 before anything else.
    augment : bool
        Change the training patches at random. Without it overfitting is to be expected.
    plan : dict, optional
        Overrides of the plan.
    title : str
        Of the report.
    simulated : bool
        Said at the top of the report.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        ``report.html``.

    Raises
    ------
    InputError
        For fewer than five patients, or a training-set size larger than the training set.
    """
    from ..mask_report import write_mask_report

    out = Path(out)
    cohort = split_cohort(cohort, seed)
    train = [case for case in cohort if split_of(case) == "train"]
    patients = list(dict.fromkeys(case.patient_id for case in train))
    for size in sizes:
        if not 2 <= size <= len(patients):
            raise InputError(f"A training set of {size} patients is not possible: there are {len(patients)}.")
    work: dict[str, Any] = {"n_jobs": n_jobs, "backend": backend, "progress": progress}
    options = {"bias_correction": bias_correction, "modality": "mr", "label_map": _one_label(cohort), **(plan or {})}
    common: dict[str, Any] = {
        "network": network,
        "minutes": minutes,
        "epochs": epochs,
        "seed": seed,
        "plan": options,
        "resume": resume,
    }
    settings: dict[str, Any] = {"augment": augment}
    train_segmenter(cohort, out / MODEL, settings=settings, **common, **work)
    table = _judge(cohort, out / MODEL, out, work)
    by_size = {len(patients): table}
    for size in sorted(set(sizes) - {len(patients)}):
        smaller = _with_training(cohort, set(_draw(patients, size, seed)))
        folder = out / "sizes" / f"{size:03d}"
        train_segmenter(smaller, folder / MODEL, settings=settings, **common, **work)
        used = Cohort(case for case in smaller if split_of(case) in ("train", "test"))
        by_size[size] = _judge(used, folder / MODEL, folder, work)
    record = {"settings": {**common, "augment": augment, "sizes": list(sizes)}, "versions": versions()}
    write_json(record, out / "record.json")
    curves = read_exact(out / MODEL / "curves.csv")
    return write_mask_report(
        table, out, cohort=cohort, masks=out / "predicted" / "masks", lesions=STRUCTURE, title=title, curves=curves,
        gap=True, by_size=by_size if len(by_size) > 1 else None, published="lesion_mri", simulated=simulated,
        record=record,
    )  # fmt: skip


def demo_malformations(
    out: str | Path,
    *,
    n: int = DEMO_PATIENTS,
    minutes: float = DEMO_MINUTES,
    seed: int = 0,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Simulate venous malformations on T2 MRI and run the whole study on them, in a few minutes without a GPU.

    Parameters
    ----------
    out : path-like
        Folder for the simulated patients (``cohort/``) and everything that :func:`run_lesion_mri` writes.
    n : int
        Simulated patients.
    minutes : float
        Training time; without augmentation, so that the network learns its training patients by heart.
    seed : int
        Of simulation and training.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        ``report.html``.
    """
    from hybrid.phantoms import simulate_malformation_cohort

    out = Path(out)
    logger.info("Simulating %d malformations in %s", n, out / "cohort")
    cohort = simulate_malformation_cohort(out / "cohort", n=n, seed=seed, progress=progress)
    return run_lesion_mri(
        cohort, out, minutes=minutes, augment=False, simulated=True, seed=seed, n_jobs=n_jobs, backend=backend,
        progress=progress, title="Venous malformations on T2 MRI",
    )  # fmt: skip


def split_cohort(cohort: Cohort, seed: int, shares: dict[str, float] | None = None) -> Cohort:
    """Cohort with a column ``split``: the one that it has, or patients drawn at random.

    Raises
    ------
    InputError
        For fewer than five patients without a split, or a declared split without training or test patients.
    """
    shares = shares or SHARES
    declared = [split_of(case) for case in cohort]
    if any(declared):
        if "train" not in declared or not {"test", "external"} & set(declared):
            raise InputError(
                f"The column split must name train and test cases; found {sorted(set(declared))}.",
                advice="Fill it for every case, or remove the column for a random split of the patients.",
            )
        return cohort
    patients = sorted({case.patient_id for case in cohort})
    if len(patients) < 5:
        raise InputError(f"A split into three sets needs at least five patients; found {len(patients)}.")
    order = np.random.default_rng([seed, 23]).permutation(len(patients))
    ends = np.round(np.cumsum(list(shares.values())) * len(patients)).astype(int)
    names = {patients[i]: list(shares)[int(np.searchsorted(ends, rank, side="right"))] for rank, i in enumerate(order)}
    return Cohort(_with_split(case, names[case.patient_id]) for case in cohort)


def _with_split(case: Case, split: str) -> Case:
    return replace(case, covariates={**case.covariates, SPLIT_COLUMN: split})


def _with_training(cohort: Cohort, patients: set[str]) -> Cohort:
    """Leave out other training patients than these."""
    keep = [case for case in cohort if split_of(case) != "train" or case.patient_id in patients]
    return Cohort(keep)


def _draw(patients: Sequence[str], size: int, seed: int) -> list[str]:
    """Nested draws: a larger training set holds the smaller ones."""
    order = np.random.default_rng([seed, 29]).permutation(len(patients))
    return [patients[i] for i in order[:size]]


def _one_label(cohort: Cohort) -> dict[int, int]:
    """Merge every label of the masks into 1."""
    from hybrid.images import labels_in, read_mask

    values: set[int] = set()
    for case in cohort:
        for path in case.masks.values():
            if path.is_file():
                values |= set(labels_in(read_mask(path, case_id=case.case_id)))
    return {value: 1 for value in sorted(values) if value != 1}


def _judge(cohort: Cohort, model: Path, out: Path, work: dict[str, Any]) -> pd.DataFrame:
    labels = sorted({1, *_one_label(cohort)})
    segment_cohort(cohort, model, out / "predicted", split="train", **work)
    table = evaluate_masks(
        cohort, out / "predicted", out, structures={STRUCTURE: labels}, lesions=STRUCTURE, report=False, **work
    )
    write_csv(table, out / "masks.csv")
    return table
