"""Sections of the report on centres, refits, tests of calibration and the next study, from simulated predictions."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import (
    Report,
    auc_difference_power,
    compare_models,
    evaluate_models,
    hosmer_lemeshow,
    measure_validation,
    sample_size_auc_difference,
    spiegelhalter_test,
    unpaired_delong_from_summary,
    unpaired_delong_test,
)
from hybrid.analysis.calibration_tests import calibration_tests, calibration_tests_view
from hybrid.analysis.optimism import permutation_p
from hybrid.analysis.panel import Panel
from hybrid.analysis.planning_part import MAX_CORRELATION, plan_next_study, planning_section
from hybrid.analysis.resampling_part import permutation_tests, resampled_view, resampling_tables
from hybrid.analysis.roc import auc, delong_covariance, delong_interval
from hybrid.analysis.site_part import SITE_COLUMNS, compare_sites, sites_of
from hybrid.analysis.validation import compare_validation_auc, variance_of_interval
from hybrid.errors import InputError

FAST = {"n_bootstrap": 100, "seed": 0}
A, B = ("handcrafted", "selected"), ("deep", "selected")


@pytest.fixture(scope="module")
def predictions(make_predictions):
    return make_predictions(
        120, 48, classifiers=("logistic", "selected"), repeats=2, feature_sets=("handcrafted", "deep")
    )


@pytest.fixture(scope="module")
def panel(predictions):
    return Panel.from_predictions(predictions)


@pytest.fixture(scope="module")
def resampled():
    rows = [
        ("handcrafted", "auc", "resubstitution", 0.95, True), ("handcrafted", "auc", "632_plus", 0.71, False),
        ("handcrafted", "auc", "optimism_corrected", 0.8, True), ("handcrafted", "brier", "632_plus", 0.2, False),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["feature_set", "metric", "method", "estimate", "is_optimistic"])
    return table.assign(lower=table["estimate"] - 0.1, upper=np.minimum(table["estimate"] + 0.04, 1), n_fits=200)


@pytest.fixture(scope="module")
def report(predictions, make_cohort, make_features, make_null, resampled):
    cohort = make_cohort(predictions)
    result = compare_models(predictions, contrast=[("handcrafted", "deep")], **FAST)
    return Report(
        cohort, make_features(cohort), predictions, result, metrics=evaluate_models(predictions, **FAST),
        null=make_null(("handcrafted", "deep")), resampled=resampled, risk_categories=(0.2, 0.5), **FAST,
    )  # fmt: skip


def test_every_section_is_on_the_page_with_its_method(report, tmp_path):
    text = html.unescape(report.save(tmp_path / "r.html").read_text(encoding="utf-8"))
    for words in (
        "How many patients would the next study need?", "doi:10.1198/000313001300339897", "AUC by centre",
        "Welch's t", "Tests of calibration", "doi:10.1002/sim.4780050506", "Permutation test: is there any signal?",
        "doi:10.2202/1544-6115.1585", "AUC over test folds", "Refits on bootstrap samples of patients",
        "doi:10.1080/01621459.1997.10474007", "Change of the risk category", "categories cut at 0.2, 0.5",
        "p, Hochberg", "doi:10.1093/biomet/75.4.800", "Corrected p", ">E90<", ">Intercept<",
    ):  # fmt: skip
        assert words in text, words
    names = {path.stem for path in (tmp_path / "tables").glob("*.csv")}
    assert names >= {"next_study", "auc_by_site", "calibration_tests", "permutation_test", "repeated_cv", "resampled",
                     "reclassification_categories"}  # fmt: skip


def test_other_formats_have_the_same_sections(report, tmp_path):
    sections = {section.title: section for section in report.sections(tmp_path, report.tables())}
    assert {"How many patients would the next study need?", "By centre", "Chance, folds and refits"} <= set(sections)
    captions = [view.caption for view in sections["Calibration and usefulness"].views]
    assert captions == ["Calibration", "Tests of calibration"]


def test_planning_equals_the_public_functions_and_uses_declared_differences_only(panel):
    table = plan_next_study(panel, (A, B))
    y, scores = panel.select([A, B]).by_patient()
    areas, covariance = delong_covariance(y, scores)
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert table["difference"].tolist() == [0.05, 0.10]
    assert table["correlation"].to_numpy() == pytest.approx(correlation)
    for row in table.to_dict("records"):
        pair = (min(areas), min(areas) + row["difference"])
        power = auc_difference_power(*pair, 48, 72, correlation=correlation)
        assert row["power"] == pytest.approx(power, rel=1e-12)
        size = sample_size_auc_difference(*pair, power=0.9, ratio=72 / 48, correlation=correlation)
        assert (row["n_90"], row["events_90"]) == (size.n_total, size.n_positive)
        assert row["n_80"] < row["n_90"]


def test_planning_for_identical_or_perfect_models_stays_finite_or_says_so(make_predictions):
    table = make_predictions(40, 16, classifiers=("selected",), repeats=1, feature_sets=("handcrafted", "deep"))
    own = table[table["feature_set"] == "deep"]
    twins = pd.concat([own, own.assign(feature_set="twin")])
    assert plan_next_study(Panel.from_predictions(twins), (B, ("twin", "selected")))["correlation"][0] == (
        MAX_CORRELATION
    )
    perfect = twins.assign(y_prob=0.1 + 0.8 * twins["y_true"])
    planned = plan_next_study(Panel.from_predictions(perfect), (B, ("twin", "selected")))
    assert planned["n_80"].isna().all()
    assert planning_section({"next_study": planned}, 0.95) is not None


def test_centres_equal_unpaired_delong_of_disjoint_patients(panel, make_cohort, predictions):
    sites = sites_of(make_cohort(predictions))
    table = compare_sites(panel, sites, [A, B])
    assert tuple(table.columns) == SITE_COLUMNS
    y, scores = panel.select([A]).by_patient()
    inside = np.array([sites[case] == "A" for case in panel.units["case_id"]])
    test = unpaired_delong_test(
        y[inside].astype(int), scores[0][inside], y[~inside].astype(int), scores[0][~inside]
    )  # fmt: skip
    row = table.iloc[0]
    assert (row["site"], row["difference"], row["p"]) == ("A", test.difference, test.p)
    assert row["auc"] == delong_interval(y[inside].astype(int), scores[0][inside])[0]
    # Of two centres the second test would be the first again.
    assert table["p"].isna().tolist() == [False, True, False, True]
    assert (table["n_comparisons"] == 2).all()


def test_centres_are_left_out_when_small_unknown_or_shared(panel, predictions, make_cohort):
    cohort = make_cohort(predictions)
    assert compare_sites(panel, {}, [A]).empty
    assert compare_sites(panel, sites_of(cohort), [A], min_of_class=100).empty
    assert sites_of(cohort.drop(columns="site")) == {}
    assert sites_of(cohort.assign(site=None)) == {}
    three = dict(zip(cohort["case_id"], ["A", "B", "C"] * 40, strict=True))
    table = compare_sites(panel, three, [A])
    assert table["p"].notna().all()
    assert (table["n_patients"] + table["n_others"] == 120).all()
    shared = predictions.assign(patient_id=[f"p{int(case[4:]) // 2}" for case in predictions["case_id"]])
    assert compare_sites(Panel.from_predictions(shared), three, [A]).empty


def test_external_auc_is_tested_as_if_both_groups_of_patients_were_there(make_predictions, tmp_path):
    settings = {"feature_sets": ("handcrafted",), "classifiers": ("selected",)}
    inside = make_predictions(60, 24, repeats=2, **settings)
    outside = make_predictions(50, 20, repeats=1, seed=7, **settings).assign(split="external", fold=0)
    internal = measure_validation(inside, **FAST)
    table = compare_validation_auc(internal, measure_validation(outside, **FAST))
    groups = [Panel.from_predictions(rows).by_patient() for rows in (outside, inside)]
    test = unpaired_delong_test(groups[0][0], groups[0][1][0], groups[1][0], groups[1][1][0])
    row = table.iloc[0]
    for name in ("difference", "lower", "upper", "statistic", "df", "p"):
        assert row[name] == pytest.approx(getattr(test, name), rel=1e-9), name
    report = Report(None, None, outside, internal=internal, title="External", **FAST)
    text = html.unescape(report.save(tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "AUC in new patients against the internal one" in text
    assert "unpaired DeLong test" in text


def test_an_auc_of_one_is_shown_without_a_test(make_predictions):
    settings = {"feature_sets": ("handcrafted",), "classifiers": ("selected",), "repeats": 1}
    inside = make_predictions(60, 24, **settings)
    outside = make_predictions(30, 12, seed=3, **settings).assign(split="external", fold=0)
    outside["y_prob"] = 0.1 + 0.8 * outside["y_true"]
    row = compare_validation_auc(measure_validation(inside, **FAST), measure_validation(outside, **FAST)).iloc[0]
    assert row["auc_external"] == 1.0
    assert np.isnan(row["p"])
    assert "no usable variance" in row["method"]


def test_variance_is_read_back_from_its_interval():
    y, score = np.repeat([0, 1], 20), np.random.default_rng(1).normal(size=40) + np.repeat([0, 1], 20)
    variance = delong_covariance(y, score)[1][0, 0]
    for level in (0.9, 0.95):
        bounds = delong_interval(y, score, level=level)
        assert variance_of_interval(*bounds, level=level) == pytest.approx(variance, rel=1e-12)
    assert np.isnan(variance_of_interval(0.7, np.nan, np.nan))


def test_summaries_without_variance_or_patients_are_refused():
    for bad in ((0.8, np.nan, 20, 0.7, 0.01, 20), (0.8, -0.1, 20, 0.7, 0.01, 20), (0.8, 0.01, 1, 0.7, 0.01, 20)):
        with pytest.raises(InputError, match="variance and two patients"):
            unpaired_delong_from_summary(*bad)


def test_tests_of_calibration_equal_the_public_functions(panel):
    table = calibration_tests(panel, [A, B])
    y, scores = panel.select([A]).by_patient()
    found = hosmer_lemeshow(y.astype(int), scores[0])
    row = table.iloc[0]
    assert (row["hl_statistic"], row["hl_df"], row["hl_p"]) == (found.statistic, found.degrees_of_freedom, found.p)
    assert (row["spiegelhalter_z"], row["spiegelhalter_p"]) == spiegelhalter_test(y.astype(int), scores[0])


def test_a_constant_prediction_has_no_hosmer_lemeshow_test(predictions):
    constant = predictions.assign(y_prob=0.4)
    table = calibration_tests(Panel.from_predictions(constant), [A])
    assert np.isnan(table.get("hl_p", pd.Series([np.nan])).iloc[0])
    assert calibration_tests_view(table).rows[0].cells[1].text == "–"


def test_permutations_are_compared_with_one_repeat(predictions, make_null):
    null = make_null(("handcrafted", "deep"))
    table = permutation_tests(predictions, [A, B], null)
    own = predictions.query("feature_set == 'deep' and classifier == 'selected' and repeat == 0")
    drawn = null.loc[null["feature_set"] == "deep", "auc"]
    assert table["auc"][1] == auc(own["y_true"], own["y_prob"])
    assert table["p"][1] == permutation_p(table["auc"][1], drawn).p
    assert permutation_tests(predictions, [A], None).empty


def test_predictions_without_folds_have_no_variance_over_folds(predictions):
    one_fold = predictions.assign(fold=0).query("repeat == 0")
    assert resampling_tables(one_fold, [A], None, None, level=0.95) == {}
    assert set(resampling_tables(predictions, [A], None, None, level=0.95)["repeated_cv"]["feature_set"]) == {A[0]}


def test_optimistic_estimates_are_marked(resampled):
    view = resampled_view(resampled, 0.95)
    assert [row.cells[1].text for row in view.rows] == ["0.95 *", "0.80 *", "0.71"]
    assert "known to be too good" in view.note
    assert "Leave-pair-out" not in view.note
    pair = resampled.tail(1).assign(method="leave_pair_out", metric="auc", n_fits=900)
    note = resampled_view(pd.concat([resampled, pair]), 0.95).note
    assert "refitted 200 times" in note
    assert "(900 fits)" in note


def test_table_1_without_a_test_has_no_empty_list_of_tests(predictions, make_cohort, tmp_path):
    cohort = make_cohort(predictions)[["case_id", "patient_id", "outcome"]]
    report = Report(cohort, None, predictions, metrics=evaluate_models(predictions, **FAST), **FAST)
    text = html.unescape(report.save(tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "Table 1" in text
    assert "p: ;" not in text
