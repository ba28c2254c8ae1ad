"""Operating points, cut-offs, intervals and single features as the report shows them."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import Report, auc_intervals, compare_models, evaluate_models, net_benefit_difference
from hybrid.analysis.detail_part import detail_tables
from hybrid.analysis.panel import Panel

FAST = {"n_bootstrap": 200, "seed": 0}
MODEL = ("handcrafted", "selected")


@pytest.fixture(scope="module")
def predictions(make_predictions):
    return make_predictions(
        60, 24, classifiers=("logistic", "selected"), repeats=2, feature_sets=("handcrafted", "deep")
    )


@pytest.fixture(scope="module")
def report(predictions, make_cohort, make_features):
    cohort = make_cohort(predictions)
    result = compare_models(predictions, contrast=[("handcrafted", "deep")], **FAST)
    return Report(
        cohort, make_features(cohort), predictions, result, metrics=evaluate_models(predictions, **FAST),
        relative_cost=5.0, **FAST,
    )  # fmt: skip


def test_tables_of_the_report_equal_the_public_functions(report, predictions):
    tables = report.tables()
    y, scores = Panel.from_predictions(predictions).select([MODEL]).by_patient()
    expected = auc_intervals(y, scores[0], **FAST)
    own = tables["auc_intervals"].query("feature_set == 'handcrafted'")
    np.testing.assert_array_equal(own["ci_low"], expected["ci_low"])
    assert own.loc[own["is_preferred"], "method"].tolist() == ["logit"]
    expected = net_benefit_difference(
        predictions, MODEL, ("deep", "selected"), thresholds=(0.1, 0.2, 0.3, 0.5), n_bootstrap=200, seed=0
    )
    pd.testing.assert_frame_equal(tables["net_benefit_difference"], expected)


def test_attainable_never_exceeds_interpolated_and_cost_moves_the_cut_off(report):
    points = report.tables()["operating_points"]
    assert (points["attainable"] <= points["interpolated"] + 1e-12).all()
    assert (points["attained"] >= points["wanted"] - 1e-12).all()
    cuts = report.tables()["cut_offs"].query("feature_set == 'handcrafted' and measure == 'sensitivity'")
    by_criterion = cuts.set_index("criterion")["estimate"]
    # A missed case costs as much as five false positives: more patients are called positive.
    assert by_criterion["cost"] >= by_criterion["youden"]


def test_page_shows_every_part_and_says_why_an_interval_is_preferred(report, tmp_path):
    text = html.unescape(report.save(tmp_path / "r.html").read_text(encoding="utf-8"))
    for words in (
        "Operating points, cut-offs and intervals", "DeLong, logit (preferred)", "too narrow in small samples",
        "Sensitivity at specificity 0.9", "Cost 5", "Partial AUC at high specificity", "Difference in net benefit",
        "What the models look at", "Each feature alone", "false discovery rate of Benjamini",
    ):  # fmt: skip
        assert words in text
    names = {path.stem for path in (tmp_path / "tables").glob("*.csv")}
    assert {"auc_intervals", "operating_points", "cut_offs", "partial_auc", "univariate_screening"} <= names


def test_rows_that_differ_within_patients_get_the_variance_of_clusters(make_predictions):
    table = make_predictions(40, 16, classifiers=("selected",), repeats=1, feature_sets=("handcrafted",))
    # Two cases per patient, of which one may have the event.
    table["patient_id"] = "p" + (table["case_id"].str[4:].astype(int) // 2).astype(str)
    panel = Panel.from_predictions(table)
    options = {"relative_cost": 1.0, "n_bootstrap": 100, "seed": 0, "level": 0.95}
    tables = detail_tables(table, panel, list(panel.models), [], **options)
    assert list(tables) == ["auc_clustered"]
    row = tables["auc_clustered"].iloc[0]
    assert (row["n_rows"], row["n_patients"]) == (40, 20)
    assert row["lower"] < row["auc"] < row["upper"]
