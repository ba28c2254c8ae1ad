from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from hybrid.classifiers import (
    ALIASES,
    BASELINES,
    CLASSIFIERS,
    ProbabilitySVC,
    candidates,
    make_classifier,
    make_prefix,
    resolve_classifiers,
)
from hybrid.errors import InputError
from hybrid.fusion import FeatureSet
from hybrid.selection import univariate_auc

RAD = tuple(f"rad_{i}" for i in range(20))
DEEP = tuple(f"deep_{i:04d}" for i in range(20))
ALL = FeatureSet("all", (RAD, DEEP), "early", ("clin_age", "clin_sex"))


def made(n=60, signal=2.0, prevalence=0.5, seed=0):
    """Two blocks, the first column of each with the outcome; age and sex; a few holes."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n) < round(prevalence * n)).astype(int)
    table = pd.DataFrame(rng.normal(size=(n, 40)), columns=[*RAD, *DEEP])
    table["rad_0"] += signal * y
    table["deep_0000"] += signal * y
    table["clin_age"] = rng.integers(40, 80, n).astype(float)
    table["clin_sex"] = rng.choice(["f", "m"], n)
    table.iloc[::7, 3] = np.nan
    return table, y


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_classifier_gives_probabilities_that_a_seed_repeats(name):
    table, y = made()
    fresh, outcome = made(seed=1)
    results = []
    for _ in range(2):
        model = make_classifier(name, ALL, seed=5, categorical=["clin_sex"]).fit(table, y)
        results.append(model.predict_proba(fresh))
    np.testing.assert_array_equal(*results)
    assert results[0].shape == (60, 2)
    assert ((results[0] >= 0) & (results[0] <= 1)).all()
    np.testing.assert_allclose(results[0].sum(axis=1), 1, atol=1e-6)
    area = univariate_auc(results[0][:, 1:], outcome)[0]
    assert area == 0.5 if name == "majority" else area > 0.8


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_candidates_are_the_whole_grid_with_the_default_first(name):
    classifier = CLASSIFIERS[name]
    found = candidates(classifier, 3)
    assert len(found) == np.prod([len(values) for values in classifier.grid.values()], dtype=int)
    settings = [{key: estimator.get_params()[key] for key in classifier.grid} for estimator in found]
    assert settings[0] == {key: values[0] for key, values in classifier.grid.items()}
    assert len({str(setting) for setting in settings}) == len(found)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_estimators_run_on_one_thread_and_take_the_seed(name):
    parameters = candidates(CLASSIFIERS[name], 3)[0].get_params()
    assert parameters.get("n_jobs") in (None, 1)
    if name in ("elastic_net", "random_forest", "extra_trees", "xgboost", "hist_gradient_boosting"):
        assert parameters["random_state"] == 3


def test_baselines_and_aliases_are_classifiers():
    assert set(BASELINES) <= set(CLASSIFIERS)
    assert set(ALIASES.values()) <= set(CLASSIFIERS)
    assert resolve_classifiers(["svm"])["svm"] is CLASSIFIERS["rbf_svm"]


def test_own_names_and_instances_are_classifiers_too():
    mine = LogisticRegression(C=0.3)
    resolved = resolve_classifiers({"mine": mine, "forest": "random_forest"})
    assert list(resolved) == ["mine", "forest"]
    (estimator,) = candidates(resolved["mine"], 0)
    assert estimator is not mine
    assert estimator.get_params() == mine.get_params()
    assert list(resolve_classifiers([mine])) == ["LogisticRegression"]


@pytest.mark.parametrize(
    ("classifiers", "message"),
    [
        ([], "No classifier was given"),
        (["logistc"], "Unknown classifier 'logistc'.*'logistic'"),
        (["logistic", "logistic"], "'logistic' was given twice"),
        ([LogisticRegression], "must be an instance"),
        ([SVC()], "with predict_proba"),
        ({"x": "svmm"}, "Unknown classifier 'svmm'.*'svm'"),
    ],
)
def test_unusable_classifiers_are_refused(classifiers, message):
    with pytest.raises(InputError, match=message):
        resolve_classifiers(classifiers)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_no_classifier_weighs_classes_by_default_but_the_margin_of_support_vector_machines(name):
    estimator = candidates(CLASSIFIERS[name], 0)[0]
    assert estimator.get_params().get("class_weight") is None
    if name == "xgboost":
        assert estimator.get_params()["scale_pos_weight"] is None


@pytest.mark.parametrize(("weight", "expected"), [(None, 0.2), ("balanced", 0.5)])
def test_class_weights_are_an_option_of_instances_and_shift_probabilities(weight, expected):
    table, y = made(n=200, signal=0.5, prevalence=0.2)
    model = make_classifier(LogisticRegression(class_weight=weight, max_iter=5000), FeatureSet("r", (RAD,)))
    probabilities = model.fit(table, y).predict_proba(table)[:, 1]
    assert abs(probabilities.mean() - expected) < 0.06


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_probabilities_of_the_support_vector_machine_keep_its_ranking_and_the_prevalence(kernel):
    for seed in range(5):
        table, y = made(n=20 if seed else 100, signal=0.3, prevalence=0.3, seed=seed)
        values = table[list(RAD)].fillna(0).to_numpy()
        machine = ProbabilitySVC(kernel).fit(values, y)
        probabilities = machine.predict_proba(values)[:, 1]
        decisions = machine.machine_.decision_function(values)
        order = np.argsort(decisions)
        assert (np.diff(probabilities[order]) >= 0).all()
        assert abs(probabilities.mean() - 0.3) < 1e-3
        np.testing.assert_array_equal(machine.predict(values), (decisions > 0).astype(int))


def test_each_block_is_reduced_on_its_own_and_clinical_columns_all_stay():
    table, y = made()
    prefix = make_prefix(ALL, categorical=["clin_sex"], max_features=4).fit(table, y)
    names = list(prefix.get_feature_names_out())
    assert sum(name.startswith("rad_") for name in names) == 4
    assert sum(name.startswith("deep_") for name in names) == 4
    assert {"rad_0", "deep_0000", "clin_age"} <= set(names)
    assert sum(name.startswith("clin_sex") for name in names) == 1


def test_the_prefix_learns_from_training_rows_only():
    table, y = made()
    prefix = make_prefix(ALL, categorical=["clin_sex"]).fit(table.iloc[:40], y[:40])
    test = table.iloc[40:].copy()
    together = prefix.transform(test)
    test.iloc[1:, :-1] *= 100
    np.testing.assert_array_equal(prefix.transform(test)[0], together[0])


def test_missing_values_become_the_median_of_training_rows():
    table, y = made()
    feature_set = FeatureSet("one", (("rad_0",),))
    prefix = make_prefix(feature_set).fit(table, y)
    row = table.iloc[[0]].copy()
    row["rad_0"] = np.nan
    expected = (table["rad_0"].median() - table["rad_0"].mean()) / table["rad_0"].std(ddof=0)
    np.testing.assert_allclose(prefix.transform(row), [[expected]], rtol=1e-12)


def test_a_category_that_training_rows_do_not_have_is_none_of_them():
    table, y = made()
    table["clin_sex"] = np.array(["f", "m", "x"])[np.arange(60) % 3]
    prefix = make_prefix(FeatureSet("c", (), "early", ("clin_sex",)), categorical=["clin_sex"]).fit(table, y)
    new = table.iloc[[0]].assign(clin_sex="unheard of")
    assert prefix.transform(new).tolist() == [[0.0, 0.0, 0.0]]
    assert prefix.transform(table.iloc[[1]]).tolist() == [[0.0, 1.0, 0.0]]


def test_constant_empty_and_alike_columns_leave_the_block():
    table, y = made()
    table["rad_1"], table["rad_2"], table["rad_3"] = 4.0, np.nan, 2 * table["rad_0"] + 1
    prefix = make_prefix(FeatureSet("r", (RAD,)), max_features=20).fit(table, y)
    names = set(prefix.get_feature_names_out())
    assert not {"rad_1", "rad_2"} & names
    assert len({"rad_0", "rad_3"} & names) == 1


def test_a_pipeline_can_be_cloned_and_looks_at_its_feature_set_only():
    table, y = made()
    model = clone(make_classifier("logistic", FeatureSet("d", (DEEP,)))).fit(table, y)
    changed = table.assign(**dict.fromkeys(RAD, 1000000.0))
    np.testing.assert_array_equal(model.predict_proba(changed), model.predict_proba(table))
