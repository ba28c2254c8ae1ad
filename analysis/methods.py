"""The methods paragraph, written from what was run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from hybrid.tables import SELECTED

from .compare import DIFFERENCE_INTERVAL, REFERENCE_CLASSIFIERS, Comparison
from .describe import TEST_RULE
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


SELECTOR_NAMES: Final = {
    "top": "those whose own AUC lies furthest from 0.5",
    "constant": "all that vary",
    "variance": "those that vary most, by their variance after scaling to the unit range",
    "correlation": "the one that separates the classes best of each group that correlates",
    "correlation_clusters": "the most typical feature of each cluster of correlated ones",
    "mrmr_mid": "minimum redundancy, maximum relevance (MID; Peng et al. 2005, doi:10.1109/TPAMI.2005.159)",
    "mrmr_miq": "minimum redundancy, maximum relevance (MIQ; Peng et al. 2005, doi:10.1109/TPAMI.2005.159)",
    "mrmr_fcd": "minimum redundancy, maximum relevance (FCD; Ding and Peng 2005, doi:10.1142/S0219720005001004)",
    "mrmr_fcq": "minimum redundancy, maximum relevance (FCQ; Ding and Peng 2005, doi:10.1142/S0219720005001004)",
    "lasso": "the lasso (Tibshirani 1996, doi:10.1111/j.2517-6161.1996.tb02080.x)",
    "logistic_lasso": "an L1-penalised logistic model (Tibshirani 1996, doi:10.1111/j.2517-6161.1996.tb02080.x)",
    "boruta": "Boruta (Kursa and Rudnicki 2010, doi:10.18637/jss.v036.i11)",
    "rfe": "recursive feature elimination (Guyon et al. 2002, doi:10.1023/A:1012487302797)",
    "relieff": "ReliefF (Robnik-Sikonja and Kononenko 2003, doi:10.1023/A:1025667309714)",
}
"""Selectors in words, with their source; others are shown by their name."""

UNSEEN_RULES: Final = {
    "unadjusted": "patients of a batch with fewer training patients were left unadjusted",
    "error": "a batch with fewer training patients was refused",
}
"""What happened to batches that could not be adjusted."""


def selection_text(selection: Mapping[str, Any]) -> str:
    """Say how features were chosen, from the facts on the selection in the run record."""
    name = str(selection["selector"])
    correlation = f"an absolute correlation above {selection['max_correlation']:g}"
    limit = f" (at most {selection['max_features']} of a block)" if selection.get("max_features") else ""
    steps = ["constant features were dropped"]
    if selection.get("is_filtered_before", True):
        steps.append(f"of features with {correlation} the one that separates the classes best was kept")
    grouped = "" if selection.get("is_filtered_before", True) else f", clusters having {correlation}"
    return (
        f"{'; '.join(steps)}; then features were chosen by this rule{limit}: {SELECTOR_NAMES.get(name, name)}{grouped}"
    )


def harmonisation_text(facts: Mapping[str, Any]) -> str:
    """Say what was harmonised and which patients were not, from the facts in the run record."""
    text = (
        f"Image features were harmonised between the values of {facts['batch']} by ComBat (Johnson et al. 2007, "
        "doi:10.1093/biostatistics/kxj037), fitted in training patients only, without the outcome and "
        f"without covariates, on batches with {facts['smallest_batch']} or more training rows (a feature that stands "
        "alone, such as a volume, is not harmonised, nor a training set in which each batch has one outcome); "
        f"{UNSEEN_RULES.get(str(facts['unseen_batch']), facts['unseen_batch'])}"
    )
    never, at_times = facts.get("n_cases_never_adjusted"), facts.get("n_cases_at_times_unadjusted")
    if never is None:
        return f"{text}."
    return f"{text} (cases never adjusted: {never}; unadjusted in some folds or models: {at_times})."


WEIGHTS_TEXT: Final = (
    "In training, classes were weighted inversely to their size. Such weights move the probabilities towards the rarer "
    "class (van den Goorbergh et al. 2022, doi:10.1093/jamia/ocac093)"
)
"""What weighting classes does."""


def weights_text(calibration: Any) -> str:
    """Say that classes were weighted, and whether the probabilities were put right afterwards."""
    after = "they were recalibrated afterwards" if calibration else "they were not recalibrated"
    return f"{WEIGHTS_TEXT}; {after}."


def _preprocessing(settings: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    facts = record.get("in_fold")
    if not facts:
        return ""
    selection = selection_text(facts["selection"])
    parts = [
        f"In training patients only: missing feature values were replaced by the {facts['imputation']}; "
        f"features were scaled by {facts['scaling']}; {selection}."
    ]
    if facts.get("harmonisation"):
        parts.insert(0, harmonisation_text(facts["harmonisation"]))
    if facts.get("imbalance"):
        parts.append(weights_text(settings.get("calibration")))
    return " ".join(parts)


def further_tests_text(tables: Mapping[str, pd.DataFrame]) -> str:
    """Say which tests stand beside the declared comparison, from the tables of the report that are there."""
    parts = []
    if (agreement := tables.get("agreement")) is not None and len(agreement):
        parts.append(
            f"calls at the cut-offs of {_pairs(len(agreement))} of models were compared by McNemar's test "
            "(doi:10.1186/1471-2288-13-91) and Cohen's kappa, Holm over the pairs"
        )
    if (family := tables.get("model_family")) is not None and len(family):
        parts.append(
            f"every declared pair with every classifier, one family of {len(family)} tests (Holm, Hochberg, "
            "Benjamini-Hochberg), by the corrected resampled t-test over test folds (doi:10.1023/A:1024068626366) and "
            "its Bayesian form (Benavoli et al. 2017, J Mach Learn Res 18(77))"
        )
    if (ranks := tables.get("model_ranks")) is not None and len(ranks):
        parts.append(
            f"{len(ranks)} models were ranked over patients by squared error: Friedman's test "
            "(doi:10.1080/03610928008827904) and Nemenyi's (Demsar 2006, J Mach Learn Res 7:1)"
        )
    if (moved := tables.get("reclassification")) is not None and len(moved):
        parts.append("NRI and IDI of the declared pairs (doi:10.1002/sim.4085), to be read with caution")
    parts += [*_new_patients_texts(tables), *_detail_texts(tables)]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _new_patients_texts(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Sentences on other centres, refits and the next study."""
    parts = []
    if "auc_by_site" in tables:
        parts.append("centres were compared by unpaired DeLong tests, each against all others, Holm over the tests")
    if "validation_auc" in tables:
        parts.append("internal and external AUC were compared by the unpaired DeLong test (doi:10.2307/2531595)")
    if "repeated_cv" in tables:
        parts.append(
            "the AUC over test folds has a variance that allows for overlapping training sets "
            "(doi:10.1023/A:1024068626366)"
        )
    if "permutation_test" in tables:
        parts.append("the first repeat was compared with shuffled outcomes (doi:10.2202/1544-6115.1585)")
    if "resampled" in tables:
        parts.append(
            "one declared pipeline was refitted on bootstrap samples for out-of-bag, .632 and .632+ estimates "
            "(doi:10.1080/01621459.1997.10474007) and for its optimism "
            "(doi:10.1002/(SICI)1097-0258(19960229)15:4<361::AID-SIM168>3.0.CO;2-4)"
        )
    if "next_study" in tables:
        parts.append(
            "patients for the next study were computed for differences of the AUC that were fixed beforehand "
            "(doi:10.1002/(SICI)1097-0258(19970715)16:13<1529::AID-SIM565>3.0.CO;2-H)"
        )
    return parts


