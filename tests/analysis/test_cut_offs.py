"""Cut-offs against pROC, against brute force, and at the edges."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import roc_points
from hybrid.analysis.cut_offs import (
    CUT_OFF_COLUMNS,
    at_cut_off,
    cut_off_table,
    optimal_cut_off,
    optimal_cut_off_intervals,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
    weighted_curve,
)
from hybrid.analysis.proportions import wilson_interval
from hybrid.errors import InputError

MARKERS = ("wfns", "s100b", "ndka", "age")

# pROC 1.18.0 on its data set aSAH. coords("best"): threshold, tp, tn for Youden, closest to the corner, and Youden with
# best.weights = c(2, 0.3), whose printed criterion (sensitivity + r * specificity, r = 0.7 / 0.6) comes last.
BEST = {
    "wfns": [(3.5, 26, 60), (2.5, 27, 57), (3.5, 26, 60), 1.60636856368564],
    "s100b": [(0.205, 26, 58), (0.205, 26, 58), (0.205, 26, 58), 1.57396115627823],
    "ndka": [(11.08, 29, 37), (12.73, 24, 45), (13.505, 21, 51), 1.33858401084011],
    "age": [(50.5, 26, 41), (50.5, 26, 41), (53.5, 23, 46), 1.30634598012647],
}
# Printed by pROC for the two unweighted criteria: sensitivity + specificity, and the squared distance to the corner.
BEST_VALUES = {
    "wfns": (1.46747967479675, 0.160000041311389),
    "s100b": (1.43970189701897, 0.171657541439913),
    "ndka": (1.22120596205962, 0.312546475312314),
    "age": (1.20359078590786, 0.319226985884357),
}
# coords(input = "specificity") and coords(input = "sensitivity") at 0.8, 0.9 and 0.95.
SE_AT_SP = {
    "wfns": (0.653658536585366, 0.517073170731707, 0.395121951219512),
    "s100b": (0.634146341463415, 0.390243902439024, 0.341463414634146),
    "ndka": (0.341463414634146, 0.195121951219512, 0.0975609756097561),
    "age": (0.321951219512195, 0.219512195121951, 0.146341463414634),
}
SP_AT_SE = {
    "wfns": (0.657407407407407, 0.5625, 0.515046296296296),
    "s100b": (0.447222222222222, 0.230555555555556, 0.168055555555556),
    "ndka": (0.333333333333333, 0.166666666666667, 0.0416666666666667),
    "age": (0.308333333333333, 0.257638888888889, 0.140277777777778),
}
# ci.se(specificities = c(.8, .9, .95)), stratified, 20 000 draws, seed 42: lower, upper.
CI_SE_AT_SP = {
    "wfns": [
        (0.490909090909091, 0.809761640798226), (0.331707317073171, 0.708295392953929), (0.175609756097561, 0.6),
    ],
    "s100b": [
        (0.341463414634146, 0.75609756097561), (0.219512195121951, 0.634146341463415),
        (0.195121951219512, 0.48780487804878),
    ],
    "ndka": [
        (0.170731707317073, 0.560975609756098), (0.0487804878048781, 0.414634146341463), (0.0, 0.292682926829268),
    ],
}  # fmt: skip
# ci.thresholds(thresholds = "best"), stratified, 20 000 draws, seed 42: threshold, specificity and sensitivity bounds.
CI_THRESHOLDS = {
    "wfns": (3.5, (0.75, 0.916666666666667), (0.48780487804878, 0.780487804878049)),
    "s100b": (0.205, (0.708333333333333, 0.888888888888889), (0.48780487804878, 0.780487804878049)),
    "ndka": (11.08, (0.402777777777778, 0.625), (0.560975609756098, 0.829268292682927)),
}
CRITERIA = [("youden", {}), ("closest_topleft", {}), ("cost", {"prevalence": 0.3, "relative_cost": 2})]
ONE_PATIENT = 1 / 41
"""Bootstrap quantiles of a sensitivity of 41 patients move in steps of one patient."""


@pytest.fixture
def asah(benchmarks):
    table = pd.read_csv(benchmarks / "statistics" / "aSAH.csv")
    return (table["outcome"] == "Poor").to_numpy(int), {name: table[name].to_numpy(float) for name in MARKERS}


def wfns():
    """Outcome and five-level score of the 113 patients, from the counts on pROC's curve."""
    scores = np.concatenate([np.repeat(np.arange(1, 6), counts) for counts in ([37, 20, 3, 8, 4], [2, 12, 1, 8, 18])])
    return np.repeat([0, 1], [72, 41]), scores.astype(float)


