from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import pytest
import skops.io
from scipy import stats
from sklearn.base import clone
from sklearn.feature_selection import RFE, VarianceThreshold
from sklearn.linear_model import LassoCV, LogisticRegression
from sklearn.metrics import mutual_info_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hybrid.analysis.reliability import icc
from hybrid.errors import InputError
from hybrid.mrmr import MRMR_SCHEMES, MRMRSelector, f_statistic
from hybrid.selection import (
    ConstantFilter,
    CorrelationClusterFilter,
    CorrelationFilter,
    ICCFilter,
    RepeatFilter,
    TopFilter,
    VarianceFilter,
    agreement,
    univariate_auc,
)
from hybrid.selection_methods import (
    SELECTORS,
    BorutaSelector,
    LassoSelector,
    ReliefFSelector,
    RFESelector,
    make_selector,
)

WITH_K = ["top", "mrmr_mid", "mrmr_miq", "mrmr_fcd", "mrmr_fcq", "rfe", "relieff"]
SUPERVISED = [*WITH_K, "correlation", "lasso", "logistic_lasso", "boruta"]


def made(n=60, p=40, signal=2.0, informative=3, seed=0):
    """Normal noise whose first columns carry the outcome."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    values = rng.normal(size=(n, p))
    values[:, :informative] += signal * y[:, None]
    return pd.DataFrame(values, columns=[f"rad_{i}" for i in range(p)], index=[f"c{i}" for i in range(n)]), y


def build(name, table, **options):
    """A selector by name, quick, with an ICC of every column where it is needed."""
    if name == "icc":
        options = {"icc": {column: 0.9 - 0.4 * (i % 2) for i, column in enumerate(table)}, **options}
    if name == "boruta":
        options = {"n_trees": 20, "max_runs": 20, **options}
    return make_selector(name, **options)


def chosen(selector, table, y):
    return list(clone(selector).fit(table, y).get_feature_names_out())


@pytest.mark.parametrize("name", SELECTORS)
def test_fitting_twice_gives_the_same_columns_and_leaves_parameters_and_input_alone(name):
    table, y = made()
    before = table.copy(deep=True)
    selector = build(name, table, seed=3)
    parameters = {key: str(value) for key, value in selector.get_params().items()}
    first = list(selector.fit(table, y).get_feature_names_out())
    assert list(selector.fit(table, y).get_feature_names_out()) == first == chosen(selector, table, y)
    assert {key: str(value) for key, value in selector.get_params().items()} == parameters
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize("name", SELECTORS)
def test_names_and_index_are_kept_and_new_rows_are_only_cut_to_the_columns(name):
    table, y = made()
    train, test = table.iloc[:40], table.iloc[40:]
    selector = build(name, table).set_output(transform="pandas").fit(train, y[:40])
    kept = selector.transform(test)
    assert 1 <= kept.shape[1] <= table.shape[1]
    assert list(kept) == [column for column in table if column in set(kept)]
    pd.testing.assert_frame_equal(kept, test[list(kept)], check_exact=True)
    pd.testing.assert_frame_equal(selector.transform(test.iloc[[3]]), kept.iloc[[3]], check_exact=True)


@pytest.mark.parametrize("name", SELECTORS)
def test_fifteen_patients_and_a_thousand_columns_are_enough(name):
    table, y = made(n=15, p=1000)
    kept = chosen(build(name, table), table, y)
    assert kept
    if name in WITH_K:
        assert len(kept) == 10


@pytest.mark.parametrize("name", SELECTORS)
def test_constant_and_doubled_columns_are_no_obstacle(name):
    table, y = made(n=30, p=12)
    table = table.assign(constant=1.0, again=table["rad_0"], opposite=-table["rad_0"], answer=y.astype(float))
    assert chosen(build(name, table), table, y)


@pytest.mark.parametrize("name", SELECTORS)
def test_one_constant_column_is_kept_so_that_a_model_can_be_fitted(name):
    table, y = made(p=1)
    assert chosen(build(name, table), table.assign(rad_0=2.0), y) == ["rad_0"]


@pytest.mark.parametrize("name", SUPERVISED)
def test_columns_that_carry_the_outcome_are_found(name):
    table, y = made(n=100, p=60)
    assert {"rad_0", "rad_1", "rad_2"} <= set(chosen(build(name, table), table, y))


@pytest.mark.parametrize("name", ["lasso", "logistic_lasso", "boruta", "rfe", "top", "mrmr_miq"])
def test_the_coding_of_the_outcome_and_units_of_columns_do_not_matter(name):
    table, y = made(seed=4)
    kept = chosen(build(name, table), table, y)
    scaled = table * np.logspace(-2, 3, table.shape[1])
    assert chosen(build(name, table), scaled, y) == kept
    assert chosen(build(name, table), table, y.astype(float)) == kept
    if name != "top":
        assert chosen(build(name, table), table, np.array(["benign", "malignant"])[y]) == kept


@pytest.mark.parametrize("name", WITH_K)
def test_all_columns_are_kept_when_there_are_fewer_than_asked_for(name):
    table, y = made(p=4)
    assert chosen(build(name, table, k=10), table, y) == list(table)
    assert len(chosen(build(name, table, k=2), table, y)) == 2


@pytest.mark.parametrize("name", ["lasso", "logistic_lasso", "boruta"])
def test_a_limit_keeps_the_strongest_columns(name):
    table, y = made(n=120, informative=6)
    assert set(chosen(build(name, table, k=2), table, y)) < set(chosen(build(name, table), table, y))


@pytest.mark.parametrize("name", SELECTORS)
def test_a_fitted_selector_survives_saving(name, tmp_path):
    table, y = made()
    selector = build(name, table).fit(table, y)
    skops.io.dump(selector, tmp_path / "selector.skops")
    types = skops.io.get_untrusted_types(file=tmp_path / "selector.skops")
    assert all(kind.startswith("hybrid.") for kind in types)
    loaded = skops.io.load(tmp_path / "selector.skops", trusted=types)
    np.testing.assert_array_equal(loaded.transform(table), selector.transform(table))


@pytest.mark.parametrize("name", ["top", "mrmr_fcq", "rfe"])
def test_selection_outside_the_folds_makes_noise_look_like_signal(name):
    """100 patients x 1600 noise columns: AUC about 0.9 with selection outside the folds, about 0.5 inside."""
    inside, outside = [], []
    for seed in range(3):
        table, y = made(n=100, p=1600, signal=0.0, seed=seed)
        select = functools.partial(make_selector, name, k=20, seed=seed)
        leaked = table[chosen(select(), table, y)]
        score_inside, score_outside = np.zeros(100), np.zeros(100)
        for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(table, y):
            honest = make_pipeline(select(), StandardScaler(), LogisticRegression())
            score_inside[test] = honest.fit(table.iloc[train], y[train]).predict_proba(table.iloc[test])[:, 1]
            model = make_pipeline(StandardScaler(), LogisticRegression())
            score_outside[test] = model.fit(leaked.iloc[train], y[train]).predict_proba(leaked.iloc[test])[:, 1]
        inside.append(roc_auc_score(y, score_inside))
        outside.append(roc_auc_score(y, score_outside))
    assert 0.88 < np.mean(outside) < 0.99
    assert 0.4 < np.mean(inside) < 0.6


def test_area_of_each_column_equals_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    values, y = rng.integers(0, 6, (50, 20)).astype(float), rng.integers(0, 2, 50)
    expected = [roc_auc_score(y, values[:, i]) for i in range(20)]
    np.testing.assert_allclose(univariate_auc(values, y), expected, atol=1e-12)


def test_the_top_filter_finds_columns_that_point_either_way():
    table, y = made(n=100)
    table["rad_7"] -= 3 * y
    assert set(chosen(TopFilter(4), table, y)) == {"rad_0", "rad_1", "rad_2", "rad_7"}


def test_constant_columns_go_whatever_their_size():
    table, _ = made(n=20, p=3)
    table = table.assign(zero=0.0, large=1e9, small=1e-9 * table["rad_0"])
    assert chosen(ConstantFilter(), table, None) == ["rad_0", "rad_1", "rad_2", "small"]


def test_the_correlation_filter_keeps_the_better_of_two_alike_columns():
    table, y = made(n=100, p=5, informative=1)
    rng = np.random.default_rng(1)
    table["noisier"] = table["rad_0"] + 0.1 * rng.normal(size=100)
    strengths = np.abs(univariate_auc(table.to_numpy(), y) - 0.5)
    better = "rad_0" if strengths[0] >= strengths[-1] else "noisier"
    kept = chosen(CorrelationFilter(0.9), table, y)
    assert better in kept
    assert len(kept) == 5
    assert np.abs(np.triu(np.corrcoef(table[kept].to_numpy().T), 1)).max() <= 0.9


def test_raw_variances_equal_scikit_learn():
    table, _ = made(p=30)
    scaled = table * np.linspace(0.1, 2, 30)
    ours = VarianceFilter(0.5, scaled=False).fit(scaled).get_support()
    np.testing.assert_array_equal(ours, VarianceThreshold(0.5).fit(scaled).get_support())


@pytest.mark.parametrize(("threshold", "is_kept"), [(39 / 1600 - 1e-9, True), (39 / 1600 + 1e-9, False)])
def test_the_scaled_variance_of_one_outlier_is_as_documented(threshold, is_kept):
    table, _ = made(n=40, p=2)
    table["outlier"] = [*[5.0] * 39, 1e4]
    assert ("outlier" in chosen(VarianceFilter(threshold), table, None)) is is_kept


def blocks(n=80, seed=0):
    """Three columns that follow one factor, two that follow another, and two alone."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, n))
    columns = [first, first + 0.1 * rng.normal(size=n), -first + 0.2 * rng.normal(size=n)]
    columns += [second, np.exp(second), *rng.normal(size=(2, n))]
    return pd.DataFrame(np.column_stack(columns), columns=list("abcdefg"))


