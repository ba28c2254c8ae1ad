"""Trivial segmentations of the judged cases, to stand beside the network's."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from hybrid.cases import Case, Cohort

from ..evaluate_masks import as_long_table
from ..runner import Rows, run_cases
from ..training_cases import read_pair, split_of

ATLAS_CASES: Final = 40
"""Training cases whose masks make the atlas; more change it little."""


def renal_baselines(
    cohort: Cohort, out: Path, structures: Mapping[str, Sequence[int]], work: Mapping[str, Any]
) -> pd.DataFrame:
    """Judge kidneys by threshold and by their usual place, and masses by threshold.

    Parameters
    ----------
    cohort : Cohort
        All cases; the atlas is made of training cases, test and external cases are judged.
    out : Path
        Folder of the cache.
    structures : mapping of str to sequence of int
        ``kidney_and_mass`` and ``mass``.
    work : mapping
        ``n_jobs``, ``backend``, ``progress``.

    Returns
    -------
    DataFrame
        Long table, see :data:`hybrid.tables.MASK_COLUMNS`; ``structure`` names method and structure.
    """
    from hybrid.mask_baselines import Atlas

    training = [case for case in cohort if split_of(case) == "train"][:ATLAS_CASES]
    atlas = Atlas.from_cases(read_pair(case) for case in training) if training else None
    judged = Cohort(case for case in cohort if split_of(case) in ("test", "external"))
    settings: dict[str, Any] = {"structures": {name: list(values) for name, values in structures.items()}}
    results = run_cases(
        functools.partial(judge_baselines, atlas=atlas, **settings), judged, stage="baselines",
        settings={**settings, "atlas": [case.case_id for case in training]}, out=out, **work,
    )  # fmt: skip
    return as_long_table(judged, results.rows)


def judge_baselines(case: Case, seed: int, *, structures: Mapping[str, Sequence[int]], atlas: Any) -> Rows:
    """Rows ``structure, metric, value, ...`` of one case, by method."""
    from hybrid.images import from_array, to_array
    from hybrid.mask_baselines import threshold_kidneys, threshold_masses
    from hybrid.mask_metrics import measure_masks

    image, mask = read_pair(case)
    kidneys = threshold_kidneys(image)
    masses = to_array(threshold_masses(image, kidneys)) > 0
    drawn = {"HU threshold": from_array(np.where(masses, np.uint8(2), to_array(kidneys)), image)}
    if atlas is not None:
        drawn["Usual place"] = atlas.place(image)
    rows: Rows = []
    for method, prediction in drawn.items():
        names = structures if method == "HU threshold" else {"kidney_and_mass": structures["kidney_and_mass"]}
        table = measure_masks(prediction, mask, names, case_id=case.case_id)
        dice = table[table["metric"] == "dice"]
        rows += [
            {"structure": f"{method}: {row.structure}", "lesion_id": "", "size_bin": "", "metric": "dice",
             "value": float(row.value), "convention": "nnunet"} for row in dice.itertuples()
        ]  # fmt: skip
    return rows
