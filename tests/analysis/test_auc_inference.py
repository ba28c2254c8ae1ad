"""Intervals, unpaired tests and sample sizes of AUCs against pROC, published tables and the definition."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hybrid.analysis import auc, delong_interval
from hybrid.analysis.auc_inference import (
    INTERVAL_METHODS,
    PERFECT_REFERENCE,
    auc_difference_power,
    auc_intervals,
    auc_power,
    hanley_mcneil_se,
    pilot_difference_power,
    pilot_difference_sample_size,
    planned_variance,
    sample_size_auc,
    sample_size_auc_difference,
    unpaired_delong_test,
)
from hybrid.analysis.roc import perfect_interval
from hybrid.errors import InputError

MARKERS = ("wfns", "s100b", "ndka", "age")

# pROC 1.18.0 on its data set aSAH: D, degrees of freedom and p of roc.test(paired = FALSE).
UNPAIRED = [
    ("wfns", "s100b", 1.43490640926908, 206.661063787782, 0.152825378808796),
    ("wfns", "ndka", 3.10125096778969, 197.125250631218, 0.00220950791756457),
    ("wfns", "age", 3.13089944480663, 201.009678790173, 0.00200240710222002),
    ("s100b", "ndka", 1.55995743389685, 222.235395951271, 0.120192832430845),
    ("s100b", "age", 1.54930379166006, 223.353325741359, 0.122724460428586),
    ("ndka", "age", -0.0388355486433803, 223.718532338037, 0.969056135493652),
]

# Obuchowski, Lieber and Wians 2004, table 4 (doi:10.1373/clinchem.2004.031823): one-sided 5 %, power 90 %.
TABLE_4 = [
    (0.25, 0.6, 334, 84), (0.25, 0.7, 80, 20), (1, 0.6, 135, 135), (1, 0.7, 33, 33), (1, 0.8, 14, 14),
    (2, 0.7, 25, 50), (2, 0.8, 11, 21), (4, 0.7, 21, 84),
]  # fmt: skip


@pytest.fixture
def asah(benchmarks):
    table = pd.read_csv(benchmarks / "statistics" / "aSAH.csv")
    return table.assign(y=(table["outcome"] == "Poor").astype(int))


def wfns():
    """Outcome and five-level score of the 113 patients, from the counts on pROC's curve."""
    scores = np.concatenate([np.repeat(np.arange(1, 6), counts) for counts in ([37, 20, 3, 8, 4], [2, 12, 1, 8, 18])])
    return np.repeat([0, 1], [72, 41]), scores.astype(float)


def simulated(seed, n=80, shift=1.0, levels=None):
    rng = np.random.default_rng(seed)
    y = np.r_[0, 0, 1, 1, rng.integers(0, 2, n - 4)]
    scores = rng.normal(0, 1, n) + shift * y
    return y, scores if levels is None else np.round(scores * levels)


def test_plain_interval_equals_proc_on_wfns():
    row = auc_intervals(*wfns(), methods=["delong"]).iloc[0]
    assert row["auc"] == pytest.approx(0.823678861788618, abs=1e-14)
    assert row["se"] ** 2 == pytest.approx(0.00146991470882363, rel=1e-12)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((0.748534887819453, 0.898822835757783), abs=1e-12)


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("wfns", (0.748534887819453, 0.898822835757783)),
        ("s100b", (0.630118211761623, 0.832618915609651)),
        ("ndka", (0.501244999271703, 0.722670989888189)),
        ("age", (0.508153549604572, 0.721860000530929)),
    ],
)
def test_plain_interval_equals_proc_on_asah(asah, marker, expected):
    row = auc_intervals(asah["y"], asah[marker], methods=["delong"]).iloc[0]
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(expected, abs=1e-12)


def test_table_has_one_row_per_method_with_its_source():
    table = auc_intervals(*simulated(1), n_bootstrap=200)
    assert list(table.columns) == ["method", "auc", "se", "ci_low", "ci_high", "reference"]
    assert table["method"].tolist() == list(INTERVAL_METHODS)
    assert table["reference"].tolist() == list(INTERVAL_METHODS.values())
    assert ((table["ci_low"] < table["auc"]) & (table["auc"] < table["ci_high"])).all()