def test_clusters_hold_alike_columns_and_give_one_representative_each():
    table = blocks()
    selector = CorrelationClusterFilter(0.9).fit(table)
    assert selector.clusters_.tolist() == [0, 0, 0, 1, 1, 2, 3]
    kept = list(selector.get_feature_names_out())
    # "a" lies between "b" and "c"; "d" and "e" have the same ranks, the first stays.
    assert kept == ["a", "d", "f", "g"]


@pytest.mark.parametrize("method", ["spearman", "pearson"])
@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.9, 1.0])
def test_any_two_columns_of_a_cluster_correlate_by_the_threshold(method, threshold):
    rng = np.random.default_rng(5)
    table = pd.DataFrame(rng.normal(size=(40, 4)) @ rng.normal(size=(4, 30)) + rng.normal(size=(40, 30)))
    table.columns = [f"f{i}" for i in range(30)]
    table["f0_again"] = table["f0"]
    selector = CorrelationClusterFilter(threshold, method=method).fit(table)
    correlations = table.corr(method=method).abs().to_numpy()
    for cluster in np.unique(selector.clusters_):
        members = selector.clusters_ == cluster
        assert correlations[np.ix_(members, members)].min() >= threshold - 1e-9
        assert selector.get_support()[members].sum() == 1
    assert selector.clusters_[0] == selector.clusters_[-1]


