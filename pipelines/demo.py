"""Demonstrations on simulated patients, offline, in minutes: the whole line on renal CT, and the other systems."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.cases import Cohort
from hybrid.errors import unknown_name
from hybrid.files import write_csv

from .config import StudyConfig, find_study
from .evaluate_masks import evaluate_masks
from .segment import segment_cohort
from .study import run_study

logger = logging.getLogger(__name__)

DEMO_PATIENTS = 60
DEMO_SEED = 7
DRAWN_PATIENTS = 24
"""Further simulated patients whose masks train the cascade; none of them is evaluated."""

CASCADE_EPOCHS = 20
"""Of both stages. Not minutes: a slow machine must draw masks as good as a fast one, only later."""

CASCADE: Final[Mapping[str, Any]] = {
    "network": "unet", "members": 1, "kidney_spacing_mm": 6.0, "mass_spacing_mm": 3.0,
    "plan": {"width": 8, "memory_gib": 0.12}, "settings": {"learning_rate": 3e-3},
}  # fmt: skip
"""Narrow networks and small patches: many steps in little time."""

MASKS = ("predicted", "given")
MASS_LABEL = 2


def run_demo(
    out: str | Path = "hybrid-demo",
    *,
    masks: str = "predicted",
    n: int = DEMO_PATIENTS,
    seed: int = DEMO_SEED,
    epochs: int = CASCADE_EPOCHS,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Simulate a cohort, draw the masks with a small cascade, extract, evaluate and write the report.

    Parameters
    ----------
    out : path-like
        Folder for the simulated cohort (``cohort/``), the cascade (``cascade/``), the predicted masks with a report of
        their own (``predicted/report.html``) and everything that :func:`hybrid.pipelines.run_study` writes.
    masks : {"predicted", "given"}
        ``"predicted"``: a cascade is trained on the masks of 24 further patients and draws those of the cohort;
        ``"given"``: the masks that came with the simulated patients, as an imperfect reader drew them.
    n : int
        Number of simulated patients.
    seed : int
        Of the simulation.
    epochs : int
        Of each network of the cascade.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        For another kind of masks.
    """
    from hybrid.phantoms import simulate_renal_cohort

    if masks not in MASKS:
        raise unknown_name("kind of masks", masks, MASKS)
    out = Path(out)
    logger.info("Simulating %d patients in %s", n, out / "cohort")
    simulate_renal_cohort(out / "cohort", n=n, seed=seed, progress=progress)
    table = out / "cohort" / "cohort.csv"
    if masks == "predicted":
        table = _draw_masks(out, seed, epochs, {"n_jobs": n_jobs, "backend": backend, "progress": progress})
    config = StudyConfig.from_yaml(find_study("demo"), cohort_file=table)
    return run_study(config, out, n_jobs=n_jobs, backend=backend, progress=progress)


def run_system_demo(
    system: str,
    out: str | Path = "hybrid-demo",
    *,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Run one of the other published systems on simulated patients.

    Parameters
    ----------
    system : {"c", "d", "e"}
        Malformations on T2 MRI, sequences of prostate MRI, findings on head CT.
    out : path-like
        Folder for patients, models, tables and ``report.html``.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        For another system.
    """
    from .systems.head_slices import demo_slices
    from .systems.lesion_mri import demo_malformations
    from .systems.sequences import demo_sequences

    systems: dict[str, Callable[..., Path]] = {"c": demo_malformations, "d": demo_sequences, "e": demo_slices}
    if system not in systems:
        raise unknown_name("system", system, systems)
    return systems[system](Path(out), n_jobs=n_jobs, backend=backend, progress=progress)


def _draw_masks(out: Path, seed: int, epochs: int, work: dict) -> Path:
    """Train a small cascade on other patients, segment the cohort, judge the masks; return the new cohort table."""
    from hybrid.phantoms import simulate_renal_cohort

    from .systems.renal_mass import train_cascade

    logger.info("Simulating %d further patients to train the cascade", DRAWN_PATIENTS)
    folder = out / "training"
    others = simulate_renal_cohort(folder, n=DRAWN_PATIENTS, seed=seed + 1000, progress=work["progress"])
    kinds = pd.read_csv(folder / "truth.csv")[["case_id", "kind"]]
    kinds = kinds.assign(centre_x=0.0, centre_y=0.0, centre_z=0.0)
    cascade = train_cascade(_exact(others, folder), out / "cascade", kinds, epochs=epochs, seed=seed, **CASCADE, **work)
    cohort = Cohort.from_csv(out / "cohort" / "cohort.csv")
    drawn = segment_cohort(cohort, cascade, out / "predicted", **work)
    truth = _exact(cohort, out / "cohort")
    evaluate_masks(
        truth, out / "predicted", out / "predicted", structures={"kidney_and_mass": [1, 2], "mass": [2]},
        title="Masks that the cascade drew", simulated=True, **work,
    )  # fmt: skip
    table = pd.read_csv(out / "predicted" / "cohort.csv", dtype={"case_id": str})
    write_csv(table.assign(roi_label=MASS_LABEL), out / "predicted" / "cohort.csv")
    logger.info("%d of %d masks drawn by the cascade", sum(case.mask is not None for case in drawn), len(cohort))
    return out / "predicted" / "cohort.csv"


def _exact(cohort: Cohort, folder: Path) -> Cohort:
    """Give the simulated patients their exact labels (kidney 1, mass 2) as masks."""
    return cohort.with_scans(mask={case.case_id: folder / "labels" / f"{case.case_id}.nii.gz" for case in cohort})