def _detail_texts(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Sentences on operating points and on what the models look at."""
    parts = []
    if "auc_clustered" in tables:
        parts.append("the AUC over rows of patients has the variance of clustered data (doi:10.2307/2533958)")
    if "auc_intervals" in tables:
        parts.append(
            "sensitivity at fixed specificity (attainable and interpolated), partial AUC "
            "(doi:10.1177/0272989X8900900307) and cut-offs by the Youden index and by cost have percentile bootstrap "
            "intervals"
        )
    if "net_benefit_difference" in tables:
        parts.append("net benefits were compared at thresholds fixed beforehand (doi:10.1177/0272989X06295361)")
    if "importance" in tables:
        parts.append(
            "features were judged on unseen patients by permutation importance "
            "(https://jmlr.org/papers/v20/18-760.html) and Shapley values (arXiv:1705.07874), the stability of their "
            "choice over folds by the index of Nogueira et al. (https://jmlr.org/papers/v18/17-514.html)"
        )
    if "univariate_screening" in tables:
        parts.append(
            "single features were described by Mann-Whitney tests with the false discovery rate of Benjamini and "
            "Hochberg (doi:10.1111/j.2517-6161.1995.tb02031.x)"
        )
    return parts


def _pairs(count: int) -> str:
    return f"{count} pair" if count == 1 else f"{count} pairs"


def methods_sections(
    predictions: pd.DataFrame,
    metrics: pd.DataFrame,
    comparison: Comparison | None,
    record: Mapping[str, Any],
    cite: Citations,
    *,
    level: float,
    is_table_one: bool,
    tables: Mapping[str, pd.DataFrame] | None = None,
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
    tables : mapping of str to DataFrame, optional
        Tables of the report: further tests are described where their tables are there.

    Returns
    -------
    list of (str, str)
        Heading and text.
    """
    settings = record.get("settings") or {}
    sections = [
        ("Features", _features(settings, record, cite)),
        ("Preprocessing", _preprocessing(settings, record)),
        ("Models", _models(predictions, settings, cite)),
        ("Validation", _validation(predictions, settings, cite)),
        ("Performance", _performance(metrics, level, cite)),
        ("Comparison", _comparison(comparison, settings, cite)),
        ("Further tests", further_tests_text(tables or {})),
        ("Description", _description(cite) if is_table_one else ""),
    ]
    return [(heading, text) for heading, text in sections if text]


def _features(settings: Mapping[str, Any], record: Mapping[str, Any], cite: Citations) -> str:
    images = settings.get("images") or {}
    presets = {name: image.get("handcrafted") for name, image in images.items() if isinstance(image, Mapping)}
    parts = []
    if check := settings.get("sequences"):
        expected = joined([f"{sequence} for {name}" for name, sequence in check["expected"].items()])
        parts.append(
            f"A classifier of pixels and geometry (model {check['model']}) checked before anything else that every "
            f"image was the expected sequence: {expected}."
        )
    if ready := settings.get("features"):
        parts.append(
            f"Features were read from a ready table ({ready['table']}, {record.get('n_features', 'all')} columns); how "
            "they were computed is for the author to describe."
        )
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
        f"standardised mean difference {cite('smd')}. Its tests are chosen by a rule that was fixed beforehand. "
        f"{TEST_RULE}"
    )
