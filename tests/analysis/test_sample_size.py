"""Sample size: against R's pmsampsize, and what must hold for any design."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import special, stats

from hybrid.analysis.sample_size import (
    SAMPLE_SIZE_COLUMNS,
    cox_snell_from_c,
    cox_snell_from_c_survival,
    expected_shrinkage,
    max_cox_snell,
    max_cox_snell_survival,
    sample_size_binary,
    sample_size_continuous,
    sample_size_survival,
    sample_size_verdict,
)
from hybrid.errors import InputError

# --- pmsampsize 1.1.3 -------------------------------------------------------------------------------------------------


def test_binary_sizes_equal_pmsampsize_for_a_given_r2():
    # pmsampsize(type = "b", csrsquared = .288, parameters = 24, prevalence = .174)
    size = sample_size_binary(24, 0.174, r2_cs=0.288)
    assert size.table["n"].tolist() == [623, 662, 221]
    assert size.table["shrinkage"].iloc[:2].round(3).tolist() == [0.9, 0.905]
    assert size.table["events_per_parameter"].round(2).tolist() == [4.52, 4.8, 1.6]
    assert (size.n, size.n_events) == (662, 116)
    assert round(size.max_r2, 3) == 0.603
    assert round(size.r2 / size.max_r2, 3) == 0.477


def test_binary_sizes_equal_pmsampsize_for_another_r2():
    # pmsampsize(type = "b", csrsquared = .1, parameters = 10, prevalence = .3)
    size = sample_size_binary(10, 0.3, r2_cs=0.1)
    assert size.table["n"].tolist() == [850, 264, 323]
    assert size.table["shrinkage"].iloc[:2].round(3).tolist() == [0.9, 0.739]
    assert round(size.max_r2, 3) == 0.705


def test_binary_size_from_c_is_near_pmsampsize():
    # pmsampsize(type = "b", cstatistic = .89, parameters = 24, prevalence = .174, seed = 1234) simulates R2 .2902
    size = sample_size_binary(24, 0.174, c_statistic=0.89)
    assert size.r2 == pytest.approx(0.2902, abs=0.0015)
    assert size.table["n"].to_numpy() == pytest.approx([617, 661, 221], abs=2)


def test_survival_sizes_equal_pmsampsize():
    # pmsampsize(type = "s", csrsquared = .051, parameters = 30, rate = .065, timepoint = 2, meanfup = 2.07)
    size = sample_size_survival(30, 0.065, horizon=2, mean_follow_up=2.07, r2_cs=0.051)
    assert size.table["n"].tolist()[:2] == [5143, 1039]
    assert size.table["shrinkage"].iloc[:2].round(3).tolist() == [0.9, 0.648]
    assert size.table["events_per_parameter"].iloc[:2].round(2).tolist() == [23.07, 4.66]
    assert (size.n, round(size.max_r2, 3)) == (5143, 0.555)


def test_continuous_sizes_equal_pmsampsize():
    # pmsampsize(type = "c", rsquared = .2, parameters = 25, intercept = 1.9, sd = .6)
    size = sample_size_continuous(25, 0.2, mean=1.9, sd=0.6)
    assert size.table["n"].tolist()[:3] == [918, 401, 259]
    assert size.table["shrinkage"].iloc[:3].round(3).tolist() == [0.9, 0.801, 0.727]
    assert size.table["events_per_parameter"].iloc[:3].tolist() == pytest.approx([36.72, 16.04, 10.36])
    assert size.n == 918


# --- the pieces -------------------------------------------------------------------------------------------------------


def test_integrated_r2_equals_that_of_a_large_simulation():
    # What Riley et al. 2021 do: a normal linear predictor in either class, then a logistic regression.
    rng = np.random.default_rng(1234)
    y = (rng.random(400_000) < 0.3).astype(float)
    x = rng.normal(size=y.size) + y * np.sqrt(2) * stats.norm.ppf(0.75)
    fit = sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial()).fit()
    simulated = 1 - np.exp(-(fit.null_deviance - fit.deviance) / y.size)
    assert cox_snell_from_c(0.75, 0.3) == pytest.approx(simulated, abs=0.003)


def test_r2_from_harrells_c_is_close_to_that_of_simulated_survival():
    rng = np.random.default_rng(2)
    x = rng.normal(size=3000)
    time = rng.exponential(np.exp(-0.9 * x))
    event = time < np.quantile(time, 0.6)
    time = np.minimum(time, np.quantile(time, 0.6))
    fit = sm.PHReg(time, x[:, None], status=event, ties="breslow").fit()
    null = sm.PHReg(time, np.zeros((3000, 1)), status=event, ties="breslow").loglike(np.zeros(1))
    simulated = 1 - np.exp(-2 * (fit.llf - null) / 3000)
    earlier = (time[:, None] < time) & event[:, None]
    concordance = np.mean((x[:, None] > x)[earlier])
    assert cox_snell_from_c_survival(concordance, 0.6) == pytest.approx(simulated, abs=0.06)


def test_r2_is_zero_for_a_model_that_guesses_and_grows_with_c():
    for prevalence in (0.1, 0.5):
        values = [cox_snell_from_c(c, prevalence) for c in (0.5, 0.6, 0.8, 0.95, 0.999)]
        assert values[0] == pytest.approx(0, abs=1e-12)
        assert (np.diff(values) > 0).all()
        assert values[-1] < max_cox_snell(prevalence)
    assert cox_snell_from_c_survival(0.5, 0.4) == 0


def test_largest_r2_is_known_at_one_half_and_symmetric():
    assert max_cox_snell(0.5) == pytest.approx(0.75)
    assert max_cox_snell(0.2) == pytest.approx(max_cox_snell(0.8))
    # Riley et al. 2020, box: 0.33 for an outcome proportion of 5 %.
    assert max_cox_snell(0.05) == pytest.approx(0.33, abs=0.005)
    assert 0 < max_cox_snell_survival(0.065, 2.07) < 1


def test_shrinkage_and_sample_size_are_inverse():
    size = sample_size_binary(12, 0.25, r2_cs=0.15, shrinkage=0.85)
    n = int(size.table["n"].iloc[0])
    assert expected_shrinkage(n, 12, 0.15) >= 0.85 > expected_shrinkage(n - 1, 12, 0.15)


def test_more_parameters_and_less_signal_need_more_patients():
    sizes = [sample_size_binary(p, 0.3, r2_cs=0.15).n for p in (2, 10, 50)]
    assert (np.diff(sizes) > 0).all()
    assert sample_size_binary(10, 0.3, r2_cs=0.05).n > sample_size_binary(10, 0.3, r2_cs=0.2).n


def test_without_a_model_15_percent_of_the_largest_r2_is_assumed():
    size = sample_size_binary(5, 0.3)
    assert size.r2 == pytest.approx(0.15 * size.max_r2)
    assert "assumed" in size.method
    assert tuple(size.table.columns) == SAMPLE_SIZE_COLUMNS


def test_third_survival_criterion_keeps_both_bounds_of_the_risk_within_the_margin():
    size = sample_size_survival(1, 0.2, horizon=3, mean_follow_up=2.5, r2_cs=0.1)
    n = int(size.table["n"].iloc[2])

    def error(n):
        rates = 0.2 + np.array([-1.96, 1.96]) * np.sqrt(0.2 / (2.5 * n))
        return np.abs(np.exp(-3 * rates) - np.exp(-0.6)).max()

    assert error(n) <= 0.05 < error(n - 1)


def test_continuous_criteria_hold_at_their_size_and_not_one_patient_earlier():
    p, r2 = 8, 0.3
    size = sample_size_continuous(p, r2, mean=10, sd=25)

    def mean_margin(n):
        return 1 + stats.t.ppf(0.975, n - p - 1) * 25 * np.sqrt((1 - r2) / n) / 10

    def sd_margin(n):
        low, high = stats.chi2.ppf([0.025, 0.975], n - p - 1) / (n - p - 1)
        return np.sqrt(max(high, 1 / low))

    for margin, n in ((sd_margin, size.table["n"].iloc[2]), (mean_margin, size.table["n"].iloc[3])):
        assert margin(n) <= 1.1 < margin(n - 1)


def mean_slope_in_new_patients(n, p, runs=40):
    """Calibration slope of unpenalised models of simulated patients, and the Cox-Snell R2 of the truth."""
    rng = np.random.default_rng(3)
    beta = np.full(p, 0.3)
    new = rng.normal(size=(50_000, p))
    y_new = (rng.random(50_000) < special.expit(new @ beta)).astype(float)

    def refit(linear):
        return sm.GLM(y_new, sm.add_constant(linear), family=sm.families.Binomial()).fit()

    slopes = []
    for _ in range(runs):
        x = rng.normal(size=(n, p))
        y = (rng.random(n) < special.expit(x @ beta)).astype(float)
        fit = sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial()).fit()
        slopes.append(refit(sm.add_constant(new) @ fit.params).params[1])
    truth = refit(new @ beta)
    return np.mean(slopes), 1 - np.exp(-(truth.null_deviance - truth.deviance) / y_new.size)


def test_expected_shrinkage_foretells_the_slope_in_new_patients_of_a_large_study():
    slope, r2 = mean_slope_in_new_patients(1500, 15, runs=20)
    assert slope == pytest.approx(expected_shrinkage(1500, 15, r2), abs=0.025)


def test_expected_shrinkage_is_optimistic_in_a_small_study():
    # The docstring says so; a user must not take it for a promise.
    slope, r2 = mean_slope_in_new_patients(150, 15)
    assert slope < expected_shrinkage(150, 15, r2) - 0.05


# --- verdict ----------------------------------------------------------------------------------------------------------


def test_verdict_accepts_exactly_what_the_criteria_ask_for():
    required = sample_size_binary(24, 0.174, r2_cs=0.288)
    enough = sample_size_verdict(1000, 174, 24, r2_cs=0.288)
    assert enough.enough
    assert enough.required.n == required.n
    assert enough.max_parameters >= 24
    assert not sample_size_verdict(500, 87, 24, r2_cs=0.288).enough


def test_most_parameters_are_supported_and_one_more_is_not():
    verdict = sample_size_verdict(500, 150, 3, c_statistic=0.8)
    k = verdict.max_parameters
    assert k > 3
    assert sample_size_verdict(500, 150, k, c_statistic=0.8).enough
    assert not sample_size_verdict(500, 150, k + 1, c_statistic=0.8).enough


def test_verdict_is_one_sentence_with_its_numbers():
    verdict = sample_size_verdict(84, 30, 12)
    sentence = verdict.sentence
    assert sentence.startswith("84 patients with 30 events (2.5 events per candidate parameter) are too few for 12 ")
    assert "(1 event per candidate parameter)" in sample_size_verdict(84, 30, 30).sentence
    assert f"ask for {verdict.required.n} patients" in sentence
    assert "not even one parameter is supported" in sentence
    assert sentence.replace("et al.", "").count(".") == 4  # three decimal points and the full stop
    assert sentence.endswith(".")
    assert verdict.events_per_parameter == 2.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sample_size_binary(5, 30), "prevalence must lie between 0 and 1; found 30"),
        (lambda: sample_size_binary(0, 0.3), "at least one patient and one candidate parameter"),
        (lambda: sample_size_binary(5, 0.3, r2_cs=0.9), "largest possible value, 0.705; found 0.900"),
        (lambda: sample_size_binary(5, 0.3, r2_cs=0.2, c_statistic=0.8), "not both"),
        (lambda: sample_size_binary(5, 0.3, c_statistic=0.4), "C statistic must lie from 0.5"),
        (lambda: sample_size_survival(5, 0.5, horizon=2, mean_follow_up=3, r2_cs=0.1), "expected fewer than 1"),
        (lambda: sample_size_survival(5, 0.0, horizon=2, mean_follow_up=3), "event rate must be positive"),
        (lambda: sample_size_continuous(5, 0.2, mean=0, sd=1), "must not be 0"),
        (lambda: sample_size_verdict(20, 20, 5), "with and without the event; found 20 events in 20"),
    ],
)
def test_impossible_plans_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