def test_ranks_see_monotone_relations_that_pearson_misses():
    table = blocks()
    assert "e" not in chosen(CorrelationClusterFilter(0.9), table, None)
    assert "e" in chosen(CorrelationClusterFilter(0.9, method="pearson"), table, None)


def test_the_representative_can_be_the_column_that_separates_best():
    table = blocks()
    y = (table["c"] > table["c"].median()).astype(int)
    kept = chosen(CorrelationClusterFilter(0.9, representative="auc"), table, y)
    assert {"a", "b", "c"} & set(kept) == {"c"}


def test_columns_are_kept_by_the_icc_that_the_analysis_computes():
    rng = np.random.default_rng(0)
    subjects = rng.normal(size=(40, 1, 3))
    ratings = subjects + rng.normal(size=(40, 2, 3)) * np.array([0.1, 0.6, 3.0])
    table = pd.DataFrame(ratings[:, 0], columns=["good", "fair", "poor"])
    computed = icc(ratings, features=list(table), kinds=["ICC(2,1)"])
    values = computed.set_index("feature")["icc"]
    assert values["good"] > 0.9 > values["fair"] > 0.6 > values["poor"]
    for given in (computed, values, values.to_dict()):
        assert chosen(ICCFilter(given, 0.6), table, None) == ["good", "fair"]
    assert chosen(ICCFilter(computed, 0.6, statistic="lower"), table, None) == ["good"]
    assert chosen(ICCFilter(values.drop("fair"), 0.6, missing="drop"), table, None) == ["good"]
    assert chosen(ICCFilter(values.where(values > 0.9), 0.6), table, None) == ["good"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the table of ICCs"),
        ({"icc": {"a": 0.9}}, "1 columns have no ICC; the first is 'b'"),
        ({"icc": {"a": 0.1, "b": 0.2}}, "No column has an ICC of 0.75 or more; the largest is 0.200"),
        ({"icc": pd.DataFrame({"feature": ["a", "a", "b"], "icc": [0.9, 0.8, 0.9]})}, "has 'a' twice"),
        ({"icc": pd.DataFrame({"name": ["a"], "icc": [1.0]})}, "Unknown column of the ICC table: 'feature'"),
        ({"icc": {"a": 0.9, "b": 0.9}, "threshold": 75}, "between -1 and 1; found 75"),
        ({"icc": {"a": 0.9, "b": 0.9}, "missing": "keep"}, "Unknown rule for columns without ICC 'keep'"),
    ],
)
def test_an_unusable_icc_table_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        ICCFilter(**options).fit(pd.DataFrame({"a": [1.0, 2.0], "b": [2.0, 1.0]}))


