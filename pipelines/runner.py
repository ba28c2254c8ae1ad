"""The one loop: progress, parallel work, a cache file per task, resume, and a table of failures.

A *task* is a pure function of its payload with a key that digests everything that can change the result. Its result (a
list of flat rows) is written to ``<out>/cache/<stage>/<task_id>.json`` together with the key; another key computes it
again. A failed task is never stored as a result: it becomes a row of ``<out>/failures.csv`` and is tried again next
time. Because tasks are pure and seeded from their content, one core or many, one run or a resumed one give the same
rows.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import joblib
import pandas as pd
import SimpleITK as sitk
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from hybrid.cases import Case, Cohort
from hybrid.errors import HybridError, InputError, unknown_name
from hybrid.files import write_csv
from hybrid.provenance import code_version, digest, file_digest, seed_from
from hybrid.tables import FAILURE_COLUMNS

from .files import write_json

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
BACKENDS = ("loky", "threading", "multiprocessing", "dask", "ray", "sequential")
"""Backend names of joblib; scale-out to a cluster is joblib's (register dask or ray before)."""


@dataclass(frozen=True)
class Task:
    """One unit of work.

    Parameters
    ----------
    task_id : str
        Unique in the stage; names the cache file. For work on one case it is the ``case_id``.
    key : str
        Hexadecimal digest of inputs, settings and code version.
    payload : Any
        What the function gets; must be picklable for process backends.
    content : str
        Digest of inputs and settings alone, from which the function's seed is drawn, so that another version of the
        code or of a package draws the same numbers. Default: ``key``.
    """

    task_id: str
    key: str
    payload: Any = field(repr=False)
    content: str = ""


@dataclass(frozen=True)
class Failure:
    """One row of ``failures.csv``."""

    case_id: str
    stage: str
    error: str
    message: str
    advice: str


@dataclass(frozen=True)
class TaskResults:
    """What :func:`run_tasks` returns.

    Attributes
    ----------
    rows : dict of str to list of dict
        Rows of every task that succeeded, by task id, in the order of the tasks.
    failures : DataFrame
        ``case_id, stage, error, message, advice``, one row per task that failed.
    """

    rows: dict[str, Rows]
    failures: pd.DataFrame


def run_tasks(
    function: Callable[[Any, int], Rows],
    tasks: Iterable[Task],
    *,
    stage: str,
    out: str | Path | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
    valid: Callable[[Rows], bool] | None = None,
) -> TaskResults:
    """Run ``function(payload, seed)`` for every task.

    Parameters
    ----------
    function : callable
        Picklable; takes the payload and an integer seed, returns a list of flat, JSON-able rows.
    tasks : iterable of Task
        Their ids must differ.
    stage : str
        Name of this step: the sub-folder of the cache and the column of the failures table.
    out : path-like, optional
        Folder of the cache and of ``failures.csv``; nothing is kept on disk when None.
    n_jobs : int
        Processes (or threads, by backend); -1 takes every core.
    backend : str
        A joblib backend: ``"loky"``, ``"threading"``, ``"multiprocessing"``, ``"dask"``, ``"ray"``.
    progress : bool
        Show a progress bar with a time estimate.
    valid : callable, optional
        Says of stored rows whether they may be used: False when a file that they name is gone.

    Returns
    -------
    TaskResults
        Rows and failures. A task that failed has no rows; the others are not affected.

    Raises
    ------
    InputError
        For doubled task ids or an unknown backend.
    """
    tasks = list(tasks)
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    if len({task.task_id for task in tasks}) < len(tasks):
        raise InputError(f"Two tasks of stage {stage!r} have one id.", advice="Give each case its own case_id.")
    folder = None if out is None else Path(out) / "cache" / stage
    done = {task.task_id: rows for task in tasks if (rows := _read_cache(folder, task)) is not None}
    if valid is not None:
        done = {task_id: rows for task_id, rows in done.items() if valid(rows)}
    pending = [task for task in tasks if task.task_id not in done]
    if done and progress:
        logger.info("%s: %d of %d already done, taken from %s", stage, len(done), len(tasks), folder)
    failures: dict[str, Failure] = {}
    with tqdm(total=len(tasks), initial=len(done), desc=stage, unit="task", disable=not progress) as bar:
        for task_id, outcome in _execute(function, pending, stage, folder, n_jobs, backend):
            bar.update()
            if isinstance(outcome, Failure):
                failures[task_id] = outcome
                bar.set_postfix(failed=len(failures))
            else:
                done[task_id] = outcome
    ordered = {task.task_id: done[task.task_id] for task in tasks if task.task_id in done}
    failed = [asdict(failures[task.task_id]) for task in tasks if task.task_id in failures]
    table = pd.DataFrame(failed, columns=list(FAILURE_COLUMNS))
    if out is not None:
        write_failures(table, out, stage)
    return TaskResults(ordered, table)


def _execute(
    function: Callable[[Any, int], Rows],
    tasks: Sequence[Task],
    stage: str,
    folder: Path | None,
    n_jobs: int,
    backend: str,
) -> Iterator[tuple[str, Rows | Failure]]:
    """Yield results as they arrive; survive the death of a worker process."""
    if not tasks:
        return
    if n_jobs == 1 or backend == "sequential":
        yield from (_run_one(function, task, stage, folder) for task in tasks)
        return
    finished = set()
    try:
        for result in _parallel(function, tasks, stage, folder, n_jobs, backend):
            finished.add(result[0])
            yield result
    except TerminatedWorkerError:
        logger.warning("%s: a worker process died; the remaining tasks run one at a time.", stage)
        for task in tasks:
            if task.task_id not in finished:
                yield _run_isolated(function, task, stage, folder)


