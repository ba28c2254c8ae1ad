"""Evidence for reporting checklists: what was fitted, how it was evaluated, and what can be shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import pandas as pd

from hybrid.tables import SELECTED

from .checklist_facts import Facts, Key, plural, registry
from .compare import MODEL, REFERENCE, REFERENCE_FEATURE_SETS
from .methods import CLASSIFIER_NAMES, further_tests_text, harmonisation_text, selection_text, weights_text
from .views import METRIC_NAMES
from .wording import joined, number, short_path, with_interval

KEYS: Final[dict[str, Key]] = {}
"""Evidence by name; the names are those in ``checklists/*.csv``."""

key = registry(KEYS)


# Models


KNOWN_SETTINGS: Final = frozenset({
    "title", "cohort", "images", "encoder", "infold_encoder", "outcome_name", "positive", "covariates", "feature_sets",
    "baselines", "classifiers", "contrast", "repeats", "folds", "inner_folds", "permutations", "bootstraps",
    "calibration", "selector", "harmonise", "unseen_batch", "imbalance", "seed", "simulated", "features",
    "explained_repeats", "relative_cost", "risk_categories", "resamples", "sequences",
})  # fmt: skip
"""Settings of a study under which the sentences on preprocessing below are true.

A record with any other setting gets none of them: the new setting might change what is fitted. When a study gets a
setting, look at the sentences, then add its name."""


def _is_ours(facts: Facts) -> bool:
    """Whether this package fitted the models, and only with settings that the sentences below take into account."""
    settings = facts.get("settings")
    if not isinstance(settings, Mapping) or not facts.has("code_version"):
        return False
    return bool(settings.get("classifiers")) and set(settings) <= KNOWN_SETTINGS


_FITTED: Final = ("settings", "code_version", "in_fold")


def _in_fold(facts: Facts) -> Mapping[str, Any]:
    """Facts on what was fitted inside the folds; empty when the record does not have them or is not ours."""
    found = facts.get("in_fold")
    return found if isinstance(found, Mapping) and _is_ours(facts) else {}


@key(*_FITTED)
def _write_in_fold(facts: Facts) -> str:
    if not _in_fold(facts):
        return ""
    harmonised = "harmonisation, " if _in_fold(facts).get("harmonisation") else ""
    return (
        f"Imputation, {harmonised}scaling, selection of features, tuning, the choice of the classifier and of the "
        "cut-off used training patients only."
    )


@key(*_FITTED)
def _write_imputation(facts: Facts) -> str:
    found = _in_fold(facts)
    return f"Missing feature values were replaced by the {found['imputation']}." if found else ""


@key(*_FITTED)
def _write_scaling(facts: Facts) -> str:
    found = _in_fold(facts)
    return f"Features were standardised with {found['scaling']}." if found else ""


@key(*_FITTED)
def _write_harmonisation(facts: Facts) -> str:
    found = _in_fold(facts)
    if not found:
        return ""
    harmonised = found.get("harmonisation")
    return harmonisation_text(harmonised) if harmonised else "Features were not harmonised between scanners or sites."


@key(*_FITTED)
def _write_selection(facts: Facts) -> str:
    found = _in_fold(facts)
    return f"On training patients: {selection_text(found['selection'])}." if found else ""


@key(*_FITTED)
def _write_class_weights(facts: Facts) -> str:
    found = _in_fold(facts)
    if not found:
        return ""
    start = "No patients were over- or undersampled; splits were stratified by outcome"
    if found.get("imbalance"):
        return f"{start}. {weights_text(facts.get('settings').get('calibration'))}"
    machines = [name for name in facts.get("settings")["classifiers"] if name in ("svm", "linear_svm", "rbf_svm")]
    weighted = f"; classes were weighted inversely to their size in {joined(machines)}" if machines else ""
    return f"{start}{weighted}."


@key(*_FITTED)
def _write_cut_off(facts: Facts) -> str:
    if not _is_ours(facts):
        return ""
    return (
        "The models give probabilities; the cut-off is the one with the largest Youden index on out-of-fold "
        "predictions of training patients."
    )


@key("settings.calibration")
def _write_recalibration(facts: Facts) -> str:
    if not facts.has("settings.calibration"):
        return ""
    kind = facts.get("settings.calibration")
    return f"Probabilities were recalibrated on training patients ({kind})." if kind else "No recalibration was done."


@key("settings.classifiers", "versions")
def _write_classifiers(facts: Facts) -> str:
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


@key("settings.inner_folds", "settings.seed")
def _write_tuning(facts: Facts) -> str:
    folds = facts.get("settings.inner_folds")
    if folds is None:
        return ""
    seed = facts.get("settings.seed")
    text = f"Hyper-parameters were chosen from a fixed grid by the mean AUC of {plural(folds, 'inner fold')} of the "
    return f"{text}training patients{'' if seed is None else f' (seed {seed})'}."


@key("settings.inner_folds")
def _write_model_selection(facts: Facts) -> str:
    folds = facts.get("settings.inner_folds")
    if folds is None:
        return ""
    return (
        f"The classifier of the headline is the one with the largest mean AUC over {plural(folds, 'inner fold')} of "
        "the training patients; test patients took no part."
    )


# Evaluation


@key("settings.folds", "settings.repeats", "settings.seed", "model")
def _write_validation(facts: Facts) -> str:
    folds, repeats = facts.get("settings.folds"), facts.get("settings.repeats")
    if folds is None or facts.has("model"):
        return ""
    times = f", repeated {repeats} times" if repeats and repeats > 1 else ""
    seed = facts.get("settings.seed")
    return (
        f"Nested {folds}-fold cross-validation{times}, stratified by outcome and grouped by patient"
        f"{'' if seed is None else f' (seed {seed})'}."
    )


@key("model", "n_evaluated")
def _write_external(facts: Facts) -> str:
    if not facts.has("model"):
        return ""
    n = facts.get("n_evaluated")
    who = "new patients" if n is None else f"{plural(n, 'case')} of new patients"
    return f"The frozen model {short_path(str(facts.get('model')))} was applied unchanged to {who}."


@key("tables.metrics")
def _write_metrics(facts: Facts) -> str:
    table = facts.table("metrics")
    if table is None:
        return ""
    names = [METRIC_NAMES.get(str(name), str(name)) for name in table["metric"].unique()]
    return f"Performance measures: {'; '.join(names)}."


@key("tables.metrics")
def _write_uncertainty(facts: Facts) -> str:
    table = facts.table("metrics")
    rows = None if table is None else table[table["lower"].notna()]
    if rows is None or rows.empty:
        return ""
    return f"Intervals: {'; '.join(dict.fromkeys(rows['method'].astype(str)))}."


@key("tables.calibration", "tables.calibration_metrics")
def _write_calibration(facts: Facts) -> str:
    curves, measures = facts.table("calibration"), facts.table("calibration_metrics")
    parts = []
    if curves is not None:
        models = curves[["feature_set", "classifier"]].drop_duplicates()
        parts.append(f"Calibration curves of {plural(len(models), 'model')}, with intervals.")
    if measures is not None:
        parts.append(f"Calibration measures: {joined([str(name) for name in measures['metric'].unique()])}.")
    return " ".join(parts)


@key("tables.comparison")
def _write_comparison(facts: Facts) -> str:
    table = facts.table("comparison")
    if table is None:
        return ""
    first = table.iloc[0]
    methods = "; ".join(dict.fromkeys(table["p_method"].astype(str)))
    several = f", adjusted by Holm's method over {int(first['n_comparisons'])}" if first["n_comparisons"] > 1 else ""
    return f"{plural(len(table), 'paired comparison')} of AUCs; p-values: {methods}{several}."


@key("tables.agreement", "tables.model_family", "tables.model_ranks", "tables.reclassification")
def _write_further_tests(facts: Facts) -> str:
    found = {name: facts.table(name) for name in ("agreement", "model_family", "model_ranks", "reclassification")}
    return further_tests_text({name: table for name, table in found.items() if table is not None})


@key("tables.validation")
def _write_side_by_side(facts: Facts) -> str:
    table = facts.table("validation")
    if table is None:
        return ""
    row = table[table["metric"] == "auc"].iloc[0] if (table["metric"] == "auc").any() else table.iloc[0]
    inside = with_interval(row["internal"], row["internal_lower"], row["internal_upper"])
    outside = with_interval(row["external"], row["external_lower"], row["external_upper"])
    name = METRIC_NAMES.get(str(row["metric"]), str(row["metric"]))
    return (
        f"Internal and external performance stand side by side ({plural(len(table), 'measure')}): {name} {inside} in "
        f"{int(row['n_internal'])} and {outside} in {int(row['n_external'])} patients."
    )


@key("tables.models", "tables.metrics")
def _write_performance(facts: Facts) -> str:
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


@key("tables.models")
def _write_clinical_model(facts: Facts) -> str:
    return _reference_sentence(facts, is_clinical=True, lead="Model of clinical variables alone, AUC")


@key("tables.models")
def _write_simple_models(facts: Facts) -> str:
    return _reference_sentence(facts, is_clinical=False, lead="Simple rules on the same patients, AUC")


def _reference_sentence(facts: Facts, *, is_clinical: bool, lead: str) -> str:
    rows = facts.table("models")
    if rows is None:
        return ""
    wanted = [_is_clinical(row["feature_set"]) == is_clinical for row in rows.to_dict("records")]
    rows = rows[(rows["role"] == REFERENCE) & pd.Series(wanted, index=rows.index)]
    texts = [f"{row.model} {with_interval(row.auc, row.lower, row.upper)}" for row in rows.itertuples()]
    return f"{lead}: {joined(texts)}." if texts else ""


@key("tables.comparison")
def _write_clinical_test(facts: Facts) -> str:
    table = facts.table("comparison")
    return _test_sentence(table, _is_clinical, "Test against the clinical model")


@key("tables.comparison", "tables.models")
def _write_simple_test(facts: Facts) -> str:
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


@key("tables.importance", "tables.selection_stability")
def _write_interpretability(facts: Facts) -> str:
    table, stability = facts.table("importance"), facts.table("selection_stability")
    if table is None or table.empty:
        return ""
    names = [str(name) for name in dict.fromkeys(table["feature_set"])]
    text = (
        f"Models of {joined(names)} were explained on patients outside their training folds: permutation importance "
        f"and Shapley values of {plural(len(table), 'feature')} that were chosen in a fold"
    )
    if stability is not None and stability["stability"].notna().any():
        shown = [f"{row.feature_set} {number(row.stability)}" for row in stability.itertuples()]
        text += f"; stability of the choice over folds: {joined(shown)}"
    return f"{text}."


@key("tables.decision_curve")
def _write_decision_curve(facts: Facts) -> str:
    table = facts.table("decision_curve")
    if table is None:
        return ""
    low, high = number(table["threshold"].min()), number(table["threshold"].max())
    return f"Decision curves of net benefit at thresholds from {low} to {high}."


@key("tables.masks_summary")
def _write_mask_overlap(facts: Facts) -> str:
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


@key("model")
def _write_model_file(facts: Facts) -> str:
    name = facts.get("model")
    return f"The frozen model is the folder {short_path(str(name))}, which can be shared." if name else ""


@key("features_digest")
def _write_features_file(facts: Facts) -> str:
    digest = facts.get("features_digest")
    return f"The feature table features.csv (digest {str(digest)[:12]}) can be shared." if digest else ""


@key("settings_digest")
def _write_settings_file(facts: Facts) -> str:
    digest = facts.get("settings_digest")
    return f"The settings are in study.yaml (digest {str(digest)[:12]}), which can be shared." if digest else ""


@key("versions", "code_version")
def _write_code(facts: Facts) -> str:
    version, digest = (facts.get("versions") or {}).get("hybrid-radiomics"), facts.get("code_version")
    if not version or not digest:
        return ""
    return f"Modelling code: hybrid-radiomics {version} (Apache-2.0), digest of the code {str(digest)[:12]}."
