"""Rank tests against R and Demsar 2006, corrected t-tests against their formulae, and the diagram."""

from __future__ import annotations

import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hybrid.analysis.many_models import (
    NEMENYI_COLUMNS,
    bayesian_correlated_t,
    corrected_resampled_t,
    critical_difference,
    friedman,
    friedman_from_ranks,
    nemenyi,
    nemenyi_from_ranks,
    plot_critical_difference,
    similar_groups,
)
from hybrid.errors import InputError

mpl.use("Agg")

# AUC of four versions of C4.5 on 14 data sets: Demsar 2006 (Journal of Machine Learning Research 7:1-30), table 6.
DEMSAR = pd.DataFrame(
    [
        (0.763, 0.768, 0.771, 0.798), (0.599, 0.591, 0.590, 0.569), (0.954, 0.971, 0.968, 0.967),
        (0.628, 0.661, 0.654, 0.657), (0.882, 0.888, 0.886, 0.898), (0.936, 0.931, 0.916, 0.931),
        (0.661, 0.668, 0.609, 0.685), (0.583, 0.583, 0.563, 0.625), (0.775, 0.838, 0.866, 0.875),
        (1.000, 1.000, 1.000, 1.000), (0.940, 0.962, 0.965, 0.962), (0.619, 0.666, 0.614, 0.669),
        (0.972, 0.981, 0.975, 0.975), (0.957, 0.978, 0.946, 0.970),
    ],
    columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"],
)  # fmt: skip
PUBLISHED_RANKS = pd.Series([3.143, 2.0, 2.893, 1.964], index=DEMSAR.columns)

# Times of 22 players rounding first base (Hollander and Wolfe 1973, p. 140), the example of R's friedman.test.
ROUNDING_TIMES = [
    (5.40, 5.50, 5.55), (5.85, 5.70, 5.75), (5.20, 5.60, 5.50), (5.55, 5.50, 5.40), (5.90, 5.85, 5.70),
    (5.45, 5.55, 5.60), (5.40, 5.40, 5.35), (5.45, 5.50, 5.35), (5.25, 5.15, 5.00), (5.85, 5.80, 5.70),
    (5.25, 5.20, 5.10), (5.65, 5.55, 5.45), (5.60, 5.35, 5.45), (5.05, 5.00, 4.95), (5.50, 5.50, 5.40),
    (5.45, 5.55, 5.50), (5.55, 5.55, 5.35), (5.45, 5.50, 5.55), (5.50, 5.45, 5.25), (5.65, 5.60, 5.40),
    (5.70, 5.65, 5.55), (6.30, 6.30, 6.25),
]  # fmt: skip

# 50 differences of two models; values from the published formulae in base R 4.2.2.
DIFFERENCES = [
    -0.0077, 0.0108, -0.0355, -0.0309, 0.0454, -0.018, 0.0497, 0.0287, 0.0086, -0.0201, -0.0149, -0.0005, -0.0361,
    0.0023, -0.0245, 0.0104, 0.0033, 0.0366, -0.0078, -0.0097, -0.0105, 0.0095, -0.0033, 0.0206, 0.0122, 0.0102,
    0.0044, -0.013, 0.0034, -0.0195, -0.0231, -0.0181, 0.0304, -0.0373, -0.0161, 0.0245, 0.0044, 0.0564, -0.0083,
    -0.0004, -0.0391, 0.0106, 0.0368, -0.0162, 0.0367, -0.0003, -0.0556, 0.0364, 0.0317, 0.0166,
]  # fmt: skip
SIZES = {"n_train": 180, "n_test": 20}


def test_friedman_with_ties_equals_r_on_demsars_table():
    result = friedman(DEMSAR)
    assert (result.chi2, result.p_chi2) == pytest.approx((10.952380952381, 0.0119861763254178), rel=1e-10)
    np.testing.assert_allclose(result.mean_ranks, [3.14285714285714, 2, 2.92857142857143, 1.92857142857143], rtol=1e-12)
    assert list(result.mean_ranks.index) == list(DEMSAR.columns)


def test_friedman_without_correction_for_ties_equals_demsars_formulae():
    result = friedman(DEMSAR, correct_ties=False)
    assert (result.chi2, result.f) == pytest.approx((9.85714285714285, 3.98666666666667), rel=1e-12)
    assert result.p == pytest.approx(0.0143524462160237, rel=1e-10)
    assert (result.df, result.df1, result.df2) == (3, 3, 39)


