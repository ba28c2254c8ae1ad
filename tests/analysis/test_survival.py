"""Survival statistics against R, published data, the definitions and simulated patients."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis import auc
from hybrid.analysis import survival_tables as module
from hybrid.analysis.survival import (
    brier_survival,
    concordance_difference,
    concordance_index,
    concordance_interval,
    integrated_brier,
    survival_auc,
    uno_concordance,
)
from hybrid.analysis.survival_curves import (
    hazard_ratio,
    kaplan_meier,
    log_rank,
    median_survival,
    numbers_at_risk,
    restricted_mean,
)
from hybrid.analysis.survival_panel import (
    SurvivalPanel,
    censoring_survival,
    horizon_column,
    horizon_columns,
)
from hybrid.analysis.survival_tables import (
    METRICS,
    compare_risk_groups,
    compare_survival,
    evaluate_survival,
    risk_groups,
)
from hybrid.errors import InputError

# Remission in weeks of 42 children with leukaemia: Freireich et al. 1963 (doi:10.1182/blood.V21.6.699.699), table as in
# Cox 1972 (doi:10.1111/j.2517-6161.1972.tb00899.x).
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]
DRUG = [6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35]
DRUG_EVENT = [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
TIME, EVENT, ARM = PLACEBO + DRUG, [1] * 21 + DRUG_EVENT, ["placebo"] * 21 + ["drug"] * 21


def simulate(n=80, seed=0, *, strength=1.0, censoring=1.5, digits=2):
    """Exponential times with ties from rounding; the score is the log hazard plus noise, itself rounded."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=n)
    failure, censored = rng.exponential(np.exp(-strength * signal)), rng.exponential(censoring, n)
    time = np.minimum(failure, censored).round(digits)
    return time, (failure <= censored).astype(int), (signal + 0.5 * rng.normal(size=n)).round(1)


def simulate_predictions(n=60, repeats=3, sets=("handcrafted", "deep"), seed=0, horizons=(0.2, 0.5, 1.0)):
    time, event, risk = simulate(n, seed)
    rng = np.random.default_rng(seed + 1)
    rows = []
    for name, repeat in itertools.product(sets, range(repeats)):
        own = risk * (1.0 if name == "handcrafted" else 0.2) + 0.3 * rng.normal(size=n)
        for i in range(n):
            row = {"repeat": repeat, "fold": i % 5, "case_id": f"c{i}", "patient_id": f"p{i:02d}", "feature_set": name,
                   "time": time[i], "event": event[i], "risk": own[i],
                   "group": "high" if own[i] > np.median(own) else "low"}  # fmt: skip
            rows.append(row | {horizon_column(h): np.exp(-h * np.exp(0.5 * own[i])) for h in horizons})
    return pd.DataFrame(rows)


# Published and R's numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "survival", "se"),
    [(6, 0.857, 0.0764), (7, 0.807, 0.0869), (10, 0.753, 0.0963), (13, 0.690, 0.1068), (16, 0.627, 0.1141),
     (22, 0.538, 0.1282), (23, 0.448, 0.1346)],
)  # fmt: skip
def test_kaplan_meier_and_greenwood_of_freireich_as_printed_by_r(time, survival, se):
    row = kaplan_meier(DRUG, DRUG_EVENT).set_index("time").loc[time]
    assert row["survival"] == pytest.approx(survival, abs=5e-4)
    assert row["se"] == pytest.approx(se, abs=6e-5)


def test_numbers_at_risk_of_freireich():
    assert kaplan_meier(DRUG, DRUG_EVENT)["n_risk"].tolist() == [21, 21, 17, 15, 12, 11, 7, 6]
    assert numbers_at_risk(DRUG, [0, 10, 20, 36])["n_risk"].tolist() == [21, 15, 8, 0]


def test_log_rank_of_freireich_as_printed_by_r():
    test = log_rank(TIME, EVENT, ARM)
    assert (test.chi2, test.df) == (pytest.approx(16.79, abs=5e-3), 1)
    assert test.p == pytest.approx(4.17e-5, abs=5e-8)


def test_hazard_ratio_of_freireich_as_printed_by_r():
    ratio, lower, upper = np.log(hazard_ratio(TIME, EVENT, np.array(ARM) == "placebo"))
    assert ratio == pytest.approx(1.5721, abs=5e-5)
    assert (upper - lower) / 2 / 1.959964 == pytest.approx(0.4124, abs=5e-5)


