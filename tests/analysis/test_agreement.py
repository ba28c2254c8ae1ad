"""McNemar, Cochran's Q and kappa against R, SAS and published tables, against definitions, and at the edges."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats
from sklearn.metrics import cohen_kappa_score

from hybrid.analysis.agreement import (
    MCNEMAR_METHODS,
    cochran_q,
    cohen_kappa,
    cohen_kappa_table,
    mcnemar,
    mcnemar_predictions,
)
from hybrid.errors import InputError

# R 4.2.2, mcnemar.test and binom.test: table, chi-square corrected, p, uncorrected, p, exact p.
R_MCNEMAR = [
    ([[794, 150], [86, 570]], 16.8177966101695, 4.11456228134594e-05, 17.3559322033898, 3.09929344104522e-05,
     3.71593613957143e-05),
    ([[101, 121], [59, 33]], 20.6722222222222, 5.45009482542713e-06, 21.3555555555556, 3.8151358651126e-06,
     4.43444926375516e-06),
    ([[101, 70], [59, 33]], 0.775193798449612, 0.378615089461339, 0.937984496124031, 0.332796717251462,
     0.37868766269312),
    ([[101, 80], [59, 33]], 2.87769784172662, 0.0898143439582951, 3.1726618705036, 0.0748803140400544,
     0.0894523149944693),
    ([[101, 30], [60, 33]], 9.34444444444444, 0.00223662444520987, 10, 0.00156540225800255, 0.00206026568096307),
    ([[101, 10], [30, 33]], 9.025, 0.00266311925913855, 10, 0.00156540225800255, 0.00222143377322937),
    ([[101, 10], [10, 33]], 0, 1, 0, 1, 1),
    ([[20, 2], [10, 20]], 4.08333333333333, 0.0433081428107919, 5.33333333333333, 0.0209213353377941, 0.03857421875),
    ([[20, 8], [1, 20]], 4, 0.0455002638963585, 5.44444444444444, 0.0196306572572907, 0.0390625),
    ([[20, 5], [15, 20]], 4.05, 0.0441713449084427, 5, 0.0253473186774683, 0.0413894653320313),
    ([[20, 3], [3, 20]], 0, 1, 0, 1, 1),
]  # fmt: skip
MID_P = {(2, 10): 0.0224609375, (8, 1): 0.021484375, (5, 15): 0.0266036987304688, (3, 3): 1.0}

# Complete response before and after consolidation, Cavo et al. 2012, in Fagerland, Lydersen and Laake 2017, Statistical
# Analysis of Contingency Tables, chapter 8; values printed by the tests of R's contingencytables.
CAVO = [[59, 6], [16, 80]]

CONOVER = [
    [1, 1, 1], [1, 1, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0, 1], [0, 1, 0],
    [1, 1, 1], [1, 1, 1],
]  # fmt: skip
WEB = [
    [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 1], [0, 1, 0, 1], [1, 0, 0, 1], [0, 0, 0, 1],
    [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 1, 1],
]  # fmt: skip
SAS_DRUGS = np.repeat(
    [[0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1]],
    [6, 2, 16, 4, 2, 6, 4, 6], axis=0,
)  # fmt: skip


@pytest.mark.parametrize(("table", "chi2_cc", "p_cc", "chi2", "p", "p_exact"), R_MCNEMAR)
def test_mcnemar_equals_r(table, chi2_cc, p_cc, chi2, p, p_exact):
    corrected, uncorrected = mcnemar(table, method="corrected"), mcnemar(table, method="uncorrected")
    assert (corrected.statistic, corrected.p) == pytest.approx((chi2_cc, p_cc), rel=1e-10)
    assert (uncorrected.statistic, uncorrected.p) == pytest.approx((chi2, p), rel=1e-10)
    exact = mcnemar(table, method="exact")
    assert exact.p == pytest.approx(p_exact, rel=1e-10)
    assert math.isnan(exact.statistic)


@pytest.mark.parametrize(("discordant", "expected"), MID_P.items())
def test_mid_p_equals_reference_values(discordant, expected):
    assert mcnemar([[20, discordant[0]], [discordant[1], 20]], method="mid_p").p == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("method", "p"), [("uncorrected", 0.033006), ("corrected", 0.055009), ("exact", 0.052479), ("mid_p", 0.034690)]
)
def test_p_values_and_interval_equal_contingencytables_on_cavo_2012(method, p):
    result = mcnemar(CAVO, method=method)
    assert result.p == pytest.approx(p, abs=5e-7)
    assert (result.difference, result.lower, result.upper) == pytest.approx((-0.0621, -0.1195, -0.0032), abs=5e-5)


@pytest.mark.parametrize("method", MCNEMAR_METHODS)
def test_swapping_the_models_flips_the_difference_and_keeps_p(method):
    one, other = mcnemar([[5, 9], [2, 4]], method=method), mcnemar([[5, 2], [9, 4]], method=method)
    assert one.p == other.p
    assert (one.difference, one.lower, one.upper) == pytest.approx((-other.difference, -other.upper, -other.lower))
    assert (one.proportion_1, one.only_first) == (other.proportion_2, other.only_second)


@pytest.mark.parametrize("method", MCNEMAR_METHODS)
def test_models_right_on_the_same_cases_do_not_differ(method):
    result = mcnemar([[12, 0], [0, 3]], method=method)
    assert (result.p, result.difference) == (1.0, 0.0)
    assert result.lower < 0 < result.upper


def test_mid_p_lies_between_half_the_exact_p_and_the_exact_p():
    for b, c in itertools.product(range(12), repeat=2):
        if b == c:
            continue
        table = [[3, b], [c, 3]]
        exact, mid = mcnemar(table, method="exact").p, mcnemar(table, method="mid_p").p
        assert exact / 2 <= mid * (1 + 1e-12)
        assert mid < exact


def test_interval_covers_the_difference_of_paired_proportions():
    probabilities = [0.55, 0.20, 0.10, 0.15]
    rng = np.random.default_rng(0)
    counts, frequency = np.unique(rng.multinomial(40, probabilities, 3000), axis=0, return_counts=True)
    hits = [
        (result := mcnemar(row.reshape(2, 2), method="uncorrected")).lower <= 0.10 <= result.upper for row in counts
    ]
    assert 0.93 < np.average(hits, weights=frequency) < 0.98


def assert_same(first, second):
    """Every field is equal; NaN equals NaN, which ``==`` of two results does not say from Python 3.13 on."""
    np.testing.assert_equal(dataclasses.asdict(first), dataclasses.asdict(second))


def test_predictions_are_counted_into_the_table():
    truth = ["a", "a", "b", "b", "c", "c"]
    first = ["a", "a", "b", "a", "c", "b"]
    second = ["a", "b", "a", "a", "c", "c"]
    result = mcnemar_predictions(truth, first, second)
    assert (result.n, result.only_first, result.only_second) == (6, 2, 1)
    assert (result.proportion_1, result.proportion_2) == pytest.approx((4 / 6, 3 / 6))
    assert_same(result, mcnemar([[2, 2], [1, 1]]))


def test_order_of_cases_does_not_matter():
    rng = np.random.default_rng(1)
    truth, first, second = rng.integers(0, 2, (3, 50))
    order = rng.permutation(50)
    assert_same(
        mcnemar_predictions(truth, first, second), mcnemar_predictions(truth[order], first[order], second[order])
    )
    assert_same(cohen_kappa(first, second), cohen_kappa(first[order], second[order]))
    right = np.stack([first == truth, second == truth, truth == 1], axis=1)
    assert cochran_q(right).p == pytest.approx(cochran_q(right[order][:, [2, 0, 1]]).p, rel=1e-12)


@pytest.mark.parametrize(
    ("right", "q", "p"),
    [(CONOVER, 2.8, 0.246596963941606), (WEB, 13.2857142857143, 0.00405775993816371),
     (SAS_DRUGS, 8.47058823529411, 0.0144755520562825)],
    ids=["conover", "web", "sas"],
)  # fmt: skip
def test_cochran_q_equals_r_coin_on_published_data(right, q, p):
    result = cochran_q(right)
    assert (result.q, result.p) == pytest.approx((q, p), rel=1e-10)
    assert result.df == np.shape(right)[1] - 1


def test_reference_file_holds_the_data_typed_in_here(benchmarks):
    stored = json.loads((benchmarks / "statistics" / "cochran_mcnemar_statsmodels.json").read_text(encoding="utf-8"))
    for name, typed in (("conover", CONOVER), ("web", WEB), ("sas", SAS_DRUGS)):
        assert sorted(map(tuple, stored[name]["x"])) == sorted(map(tuple, np.asarray(typed).tolist()))
        assert cochran_q(stored[name]["x"]).q == pytest.approx(stored[name]["Q"], rel=1e-10)


def test_cochran_q_of_two_models_is_mcnemars_statistic():
    rng = np.random.default_rng(2)
    right = (rng.random((60, 2)) < [0.6, 0.8]).astype(int)
    table = [[(right.sum(1) == 2).sum(), (right[:, 0] > right[:, 1]).sum()], [(right[:, 0] < right[:, 1]).sum(), 0]]
    assert cochran_q(right).q == pytest.approx(mcnemar(table, method="uncorrected").statistic, rel=1e-12)


def test_cases_on_which_all_models_agree_do_not_change_q():
    more = np.concatenate([np.asarray(CONOVER), np.ones((7, 3)), np.zeros((5, 3))])
    assert cochran_q(more).q == pytest.approx(2.8, rel=1e-12)
    assert cochran_q(more).n_informative == cochran_q(CONOVER).n_informative == 5


@pytest.mark.parametrize("value", [0, 1])
def test_models_that_never_disagree_have_q_of_zero(value):
    result = cochran_q(np.full((4, 3), value))
    assert (result.q, result.p, result.n_informative) == (0.0, 1.0, 0)


def test_kappa_and_interval_equal_psych():
    result = cohen_kappa_table([[20, 5], [10, 15]])
    expected = (0.4, 0.151092290476661, 0.648907709523339)
    assert (result.kappa, result.lower, result.upper) == pytest.approx(expected, abs=1e-14)
    # With two categories weights change nothing (psych prints the same line twice).
    weighted = cohen_kappa_table([[20, 5], [10, 15]], weights="quadratic")
    assert (weighted.kappa, weighted.lower, weighted.upper) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(
    ("weights", "expected"), [(None, (0.4842, 0.1380, 0.2137, 0.7547)), ("linear", (0.4701, 0.1457, 0.1845, 0.7558))]
)
def test_kappa_equals_the_sas_printout(weights, expected):
    # SAS PROC FREQ output in statsmodels' test_inter_rater.py (BSD-3).
    result = cohen_kappa_table([[0, 4, 1], [0, 8, 0], [0, 1, 5]], weights=weights)
    assert (result.kappa, result.standard_error, result.lower, result.upper) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_kappa_equals_scikit_learn_and_its_error_the_delta_method(weights):
    rng = np.random.default_rng(3)
    first = rng.integers(1, 5, 80)
    second = np.clip(first + rng.integers(-1, 2, 80), 1, 4)
    result = cohen_kappa(first, second, weights=weights)
    assert result.kappa == pytest.approx(cohen_kappa_score(first, second, weights=weights), rel=1e-12)
    assert result.kappa == pytest.approx((result.observed - result.expected) / (1 - result.expected), rel=1e-12)

    def kappa_of(shares):
        joint = shares.reshape(4, 4) / shares.sum()
        steps = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
        loss = {None: steps > 0, "linear": steps, "quadratic": steps**2}[weights]
        return 1 - (loss * joint).sum() / (loss * np.outer(joint.sum(1), joint.sum(0))).sum()

    shares = np.zeros((4, 4))
    np.add.at(shares, (first - 1, second - 1), 1 / 80)
    gradient = optimize.approx_fprime(shares.ravel(), kappa_of, 1e-7)
    centred = gradient - gradient @ shares.ravel()
    assert result.standard_error == pytest.approx(math.sqrt(shares.ravel() @ centred**2 / 80), rel=1e-4)


def test_kappa_is_symmetric_in_the_raters_and_blind_to_names():
    first, second = list("aabbccab"), list("abbbcaab")
    one, other = cohen_kappa(first, second), cohen_kappa(second, first)
    assert (one.kappa, one.standard_error) == pytest.approx((other.kappa, other.standard_error), rel=1e-12)
    renamed = {"a": 7, "b": 1, "c": 3}
    again = cohen_kappa([renamed[x] for x in first], [renamed[x] for x in second])
    assert (again.kappa, again.standard_error) == pytest.approx((one.kappa, one.standard_error), rel=1e-12)


def test_identical_raters_agree_perfectly_without_an_interval():
    result = cohen_kappa([0, 1, 1, 0, 2], [0, 1, 1, 0, 2])
    assert result.kappa == pytest.approx(1.0, abs=1e-15)
    assert math.isnan(result.lower)
    assert "standard error is 0" in result.reason


@pytest.mark.parametrize("weights", [None, "linear", "quadratic"])
def test_one_category_for_everything_leaves_kappa_undefined(weights):
    result = cohen_kappa([1, 1, 1], [1, 1, 1], weights=weights)
    assert math.isnan(result.kappa)
    assert (result.observed, result.expected) == (1.0, 1.0)
    assert "same single category" in result.reason


def test_two_constant_raters_in_different_categories_agree_as_by_chance():
    assert cohen_kappa([0, 0, 0], [1, 1, 1]).kappa == pytest.approx(0.0, abs=1e-15)


def test_an_unused_grade_between_two_used_ones_counts_as_a_step():
    first, second = [1, 1, 2, 4, 4, 2], [1, 2, 2, 4, 2, 4]
    result = cohen_kappa(first, second, weights="linear")
    assert result.categories == (1, 2, 3, 4)
    assert result.kappa == pytest.approx(cohen_kappa_score(first, second, labels=[1, 2, 3, 4], weights="linear"))
    assert result.kappa != pytest.approx(cohen_kappa_score(first, second, weights="linear"))


def test_weights_of_named_categories_need_their_order():
    first, second = ["low", "high", "medium", "low"], ["low", "high", "high", "medium"]
    with pytest.raises(InputError, match="order of the categories"):
        cohen_kappa(first, second, weights="linear")
    ordered = cohen_kappa(first, second, weights="linear", categories=["low", "medium", "high"])
    codes = {"low": 0, "medium": 1, "high": 2}
    numbers = cohen_kappa([codes[x] for x in first], [codes[x] for x in second], weights="linear")
    assert ordered.kappa == pytest.approx(numbers.kappa, rel=1e-15)


def test_interval_covers_kappa_in_samples_of_fifty():
    joint = np.array([[0.4, 0.1], [0.15, 0.35]])
    expected = joint.sum(1) @ joint.sum(0)
    truth = (np.trace(joint) - expected) / (1 - expected)
    rng = np.random.default_rng(4)
    tables, frequency = np.unique(rng.multinomial(50, joint.ravel(), 2000), axis=0, return_counts=True)
    hits = [(r := cohen_kappa_table(table.reshape(2, 2))).lower <= truth <= r.upper for table in tables]
    assert 0.92 < np.average(hits, weights=frequency) < 0.97


def test_columns_of_data_frames_are_accepted():
    table = pd.DataFrame({"y": pd.array([0, 1, 1, 0], dtype="Int64"), "a": [0, 1, 0, 0], "b": ["x", "y", "y", "x"]})
    assert mcnemar_predictions(table["y"], table["a"], table["y"]).only_second == 1
    assert cohen_kappa(table["b"], table["b"].to_list()).kappa == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcnemar([[1, 2, 3], [4, 5, 6]]), r"2 x 2 table; found shape \(2, 3\)"),
        (lambda: mcnemar([[1, -2], [4, 5]]), "whole numbers"),
        (lambda: mcnemar([[0.1, 0.2], [0.3, 0.4]]), "whole numbers"),
        (lambda: mcnemar([[0, 0], [0, 0]]), "counts no case"),
        (lambda: mcnemar([[1, 2], [3, 4]], method="midp"), "Did you mean 'mid_p'"),
        (lambda: mcnemar([[1, 2], [3, 4]], level=95), "between 0 and 1; found 95"),
        (lambda: mcnemar_predictions([0, 1], [0, 1], [0, 1, 1]), "found lengths 2, 2, 3"),
        (lambda: mcnemar_predictions([0, 1], [0.2, 0.9], [0, 1]), "must be classes; found 0.2"),
        (lambda: mcnemar_predictions([0, 1], ["0", "1"], [0, 1]), "numbers beside text"),
        (lambda: mcnemar_predictions([0, None], [0, 1], [0, 1]), "1 of 2 labels are missing"),
        (lambda: cochran_q([[0, 1], [0, 2]]), "needs 0 and 1; found 2"),
        (lambda: cochran_q([[0], [1]]), r"found shape \(2, 1\)"),
        (lambda: cochran_q([[0, np.nan], [1, 0]]), "found nan"),
        (lambda: cohen_kappa([], []), "at least one"),
        (lambda: cohen_kappa([1, 2], [1, 5], categories=[1, 2, 3]), "Unknown category '5'"),
        (lambda: cohen_kappa([1, 2], [1, 2], categories=[1, 2, 2]), "must differ"),
        (lambda: cohen_kappa([1, 2], [1, 2], weights="square"), "Unknown weights"),
        (lambda: cohen_kappa_table([[1, 2], [3, 4]], categories=["a"]), "2, 2.* for 1 categories"),
    ],
)  # fmt: skip
def test_invalid_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_mid_p_is_the_exact_p_minus_half_the_probability_of_the_observed_split():
    for b, c in [(0, 6), (2, 7), (11, 30)]:
        tail = stats.binom.cdf(min(b, c), b + c, 0.5)
        observed = stats.binom.pmf(min(b, c), b + c, 0.5)
        assert mcnemar([[1, b], [c, 1]]).p == pytest.approx(2 * (tail - observed / 2), rel=1e-12)