def simulated(seed, n=60, shift=1.0, levels=None):
    rng = np.random.default_rng(seed)
    y = np.r_[0, 0, 1, 1, rng.integers(0, 2, n - 4)]
    scores = rng.normal(0, 1, n) + shift * y
    return y, scores if levels is None else np.round(scores * levels)


def call(scores, cut_off, rule):
    return scores >= cut_off if rule == ">=" else scores > cut_off


def check_best(y, scores, marker):
    for (criterion, settings), (threshold, tp, tn) in zip(CRITERIA, BEST[marker][:3], strict=True):
        found = optimal_cut_off(y, scores, criterion=criterion, thresholds="midpoint", **settings)
        assert found.cut_off == pytest.approx(threshold, abs=1e-12)
        assert (found.tp, found.tn, found.n_tied) == (tp, tn, 1)


def check_values(y, scores, marker):
    assert optimal_cut_off(y, scores).value == pytest.approx(BEST_VALUES[marker][0] - 1, abs=1e-12)
    corner = optimal_cut_off(y, scores, criterion="closest_topleft")
    assert corner.value == pytest.approx(BEST_VALUES[marker][1], abs=1e-12)
    # cost = c * prev * (1 + r - (sensitivity + r * specificity)) with c * prev = 0.6 and r = 0.7 / 0.6.
    cost = optimal_cut_off(y, scores, criterion="cost", prevalence=0.3, relative_cost=2)
    assert cost.value == pytest.approx(0.6 * (1 + 0.7 / 0.6 - BEST[marker][3]), abs=1e-12)


def test_best_cut_offs_equal_proc_on_wfns():
    check_best(*wfns(), "wfns")
    check_values(*wfns(), "wfns")


@pytest.mark.parametrize("marker", MARKERS)
def test_best_cut_offs_equal_proc_on_asah(asah, marker):
    y, markers = asah
    check_best(y, markers[marker], marker)
    check_values(y, markers[marker], marker)


def test_observed_youden_cut_off_of_s100b_is_the_score_above_the_midpoint(asah):
    y, markers = asah
    assert optimal_cut_off(y, markers["s100b"]).cut_off == 0.22
    assert optimal_cut_off(y, markers["s100b"], rule=">").cut_off == 0.19


@pytest.mark.parametrize("marker", MARKERS)
def test_every_point_equals_proc_coords_on_asah(asah, benchmarks, marker):
    y, markers = asah
    expected = pd.read_csv(benchmarks / "statistics" / f"aSAH_coords_{marker}.csv")[::-1].reset_index(drop=True)
    table = cut_off_table(y, markers[marker], thresholds="midpoint")
    expected = expected.rename(columns={"threshold": "cut_off", "closest.topleft": "closest_topleft"})
    expected["youden"] -= 1
    for name in CUT_OFF_COLUMNS:
        np.testing.assert_allclose(table[name], expected[name].astype(float), rtol=0, atol=1e-12, err_msg=name)


def test_points_of_wfns_equal_proc_coords():
    # pROC 1.18.0, coords(roc(aSAH$outcome, aSAH$wfns)).
    table = cut_off_table(*wfns(), thresholds="midpoint")
    assert table["cut_off"].tolist() == [np.inf, 4.5, 3.5, 2.5, 1.5, -np.inf]
    assert table["tp"].tolist() == [0, 18, 26, 27, 39, 41]
    assert table["tn"].tolist() == [72, 68, 60, 57, 37, 0]
    ppv = [np.nan, 0.818181818181818, 0.684210526315789, 0.642857142857143, 0.527027027027027, 0.36283185840708]
    np.testing.assert_allclose(table["ppv"], ppv, atol=1e-12)


@pytest.mark.parametrize("marker", MARKERS)
def test_interpolated_values_equal_proc_on_asah(asah, marker):
    y, markers = asah
    wanted = [0.8, 0.9, 0.95]
    forward = sensitivity_at_specificity(y, markers[marker], wanted, n_bootstrap=2)
    back = specificity_at_sensitivity(y, markers[marker], wanted, n_bootstrap=2)
    assert forward["interpolated"].tolist() == pytest.approx(SE_AT_SP[marker], abs=1e-12)
    assert back["interpolated"].tolist() == pytest.approx(SP_AT_SE[marker], abs=1e-12)