def test_published_statistics_follow_from_the_published_ranks_of_demsar_2006():
    result = friedman_from_ranks(PUBLISHED_RANKS, 14)
    assert (result.chi2, result.f) == pytest.approx((9.28, 3.69), abs=0.005)


def test_friedman_equals_r_on_rounding_times():
    result = friedman(ROUNDING_TIMES, higher_is_better=False)
    assert (result.chi2, result.p_chi2) == pytest.approx((11.1428571428571, 0.00380504077551136), rel=1e-10)
    assert result.mean_ranks.idxmin() == 2


def test_iman_davenport_is_the_analysis_of_variance_of_the_ranks():
    ranks = stats.rankdata(-DEMSAR.to_numpy(), axis=1)
    between = 14 * ((ranks.mean(axis=0) - 2.5) ** 2).sum()
    within = ((ranks - 2.5) ** 2).sum() - between
    assert friedman(DEMSAR).f == pytest.approx((between / 3) / (within / 39), rel=1e-12)


def test_order_of_blocks_and_direction_of_scores_do_not_matter():
    shuffled = friedman(DEMSAR.sample(frac=1, random_state=0))
    negated = friedman(-DEMSAR, higher_is_better=False)
    monotone = friedman(np.exp(5 * DEMSAR))
    assert shuffled.chi2 == pytest.approx(friedman(DEMSAR).chi2, rel=1e-12)
    assert negated.f == monotone.f == friedman(DEMSAR).f


def test_models_tied_everywhere_do_not_differ():
    result = friedman(np.ones((5, 4)))
    assert (result.chi2, result.p_chi2, result.f, result.p) == (0.0, 1.0, 0.0, 1.0)


@pytest.mark.parametrize("row", [(1, 2, 3), (2, 2, 5)])
def test_p_of_blocks_that_all_agree_is_that_of_all_permutations(row):
    result = friedman(np.tile(row, (3, 1)))
    ranks = stats.rankdata(row)
    possible = list(itertools.product(itertools.permutations(ranks), repeat=3))
    largest = max(np.sum(blocks, axis=0).var() for blocks in possible)
    exact = np.mean([np.sum(blocks, axis=0).var() > largest - 1e-9 for blocks in possible])
    assert np.isinf(result.f)
    assert result.p == pytest.approx(exact, rel=1e-12)


def test_f_keeps_its_level_when_no_model_is_better():
    rng = np.random.default_rng(0)
    p = np.array([friedman(rng.normal(size=(8, 4))).p for _ in range(1000)])
    assert 0.03 < np.mean(p <= 0.05) < 0.07


def test_nemenyi_equals_r_on_demsars_table():
    table = nemenyi(DEMSAR)
    expected = [
        0.0886727092950266, 0.9716864713034, 0.0616832589144738, 0.226696886026406, 0.99888234398196,
        0.17005163566434,
    ]  # fmt: skip
    assert list(zip(table["model_a"], table["model_b"], strict=True)) == list(itertools.combinations(DEMSAR.columns, 2))
    np.testing.assert_allclose(table["p"], expected, rtol=1e-7)
    assert not table["is_different"].any()
    assert tuple(table.columns) == NEMENYI_COLUMNS


@pytest.mark.parametrize(
    ("alpha", "from_r", "published"), [(0.05, 1.25355914949599, 1.25), (0.10, 1.11806016703435, 1.12)]
)
def test_critical_difference_equals_r_and_demsar_2006(alpha, from_r, published):
    assert critical_difference(4, 14, alpha=alpha) == pytest.approx(from_r, rel=1e-7)
    assert critical_difference(4, 14, alpha=alpha) == pytest.approx(published, abs=0.005)


def test_pairs_exceed_the_critical_difference_exactly_when_p_is_below_alpha():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(20, 6)) + 0.45 * np.arange(6)
    for alpha in (0.01, 0.05, 0.2):
        table = nemenyi(scores, alpha=alpha)
        assert table["is_different"].any()
        assert not table["is_different"].all()
        np.testing.assert_array_equal(table["is_different"], table["p"] < alpha)