def test_logit_interval_is_that_of_delong_interval():
    y, scores = simulated(2)
    row = auc_intervals(y, scores, methods=["logit"], level=0.9).iloc[0]
    assert (row["auc"], row["ci_low"], row["ci_high"]) == delong_interval(y, scores, level=0.9, scale="logit")


def test_bca_interval_agrees_with_scipy():
    y, scores = simulated(3, n=70)

    def area(positives, negatives, axis=-1):
        wins = positives[..., :, None] > negatives[..., None, :]
        return wins.mean(axis=(-2, -1))

    theirs = stats.bootstrap(
        (scores[y == 1], scores[y == 0]), area, method="BCa", n_resamples=4000, batch=500, rng=np.random.default_rng(0)
    )
    row = auc_intervals(y, scores, methods=["bca"], n_bootstrap=4000).iloc[0]
    # Quantiles of 4000 draws have a Monte-Carlo error of about 0.04 standard errors.
    assert row["se"] == pytest.approx(theirs.standard_error, rel=0.05)
    assert row["ci_low"] == pytest.approx(theirs.confidence_interval.low, abs=0.25 * row["se"])
    assert row["ci_high"] == pytest.approx(theirs.confidence_interval.high, abs=0.25 * row["se"])


@pytest.mark.parametrize(("auc_value", "m", "n"), [(0.7, 20, 35), (0.9, 50, 10), (0.3, 12, 12)])
def test_hanley_mcneil_error_equals_the_variance_of_exponential_scores(auc_value, m, n):
    # For exponential scores with rates 1 and theta the AUC is 1 / (1 + theta); simulated, 20 000 samples.
    rng = np.random.default_rng(4)
    odds = auc_value / (1 - auc_value)
    samples = np.concatenate([
        (rng.exponential(odds, (1000, m, 1)) > rng.exponential(1.0, (1000, 1, n))).mean(axis=(1, 2)) for _ in range(20)
    ])  # fmt: skip
    assert samples.mean() == pytest.approx(auc_value, abs=0.005)
    assert hanley_mcneil_se(auc_value, m, n) == pytest.approx(samples.std(), rel=0.02)


def test_hanley_mcneil_error_with_one_case_each_is_that_of_a_coin():
    assert hanley_mcneil_se(0.8, 1, 1) == pytest.approx(np.sqrt(0.8 * 0.2))


@pytest.mark.parametrize("levels", [None, 1])
def test_swapping_the_labels_mirrors_estimate_and_intervals(levels):
    y, scores = simulated(5, levels=levels)
    methods = ["delong", "logit", "hanley_mcneil"]
    first, second = auc_intervals(y, scores, methods=methods), auc_intervals(1 - y, scores, methods=methods)
    np.testing.assert_allclose(second["auc"], 1 - first["auc"], atol=1e-12)
    np.testing.assert_allclose(second["se"], first["se"], rtol=1e-9)
    np.testing.assert_allclose(second["ci_low"], 1 - first["ci_high"], atol=1e-9)


def test_row_order_changes_nothing_not_even_the_bootstrap():
    y, scores = simulated(6, levels=2)
    order = np.random.default_rng(7).permutation(y.size)
    first = auc_intervals(y, scores, n_bootstrap=300)
    second = auc_intervals(y[order], scores[order], n_bootstrap=300)
    pd.testing.assert_frame_equal(first, second, rtol=1e-10)


