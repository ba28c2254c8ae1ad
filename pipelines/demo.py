"""The demonstration: a simulated renal CT cohort through the whole line, offline, in minutes."""

from __future__ import annotations

import logging
from pathlib import Path

from .config import StudyConfig, find_study
from .study import run_study

logger = logging.getLogger(__name__)

DEMO_PATIENTS = 60
DEMO_SEED = 7


def run_demo(
    out: str | Path = "hybrid-demo",
    *,
    n: int = DEMO_PATIENTS,
    seed: int = DEMO_SEED,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
) -> Path:
    """Simulate a cohort, extract, evaluate and write the report.

    Parameters
    ----------
    out : path-like
        Folder for the simulated cohort (``cohort/``) and everything that :func:`hybrid.pipelines.run_study` writes.
    n : int
        Number of simulated patients.
    seed : int
        Of the simulation.
    n_jobs, backend, progress
        See :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    Path
        The report.
    """
    from hybrid.phantoms import simulate_renal_cohort

    out = Path(out)
    logger.info("Simulating %d patients in %s", n, out / "cohort")
    simulate_renal_cohort(out / "cohort", n=n, seed=seed, progress=progress)
    config = StudyConfig.from_yaml(find_study("demo"), cohort_file=out / "cohort" / "cohort.csv")
    return run_study(config, out, n_jobs=n_jobs, backend=backend, progress=progress)