def test_five_level_score_interpolates_to_what_no_cut_off_attains():
    row = sensitivity_at_specificity(*wfns(), 0.95, n_bootstrap=2).iloc[0]
    assert row["interpolated"] == pytest.approx(0.395121951219512, abs=1e-12)
    assert (row["attainable"], row["attained_specificity"], row["cut_off"]) == (0.0, 1.0, np.inf)
    row = specificity_at_sensitivity(*wfns(), 0.95, n_bootstrap=2).iloc[0]
    assert row["interpolated"] == pytest.approx(0.515046296296296, abs=1e-12)
    assert (row["attainable"], row["attained_sensitivity"], row["cut_off"]) == (37 / 72, 39 / 41, 2.0)


@pytest.mark.parametrize("marker", ["wfns", "s100b", "ndka"])
def test_bootstrap_intervals_agree_with_proc_on_asah(asah, marker):
    y, markers = asah
    table = sensitivity_at_specificity(y, markers[marker], [0.8, 0.9, 0.95], n_bootstrap=20_000)
    bounds = table[["interpolated_low", "interpolated_high"]].to_numpy()
    np.testing.assert_allclose(bounds, CI_SE_AT_SP[marker], atol=ONE_PATIENT + 1e-9)


@pytest.mark.parametrize("marker", ["wfns", "s100b", "ndka"])
def test_bootstrap_intervals_at_a_fixed_cut_off_agree_with_proc_on_asah(asah, marker):
    y, markers = asah
    threshold, specificity, sensitivity = CI_THRESHOLDS[marker]
    row = at_cut_off(y, markers[marker], threshold, interval="bootstrap", n_bootstrap=20_000).iloc[0]
    assert (row["sensitivity_low"], row["sensitivity_high"]) == pytest.approx(sensitivity, abs=ONE_PATIENT + 1e-9)
    assert (row["specificity_low"], row["specificity_high"]) == pytest.approx(specificity, abs=1 / 72 + 1e-9)


@pytest.mark.parametrize("rule", [">=", ">"])
@pytest.mark.parametrize("thresholds", ["observed", "midpoint"])
@pytest.mark.parametrize("levels", [None, 2])
def test_applying_each_cut_off_gives_the_counts_of_its_row(rule, thresholds, levels):
    y, scores = simulated(1, levels=levels)
    table = cut_off_table(y, scores, rule=rule, thresholds=thresholds)
    for row in table.itertuples():
        called = call(scores, row.cut_off, rule)
        assert (called[y == 1].sum(), called[y == 0].sum()) == (row.tp, row.fp)
    assert len(table) == np.unique(scores).size + 1


def test_midpoint_between_neighbouring_floats_still_keeps_the_rule():
    scores = np.array([1.0, np.nextafter(1.0, 2.0)])
    for rule in (">=", ">"):
        middle = cut_off_table([0, 1], scores, rule=rule, thresholds="midpoint")["cut_off"][1]
        assert call(scores, middle, rule).tolist() == [False, True]


def test_observed_table_agrees_with_roc_points():
    y, scores = simulated(2, levels=2)
    table, points = cut_off_table(y, scores), roc_points(y, scores)
    np.testing.assert_array_equal(table["cut_off"], points["threshold"])
    for name in ("tp", "fn", "fp", "tn"):
        np.testing.assert_array_equal(table[name], points[name])


def test_prevalence_changes_predictive_values_by_bayes_rule():
    y, scores = simulated(3)
    table = cut_off_table(y, scores, prevalence=0.05)
    row = table.iloc[20]
    expected = 0.05 * row["sensitivity"] / (0.05 * row["sensitivity"] + 0.95 * (1 - row["specificity"]))
    assert row["ppv"] == pytest.approx(expected)
    assert row["accuracy"] == pytest.approx(0.05 * row["sensitivity"] + 0.95 * row["specificity"])