def test_icc_needs_names():
    with pytest.raises(InputError, match="needs a DataFrame"):
        ICCFilter({"a": 1.0}).fit(np.eye(3))


def states(column, width=1.0):
    mean, spread = column.mean(), column.std(ddof=1)
    return (column > mean + width * spread).astype(int) - (column < mean - width * spread).astype(int)


def mrmr_as_written(values, y, k, scheme):
    """The formula of the paper as a double loop, with statistics of other libraries."""
    p = values.shape[1]
    if scheme.startswith("MI"):
        coded = [states(values[:, i]) for i in range(p)]
        relevance = [mutual_info_score(column, y) for column in coded]
        redundancy = np.array([[mutual_info_score(a, b) for a in coded] for b in coded])
    else:
        relevance = [stats.f_oneway(*(values[y == c, i] for c in np.unique(y))).statistic for i in range(p)]
        redundancy = np.abs(np.corrcoef(values.T))
    order = [int(np.argmax(relevance))]
    while len(order) < k:
        criteria = {}
        for i in set(range(p)) - set(order):
            mean = np.mean([redundancy[i, j] for j in order])
            criteria[i] = relevance[i] / mean if scheme.endswith("Q") else relevance[i] - mean
        order.append(max(criteria, key=criteria.get))
    return order, relevance


@pytest.mark.parametrize("scheme", MRMR_SCHEMES)
@pytest.mark.parametrize("classes", [2, 3])
def test_mrmr_equals_the_formula_written_as_a_loop(scheme, classes):
    rng = np.random.default_rng(11)
    y = np.arange(90) % classes
    values = rng.normal(size=(90, 5)) @ rng.normal(size=(5, 25)) + 2 * rng.normal(size=(90, 25))
    values[:, :4] += 2 * y[:, None]
    selector = MRMRSelector(12, scheme=scheme).fit(values, y)
    order, relevance = mrmr_as_written(values, y, 12, scheme)
    assert selector.order_.tolist() == order
    np.testing.assert_allclose(selector.relevance_, relevance, rtol=1e-9, atol=1e-12)
    assert np.flatnonzero(selector.get_support()).tolist() == sorted(order)


@pytest.mark.parametrize("scheme", ["FCD", "FCQ"])
@pytest.mark.parametrize("seed", range(5))
def test_mrmr_tells_columns_apart_that_single_precision_cannot(scheme, seed):
    rng = np.random.default_rng(seed)
    y = np.arange(80) % 2
    base = rng.normal(size=(80, 6)) + 0.5 * y[:, None]
    values = np.repeat(base, 8, axis=1) + 1e-9 * rng.normal(size=(80, 48))
    assert MRMRSelector(15, scheme=scheme).fit(values, y).order_.tolist() == mrmr_as_written(values, y, 15, scheme)[0]


@pytest.mark.parametrize("name", ["mrmr_mid", "mrmr_miq", "mrmr_fcq"])
def test_mrmr_takes_a_second_view_before_a_copy_of_the_first(name):
    rng = np.random.default_rng(2)
    y = np.arange(200) % 2
    best = y + 0.5 * rng.normal(size=200)
    table = pd.DataFrame(
        {"best": best, "copy": best + 0.01 * rng.normal(size=200), "other": y + 0.6 * rng.normal(size=200)}
    )
    assert set(chosen(TopFilter(2), table, y)) == {"best", "copy"}
    assert "other" in chosen(make_selector(name, k=2), table, y)


