"""Reporting checklists filled from the run record and the tables of a study.

Items lie in ``checklists/*.csv``: number, section, the item in our own short words (the guideline's text is what
counts), who fills it, and the keys of :data:`KEYS` that its evidence is built from. A key is one sentence, written from
entries of the run record or from tables, which it declares; without them there is no sentence, and an item without a
sentence is left to the author. The software says what was done, never that it was done well enough.

Guidelines: CLEAR 1.0 (doi:10.1186/s13244-023-01415-8), METRICS 1.0 (doi:10.1186/s13244-023-01572-w), TRIPOD+AI
(doi:10.1136/bmj-2023-078378).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pandas as pd

from hybrid.errors import InputError, unknown_name
from hybrid.tables import SELECTED

from .compare import MODEL, REFERENCE, REFERENCE_FEATURE_SETS
from .exports import Section, write_docx
from .figures import write_bytes
from .methods import CLASSIFIER_NAMES
from .views import METRIC_NAMES, Cell, Row, View
from .wording import joined, number, short_path, with_interval

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
    facts = _Facts(record, tables or {})
    holds = _conditions(facts, conditions or {})
    rows = [_fill(item, facts, holds) for item in items.to_dict("records")]
    table = pd.DataFrame(rows, columns=list(FILLED_COLUMNS))
    table.attrs["simulated"] = bool(facts.get("settings.simulated"))
    return table


def _fill(item: Mapping[str, Any], facts: _Facts, holds: Mapping[str, bool]) -> tuple[Any, ...]:
    keys = [key.removesuffix("?") for key in item["keys"].split()]
    needed = [key for key in item["keys"].split() if not key.endswith("?")]
    sentences = {key: text for key in keys if (text := facts.sentence(key))}
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


def _status(filled_by: str, is_known: bool, is_incomplete: bool) -> str:
    if not is_known:
        return TO_COMPLETE
    return PARTLY if filled_by == HALF or is_incomplete else FILLED


def _conditions(facts: _Facts, given: Mapping[str, bool]) -> dict[str, bool]:
    for name in given:
        if name not in CONDITIONS:
            raise unknown_name("condition", name, CONDITIONS)
    is_frozen = facts.has("model")
    # A record without images says nothing about them: an item is switched off only by what is known.
    images = facts.get("settings.images")
    is_handcrafted = not isinstance(images, Mapping) or bool(_documents(facts)) or any(
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
    files = {
        name: write_bytes(
            table.to_csv(index=False, lineterminator="\n").encode(), folder / f"checklist_{name}.csv"
        )
        for name, table in filled.items()
    }  # fmt: skip
    if is_word:
        sections = [checklist_section(table) for table in filled.values()]
        files["docx"] = write_docx(folder / "checklists.docx", "Reporting checklists", sections)
    return files


# Evidence


@dataclass(frozen=True)
class Key:
    """One sentence of evidence.

    Attributes
    ----------
    sources : tuple of str
        Entries of the run record (``settings.folds``) and tables (``tables.metrics``) that it is written from.
    write : callable
        Takes the facts; an empty text when they do not tell.
    """

    sources: tuple[str, ...]
    write: Callable[[_Facts], str]


class _Facts:
    """Run record and tables; a key's sentence can read only what the key declares.

    Parameters
    ----------
    record : mapping
        The run record.
    tables : mapping of str to DataFrame
        Tables by name.
    declared : tuple of str, optional
        What may be read; everything by default.
    """

    def __init__(
        self,
        record: Mapping[str, Any],
        tables: Mapping[str, pd.DataFrame],
        declared: tuple[str, ...] | None = None,
    ) -> None:
        self._record, self._tables, self._declared = record, tables, declared

    def sentence(self, key: str) -> str:
        """Sentence of a key; empty when the facts do not tell."""
        known = KEYS[key]
        return known.write(_Facts(self._record, self._tables, known.sources))

    def get(self, path: str) -> Any:
        """Entry of the record, for example ``settings.folds``; None when it is absent."""
        self._check(path)
        value: Any = self._record
        for part in path.split(".", 1):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def has(self, path: str) -> bool:
        """Whether the record has an entry, even an empty one."""
        self._check(path)
        value: Any = self._record
        for part in path.split(".", 1):
            if not isinstance(value, Mapping) or part not in value:
                return False
            value = value[part]
        return True

    def knows(self, source: str) -> bool:
        """Whether a source of a key, an entry of the record or a table, is there."""
        is_table = source.startswith("tables.")
        return self.has_table(source.removeprefix("tables.")) if is_table else self.has(source)

    def table(self, name: str) -> pd.DataFrame | None:
        """Table by name; None when it is absent or empty."""
        self._check(f"tables.{name}")
        table = self._tables.get(name)
        return None if table is None or table.empty else table

    def has_table(self, name: str) -> bool:
        """Whether there is such a table, even an empty one."""
        self._check(f"tables.{name}")
        return self._tables.get(name) is not None

    def _check(self, path: str) -> None:
        if self._declared is not None and path not in self._declared:
            raise KeyError(f"{path} is not declared by this key.")


KEYS: Final[dict[str, Key]] = {}
"""Evidence by name; the names are those in ``checklists/*.csv``."""


def _key(*sources: str) -> Callable[[Callable[[_Facts], str]], Callable[[_Facts], str]]:
    """Register the writer of a sentence under its name, with what it is written from."""

    def register(write: Callable[[_Facts], str]) -> Callable[[_Facts], str]:
        KEYS[write.__name__.removeprefix("_write_")] = Key(sources, write)
        return write

    return register


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _plural(count: Any, noun: str) -> str:
    return f"{int(count)} {noun}" if int(count) == 1 else f"{int(count)} {noun}s"


# Patients and outcome


@_key("n_cases", "n_patients", "n_evaluated")
def _write_cohort_size(facts: _Facts) -> str:
    cases, patients, evaluated = facts.get("n_cases"), facts.get("n_patients"), facts.get("n_evaluated")
    if cases is None or patients is None:
        return ""
    text = f"{_plural(cases, 'case')} of {_plural(patients, 'patient')} requested"
    return _sentence(text if evaluated is None else f"{text}, {_plural(evaluated, 'case')} evaluated")


@_key("tables.excluded", "n_cases", "n_evaluated")
def _write_excluded(facts: _Facts) -> str:
    table = facts.table("excluded")
    if table is None:
        is_complete = facts.get("n_cases") is not None and facts.get("n_cases") == facts.get("n_evaluated")
        return "No case was left out." if is_complete else ""
    left_out = table.loc[~table["evaluated"].astype(bool), "case_id"].nunique()
    return f"{_plural(len(table), 'failure')} recorded with the reason (table excluded); not evaluated: {left_out}."


@_key("tables.problems", "code_version", "model")
def _write_problems(facts: _Facts) -> str:
    table = facts.table("problems")
    if table is not None:
        return f"The check of images, masks and cohort table found {_plural(len(table), 'problem')}."
    # An empty table also stands for a check that was not made; a study makes one, an external validation does not.
    is_checked = facts.has_table("problems") and facts.has("code_version") and not facts.has("model")
    return "The check of images, masks and cohort table found no problem." if is_checked else ""


@_key("settings.outcome_name", "settings.positive")
def _write_outcome(facts: _Facts) -> str:
    name, positive = facts.get("settings.outcome_name"), facts.get("settings.positive")
    if not name:
        return ""
    return f"Outcome: {name}{'' if positive is None else f'; positive class: {positive}'}."


@_key("tables.confusion")
def _write_outcome_counts(facts: _Facts) -> str:
    counts = _counts(facts)
    if counts is None:
        return ""
    events, total = counts
    share = number(100 * events / total, 1)
    return f"Evaluated: {_plural(total, 'case')}, {events} with the event ({share} %) and {total - events} without."


@_key("tables.confusion")
def _write_no_information_rate(facts: _Facts) -> str:
    counts = _counts(facts)
    if counts is None:
        return ""
    events, total = counts
    rate = max(events, total - events) / total
    return f"No-information rate (accuracy of always naming the more frequent class): {number(rate, 3)}."


def _counts(facts: _Facts) -> tuple[int, int] | None:
    """Events and evaluated cases, from the first row of the confusion counts."""
    table = facts.table("confusion")
    if table is None:
        return None
    row = table.iloc[0]
    return int(row["tp"] + row["fn"]), int(row[["tp", "fn", "fp", "tn"]].sum())


@_key("tables.cohort")
def _write_sites(facts: _Facts) -> str:
    table = facts.table("cohort")
    rows = None if table is None else table[(table["variable"] == "site") & (table["group"].astype(str) == "all")]
    if rows is None or rows.empty:
        return ""
    names = rows["level"].astype(str).tolist()
    return f"The cohort table names {_plural(len(names), 'site')}: {joined(names)}."


@_key("tables.cohort")
def _write_baseline_table(facts: _Facts) -> str:
    table = facts.table("cohort")
    described = [] if table is None else [name for name in table["variable"].unique() if name not in _SIZES]
    if table is None or not described:
        return ""
    groups = [str(group) for group in table["group"].unique() if str(group) != "all"]
    by = f", by outcome ({joined(groups)})" if groups else ""
    smd = ", with standardised mean differences" if table["smd"].notna().any() else ""
    return f"Table 1 describes {joined([str(name).replace('_', ' ') for name in described])}{by}{smd}; no tests."


_SIZES: Final = ("patients", "cases")


@_key("settings.covariates")
def _write_covariates(facts: _Facts) -> str:
    if not facts.has("settings.covariates"):
        return ""
    names = facts.get("settings.covariates") or []
    return f"Clinical covariates: {joined(list(map(str, names)))}." if names else "No clinical covariate was used."


@_key("tables.sample_size")
def _write_sample_size(facts: _Facts) -> str:
    table = facts.table("sample_size")
    if table is None:
        return ""
    row = table.loc[table["n"].idxmax()]
    return f"Minimum sample size: {int(row['n'])} patients, from the criterion: {row['criterion']}."


@_key("tables.design_checks")
def _write_design_checks(facts: _Facts) -> str:
    table = facts.table("design_checks")
    rows = None if table is None else table[table["check"].astype(str).str.contains("batch|site", case=False)]
    if rows is None or rows.empty:
        return ""
    return " ".join(_sentence(str(text).rstrip(".")) for text in rows["finding"])


# Images and features


@_key("settings.images")
def _write_one_image(facts: _Facts) -> str:
    images = facts.get("settings.images")
    if not isinstance(images, Mapping) or len(images) != 1:
        return ""
    name, image = next(iter(images.items()))
    modality = image.get("modality") if isinstance(image, Mapping) else None
    return f"One image per case was used: {name}{f' ({modality})' if modality else ''}."


@_key("versions")
def _write_software(facts: _Facts) -> str:
    versions = facts.get("versions")
    names = [name for name in ("hybrid-radiomics", "pyradiomics-cuda", "SimpleITK") if name in (versions or {})]
    return f"Software: {joined([f'{name} {versions[name]}' for name in names])}." if names else ""


@_key("settings.images", "presets", "versions")
def _write_extraction(facts: _Facts) -> str:
    documents = _documents(facts)
    version = (facts.get("versions") or {}).get("pyradiomics-cuda")
    if not documents or not version:
        return ""
    return (
        f"Handcrafted features of {joined(list(documents))}: PyRadiomics (distribution pyradiomics-cuda {version}); "
        "definitions follow the IBSI except where the feature dictionary says otherwise."
    )


@_key("settings.images", "presets")
def _write_preprocessing(facts: _Facts) -> str:
    parts = []
    for name, document in _documents(facts).items():
        entries = [f"{key} = {_value(value)}" for key, value in document.get("setting", {}).items()]
        parts.append(f"{name}: {', '.join(entries) if entries else 'none'}")
    scales = [
        f"{name} times {image['scale']:g}"
        for name, image in (facts.get("settings.images") or {}).items()
        if isinstance(image, Mapping) and image.get("scale", 1.0) != 1.0
    ]
    scaled = f" Stored values were scaled: {joined(scales)}." if scales else ""
    return f"PyRadiomics settings, {'; '.join(parts)}.{scaled}" if parts else ""


@_key("settings.images", "presets")
def _write_resampling(facts: _Facts) -> str:
    parts = []
    for name, document in _documents(facts).items():
        setting = document.get("setting", {})
        spacing = setting.get("resampledPixelSpacing")
        how = f"interpolator {_value(setting['interpolator'])}" if "interpolator" in setting else "default interpolator"
        parts.append(f"{name}: {f'voxels of {_value(spacing)}, {how}' if spacing else 'not resampled'}")
    return f"Resampling, {'; '.join(parts)}." if parts else ""


@_key("settings.images", "presets")
def _write_discretisation(facts: _Facts) -> str:
    parts = []
    for name, document in _documents(facts).items():
        kinds = []
        for image_type, own in _image_types(document).items():
            kinds.append(f"{image_type} {_bins({**document.get('setting', {}), **own})}")
        parts.append(f"{name}: {', '.join(kinds)}")
    return f"Discretisation, {'; '.join(parts)}." if parts else ""


def _bins(setting: Mapping[str, Any]) -> str:
    """Count or width of bins; a count wins over a width, as in PyRadiomics."""
    if setting.get("binCount") is not None:
        return f"{_value(setting['binCount'], is_bare=True)} bins"
    return f"bin width {_value(setting['binWidth'])}" if "binWidth" in setting else "PyRadiomics' default"


@_key("settings.images", "presets")
def _write_image_types(facts: _Facts) -> str:
    parts = []
    for name, document in _documents(facts).items():
        kinds = []
        for image_type, own in _image_types(document).items():
            shown = {key: value for key, value in own.items() if key not in _NOT_OF_THE_FILTER}
            detail = ", ".join(f"{key} {_value(value, is_bare=key == 'level')}" for key, value in shown.items())
            kinds.append(f"{image_type} ({detail})" if detail else image_type)
        parts.append(f"{name}: {', '.join(kinds)}")
    return f"Image types, {'; '.join(parts)}." if parts else ""


_NOT_OF_THE_FILTER: Final = ("binCount", "binWidth", "voxelArrayShift")


@_key("settings.images", "presets")
def _write_feature_classes(facts: _Facts) -> str:
    parts = []
    for name, document in _documents(facts).items():
        classes = document.get("featureClass") or {}
        shown = [
            f"{kind} ({len(features)} features)" if isinstance(features, (list, tuple)) and features else str(kind)
            for kind, features in classes.items()
        ]
        parts.append(f"{name}: {', '.join(shown) if shown else 'all of PyRadiomics'}")
    return f"Feature classes, {'; '.join(parts)}; all features of a class where no number is given." if parts else ""


@_key("settings.images", "presets")
def _write_defaults(facts: _Facts) -> str:
    if not _documents(facts):
        return ""
    return "Every parameter that the run record does not name kept PyRadiomics' default."


@_key("n_features", "tables.features_summary")
def _write_n_features(facts: _Facts) -> str:
    total, table = facts.get("n_features"), facts.table("features_summary")
    if total is None and table is None:
        return ""
    families = {} if table is None else table.groupby("family", sort=False)["n_features"].sum().to_dict()
    total = sum(families.values()) if total is None else total
    detail = joined([f"{count} {family}" for family, count in families.items()]) if families else ""
    return f"{_plural(total, 'feature')} per case{f': {detail}' if detail else ''}."


@_key("settings.encoder", "settings.infold_encoder", "versions")
def _write_deep_features(facts: _Facts) -> str:
    encoder, infold = facts.get("settings.encoder"), facts.get("settings.infold_encoder")
    versions = facts.get("versions") or {}
    parts = []
    if encoder:
        used = [f"{name} {versions[name]}" for name in ("monai", "torch") if name in versions]
        detail = f" ({joined(used)})" if used else ""
        parts.append(f"Deep features: embeddings of the lesion from the encoder {short_path(str(encoder))}{detail}.")
    if infold:
        parts.append("An encoder was trained inside each fold on its training patients.")
    return " ".join(parts)


@_key("settings.feature_sets")
def _write_feature_sets(facts: _Facts) -> str:
    sets = facts.get("settings.feature_sets")
    return f"Feature sets of the settings: {joined([str(name) for name in sets])}." if sets else ""


@_key("tables.features_summary")
def _write_missing(facts: _Facts) -> str:
    table = facts.table("features_summary")
    if table is None:
        return ""
    cells = int((table["n_features"] * table["n_rows"]).sum())
    missing = int(table["n_missing_cells"].sum())
    share = number(100 * missing / cells, 2) if cells else number(0.0, 2)
    return f"{missing} of {cells} feature values were missing ({share} %)."


@_key("tables.icc")
def _write_reliability(facts: _Facts) -> str:
    table = facts.table("icc")
    if table is None:
        return ""
    parts = []
    for kind, rows in table.groupby("kind", sort=False):
        good = int((rows["icc"] >= 0.75).sum())
        parts.append(f"{good} of {_plural(len(rows), 'feature')} reach {kind} of 0.75")
    first = table.iloc[0]
    who = f"{int(first['n_subjects'])} cases and {int(first['n_raters'])} segmentations of each"
    return f"Intraclass correlation on {who}: {'; '.join(parts)}."


def _documents(facts: _Facts) -> dict[str, dict[str, Any]]:
    """Return the extraction parameters of each image; empty when those of one of them are not in the record."""
    images, presets = facts.get("settings.images"), facts.get("presets") or {}
    found: dict[str, dict[str, Any]] = {}
    for name, image in (images if isinstance(images, Mapping) else {}).items():
        source = image.get("handcrafted") if isinstance(image, Mapping) else None
        if isinstance(source, Mapping):
            found[str(name)] = dict(source)
        elif source in presets:
            found[str(name)] = _document(presets[source])
        elif source is not None:
            return {}
    return found


def _document(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Parameter document from the rows that describe a preset; numbers keep their unit as text."""
    document: dict[str, Any] = {"setting": {}, "imageType": {}, "featureClass": {}}
    for row in rows:
        section, _, image_type = str(row["section"]).partition(".")
        value: Any = [] if row["value"] == "all" else _Measured(json.loads(row["value"]), str(row.get("unit", "")))
        if image_type:
            document["imageType"].setdefault(image_type, {})[row["parameter"]] = value
        elif section == "imageType":
            document["imageType"].setdefault(row["parameter"], {})
        else:
            document.setdefault(section, {})[row["parameter"]] = value
    return document


@dataclass(frozen=True)
class _Measured:
    """A value with its unit."""

    value: Any
    unit: str = ""


def _value(value: Any, *, is_bare: bool = False) -> str:
    """Value as text, with its unit where it is known."""
    unit = ""
    if isinstance(value, _Measured):
        value, unit = value.value, value.unit
    if isinstance(value, (list, tuple)):
        text = " × ".join(map(_plain, value)) if len(value) == 3 else ", ".join(map(_plain, value))
    else:
        text = _plain(value)
    return f"{text} {unit}" if unit and not is_bare else text


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)


def _image_types(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {str(kind): own or {} for kind, own in (document.get("imageType") or {"Original": {}}).items()}


# Models


KNOWN_SETTINGS: Final = frozenset({
    "title", "cohort", "images", "encoder", "infold_encoder", "outcome_name", "positive", "covariates", "feature_sets",
    "baselines", "classifiers", "contrast", "repeats", "folds", "inner_folds", "permutations", "bootstraps",
    "calibration", "seed", "simulated",
})  # fmt: skip
"""Settings of a study under which the sentences on preprocessing below are true.

A record with any other setting gets none of them: the new setting might change what is fitted. When a study gets a
setting, look at the sentences, then add its name."""


def _is_ours(facts: _Facts) -> bool:
    """Whether this package fitted the models, and only with settings that the sentences below take into account."""
    settings = facts.get("settings")
    if not isinstance(settings, Mapping) or not facts.has("code_version"):
        return False
    return bool(settings.get("classifiers")) and set(settings) <= KNOWN_SETTINGS


_FITTED: Final = ("settings", "code_version")


@_key(*_FITTED)
def _write_in_fold(facts: _Facts) -> str:
    if not _is_ours(facts):
        return ""
    return (
        "Imputation, scaling, selection of features, tuning, the choice of the classifier and of the cut-off used "
        "training patients only."
    )


@_key(*_FITTED)
def _write_imputation(facts: _Facts) -> str:
    return "Missing feature values were replaced by the median of the training patients." if _is_ours(facts) else ""


@_key(*_FITTED)
def _write_scaling(facts: _Facts) -> str:
    if not _is_ours(facts):
        return ""
    return "Features were standardised with mean and standard deviation of the training patients."


@_key(*_FITTED)
def _write_selection(facts: _Facts) -> str:
    if not _is_ours(facts):
        return ""
    return (
        "On training patients: constant features were dropped; of features with an absolute correlation above 0.9 the "
        "one that separates the classes best was kept; at most 10 features of a block, those whose own AUC lies "
        "furthest from 0.5, went into the classifier."
    )


@_key(*_FITTED)
def _write_class_weights(facts: _Facts) -> str:
    if not _is_ours(facts):
        return ""
    machines = [name for name in facts.get("settings")["classifiers"] if name in ("svm", "linear_svm", "rbf_svm")]
    weighted = f"; classes were weighted inversely to their size in {joined(machines)}" if machines else ""
    return f"No patients were over- or undersampled; splits were stratified by outcome{weighted}."


@_key(*_FITTED)
def _write_cut_off(facts: _Facts) -> str:
    if not _is_ours(facts):
        return ""
    return (
        "The models give probabilities; the cut-off is the one with the largest Youden index on out-of-fold "
        "predictions of training patients."
    )


@_key("settings.calibration")
def _write_recalibration(facts: _Facts) -> str:
    if not facts.has("settings.calibration"):
        return ""
    kind = facts.get("settings.calibration")
    return f"Probabilities were recalibrated on training patients ({kind})." if kind else "No recalibration was done."


@_key("settings.classifiers", "versions")
def _write_classifiers(facts: _Facts) -> str:
    names, versions = facts.get("settings.classifiers"), facts.get("versions") or {}
    if not names:
        return ""
    packages = ["scikit-learn", *(["xgboost"] if "xgboost" in names else [])]
    used = [f"{name} {versions[name]}" for name in packages if name in versions]
    detail = f" ({joined(used)})" if used else ""
    return f"Classifiers{detail}: {joined([_CLASSIFIERS.get(str(name), str(name)) for name in names])}."


_CLASSIFIERS: Final = {
    **CLASSIFIER_NAMES, "majority": "majority rule", "clinical": "logistic regression on clinical variables",
}  # fmt: skip


@_key("settings.inner_folds", "settings.seed")
def _write_tuning(facts: _Facts) -> str:
    folds = facts.get("settings.inner_folds")
    if folds is None:
        return ""
    seed = facts.get("settings.seed")
    text = f"Hyper-parameters were chosen from a fixed grid by the mean AUC of {_plural(folds, 'inner fold')} of the "
    return f"{text}training patients{'' if seed is None else f' (seed {seed})'}."


@_key("settings.inner_folds")
def _write_model_selection(facts: _Facts) -> str:
    folds = facts.get("settings.inner_folds")
    if folds is None:
        return ""
    return (
        f"The classifier of the headline is the one with the largest mean AUC over {_plural(folds, 'inner fold')} of "
        "the training patients; test patients took no part."
    )


# Evaluation


@_key("settings.folds", "settings.repeats", "settings.seed", "model")
def _write_validation(facts: _Facts) -> str:
    folds, repeats = facts.get("settings.folds"), facts.get("settings.repeats")
    if folds is None or facts.has("model"):
        return ""
    times = f", repeated {repeats} times" if repeats and repeats > 1 else ""
    seed = facts.get("settings.seed")
    return (
        f"Nested {folds}-fold cross-validation{times}, stratified by outcome and grouped by patient"
        f"{'' if seed is None else f' (seed {seed})'}."
    )


@_key("model", "n_evaluated")
def _write_external(facts: _Facts) -> str:
    if not facts.has("model"):
        return ""
    n = facts.get("n_evaluated")
    who = "new patients" if n is None else f"{_plural(n, 'case')} of new patients"
    return f"The frozen model {short_path(str(facts.get('model')))} was applied unchanged to {who}."


@_key("tables.metrics")
def _write_metrics(facts: _Facts) -> str:
    table = facts.table("metrics")
    if table is None:
        return ""
    names = [METRIC_NAMES.get(str(name), str(name)) for name in table["metric"].unique()]
    return f"Performance measures: {'; '.join(names)}."


@_key("tables.metrics")
def _write_uncertainty(facts: _Facts) -> str:
    table = facts.table("metrics")
    rows = None if table is None else table[table["lower"].notna()]
    if rows is None or rows.empty:
        return ""
    return f"Intervals: {'; '.join(dict.fromkeys(rows['method'].astype(str)))}."


@_key("tables.calibration", "tables.calibration_metrics")
def _write_calibration(facts: _Facts) -> str:
    curves, measures = facts.table("calibration"), facts.table("calibration_metrics")
    parts = []
    if curves is not None:
        models = curves[["feature_set", "classifier"]].drop_duplicates()
        parts.append(f"Calibration curves of {_plural(len(models), 'model')}, with intervals.")
    if measures is not None:
        parts.append(f"Calibration measures: {joined([str(name) for name in measures['metric'].unique()])}.")
    return " ".join(parts)


@_key("tables.comparison")
def _write_comparison(facts: _Facts) -> str:
    table = facts.table("comparison")
    if table is None:
        return ""
    first = table.iloc[0]
    methods = "; ".join(dict.fromkeys(table["p_method"].astype(str)))
    several = f", adjusted by Holm's method over {int(first['n_comparisons'])}" if first["n_comparisons"] > 1 else ""
    return f"{_plural(len(table), 'paired comparison')} of AUCs; p-values: {methods}{several}."


@_key("tables.models", "tables.metrics")
def _write_performance(facts: _Facts) -> str:
    models, metrics = facts.table("models"), facts.table("metrics")
    if models is not None:
        rows = models[models["role"] == MODEL]
        shown = [with_interval(row.auc, row.lower, row.upper) for row in rows.itertuples()]
        names = rows["model"].astype(str).tolist()
    elif metrics is not None:
        rows = metrics[metrics["metric"] == "auc"]
        rows = rows[rows["classifier"] == SELECTED] if (rows["classifier"] == SELECTED).any() else rows
        shown = [with_interval(row.estimate, row.lower, row.upper) for row in rows.itertuples()]
        names = rows["feature_set"].astype(str).tolist()
    else:
        return ""
    texts = [f"{name} {text}" for name, text in zip(names, shown, strict=True)]
    return f"AUC with interval: {joined(texts)}." if texts else ""


@_key("tables.models")
def _write_clinical_model(facts: _Facts) -> str:
    return _reference_sentence(facts, is_clinical=True, lead="Model of clinical variables alone, AUC")


@_key("tables.models")
def _write_simple_models(facts: _Facts) -> str:
    return _reference_sentence(facts, is_clinical=False, lead="Simple rules on the same patients, AUC")


def _reference_sentence(facts: _Facts, *, is_clinical: bool, lead: str) -> str:
    rows = facts.table("models")
    if rows is None:
        return ""
    wanted = [_is_clinical(row["feature_set"]) == is_clinical for row in rows.to_dict("records")]
    rows = rows[(rows["role"] == REFERENCE) & pd.Series(wanted, index=rows.index)]
    texts = [f"{row.model} {with_interval(row.auc, row.lower, row.upper)}" for row in rows.itertuples()]
    return f"{lead}: {joined(texts)}." if texts else ""


@_key("tables.comparison")
def _write_clinical_test(facts: _Facts) -> str:
    table = facts.table("comparison")
    return _test_sentence(table, _is_clinical, "Test against the clinical model")


@_key("tables.comparison", "tables.models")
def _write_simple_test(facts: _Facts) -> str:
    models = facts.table("models")
    if models is None:
        return ""
    simple = {str(name) for name in models.loc[models["role"] == REFERENCE, "feature_set"] if not _is_clinical(name)}
    return _test_sentence(facts.table("comparison"), lambda name: name in simple, "Test against a simple rule")


def _is_clinical(feature_set: Any) -> bool:
    return str(feature_set) in REFERENCE_FEATURE_SETS


def _test_sentence(table: pd.DataFrame | None, is_reference: Callable[[str], bool], lead: str) -> str:
    """Sentence on the comparisons in which exactly one side is a reference."""
    texts = []
    for row in [] if table is None else table.to_dict("records"):
        if is_reference(str(row["feature_set_a"])) != is_reference(str(row["feature_set_b"])):
            difference = with_interval(row["difference"], row["lower"], row["upper"])
            texts.append(f"{row['model_a']} minus {row['model_b']} {difference}, p = {number(row['p'], 3)}")
    return f"{lead}: {'; '.join(texts)}." if texts else ""


@_key("tables.decision_curve")
def _write_decision_curve(facts: _Facts) -> str:
    table = facts.table("decision_curve")
    if table is None:
        return ""
    low, high = number(table["threshold"].min()), number(table["threshold"].max())
    return f"Decision curves of net benefit at thresholds from {low} to {high}."


@_key("tables.masks_summary")
def _write_mask_overlap(facts: _Facts) -> str:
    table = facts.table("masks_summary")
    rows = None if table is None else table[(table["metric"] == "dice") & (table["split"] != "train")]
    if rows is None or rows.empty:
        return ""
    texts = [
        f"{row['structure']} in {int(row['n_cases'])} {row['split']} cases "
        f"{with_interval(row['mean'], row['ci_low'], row['ci_high'])}"
        for row in rows.to_dict("records")
    ]
    return f"Dice of predicted against reference masks: {'; '.join(texts)}."


# Openness


@_key("model")
def _write_model_file(facts: _Facts) -> str:
    name = facts.get("model")
    return f"The frozen model is the folder {short_path(str(name))}, which can be shared." if name else ""


@_key("features_digest")
def _write_features_file(facts: _Facts) -> str:
    digest = facts.get("features_digest")
    return f"The feature table features.csv (digest {str(digest)[:12]}) can be shared." if digest else ""


@_key("settings_digest")
def _write_settings_file(facts: _Facts) -> str:
    digest = facts.get("settings_digest")
    return f"The settings are in study.yaml (digest {str(digest)[:12]}), which can be shared." if digest else ""


@_key("versions", "code_version")
def _write_code(facts: _Facts) -> str:
    version, digest = (facts.get("versions") or {}).get("hybrid-radiomics"), facts.get("code_version")
    if not version or not digest:
        return ""
    return f"Modelling code: hybrid-radiomics {version} (Apache-2.0), digest of the code {str(digest)[:12]}."