@pytest.mark.parametrize(("criterion", "settings"), CRITERIA)
@pytest.mark.parametrize("levels", [None, 2])
def test_optimal_cut_off_is_the_best_of_all_by_brute_force(criterion, settings, levels):
    y, scores = simulated(4, levels=levels)
    best = optimal_cut_off(y, scores, criterion=criterion, **settings)
    losses = []
    for threshold in np.r_[np.inf, np.unique(scores)[::-1]]:
        called = scores >= threshold
        misses, alarms = (~called[y == 1]).mean(), called[y == 0].mean()
        losses.append({
            "youden": misses + alarms, "closest_topleft": misses**2 + alarms**2, "cost": 0.6 * misses + 0.7 * alarms
        }[criterion])  # fmt: skip
    expected = 1 - min(losses) if criterion == "youden" else min(losses)
    assert best.value == pytest.approx(expected, abs=1e-12)
    called = call(scores, best.cut_off, best.rule)
    assert (called[y == 1].sum(), called[y == 0].sum()) == (best.tp, best.fp)
    assert (best.sensitivity, best.specificity) == (best.tp / (best.tp + best.fn), best.tn / (best.tn + best.fp))


def test_cost_that_balances_the_prevalence_is_the_youden_index():
    y, scores = simulated(5)
    weighted = optimal_cut_off(y, scores, criterion="cost", prevalence=0.2, relative_cost=4)
    assert weighted.cut_off == optimal_cut_off(y, scores).cut_off