def test_medians_of_freireich():
    medians = median_survival(kaplan_meier(TIME, EVENT, ARM)).set_index("group")
    assert medians["median"].to_dict() == {"placebo": 8, "drug": 23}
    assert medians.loc["drug", "lower"] == 13
    assert np.isnan(medians.loc["drug", "upper"])


def test_restricted_mean_of_freireich_as_in_lifelines():
    assert restricted_mean(DRUG, DRUG_EVENT, 30)[0] == pytest.approx(21.04649859943977, abs=1e-9)


def test_restricted_mean_without_censoring_is_the_mean_with_its_standard_error():
    cut = np.minimum(PLACEBO, 15)
    estimate, lower, upper = restricted_mean(PLACEBO, [1] * 21, 15)
    assert estimate == pytest.approx(cut.mean(), abs=1e-12)
    assert (upper - lower) / 2 / 1.959964 == pytest.approx(cut.std() / np.sqrt(21), rel=1e-6)


@pytest.fixture(scope="module")
def lung(benchmarks):
    """Rows of ``survival::lung`` and what R computes of them."""
    table = pd.read_csv(benchmarks / "statistics" / "lung_cox_lp.csv")
    return table.assign(event=table["status"] - 1), json.loads(
        (benchmarks / "statistics" / "survival_lung.json").read_text(encoding="utf-8")
    )


def test_harrell_c_and_its_standard_error_equal_r(lung):
    table, expected = lung
    found = concordance_index(table["time"], table["event"], table["lp"])
    assert found.c == pytest.approx(expected["harrell_c"], abs=1e-12)
    assert found.se == pytest.approx(expected["harrell_c_se"], abs=1e-12)


def test_log_rank_of_lung_equals_r(lung):
    table, expected = lung
    found = log_rank(table["time"], table["event"], table["sex"])
    assert found.chi2 == pytest.approx(expected["logrank_sex"]["chi2"], rel=1e-10)
    assert found.p == pytest.approx(expected["logrank_sex"]["p"], rel=1e-8)


def test_median_survival_of_lung_equals_r(lung):
    table, expected = lung
    curves = kaplan_meier(table["time"], table["event"], table["sex"], scale="log")
    medians = median_survival(curves).set_index("group").sort_index()
    assert medians[["median", "lower", "upper"]].to_numpy().tolist() == expected["km_median"]


def test_bootstrap_interval_of_lung_is_near_the_one_of_r_s_standard_error(lung):
    table, expected = lung
    estimate, lower, upper = concordance_interval(table["time"], table["event"], table["lp"])
    half = 1.96 * expected["harrell_c_se"]
    assert (lower, upper) == (pytest.approx(estimate - half, abs=0.01), pytest.approx(estimate + half, abs=0.01))


# Concordance by its definition ----------------------------------------------------------------------------------------


def test_concordance_counts_pairs_by_hand():
    time, event, risk = [2, 2, 2, 4, 5, 5], [1, 1, 0, 0, 1, 1], [3, 1, 2, 2, 0, 0]
    # Comparable: both events at 2 against the censored one at 2 and the three later ones; 4 is censored; 5 and 5 tie.
    found = concordance_index(time, event, risk)
    assert (found.concordant, found.discordant, found.tied_risk, found.tied_time) == (6, 2, 0, 2)
    assert found.c == 6 / 8


def test_tied_risks_count_half_and_reversed_risks_give_the_rest():
    time, event, risk = simulate()
    found = concordance_index(time, event, risk)
    assert found.tied_risk > 0
    assert concordance_index(time, event, -risk).c == pytest.approx(1 - found.c, abs=1e-15)
    assert concordance_index(time, event, np.zeros_like(risk)).c == 0.5
    order = np.random.default_rng(3).permutation(len(time))
    assert concordance_index(time[order], event[order], risk[order]).c == found.c


def test_a_pair_of_censored_patients_says_nothing():
    assert np.isnan(concordance_index([3, 3], [1, 1], [0, 1]).c)
    assert np.isnan(concordance_index([1, 5], [0, 1], [0, 1]).c)


def test_perfect_order_has_no_sampling_error():
    assert concordance_index([1, 2, 3, 4], [1, 1, 0, 1], [4, 3, 2, 1]).c == 1
    assert concordance_index([1, 2, 3, 4], [1, 1, 0, 1], [4, 3, 2, 1]).se == 0
    assert concordance_interval([1, 2, 3, 4, 5, 6], [1, 1, 0, 1, 0, 1], [6, 5, 4, 3, 2, 1], n_bootstrap=50)[0] == 1


