"""Comparisons: the declared family, the headline, p-values, yardsticks and the null."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import compare_models, delong_test
from hybrid.analysis.compare import COMPARISON_COLUMNS, MODEL_COLUMNS
from hybrid.analysis.multiplicity import adjust
from hybrid.errors import InputError

REFERENCE = Path(__file__).parents[1] / "reference/statistics"
FAST = {"n_bootstrap": 200}


def test_columns_are_as_documented(small_predictions):
    result = compare_models(small_predictions, **FAST)
    assert tuple(result.table.columns) == COMPARISON_COLUMNS
    assert tuple(result.models.columns) == MODEL_COLUMNS


def test_default_contrast_makes_handcrafted_against_deep_the_headline(small_predictions):
    result = compare_models(small_predictions, **FAST)
    assert list(zip(result.table["model_a"], result.table["model_b"], strict=True)) == [
        ("handcrafted", "deep"), ("handcrafted", "fused"), ("deep", "fused"),
    ]  # fmt: skip
    assert list(result.table["role"]) == ["headline", "secondary", "secondary"]
    assert (result.table["classifier_a"] == "selected").all()
    assert result.headline["model_b"] == "deep"


def test_declared_contrast_decides_family_and_headline(small_predictions):
    result = compare_models(small_predictions, contrast=[("fused", "deep")], **FAST)
    assert len(result.table) == 1
    assert result.headline[["model_a", "model_b"]].tolist() == ["fused", "deep"]
    assert result.headline["p_holm"] == result.headline["p"]


def test_delong_columns_equal_the_test_on_averaged_probabilities(small_predictions):
    row = compare_models(small_predictions, **FAST).headline
    selected = small_predictions[small_predictions["classifier"] == "selected"]
    wide = selected.pivot_table(index=["patient_id", "y_true"], columns="feature_set", values="y_prob")
    expected = delong_test(wide.index.get_level_values("y_true"), wide["handcrafted"], wide["deep"])
    assert row["delong_z"] == pytest.approx(expected.z, rel=1e-9)
    assert row["p"] == pytest.approx(expected.p, rel=1e-9)
    assert "ignores the variance of training" in row["p_method"]


def test_holm_equals_r_p_adjust():
    reference = json.loads((REFERENCE / "p_adjust.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(adjust(np.array(reference["p"]), "holm").p, reference["holm"], rtol=1e-9)


def test_undefined_p_values_count_in_the_family():
    np.testing.assert_allclose(adjust(np.array([0.02, np.nan]), "holm").p, [0.04, np.nan])


def test_several_classifiers_without_a_selected_one_have_no_headline(small_predictions):
    table = small_predictions[small_predictions["classifier"] != "selected"]
    result = compare_models(table, **FAST)
    assert result.headline is None
    assert len(result.table) == 15
    assert "exploratory" in result.method
    declared = compare_models(table, contrast=[("handcrafted", "deep")], **FAST)
    assert declared.headline is None
    assert list(declared.table["classifier_a"]) == list(declared.table["classifier_b"]) == ["logistic", "random_forest"]


def test_a_single_classifier_is_used(small_predictions):
    table = small_predictions[small_predictions["classifier"] == "logistic"]
    assert compare_models(table, **FAST).headline["classifier_a"] == "logistic"


def test_a_named_classifier_is_used_and_a_misspelt_one_named(small_predictions):
    assert compare_models(small_predictions, classifier="logistic", **FAST).headline["classifier_b"] == "logistic"
    with pytest.raises(InputError, match="Did you mean 'logistic'"):
        compare_models(small_predictions, classifier="logistc", **FAST)


@pytest.mark.parametrize("contrast", [["handcrafted"], [("deep", "deep")], [("a", "b", "c")]])
def test_a_contrast_that_is_no_pair_is_refused(small_predictions, contrast):
    with pytest.raises(InputError, match="pair of different feature sets"):
        compare_models(small_predictions, contrast=contrast, **FAST)


def test_an_unknown_feature_set_in_the_contrast_names_the_nearest(small_predictions):
    with pytest.raises(InputError, match="Did you mean 'handcrafted'"):
        compare_models(small_predictions, contrast=[("handcraft", "deep")], **FAST)


def test_identical_models_have_difference_zero_and_p_one(small_predictions):
    one = small_predictions.query("feature_set == 'deep' and classifier == 'selected'")
    result = compare_models(pd.concat([one, one.assign(feature_set="copy")]), **FAST)
    row = result.headline
    assert row[["difference", "lower", "upper", "delong_z"]].tolist() == [0, 0, 0, 0]
    assert row[["p", "p_bootstrap", "p_holm"]].tolist() == [1, 1, 1]


def test_swapping_the_labels_turns_the_difference_around(small_predictions):
    swapped = small_predictions.assign(y_true=1 - small_predictions["y_true"])
    one, other = compare_models(small_predictions, **FAST).headline, compare_models(swapped, **FAST).headline
    assert other["auc_a"] == pytest.approx(1 - one["auc_a"], abs=1e-12)
    assert other["difference"] == pytest.approx(-one["difference"], abs=1e-12)
    assert other["p"] == pytest.approx(one["p"], rel=1e-9)


def test_row_order_is_irrelevant(small_predictions):
    shuffled = small_predictions.sample(frac=1, random_state=1)
    one, other = compare_models(small_predictions, **FAST), compare_models(shuffled, **FAST)
    pd.testing.assert_frame_equal(one.table, other.table, check_exact=True)


def test_differences_are_paired(small_predictions):
    """Two nearly equal models differ by far less than two unrelated ones of the same spread."""
    one = small_predictions.query("feature_set == 'deep' and classifier == 'selected'")
    close = one.assign(feature_set="close", y_prob=one["y_prob"].round(1))
    row = compare_models(pd.concat([one, close]), **FAST)
    width = row.models["upper"].iloc[0] - row.models["lower"].iloc[0]
    assert row.headline["upper"] - row.headline["lower"] < 0.5 * width


def test_duplicating_the_rows_of_each_patient_does_not_narrow_the_difference(small_predictions):
    copies = pd.concat([small_predictions.assign(lesion_id=i) for i in range(3)])
    one, three = compare_models(small_predictions, **FAST).table, compare_models(copies, **FAST).table
    columns = ["difference", "lower", "upper", "p", "delong_z"]
    np.testing.assert_allclose(one[columns].astype(float), three[columns].astype(float), rtol=1e-9, atol=1e-12)


def test_lesions_with_different_outcomes_fall_back_to_the_bootstrap_by_name():
    rng = np.random.default_rng(0)
    rows = [
        (f"p{i}", lesion, name, int(rng.random() < 0.5) if lesion else 0, 0.0)
        for name in ("reader", "model") for i in range(20) for lesion in (0, 1)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["case_id", "lesion_id", "feature_set", "y_true", "y_prob"])
    table["y_true"] = table.groupby(["case_id", "lesion_id"])["y_true"].transform("first")
    table["y_prob"] = rng.random(len(table)) * 0.5 + 0.4 * table["y_true"]
    row = compare_models(table, **FAST).headline
    assert np.isnan(row["delong_p"])
    assert row["p"] == row["p_bootstrap"]
    assert "patient bootstrap" in row["p_method"]
    assert "different outcomes" in row["p_method"]


def test_baselines_majority_and_clinical_are_references_and_never_compared(make_predictions):
    table = make_predictions(
        feature_sets=("handcrafted", "deep", "volume"), classifiers=("logistic", "majority", "clinical", "selected"),
        repeats=2,
    )  # fmt: skip
    result = compare_models(table, baselines=["volume"], **FAST)
    assert result.headline[["model_a", "model_b"]].tolist() == ["handcrafted", "deep"]
    assert len(result.table) == 1
    references = result.models[result.models["role"] == "reference"]
    assert list(references["model"]) == ["majority", "clinical model", "volume"]
    assert references.set_index("model").loc["majority", "auc"] == 0.5


def test_permutation_null_stands_beside_the_auc(small_predictions, make_null):
    null = make_null()
    models = compare_models(small_predictions, null=null, **FAST).models.set_index("model")
    deep = null.loc[null["feature_set"] == "deep", "auc"]
    assert models.loc["deep", "null_mean"] == pytest.approx(deep.mean())
    assert models.loc["deep", "null_upper"] == pytest.approx(deep.quantile(0.975))
    assert models.loc["deep", "n_permutations"] == 20


def test_a_null_without_its_columns_is_refused(small_predictions):
    with pytest.raises(InputError, match="no column 'auc'"):
        compare_models(small_predictions, null=pd.DataFrame({"feature_set": ["deep"], "permutation": [0]}), **FAST)


def test_models_on_different_cases_are_compared_on_the_shared_ones(small_predictions):
    lost = small_predictions[
        ~((small_predictions["feature_set"] == "deep") & (small_predictions["case_id"] == "case005"))
    ]
    result = compare_models(lost, **FAST)
    assert (result.table["n_patients"] == 25).all()
    assert "1 of 26 patients" in result.notes[0]
    assert result.models.set_index("model")["n_patients"].to_dict() == {"handcrafted": 26, "deep": 25, "fused": 26}


def test_one_model_alone_gives_an_empty_family():
    table = pd.DataFrame(
        {"case_id": list("abcdef"), "y_true": [0, 0, 0, 1, 1, 1], "y_prob": [0.1, 0.6, 0.3, 0.4, 0.8, 0.9]}
    )
    result = compare_models(table, **FAST)
    assert result.table.empty
    assert result.headline is None
    assert len(result.models) == 1
    assert result.sentences() == []


def test_three_patients_are_compared_without_interval_or_p():
    table = pd.DataFrame(
        {"case_id": list("abc") * 2, "feature_set": ["x"] * 3 + ["y"] * 3, "y_true": [0, 0, 1] * 2,
         "y_prob": [0.1, 0.7, 0.5, 0.2, 0.3, 0.9]}
    )  # fmt: skip
    row = compare_models(table, **FAST).headline
    assert row["difference"] == -0.5
    assert row[["lower", "upper", "p", "p_holm"]].isna().all()


def test_two_readers_from_a_spreadsheet_can_be_compared():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 20)
    rows = [
        (f"c{i}", reader, y[i], np.clip(rng.normal(0.4 + 0.2 * y[i], 0.2), 0, 1)) for reader in "AB" for i in range(40)
    ]
    table = pd.DataFrame(rows, columns=["case_id", "classifier", "y_true", "y_prob"])
    result = compare_models(table, **FAST)
    assert list(result.table["model_a"]) == ["model / A"]
    assert result.headline is None


def test_sentences_name_both_models_the_interval_and_the_doubt(small_predictions):
    text = compare_models(small_predictions, **FAST).sentences()[0]
    assert "handcrafted" in text
    assert "deep" in text
    assert "interval of the difference" in text
    assert "DeLong test: p" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_method_carries_its_references(small_predictions):
    method = compare_models(small_predictions, **FAST).method
    for doi in ("10.2307/2531595", "10.1109/LSP.2014.2337313", "10.1080/01621459.1987.10478410"):
        assert doi in method


def test_notebook_display_holds_the_table(small_predictions):
    assert "handcrafted" in compare_models(small_predictions, **FAST)._repr_html_()