def test_f_statistics_equal_scipy_and_are_zero_for_constants():
    table, y = made(p=6)
    values = np.column_stack([table.to_numpy(), np.ones(60)])
    expected = [stats.f_oneway(values[y == 0, i], values[y == 1, i]).statistic for i in range(6)]
    np.testing.assert_allclose(f_statistic(values, y), [*expected, 0.0], rtol=1e-10)


def test_f_statistics_of_columns_that_hardly_vary_within_classes_are_exact():
    rng = np.random.default_rng(4)
    y = np.arange(50) % 2
    values = np.column_stack([y + spread * rng.normal(size=50) for spread in (1e-2, 1e-4, 1e-6)])
    exact = values.astype(np.longdouble)
    means = np.stack([exact[y == c].mean(axis=0) for c in (0, 1)])
    expected = 25 * np.square(means - exact.mean(axis=0)).sum(axis=0) / (np.square(exact - means[y]).sum(axis=0) / 48)
    np.testing.assert_allclose(f_statistic(values, y), expected.astype(float), rtol=1e-8)
    assert f_statistic(np.column_stack([y * 3.3 + 0.1, np.full(50, 0.1), 1e8 + y]), y)[[0, 2]].min() >= 1e200
    assert f_statistic(np.full((50, 1), 0.1), y)[0] == 0.0


def test_the_linear_lasso_equals_scikit_learn_on_standardised_columns():
    table, y = made(n=80, p=30)
    selector = LassoSelector(seed=5).fit(table, y)
    splits = list(StratifiedKFold(5, shuffle=True, random_state=5).split(table, y))
    expected = LassoCV(alphas=50, cv=splits, max_iter=5000).fit(StandardScaler().fit_transform(table), y)
    np.testing.assert_allclose(selector.coefficients_, expected.coef_, atol=1e-12)
    np.testing.assert_array_equal(selector.get_support(), expected.coef_ != 0)


@pytest.mark.parametrize("model", ["linear", "logistic"])
def test_one_standard_error_gives_fewer_columns(model):
    table, y = made(n=100, p=100, signal=1.0)
    smallest = chosen(LassoSelector(model), table, y)
    strict = chosen(LassoSelector(model, one_standard_error=True), table, y)
    assert set(strict) < set(smallest)
    assert {"rad_0", "rad_1", "rad_2"} <= set(strict)


@pytest.mark.parametrize("model", ["linear", "logistic"])
def test_a_lasso_that_finds_nothing_says_so_and_keeps_the_strongest_column(model):
    table, y = made(n=60, p=20, signal=0.0, seed=1)
    selector = LassoSelector(model, one_standard_error=True).fit(table, y)
    assert selector.is_empty_
    assert np.flatnonzero(selector.get_support()).tolist() == [int(np.argmax(f_statistic(table.to_numpy(), y)))]
    assert not LassoSelector(model).fit(*made()).is_empty_


@pytest.mark.parametrize("model", ["linear", "logistic"])
def test_the_lasso_keeps_no_more_columns_than_patients(model):
    table, y = made(n=15, p=1000)
    assert len(chosen(LassoSelector(model), table, y)) <= 15


def test_boruta_keeps_copies_that_the_lasso_would_drop_and_rejects_noise():
    table, y = made(n=150, p=30, informative=2)
    rng = np.random.default_rng(3)
    table["copy"] = table["rad_0"] + 0.2 * rng.normal(size=150)
    selector = BorutaSelector(n_trees=50, max_runs=40).fit(table, y)
    assert set(selector.get_feature_names_out()) >= {"rad_0", "rad_1", "copy"}
    assert len(selector.get_feature_names_out()) <= 5
    assert (selector.decision_ == -1).sum() > 20


def test_decisions_of_boruta_follow_from_binomial_tests():
    table, y = made(n=100, p=20)
    selector = BorutaSelector(n_trees=30, max_runs=15).fit(table, y)
    level = 0.05 / 20
    assert (stats.binom.sf(selector.hits_[selector.decision_ == 1] - 1, selector.n_runs_, 0.5) <= level).all()
    still = selector.decision_ == 0
    assert (stats.binom.sf(selector.hits_[still] - 1, selector.n_runs_, 0.5) > level).all()
    assert (stats.binom.cdf(selector.hits_[still], selector.n_runs_, 0.5) > level).all()
    assert selector.hits_.max() <= selector.n_runs_ <= 15


