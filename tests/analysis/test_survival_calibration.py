"""Calibration of survival predictions against statsmodels, R and cohorts with known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from statsmodels.duration.hazard_regression import PHReg

from hybrid import InputError
from hybrid.analysis import (
    calibrate_survival,
    calibration_groups,
    compare_survival_validation,
    evaluate_survival,
    kaplan_meier,
    plot_survival_calibration,
)
from hybrid.analysis.survival_calibration import event_free, middle_horizon, weighted_slope

FAST = {"n_bootstrap": 200}


def predicted(n=400, seed=0, *, slope=1.0, factor=1.0, repeats=1):
    """Patients whose hazard is exp(lp); a model that says slope * lp and factor times the hazard."""
    rng = np.random.default_rng(seed)
    lp = rng.normal(size=n)
    failure, censored = rng.exponential(1000 * np.exp(-lp)), rng.uniform(200, 3000, n)
    time, event = np.minimum(failure, censored), (failure <= censored).astype(int)
    tables = []
    for repeat in range(repeats):
        table = pd.DataFrame({
            "repeat": repeat, "fold": 0, "case_id": [f"c{i}" for i in range(n)],
            "patient_id": [f"p{i:04d}" for i in range(n)], "feature_set": "model", "time": time, "event": event,
            "risk": slope * lp, "group": np.where(lp > 0, "high", "low"),
        })  # fmt: skip
        for horizon in (250, 500, 1000):
            table[f"survival_at_{horizon}"] = np.exp(-factor * horizon / 1000 * np.exp(lp))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def value(table, metric):
    return table[table["metric"] == metric].iloc[0]


@pytest.mark.parametrize("seed", range(3))
def test_slope_equals_the_cox_model_of_statsmodels(seed):
    table = predicted(120, seed)
    time, event, risk = (table[name].to_numpy(dtype=float) for name in ("time", "event", "risk"))
    expected = PHReg(time, risk[:, None], status=event.astype(int), ties="breslow").fit(disp=0).params[0]
    found = weighted_slope(time, event == 1, risk, np.ones((120, 1)))[0]
    assert found == pytest.approx(expected, rel=1e-6)


def test_slope_with_ties_and_weights_equals_that_of_repeated_rows():
    rng = np.random.default_rng(3)
    time, event = rng.integers(1, 8, 60).astype(float), rng.random(60) < 0.6
    risk, counts = rng.normal(size=60), rng.integers(0, 4, 60)
    rows = np.repeat(np.arange(60), counts)
    fit = PHReg(time[rows], risk[rows][:, None], status=event[rows].astype(int), ties="breslow").fit(disp=0)
    found = weighted_slope(time, event, risk, counts[:, None].astype(float))[0]
    assert found == pytest.approx(fit.params[0], rel=1e-6)


def test_slope_of_the_lung_data_equals_r(benchmarks):
    import json

    table = pd.read_csv(benchmarks / "statistics" / "lung_cox_lp.csv")
    reference = json.loads((benchmarks / "statistics" / "survival_lung.json").read_text(encoding="utf-8"))
    assert reference
    # A linear predictor has the slope 1 in the patients that it was fitted on; ties are Efron's in R, Breslow's here.
    event = table["status"].to_numpy() == table["status"].max()
    found = weighted_slope(
        table["time"].to_numpy(dtype=float), event, table["lp"].to_numpy(dtype=float), np.ones((len(table), 1))
    )
    assert found[0] == pytest.approx(1.0, abs=5e-3)


def test_slope_is_undefined_for_equal_risks_and_for_a_perfect_order():
    time, event = np.arange(1.0, 9.0), np.ones(8, bool)
    weights = np.ones((8, 2))
    assert np.isnan(weighted_slope(time, event, np.zeros(8), weights)).all()
    assert np.isnan(weighted_slope(time, event, -time, weights)).all()


@pytest.mark.parametrize("at", [0.0, 250.0, 900.0])
def test_weighted_survival_equals_kaplan_meier_of_repeated_rows(at):
    table = predicted(80, 5)
    counts = np.random.default_rng(1).integers(0, 3, 80)
    rows = np.repeat(np.arange(80), counts)
    time, event = table["time"].to_numpy(), table["event"].to_numpy() == 1
    curve = kaplan_meier(time[rows], event[rows].astype(int))
    expected = curve.loc[curve["time"] <= at, "survival"].iloc[-1]
    assert event_free(time, event, counts[:, None].astype(float), at)[0] == pytest.approx(expected, abs=1e-12)


def test_a_true_model_is_calibrated_and_a_wrong_one_is_not():
    good = calibrate_survival(predicted(1500, 1), 500, **FAST)
    ratio, slope = value(good, "observed_expected_ratio"), value(good, "calibration_slope")
    assert ratio["lower"] < 1 < ratio["upper"]
    assert slope["lower"] < 1 < slope["upper"]
    wrong = calibrate_survival(predicted(1500, 1, slope=2.0, factor=0.5), 500, **FAST)
    assert value(wrong, "observed_expected_ratio")["lower"] > 1.2
    assert value(wrong, "calibration_slope")["estimate"] == pytest.approx(slope["estimate"] / 2, rel=1e-6)
    assert value(wrong, "observed_risk")["estimate"] == value(good, "observed_risk")["estimate"]


def test_interval_of_the_observed_risk_is_as_wide_as_greenwoods():
    table = predicted(300, 6)
    row = value(calibrate_survival(table, 500, n_bootstrap=2000), "observed_risk")
    curve = kaplan_meier(table["time"], table["event"], scale="plain")
    own = curve[curve["time"] <= 500].iloc[-1]
    assert row["estimate"] == pytest.approx(1 - own["survival"], abs=1e-12)
    # Draws that kept the number of events would be narrower by a third and more.
    assert row["upper"] - row["lower"] == pytest.approx(own["upper"] - own["lower"], rel=0.08)


def test_identical_repeats_change_nothing_and_order_does_not_matter():
    one = calibrate_survival(predicted(100, 2), 500, **FAST)
    three = calibrate_survival(predicted(100, 2, repeats=3), 500, **FAST)
    np.testing.assert_allclose(one[["estimate", "lower", "upper"]], three[["estimate", "lower", "upper"]], rtol=1e-9)
    mixed = calibrate_survival(predicted(100, 2).sample(frac=1, random_state=0), 500, **FAST)
    np.testing.assert_allclose(one["estimate"], mixed["estimate"], rtol=1e-12)


def test_groups_hold_every_patient_and_expected_risk_rises():
    table = predicted(300, 4)
    groups = calibration_groups(table, n_groups=5)
    assert groups["n_patients"].sum() == 300
    assert groups["expected"].is_monotonic_increasing
    assert ((groups["lower"] <= groups["observed"]) & (groups["observed"] <= groups["upper"])).all()
    assert middle_horizon(table) == 500
    ax = plot_survival_calibration(groups)
    assert "500" in ax.get_xlabel()
    assert len(ax.lines) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: calibrate_survival(t, 600, **FAST), "Choose from 250, 500, 1000"),
        (lambda t: calibrate_survival(t.assign(time=t["time"].clip(upper=400)), 500, **FAST), "Nobody is followed"),
        (lambda t: calibrate_survival(t.drop(columns=[c for c in t if "survival" in c])), "name no horizons"),
    ],
)
def test_a_horizon_that_cannot_be_judged_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        change(predicted(60))


def test_internal_and_external_stand_side_by_side_with_their_difference():
    sides = []
    for seed in (0, 1):
        table = predicted(150, seed)
        sides.append(pd.concat([evaluate_survival(table, **FAST), calibrate_survival(table, 500, **FAST)]))
    beside = compare_survival_validation(*sides)
    row = beside.set_index("metric").loc["c_index"]
    assert row["difference"] == pytest.approx(row["external"] - row["internal"])
    assert row["lower"] < row["difference"] < row["upper"]
    assert {"calibration_slope", "observed_expected_ratio", "auc", "brier"} <= set(beside["metric"])
    with pytest.raises(InputError, match="other models"):
        compare_survival_validation(sides[0].assign(feature_set="other"), sides[1])
