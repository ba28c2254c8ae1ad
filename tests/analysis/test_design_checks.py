"""Checks before training: each finds its problem, and keeps quiet without one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from hybrid.analysis.design_checks import (
    DESIGN_COLUMNS,
    association_p,
    check_design,
    near_duplicates,
    single_feature_aucs,
)
from hybrid.errors import InputError


def study(n=80, n_events=32, k=12, seed=0):
    rng = np.random.default_rng(seed)
    index = pd.Index([f"case{i:02d}" for i in range(n)], name="case_id")
    features = pd.DataFrame(rng.normal(size=(n, k)), index=index, columns=[f"rad_f{i}" for i in range(k)])
    outcome = pd.Series(rng.permutation(np.repeat([1, 0], [n_events, n - n_events])), index=index)
    return features, outcome


def rows(table, check):
    return table[table["check"] == check].reset_index(drop=True)


def only(table, check):
    found = rows(table, check)
    assert len(found) == 1
    return found.iloc[0]


def test_a_sound_study_has_no_warning_but_that_about_its_size():
    features, outcome = study()
    table = check_design(features, outcome, n_parameters=1)
    assert tuple(table.columns) == DESIGN_COLUMNS
    assert set(table["level"]) <= {"info", "warning"}
    assert table.loc[table["level"] == "warning", "check"].tolist() == ["events per candidate parameter"]
    assert table["check"].is_unique


def test_a_large_study_of_one_parameter_has_no_warning_at_all():
    features, outcome = study(n=600, n_events=240)
    assert (check_design(features, outcome, n_parameters=1)["level"] == "info").all()


def test_inputs_are_left_alone_and_their_order_does_not_matter():
    features, outcome = study()
    before = features.copy(deep=True)
    shuffled = outcome.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(check_design(features, shuffled), check_design(features, outcome))
    pd.testing.assert_frame_equal(features, before)


@pytest.mark.parametrize(
    ("n", "n_events", "level"), [(80, 32, "info"), (80, 6, "warning"), (300, 20, "warning"), (40, 0, "error")]
)
def test_class_balance(n, n_events, level):
    row = only(check_design(*study(n=n, n_events=n_events)), "class balance")
    assert row["level"] == level
    assert f"{n_events} of {n} patients" in row["finding"]


def test_class_balance_counts_patients_not_scans():
    features, outcome = study()
    outcome.iloc[:] = np.tile([0, 1], 40)
    patients = pd.Series([f"p{i // 2}" for i in range(80)], index=outcome.index)
    row = only(check_design(features, outcome, patients=patients), "class balance")
    assert "40 of 40 patients (100%)" in row["finding"]


def test_events_per_parameter_count_every_feature_unless_told_otherwise():
    features, outcome = study(n=600, n_events=240, k=102)
    every = only(check_design(features, outcome), "events per candidate parameter")
    assert every["level"] == "warning"
    assert "102 candidate parameters" in every["finding"]
    few = only(check_design(features, outcome, n_parameters=2), "events per candidate parameter")
    assert few["level"] == "info"


def test_a_site_that_goes_with_the_outcome_is_found():
    features, outcome = study()
    rng = np.random.default_rng(1)
    site = pd.Series(np.where((outcome == 1) & (rng.random(80) < 0.7), "A", "B"), index=outcome.index, name="site")
    row = only(check_design(features, outcome, batches=site), "association of site with the outcome")
    assert row["level"] == "warning"
    assert "Fisher" in row["finding"]
    assert "One outcome only in: A" in row["finding"]


def test_a_site_that_determines_the_outcome_is_an_error():
    features, outcome = study()
    site = outcome.map({0: "A", 1: "B"}).rename("site")
    assert (
        only(check_design(features, outcome, batches=site), "association of site with the outcome")["level"] == "error"
    )


def test_several_batch_columns_are_tested_each_and_missing_values_reported():
    features, outcome = study()
    rng = np.random.default_rng(2)
    batches = pd.DataFrame({"site": rng.choice(["A", "B"], 80), "scanner": "one"}, index=outcome.index)
    batches.iloc[:3, 0] = None
    table = check_design(features, outcome, batches=batches)
    site = rows(table, "association of site with the outcome")
    assert site["level"].tolist() == ["warning", "info"]
    assert "3 cases have no value of site" in site["finding"].iloc[0]
    assert "one value" in only(table, "association of scanner with the outcome")["finding"]


def test_association_uses_fisher_chi_square_or_random_tables():
    two = np.array([[10, 3], [4, 9]])
    assert association_p(two) == (pytest.approx(stats.fisher_exact(two).pvalue), "Fisher's exact test")
    many = np.array([[20, 30], [25, 25], [30, 20]])
    assert association_p(many)[0] == pytest.approx(stats.chi2_contingency(many, correction=False).pvalue)
    # All tables with these margins listed by hand: P(as extreme) = 1/70 for either perfect split of 2 x 2 pairs.
    sparse = np.array([[2, 0], [2, 0], [0, 2], [0, 2]])
    p, method = association_p(sparse)
    assert "random tables" in method
    # Of C(8, 4) = 70 ways to choose four patients, 6 choose two whole pairs.
    assert p == pytest.approx(6 / 70, abs=0.01)


def test_constant_empty_and_infinite_features_are_named():
    features, outcome = study()
    features["rad_same"], features["rad_none"] = 3.0, np.nan
    features.loc["case05", "rad_f0"] = np.inf
    table = check_design(features, outcome)
    assert "rad_same" in only(table, "constant features")["finding"]
    assert "rad_none" not in only(table, "constant features")["finding"]
    assert only(table, "empty features")["level"] == "warning"
    assert only(table, "infinite values")["level"] == "error"
    assert "rad_f0" in only(table, "infinite values")["finding"]


def test_equal_feature_vectors_of_two_patients_are_an_error():
    features, outcome = study()
    features.iloc[4] = features.iloc[9]
    outcome.iloc[4], outcome.iloc[9] = 0, 1
    row = only(check_design(features, outcome), "duplicate cases")
    assert row["level"] == "error"
    assert "case04 and case09; 1 with different outcomes" in row["finding"]


def test_nearly_equal_feature_vectors_are_a_warning():
    features, outcome = study()
    features.iloc[4] = features.iloc[9] * 1.0005
    row = only(check_design(features, outcome), "duplicate cases")
    assert row["level"] == "warning"
    assert "nearly equal features: case04 and case09" in row["finding"]


def test_duplicates_within_a_patient_are_expected():
    features, outcome = study()
    features.iloc[4] = features.iloc[9]
    patients = pd.Series(outcome.index, index=outcome.index)
    patients.iloc[4] = patients.iloc[9]
    found = rows(check_design(features, outcome, patients=patients), "duplicate cases")
    assert set(found["level"]) == {"info"}
    assert "of one patient" in found["finding"].iloc[0]


def test_few_features_are_not_searched_for_duplicates():
    features, outcome = study(k=2)
    features.iloc[4] = features.iloc[9]
    row = only(check_design(features, outcome), "duplicate cases")
    assert (row["level"], row["finding"].startswith("Not checked")) == ("info", True)


def test_near_duplicates_survive_an_outlier_and_a_nearly_constant_column():
    values = np.random.default_rng(0).normal(size=(30, 8))
    values[3] = values[11] + 1e-3
    values[:, 6] *= 1e6
    values[3, 6] = values[11, 6] * (1 + 1e-6)
    values[20, 0] = 1e9
    values[:, 7] = 0
    values[3, 7] = 1e-6
    pairs, equal = near_duplicates(values)
    assert pairs == [(3, 11)]
    assert not equal[0]


def test_a_feature_that_leaks_the_outcome_is_found_in_either_direction():
    features, outcome = study()
    features["rad_leak"] = -5.0 * outcome + features["rad_f0"] * 0.1
    row = only(check_design(features, outcome), "near-perfect single features")
    assert row["level"] == "warning"
    assert "rad_leak (AUC 0.00)" in row["finding"]
    assert row["finding"].startswith("1 feature separates")


def test_near_perfect_features_by_chance_are_said_to_be_so():
    # 4 of 14 cases: among 5000 noise features some separate the classes completely.
    features, outcome = study(n=14, n_events=4, k=5000)
    row = only(check_design(features, outcome), "near-perfect single features")
    assert row["level"] == "info"
    assert "by chance" in row["finding"]


def test_single_feature_aucs_equal_scikit_learn_and_leave_out_missing_values():
    features, outcome = study(k=4)
    values = features.to_numpy().copy()
    values[:5, 1], values[7, 2], values[:, 3] = np.nan, np.inf, np.nan
    y = outcome.to_numpy() == 1
    areas, p = single_feature_aucs(values, y)
    for j in range(3):
        known = np.isfinite(values[:, j])
        assert areas[j] == pytest.approx(roc_auc_score(y[known], values[known, j]), abs=1e-12)
    assert np.isnan(areas[3])
    assert np.isnan(p[3])
    expected = stats.mannwhitneyu(values[y, 0], values[~y, 0]).pvalue
    assert p[0] == pytest.approx(expected)


def test_one_class_is_reported_and_nothing_fails():
    table = check_design(*study(n=30, n_events=30))
    assert only(table, "class balance")["level"] == "error"
    assert only(table, "near-perfect single features")["level"] == "info"


def test_regions_of_a_case_share_its_outcome():
    features, outcome = study(n=40, n_events=20)
    regions = pd.concat({1: features, 2: features + 1.0}, names=["roi_label"]).swaplevel()
    table = check_design(regions, outcome)
    assert "20 of 40 patients" in only(table, "class balance")["finding"]


def test_outcomes_that_do_not_fit_are_refused():
    features, outcome = study()
    with pytest.raises(InputError, match="outcome column has no value"):
        check_design(features, outcome.iloc[1:])
    with pytest.raises(InputError, match="must be 0 or 1"):
        check_design(features, outcome.replace(1, 2))
    with pytest.raises(InputError, match="two values for one case"):
        check_design(features, pd.concat([outcome, outcome.iloc[:1]]))
    with pytest.raises(InputError, match="at least one candidate parameter"):
        check_design(features, outcome, n_parameters=0)
    with pytest.raises(InputError, match="no rows or no columns"):
        check_design(features.iloc[:0], outcome)