def test_groups_are_the_longest_runs_of_similar_models():
    ranks = pd.Series([1.0, 2.0, 2.9, 4.5, 4.6], index=list("abcde"))
    table = nemenyi_from_ranks(ranks, 18)
    assert table["critical_difference"].iloc[0] == pytest.approx(1.4377, abs=1e-3)
    assert similar_groups(table) == [("a", "b"), ("b", "c"), ("d", "e")]
    assert similar_groups(nemenyi_from_ranks(ranks, 5)) == [("a", "c"), ("b", "e")]
    assert similar_groups(nemenyi_from_ranks(ranks, 2)) == [("a", "e")]
    assert similar_groups(nemenyi_from_ranks(ranks, 100_000)) == []


def test_groups_equal_a_search_over_all_subsets():
    rng = np.random.default_rng(2)
    for _ in range(20):
        ranks = pd.Series(rng.permutation(5) + rng.uniform(-0.4, 0.4, 5), index=list("abcde"))
        table = nemenyi_from_ranks(ranks, int(rng.integers(4, 60)))
        similar = {
            frozenset(names)
            for size in range(2, 6)
            for names in itertools.combinations(ranks.index, size)
            if np.ptp(ranks[list(names)]) <= table["critical_difference"].iloc[0]
        }
        maximal = [names for names in similar if not any(names < other for other in similar)]
        ends = {(ranks[list(names)].idxmin(), ranks[list(names)].idxmax()) for names in maximal}
        assert set(similar_groups(table)) == ends


def test_diagram_shows_ranks_groups_and_critical_difference():
    table = nemenyi(DEMSAR)
    ax = plot_critical_difference(table)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["C4.5+m+cf (1.93)", "C4.5+m (2.00)", "C4.5+cf (2.93)", "C4.5 (3.14)"]
    points, ruler, *bars = ax.lines
    np.testing.assert_allclose(points.get_xdata(), sorted(friedman(DEMSAR).mean_ranks))
    assert np.ptp(ruler.get_xdata()) == pytest.approx(critical_difference(4, 14))
    assert [text.get_text() for text in ax.texts] == ["critical difference 1.25"]
    assert len(bars) == 1
    assert list(bars[0].get_ydata()) == [-0.25, 3.25]
    mpl.pyplot.close(ax.figure)


def test_bars_of_the_diagram_span_the_rows_of_their_groups():
    table = nemenyi_from_ranks(pd.Series([2.0, 4.6, 1.0, 4.5, 2.9], index=list("beadc")), 18)
    ax = plot_critical_difference(table)
    assert [list(bar.get_ydata()) for bar in ax.lines[2:]] == [[-0.25, 1.25], [0.75, 2.25], [2.75, 4.25]]
    assert len({bar.get_xdata()[0] for bar in ax.lines[2:]}) == 3
    mpl.pyplot.close(ax.figure)


def test_diagram_is_drawn_on_the_given_axes():
    figure, ax = mpl.pyplot.subplots()
    assert plot_critical_difference(nemenyi(np.random.default_rng(3).normal(size=(9, 7))), ax=ax) is ax
    mpl.pyplot.close(figure)


def test_diagram_needs_the_table_of_nemenyi():
    with pytest.raises(InputError, match="Nemenyi table has no column 'p'"):
        plot_critical_difference(nemenyi(DEMSAR).drop(columns="p"))


def test_corrected_t_equals_the_formula_of_nadeau_and_bengio_in_r():
    result = corrected_resampled_t(DIFFERENCES, **SIZES)
    assert (result.t, result.p) == pytest.approx((0.162047446924118, 0.871934872899275), rel=1e-10)
    assert (result.lower, result.upper) == pytest.approx((-0.0168965092450123, 0.0198605092450123), rel=1e-10)
    assert (result.df, result.n_differences) == (49, 50)


def test_without_overlap_the_corrected_t_test_is_students():
    result = corrected_resampled_t(DIFFERENCES, n_train=10**12, n_test=1)
    student = stats.ttest_1samp(DIFFERENCES, 0)
    assert (result.t, result.p) == pytest.approx((student.statistic, student.pvalue), rel=1e-9)
    assert result.t == pytest.approx(0.414903352631384, rel=1e-9)


def test_one_sided_p_values_add_up_to_one():
    greater = corrected_resampled_t(DIFFERENCES, **SIZES, alternative="greater").p
    less = corrected_resampled_t(DIFFERENCES, **SIZES, alternative="less").p
    assert greater + less == pytest.approx(1.0, abs=1e-14)
    assert greater == pytest.approx(0.871934872899275 / 2, rel=1e-10)