def test_boruta_confirms_nothing_before_a_test_can_be_significant():
    table, y = made(n=100, p=20)
    # 2**-8 > 0.05 / 20 > 2**-9
    assert BorutaSelector(n_trees=30, max_runs=8).fit(table, y).is_empty_
    selector = BorutaSelector(n_trees=30, max_runs=9).fit(table, y)
    assert not selector.is_empty_
    assert selector.get_support()[:3].all()


def test_tentative_columns_can_be_kept():
    table, y = made(n=100, p=20)
    few = chosen(BorutaSelector(n_trees=30, max_runs=9), table, y)
    more = chosen(BorutaSelector(n_trees=30, max_runs=8, keep_tentative=True), table, y)
    assert set(few) <= set(more)


def test_recursive_elimination_equals_scikit_learn():
    table, y = made(n=50, p=100)
    selector = RFESelector(7, step=0.1).fit(table, y)
    expected = RFE(LogisticRegression(max_iter=5000), n_features_to_select=7, step=0.1)
    expected.fit(StandardScaler().fit_transform(table), y)
    np.testing.assert_array_equal(selector.ranking_, expected.ranking_)
    np.testing.assert_array_equal(selector.get_support(), expected.support_)


def test_relieff_sees_two_columns_that_matter_only_together():
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (300, 12))
    y = (values[:, 3] * values[:, 8] > 0).astype(int)
    assert np.flatnonzero(ReliefFSelector(2).fit(values, y).get_support()).tolist() == [3, 8]
    assert np.flatnonzero(TopFilter(2).fit(values, y).get_support()).tolist() != [3, 8]


def test_relieff_weights_of_four_patients_are_those_of_the_formula():
    # One neighbour: a column that equals the class differs by 1 from each nearest miss and by 0 from each nearest hit.
    # In the other, nearest hits differ by 0.2 (rows 0, 1) and 0.6 (rows 2, 3); nearest misses of the rows are
    # 2 (0.2), 2 (0.0), 1 (0.0) and 1 (0.6): (0.2 + 0.0 + 0.0 + 0.6 - 0.2 - 0.2 - 0.6 - 0.6) / 4 = -0.2; the extremes
    # of the column, 0 and 1 before, are 0.2 and 1, so that all is divided by 0.8.
    values = np.array([[0, 0.2], [0, 0.4], [1, 0.4], [1, 1.0]])
    weights = ReliefFSelector(1, neighbours=1).fit(values, [0, 0, 1, 1]).weights_
    np.testing.assert_allclose(weights, [1.0, -0.25], atol=1e-12)


@pytest.mark.parametrize("k", [0, -3, 2.5, True, None, "10"])
@pytest.mark.parametrize("name", WITH_K)
def test_impossible_numbers_of_columns_are_refused(name, k):
    table, y = made(p=5)
    with pytest.raises(InputError, match="k must be a whole number of 1 or more"):
        make_selector(name, k=k).fit(table, y)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("variance", {"threshold": -1}, "threshold must be 0 or more"),
        ("variance", {"threshold": np.nan}, "threshold must be 0 or more"),
        ("correlation", {"threshold": 1.5}, "above 0 and not above 1; found 1.5"),
        ("correlation_clusters", {"threshold": 0}, "above 0 and not above 1; found 0"),
        ("correlation_clusters", {"method": "kendal"}, "Unknown correlation 'kendal'"),
        ("correlation_clusters", {"representative": "best"}, "Unknown representative 'best'"),
        ("mrmr_miq", {"scheme": "MIX"}, "Unknown mRMR scheme 'MIX'"),
        ("mrmr_miq", {"width": -1}, "width must be 0 or more"),
        ("lasso", {"folds": 1}, "folds must be a whole number of 2 or more; found 1"),
        ("lasso", {"model": "cox"}, "Unknown lasso model 'cox'"),
        ("lasso", {"k": 0}, "k must be a whole number"),
        ("boruta", {"n_trees": 0}, "n_trees must be a whole number"),
        ("boruta", {"max_runs": 1.5}, "max_runs must be a whole number"),
        ("boruta", {"alpha": 0}, "alpha must lie above 0"),
        ("rfe", {"step": 1}, "step must lie between 0 and 1"),
        ("rfe", {"C": 0}, "C must be above 0"),
        ("relieff", {"neighbours": 0}, "neighbours must be a whole number"),
    ],
)
def test_impossible_settings_are_refused(name, options, message):
    table, y = made(p=5)
    with pytest.raises(InputError, match=message):
        make_selector(name, **options).fit(table, y)


