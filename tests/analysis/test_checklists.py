"""Checklists: no item is lost, nothing is invented, and every sentence follows the record."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import Report, compare_models, evaluate_models
from hybrid.analysis.checklist_facts import Facts
from hybrid.analysis.checklist_models import KNOWN_SETTINGS
from hybrid.analysis.checklists import (
    CONDITIONS,
    FILLED,
    FILLED_COLUMNS,
    HALF,
    ITEM_COLUMNS,
    KEYS,
    NOT_APPLICABLE,
    PARTLY,
    SOURCES,
    STATUSES,
    TO_COMPLETE,
    checklist_section,
    fill_checklist,
    read_checklist,
    summarise_checklist,
    write_checklists,
)
from hybrid.errors import InputError

FAST = {"n_bootstrap": 100}
NAMES = tuple(SOURCES)

# As pipelines.study.run_record writes it; the preset shortened.
RECORD = {
    "title": "Renal masses",
    "finished": "2024-05-06T07:08:09+00:00",
    "settings": {
        "cohort": {"file": "cohort.csv"},
        "images": {"image": {"handcrafted": "ct", "modality": "ct", "scale": 1.0}},
        "encoder": "bundled",
        "infold_encoder": None,
        "outcome_name": "malignant",
        "positive": 1,
        "covariates": ["age"],
        "feature_sets": ["handcrafted", "deep"],
        "baselines": {"volume": ["rad_original_shape_VoxelVolume"]},
        "classifiers": ["logistic", "rbf_svm", "majority", "clinical"],
        "repeats": 3,
        "folds": 5,
        "inner_folds": 3,
        "bootstraps": 100,
        "calibration": None,
        "selector": None,
        "harmonise": None,
        "unseen_batch": "unadjusted",
        "imbalance": None,
        "seed": 7,
        "simulated": True,
    },
    "settings_digest": "ab" * 32,
    "code_version": "cd" * 32,
    "versions": {
        "hybrid-radiomics": "0.1.0", "pyradiomics-cuda": "1.0.4", "SimpleITK": "2.5.7", "scikit-learn": "1.9.1",
        "monai": "1.6.1", "torch": "2.13.0",
    },
    "n_cases": 26,
    "n_patients": 26,
    "n_evaluated": 26,
    "n_features": 28,
    "features_digest": "ef" * 32,
    "in_fold": {
        "imputation": "median of the training patients",
        "scaling": "mean and standard deviation of the training patients",
        "selection": {
            "selector": "top", "max_correlation": 0.9, "is_filtered_before": True, "max_features": 10,
        },
        "harmonisation": None,
        "imbalance": None,
    },
    "presets": {
        "ct": [
            {"section": "setting", "parameter": "resampledPixelSpacing", "value": "[2.0, 2.0, 2.0]", "unit": "mm"},
            {"section": "setting", "parameter": "interpolator", "value": '"sitkLinear"', "unit": ""},
            {"section": "setting", "parameter": "binWidth", "value": "10.0", "unit": "HU"},
            {"section": "imageType", "parameter": "Original", "value": "{}", "unit": ""},
            {"section": "imageType.LoG", "parameter": "sigma", "value": "[2.0, 4.0]", "unit": "mm"},
            {"section": "imageType.LoG", "parameter": "binCount", "value": "32", "unit": "grey levels"},
            {"section": "featureClass", "parameter": "shape", "value": "all", "unit": "features"},
            {"section": "featureClass", "parameter": "glcm", "value": "all", "unit": "features"},
        ]
    },
}  # fmt: skip

TRIPOD_NUMBERS = [
    "1", "2", "3a", "3b", "3c", "4", "5a", "5b", "6a", "6b", "6c", "7", "8a", "8b", "8c", "9a", "9b", "9c", "10", "11",
    "12a", "12b", "12c", "12d", "12e", "12f", "12g", "13", "14", "15", "16", "17", "18a", "18b", "18c", "18d", "18e",
    "18f", "19", "20a", "20b", "20c", "21", "22", "23a", "23b", "24", "25", "26", "27a", "27b", "27c",
]  # fmt: skip
NUMBERS = {
    "clear": [str(i) for i in range(1, 59)],
    "metrics": [str(i) for i in range(1, 31)],
    "tripod_ai": TRIPOD_NUMBERS,
}


@pytest.fixture(scope="module")
def tables(make_predictions, make_cohort, make_features):
    """Tables of a report with a clinical and a trivial model beside two others."""
    table = make_predictions(feature_sets=("handcrafted", "deep", "volume"), classifiers=("selected",), repeats=3)
    rng = np.random.default_rng(0)
    clinical = table[table["feature_set"] == "volume"].assign(feature_set="clinical", classifier="clinical")
    clinical["y_prob"] = rng.random(len(clinical))
    table = pd.concat([table, clinical], ignore_index=True)
    cohort = make_cohort(table)
    result = compare_models(table, contrast=[("handcrafted", "deep")], baselines=["volume"], **FAST)
    report = Report(cohort, make_features(cohort), table, result, metrics=evaluate_models(table, **FAST), **FAST)
    return report.tables()


def with_entry(path, value):
    record = copy.deepcopy(RECORD)
    *parents, last = path
    place = record
    for name in parents:
        place = place[name]
    place[last] = value
    return record


def without(path):
    record = copy.deepcopy(RECORD)
    *parents, last = path
    place = record
    for name in parents:
        place = place[name]
    del place[last]
    return record


def evidence(name, number, record, tables=None, **options):
    filled = fill_checklist(name, record, tables, **options).set_index("number")
    return filled.loc[number, "evidence"]


def status(name, number, record, tables=None, **options):
    return fill_checklist(name, record, tables, **options).set_index("number").loc[number, "status"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("record", [{}, RECORD, {**RECORD, "model": "frozen"}], ids=["empty", "study", "external"])
def test_no_item_is_lost(name, record, tables):
    for given in (None, tables):
        filled = fill_checklist(name, record, given)
        assert filled["number"].tolist() == NUMBERS[name]
        assert list(filled.columns) == list(FILLED_COLUMNS)
        assert set(filled["status"]) <= set(STATUSES)
        assert (filled["item"].str.len() > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_data_files_name_known_keys_and_conditions(name):
    items = read_checklist(name)
    assert list(items.columns) == list(ITEM_COLUMNS)
    assert set(items["filled_by"]) <= {"software", HALF, "author"}
    assert ((items["keys"] == "") == (items["filled_by"] == "author")).all()
    keys = {key.removesuffix("?") for text in items["keys"] for key in text.split()}
    assert keys <= set(KEYS)
    assert set(items["condition"]) <= {"", *CONDITIONS}
    assert items["guideline"].nunique() == 1


def test_every_key_serves_an_item_and_is_declared():
    used = {key.removesuffix("?") for name in NAMES for text in read_checklist(name)["keys"] for key in text.split()}
    assert used == set(KEYS)
    assert all(key.sources for key in KEYS.values())


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_invented_from_an_empty_record(name):
    filled = fill_checklist(name, {})
    assert set(filled["status"]) <= {TO_COMPLETE, NOT_APPLICABLE}
    assert (filled.loc[filled["status"] == TO_COMPLETE, "evidence"] == "").all()


@pytest.mark.parametrize("name", NAMES)
def test_items_of_the_author_stay_with_the_author(name, tables):
    filled = fill_checklist(name, RECORD, tables)
    own = filled[filled["filled_by"] == "author"]
    assert set(own["status"]) <= {TO_COMPLETE, NOT_APPLICABLE}
    assert (own.loc[own["status"] == TO_COMPLETE, "evidence"] == "").all()
    assert not (filled.loc[filled["filled_by"] == HALF, "status"] == FILLED).any()


@pytest.mark.parametrize("name", NAMES)
def test_evidence_and_sources_come_together(name, tables):
    filled = fill_checklist(name, RECORD, tables)
    shown = filled[filled["status"].isin([FILLED, PARTLY])]
    assert len(shown)
    assert shown["evidence"].str.endswith(".").all()
    assert (shown["sources"] != "").all()
    assert (shown.loc[shown["status"] == FILLED, "missing_keys"] == "").all()


@pytest.mark.parametrize(
    ("path", "value", "name", "number", "before", "after"),
    [
        (("n_cases",), 31, "clear", "45", "26 cases of 26 patients", "31 cases of 26 patients"),
        (("settings", "outcome_name"), "relapse", "clear", "18", "Outcome: malignant", "Outcome: relapse"),
        (("settings", "folds"), 10, "metrics", "18", "5-fold", "10-fold"),
        (("settings", "repeats"), 1, "clear", "15", "repeated 3 times", "cross-validation, stratified"),
        (("settings", "seed"), 99, "metrics", "26", "seed 7", "seed 99"),
        (("settings", "inner_folds"), 4, "clear", "37", "3 inner folds", "4 inner folds"),
        (("settings", "calibration"), "sigmoid", "tripod_ai", "13", "No recalibration", "recalibrated on training"),
        (("settings", "covariates"), [], "clear", "17", "Clinical covariates: age.", "No clinical covariate"),
        (("settings", "classifiers"), ["lda"], "clear", "34", "radial kernel", "linear discriminant analysis"),
        (("settings", "classifiers"), ["lda"], "clear", "30", "weighted inversely", "No patients were over- or"),
        (("settings", "encoder"), "/home/me/own.safetensors", "clear", "25", "encoder bundled", "encoder own.safetens"),
        (("versions", "pyradiomics-cuda"), "9.9", "metrics", "12", "pyradiomics-cuda 1.0.4", "pyradiomics-cuda 9.9"),
        (("versions", "scikit-learn"), "2.0", "clear", "34", "scikit-learn 1.9.1", "scikit-learn 2.0"),
        (("n_features",), 99, "clear", "27", "28 features", "99 features"),
        (("presets", "ct", 0, "value"), "[1.0, 1.0, 3.0]", "clear", "22", "2 × 2 × 2 mm", "1 × 1 × 3 mm"),
        (("presets", "ct", 2, "value"), "25.0", "clear", "23", "bin width 10 HU", "bin width 25 HU"),
        (("presets", "ct", 4, "value"), "[1.0]", "clear", "24", "sigma 2, 4 mm", "sigma 1 mm"),
        (("presets", "ct", 6, "parameter"), "ngtdm", "clear", "26", "shape, glcm", "ngtdm, glcm"),
        (("settings", "images", "image", "scale"), 0.001, "clear", "21", "binWidth", "image times 0.001"),
        (("features_digest",), "12" * 32, "clear", "54", "digest efef", "digest 1212"),
        (("settings_digest",), "34" * 32, "clear", "55", "digest abab", "digest 3434"),
        (("code_version",), "56" * 32, "clear", "56", "code cdcd", "code 5656"),
    ],
)
def test_a_changed_record_changes_the_sentence(path, value, name, number, before, after, tables):
    old, new = evidence(name, number, RECORD, tables), evidence(name, number, with_entry(path, value), tables)
    assert before in old
    assert after in new
    assert old != new
    assert "/home/me" not in new


@pytest.mark.parametrize("entry", [*((key,) for key in RECORD), *(("settings", key) for key in RECORD["settings"])])
def test_a_missing_entry_never_adds_evidence(entry, tables):
    ranks = {FILLED: 2, PARTLY: 1, TO_COMPLETE: 0}
    for name in NAMES:
        full, less = fill_checklist(name, RECORD, tables), fill_checklist(name, without(entry), tables)
        for old, new in zip(full.itertuples(), less.itertuples(), strict=True):
            if NOT_APPLICABLE not in (old.status, new.status):
                assert ranks[new.status] <= ranks[old.status], (name, old.number)


@pytest.mark.parametrize("table", ["metrics", "confusion", "calibration", "comparison", "models", "cohort",
                                   "features_summary"])  # fmt: skip
def test_evidence_of_a_table_goes_with_the_table(table, tables):
    less = {name: frame for name, frame in tables.items() if name != table}
    for name in NAMES:
        filled = fill_checklist(name, RECORD, less)
        assert not filled["sources"].str.contains(rf"tables\.{table}\b").any()
    lost = [
        number
        for name in NAMES
        for number, old, new in zip(
            NUMBERS[name], fill_checklist(name, RECORD, tables)["evidence"],
            fill_checklist(name, RECORD, less)["evidence"], strict=True,
        )
        if len(new) < len(old)
    ]  # fmt: skip
    assert lost


def test_a_sentence_can_only_read_what_its_key_declares():
    facts = Facts(RECORD, {}, ("settings.folds",))
    assert facts.get("settings.folds") == 5
    with pytest.raises(KeyError, match="not declared"):
        facts.get("settings.seed")
    with pytest.raises(KeyError, match="not declared"):
        facts.table("metrics")


def test_inputs_are_not_modified(tables):
    record, frames = copy.deepcopy(RECORD), {name: table.copy() for name, table in tables.items()}
    for name in NAMES:
        fill_checklist(name, record, frames)
    assert record == RECORD
    for name, table in tables.items():
        pd.testing.assert_frame_equal(frames[name], table)


# What the sentences claim about the models is what the package does


def test_sentences_on_preprocessing_agree_with_the_pipeline():
    from hybrid.classifiers import CLASSIFIERS, ProbabilitySVC, make_prefix
    from hybrid.fold_options import fold_facts
    from hybrid.fusion import FeatureSet
    from hybrid.selection import MAX_CORRELATION, MAX_FEATURES

    prefix = make_prefix(FeatureSet("x", (("rad_a", "rad_b"),)))
    steps = dict(prefix.transformers[0][1].steps)
    assert list(steps) == ["impute", "constant", "scale", "correlation", "select"]
    assert steps["impute"].strategy == "median"
    assert type(steps["scale"]).__name__ == "StandardScaler"
    selection = evidence("clear", "33", RECORD)
    assert f"above {steps['correlation'].threshold:g} " in selection
    assert f"at most {steps['select'].k} of a block" in selection
    assert RECORD["in_fold"] == fold_facts()
    assert (steps["correlation"].threshold, steps["select"].k) == (MAX_CORRELATION, MAX_FEATURES)
    machines = [name for name, known in CLASSIFIERS.items() if isinstance(known.make(0), ProbabilitySVC)]
    weighted = [name for name in CLASSIFIERS if "weighted" in evidence("clear", "30", _only(name), _confusion())]
    assert weighted == machines
    fitted = ProbabilitySVC().fit(np.arange(8.0)[:, None], np.array([0] * 6 + [1] * 2))
    assert fitted.machine_.class_weight == "balanced"
    others = [known.make(0) for name, known in CLASSIFIERS.items() if name not in machines]
    assert all(estimator.get_params().get("class_weight") is None for estimator in others)


def test_a_new_setting_silences_the_sentences_on_preprocessing_until_they_are_checked():
    record = with_entry(("settings", "harmonisation"), "combat")
    for number in ("15", "29", "30", "32", "33"):
        text = evidence("clear", number, record, _confusion())
        assert not any(word in text for word in ("training patients only", "median", "standardised", "correlation"))
        assert status("clear", number, record, _confusion()) != FILLED


def test_the_settings_that_sentences_take_into_account_are_those_of_a_study():
    from hybrid.pipelines.config import StudyConfig

    assert set(StudyConfig.model_fields) == KNOWN_SETTINGS, "Look at the sentences on preprocessing, then add the name."


def test_every_selector_of_a_study_is_told_in_words():
    from hybrid.analysis.methods import SELECTOR_NAMES
    from hybrid.fold_options import NEEDS_TABLE
    from hybrid.selection_methods import SELECTORS

    assert set(SELECTOR_NAMES) == set(SELECTORS) - set(NEEDS_TABLE)


def test_options_of_the_fold_are_told_as_they_were_recorded():
    from hybrid.fold_options import fold_facts

    options = {"selector": "lasso", "harmonise": "scanner", "imbalance": "class_weight"}
    facts = fold_facts(**options, max_features=6)
    facts["harmonisation"] |= {"n_cases_never_adjusted": 3, "n_cases_at_times_unadjusted": 0}
    record = {**RECORD, "settings": {**RECORD["settings"], **options}, "in_fold": facts}
    selection = evidence("clear", "33", record)
    assert "the lasso" in selection
    assert "at most 6 of a block" in selection
    assert "furthest from 0.5" not in selection
    assert "harmonisation, scaling" in evidence("clear", "29", record) + evidence("clear", "15", record)
    scaling = evidence("clear", "32", record)
    assert "values of scanner by ComBat" in scaling
    assert "cases never adjusted: 3" in scaling
    assert "not harmonised" in evidence("clear", "32", RECORD)
    weights = evidence("tripod_ai", "13", record)
    assert "weighted inversely to their size" in weights
    assert "they were not recalibrated" in weights


def test_facts_that_are_not_recorded_are_not_claimed():
    for number in ("29", "32", "33"):
        assert status("clear", number, without(("in_fold",)), _confusion()) in (TO_COMPLETE, PARTLY)
        assert "median" not in evidence("clear", number, without(("in_fold",)), _confusion())


def _only(classifier):
    return with_entry(("settings", "classifiers"), [classifier])


def _confusion():
    return {"confusion": pd.DataFrame({"tp": [3], "fn": [1], "fp": [2], "tn": [6]})}


def test_the_no_information_rate_is_the_share_of_the_larger_class():
    text = evidence("clear", "47", RECORD, _confusion())
    assert "No-information rate (accuracy of always naming the more frequent class): 0.667." in text
    assert "12 cases, 4 with the event (33.3 %) and 8 without" in evidence("clear", "30", RECORD, _confusion())


# Extraction


def custom(document):
    return with_entry(("settings", "images"), {"ct": {"handcrafted": document}, "pet": {"handcrafted": None}})


def test_parameters_of_a_file_are_told_with_pyradiomics_own_rules():
    record = custom({"setting": {"binWidth": 5, "binCount": 16}, "imageType": {"Original": {}, "LoG": {"binWidth": 3}}})
    assert evidence("clear", "22", record) == "Resampling, ct: not resampled."
    assert evidence("clear", "23", record) == "Discretisation, ct: Original 16 bins, LoG 16 bins."
    assert "ct: all of PyRadiomics" in evidence("clear", "26", record)
    assert "PyRadiomics' default" in evidence("clear", "23", custom({"setting": {"label": 1}}))
    assert "(2 features)" in evidence("clear", "26", custom({"featureClass": {"glcm": ["Contrast", "Idm"]}}))


def test_pyradiomics_itself_prefers_a_count_of_bins():
    operations = pytest.importorskip("radiomics.imageoperations")
    edges = operations.getBinEdges(np.arange(100.0), binWidth=5, binCount=16)
    assert len(edges) - 1 == 16


def test_a_preset_that_the_record_does_not_spell_out_gives_no_sentence(tables):
    record = without(("presets", "ct"))
    for number in ("22", "23", "24", "26", "28"):
        assert status("clear", number, record, tables) == TO_COMPLETE
    assert status("metrics", "12", record, tables) == TO_COMPLETE


def test_several_images_are_told_apart_and_are_not_uni_parametric():
    images = {"ct": {"handcrafted": "ct"}, "pet": {"handcrafted": {"setting": {"binWidth": 0.25}}}}
    record = with_entry(("settings", "images"), images)
    text = evidence("clear", "23", record)
    assert "ct: Original bin width 10 HU" in text
    assert "pet: Original bin width 0.25" in text
    assert status("metrics", "23", record) == TO_COMPLETE
    assert status("metrics", "23", RECORD) == PARTLY


# Evaluation


def test_an_external_validation_claims_no_cross_validation(tables):
    record = {**RECORD, "model": "/data/models/frozen"}
    for name in NAMES:
        filled = fill_checklist(name, record, tables)
        assert not filled["evidence"].str.contains("cross-validation").any()
    assert (
        evidence("metrics", "27", record)
        == "The frozen model frozen was applied unchanged to 26 cases of new patients."
    )
    assert status("metrics", "26", record) == TO_COMPLETE
    assert status("tripod_ai", "12f", record) == FILLED
    assert status("tripod_ai", "12c", record) == NOT_APPLICABLE
    assert status("tripod_ai", "12f", RECORD) == NOT_APPLICABLE


def test_predictions_of_others_get_no_claim_about_how_they_were_made(tables):
    record = {"settings": {"folds": 5, "classifiers": ["logistic"]}, "versions": {}}
    for number in ("29", "32", "33"):
        assert status("clear", number, record, tables) in (TO_COMPLETE, PARTLY)
    assert "median" not in evidence("clear", "29", record, tables)


def test_a_clinical_model_counts_fully_only_with_a_test_against_it(tables, make_predictions):
    assert status("metrics", "24", RECORD, tables) == PARTLY
    assert "clinical_test" in fill_checklist("metrics", RECORD, tables)["missing_keys"][23]
    tested = tables["comparison"].assign(feature_set_b="clinical", model_b="clinical model", p=0.0321)
    assert status("metrics", "24", RECORD, {**tables, "comparison": tested}) == FILLED
    text = evidence("metrics", "24", RECORD, {**tables, "comparison": tested})
    assert "handcrafted minus clinical model" in text
    assert "p = 0.032" in text
    assert status("metrics", "25", RECORD, tables) == PARTLY
    tested = tables["comparison"].assign(feature_set_b="volume", model_b="volume")
    assert status("metrics", "25", RECORD, {**tables, "comparison": tested}) == FILLED


def test_performance_equals_the_table(tables):
    text = evidence("clear", "47", RECORD, tables)
    for row in tables["models"].query("role == 'model'").itertuples():
        assert f"{row.model} {row.auc:.2f} ({row.lower:.2f}–{row.upper:.2f})" in text


@pytest.mark.parametrize(
    ("record", "claims"), [(RECORD, True), ({**RECORD, "model": "m"}, False), ({"settings": {}}, False)]
)
def test_an_empty_table_of_problems_is_a_finding_only_where_a_check_was_made(record, claims):
    empty = {"problems": pd.DataFrame(columns=["case_id"])}
    assert ("found no problem" in evidence("tripod_ai", "7", record, empty)) is claims


def test_nobody_left_out_is_said_only_when_the_counts_agree():
    empty = {"excluded": pd.DataFrame(columns=["case_id", "evaluated"])}
    assert "No case was left out" in evidence("clear", "45", RECORD, empty)
    assert "No case was left out" not in evidence("clear", "45", with_entry(("n_evaluated",), 25), empty)
    failed = pd.DataFrame({"case_id": ["a", "a", "b"], "evaluated": [False, False, True]})
    assert "3 failures recorded" in evidence("clear", "45", RECORD, {"excluded": failed})
    assert "not evaluated: 1." in evidence("clear", "45", RECORD, {"excluded": failed})


def test_tables_of_other_analyses_add_their_evidence(tables):
    icc = pd.DataFrame({"feature": ["a", "b"], "kind": "ICC2", "icc": [0.9, 0.2], "n_subjects": 12, "n_raters": 2})
    size = pd.DataFrame({"criterion": ["shrinkage", "fit"], "n": [200, 350]})
    design = pd.DataFrame({"check": ["batch association"], "finding": ["Site is related to the outcome."]})
    more = {**tables, "icc": icc, "sample_size": size, "design_checks": design}
    assert evidence("clear", "31", RECORD, more).startswith("Intraclass correlation on 12 cases and 2 segmentations")
    assert "1 of 2 features" in evidence("clear", "31", RECORD, more)
    assert "350 patients, from the criterion: fit" in evidence("clear", "9", RECORD, more)
    assert status("metrics", "16", RECORD, more) == FILLED
    assert evidence("metrics", "19", RECORD, more).startswith("Site is related to the outcome. ")


def test_checks_of_the_design_are_read_as_they_are_written():
    from hybrid.analysis import check_design

    rng = np.random.default_rng(0)
    cases = [f"c{i}" for i in range(40)]
    features = pd.DataFrame(rng.normal(size=(40, 6)), index=pd.Index(cases, name="case_id")).add_prefix("rad_")
    outcome = pd.Series(np.repeat([0, 1], 20), index=cases)
    site = pd.Series(np.repeat(["A", "B"], 20), index=cases, name="site")
    checks = check_design(features, outcome, batches=site)
    text = evidence("clear", "36", RECORD, {"design_checks": checks})
    assert "site" in text
    without_batches = check_design(features, outcome)
    assert evidence("clear", "36", RECORD, {"design_checks": without_batches}) == ""


def test_predicted_masks_switch_on_their_evaluation():
    overlap = pd.DataFrame(
        {"split": ["train", "test"], "structure": "mass", "metric": "dice", "n_cases": [30, 10], "mean": [0.9, 0.8],
         "ci_low": [0.85, 0.7], "ci_high": [0.95, 0.88]}
    )  # fmt: skip
    assert status("metrics", "9", RECORD) == NOT_APPLICABLE
    text = evidence("metrics", "9", RECORD, {"masks_summary": overlap})
    assert text == "Dice of predicted against reference masks: mass in 10 test cases 0.80 (0.70–0.88)."


def test_conditions_can_be_given():
    assert status("metrics", "9", RECORD, conditions={"automated_segmentation": True}) == TO_COMPLETE
    assert status("metrics", "8", RECORD, conditions={"segmentation": False}) == NOT_APPLICABLE
    only_deep = with_entry(("settings", "images"), {"image": {"handcrafted": None}})
    assert status("metrics", "12", only_deep) == NOT_APPLICABLE
    with pytest.raises(InputError, match="Did you mean 'segmentation'"):
        fill_checklist("metrics", RECORD, conditions={"segmentatoin": True})


# METRICS


def test_metrics_weights_are_those_of_the_paper():
    # METRICS (doi:10.1186/s13244-023-01572-w): categories get rank sums, ranks in the order that the abstract gives,
    # and share them among their items by rank. 44.5 is the sum of the categories' ranks.
    items = read_checklist("metrics")
    assert items["weight"].sum() == pytest.approx(1.0, abs=5e-4)
    ranks = (items.groupby("section", sort=False)["weight"].sum() * 44.5).round(1)
    assert ranks.tolist() == [9.0, 6.5, 3.0, 6.0, 4.0, 4.0, 6.0, 5.0, 1.0]
    heaviest = items.nlargest(5, "weight")["number"].tolist()
    assert heaviest == ["3", "27", "2", "11", "18"]


def test_only_metrics_has_weights(tables):
    for name in NAMES:
        has = read_checklist(name)["weight"].notna()
        assert has.all() if name == "metrics" else not has.any()
    share = summarise_checklist(fill_checklist("clear", RECORD, tables))["share_of_weight"]
    assert share.isna().all()


def test_the_evidenced_share_counts_filled_items_over_those_that_apply(tables):
    filled = fill_checklist("metrics", RECORD, tables)
    known = ["11", "12", "13", "15", "18", "20", "21", "22", "26"]
    assert filled.loc[filled["status"] == FILLED, "number"].tolist() == known
    assert filled.loc[filled["status"] == NOT_APPLICABLE, "number"].tolist() == ["9", "17"]
    table = summarise_checklist(filled).set_index("status")
    # .0622 + .0311 + .0415 + .02 + .0599 + .0352 + .0234 + .0176 + .0375 over 1 - .0225 - .02
    assert table.loc[FILLED, "share_of_weight"] == pytest.approx(0.3284 / 0.9575, abs=2e-4)
    assert table["n_items"].sum() == 30
    applies = table.drop(NOT_APPLICABLE)
    assert applies["share_of_weight"].sum() == pytest.approx(1)
    assert applies["share_of_items"].sum() == pytest.approx(1)
    assert np.isnan(table.loc[NOT_APPLICABLE, "share_of_weight"])


# Files


def test_section_has_one_row_per_item_and_says_that_the_share_is_no_score(tables):
    section = checklist_section(fill_checklist("metrics", RECORD, tables))
    rows = [row for row in section.views[0].rows if row.kind != "group"]
    assert [row.cells[0].text for row in rows] == NUMBERS["metrics"]
    text = " ".join(part for pair in section.text for part in pair)
    assert "34.3 % of the weight" in text
    assert "not the score" in text
    assert "Simulated patients" in text
    assert SOURCES["metrics"] in text
    real = checklist_section(fill_checklist("metrics", with_entry(("settings", "simulated"), False), tables))
    assert "Simulated" not in real.text[0][0]


def test_files_return_what_was_filled(tables, tmp_path):
    files = write_checklists(tmp_path, RECORD, tables, is_word=False)
    assert list(files) == list(NAMES)
    for name, path in files.items():
        read = pd.read_csv(path, dtype={"number": str}, keep_default_na=False)
        assert read["number"].tolist() == NUMBERS[name]
        assert read["evidence"].tolist() == fill_checklist(name, RECORD, tables)["evidence"].tolist()


def test_word_file_holds_every_checklist(tables, tmp_path):
    docx = pytest.importorskip("docx")
    files = write_checklists(tmp_path, RECORD, tables)
    document = docx.Document(str(files["docx"]))
    for name, table in zip(NAMES, document.tables, strict=True):
        numbers = [row.cells[0].text for row in table.rows[1:] if len({cell.text for cell in row.cells}) > 1]
        assert numbers == NUMBERS[name]


def test_a_record_read_from_its_file_gives_the_same(tables, tmp_path):
    path = tmp_path / "run_record.json"
    path.write_text(json.dumps(RECORD))
    pd.testing.assert_frame_equal(
        fill_checklist("clear", json.loads(path.read_text(encoding="utf-8")), tables),
        fill_checklist("clear", RECORD, tables),
    )


def test_wrong_inputs_are_named():
    with pytest.raises(InputError, match="Did you mean 'metrics'"):
        fill_checklist("metric", RECORD)
    with pytest.raises(InputError, match="must be a mapping; found list"):
        fill_checklist("clear", [])