def _parallel(
    function: Callable[[Any, int], Rows],
    tasks: Sequence[Task],
    stage: str,
    folder: Path | None,
    n_jobs: int,
    backend: str,
) -> Iterator[tuple[str, Rows | Failure]]:
    with joblib.parallel_config(backend=backend, n_jobs=n_jobs), warnings.catch_warnings():
        # loky replaces a worker whose memory has grown; nothing is lost and there is nothing for the user to do.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given")
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")
        yield from parallel(joblib.delayed(_run_one)(function, task, stage, folder) for task in tasks)


def _run_isolated(
    function: Callable[[Any, int], Rows], task: Task, stage: str, folder: Path | None
) -> tuple[str, Rows | Failure]:
    """Run one task in a process of its own, so that the one that kills its worker is found."""
    stored = _read_cache(folder, task)
    if stored is not None:
        return task.task_id, stored
    try:
        return next(iter(_parallel(function, [task], stage, folder, 2, "loky")))
    except TerminatedWorkerError:
        return task.task_id, Failure(
            task.task_id,
            stage,
            "WorkerDied",
            "The process that worked on this case was killed, most often because memory ran out.",
            "Crop or resample the image, close other programs, or use fewer processes (n_jobs).",
        )


def _run_one(
    function: Callable[[Any, int], Rows], task: Task, stage: str, folder: Path | None
) -> tuple[str, Rows | Failure]:
    try:
        with single_thread():
            rows = function(task.payload, seed_from(task.content or task.key))
    except Exception as error:  # one bad case must cost only itself; the traceback is kept in the log
        logger.debug("%s: %s failed", stage, task.task_id, exc_info=True)
        return task.task_id, _failure(task.task_id, stage, error)
    if folder is not None:
        write_json({"key": task.key, "rows": rows}, _cache_path(folder, task.task_id))
    return task.task_id, rows


def _failure(task_id: str, stage: str, error: Exception) -> Failure:
    if isinstance(error, HybridError):
        place = f" [{Path(error.path).name}]" if error.path else ""
        return Failure(task_id, stage, type(error).__name__, f"{error.message}{place}", error.advice)
    message = str(error).strip().replace("\n", " ") or "no message"
    return Failure(
        task_id, stage, type(error).__name__, message, "Run `hybrid check` on the cohort; --debug shows the traceback."
    )


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Cap every numeric library at one thread, so that sums are added in the same order on any machine load."""
    torch = sys.modules.get("torch")
    torch_threads = torch.get_num_threads() if torch is not None else None
    itk_threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    if torch is not None:
        torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1):
            yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(itk_threads)
        if torch is not None:
            torch.set_num_threads(torch_threads)


def _cache_path(folder: Path, task_id: str) -> Path:
    # A reversible encoding keeps ids with slashes apart and inside the folder.
    return folder / f"{quote(task_id, safe=' ()+,=@')}.json"


def _read_cache(folder: Path | None, task: Task) -> Rows | None:
    if folder is None:
        return None
    path = _cache_path(folder, task.task_id)
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        logger.warning("The stored result %s is damaged and is computed again.", path)
        return None
    return stored["rows"] if isinstance(stored, dict) and stored.get("key") == task.key else None


def write_failures(failures: pd.DataFrame, out: str | Path, stage: str) -> None:
    """Replace the rows of one stage in ``<out>/failures.csv``; remove the file when nothing failed."""
    path = Path(out) / "failures.csv"
    if path.exists():
        earlier = pd.read_csv(path, dtype=str, keep_default_na=False)
        failures = pd.concat([earlier[earlier["stage"] != stage], failures], ignore_index=True)
    if failures.empty:
        path.unlink(missing_ok=True)
    else:
        write_csv(failures, path)


def run_cases(
    function: Callable[[Case, int], Rows],
    cohort: Cohort,
    *,
    stage: str,
    settings: Mapping[str, Any],
    out: str | Path | None = None,
    n_jobs: int = 1,
    backend: str = "loky",
    progress: bool = True,
    valid: Callable[[Rows], bool] | None = None,
) -> TaskResults:
    """Run a function over the cases of a cohort, with one cache file per case.

    Parameters
    ----------
    function : callable
        ``function(case, seed)``, usually a ``functools.partial`` over the settings.
    cohort : Cohort
        Its ids must be unique.
    stage, out, n_jobs, backend, progress, valid
        See :func:`run_tasks`.
    settings : mapping
        Everything besides the case that changes the result; enters the key with the content of the case's files, its
        label and the code version.

    Returns
    -------
    TaskResults
        Rows and failures by ``case_id``.
    """
    cohort.require_unique_ids()
    common, code = digest([stage, dict(settings)]), code_version()
    quiet = not progress or len(cohort) < 100
    cases = tqdm(cohort, desc=f"{stage}: files", unit="case", disable=quiet, leave=False)
    contents = {case.case_id: case_key(case, common) for case in cases}
    tasks = [
        Task(case.case_id, digest([contents[case.case_id], code]), case, contents[case.case_id]) for case in cohort
    ]
    return run_tasks(
        function, tasks, stage=stage, out=out, n_jobs=n_jobs, backend=backend, progress=progress, valid=valid
    )


def case_key(case: Case, common: str) -> str:
    """Key of a case: the content of its files, its label and ``common`` (settings); not its folder."""
    files = {
        kind: {name: _content(path) for name, path in paths.items()}
        for kind, paths in (("image", case.images), ("mask", case.masks))
    }
    return digest([common, case.case_id, files, case.roi_label])


def _content(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError:
        # The function itself meets the unreadable file and explains it; that result is never stored.
        return "unreadable"
