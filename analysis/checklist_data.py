"""Evidence for reporting checklists: patients, outcome, images and features."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .checklist_facts import Facts, Key, as_sentence, plural, registry
from .wording import joined, number, short_path

KEYS: Final[dict[str, Key]] = {}
"""Evidence by name; the names are those in ``checklists/*.csv``."""

key = registry(KEYS)


# Patients and outcome


@key("n_cases", "n_patients", "n_evaluated")
def _write_cohort_size(facts: Facts) -> str:
    cases, patients, evaluated = facts.get("n_cases"), facts.get("n_patients"), facts.get("n_evaluated")
    if cases is None or patients is None:
        return ""
    text = f"{plural(cases, 'case')} of {plural(patients, 'patient')} requested"
    return as_sentence(text if evaluated is None else f"{text}, {plural(evaluated, 'case')} evaluated")


@key("tables.excluded", "n_cases", "n_evaluated")
def _write_excluded(facts: Facts) -> str:
    table = facts.table("excluded")
    if table is None:
        is_complete = facts.get("n_cases") is not None and facts.get("n_cases") == facts.get("n_evaluated")
        return "No case was left out." if is_complete else ""
    left_out = table.loc[~table["evaluated"].astype(bool), "case_id"].nunique()
    return f"{plural(len(table), 'failure')} recorded with the reason (table excluded); not evaluated: {left_out}."


@key("tables.problems", "code_version", "model")
def _write_problems(facts: Facts) -> str:
    table = facts.table("problems")
    if table is not None:
        return f"The check of images, masks and cohort table found {plural(len(table), 'problem')}."
    # An empty table also stands for a check that was not made; a study makes one, an external validation does not.
    is_checked = facts.has_table("problems") and facts.has("code_version") and not facts.has("model")
    return "The check of images, masks and cohort table found no problem." if is_checked else ""


@key("settings.outcome_name", "settings.positive")
def _write_outcome(facts: Facts) -> str:
    name, positive = facts.get("settings.outcome_name"), facts.get("settings.positive")
    if not name:
        return ""
    return f"Outcome: {name}{'' if positive is None else f'; positive class: {positive}'}."


@key("tables.confusion")
def _write_outcome_counts(facts: Facts) -> str:
    counts = _counts(facts)
    if counts is None:
        return ""
    events, total = counts
    share = number(100 * events / total, 1)
    return f"Evaluated: {plural(total, 'case')}, {events} with the event ({share} %) and {total - events} without."


@key("tables.confusion")
def _write_no_information_rate(facts: Facts) -> str:
    counts = _counts(facts)
    if counts is None:
        return ""
    events, total = counts
    rate = max(events, total - events) / total
    return f"No-information rate (accuracy of always naming the more frequent class): {number(rate, 3)}."


def _counts(facts: Facts) -> tuple[int, int] | None:
    """Events and evaluated cases, from the first row of the confusion counts."""
    table = facts.table("confusion")
    if table is None:
        return None
    row = table.iloc[0]
    return int(row["tp"] + row["fn"]), int(row[["tp", "fn", "fp", "tn"]].sum())


@key("tables.cohort")
def _write_sites(facts: Facts) -> str:
    table = facts.table("cohort")
    rows = None if table is None else table[(table["variable"] == "site") & (table["group"].astype(str) == "all")]
    if rows is None or rows.empty:
        return ""
    names = rows["level"].astype(str).tolist()
    return f"The cohort table names {plural(len(names), 'site')}: {joined(names)}."


@key("tables.cohort")
def _write_baseline_table(facts: Facts) -> str:
    table = facts.table("cohort")
    described = [] if table is None else [name for name in table["variable"].unique() if name not in _SIZES]
    if table is None or not described:
        return ""
    groups = [str(group) for group in table["group"].unique() if str(group) != "all"]
    by = f", by outcome ({joined(groups)})" if groups else ""
    smd = ", with standardised mean differences" if table["smd"].notna().any() else ""
    tests = "with tests" if "p" in table.columns else "no tests"
    return f"Table 1 describes {joined([str(name).replace('_', ' ') for name in described])}{by}{smd}; {tests}."


@key("tables.cohort_by_split")
def _write_baseline_by_split(facts: Facts) -> str:
    table = facts.table("cohort_by_split")
    if table is None:
        return ""
    groups = [str(group) for group in dict.fromkeys(table["group"].astype(str)) if group != "all"]
    return f"The patients are also described by split ({joined(groups)}), with standardised mean differences and tests."


_SIZES: Final = ("patients", "cases")


@key("settings.covariates")
def _write_covariates(facts: Facts) -> str:
    if not facts.has("settings.covariates"):
        return ""
    names = facts.get("settings.covariates") or []
    return f"Clinical covariates: {joined(list(map(str, names)))}." if names else "No clinical covariate was used."


@key("tables.sample_size")
def _write_sample_size(facts: Facts) -> str:
    table = facts.table("sample_size")
    if table is None:
        return ""
    row = table.loc[table["n"].idxmax()]
    return f"Minimum sample size: {int(row['n'])} patients, from the criterion: {row['criterion']}."


@key("tables.design_checks")
def _write_design_checks(facts: Facts) -> str:
    table = facts.table("design_checks")
    rows = None if table is None else table[table["check"].astype(str).str.contains("batch|site", case=False)]
    if rows is None or rows.empty:
        return ""
    return " ".join(as_sentence(str(text).rstrip(".")) for text in rows["finding"])


# Images and features


@key("settings.images")
def _write_one_image(facts: Facts) -> str:
    images = facts.get("settings.images")
    if not isinstance(images, Mapping) or len(images) != 1:
        return ""
    name, image = next(iter(images.items()))
    modality = image.get("modality") if isinstance(image, Mapping) else None
    return f"One image per case was used: {name}{f' ({modality})' if modality else ''}."


@key("versions")
def _write_software(facts: Facts) -> str:
    versions = facts.get("versions")
    names = [name for name in ("hybrid-radiomics", "pyradiomics-cuda", "SimpleITK") if name in (versions or {})]
    return f"Software: {joined([f'{name} {versions[name]}' for name in names])}." if names else ""


@key("settings.images", "presets", "versions")
def _write_extraction(facts: Facts) -> str:
    found = documents(facts)
    version = (facts.get("versions") or {}).get("pyradiomics-cuda")
    if not found or not version:
        return ""
    return (
        f"Handcrafted features of {joined(list(found))}: PyRadiomics (distribution pyradiomics-cuda {version}); "
        "definitions follow the IBSI except where the feature dictionary says otherwise."
    )


@key("settings.images", "presets")
def _write_preprocessing(facts: Facts) -> str:
    parts = []
    for name, document in documents(facts).items():
        entries = [f"{key} = {_value(value)}" for key, value in document.get("setting", {}).items()]
        parts.append(f"{name}: {', '.join(entries) if entries else 'none'}")
    scales = [
        f"{name} times {image['scale']:g}"
        for name, image in (facts.get("settings.images") or {}).items()
        if isinstance(image, Mapping) and image.get("scale", 1.0) != 1.0
    ]
    scaled = f" Stored values were scaled: {joined(scales)}." if scales else ""
    return f"PyRadiomics settings, {'; '.join(parts)}.{scaled}" if parts else ""


@key("settings.images", "presets")
def _write_resampling(facts: Facts) -> str:
    parts = []
    for name, document in documents(facts).items():
        setting = document.get("setting", {})
        spacing = setting.get("resampledPixelSpacing")
        how = f"interpolator {_value(setting['interpolator'])}" if "interpolator" in setting else "default interpolator"
        parts.append(f"{name}: {f'voxels of {_value(spacing)}, {how}' if spacing else 'not resampled'}")
    return f"Resampling, {'; '.join(parts)}." if parts else ""


@key("settings.images", "presets")
def _write_discretisation(facts: Facts) -> str:
    parts = []
    for name, document in documents(facts).items():
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


@key("settings.images", "presets")
def _write_image_types(facts: Facts) -> str:
    parts = []
    for name, document in documents(facts).items():
        kinds = []
        for image_type, own in _image_types(document).items():
            shown = {key: value for key, value in own.items() if key not in _NOT_OF_THE_FILTER}
            detail = ", ".join(f"{key} {_value(value, is_bare=key == 'level')}" for key, value in shown.items())
            kinds.append(f"{image_type} ({detail})" if detail else image_type)
        parts.append(f"{name}: {', '.join(kinds)}")
    return f"Image types, {'; '.join(parts)}." if parts else ""


_NOT_OF_THE_FILTER: Final = ("binCount", "binWidth", "voxelArrayShift")


@key("settings.images", "presets")
def _write_feature_classes(facts: Facts) -> str:
    parts = []
    for name, document in documents(facts).items():
        classes = document.get("featureClass") or {}
        shown = [
            f"{kind} ({len(features)} features)" if isinstance(features, (list, tuple)) and features else str(kind)
            for kind, features in classes.items()
        ]
        parts.append(f"{name}: {', '.join(shown) if shown else 'all of PyRadiomics'}")
    return f"Feature classes, {'; '.join(parts)}; all features of a class where no number is given." if parts else ""


@key("settings.images", "presets")
def _write_defaults(facts: Facts) -> str:
    if not documents(facts):
        return ""
    return "Every parameter that the run record does not name kept PyRadiomics' default."


@key("n_features", "tables.features_summary")
def _write_n_features(facts: Facts) -> str:
    total, table = facts.get("n_features"), facts.table("features_summary")
    if total is None and table is None:
        return ""
    families = {} if table is None else table.groupby("family", sort=False)["n_features"].sum().to_dict()
    total = sum(families.values()) if total is None else total
    detail = joined([f"{count} {family}" for family, count in families.items()]) if families else ""
    return f"{plural(total, 'feature')} per case{f': {detail}' if detail else ''}."


@key("settings.encoder", "settings.infold_encoder", "versions")
def _write_deep_features(facts: Facts) -> str:
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


@key("settings.feature_sets")
def _write_feature_sets(facts: Facts) -> str:
    sets = facts.get("settings.feature_sets")
    return f"Feature sets of the settings: {joined([str(name) for name in sets])}." if sets else ""


@key("tables.features_summary")
def _write_missing(facts: Facts) -> str:
    table = facts.table("features_summary")
    if table is None:
        return ""
    cells = int((table["n_features"] * table["n_rows"]).sum())
    missing = int(table["n_missing_cells"].sum())
    share = number(100 * missing / cells, 2) if cells else number(0.0, 2)
    return f"{missing} of {cells} feature values were missing ({share} %)."


@key("tables.icc")
def _write_reliability(facts: Facts) -> str:
    table = facts.table("icc")
    if table is None:
        return ""
    parts = []
    for kind, rows in table.groupby("kind", sort=False):
        good = int((rows["icc"] >= 0.75).sum())
        parts.append(f"{good} of {plural(len(rows), 'feature')} reach {kind} of 0.75")
    first = table.iloc[0]
    who = f"{int(first['n_subjects'])} cases and {int(first['n_raters'])} segmentations of each"
    return f"Intraclass correlation on {who}: {'; '.join(parts)}."


def documents(facts: Facts) -> dict[str, dict[str, Any]]:
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
