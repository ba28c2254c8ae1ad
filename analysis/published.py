"""Figures that the reference systems were published with, laid beside our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from hybrid.errors import unknown_name

from .views import Cell, Row, View
from .wording import interval, number

PUBLISHED_COLUMNS: Final = (
    "figure", "kind", "key", "published_low", "published_high", "value", "ci_low", "ci_high", "n",
)  # fmt: skip
"""Columns of :func:`published_table`; ``published_low`` and ``published_high`` differ where two values were printed."""


@dataclass(frozen=True)
class PublishedFigure:
    """One printed figure.

    Parameters
    ----------
    name : str
        What it measures.
    values : tuple of float
        As printed, percentages as shares; two where the source gives two without saying what tells them apart.
    kind : {"dice", "recall", "accuracy"}
        Table of ours that has the same figure.
    key : str
        Its row there: structure, or stratum of sizes.
    split : str, optional
        Set of patients; default: the one that the report judges.
    """

    name: str
    values: tuple[float, ...]
    kind: str
    key: str
    split: str = ""


@dataclass(frozen=True)
class PublishedSystem:
    """A published system: where it was printed, and its figures."""

    source: str
    figures: tuple[PublishedFigure, ...]


SYSTEMS: Final[Mapping[str, PublishedSystem]] = {
    "renal_mass": PublishedSystem(
        "Zhao et al. 2023, doi:10.3389/fonc.2023.1169922, abstract: 610 CT series of 490 patients. Two values of Dice "
        "and recall are printed there without saying whether they belong to sets or to sizes",
        (
            PublishedFigure("Dice, kidneys", (0.99,), "dice", "kidney_and_mass"),
            PublishedFigure("Dice, masses", (0.75, 0.83), "dice", "mass"),
            PublishedFigure("Lesion recall", (0.7590, 0.8454), "recall", "all"),
            PublishedFigure("Accuracy of the class, below 5 mm", (0.8605,), "accuracy", "< 5 mm"),
            PublishedFigure("Accuracy of the class, 5 mm or more", (0.9197,), "accuracy", ">= 5 mm"),
        ),
    ),
    "transfer": PublishedSystem(
        "Zhu et al. 2022, doi:10.1007/s11548-022-02587-2, abstract: 20 own and 210 public patients",
        (
            PublishedFigure("Dice, kidney", (0.9662,), "dice", "kidney"),
            PublishedFigure("Dice, tumour", (0.7685,), "dice", "tumour"),
        ),
    ),
    "lesion_mri": PublishedSystem(
        "Ryu et al. 2022, doi:10.3390/jcm11195593, abstract: venous malformations on T2 MRI of 53 patients",
        (
            PublishedFigure("Dice, training patients", (0.9975,), "dice", "lesion", "train"),
            PublishedFigure("Dice, test patients", (0.6062,), "dice", "lesion", "test"),
        ),
    ),
}
"""The reference systems by name."""


def published_table(
    system: str,
    *,
    split: str,
    overlap: pd.DataFrame,
    detection: pd.DataFrame | None = None,
    accuracy: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Lay the published figures of a system beside ours.

    Parameters
    ----------
    system : str
        Name in :data:`SYSTEMS`.
    split : str
        Set of patients that is judged.
    overlap : DataFrame
        From :func:`~hybrid.analysis.summarise_overlap`.
    detection : DataFrame, optional
        From :func:`~hybrid.analysis.detection_table`.
    accuracy : DataFrame, optional
        From :func:`~hybrid.analysis.classification_by_size` with the edge 5 mm.

    Returns
    -------
    DataFrame
        Columns :data:`PUBLISHED_COLUMNS`; NaN where we have no such figure.

    Raises
    ------
    InputError
        For an unknown system.
    """
    if system not in SYSTEMS:
        raise unknown_name("system", system, SYSTEMS)
    ours = {
        "dice": _named(overlap[overlap["metric"] == "dice"], "structure", "mean", "n_cases"),
        "recall": None if detection is None else _named(detection, "stratum", "recall", "n_lesions"),
        "accuracy": None if accuracy is None else _named(accuracy, "stratum", "accuracy", "n_lesions"),
    }
    rows = []
    for figure in SYSTEMS[system].figures:
        own, wanted = ours[figure.kind], figure.split or split
        found = None if own is None else own[(own["split"] == wanted) & (own["key"] == figure.key)]
        values = [np.nan] * 4 if found is None or found.empty else found.iloc[0][["value", "ci_low", "ci_high", "n"]]
        rows.append((figure.name, figure.kind, figure.key, min(figure.values), max(figure.values), *values))
    return pd.DataFrame(rows, columns=list(PUBLISHED_COLUMNS))


def _named(table: pd.DataFrame, key: str, value: str, count: str) -> pd.DataFrame:
    names = {key: "key", value: "value", count: "n"}
    return table[["split", key, value, "ci_low", "ci_high", count]].rename(columns=names)


def published_view(system: str, table: pd.DataFrame) -> View:
    """Lay out :func:`published_table` for a report.

    Parameters
    ----------
    system : str
        Name in :data:`SYSTEMS`.
    table : DataFrame
        From :func:`published_table`.

    Returns
    -------
    View
        Percentages where the source prints percentages.
    """
    rows = []
    for row in table.to_dict("records"):
        share, digits = (False, 3) if row["kind"] == "dice" else (True, 1)
        printed = sorted({row["published_low"], row["published_high"]})
        cell = Cell("–")
        if np.isfinite(row["value"]):
            value, low, high = (100 * row[name] if share else row[name] for name in ("value", "ci_low", "ci_high"))
            count = f"{int(row['n'])} {'lesions' if share else 'cases'}"
            cell = Cell(number(value, digits) + " %" * share, f"{interval(low, high, digits)}; {count}")
        rows.append(Row([Cell(row["figure"]), Cell(" and ".join(_printed(value, share) for value in printed)), cell]))
    note = f"{SYSTEMS[system].source}. Other images than ours, not a contest. Ours: 95 % interval below."
    return View("Published and own figures", ["Figure", "Published", "Ours"], rows, note)


def _printed(value: float, share: bool) -> str:
    """Digits of the source: a Dice without zeros at its end, a share as a percentage."""
    return f"{number(100 * value, 2)} %" if share else number(value, 4).rstrip("0")