def test_identical_scores_do_not_differ_and_a_better_one_is_found():
    time, event, risk = simulate(150)
    same = concordance_difference(time, event, risk, 2 * risk + 1, n_bootstrap=200)
    assert (same.difference, same.lower, same.upper, same.p) == (0, 0, 0, 1)
    noise = np.random.default_rng(5).normal(size=150)
    better = concordance_difference(time, event, risk, noise, n_bootstrap=500)
    assert better.lower > 0
    assert better.p < 0.01


# Censoring weights ----------------------------------------------------------------------------------------------------


def test_censoring_survival_by_hand():
    time, event = np.array([1.0, 2, 2, 3, 4]), np.array([True, True, False, False, True])
    before, at = censoring_survival(time, event, np.ones((5, 1)), np.array([0.5, 2, 3, 9]))
    # At 2 one of the three that remain after the event is censored, at 3 one of two.
    assert before[:, 0] == pytest.approx([1, 1, 1, 2 / 3, 1 / 3])
    assert at[:, 0] == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3])


def test_without_censoring_the_weighted_measures_are_the_plain_ones():
    time, _, risk = simulate(90, digits=6)
    event = np.ones(90, dtype=int)
    assert uno_concordance(time, event, risk) == pytest.approx(concordance_index(time, event, risk).c, abs=1e-12)
    cuts = np.quantile(time, [0.3, 0.7])
    expected = [auc((time <= cut).astype(int), risk) for cut in cuts]
    assert survival_auc(time, event, risk, cuts) == pytest.approx(expected, abs=1e-12)
    survival = np.stack([np.exp(-cut * np.exp(risk)) for cut in cuts])
    plain = [np.mean((row - (time > cut)) ** 2) for row, cut in zip(survival, cuts, strict=True)]
    assert brier_survival(time, event, survival, cuts) == pytest.approx(plain, abs=1e-12)


def test_weighted_measures_equal_their_formulas_with_ties_and_censoring():
    time, event, risk = simulate(50, digits=1)
    before = censoring_survival(time, event == 1, np.ones((50, 1)), np.empty(0))[0][:, 0]
    won = total = 0.0
    for i, j in itertools.permutations(range(50), 2):
        if event[i] and time[i] < 1.5 and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
            weight = before[i] ** -2
            total += weight
            won += weight * (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0)
    assert uno_concordance(time, event, risk, tau=1.5) == pytest.approx(won / total, abs=1e-12)
    won = total = 0.0
    for i, j in itertools.product(range(50), repeat=2):
        if event[i] and time[i] <= 0.4 < time[j]:
            total += 1 / before[i]
            won += (1.0 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0.0) / before[i]
    assert survival_auc(time, event, risk, [0.4])[0] == pytest.approx(won / total, abs=1e-12)


def test_uno_and_auc_do_not_move_with_censoring_but_harrell_does():
    """With non-proportional hazards the order of early events is easier: censoring late pairs raises Harrell's C."""
    rng = np.random.default_rng(0)
    n, tau = 2000, 2.0
    risk = rng.normal(size=n)
    failure = np.where(
        rng.random(n) < 0.5, rng.exponential(np.exp(-2 * risk) * 0.3), 0.6 + rng.exponential(1.5, n)
    )  # fmt: skip
    censored = rng.exponential(1.2, n)
    time, event = np.minimum(failure, censored), (failure <= censored).astype(int)
    truth = uno_concordance(failure, np.ones(n), risk, tau=tau)
    assert uno_concordance(time, event, risk, tau=tau) == pytest.approx(truth, abs=0.015)
    assert concordance_index(time, event, risk).c > truth + 0.015
    exact = auc((failure <= 1.0).astype(int), risk)
    assert survival_auc(time, event, risk, [1.0])[0] == pytest.approx(exact, abs=0.02)


def test_brier_of_the_truth_does_not_move_with_censoring():
    rng = np.random.default_rng(1)
    risk = rng.normal(size=4000)
    failure, censored = rng.exponential(np.exp(-risk)), rng.exponential(1.0, 4000)
    survival = np.exp(-0.8 * np.exp(risk))[None]
    truth = np.mean((survival[0] - (failure > 0.8)) ** 2)
    found = brier_survival(np.minimum(failure, censored), failure <= censored, survival, [0.8])[0]
    assert found == pytest.approx(truth, abs=0.008)
    assert integrated_brier([1, 2, 4], [0.1, 0.2, 0.2]) == pytest.approx((0.15 + 0.4) / 3)


def test_measures_that_are_not_defined_are_nan():
    time, event, risk = [1, 2, 3], [0, 1, 1], [1, 2, 3]
    assert np.isnan(survival_auc(time, event, risk, [1.5, 3])).all()
    assert np.isnan(brier_survival(time, event, [[0.5, 0.5, 0.5]], [3])[0])