def test_dearer_misses_lower_the_cut_off():
    y, scores = simulated(6)
    found = [optimal_cut_off(y, scores, criterion="cost", relative_cost=cost).cut_off for cost in (0.01, 0.5, 2, 100)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[-1]


def test_rare_disease_makes_calling_nobody_the_best_choice():
    y, scores = simulated(7)
    y[scores.argmax()] = 0
    best = optimal_cut_off(y, scores, criterion="cost", prevalence=0.001)
    assert (best.cut_off, best.sensitivity, best.specificity) == (np.inf, 0.0, 1.0)


def test_of_equally_good_points_the_most_specific_is_given():
    best = optimal_cut_off([0, 1, 0, 1], [1, 2, 3, 4])
    assert (best.cut_off, best.specificity, best.n_tied) == (4.0, 1.0, 2)


@pytest.mark.parametrize("rule", [">=", ">"])
def test_exchanging_classes_and_direction_exchanges_the_rates(rule):
    y, scores = simulated(8)
    best = optimal_cut_off(y, scores, rule=rule)
    mirrored = optimal_cut_off(1 - y, -scores, rule=">" if rule == ">=" else ">=")
    assert best.n_tied == 1
    assert mirrored.cut_off == -best.cut_off
    assert (mirrored.sensitivity, mirrored.specificity) == (best.specificity, best.sensitivity)


def test_row_order_changes_nothing_not_even_the_bootstrap():
    y, scores = simulated(9, levels=3)
    order = np.random.default_rng(10).permutation(y.size)
    shuffled = y[order], scores[order]
    assert optimal_cut_off(y, scores) == optimal_cut_off(*shuffled)
    pd.testing.assert_frame_equal(cut_off_table(y, scores), cut_off_table(*shuffled))
    for function, settings in (
        (optimal_cut_off_intervals, {}),
        (at_cut_off, {"cut_offs": [0.0, 1.0], "interval": "bootstrap"}),
        (sensitivity_at_specificity, {"specificity": 0.9}),
    ):
        pd.testing.assert_frame_equal(
            function(y, scores, n_bootstrap=100, **settings), function(*shuffled, n_bootstrap=100, **settings)
        )


@pytest.mark.parametrize("rule", [">=", ">"])
@pytest.mark.parametrize("thresholds", ["observed", "midpoint"])
def test_interval_of_the_cut_off_equals_drawing_patients_one_by_one(rule, thresholds):
    y, scores = simulated(11, n=40, levels=3)
    table = optimal_cut_off_intervals(y, scores, rule=rule, thresholds=thresholds, n_bootstrap=4000).set_index(
        "measure"
    )
    rng = np.random.default_rng(12)
    groups = np.flatnonzero(y == 0), np.flatnonzero(y == 1)
    draws = []
    for _ in range(1000):
        rows = np.concatenate([rng.choice(group, group.size) for group in groups])
        best = optimal_cut_off(y[rows], scores[rows], rule=rule, thresholds=thresholds)
        own = best.sensitivity, best.specificity
        called = call(scores, best.cut_off, rule)
        draws.append((best.cut_off, *own, sum(own) - called[y == 1].mean() - (~called[y == 0]).mean()))
    values = np.array(draws)
    spread = values[:, :3].std(axis=0)
    expected = np.quantile(values[:, :3], [0.025, 0.975], axis=0)
    measures = ["cut_off", "sensitivity", "specificity"]
    # Three Monte-Carlo errors of a quantile of 1000 draws (0.085 standard deviations each), and one step of the values.
    step = np.array([1.0, 1 / (y == 1).sum(), 1 / (y == 0).sum()])
    for name, row in (("ci_low", expected[0]), ("ci_high", expected[1])):
        distance = np.abs(table.loc[measures, name].to_numpy(float) - row)
        assert (distance <= 0.26 * spread + step).all()
    error = values[:, 3].std() / np.sqrt(1000)
    assert table.loc["youden", "optimism"] == pytest.approx(values[:, 3].mean(), abs=4 * error)


def test_chosen_cut_off_is_optimistic_and_less_so_with_more_patients():
    small, large = (
        optimal_cut_off_intervals(*simulated(13, n=n), n_bootstrap=500).set_index("measure") for n in (40, 2000)
    )
    assert small.loc["youden", "optimism"] > 0.02
    assert 0 < large.loc["youden", "optimism"] < small.loc["youden", "optimism"] / 2
    assert small.loc["youden", "corrected"] == pytest.approx(
        small.loc["sensitivity", "corrected"] + small.loc["specificity", "corrected"] - 1
    )


def test_corrected_youden_index_is_closer_to_the_truth():
    # Two normal groups one standard deviation apart: the best Youden index is 2 * Phi(0.5) - 1 = 0.3829.
    rows = [optimal_cut_off_intervals(*simulated(seed, n=40), n_bootstrap=100).iloc[3] for seed in range(100, 160)]
    table = pd.DataFrame(rows)
    assert table["estimate"].mean() > 0.3829 + 0.05
    assert abs(table["corrected"].mean() - 0.3829) < abs(table["estimate"].mean() - 0.3829) / 2


@pytest.mark.parametrize("levels", [None, 1])
def test_attainable_values_follow_their_definition(levels):
    y, scores = simulated(14, levels=levels)
    points = roc_points(y, scores)
    for wanted in (0.0, 0.5, 0.77, 0.9, 1.0):
        row = sensitivity_at_specificity(y, scores, wanted, n_bootstrap=2).iloc[0]
        good = points[points["specificity"] >= wanted - 1e-12]
        assert row["attainable"] == pytest.approx(good["sensitivity"].max(), abs=1e-12)
        assert row["interpolated"] >= row["attainable"] - 1e-12
        called = scores >= row["cut_off"]
        assert called[y == 1].mean() == pytest.approx(row["attainable"])
        assert 1 - called[y == 0].mean() == pytest.approx(row["attained_specificity"])
        back = specificity_at_sensitivity(y, scores, wanted, n_bootstrap=2).iloc[0]
        good = points[points["sensitivity"] >= wanted - 1e-12]
        assert back["attainable"] == pytest.approx(good["specificity"].max(), abs=1e-12)
        assert back["interpolated"] >= back["attainable"] - 1e-12


def test_sensitivity_and_specificity_exchange_with_classes_and_direction():
    y, scores = simulated(15, levels=2)
    one = sensitivity_at_specificity(y, scores, [0.7, 0.9], n_bootstrap=2)
    two = specificity_at_sensitivity(1 - y, -scores, [0.7, 0.9], n_bootstrap=2)
    for name in ("attainable", "interpolated"):
        np.testing.assert_allclose(one[name], two[name], atol=1e-12)


def test_intervals_surround_the_estimate():
    table = sensitivity_at_specificity(*simulated(16), [0.7, 0.8], n_bootstrap=500)
    for name in ("attainable", "interpolated"):
        assert (table[f"{name}_low"] <= table[name]).all()
        assert (table[name] <= table[f"{name}_high"]).all()


def test_fixed_cut_off_has_wilson_intervals():
    y, scores = simulated(17)
    table = at_cut_off(y, scores, [0.0, 0.7])
    for row in table.itertuples():
        expected = wilson_interval(row.tp, row.tp + row.fn)[0]
        assert (row.sensitivity_low, row.sensitivity_high) == pytest.approx(expected)
        expected = wilson_interval(row.tn, row.tn + row.fp)[0]
        assert (row.specificity_low, row.specificity_high) == pytest.approx(expected)


def test_rule_decides_about_the_cases_at_the_cut_off():
    y, scores = [0, 0, 1, 1], [1, 2, 2, 3]
    inclusive, exclusive = (at_cut_off(y, scores, 2, rule=rule).iloc[0] for rule in (">=", ">"))
    assert (inclusive["tp"], inclusive["fp"]) == (2, 1)
    assert (exclusive["tp"], exclusive["fp"]) == (1, 0)


def test_infinite_cut_offs_call_nobody_or_everybody():
    table = at_cut_off(*simulated(18), [np.inf, -np.inf])
    assert table["sensitivity"].tolist() == [0.0, 1.0]
    assert table["specificity"].tolist() == [1.0, 0.0]


def test_weighted_curve_equals_repeating_rows():
    y, scores = simulated(19, n=30, levels=2)
    weights = np.random.default_rng(20).integers(0, 4, (30, 5)).astype(float)
    curve = weighted_curve(y == 1, scores, weights)
    for draw in range(5):
        rows = np.repeat(np.arange(30), weights[:, draw].astype(int))
        hits = [(scores[rows][y[rows] == 1] >= t).mean() for t in curve.scores]
        alarms = [(scores[rows][y[rows] == 0] >= t).mean() for t in curve.scores]
        np.testing.assert_allclose(curve.sensitivity[1:, draw], hits, atol=1e-12)
        np.testing.assert_allclose(curve.false_positive_rate[1:, draw], alarms, atol=1e-12)


def test_perfect_separation():
    best = optimal_cut_off([0, 0, 1, 1], [1, 2, 3, 4], thresholds="midpoint")
    assert (best.cut_off, best.value, best.n_tied) == (2.5, 1.0, 1)
    assert optimal_cut_off([0, 0, 1, 1], [1, 2, 3, 4], criterion="closest_topleft").value == 0.0
    row = sensitivity_at_specificity([0, 0, 1, 1], [1, 2, 3, 4], 1.0, n_bootstrap=20).iloc[0]
    assert (row["attainable"], row["interpolated"], row["cut_off"]) == (1.0, 1.0, 3.0)


def test_constant_score_calls_nobody():
    best = optimal_cut_off([0, 1, 1], [5, 5, 5])
    assert (best.cut_off, best.value, best.n_tied) == (np.inf, 0.0, 2)
    table = optimal_cut_off_intervals([0, 0, 1, 1], np.full(4, 5.0), n_bootstrap=20).set_index("measure")
    assert table.loc["cut_off", "finite_draws"] == 0
    assert np.isnan(table.loc["cut_off", "ci_low"])
    row = sensitivity_at_specificity([0, 1, 1], [5, 5, 5], 0.6, n_bootstrap=20).iloc[0]
    assert (row["attainable"], row["interpolated"]) == (0.0, pytest.approx(0.4))


def test_useless_score_is_not_flipped():
    y = np.repeat([0, 1], [4, 4])
    assert optimal_cut_off(y, -y).cut_off == np.inf


def test_three_cases_have_a_cut_off_and_no_interval():
    assert optimal_cut_off([0, 0, 1], [1, 2, 3]).cut_off == 3.0
    table = optimal_cut_off_intervals([0, 0, 1], [1, 2, 3], n_bootstrap=20)
    assert table[["ci_low", "ci_high", "optimism"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("call_it", "match"),
    [
        (lambda y, s: optimal_cut_off(y, s, criterion="yuden"), "youden"),
        (lambda y, s: optimal_cut_off(y, s, rule="<"), "rule"),
        (lambda y, s: cut_off_table(y, s, thresholds="mid"), "midpoint"),
        (lambda y, s: cut_off_table(y, s, prevalence=1.0), "prevalence must lie"),
        (lambda y, s: optimal_cut_off(y, s, prevalence=0.3), "no part in the criterion"),
        (lambda y, s: optimal_cut_off(y, s, criterion="cost", relative_cost=0), "relative cost"),
        (lambda y, s: optimal_cut_off(y, s, criterion="cost", prevalence=30), "prevalence must lie"),
        (lambda y, s: sensitivity_at_specificity(y, s, 90), "must lie in"),
        (lambda y, s: at_cut_off(y, s, np.nan), "found NaN"),
        (lambda y, s: at_cut_off(y, s, 1, interval="wald"), "wilson"),
        (lambda y, s: optimal_cut_off(np.ones_like(y), s), "one class only"),
        (lambda y, s: optimal_cut_off(y, np.stack([s, s])), "One score per case"),
    ],
)
def test_impossible_requests_are_refused(call_it, match):
    with pytest.raises(InputError, match=match):
        call_it(*simulated(1))
