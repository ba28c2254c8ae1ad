"""The table of metrics: golden values, intervals that respect patients, and bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sk

from hybrid.analysis import auc, confusion, evaluate_models
from hybrid.analysis.metrics import METRIC_COLUMNS, METRICS
from hybrid.errors import InputError, LeakageError


def predictions_from_counts(tp, fn, fp, tn):
    y = np.repeat([1, 1, 0, 0], [tp, fn, fp, tn])
    p = np.repeat([0.9, 0.1, 0.9, 0.1], [tp, fn, fp, tn])
    return pd.DataFrame({"case_id": [f"c{i:04d}" for i in range(y.size)], "y_true": y, "y_prob": p})


def values(table, **model):
    for column, name in model.items():
        table = table[table[column] == name]
    return table.set_index("metric")["estimate"]


def test_metrics_of_347_14_67_506():
    table = evaluate_models(predictions_from_counts(347, 14, 67, 506), n_bootstrap=50)
    chance = (414 * 361 + 520 * 573) / 934**2
    expected = {
        "accuracy": 853 / 934,
        "sensitivity": 347 / 361,
        "specificity": 506 / 573,
        "balanced_accuracy": (347 / 361 + 506 / 573) / 2,
        "ppv": 347 / 414,
        "npv": 506 / 520,
        "f1": 2 * 347 / (2 * 347 + 14 + 67),
        "auc": (347 / 361 + 506 / 573) / 2,
        "brier": (853 * 0.01 + 81 * 0.81) / 934,
        "kappa": (853 / 934 - chance) / (1 - chance),
    }
    found = values(table)
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, abs=1e-12), metric


def test_confusion_counts_of_347_14_67_506():
    row = confusion(predictions_from_counts(347, 14, 67, 506)).iloc[0]
    assert (row["tp"], row["fn"], row["fp"], row["tn"]) == (347, 14, 67, 506)


def test_columns_and_rows_are_as_documented(small_predictions):
    table = evaluate_models(small_predictions, n_bootstrap=50)
    assert tuple(table.columns) == METRIC_COLUMNS
    assert len(table) == 9 * (len(METRICS) + 1)
    assert (table["n_patients"] == 26).all()
    assert (table["n_events"] == 8).all()
    assert (table["n_repeats"] == 3).all()


def test_metrics_are_averaged_within_repeats_and_never_pooled(small_predictions):
    table = evaluate_models(small_predictions, n_bootstrap=20)
    model = small_predictions.query("feature_set == 'deep' and classifier == 'logistic'")
    called = model["y_prob"] >= model["threshold"]
    expected = {name: [] for name in ("auc", "accuracy", "f1", "kappa", "balanced_accuracy", "brier")}
    for _, part in model.assign(called=called).groupby("repeat"):
        expected["auc"].append(sk.roc_auc_score(part["y_true"], part["y_prob"]))
        expected["accuracy"].append(sk.accuracy_score(part["y_true"], part["called"]))
        expected["f1"].append(sk.f1_score(part["y_true"], part["called"]))
        expected["kappa"].append(sk.cohen_kappa_score(part["y_true"], part["called"]))
        expected["balanced_accuracy"].append(sk.balanced_accuracy_score(part["y_true"], part["called"]))
        expected["brier"].append(sk.brier_score_loss(part["y_true"], part["y_prob"]))
    found = values(table, feature_set="deep", classifier="logistic")
    for metric, repeats in expected.items():
        assert found[metric] == pytest.approx(np.mean(repeats), abs=1e-12), metric
    pooled = sk.roc_auc_score(model["y_true"], model["y_prob"])
    assert found["auc"] != pytest.approx(pooled, abs=1e-6)


def test_averaged_auc_is_that_of_one_probability_per_patient(small_predictions):
    table = evaluate_models(small_predictions, n_bootstrap=20)
    model = small_predictions.query("feature_set == 'deep' and classifier == 'logistic'")
    patients = model.groupby("patient_id").agg(y=("y_true", "first"), p=("y_prob", "mean"))
    found = values(table, feature_set="deep", classifier="logistic")
    assert found["auc_averaged"] == pytest.approx(auc(patients["y"], patients["p"]), abs=1e-12)
    method = table.loc[table["metric"] == "auc_averaged", "method"].iloc[0]
    assert "ignores the variance of training" in method


def test_a_case_at_the_threshold_is_positive():
    table = pd.DataFrame({"case_id": list("abcd"), "y_true": [0, 0, 1, 1], "y_prob": [0.2, 0.5, 0.5, 0.9]})
    row = confusion(table).iloc[0]
    assert (row["tp"], row["fp"]) == (2, 1)


def test_estimates_lie_inside_their_intervals(small_predictions):
    table = evaluate_models(small_predictions, n_bootstrap=500)
    bounded = table.dropna(subset=["estimate", "lower"])
    assert (bounded["lower"] <= bounded["estimate"] + 1e-12).all()
    assert (bounded["upper"] >= bounded["estimate"] - 1e-12).all()


def test_row_order_is_irrelevant_and_the_input_stays(small_predictions):
    shuffled = small_predictions.sample(frac=1, random_state=3)
    before = shuffled.copy()
    keys = ["feature_set", "classifier", "metric"]
    one = evaluate_models(small_predictions, n_bootstrap=50).sort_values(keys, ignore_index=True)
    other = evaluate_models(shuffled, n_bootstrap=50).sort_values(keys, ignore_index=True)
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    pd.testing.assert_frame_equal(shuffled, before)


def test_the_seed_decides_the_numbers(small_predictions):
    first = evaluate_models(small_predictions, n_bootstrap=50, seed=1)
    pd.testing.assert_frame_equal(first, evaluate_models(small_predictions, n_bootstrap=50, seed=1), check_exact=True)
    assert not first["lower"].equals(evaluate_models(small_predictions, n_bootstrap=50, seed=2)["lower"])


def test_duplicating_the_rows_of_each_patient_does_not_narrow_the_interval(small_predictions):
    model = small_predictions.query("feature_set == 'deep' and classifier == 'logistic'")
    copies = [model.assign(lesion_id=i) for i in range(4)]
    one = evaluate_models(model, n_bootstrap=300)
    four = evaluate_models(pd.concat(copies), n_bootstrap=300)
    assert (four["n_patients"] == 26).all()
    assert (four["n_cases"] == 26 * 4).all()
    for column in ("estimate", "lower", "upper"):
        np.testing.assert_allclose(one[column], four[column], rtol=1e-9, atol=1e-12)


def test_cases_of_one_patient_are_resampled_together(small_predictions):
    model = small_predictions.query("feature_set == 'deep' and classifier == 'logistic'")
    twin = model.assign(case_id=model["case_id"] + "b")
    one, two = evaluate_models(model, n_bootstrap=300), evaluate_models(pd.concat([model, twin]), n_bootstrap=300)
    np.testing.assert_allclose(one[["lower", "upper"]], two[["lower", "upper"]], rtol=1e-9, atol=1e-12)


def test_perfect_predictions_have_exact_bounds_not_zero_width():
    y = np.repeat([0, 1], [18, 8])
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(26)], "y_true": y, "y_prob": y * 0.8 + 0.1})
    found = evaluate_models(table, n_bootstrap=50).set_index("metric")
    for metric, n in (("auc", 8), ("auc_averaged", 8), ("sensitivity", 8), ("specificity", 18), ("accuracy", 26)):
        assert found.loc[metric, ["estimate", "upper"]].tolist() == [1.0, 1.0]
        assert found.loc[metric, "lower"] == pytest.approx(0.025 ** (1 / n)), metric
    assert "exact" in found.loc["auc", "method"]


def test_predictive_value_without_positive_calls_is_undefined():
    table = pd.DataFrame({"case_id": list("abcde"), "y_true": [0, 0, 0, 1, 1], "y_prob": [0.1, 0.2, 0.3, 0.2, 0.4]})
    found = evaluate_models(table, n_bootstrap=50).set_index("metric")
    assert np.isnan(found.loc["ppv", ["estimate", "lower", "upper"]].astype(float)).all()
    assert found.loc["sensitivity", "estimate"] == 0.0


def test_three_patients_have_estimates_but_no_interval():
    table = pd.DataFrame({"case_id": list("abc"), "y_true": [0, 0, 1], "y_prob": [0.1, 0.7, 0.5]})
    found = evaluate_models(table, n_bootstrap=50).set_index("metric")
    assert found.loc["auc", "estimate"] == 0.5
    assert found.loc["auc_averaged", "estimate"] == 0.5
    assert found.loc[["auc", "auc_averaged", "brier"], ["lower", "upper"]].isna().all(axis=None)
    assert "fewer than two patients" in found.loc["auc", "method"]


def test_averaging_over_lesions_with_different_outcomes_is_refused_by_name():
    table = pd.DataFrame(
        {"case_id": list("aabbccdd"), "lesion_id": [1, 2] * 4, "y_true": [0, 1, 0, 0, 1, 1, 0, 0],
         "y_prob": [0.2, 0.9, 0.3, 0.1, 0.8, 0.4, 0.5, 0.3]}
    )  # fmt: skip
    found = evaluate_models(table, n_bootstrap=50).set_index("metric")
    assert found.loc["auc", ["n_patients", "n_events", "n_cases"]].tolist() == [4, 2, 8]
    assert np.isnan(found.loc["auc_averaged", "estimate"])
    assert "different outcomes" in found.loc["auc_averaged", "method"]
    assert np.isfinite(found.loc["auc", "lower"])


def test_repeats_with_missing_cases_use_what_is_there(small_predictions):
    model = small_predictions.query("feature_set == 'deep' and classifier == 'logistic'")
    lost = model[~((model["repeat"] == 1) & (model["case_id"] == "case003"))]
    found = values(evaluate_models(lost, n_bootstrap=20))["auc"]
    expected = [sk.roc_auc_score(part["y_true"], part["y_prob"]) for _, part in lost.groupby("repeat")]
    assert found == pytest.approx(np.mean(expected), abs=1e-12)


def test_external_rows_are_used_when_there_are_no_test_rows(small_predictions):
    table = evaluate_models(small_predictions.assign(split="external"), n_bootstrap=20)
    assert (table["split"] == "external").all()


def test_training_rows_alone_are_refused_unless_asked_for(small_predictions):
    train = small_predictions.assign(split="train")
    with pytest.raises(LeakageError, match="none of unseen patients"):
        evaluate_models(train, n_bootstrap=20)
    assert (evaluate_models(train, n_bootstrap=20, split="train")["split"] == "train").all()


def test_training_rows_never_enter_the_evaluation(small_predictions):
    model = small_predictions.query("feature_set == 'deep' and classifier == 'logistic'")
    cheat = model.assign(split="train", y_prob=model["y_true"].astype(float))
    pd.testing.assert_frame_equal(
        evaluate_models(pd.concat([cheat, model]), n_bootstrap=20), evaluate_models(model, n_bootstrap=20)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_true": 0}, "one class only: all 26 cases are 0"),
        ({"y_prob": np.nan}, "missing or non-numeric"),
        ({"y_prob": 1.2}, r"must lie in \[0, 1\]; found 1.2"),
        ({"y_true": 3}, "must be 0 or 1; found 3"),
        ({"case_id": "same", "patient_id": "same"}, "appears twice"),
    ],
)
def test_bad_tables_are_one_clear_error(small_predictions, change, message):
    with pytest.raises(InputError, match=message):
        evaluate_models(small_predictions.assign(**change), n_bootstrap=20)


def test_a_case_with_two_outcomes_is_named(small_predictions):
    table = small_predictions.copy()
    first = (table["case_id"] == "case002") & (table["repeat"] == 0)
    table.loc[first, "y_true"] = 1 - table.loc[first, "y_true"]
    with pytest.raises(InputError, match="case case002: The case has two different outcomes"):
        evaluate_models(table, n_bootstrap=20)


def test_a_repeat_without_events_is_named(small_predictions):
    table = small_predictions[~((small_predictions["repeat"] == 2) & (small_predictions["y_true"] == 1))]
    with pytest.raises(InputError, match="one outcome class only in repeat 2"):
        evaluate_models(table, n_bootstrap=20)