@pytest.mark.parametrize("metric", METRICS)
def test_weights_of_the_bootstrap_equal_repeated_rows(metric):
    """A draw as weights gives the number that the drawn patients give when their rows are really repeated."""
    time, event, risk = simulate(40, digits=1)
    horizons = np.array([0.2, 0.4, 0.8])
    survival = np.exp(-horizons[:, None] * np.exp(0.5 * risk))
    rng = np.random.default_rng(2)
    draws = rng.multinomial(40, np.full(40, 1 / 40), size=5).T.astype(float)
    statistic = module._STATISTICS[metric]
    panel = SurvivalPanel.single(time, event == 1, risk, horizons=horizons, survival=survival)
    found = statistic(panel, draws)
    for b in range(5):
        rows = np.repeat(np.arange(40), draws[:, b].astype(int))
        drawn = SurvivalPanel.single(
            time[rows], event[rows] == 1, risk[rows], horizons=horizons, survival=survival[:, rows]
        )
        assert found[:, b] == pytest.approx(statistic(drawn, np.ones((40, 1)))[:, 0], abs=1e-10)


@pytest.mark.slow
def test_interval_of_the_c_index_covers():
    """60 patients, a third censored: BCa intervals hold the value of a very large cohort in about 95 % of samples."""
    time, event, risk = simulate(4000, seed=99, digits=9)
    truth = concordance_index(time, event, risk).c
    inside = 0
    for seed in range(600):
        _, lower, upper = concordance_interval(*simulate(60, seed=seed, digits=9), n_bootstrap=1000)
        inside += lower <= truth <= upper
    assert 0.91 <= inside / 600 <= 0.98


# Kaplan-Meier details -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["log-log", "log", "plain"])
def test_intervals_lie_in_the_unit_interval_around_the_curve(scale):
    time, event, _ = simulate(30)
    curve = kaplan_meier(time, event, scale=scale).dropna()
    assert ((curve["lower"] <= curve["survival"]) & (curve["survival"] <= curve["upper"])).all()
    assert curve[["lower", "upper"]].stack().between(0, 1).all()


def test_a_flat_stretch_at_one_half_gives_its_middle():
    assert median_survival(kaplan_meier([1, 2, 4, 9], [1, 1, 1, 1]))["median"].iloc[0] == 3
    assert np.isnan(median_survival(kaplan_meier([1, 2, 4, 9], [1, 0, 0, 0]))["median"].iloc[0])


def test_a_group_without_events_has_a_curve_but_no_hazard_ratio():
    curve = kaplan_meier([1, 2, 3, 4], [1, 1, 0, 0], ["a", "a", "b", "b"])
    assert curve.loc[curve["group"] == "b", "survival"].tolist() == [1]
    assert np.isnan(hazard_ratio([1, 2, 3, 4], [1, 1, 0, 0], [True, True, False, False])).all()
    assert np.isnan(log_rank([1, 2], [1, 1], ["a", "a"]).p)


# Tables ---------------------------------------------------------------------------------------------------------------


def test_metrics_are_means_over_repeats_never_pooled():
    predictions = simulate_predictions()
    metrics = evaluate_survival(predictions, n_bootstrap=200).set_index(["feature_set", "metric"])
    own = predictions[predictions["feature_set"] == "deep"]
    each = [concordance_index(part["time"], part["event"], part["risk"]).c for _, part in own.groupby("repeat")]
    row = metrics.loc[("deep", "c_index")]
    assert row["estimate"] == pytest.approx(np.mean(each), abs=1e-12)
    assert row["lower"] < row["estimate"] < row["upper"]
    assert (row["n_patients"], row["n_repeats"]) == (60, 3)
    assert set(metrics.index.get_level_values("metric")) == set(METRICS)
    brier = metrics.loc[("deep", "brier")]
    assert metrics.loc[("deep", "integrated_brier"), "estimate"] == pytest.approx(
        integrated_brier(brier["horizon"], brier["estimate"])
    )


def test_row_order_and_a_patient_s_doubled_rows_change_nothing():
    predictions = simulate_predictions(n=40, repeats=2)
    expected = evaluate_survival(predictions, n_bootstrap=50)
    shuffled = predictions.sample(frac=1, random_state=0).sort_values("feature_set", ascending=False, kind="stable")
    pd.testing.assert_frame_equal(evaluate_survival(shuffled, n_bootstrap=50), expected, rtol=1e-9)
    doubled = pd.concat([predictions, predictions.assign(case_id=predictions["case_id"] + "b")])
    pd.testing.assert_frame_equal(evaluate_survival(doubled, n_bootstrap=50), expected, rtol=1e-9)


