"""Calls of models on the same patients, the family of all models, and internal beside external performance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hybrid.analysis import bayesian_correlated_t, corrected_resampled_t, evaluate_models, reclassification
from hybrid.analysis.model_agreement import (
    AGREEMENT_COLUMNS,
    compare_all_calls,
    compare_calls,
    patient_calls,
    reclassify_pairs,
)
from hybrid.analysis.model_family import (
    FAMILY_COLUMNS,
    compare_family,
    family_pairs,
    rank_models,
    squared_errors,
)
from hybrid.analysis.panel import Panel
from hybrid.analysis.roc import auc
from hybrid.analysis.validation import (
    SHOWN,
    VALIDATION_COLUMNS,
    compare_validation,
    difference_interval,
    measure_validation,
)
from hybrid.errors import InputError

PAIR = [("handcrafted", "selected"), ("deep", "selected")]


def two_models(right_a, right_b, repeats=1):
    """Predictions of two models that are right on given patients, as probabilities 0.1 and 0.9 around a cut-off."""
    y = np.arange(len(right_a)) % 2
    rows = [
        (f"c{i:02d}", name, repeat, y[i], 0.9 if (y[i] == 1) == bool(right[i]) else 0.1)
        for name, right in (("a", right_a), ("b", right_b))
        for repeat in range(repeats)
        for i in range(len(y))
    ]
    return pd.DataFrame(rows, columns=["case_id", "feature_set", "repeat", "y_true", "y_prob"])


def test_only_patients_on_whom_one_model_is_right_count():
    a, b = np.ones(20, dtype=int), np.ones(20, dtype=int)
    b[:9], a[9:11] = 0, 0
    row = compare_calls(two_models(a, b, repeats=2), [("a", "b")]).iloc[0]
    assert (row["only_a_right"], row["only_b_right"], row["n_patients"]) == (9, 2, 20)
    assert row["difference"] == pytest.approx(7 / 20)
    assert row["p_exact"] == pytest.approx(2 * stats.binom.cdf(2, 11, 0.5))
    assert row["p_mid_p"] == pytest.approx(row["p_exact"] - stats.binom.pmf(2, 11, 0.5))


def test_identical_models_agree_fully():
    right = np.array([1, 1, 0, 1, 1, 0, 1, 1, 1, 1])
    table = two_models(right, right)
    row = compare_calls(table, [("a", "b")]).iloc[0]
    assert (row["p_mid_p"], row["p_exact"], row["p_holm"], row["kappa"], row["difference"]) == (1, 1, 1, 1, 0)
    assert compare_all_calls(table, ["a", "b"])["p"].iloc[0] == 1


def test_a_call_is_the_majority_of_the_repeats_each_at_its_own_cut_off():
    table = pd.DataFrame({
        "case_id": ["x", "z"] * 3, "repeat": [0, 0, 1, 1, 2, 2], "y_true": [1, 0] * 3,
        "y_prob": [0.3, 0.3, 0.5, 0.5, 0.6, 0.1], "threshold": [0.2, 0.4, 0.6, 0.6, 0.6, 0.2],
    })  # fmt: skip
    _, calls = patient_calls(Panel.from_predictions(table))
    assert calls.tolist() == [[True, False]]


def test_family_of_pairs_is_adjusted_together(small_predictions):
    contrast = [("handcrafted", "deep"), ("handcrafted", "fused")]
    models = list(small_predictions[["feature_set", "classifier"]].drop_duplicates().itertuples(index=False, name=None))
    pairs = family_pairs(models, contrast)
    assert len(pairs) == 4
    assert "selected" not in {model[1] for pair in pairs for model in pair}
    table = compare_family(small_predictions, pairs)
    assert tuple(table.columns) == FAMILY_COLUMNS
    assert (table["n_comparisons"] == 4).all()
    assert (table["p_holm"] >= table["p"]).all()
    np.testing.assert_allclose(table[["p_a_better", "p_equivalent", "p_b_better"]].sum(axis=1), 1)
    calls = compare_calls(small_predictions, [("handcrafted", "deep"), ("handcrafted", "fused")])
    assert tuple(calls.columns) == AGREEMENT_COLUMNS


def test_a_row_of_the_family_is_the_corrected_test_of_its_folds(small_predictions):
    pair = (("handcrafted", "logistic"), ("deep", "logistic"))
    row = compare_family(small_predictions, [pair], rope=0.05).iloc[0]
    differences = []
    for (_, _), rows in small_predictions.groupby(["repeat", "fold"]):
        areas = []
        for model in pair:
            own = rows[(rows["feature_set"] == model[0]) & (rows["classifier"] == model[1])]
            areas.append(auc(own["y_true"], own["y_prob"]) if own["y_true"].nunique() == 2 else np.nan)
        differences.append(areas[0] - areas[1])
    known = np.array(differences)[np.isfinite(differences)]
    assert (row["n_folds"], row["n_folds_left_out"]) == (len(known), 15 - len(known))
    test = corrected_resampled_t(known, n_train=21, n_test=5)
    assert (row["difference"], row["p"], row["lower"]) == pytest.approx((test.mean, test.p, test.lower))
    assert row["p_equivalent"] == pytest.approx(
        bayesian_correlated_t(known, n_train=21, n_test=5, rope=0.05).p_equivalent
    )


def test_predictions_of_one_fold_have_no_test_over_folds(small_predictions):
    pair = (("handcrafted", "logistic"), ("deep", "logistic"))
    with pytest.raises(InputError, match="two folds or more"):
        compare_family(small_predictions.query("repeat == 0").assign(fold=0), [pair])


def test_ranks_are_those_of_squared_errors_of_patients(small_predictions):
    errors = squared_errors(small_predictions)
    assert errors.shape == (26, 6)
    table = rank_models(errors)
    expected = stats.friedmanchisquare(*errors.to_numpy().T)
    assert table["chi2"].iloc[0] == pytest.approx(expected.statistic)
    assert table["mean_rank"].is_monotonic_increasing
    assert table["mean_rank"].sum() == pytest.approx(21)
    assert (table["n_blocks"] == 26).all()
    brier = evaluate_models(small_predictions, n_bootstrap=10).query("metric == 'brier'")
    assert set(table["classifier"]) == {"logistic", "random_forest"} <= set(brier["classifier"])


def test_reclassification_of_pairs_equals_the_single_call(small_predictions):
    table = reclassify_pairs(small_predictions, [tuple(PAIR)], n_bootstrap=50, seed=3)
    y, probability = Panel.from_predictions(small_predictions).select(PAIR).by_patient()
    alone = reclassification(y, probability[0], probability[1], n_bootstrap=50, seed=3)
    pd.testing.assert_frame_equal(table.drop(columns=["model_reference", "model_new"]), alone)
    assert len(table) == 6
    assert set(table["model_new"]) == {"deep"}


def test_patients_with_several_rows_are_not_compared_as_if_independent(small_predictions):
    lesions = small_predictions.assign(patient_id=[f"p{int(case[4:]) // 2}" for case in small_predictions["case_id"]])
    with pytest.raises(InputError, match="several rows"):
        compare_calls(lesions, [("handcrafted", "deep")])


def test_internal_and_external_stand_side_by_side(make_predictions):
    settings = {"feature_sets": ("handcrafted",), "classifiers": ("selected",)}
    inside = measure_validation(make_predictions(n=60, n_events=20, repeats=2, **settings), n_bootstrap=100)
    outside = make_predictions(n=40, n_events=10, repeats=1, seed=9, **settings).assign(split="external", fold=0)
    table = compare_validation(inside, measure_validation(outside, n_bootstrap=100))
    assert tuple(table.columns) == VALIDATION_COLUMNS
    assert table["metric"].tolist() == list(SHOWN)
    row = table.set_index("metric").loc["auc"]
    assert (row["n_internal"], row["events_internal"], row["n_external"], row["events_external"]) == (60, 20, 40, 10)
    assert row["difference"] == row["external"] - row["internal"]
    assert row["lower"] < row["difference"] < row["upper"]
    with pytest.raises(InputError, match="of other models"):
        compare_validation(inside.assign(feature_set="deep"), measure_validation(outside, n_bootstrap=20))


def test_interval_of_a_difference_is_that_of_independent_samples():
    # Two symmetric intervals: the half widths add as squares.
    assert difference_interval((0.8, 0.7, 0.9), (0.6, 0.4, 0.8)) == pytest.approx((0.2 - 0.05**0.5, 0.2 + 0.05**0.5))
    # Zou and Donner 2008: the lower bound comes from the lower limit of the first and the upper one of the second.
    low, high = difference_interval((0.9, 0.6, 0.95), (0.5, 0.4, 0.55))
    assert (low, high) == pytest.approx((0.4 - np.hypot(0.3, 0.05), 0.4 + np.hypot(0.05, 0.1)))
    assert np.isnan(difference_interval((0.9, np.nan, np.nan), (0.5, 0.4, 0.55))).all()
