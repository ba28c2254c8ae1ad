"""The methods paragraph, written from what was run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from hybrid.tables import SELECTED

from .compare import DIFFERENCE_INTERVAL, REFERENCE_CLASSIFIERS, Comparison
from .references import Citations
from .wording import joined, percent

CLASSIFIER_NAMES: Final = {
    "logistic": "L2-penalised logistic regression",
    "elastic_net": "elastic-net logistic regression",
    "svm": "support vector machine",
    "linear_svm": "linear support vector machine",
    "rbf_svm": "support vector machine with radial kernel",
    "random_forest": "random forest",
    "extra_trees": "extremely randomised trees",
    "xgboost": "gradient boosting (XGBoost)",
    "hist_gradient_boosting": "histogram gradient boosting",
    "knn": "k nearest neighbours",
    "naive_bayes": "naive Bayes",
    "lda": "linear discriminant analysis",
}
"""Classifier names in words; others are shown as they are."""


def methods_sections(
    predictions: pd.DataFrame,
    metrics: pd.DataFrame,
    comparison: Comparison | None,
    record: Mapping[str, Any],
    cite: Citations,
    *,
    level: float,
    is_table_one: bool,
) -> list[tuple[str, str]]:
    """Write the methods, one heading and paragraph per step that was run.

    Parameters
    ----------
    predictions : DataFrame
        Checked predictions of the evaluated split.
    metrics : DataFrame
        From :func:`hybrid.analysis.evaluate_models`.
    comparison : Comparison or None
        From :func:`hybrid.analysis.compare_models`.
    record : mapping
        The run record; steps that it does not know are left out.
    cite : Citations
        Collects the references.
    level : float
        Confidence level.
    is_table_one : bool
        Whether the report describes a cohort.

    Returns
    -------
    list of (str, str)
        Heading and text.
    """
    settings = record.get("settings") or {}
    sections = [
        ("Features", _features(settings, record, cite)),
        ("Models", _models(predictions, settings, cite)),
        ("Validation", _validation(predictions, settings, cite)),
        ("Performance", _performance(metrics, level, cite)),
        ("Comparison", _comparison(comparison, settings, cite)),
        ("Description", _description(cite) if is_table_one else ""),
    ]
    return [(heading, text) for heading, text in sections if text]


def _features(settings: Mapping[str, Any], record: Mapping[str, Any], cite: Citations) -> str:
    images = settings.get("images") or {}
    presets = {name: image.get("handcrafted") for name, image in images.items() if isinstance(image, Mapping)}
    parts = []
    if any(presets.values()):
        named = [
            f"{'custom settings' if isinstance(value, Mapping) else value} for {name}" if name != "image" else
            f"{'custom settings' if isinstance(value, Mapping) else value}"
            for name, value in presets.items() if value
        ]  # fmt: skip
        distribution = (record.get("versions") or {}).get("pyradiomics-cuda")
        version = f" (distribution pyradiomics-cuda {distribution})" if distribution else ""
        parts.append(
            f"Handcrafted features were computed inside the mask with PyRadiomics{version} {cite('pyradiomics')}; "
            f"settings: {joined(named)}. Definitions follow the IBSI {cite('ibsi')} except where the feature "
            "dictionary says otherwise."
        )
    if settings.get("encoder"):
        parts.append(
            f"Deep features are embeddings of the lesion, cropped around the mask, from a 3D residual network "
            f"{cite('resnet')} in MONAI {cite('monai')} (encoder: {settings['encoder']})."
        )
    return " ".join(parts)


def _models(predictions: pd.DataFrame, settings: Mapping[str, Any], cite: Citations) -> str:
    names = [name for name in dict.fromkeys(predictions["classifier"].astype(str)) if name != SELECTED]
    own = [CLASSIFIER_NAMES.get(name, name) for name in names if name not in (*REFERENCE_CLASSIFIERS, "model")]
    parts = []
    if own:
        parts.append(f"Classifiers {cite('sklearn')}: {joined(own)}.")
    if SELECTED in set(predictions["classifier"]):
        parts.append(
            "“Selected” is the classifier with the best inner cross-validation in the training patients of each "
            "fold, and the one that the declared comparison uses."
        )
    if covariates := settings.get("covariates"):
        parts.append(f"Clinical covariates: {joined(list(map(str, covariates)))}.")
    if settings.get("calibration"):
        parts.append(f"Probabilities were calibrated inside the training patients ({settings['calibration']}).")
    return " ".join(parts)


def _validation(predictions: pd.DataFrame, settings: Mapping[str, Any], cite: Citations) -> str:
    folds, repeats = int(predictions["fold"].nunique()), int(predictions["repeat"].nunique())
    if (predictions["split"] == "external").all():
        return "Frozen models (selection, cut-off and calibration included) were applied unchanged to new patients."
    if folds < 2:
        return "The predictions were taken as given; how they were made is for the author to describe."
    inner = f" with {settings['inner_folds']} inner folds" if settings.get("inner_folds") else ""
    text = (
        f"Nested {folds}-fold cross-validation{inner}, repeated {repeats} times {cite('nested')}, stratified by "
        "outcome and grouped by patient. Imputation, scaling, feature selection, tuning and the choice of the "
        "cut-off used the training patients of each fold only."
    ) if repeats > 1 else (
        f"Nested {folds}-fold cross-validation{inner} {cite('nested')}, stratified by outcome and grouped by patient. "
        "Imputation, scaling, feature selection, tuning and the choice of the cut-off used the training patients "
        "of each fold only."
    )  # fmt: skip
    if settings.get("seed") is not None:
        text += f" Seed: {settings['seed']}."
    return text


def _performance(metrics: pd.DataFrame, level: float, cite: Citations) -> str:
    methods = metrics["method"].astype(str)
    boot = methods[methods.str.contains("bootstrap of patients")]
    parts = [
        "Every metric was computed within each repeat and averaged over repeats, never pooled. A patient was called "
        "positive when the predicted probability reached the cut-off (≥) chosen on training patients.",
    ]
    if len(boot):
        kind = "BCa" if "BCa" in boot.iloc[0] else "percentile"
        draws = boot.iloc[0].rsplit(", ", 1)[-1].removesuffix(" draws")
        parts.append(
            f"Intervals ({percent(level)}) are {kind} bootstrap intervals {cite('bca', 'davison')} from {draws} "
            "resamples of patients with all their rows and repeats, stratified by outcome."
        )
    if methods.str.contains("exact bound").any():
        parts.append(f"Where a proportion or an AUC is 0 or 1, the bound is exact {cite('clopper')}.")
    parts.append(
        f"The AUC of one averaged probability per patient has DeLong's interval {cite('delong', 'sun')} on the "
        "logit scale, which ignores the variance of training."
    )
    parts.append(
        f"Kappa is Cohen's {cite('kappa')} between calls and outcome; the Brier score is unscaled {cite('brier')}."
    )
    return " ".join(parts)


def _comparison(comparison: Comparison | None, settings: Mapping[str, Any], cite: Citations) -> str:
    if comparison is None or comparison.table.empty:
        return ""
    table = comparison.table
    is_delong = table["p_method"].astype(str).str.startswith("DeLong").all()
    test = (
        f"DeLong's paired test {cite('delong', 'sun')} on averaged probabilities" if is_delong else "patient bootstrap"
    )
    parts = [
        f"AUCs were compared in pairs: difference of the averaged AUCs with a {DIFFERENCE_INTERVAL} interval from "
        f"shared bootstrap resamples {cite('davison')}; two-sided p-values from {test}"
    ]
    parts[0] += f", adjusted by Holm's method {cite('holm')} over {len(table)} comparisons." if len(table) > 1 else "."
    has_headline = comparison.headline is not None
    parts.append(
        "The headline was declared before the run."
        if has_headline
        else "No headline was declared; all comparisons are exploratory."
    )
    permutations = int(comparison.models["n_permutations"].max()) if len(comparison.models) else 0
    if permutations:
        parts.append(
            f"The permutation null repeats the whole procedure on {permutations} shuffled outcomes "
            f"{cite('permutation')}."
        )
    return " ".join(parts)


def _description(cite: Citations) -> str:
    return (
        "Table 1 shows mean (SD) and median [quartiles], or counts (percent of known values); SMD is the "
        f"standardised mean difference {cite('smd')}."
    )