def test_monotone_rescaling_changes_nothing():
    y, scores = simulated(8)
    pd.testing.assert_frame_equal(
        auc_intervals(y, scores, n_bootstrap=300), auc_intervals(y, np.exp(scores) * 1e6, n_bootstrap=300)
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_separation_gets_the_exact_bound_and_no_standard_error(sign):
    y = np.repeat([0, 1], [12, 7])
    table = auc_intervals(y, sign * (y + np.linspace(0, 0.5, 19)), n_bootstrap=50)
    estimate = 1.0 if sign > 0 else 0.0
    assert (table["auc"] == estimate).all()
    assert table["se"].isna().all()
    assert (table["reference"] == PERFECT_REFERENCE).all()
    assert (table[["ci_low", "ci_high"]].to_numpy() == perfect_interval(estimate, 7)).all()


def test_constant_score_has_an_auc_of_one_half_without_variance():
    table = auc_intervals([0, 0, 0, 1, 1], np.full(5, 3.0), n_bootstrap=50).set_index("method")
    assert (table["auc"] == 0.5).all()
    assert table.loc["delong", "se"] == table.loc["bca", "se"] == 0.0
    assert table.loc["hanley_mcneil", "se"] > 0


def test_three_cases_leave_only_the_intervals_that_exist():
    table = auc_intervals([0, 0, 1], [1.0, 3.0, 2.0], n_bootstrap=50).set_index("method")
    assert (table["auc"] == 0.5).all()
    assert table.loc[["delong", "logit", "bca"], ["se", "ci_low", "ci_high"]].isna().all(axis=None)
    assert 0 <= table.loc["hanley_mcneil", "ci_low"] < table.loc["hanley_mcneil", "ci_high"] <= 1


def test_symmetric_intervals_are_cut_at_the_edges():
    y, scores = simulated(9, n=12, shift=3.0)
    assert auc(y, scores) < 1
    table = auc_intervals(y, scores, methods=["delong", "hanley_mcneil"], level=0.999)
    assert (table["ci_high"] == 1.0).all()


@pytest.mark.parametrize(
    ("y", "scores", "match"),
    [
        ([1, 1, 1], [1, 2, 3], "one class only"),
        ([0, 1, 2], [1, 2, 3], "0 or 1"),
        ([0, 1, 1], [1, np.nan, 3], "finite"),
        ([0, 1], [1, 2, 3], "one entry per case"),
        ([0, 1], [[1, 2], [3, 4]], "One score per case"),
    ],
)
def test_unusable_input_is_refused(y, scores, match):
    with pytest.raises(InputError, match=match):
        auc_intervals(y, scores)


def test_unknown_method_and_level_are_refused():
    with pytest.raises(InputError, match="delong"):
        auc_intervals(*simulated(1), methods=["delongg"])
    with pytest.raises(InputError, match="confidence level"):
        auc_intervals(*simulated(1), level=95)


@pytest.mark.parametrize(("first", "second", "statistic", "df", "p"), UNPAIRED)
def test_unpaired_test_equals_proc_on_asah(asah, first, second, statistic, df, p):
    result = unpaired_delong_test(asah["y"], asah[first], asah["y"], asah[second])
    assert (result.statistic, result.df, result.p) == pytest.approx((statistic, df, p), rel=1e-9)


def test_independent_groups_equal_proc_on_asah_men_and_women(asah):
    men, women = (asah[asah["gender"] == name] for name in ("Male", "Female"))
    result = unpaired_delong_test(men["y"], men["s100b"], women["y"], women["s100b"])
    assert (result.auc_1, result.auc_2) == pytest.approx((0.772727272727273, 0.72), abs=1e-14)
    assert result.statistic == pytest.approx(0.501880774326713, rel=1e-12)
    assert result.df == pytest.approx(106.462550028932, rel=1e-12)
    assert result.p == pytest.approx(0.616787759258242, rel=1e-12)


def test_unpaired_p_value_and_interval_belong_to_the_same_distribution():
    first, second = simulated(11, shift=1.5), simulated(12, n=60, shift=0.2)
    result = unpaired_delong_test(*first, *second)
    edge = unpaired_delong_test(*first, *second, level=1 - result.p)
    assert min(abs(edge.lower), abs(edge.upper)) == pytest.approx(0.0, abs=1e-9)


def test_unpaired_sides_add_up_and_exchanging_groups_changes_the_sign():
    first, second = simulated(13, shift=1.5), simulated(14, n=60, shift=0.2)
    two, greater, less = (
        unpaired_delong_test(*first, *second, alternative=name) for name in ("two-sided", "greater", "less")
    )
    assert greater.p + less.p == pytest.approx(1.0)
    assert two.p == pytest.approx(2 * min(greater.p, less.p))
    turned = unpaired_delong_test(*second, *first)
    assert (turned.difference, turned.lower, turned.p) == pytest.approx((-two.difference, -two.upper, two.p))


def test_unpaired_identical_groups_have_p_one():
    y, scores = simulated(15)
    result = unpaired_delong_test(y, scores, y, scores)
    assert (result.difference, result.statistic, result.p) == (0.0, 0.0, 1.0)


def test_unpaired_groups_without_variance():
    y = np.repeat([0, 1], [5, 5])
    perfect, constant = y.astype(float), np.zeros(10)
    assert unpaired_delong_test(y, perfect, y, perfect).p == 1.0
    assert unpaired_delong_test(y, perfect, y, perfect, alternative="greater").p == 0.5
    undefined = unpaired_delong_test(y, perfect, y, constant)
    assert undefined.statistic == np.inf
    assert np.isnan([undefined.p, undefined.lower, undefined.upper]).all()


def test_unpaired_test_needs_two_of_each_class():
    with pytest.raises(InputError, match="at least two"):
        unpaired_delong_test([0, 0, 1], [1, 2, 3], *simulated(1))
    with pytest.raises(InputError, match="alternative"):
        unpaired_delong_test(*simulated(1), *simulated(2), alternative="bigger")


def test_power_of_one_auc_equals_proc():
    assert auc_power(0.731368563685637, 41, 72) == pytest.approx(0.990483252763233, rel=1e-12)
    assert auc_power(0.73, 41, 72) == pytest.approx(0.9897453, abs=1e-6)


def test_sample_size_of_one_auc_equals_proc():
    size = sample_size_auc(0.73, power=0.95, ratio=1.7)
    assert size.n_positive_exact == pytest.approx(29.6701956187491, rel=1e-12)
    assert size.n_negative_exact == pytest.approx(50.4393325518734, rel=1e-12)
    assert (size.n_positive, size.n_negative, size.n_total) == (30, 51, 81)
    assert sample_size_auc(0.731368563685637, power=0.9).n_positive_exact == pytest.approx(29.5697422, rel=1e-8)


@pytest.mark.parametrize(("ratio", "area", "n_positive", "n_negative"), TABLE_4)
def test_sample_size_of_one_auc_equals_obuchowski_2004_table_4(ratio, area, n_positive, n_negative):
    size = sample_size_auc(area, power=0.9, ratio=ratio, alternative="greater")
    assert (size.n_positive, size.n_negative) == (n_positive, n_negative)


def test_pilot_power_and_sample_size_equal_proc(asah):
    data = asah["y"], asah["ndka"], asah["wfns"]
    assert pilot_difference_power(*data) == pytest.approx(0.713159398698534, rel=1e-12)
    size = pilot_difference_sample_size(*data, power=0.9)
    assert size.n_positive_exact == pytest.approx(64.7777667451142, rel=1e-12)
    assert size.n_negative_exact == pytest.approx(113.756078186542, rel=1e-12)
    other = pilot_difference_sample_size(asah["y"], asah["s100b"], asah["ndka"], power=0.9)
    assert (other.n_positive_exact, other.n_negative_exact) == pytest.approx((213.117677, 374.255432), rel=1e-8)


@pytest.mark.parametrize("variance", ["obuchowski", "hanley_mcneil"])
@pytest.mark.parametrize("alternative", ["two-sided", "less"])
def test_planned_sample_reaches_the_power_asked_for(variance, alternative):
    settings = {"correlation": 0.4, "alternative": alternative, "variance": variance}
    size = sample_size_auc_difference(0.7, 0.8, power=0.85, ratio=2, **settings)
    # Counts that keep the ratio exactly.
    n = size.n_positive
    assert auc_difference_power(0.7, 0.8, n, 2 * n, **settings) >= 0.85
    assert auc_difference_power(0.7, 0.8, n - 1, 2 * (n - 1), **settings) < 0.85


def test_correlation_and_balance_save_patients():
    sizes = [sample_size_auc_difference(0.7, 0.8, correlation=r).n_total for r in (0.0, 0.3, 0.6)]
    assert sizes == sorted(sizes, reverse=True)
    assert sample_size_auc(0.7, ratio=1).n_total < sample_size_auc(0.7, ratio=9).n_total


def test_hanley_mcneil_planning_variance_is_the_limit_of_the_standard_error():
    m, ratio = 10**7, 2.5
    limit = m * hanley_mcneil_se(0.8, m, int(ratio * m)) ** 2
    assert planned_variance(0.8, ratio, variance="hanley_mcneil") == pytest.approx(limit, rel=1e-5)


@pytest.mark.parametrize("variance", ["obuchowski", "hanley_mcneil"])
def test_planning_variance_errs_on_the_safe_side_for_normal_scores(variance):
    rng = np.random.default_rng(16)
    m, n, area = 40, 80, 0.75
    shift = np.sqrt(2) * stats.norm.ppf(area)
    samples = np.concatenate([
        (rng.normal(shift, 1, (500, m, 1)) > rng.normal(0, 1, (500, 1, n))).mean(axis=(1, 2)) for _ in range(10)
    ])  # fmt: skip
    assert 1.0 < planned_variance(area, n / m, variance=variance) / m / samples.var() < 1.3


@pytest.mark.slow
def test_planned_power_is_reached_in_simulated_studies():
    n, shift = sample_size_auc(0.7, power=0.8).n_positive, np.sqrt(2) * stats.norm.ppf(0.7)
    rng = np.random.default_rng(17)
    y = np.repeat([0, 1], n)
    found = 0
    for _ in range(2000):
        row = auc_intervals(y, rng.normal(shift * y, 1), methods=["delong"]).iloc[0]
        found += row["ci_low"] > 0.5
    # The planning variance is somewhat too large for normal scores.
    assert 0.78 < found / 2000 < 0.9


def test_more_patients_mean_more_power_and_the_wrong_direction_has_little():
    powers = [auc_power(0.7, n, n) for n in (10, 20, 40, 80)]
    assert powers == sorted(powers)
    assert auc_power(0.7, 40, 40, alternative="less") < 0.001
    assert auc_power(0.5, 40, 40) == pytest.approx(0.025)


def test_pilot_with_identical_scores_has_no_power_and_no_sample_size():
    y, scores = simulated(18)
    assert np.isnan(pilot_difference_power(y, scores, 2 * scores))
    with pytest.raises(InputError, match="direction of the test"):
        pilot_difference_sample_size(y, scores, 2 * scores)


def test_pilot_of_a_perfect_and_a_constant_score_gives_no_sample_size():
    y = np.repeat([0, 1], [5, 5])
    with pytest.raises(InputError, match="no sampling variance"):
        pilot_difference_sample_size(y, y, np.zeros(10))


def test_pilot_scales_to_the_planned_number_of_cases():
    y, first = simulated(19, shift=0.5)
    second = first + 0.8 * y
    assert pilot_difference_power(y, first, second, n_positive=400, n_negative=400) > pilot_difference_power(
        y, first, second, n_positive=20, n_negative=20
    )


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: sample_size_auc(0.5), "direction of the test"),
        (lambda: sample_size_auc(0.7, alternative="less"), "direction of the test"),
        (lambda: sample_size_auc(1.0), "AUC must lie between 0 and 1"),
        (lambda: sample_size_auc(0.7, power=1.0), "power must lie"),
        (lambda: sample_size_auc(0.7, power=0.01), "reached by any sample"),
        (lambda: sample_size_auc(0.7, alpha=0), "alpha must lie"),
        (lambda: sample_size_auc(0.7, ratio=0), "ratio"),
        (lambda: sample_size_auc(0.7, variance="obuchowsky"), "obuchowski"),
        (lambda: auc_power(0.7, 0, 10), "at least one case"),
        (lambda: auc_difference_power(0.7, 0.8, 10, 10, correlation=1.0), "correlation"),
        (lambda: hanley_mcneil_se(1.2, 10, 10), "between 0 and 1"),
        (lambda: pilot_difference_power([0, 0, 1, 1], [1, 2, 3, 4], [1, 2, 3]), "same cases"),
    ],
)
def test_impossible_plans_are_refused(call, match):
    with pytest.raises(InputError, match=match):
        call()
