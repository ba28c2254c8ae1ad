"""Options of what is fitted inside a fold: selectors by name, harmonisation of small cohorts, weights of classes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from xgboost import XGBClassifier

from hybrid.classifiers import ProbabilitySVC, make_prefix
from hybrid.errors import InputError
from hybrid.fold_options import (
    BATCH_COLUMN,
    NEEDS_TABLE,
    BatchHarmoniser,
    check_fold_options,
    check_weights,
    fit_estimator,
    fold_facts,
    fold_selector,
)
from hybrid.fusion import FeatureSet
from hybrid.harmonisation import ComBat
from hybrid.selection_methods import SELECTORS, BorutaSelector, LassoSelector, ReliefFSelector

COLUMNS = [f"rad_{i}" for i in range(8)]


def make(sizes, shift=5.0, seed=0):
    """Rows of several sites; the second site lies higher by ``shift``."""
    rng = np.random.default_rng(seed)
    sites = np.repeat(list(sizes), list(sizes.values()))
    table = pd.DataFrame(rng.normal(size=(len(sites), 8)), columns=COLUMNS)
    table += shift * (sites == list(sizes)[1])[:, None]
    table[BATCH_COLUMN] = sites
    return table, rng.permutation(np.arange(len(sites)) % 2)


def test_sites_are_brought_together_as_combat_does():
    table, y = make({"A": 12, "B": 10})
    harmonised = BatchHarmoniser().fit(table, y).transform(table)
    expected = ComBat(BATCH_COLUMN).fit_transform(table)
    pd.testing.assert_frame_equal(harmonised, expected[COLUMNS])
    means = harmonised.groupby(table[BATCH_COLUMN]).mean()
    assert np.abs(means.loc["A"] - means.loc["B"]).max() < 1.0


def test_unseen_and_too_small_batches_stay_as_they_are():
    table, y = make({"A": 12, "B": 10, "tiny": 1})
    fitted = BatchHarmoniser().fit(table, y)
    assert fitted.batches_ == ["A", "B"]
    new = pd.concat([table, table.iloc[:2].assign(**{BATCH_COLUMN: "new"})], ignore_index=True)
    result = fitted.transform(new)
    left = new[BATCH_COLUMN].isin(["tiny", "new"]).to_numpy()
    pd.testing.assert_frame_equal(result[left], new.loc[left, COLUMNS])
    assert not np.allclose(result[~left], new.loc[~left, COLUMNS])
    np.testing.assert_array_equal(fitted.is_adjusted(new), ~left)


def test_strict_rule_refuses_such_batches_by_name():
    table, y = make({"A": 12, "B": 10, "tiny": 1})
    with pytest.raises(InputError, match=r"Batch 'tiny' has 1 of 23 training rows"):
        BatchHarmoniser(unseen="error").fit(table, y)
    known = table[table[BATCH_COLUMN] != "tiny"]
    fitted = BatchHarmoniser(unseen="error").fit(known, y[:22])
    with pytest.raises(InputError, match=r"1 rows come from batch 'tiny'.*unseen_batch"):
        fitted.transform(table)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    table, y = make({"A": 12, "B": 10})
    fitted = BatchHarmoniser().fit(table, y)
    whole, alone = fitted.transform(table), fitted.transform(table.iloc[[15]])
    pd.testing.assert_frame_equal(whole.iloc[[15]], alone, check_exact=True)


def test_outcome_does_not_shape_the_adjustment():
    table, y = make({"A": 12, "B": 10})
    one, two = (BatchHarmoniser().fit(table, outcome).transform(table) for outcome in (y, 1 - y[::-1]))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


def test_batches_that_tell_the_outcome_are_left_alone_or_refused():
    table, _ = make({"A": 12, "B": 10})
    told = (table[BATCH_COLUMN] == "A").to_numpy().astype(int)
    fitted = BatchHarmoniser().fit(table, told)
    pd.testing.assert_frame_equal(fitted.transform(table), table[COLUMNS])
    assert not fitted.is_adjusted(table).any()
    with pytest.raises(InputError, match="one outcome only"):
        BatchHarmoniser(unseen="error").fit(table, told)


@pytest.mark.parametrize("change", ["one feature", "one site", "constant"])
def test_a_block_that_cannot_be_harmonised_is_left_alone(change):
    table, y = make({"A": 12, "B": 10})
    if change == "one feature":
        table = table[["rad_0", BATCH_COLUMN]]
    if change == "one site":
        table[BATCH_COLUMN] = "A"
    if change == "constant":
        table[COLUMNS] = 1.0
    fitted = BatchHarmoniser().fit(table, y)
    pd.testing.assert_frame_equal(fitted.transform(table), table.drop(columns=BATCH_COLUMN))
    assert not fitted.is_adjusted(table).any()


def test_missing_values_stay_missing_and_columns_unknown_in_a_site_stay_as_they_are():
    table, y = make({"A": 12, "B": 10})
    table.loc[table[BATCH_COLUMN] == "B", "rad_3"] = np.nan
    table.loc[0, "rad_0"] = np.nan
    fitted = BatchHarmoniser().fit(table, y)
    result = fitted.transform(table)
    assert "rad_3" not in fitted.harmonised_
    pd.testing.assert_frame_equal(result.isna(), table[COLUMNS].isna())
    pd.testing.assert_series_equal(result["rad_3"], table["rad_3"])


@pytest.mark.parametrize("selector", sorted(set(SELECTORS) - set(NEEDS_TABLE)))
def test_every_selector_works_in_a_prefix_and_keeps_its_limit(selector):
    table, y = make({"A": 16, "B": 14}, shift=0.0)
    table["rad_0"] += 2 * y
    prefix = make_prefix(FeatureSet("x", (tuple(COLUMNS),)), selector=selector, max_features=3, harmonise=BATCH_COLUMN)
    reduced = prefix.fit(table, y).transform(table)
    names = list(prefix.get_feature_names_out())
    assert reduced.shape == (30, len(names))
    assert set(names) <= set(COLUMNS)
    if fold_facts(selector=selector, max_features=3)["selection"]["max_features"] is not None:
        assert len(names) <= 3


@pytest.mark.parametrize(
    "selector", [BorutaSelector(max_runs=2, n_trees=5), ReliefFSelector(2), LassoSelector("logistic")]
)
def test_fitted_selectors_are_stored_without_pickle(selector, tmp_path):
    table, y = make({"A": 16, "B": 14}, shift=0.0)
    fitted = selector.fit(table[COLUMNS], y)
    skops.io.dump(fitted, tmp_path / "s.skops")
    types = skops.io.get_untrusted_types(file=tmp_path / "s.skops")
    assert all(name.startswith("hybrid.") for name in types)
    again = skops.io.load(tmp_path / "s.skops", trusted=types)
    np.testing.assert_array_equal(again.transform(table[COLUMNS]), fitted.transform(table[COLUMNS]))


def test_default_selection_is_the_best_by_their_own_auc():
    table, y = make({"A": 16, "B": 14})
    default, named = (
        make_prefix(FeatureSet("x", (tuple(COLUMNS),)), selector=name).fit(table, y) for name in (None, "top")
    )
    np.testing.assert_array_equal(default.transform(table), named.transform(table))
    assert type(fold_selector("top")).__name__ == "TopFilter"


@pytest.mark.parametrize("estimator", [LogisticRegression(), XGBClassifier(n_estimators=5), ProbabilitySVC("linear")])
def test_weights_give_both_classes_the_same_total(estimator):
    rng = np.random.default_rng(0)
    y = (np.arange(60) < 10).astype(int)
    X = rng.normal(size=(60, 3)) + 0.5 * y[:, None]
    plain, weighted = (
        fit_estimator(clone(estimator), X, y, how).predict_proba(X)[:, 1] for how in (None, "class_weight")
    )
    assert weighted.mean() > plain.mean() + 0.1


def test_weights_are_scikit_learns_balanced_ones():
    rng = np.random.default_rng(1)
    y = (np.arange(50) < 12).astype(int)
    X = rng.normal(size=(50, 3)) + y[:, None]
    ours = fit_estimator(LogisticRegression(), X, y, "class_weight")
    theirs = LogisticRegression(class_weight="balanced").fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4)
    machine = ProbabilitySVC("linear").fit(X, y, np.where(y == 1, 50 / 24, 50 / 76)).machine_
    balanced = SVC(kernel="linear", class_weight="balanced").fit(X, y)
    np.testing.assert_allclose(machine.decision_function(X), balanced.decision_function(X), atol=1e-3)
    assert fit_estimator(LinearDiscriminantAnalysis(solver="lsqr"), X, y, "class_weight").priors_.tolist() == [0.5, 0.5]


def test_wrong_options_name_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'lasso'"):
        check_fold_options("laso", "unadjusted", None)
    with pytest.raises(InputError, match="needs a table of its own"):
        check_fold_options("icc", "unadjusted", None)
    with pytest.raises(InputError, match="Did you mean 'unadjusted'"):
        check_fold_options(None, "unadjust", None)
    with pytest.raises(InputError, match="class_weight"):
        check_fold_options(None, "error", "smote")
    with pytest.raises(InputError, match="'knn' cannot weigh classes"):
        check_weights("knn", KNeighborsClassifier(), "class_weight")
    check_weights("knn", KNeighborsClassifier(), None)
