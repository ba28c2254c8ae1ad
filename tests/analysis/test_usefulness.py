"""Decision curves and reclassification: against dcurves and Hmisc, and what must hold for any model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from hybrid.analysis.usefulness import (
    DECISION_COLUMNS,
    DIFFERENCE_COLUMNS,
    RECLASSIFICATION_CAUTION,
    RECLASSIFICATION_COLUMNS,
    STRATEGY,
    TREAT_ALL,
    TREAT_NONE,
    _event_risk,
    compare_reclassification,
    decision_curve,
    decision_curve_survival,
    net_benefit,
    net_benefit_difference,
    plot_decision_curve,
    reclassification,
    reclassification_table,
)
from hybrid.errors import InputError

REFERENCE = Path(__file__).parents[1] / "reference" / "statistics"

THRESHOLDS = np.arange(100) / 100

Y = np.repeat([1, 0], [6, 8])
OLD = np.array([0.2, 0.35, 0.5, 0.6, 0.3, 0.8, 0.1, 0.25, 0.3, 0.45, 0.05, 0.6, 0.2, 0.15])
NEW = np.array([0.3, 0.30, 0.7, 0.6, 0.55, 0.9, 0.05, 0.35, 0.2, 0.4, 0.05, 0.4, 0.25, 0.10])


def predictions(y, **models):
    tables = [
        pd.DataFrame(
            {"case_id": [f"c{i:03d}" for i in range(len(y))], "y_true": y, "y_prob": p, "feature_set": name}
            | {"classifier": "logistic"}
        )
        for name, p in models.items()
    ]
    return pd.concat(tables, ignore_index=True)


def simulated(n=300, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.7, n)
    y = (rng.random(n) < p).astype(int)
    noisy = np.clip(p + 0.2 * rng.normal(size=n), 0.01, 0.99)
    return y, p, noisy


# --- decision curves: reference numbers -------------------------------------------------------------------------------


def test_net_benefit_of_a_yes_no_predictor_equals_dcurves():
    # dcurves 0.5.1, df_binary: 24 of 105 cancers and 91 of 645 others have a family history.
    y = np.repeat([1, 0], [105, 645])
    history = np.concatenate([np.repeat([1.0, 0.0], [24, 81]), np.repeat([1.0, 0.0], [91, 554])])
    table = net_benefit(y, history, [0.05, 0.1]).set_index("threshold")
    assert table["true_positive_rate"].tolist() == pytest.approx([0.032, 0.032])
    assert table["net_benefit"].tolist() == pytest.approx([0.0256140350877193, 0.0185185185185185], abs=1e-14)
    assert table["standardised_net_benefit"].tolist() == pytest.approx([0.182957393483709, 0.132275132275132])
    assert table["interventions_avoided"].tolist() == pytest.approx([-1.31333333333333, -0.233333333333333])


@pytest.mark.parametrize("model", ["cancerpredmarker", "famhistory"])
def test_binary_decision_curve_equals_dcurves(model):
    table = pd.read_csv(REFERENCE / "dcurves_df_binary.csv")
    expected = pd.read_csv(REFERENCE / "dcurves_binary_expected.csv").query("variable == @model")
    found = net_benefit(table["cancer"].astype(int), table[model], THRESHOLDS)
    # At threshold 0 dcurves leaves out predictions of exactly 0; here "reaches the threshold" includes them.
    for name, theirs in (
        ("true_positive_rate", "tp_rate"), ("false_positive_rate", "fp_rate"), ("net_benefit", "net_benefit"),
        ("standardised_net_benefit", "standardized_net_benefit"), ("interventions_avoided", "net_intervention_avoided"),
    ):  # fmt: skip
        assert found[name].to_numpy()[1:] == pytest.approx(expected[theirs].to_numpy()[1:], abs=1e-12)


def test_case_control_decision_curve_equals_dcurves():
    table = pd.read_csv(REFERENCE / "dcurves_df_case_control.csv")
    expected = pd.read_csv(REFERENCE / "dcurves_casecontrol_expected.csv")
    expected = expected.query("variable == 'cancerpredmarker'")
    found = net_benefit(table["casecontrol"], table["cancerpredmarker"], THRESHOLDS, prevalence=0.15)
    assert found["net_benefit"].to_numpy() == pytest.approx(expected["net_benefit"].to_numpy(), abs=1e-14)
    avoided = expected["net_intervention_avoided"].to_numpy()
    assert found["interventions_avoided"].to_numpy()[1:] == pytest.approx(avoided[1:], abs=1e-12)


def test_survival_decision_curve_equals_dcurves():
    table = pd.read_csv(REFERENCE / "dcurves_df_surv.csv")
    expected = pd.read_csv(REFERENCE / "dcurves_surv_expected.csv")
    cohort = pd.DataFrame({"time": table["ttcancer"], "event": table["cancer"], "risk": table["cancerpredmarker"]})
    found = decision_curve_survival(cohort, ["risk"], horizon=1, thresholds=THRESHOLDS, n_bootstrap=2)
    for theirs, ours in (("all", TREAT_ALL), ("cancerpredmarker", "risk")):
        reference = expected.loc[expected["variable"] == theirs, "net_benefit"].to_numpy()
        own = found.loc[found["feature_set"] == ours, "net_benefit"].to_numpy()
        known = np.isfinite(reference)
        assert known.sum() >= 74
        assert own[known] == pytest.approx(reference[known], abs=1e-12)


# --- decision curves: properties --------------------------------------------------------------------------------------


def test_treating_all_crosses_zero_at_the_prevalence():
    y, p, _ = simulated()
    table = decision_curve(predictions(y, model=p), thresholds=[y.mean() - 0.05, y.mean(), y.mean() + 0.05])
    benefit = table.query("feature_set == @TREAT_ALL")["net_benefit"].to_numpy()
    assert benefit[0] > 0 > benefit[2]
    assert benefit[1] == pytest.approx(0, abs=1e-15)
    assert (table.query("feature_set == @TREAT_NONE")["net_benefit"] == 0).all()


def test_a_perfect_model_has_the_prevalence_as_net_benefit_everywhere():
    y, *_ = simulated()
    table = net_benefit(y, y.astype(float), np.arange(0.01, 1, 0.01))
    assert table["net_benefit"].to_numpy() == pytest.approx(y.mean())
    assert table["standardised_net_benefit"].to_numpy() == pytest.approx(1.0)


def test_at_threshold_zero_everybody_is_treated_and_nothing_avoided():
    y, p, _ = simulated()
    row = net_benefit(y, p, 0.0).iloc[0]
    assert row["net_benefit"] == pytest.approx(y.mean())
    assert np.isnan(row["interventions_avoided"])


def test_interventions_avoided_pay_for_the_difference_to_treating_all():
    y, p, _ = simulated()
    table = decision_curve(predictions(y, model=p), thresholds=[0.1, 0.3], n_bootstrap=10).set_index("feature_set")
    gain = table.loc["model", "net_benefit"].to_numpy() - table.loc[TREAT_ALL, "net_benefit"].to_numpy()
    odds = np.array([0.1 / 0.9, 0.3 / 0.7])
    assert table.loc["model", "interventions_avoided"].to_numpy() == pytest.approx(gain / odds)


def test_the_samples_own_prevalence_changes_nothing():
    y, p, _ = simulated()
    given = net_benefit(y, p, prevalence=float(y.mean()))
    pd.testing.assert_frame_equal(given, net_benefit(y, p), rtol=1e-12)


def test_table_has_models_then_strategies_with_bounds_around_the_estimate():
    y, p, noisy = simulated()
    table = decision_curve(predictions(y, good=p, poor=noisy), thresholds=[0.1, 0.2], n_bootstrap=200)
    assert tuple(table.columns) == DECISION_COLUMNS
    assert list(table["feature_set"].unique()) == ["good", "poor", TREAT_ALL, TREAT_NONE]
    assert ((table["lower"] <= table["net_benefit"]) & (table["net_benefit"] <= table["upper"])).all()
    models = table[table["classifier"] != STRATEGY]
    assert (models["lower"] < models["upper"]).all()


def test_bootstrap_interval_agrees_with_the_normal_one():
    y, p, _ = simulated(2000)
    row = decision_curve(predictions(y, model=p), thresholds=[0.25], n_bootstrap=2000).iloc[0]
    # Net benefit is the mean of 1, -odds or 0 over patients.
    values = np.where(p >= 0.25, np.where(y == 1, 1.0, -1 / 3), 0.0)
    half = 1.96 * values.std() / np.sqrt(y.size)
    assert row["net_benefit"] == pytest.approx(values.mean())
    found = row[["lower", "upper"]].to_numpy(dtype=float)
    assert found == pytest.approx([values.mean() - half, values.mean() + half], abs=0.1 * half)


def test_a_given_prevalence_is_held_fixed_in_the_draws():
    y, p, _ = simulated()
    table = decision_curve(predictions(y, model=p), thresholds=[0.2], prevalence=0.05, n_bootstrap=100)
    everybody = table.query("feature_set == @TREAT_ALL").iloc[0]
    assert everybody["lower"] == pytest.approx(everybody["upper"])
    assert everybody["net_benefit"] == pytest.approx(0.05 - 0.95 * 0.25)


def test_net_benefit_is_averaged_over_repeats(small_predictions):
    table = decision_curve(small_predictions, models=["deep"], thresholds=[0.3], n_bootstrap=20)
    rows = small_predictions.query("feature_set == 'deep' and classifier == 'selected'")
    repeats = [net_benefit(part["y_true"], part["y_prob"], 0.3)["net_benefit"] for _, part in rows.groupby("repeat")]
    assert table["net_benefit"].iloc[0] == pytest.approx(np.mean(repeats))


def test_difference_of_a_model_with_itself_is_exactly_zero():
    y, p, _ = simulated()
    table = net_benefit_difference(predictions(y, a=p, b=p), "a", "b", thresholds=[0.1, 0.4], n_bootstrap=50)
    assert tuple(table.columns) == DIFFERENCE_COLUMNS
    assert (table[["difference", "lower", "upper"]] == 0).all(axis=None)


def test_paired_difference_is_narrower_than_its_parts():
    y, p, noisy = simulated(800)
    both = predictions(y, good=p, poor=noisy)
    curve = decision_curve(both, thresholds=[0.3], n_bootstrap=500).set_index("feature_set")
    difference = net_benefit_difference(both, "good", "poor", thresholds=[0.3], n_bootstrap=500).iloc[0]
    expected = curve.loc["good", "net_benefit"] - curve.loc["poor", "net_benefit"]
    assert difference["difference"] == pytest.approx(expected)
    assert difference["model_a"] == "good"
    parts = [curve.loc[name, "upper"] - curve.loc[name, "lower"] for name in ("good", "poor")]
    assert difference["upper"] - difference["lower"] < np.hypot(*parts)


@pytest.mark.parametrize("thresholds", [[1.0], [-0.1], [], [np.nan]])
def test_thresholds_without_meaning_are_refused(thresholds):
    with pytest.raises(InputError, match="from 0 to below 1"):
        net_benefit([0, 1], [0.2, 0.8], thresholds)


def test_prevalence_as_a_percentage_is_refused():
    with pytest.raises(InputError, match="between 0 and 1; found 15"):
        net_benefit([0, 1], [0.2, 0.8], prevalence=15)


def test_without_censoring_the_survival_curve_is_the_binary_one():
    y, p, _ = simulated()
    cohort = pd.DataFrame({"time": np.where(y == 1, 1.0, 5.0), "event": 1, "risk": p})
    survival = decision_curve_survival(cohort, ["risk"], horizon=2, thresholds=[0.1, 0.3], n_bootstrap=5)
    binary = net_benefit(y, p, [0.1, 0.3])
    found = survival.query("feature_set == 'risk'")["net_benefit"].to_numpy()
    assert found == pytest.approx(binary["net_benefit"].to_numpy(), abs=1e-12)


def test_event_risk_equals_scipys_kaplan_meier():
    rng = np.random.default_rng(5)
    time, event = rng.integers(1, 12, 60).astype(float), rng.integers(0, 2, 60)
    counts = rng.multinomial(60, np.full(60, 1 / 60), size=4).T
    found = _event_risk(time, event.astype(float), counts.astype(float), 6.0)
    for i, count in enumerate(counts.T):
        t, e = np.repeat(time, count), np.repeat(event, count) == 1
        curve = stats.ecdf(stats.CensoredData(uncensored=t[e], right=t[~e]))
        assert found[i] == pytest.approx(1 - curve.sf.evaluate(6.0), abs=1e-12)


def test_risk_is_unknown_when_follow_up_ends_before_the_horizon():
    risk = _event_risk(np.array([1.0, 2.0]), np.array([1.0, 0.0]), np.ones((2, 1)), 3.0)
    assert np.isnan(risk[0])
    assert _event_risk(np.array([1.0, 2.0]), np.array([0.0, 1.0]), np.ones((2, 1)), 3.0)[0] == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": [-1.0, 2.0]}, "at least 0"),
        ({"event": [2, 0]}, "coded 0 or 1"),
        ({"risk": [0.2, 1.4]}, "column 'risk'"),
    ],
)
def test_invalid_survival_tables_are_refused(change, message):
    table = pd.DataFrame({"time": [1.0, 2.0], "event": [1, 0], "risk": [0.2, 0.4]} | change)
    with pytest.raises(InputError, match=message):
        decision_curve_survival(table, ["risk"], horizon=1)


def test_a_horizon_beyond_follow_up_is_refused():
    table = pd.DataFrame({"time": [1.0, 2.0], "event": [1, 0], "risk": [0.2, 0.4]})
    with pytest.raises(InputError, match="ends at 2; found 5"):
        decision_curve_survival(table, ["risk"], horizon=5)


def test_plot_draws_models_and_both_strategies():
    y, p, noisy = simulated()
    table = decision_curve(predictions(y, good=p, poor=noisy), thresholds=[0.1, 0.2, 0.3], n_bootstrap=20)
    ax = Figure().add_subplot()
    assert plot_decision_curve(table, ax) is ax
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["good", "poor", "Treat all", "Treat none"]
    assert ax.lines[0].get_ydata() == pytest.approx(table.query("feature_set == 'good'")["net_benefit"].to_numpy())
    assert ax.get_ylim()[0] < 0 < ax.get_ylim()[1]


# --- reclassification -------------------------------------------------------------------------------------------------


def measures(*arguments, **settings):
    return reclassification(*arguments, **settings).set_index("measure")


def test_continuous_nri_and_idi_equal_hmisc_improve_prob():
    # Hmisc 4.8-0, R 4.2.2: improveProb(OLD, NEW, Y)
    table = measures(Y, OLD, NEW)
    assert tuple(table.reset_index().columns) == RECLASSIFICATION_COLUMNS
    for name, estimate, error, z in (
        ("nri", 0.875, 0.4347632657231085, 2.0125895377675929),
        ("nri_events", 0.5, 0.3118047822311618, 1.6035674514745462),
        ("nri_nonevents", 0.375, 0.3029799910885206, 1.2377054955105520),
        ("idi", 0.1375, 0.0567077931992051, 2.4247108244361630),
    ):
        found = table.loc[name, ["estimate", "standard_error", "z"]].tolist()
        assert found == pytest.approx([estimate, error, z], abs=1e-12)
    assert table.loc["idi_events", "estimate"] == pytest.approx(0.1)
    assert table.loc["idi_nonevents", "estimate"] == pytest.approx(0.0375)


def test_nri_and_idi_equal_hmisc_improve_prob_on_pima(benchmarks):
    # Hmisc 4.8-0: improveProb of glm(y ~ bmi + age) and glm(y ~ bmi + age + glu + ped), MASS::Pima.tr
    import statsmodels.api as sm

    pima = pd.read_csv(benchmarks / "statistics/pima_tr.csv")
    y = (pima["type"] == "Yes").to_numpy(dtype=int)
    old, new = (
        sm.GLM(y, sm.add_constant(pima[columns]), family=sm.families.Binomial()).fit().fittedvalues.to_numpy()
        for columns in (["bmi", "age"], ["bmi", "age", "glu", "ped"])
    )
    table = measures(y, old, new)
    nri, idi = (table.loc[name, ["estimate", "standard_error", "z"]].tolist() for name in ("nri", "idi"))
    assert nri == pytest.approx([0.7629233511586453, 0.1388514578603425, 5.4945289225986906], abs=1e-9)
    assert idi == pytest.approx([0.1521431113324059, 0.0282513025994237, 5.3853485444423175], abs=1e-7)


def test_null_variance_counts_the_movers_of_each_class():
    # Pencina et al. 2008, by hand: 36 of 183 events and 347 of 3081 others change category.
    y = np.repeat([1, 0], [183, 3081])
    move = np.concatenate([np.repeat([1, -1, 0], [29, 7, 147]), np.repeat([1, -1, 0], [173, 174, 2734])])
    arguments = (y, np.full(y.size, 0.5), 0.5 + 0.3 * move)
    table = measures(*arguments, cutoffs=[0.3, 0.7], variance="null")
    nri = 22 / 183 + 1 / 3081
    assert table.loc["nri", "estimate"] == pytest.approx(nri)
    assert table.loc["nri", "z"] == pytest.approx(nri / np.sqrt(36 / 183**2 + 347 / 3081**2))
    assert measures(*arguments, cutoffs=[0.3, 0.7]).loc["nri", "z"] > table.loc["nri", "z"]


def test_identical_models_reclassify_nobody():
    table = measures(Y, OLD, OLD, n_bootstrap=50)
    assert (table[["estimate", "standard_error", "z", "bootstrap_lower", "bootstrap_upper"]] == 0).all(axis=None)
    assert (table["p"] == 1).all()


def test_swapping_the_models_changes_the_sign():
    there, back = measures(Y, OLD, NEW), measures(Y, NEW, OLD)
    assert back["estimate"].to_numpy() == pytest.approx(-there["estimate"].to_numpy())
    assert back["p"].to_numpy() == pytest.approx(there["p"].to_numpy())


def test_with_two_categories_the_nri_is_the_gain_in_sensitivity_and_specificity():
    table = measures(Y, OLD, NEW, cutoffs=0.4)
    sensitivity = np.mean(NEW[Y == 1] >= 0.4) - np.mean(OLD[Y == 1] >= 0.4)
    specificity = np.mean(NEW[Y == 0] < 0.4) - np.mean(OLD[Y == 0] < 0.4)
    assert table.loc["nri_events", "estimate"] == pytest.approx(sensitivity)
    assert table.loc["nri_nonevents", "estimate"] == pytest.approx(specificity)
    assert "categories cut at 0.4" in table.loc["nri", "method"]


def test_idi_is_the_gain_in_discrimination_slope():
    def slope(p):
        return p[Y == 1].mean() - p[Y == 0].mean()

    assert measures(Y, OLD, NEW).loc["idi", "estimate"] == pytest.approx(slope(NEW) - slope(OLD))


def test_cross_table_counts_every_patient_once_and_explains_the_nri():
    table = reclassification_table(Y, OLD, NEW, cutoffs=[0.2, 0.5])
    assert table.groupby("event")["n"].sum().to_dict() == {0: 8, 1: 6}
    up, down = table.query("new > reference"), table.query("new < reference")
    of_events = (up.query("event == 1")["n"].sum() - down.query("event == 1")["n"].sum()) / 6
    assert of_events == pytest.approx(measures(Y, OLD, NEW, cutoffs=[0.2, 0.5]).loc["nri_events", "estimate"])


def test_bootstrap_interval_resembles_the_asymptotic_one():
    y, p, noisy = simulated(1500)
    table = measures(y, noisy, p, n_bootstrap=2000)
    for name in ("nri", "idi"):
        row = table.loc[name]
        found = row[["bootstrap_lower", "bootstrap_upper"]].to_numpy(dtype=float)
        assert found == pytest.approx(row[["lower", "upper"]].to_numpy(dtype=float), abs=0.4 * row["standard_error"])


def test_predictions_are_compared_with_one_probability_per_patient(small_predictions):
    table = compare_reclassification(small_predictions, "deep", "fused", n_bootstrap=0).set_index("measure")
    rows = small_predictions.query("classifier == 'selected'")
    mean = rows.groupby(["feature_set", "case_id"])[["y_true", "y_prob"]].mean()
    expected = measures(mean.loc["deep", "y_true"], mean.loc["deep", "y_prob"], mean.loc["fused", "y_prob"])
    assert table["estimate"].to_numpy() == pytest.approx(expected["estimate"].to_numpy(), abs=1e-10)


@pytest.mark.parametrize("cutoffs", [[0.5, 0.2], [0.0, 0.5], []])
def test_disordered_cutoffs_are_refused(cutoffs):
    with pytest.raises(InputError, match="increasing probabilities"):
        reclassification(Y, OLD, NEW, cutoffs=cutoffs)


def test_one_patient_in_a_class_is_refused():
    with pytest.raises(InputError, match="at least two patients of each class; found 1"):
        reclassification([1, 0, 0], [0.5, 0.2, 0.1], [0.6, 0.2, 0.1])


def test_unknown_variance_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'multinomial'"):
        reclassification(Y, OLD, NEW, variance="multinom")


def test_caution_names_the_better_measures_and_its_sources():
    for text in ("net benefit", "AUC", "nested", "doi:10.1097/EDE.0000000000000018"):
        assert text in RECLASSIFICATION_CAUTION
