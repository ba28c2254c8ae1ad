"""Explanations out of fold: the models are those of the cross-validation, and what carries the outcome is found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hybrid import Case, Cohort, InputError
from hybrid.analysis import choice_stability, feature_importance, plot_importance, plot_shap
from hybrid.pipelines import cross_validate, explain_models

SETTINGS = {"feature_sets": ["handcrafted", "late+clinical"], "classifiers": ["logistic"], "covariates": ["age"]}
SETTINGS |= {"folds": 3, "inner_folds": 2, "seed": 4, "progress": False}


@pytest.fixture(scope="module")
def study():
    rng = np.random.default_rng(0)
    n = 60
    y = np.arange(n) % 2
    columns = [*(f"rad_{i}" for i in range(14)), *(f"deep_{i:04d}" for i in range(4))]
    ids = [f"c{i:02d}" for i in range(n)]
    table = pd.DataFrame(rng.normal(size=(n, 18)), columns=columns, index=pd.Index(ids, name="case_id"))
    table["rad_0"] += 2 * y
    table["rad_1"] -= 1.5 * y
    cases = [
        Case(name, f"p{i // 2}" if i >= 56 else f"p-{name}", outcome=int(y[i] if i < 56 else i >= 58),
             covariates={"age": float(rng.integers(30, 80))})
        for i, name in enumerate(ids)
    ]  # fmt: skip
    return table, Cohort(cases)


@pytest.fixture(scope="module")
def explained(study):
    return explain_models(*study, repeats=2, **SETTINGS)


def test_probabilities_are_those_of_the_cross_validation(study, explained):
    predictions = cross_validate(*study, repeats=2, baselines=(), **SETTINGS)
    own = predictions[predictions["classifier"] == "selected"].set_index(["feature_set", "repeat", "case_id"])["y_prob"]
    found = explained.drop_duplicates(["feature_set", "repeat", "case_id"])
    found = found.set_index(["feature_set", "repeat", "case_id"])["y_prob"]
    assert len(found) == 2 * 2 * 60
    np.testing.assert_array_equal(found.sort_index(), own.sort_index())


def test_shapley_values_sum_to_the_prediction(explained):
    total = explained.groupby(["feature_set", "repeat", "case_id"])
    gap = total["y_prob"].first() - total["base"].first()
    np.testing.assert_allclose(total["shap"].sum(), gap, atol=1e-10)


def test_a_clinical_column_that_both_parts_see_is_explained_once(explained):
    own = explained[explained["feature_set"] == "late+clinical"]
    assert not own.duplicated(["repeat", "case_id", "feature"]).any()
    assert "clin_age" in set(own["feature"])


def test_the_features_that_carry_the_outcome_lead(explained):
    table = feature_importance(explained, n_bootstrap=200)
    own = table[table["feature_set"] == "handcrafted"].set_index("feature")
    assert set(own.index[:2]) == {"rad_0", "rad_1"}
    assert (own.loc[["rad_0", "rad_1"], "lower"] > 0).all()
    assert own.loc["rad_0", "share_chosen"] == 1
    assert own.loc["rad_0", "direction"] > 0.8
    assert own.loc["rad_1", "direction"] < -0.8
    assert set(own["mean_abs_shap"].nlargest(2).index) == {"rad_0", "rad_1"}
    noise = own.drop(["rad_0", "rad_1"])
    assert (noise["lower"] <= 0.01).all()
    assert own["auc"].iloc[0] > 0.85


def test_importance_does_not_depend_on_the_order_of_rows(explained):
    mixed = explained.sample(frac=1, random_state=0)
    one, two = (
        feature_importance(t, n_bootstrap=100).set_index(["feature_set", "feature"]) for t in (explained, mixed)
    )
    np.testing.assert_allclose(one["importance"], two.loc[one.index, "importance"], atol=1e-12)


def test_noise_has_no_importance_and_an_unstable_choice(study):
    table, cohort = study
    rng = np.random.default_rng(9)
    noise = pd.DataFrame(rng.normal(size=(60, 200)), index=table.index, columns=[f"rad_{i}" for i in range(200)])
    found = explain_models(noise, cohort, repeats=1, **(SETTINGS | {"feature_sets": ["handcrafted"]}))
    stability = choice_stability(found).iloc[0]
    assert stability["n_candidates"] == 200
    assert stability["stability"] < 0.5
    assert (feature_importance(found, n_bootstrap=100)["lower"] <= 0.05).all()


def test_figures_show_the_leading_features(explained):
    table = feature_importance(explained, n_bootstrap=100)
    own = table[table["feature_set"] == "handcrafted"]
    ax = plot_importance(own, most=5)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names[::-1] == [name.removeprefix("rad_") for name in own["feature"].head(5)]
    ax = plot_shap(explained[explained["feature_set"] == "handcrafted"], most=5)
    assert len(ax.get_yticklabels()) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="shap"), "no column 'shap'"),
        (lambda t: t.drop(columns=[c for c in t if c.startswith("permuted_")]), "no permuted predictions"),
        (lambda t: t.assign(y_true=1), "one class only"),
        (lambda t: t[~((t["repeat"] == 0) & (t["fold"] == 0))], "not explained in every repeat"),
    ],
)
def test_unusable_explanations_are_refused(explained, change, message):
    with pytest.raises(InputError, match=message):
        feature_importance(change(explained), n_bootstrap=100)


def test_stability_needs_the_number_of_candidates(explained):
    with pytest.raises(InputError, match="must be"):
        choice_stability(explained, {"handcrafted": 2, "late+clinical": 2})
