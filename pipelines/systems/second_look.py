"""Training of a cascade's second look, on candidates of patients that the networks of stage 2 did not train on."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from hybrid.cases import Case, Cohort
from hybrid.files import write_csv

from ..runner import Rows, run_cases
from ..training_cases import Fold, all_read, read_pair

if TYPE_CHECKING:
    from hybrid.deep.segmentation.candidates import SecondLook
    from hybrid.deep.segmentation.cascade import CascadeRules

logger = logging.getLogger(__name__)

CANDIDATES: Final = "candidates.csv"
"""Table of the candidates, in the cascade's folder."""


def train_second_look(
    cohort: Cohort,
    folder: str | Path,
    rules: CascadeRules,
    members: Mapping[str, Fold],
    *,
    inference: Mapping[str, Any] | None = None,
    seed: int = 0,
    **work: Any,
) -> SecondLook | None:
    """Measure the candidates of every member's validation patients and fit the second look.

    Parameters
    ----------
    cohort : Cohort
        CT and masks; the cases that the folds name are read.
    folder : path-like
        Of the cascade, with ``kidney/`` and the networks of stage 2. Gets :data:`CANDIDATES`.
    rules : CascadeRules
        Of the finished cascade.
    members : mapping of str to Fold
        Folder of each network of stage 2, relative to ``folder``, and its cases.
    inference : mapping, optional
        Fields of :class:`hybrid.deep.segmentation.InferenceOptions`.
    seed : int
        Of the folds in which the threshold is chosen.
    **work
        ``n_jobs``, ``backend``, ``progress`` of :func:`hybrid.pipelines.run_tasks`.

    Returns
    -------
    SecondLook or None
        None when there are too few candidates to learn from.
    """
    from hybrid.deep.segmentation.candidates import FEWEST, FOLDS, fit_second_look

    folder = Path(folder)
    rows: Rows = []
    for name, fold in members.items():
        cases = Cohort(cohort[case_id] for case_id in fold.validation)
        function = functools.partial(
            measure_case, folder=str(folder), member=name, rules=rules, options=dict(inference or {})
        )
        settings = {"network": _card(folder / name), "kidney": _card(folder / "kidney"), "rules": str(rules),
                    "options": dict(inference or {})}  # fmt: skip
        results = run_cases(function, cases, stage="candidates", settings=settings, out=folder, **work)
        rows += [row for found in all_read(results, cases).values() for row in found]
    shutil.rmtree(folder / "cache", ignore_errors=True)
    patients = {cohort[case_id].patient_id for fold in members.values() for case_id in fold.validation}
    table = pd.DataFrame(rows)
    if rows:
        write_csv(table, folder / CANDIDATES)
    look = fit_second_look(table, len(patients), seed=seed) if rows else None
    if look is None:
        logger.info(
            "The second look at masses is left out: it needs %d masses and %d other candidates, each in %d patients "
            "or more, that were not trained on.", FEWEST, FEWEST, FOLDS,
        )  # fmt: skip
        return None
    kept = look.card["left_out"]
    logger.info(
        "Second look: it keeps %.0f %% of the masses among the candidates, with %.2f false positives a patient",
        100 * kept["masses_kept"], kept["false_positives"],
    )  # fmt: skip
    return look


def _card(folder: Path) -> str:
    from hybrid.deep.segmentation.segmenter import read_card

    return str(read_card(folder)["sha256"])


def measure_case(
    case: Case, seed: int, *, folder: str, member: str, rules: CascadeRules, options: Mapping[str, Any]
) -> Rows:
    """One row per candidate of a case, see :meth:`RenalCascade.candidates`."""
    cascade = _cascade(folder, member, rules, tuple(sorted(options.items())))
    image, mask = read_pair(case)
    table = cascade.candidates(image, mask, case_id=case.case_id)
    return [{"case_id": case.case_id, "patient_id": case.patient_id, **row} for row in table.to_dict("records")]


@functools.lru_cache(maxsize=2)
def _cascade(folder: str, member: str, rules: CascadeRules, options: Sequence[tuple[str, Any]]) -> Any:
    """Stage 1 with one network of stage 2."""
    from hybrid.deep.segmentation.cascade import RenalCascade
    from hybrid.deep.segmentation.segmenter import load_segmenter

    kidney, mass = load_segmenter(Path(folder) / "kidney"), load_segmenter(Path(folder) / member)
    return RenalCascade(kidney, mass, rules=rules).with_options(**dict(options))