def test_differences_are_paired_and_adjusted_over_their_family():
    predictions = simulate_predictions(sets=("handcrafted", "deep", "copy"))
    copied = predictions[predictions["feature_set"] == "deep"].assign(feature_set="copy")
    predictions = pd.concat([predictions[predictions["feature_set"] != "copy"], copied])
    table = compare_survival(predictions, n_bootstrap=300).set_index(["feature_set_a", "feature_set_b"])
    same = table.loc[("deep", "copy")]
    assert (same["difference"], same["p"], same["p_holm"]) == (0, 1, 1)
    assert (table["n_comparisons"] == 3).all()
    gap = table.loc[("handcrafted", "deep")]
    assert gap["difference"] == pytest.approx(gap["a"] - gap["b"])
    assert gap["lower"] > 0
    with pytest.raises(InputError, match="Did you mean 'deep'"):
        compare_survival(predictions, [("handcrafted", "deeep")])
    with pytest.raises(InputError, match="metric 'brier'"):
        compare_survival(predictions, metric="brier")


def test_risk_groups_follow_the_majority_of_repeats():
    predictions = simulate_predictions(sets=("handcrafted",))
    votes = predictions.groupby("patient_id")["group"].agg(lambda own: (own == "high").mean())
    groups = risk_groups(predictions).set_index("patient_id")["group"]
    assert ((groups == "high") == (votes >= 0.5)).all()
    tests = compare_risk_groups(risk_groups(predictions)).iloc[0]
    assert tests["n_low"] + tests["n_high"] == 60
    assert tests["hazard_ratio"] > 1
    assert tests["median_low"] > tests["median_high"]


def test_horizons_survive_the_way_through_column_names():
    columns = [horizon_column(value) for value in (365.0, 2.5, 0.125)]
    assert columns == ["survival_at_365", "survival_at_2_5", "survival_at_0_125"]
    assert list(horizon_columns(columns)) == [365.0, 2.5, 0.125]


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "event", "message"),
    [
        ([1, -2, 3], [1, 1, 0], r"1 case\(s\) have a negative follow-up time: row 2"),
        ([1, np.nan, "x"], [1, 1, 0], r"2 case\(s\) have a follow-up time that is missing.*row 2, row 3"),
        ([1, 2, 3], [1, 2, 0], r"an event other than 0 or 1: row 2"),
        ([1, 2, 3], [1, None, 0], r"an event other than 0 or 1: row 2"),
        ([1, 2, 3], [0, 0, 0], "None of the 3 cases has an event"),
        ([1, 2], [1, 0, 1], "one entry per case"),
    ],
)
def test_impossible_follow_up_is_refused_by_name(time, event, message):
    with pytest.raises(InputError, match=message):
        concordance_index(time, event, np.arange(len(time)))


def test_other_impossible_arguments_are_refused():
    with pytest.raises(InputError, match="3 finite risk scores"):
        concordance_index([1, 2, 3], [1, 1, 0], [1, np.nan, 2])
    with pytest.raises(InputError, match=r"scale 'loglog'.*'log-log'"):
        kaplan_meier([1, 2], [1, 0], scale="loglog")
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        brier_survival([1, 2], [1, 0], [[0.5, 1.2]], [1])
    with pytest.raises(InputError, match="Nobody is followed until 9"):
        restricted_mean([1, 2], [1, 0], 9)
    with pytest.raises(InputError, match="2 groups"):
        log_rank([1, 2], [1, 0], ["a"])
    with pytest.raises(InputError, match="two or more increasing horizons"):
        integrated_brier([1], [0.2])


def test_predictions_that_contradict_themselves_are_refused():
    predictions = simulate_predictions(n=20, repeats=2)
    wrong = predictions.copy()
    wrong.loc[wrong["case_id"] == "c3", "time"] += np.arange((wrong["case_id"] == "c3").sum())
    with pytest.raises(InputError, match=r"1 patient\(s\) have rows with different times or events: p03"):
        evaluate_survival(wrong)
    with pytest.raises(InputError, match="no risk for patient 'p05' in repeat 1"):
        evaluate_survival(predictions[(predictions["case_id"] != "c5") | (predictions["repeat"] == 0)])
    with pytest.raises(InputError, match="no column 'risk'"):
        evaluate_survival(predictions.drop(columns="risk"))
