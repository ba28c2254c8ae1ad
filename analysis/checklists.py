"""Reporting checklists filled from the run record and the tables of a study.

Items lie in ``checklists/*.csv``: number, section, the item in our own short words (the guideline's text is what
counts), who fills it, and the keys of :data:`KEYS` that its evidence is built from. A key is one sentence, written from
entries of the run record or from tables, which it declares; without them there is no sentence, and an item without a
sentence is left to the author. The software says what was done, never that it was done well enough.

Guidelines: CLEAR 1.0 (doi:10.1186/s13244-023-01415-8), METRICS 1.0 (doi:10.1186/s13244-023-01572-w), TRIPOD+AI
(doi:10.1136/bmj-2023-078378).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.errors import InputError, unknown_name
from hybrid.files import write_csv

from . import checklist_data, checklist_models
from .checklist_data import documents
from .checklist_facts import Facts, Key
from .exports import Section, write_docx
from .views import Cell, Row, View
from .wording import joined, number

SOURCES: Final = {
    "clear": "https://doi.org/10.1186/s13244-023-01415-8",
    "metrics": "https://doi.org/10.1186/s13244-023-01572-w",
    "tripod_ai": "https://doi.org/10.1136/bmj-2023-078378",
}
"""Checklists by name, with the publication that holds the full text of their items."""

SOFTWARE: Final = "software"
HALF: Final = "half"
AUTHOR: Final = "author"

FILLED: Final = "filled"
PARTLY: Final = "partly"
TO_COMPLETE: Final = "author to complete"
NOT_APPLICABLE: Final = "not applicable"
STATUSES: Final = (FILLED, PARTLY, TO_COMPLETE, NOT_APPLICABLE)

ITEM_COLUMNS: Final = ("guideline", "number", "section", "item", "filled_by", "keys", "weight", "condition")
"""Columns of the table that :func:`read_checklist` returns."""

FILLED_COLUMNS: Final = (
    "guideline", "number", "section", "item", "status", "evidence", "filled_by", "sources", "missing_keys", "weight",
)  # fmt: skip
"""Columns of the table that :func:`fill_checklist` returns."""

SUMMARY_COLUMNS: Final = ("status", "n_items", "share_of_items", "weight", "share_of_weight")
"""Columns of the table that :func:`summarise_checklist` returns."""

CONDITIONS: Final = {
    "segmentation": "the study uses masks",
    "automated_segmentation": "masks are drawn by software alone",
    "handcrafted": "the study uses handcrafted features",
    "tabular": "the study models a table of features",
    "end_to_end": "a network goes from image to outcome without a table of features",
    "development": "the study develops a model",
    "evaluation": "the study evaluates a model that existed before",
}
"""Conditions that switch items on and off."""


KEYS: Final[dict[str, Key]] = {**checklist_data.KEYS, **checklist_models.KEYS}
"""Evidence by name; the names are those in ``checklists/*.csv``."""


# Reading and filling


def read_checklist(name: str) -> pd.DataFrame:
    """Read the items of a checklist.

    Parameters
    ----------
    name : str
        ``"clear"``, ``"metrics"`` or ``"tripod_ai"``.

    Returns
    -------
    DataFrame
        Columns :data:`ITEM_COLUMNS`, in the order of the guideline. ``filled_by`` is ``"software"``, ``"half"`` (the
        software knows a part) or ``"author"``; ``keys`` are names of :data:`KEYS` separated by spaces, those with a
        question mark add to the evidence but are not needed for it; ``weight`` is NaN where the guideline has none.

    Raises
    ------
    InputError
        For an unknown name.
    """
    if name not in SOURCES:
        raise unknown_name("checklist", name, SOURCES)
    file = resources.files(__package__) / "checklists" / f"{name}.csv"
    with file.open(encoding="utf-8") as stream:
        table = pd.read_csv(stream, dtype=str, keep_default_na=False)
    return table.assign(weight=pd.to_numeric(table["weight"]))[list(ITEM_COLUMNS)]


def fill_checklist(
    name: str,
    record: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame] | None = None,
    *,
    conditions: Mapping[str, bool] | None = None,
) -> pd.DataFrame:
    """Fill a checklist from what was run.

    Parameters
    ----------
    name : str
        ``"clear"``, ``"metrics"`` or ``"tripod_ai"``.
    record : mapping
        The run record (``run_record.json``).
    tables : mapping of str to DataFrame, optional
        Tables of the report by name, as :meth:`hybrid.analysis.Report.tables` returns them. These further ones are
        used where they are given: ``design_checks`` (:func:`~hybrid.analysis.check_design`), ``icc``
        (:func:`~hybrid.analysis.icc`), ``decision_curve`` (:func:`~hybrid.analysis.decision_curve`),
        ``calibration_metrics`` (:func:`~hybrid.analysis.calibration_metrics`) and ``sample_size``
        (``.table`` of :func:`~hybrid.analysis.sample_size_binary`).
    conditions : mapping of str to bool, optional
        Overrides what follows from the record, see :data:`CONDITIONS`.

    Returns
    -------
    DataFrame
        Columns :data:`FILLED_COLUMNS`, one row per item of the guideline, none left out. ``status`` is ``"filled"``
        (the software has all the evidence it can have), ``"partly"``, ``"author to complete"`` or ``"not
        applicable"``; ``evidence`` is made of sentences from the record; ``sources`` names the entries of the record
        and the tables they rest on; ``missing_keys`` the keys that were needed and not known. ``.attrs["simulated"]``
        says whether the patients are simulated.

    Raises
    ------
    InputError
        For an unknown checklist or condition, or a record that is not a mapping.
    """
    if not isinstance(record, Mapping):
        raise InputError(
            f"The run record must be a mapping; found {type(record).__name__}.", advice="Read run_record.json."
        )
    items = read_checklist(name)
    facts = Facts(record, tables or {})
    holds = _conditions(facts, conditions or {})
    rows = [_fill(item, facts, holds) for item in items.to_dict("records")]
    table = pd.DataFrame(rows, columns=list(FILLED_COLUMNS))
    table.attrs["simulated"] = bool(facts.get("settings.simulated"))
    return table


def _fill(item: Mapping[str, Any], facts: Facts, holds: Mapping[str, bool]) -> tuple[Any, ...]:
    keys = [key.removesuffix("?") for key in item["keys"].split()]
    needed = [key for key in item["keys"].split() if not key.endswith("?")]
    sentences = {key: text for key in keys if (text := _sentence(key, facts))}
    missing = [key for key in needed if key not in sentences]
    if needed and len(missing) == len(needed):  # what only adds to the evidence is none by itself
        sentences = {}
    status, evidence = _status(item["filled_by"], bool(sentences), bool(missing)), " ".join(sentences.values())
    if item["condition"] and not holds[item["condition"]]:
        status, evidence = NOT_APPLICABLE, f"Applies only when {CONDITIONS[item['condition']]}."
        sentences, missing = {}, []
    declared = dict.fromkeys(source for key in sentences for source in KEYS[key].sources)
    sources = [source for source in declared if facts.knows(source)]
    return (
        item["guideline"], item["number"], item["section"], item["item"], status, evidence, item["filled_by"],
        "; ".join(sources), " ".join(missing), item["weight"],
    )  # fmt: skip


def _sentence(key: str, facts: Facts) -> str:
    """Sentence of a key, which can read only what the key declares; empty when the facts do not tell."""
    known = KEYS[key]
    return known.write(facts.only(known.sources))


def _status(filled_by: str, is_known: bool, is_incomplete: bool) -> str:
    if not is_known:
        return TO_COMPLETE
    return PARTLY if filled_by == HALF or is_incomplete else FILLED


def _conditions(facts: Facts, given: Mapping[str, bool]) -> dict[str, bool]:
    for name in given:
        if name not in CONDITIONS:
            raise unknown_name("condition", name, CONDITIONS)
    is_frozen = facts.has("model")
    # A record without images says nothing about them: an item is switched off only by what is known.
    images = facts.get("settings.images")
    is_handcrafted = not isinstance(images, Mapping) or bool(documents(facts)) or any(
        isinstance(image, Mapping) and image.get("handcrafted") for image in images.values()
    )  # fmt: skip
    found = {
        "segmentation": True,
        "automated_segmentation": facts.table("masks_summary") is not None,
        "handcrafted": is_handcrafted,
        "tabular": True,
        "end_to_end": False,
        "development": not is_frozen,
        "evaluation": is_frozen,
    }
    return {**found, **{name: bool(value) for name, value in given.items()}}


def summarise_checklist(filled: pd.DataFrame) -> pd.DataFrame:
    """Count items, and their weight where the guideline has weights, by status.

    Parameters
    ----------
    filled : DataFrame
        From :func:`fill_checklist`.

    Returns
    -------
    DataFrame
        Columns :data:`SUMMARY_COLUMNS`, one row per status. Shares are of the applicable items; for METRICS
        ``share_of_weight`` of the row ``"filled"`` is the evidenced share: the weight of items whose evidence the
        software has, over the weight of the items that apply. It is not the METRICS score, because whether an item is
        met is for a reader to judge. NaN where the guideline has no weights.
    """
    counts = filled.groupby("status").agg(n_items=("number", "size"), weight=("weight", lambda w: w.sum(min_count=1)))
    table = counts.reindex(list(STATUSES)).rename_axis("status").reset_index()
    has_weights = filled["weight"].notna().any()
    table["n_items"] = table["n_items"].fillna(0).astype(int)
    table["weight"] = table["weight"].fillna(0.0) if has_weights else float("nan")
    applies = table["status"] != NOT_APPLICABLE
    for column, share in (("n_items", "share_of_items"), ("weight", "share_of_weight")):
        total = table.loc[applies, column].sum()
        table[share] = (table[column] / total).where(applies) if total else float("nan")
    return table[list(SUMMARY_COLUMNS)]


# Showing


def checklist_section(filled: pd.DataFrame) -> Section:
    """Section of a document with a filled checklist: how much is evidenced, and one row per item."""
    guideline = str(filled["guideline"].iloc[0])
    source = next(url for name, url in SOURCES.items() if read_checklist(name)["guideline"].iloc[0] == guideline)
    rows: list[Row] = []
    previous = None
    for row in filled.itertuples():
        if row.section != previous:
            rows.append(Row([Cell(row.section)], "group"))
            previous = row.section
        rows.append(Row([Cell(row.number), Cell(row.item), Cell(row.status), Cell(row.evidence)]))
    view = View(f"{guideline}, filled from the run record", ["No.", "Item", "Status", "Evidence"], rows, n_names=4)
    text = [
        *([("Simulated patients:", "a demonstration, not a study.")] if filled.attrs.get("simulated") else []),
        ("", _summary_sentence(filled)),
        ("", f"Items in our own short words; the guideline's text counts: {source}"),
    ]
    return Section(guideline, text, [view])


def _summary_sentence(filled: pd.DataFrame) -> str:
    table = summarise_checklist(filled).set_index("status")
    counts = [f"{int(table.loc[status, 'n_items'])} {status}" for status in STATUSES]
    text = f"Of {len(filled)} items: {joined(counts)}."
    share = table.loc[FILLED, "share_of_weight"]
    if pd.notna(share):
        text += (
            f" Evidence from the software covers {number(100 * share, 1)} % of the weight of the items that apply, "
            f"and a part of it another {number(100 * table.loc[PARTLY, 'share_of_weight'], 1)} %. This is not the "
            "score: whether an item is met is for a reader to judge."
        )
    return text


def write_checklists(
    folder: str | Path,
    record: Mapping[str, Any],
    tables: Mapping[str, pd.DataFrame] | None = None,
    *,
    names: Sequence[str] = tuple(SOURCES),
    conditions: Mapping[str, bool] | None = None,
    is_word: bool = True,
) -> dict[str, Path]:
    """Fill checklists and write each as ``checklist_<name>.csv``, and all as ``checklists.docx``.

    Parameters
    ----------
    folder : path-like
        Receives the files.
    record, tables, conditions
        See :func:`fill_checklist`.
    names : sequence of str
        Which ones.
    is_word : bool
        Also write the Word file, which needs python-docx.

    Returns
    -------
    dict of str to Path
        The files by name of the checklist, and ``"docx"``.

    Raises
    ------
    InputError
        For an unknown checklist or condition; nothing is written then.
    MissingDependencyError
        For the Word file without python-docx.
    """
    folder = Path(folder)
    filled = {name: fill_checklist(name, record, tables, conditions=conditions) for name in names}
    files = {name: write_csv(table, folder / f"checklist_{name}.csv") for name, table in filled.items()}
    if is_word:
        sections = [checklist_section(table) for table in filled.values()]
        files["docx"] = write_docx(folder / "checklists.docx", "Reporting checklists", sections)
    return files