@pytest.mark.parametrize("name", SUPERVISED)
@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (None, "none was given"),
        (np.zeros(60), "one class only"),
        (np.arange(59) % 2, "Expected 60 outcomes; found shape"),
        (np.where(np.arange(60) == 3, np.nan, np.arange(60) % 2), "Outcomes are missing"),
    ],
)
def test_unusable_outcomes_are_refused(name, outcome, message):
    table, _ = made(p=5)
    with pytest.raises(InputError, match=message):
        build(name, table).fit(table, outcome)


@pytest.mark.parametrize("name", ["lasso", "logistic_lasso", "relieff"])
def test_a_single_patient_of_a_class_is_too_few_for_methods_that_split_or_pair(name):
    table, _ = made(p=5)
    with pytest.raises(InputError, match=r"needs 2 or more patients of each class; class 'True' has 1"):
        build(name, table).fit(table, np.arange(60) == 3)


def test_methods_of_two_classes_refuse_three():
    table, _ = made(p=5)
    with pytest.raises(InputError, match="two classes; found 3"):
        LassoSelector().fit(table, np.arange(60) % 3)
    with pytest.raises(InputError, match="Outcomes must be 0 or 1; found 2"):
        TopFilter().fit(table, np.arange(60) % 3)


@pytest.mark.parametrize("name", SELECTORS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_and_infinite_values_are_refused_with_the_column(name, value):
    table, y = made(p=5)
    table.iloc[4, 2] = value
    with pytest.raises(InputError, match="Column 'rad_2' has missing or infinite values"):
        build(name, table).fit(table, y)


def test_unknown_selectors_and_options_are_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"Unknown selector 'mrmr_mi'.*mrmr_mi[dq]"):
        make_selector("mrmr_mi")
    with pytest.raises(InputError, match=r"Unknown option of selector 'lasso': 'fold'.*'folds'"):
        make_selector("lasso", fold=3)


def measured_twice(n=40, seed=0):
    """Columns that a second measurement confirms, contradicts, or that was not repeated."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.normal(size=(n, 3)), columns=["steady", "loose", "single"])
    table["steady__repeat"] = table["steady"] + rng.normal(0, 0.1, n)
    table["loose__repeat"] = rng.normal(size=n)
    return table


def test_a_second_measurement_decides_which_columns_stay():
    table = measured_twice()
    chosen_by = RepeatFilter(0.75).fit(table)
    assert list(chosen_by.get_feature_names_out()) == ["steady", "single"]
    assert chosen_by.icc_["steady"] > 0.95 > 0.5 > chosen_by.icc_["loose"]
    assert chosen_by.transform(table).shape == (40, 2)


def test_missing_measurements_are_left_out_of_the_agreement_and_stay_missing():
    table = measured_twice()
    table.loc[:4, "steady__repeat"] = np.nan
    table.loc[6, "steady"] = np.nan
    chosen_by = RepeatFilter().fit(table)
    both = table[["steady", "steady__repeat"]].dropna()
    expected = icc(both.to_numpy(), kinds=["ICC(2,1)"])["icc"].iloc[0]
    assert chosen_by.icc_["steady"] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(chosen_by.transform(table)[6, 0])


def test_the_agreement_equals_the_analysis_module():
    rng = np.random.default_rng(3)
    first = rng.normal(size=(25, 6)) * [1, 10, 1e-3, 1, 1, 1]
    second = first + rng.normal(size=(25, 6)) * [0.1, 20, 1e-4, 0, 3, 1] + [0, 5, 0, 0, 0, 2]
    table = icc(np.stack([first, second], axis=1), kinds=["ICC(2,1)"])
    np.testing.assert_allclose(agreement(first, second), table["icc"], atol=1e-10)


def test_constant_columns_have_no_agreement_and_the_best_column_stays():
    flat = pd.DataFrame({"a": np.ones(5), "a__repeat": np.ones(5), "b": range(5), "b__repeat": [3, 0, 4, 1, 2]})
    chosen_by = RepeatFilter(0.9).fit(flat)
    assert np.isnan(chosen_by.icc_["a"])
    assert list(chosen_by.get_feature_names_out()) == ["b"]
