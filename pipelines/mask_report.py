"""The report of a segmentation: tables, figures and pictures of cases, from the long table of mask metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from hybrid.analysis.exports import export_report
from hybrid.analysis.mask_report import MaskReport
from hybrid.cases import Cohort
from hybrid.errors import HybridError

from .evaluate_masks import overlay_slices


def write_mask_report(
    table: pd.DataFrame,
    out: Path,
    *,
    cohort: Cohort,
    masks: Path,
    lesions: str,
    lesion_labels: Sequence[int] = (),
    sizes_mm: Sequence[float] = (5.0, 20.0, 40.0, 70.0),
    title: str = "Segmentation",
    curves: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
    gap: bool = False,
    by_size: Mapping[int, pd.DataFrame] | None = None,
    classified: pd.DataFrame | None = None,
    baselines: pd.DataFrame | None = None,
    published: str | None = None,
    simulated: bool = False,
    record: Mapping[str, Any] | None = None,
) -> Path:
    """Draw the pictures of cases and write the report.

    Parameters
    ----------
    table : DataFrame
        Long table, see :data:`hybrid.tables.MASK_COLUMNS`.
    out : Path
        Folder of ``report.html``.
    cohort : Cohort
        With images and reference masks, for the overlays.
    masks : Path
        Predicted masks.
    lesions : str
        Structure whose regions are lesions.
    lesion_labels : sequence of int
        Labels of that structure: the pictures show the slice with most of them.
    sizes_mm, title, curves, gap, by_size, classified, baselines, published, simulated, record
        See :class:`hybrid.analysis.MaskReport`.

    Returns
    -------
    Path
        ``report.html``.

    Raises
    ------
    HybridError
        When no case could be evaluated.
    """
    if table.empty:
        raise HybridError("No case could be evaluated, so there is no report.", advice="See failures.csv.", path=out)
    report = MaskReport(
        table, lesions=lesions, sizes_mm=sizes_mm, title=title, curves=curves, gap=gap, by_size=by_size,
        classified=classified, baselines=baselines, published=published, simulated=simulated, run_record=record,
    )  # fmt: skip
    slices = overlay_slices(cohort, masks, report.example_cases(), labels=lesion_labels)
    page = report.save(out / "report.html", slices=slices)
    export_report(report, out, slices=slices)
    return page