def test_identical_models_do_not_differ_and_a_constant_difference_has_no_test():
    same = corrected_resampled_t(np.zeros(10), **SIZES)
    assert (same.mean, same.lower, same.upper, same.t, same.p) == (0.0, 0.0, 0.0, 0.0, 1.0)
    constant = corrected_resampled_t(np.full(10, 0.1) + 0.2, **SIZES)
    assert np.isinf(constant.t)
    assert np.isnan(constant.p)


def test_interval_excludes_zero_exactly_when_p_is_below_five_percent():
    rng = np.random.default_rng(4)
    for shift in np.linspace(0, 0.4, 15):
        result = corrected_resampled_t(rng.normal(shift, 0.2, 12), n_train=80, n_test=20)
        assert (result.lower > 0 or result.upper < 0) == (result.p < 0.05)


def test_posterior_equals_the_formula_of_benavoli_in_r():
    result = bayesian_correlated_t(DIFFERENCES, **SIZES, rope=0.01)
    assert (result.p_worse, result.p_better) == pytest.approx((0.107628480013671, 0.178109135293021), rel=1e-10)
    assert result.p_worse + result.p_equivalent + result.p_better == pytest.approx(1.0, abs=1e-15)
    without_region = bayesian_correlated_t(DIFFERENCES, **SIZES, rope=0)
    assert without_region.p_better == pytest.approx(0.564032563550362, rel=1e-10)
    assert without_region.p_equivalent == pytest.approx(0.0, abs=1e-15)


def test_credible_interval_equals_the_corrected_confidence_interval():
    posterior, test = bayesian_correlated_t(DIFFERENCES, **SIZES), corrected_resampled_t(DIFFERENCES, **SIZES)
    assert (posterior.lower, posterior.upper) == (test.lower, test.upper)


def test_swapping_the_models_mirrors_the_posterior():
    one = bayesian_correlated_t(DIFFERENCES, **SIZES)
    other = bayesian_correlated_t(-np.array(DIFFERENCES), **SIZES)
    assert (one.p_better, one.p_worse) == pytest.approx((other.p_worse, other.p_better), rel=1e-12)


@pytest.mark.parametrize(("value", "expected"), [(0.0, (0, 1, 0)), (0.3, (1, 0, 0)), (-0.3, (0, 0, 1))])
def test_posterior_without_variance_is_certain(value, expected):
    result = bayesian_correlated_t(np.full(5, value), **SIZES)
    assert (result.p_better, result.p_equivalent, result.p_worse) == expected


def test_reference_files_hold_the_data_typed_in_here(benchmarks):
    import json

    folder = benchmarks / "statistics"
    stored = pd.read_csv(folder / "demsar2006_table6.csv", index_col="dataset")
    np.testing.assert_array_equal(stored, DEMSAR)
    np.testing.assert_array_equal(pd.read_csv(folder / "rounding_times.csv"), ROUNDING_TIMES)
    assert json.loads((folder / "nadeau_bengio.json").read_text(encoding="utf-8"))["diff"] == DIFFERENCES


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: friedman(DEMSAR.iloc[:, :2]), "2 models in 14 blocks"),
        (lambda: friedman(DEMSAR.iloc[:1]), "4 models in 1 blocks"),
        (lambda: friedman(DEMSAR.mask(DEMSAR == 0.971)), r"model C4.5\+m has none in block 2"),
        (lambda: friedman(DEMSAR.assign(dataset="x")), "column 'dataset' is not"),
        (lambda: friedman(DEMSAR.set_axis(["a", "b", "a", "c"], axis=1)), "Model 'a' occurs twice"),
        (lambda: friedman_from_ranks([1, 2, 4], 10), "add up to 6; found 7"),
        (lambda: nemenyi(DEMSAR, alpha=5), "between 0 and 1; found 5"),
        (lambda: corrected_resampled_t([0.1, np.nan], **SIZES), "1 of them missing"),
        (lambda: corrected_resampled_t([0.1], **SIZES), r"shape \(1,\)"),
        (lambda: corrected_resampled_t([0.1, 0.2], n_train=0, n_test=5), "found 0 and 5"),
        (lambda: corrected_resampled_t([0.1, 0.2], **SIZES, alternative="bigger"), "Unknown alternative"),
        (lambda: bayesian_correlated_t([0.1, 0.2], **SIZES, rope=-1), "cannot be -1 wide"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
