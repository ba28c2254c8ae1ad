"""Cox models against R, statsmodels and published data; cross-validation on cohorts with known truth."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pandas as pd
import pytest
from statsmodels.duration.hazard_regression import PHReg

from hybrid import Cohort, InputError
from hybrid.analysis.survival import (
    concordance_index,
)
from hybrid.analysis.survival_curves import (
    log_rank,
)
from hybrid.analysis.survival_panel import (
    SURVIVAL_COLUMNS,
)
from hybrid.cox import CoxElasticNet, CoxScoreFilter, efron_likelihood, score_statistics
from hybrid.pipelines import cli_survival
from hybrid.pipelines.survival import (
    cross_validate_survival,
    events_per_parameter,
    survival_null,
)

# Freireich et al. 1963 (doi:10.1182/blood.V21.6.699.699): weeks, event, arm (1: placebo, 0: drug).
TIME = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23, 6, 6, 6, 6, 7, 9, 10, 10, 11,
                 13, 16, 17, 19, 20, 22, 23, 25, 32, 32, 34, 35], dtype=float)  # fmt: skip
EVENT = np.array([1] * 21 + [1, 1, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0])
ARM = np.repeat([1.0, 0.0], 21)


def simulate(n=60, p=5, seed=0, *, strength=1.0):
    """Features of which the first carries the hazard; times in days with ties."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    failure, censored = rng.exponential(400 * np.exp(-strength * x[:, 0])), rng.exponential(600, n)
    return x, np.ceil(np.minimum(failure, censored)), (failure <= censored).astype(int)


def tables(n=60, p=6, seed=0, *, strength=1.2, **columns):
    """Feature table and cohort of as many patients."""
    x, time, event = simulate(n, p, seed, strength=strength)
    rng = np.random.default_rng(seed + 1)
    ids = [f"c{i:02d}" for i in range(n)]
    features = pd.DataFrame(x, columns=[f"rad_f{i}" for i in range(p)], index=pd.Index(ids, name="case_id"))
    features["rad_original_shape_VoxelVolume"] = np.exp(0.4 * x[:, 0] + rng.normal(size=n))
    features["deep_0000"] = rng.normal(size=n)
    known = {"case_id": ids, "patient_id": [f"p{i:02d}" for i in range(n)], "days": time, "dead": event}
    clinical = {"age": rng.normal(60, 10, n).round(), "sex": rng.choice(["f", "m"], n)}
    cohort = pd.DataFrame(known | clinical | columns)
    return features, cohort


FAST = {"time": "days", "event": "dead", "repeats": 2, "folds": 3, "inner_folds": 2, "progress": False}


@pytest.fixture(scope="module")
def crossed():
    features, cohort = tables()
    found = cross_validate_survival(
        features, Cohort.from_frame(cohort), feature_sets=("handcrafted",), covariates=("age", "sex"), **FAST
    )
    return features, cohort, found


# Cox model --------------------------------------------------------------------------------------------------------


def test_cox_coefficient_of_freireich_as_printed_by_r():
    model = CoxElasticNet(strength=0).fit(ARM[:, None], np.column_stack([TIME, EVENT]))
    assert model.coef_[0] == pytest.approx(1.5721, abs=5e-5)


def test_cox_coefficients_and_linear_predictor_of_lung_equal_r(benchmarks):
    table = pd.read_csv(benchmarks / "statistics" / "lung_cox_lp.csv")
    expected = json.loads((benchmarks / "statistics" / "survival_lung.json").read_text(encoding="utf-8"))["coef"]
    x = table[list(expected)].to_numpy(dtype=float)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    model = CoxElasticNet(strength=0).fit(scaled, np.column_stack([table["time"], table["status"] - 1]))
    assert model.coef_ / x.std(axis=0) == pytest.approx(list(expected.values()), rel=1e-5)
    assert model.predict(scaled) == pytest.approx(table["lp"], abs=1e-5)


def test_partial_likelihood_with_ties_equals_statsmodels():
    rng = np.random.default_rng(0)
    x, coefficients = rng.normal(size=(42, 3)), np.array([0.3, -0.5, 0.1])
    peer = PHReg(TIME, x, status=EVENT, ties="efron")
    value, gradient = efron_likelihood(TIME, EVENT == 1)(x @ coefficients)
    assert value == pytest.approx(peer.loglike(coefficients), abs=1e-9)
    assert gradient @ x == pytest.approx(peer.score(coefficients), abs=1e-9)


@pytest.mark.parametrize("l1_ratio", [0.1, 0.5, 1.0])
def test_elastic_net_equals_statsmodels(l1_ratio):
    x, time, event = simulate(50, 4)
    model = CoxElasticNet(0.2, l1_ratio).fit(x, np.column_stack([time, event]))
    peer = PHReg(time, x, status=event, ties="efron")
    found = peer.fit_regularized(alpha=model.penalty_, L1_wt=l1_ratio).params

    def objective(b):
        penalty = l1_ratio * np.abs(b).sum() + (1 - l1_ratio) / 2 * np.sum(b**2)
        return -peer.loglike(b) / 50 + model.penalty_ * penalty

    assert model.coef_ == pytest.approx(found, abs=2e-4)
    assert objective(model.coef_) <= objective(found) + 1e-9
    assert (model.coef_ == 0).tolist() == (np.abs(found) < 1e-8).tolist()


def test_strength_one_removes_every_feature_and_slightly_less_does_not():
    x, time, event = simulate()
    y = np.column_stack([time, event])
    assert not CoxElasticNet(1.0, 1.0).fit(x, y).coef_.any()
    assert CoxElasticNet(0.99, 1.0).fit(x, y).coef_.any()
    with pytest.raises(InputError, match="l1_ratio"):
        CoxElasticNet(0.1, 0.0).fit(x, y)


def test_survival_probabilities_fall_with_time_and_risk():
    x, time, event = simulate()
    model = CoxElasticNet(0.02).fit(x, np.column_stack([time, event]))
    curves = model.predict_survival(x, np.linspace(0, time.max(), 20))
    assert (np.diff(curves, axis=0) <= 0).all()
    assert (curves[0] == 1).all()
    assert (np.diff(curves[10][np.argsort(model.predict(x))]) <= 0).all()


def test_without_features_the_curve_is_nelson_aalen():
    model = CoxElasticNet().fit(np.empty((42, 0)), np.column_stack([TIME, EVENT]))
    hazard = sum(EVENT[t == TIME].sum() / (t <= TIME).sum() for t in range(1, 11))
    assert model.predict_survival(np.empty((1, 0)), [10])[0, 0] == pytest.approx(np.exp(-hazard), abs=1e-12)


def test_score_statistic_of_two_groups_is_the_log_rank_statistic():
    x, time, event = simulate(80)
    time = time + np.arange(80) / 1000  # without ties the variances agree, too
    group = (x[:, 0] > 0).astype(float)
    found = score_statistics(np.column_stack([group, x[:, 1]]), time, event == 1)
    assert found[0] == pytest.approx(log_rank(time, event, group).chi2, rel=1e-9)
    kept = CoxScoreFilter(1).fit(x, np.column_stack([time, event])).get_support()
    assert kept.tolist() == [True, False, False, False, False]


# Cross-validation -------------------------------------------------------------------------------------------------


def test_every_case_has_one_risk_per_repeat_and_model(crossed):
    _, cohort, found = crossed
    assert list(found.columns[: len(SURVIVAL_COLUMNS)]) == list(SURVIVAL_COLUMNS)
    assert list(dict.fromkeys(found["feature_set"])) == ["handcrafted", "clinical", "volume", "no_features"]
    counts = found.groupby(["feature_set", "repeat"])["case_id"].agg(["size", "nunique"])
    assert (counts == len(cohort)).all(axis=None)
    assert found.filter(like="survival_at_").stack().between(0, 1).all()


def test_signal_is_found_and_baselines_stand_beside_it(crossed):
    _, _, found = crossed
    c = {
        name: np.mean([concordance_index(r["time"], r["event"], r["risk"]).c for _, r in own.groupby("repeat")])
        for name, own in found.groupby("feature_set")
    }
    assert c["handcrafted"] > 0.7
    assert c["handcrafted"] > c["volume"]
    assert c["no_features"] == 0.5
    assert 0.3 < c["clinical"] < 0.65


def test_groups_are_cut_at_the_median_of_the_training_patients(crossed):
    features, _, found = crossed
    volume = features["rad_original_shape_VoxelVolume"]
    for _, own in found[found["feature_set"] == "volume"].groupby(["repeat", "fold"]):
        training = volume.drop(own["case_id"])
        slope = np.polyfit(volume[own["case_id"]], own["risk"], 1)[0]
        above = (volume[own["case_id"]].to_numpy() - training.median()) * np.sign(slope) > 1e-9
        assert (own["group"].eq("high").to_numpy() == above).all()
    assert set(found.loc[found["feature_set"] == "no_features", "group"]) == {"low"}


def test_same_seed_same_numbers_whatever_the_order_of_rows(crossed):
    features, cohort, found = crossed
    again = cross_validate_survival(
        features.sample(frac=1, random_state=1), Cohort.from_frame(cohort), feature_sets=("handcrafted",),
        covariates=("age", "sex"), **FAST,
    )  # fmt: skip
    pd.testing.assert_frame_equal(again, found)


def test_lesions_of_one_patient_stay_together_and_missing_values_are_imputed(tmp_path):
    features, cohort = tables(40)
    second = features.iloc[:10].set_axis([f"{name}b" for name in features.index[:10]])
    features = pd.concat([features, second]).rename_axis("case_id")
    features.iloc[3, 0] = np.nan
    more = cohort.iloc[:10].assign(case_id=second.index)
    found = cross_validate_survival(
        features, Cohort.from_frame(pd.concat([cohort, more])), feature_sets=("deep",), out=tmp_path, **FAST
    )
    assert (found.groupby(["repeat", "feature_set", "patient_id"])["fold"].nunique() == 1).all()
    assert np.isfinite(found["risk"]).all()
    assert len(list((tmp_path / "cache" / "survival").glob("*.json"))) == 6


def test_noise_selected_inside_the_folds_gives_chance():
    rng = np.random.default_rng(0)
    features, cohort = tables(60, strength=0)
    noise = pd.DataFrame(rng.normal(size=(60, 150)), index=features.index).add_prefix("rad_noise")
    null = survival_null(
        pd.concat([features, noise], axis=1), Cohort.from_frame(cohort), time="days", event="dead",
        feature_sets=("handcrafted",), n_permutations=6, folds=3, inner_folds=2, progress=False,
    )  # fmt: skip
    c = null[null["feature_set"] == "handcrafted"]["c_index"]
    assert len(c) == 6
    assert 0.42 < c.mean() < 0.58


def test_hardly_any_censoring_is_no_obstacle():
    features, cohort = tables(30, dead=1)
    found = cross_validate_survival(features, Cohort.from_frame(cohort), feature_sets=("deep",), **FAST)
    assert (found["event"] == 1).all()


def test_events_per_parameter_counts_what_may_enter_the_model(crossed):
    features, _, found = crossed
    design = events_per_parameter(features, found, feature_sets=("handcrafted",), covariates=("age", "sex"))
    design = design.set_index("feature_set")
    events = found.drop_duplicates("case_id")["event"].sum()
    assert design["n_parameters"].to_dict() == {"handcrafted": 7, "clinical": 2, "volume": 1}
    assert design.loc["volume", "events_per_parameter"] == pytest.approx(events * 2 / 3)


# Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"days": [-1.0] + [5.0] * 29}, r"negative follow-up time: c00"),
        ({"days": [np.nan, np.nan] + [5.0] * 28}, r"2 case\(s\).*missing or not a number: c00, c01"),
        ({"dead": [2] + [1, 0] * 14 + [1]}, r"event other than 0 or 1: c00"),
        ({"dead": 0}, "None of the 30 cases has an event"),
        ({"patient_id": ["same", "same"] + [f"p{i}" for i in range(28)]}, r"different times or events: same"),
        ({"dead": [1] + [0] * 29}, "3 folds need 3 patients with an event; found 1"),
    ],
)
def test_impossible_follow_up_is_refused_by_name(change, message):
    features, cohort = tables(30, **change)
    with pytest.raises(InputError, match=message):
        cross_validate_survival(features, Cohort.from_frame(cohort), feature_sets=("deep",), **FAST)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time": "day"}, "Did you mean 'days'"),
        ({"event_value": "yes"}, "'yes'.*Valid: 0, 1"),
        ({"covariates": ("days",)}, "is the outcome and cannot be a covariate"),
        ({"feature_sets": ("late",)}, "fuses probabilities"),
        ({"volume": "rad_f9"}, "Unknown feature 'rad_f9'"),
        ({"horizons": (1e6,)}, "longest follow-up"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    features, cohort = tables(30)
    with pytest.raises(InputError, match=message):
        cross_validate_survival(features, Cohort.from_frame(cohort), **{**FAST, "feature_sets": ("deep",), **settings})


def test_few_events_are_said_aloud(caplog):
    features, cohort = tables(30, dead=[1, 0, 0, 0, 0] * 6)
    cross_validate_survival(features, Cohort.from_frame(cohort), feature_sets=("deep",), **FAST)
    assert "Only 6 patients have an event" in caplog.text


# Command and report -----------------------------------------------------------------------------------------------


def test_the_command_writes_tables_figures_and_report(tmp_path, capsys):
    features, cohort = tables(50)
    features.iloc[:-1].to_csv(tmp_path / "features.csv")
    cohort.assign(dead=cohort["dead"].map({1: "yes", 0: "no"})).to_csv(tmp_path / "cohort.csv", index=False)
    parser, work = argparse.ArgumentParser(), argparse.ArgumentParser(add_help=False)
    for name, default in (("--jobs", 1), ("--backend", "loky")):
        work.add_argument(name, type=type(default), default=default)
    work.add_argument("--quiet", action="store_true")
    cli_survival.add_verbs(parser.add_subparsers(), work, print)
    options = parser.parse_args([
        "survival", str(tmp_path / "cohort.csv"), "--features", str(tmp_path / "features.csv"), "--time", "days",
        "--event", "dead", "--event-value", "yes", "--time-unit", "days", "--feature-sets", "handcrafted", "deep",
        "--covariates", "age", "--horizons", "100", "200", "300", "--repeats", "1", "--folds", "3", "--inner-folds",
        "2", "--permutations", "2", "--quiet", "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    assert options.verb(options) == 0
    assert "report.html" in capsys.readouterr().out
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for text in ("C-index (Harrell)", "clinical only", "volume only", "Events per parameter", "c49", "log-rank",
                 "10.1002/sim.4154", "shuffled follow-up", str(tmp_path)):  # fmt: skip
        assert (text in page) == (text != str(tmp_path)), text
    files = {path.stem for path in (tmp_path / "out" / "tables").glob("*.csv")}
    assert files == {"metrics", "calibration", "calibration_groups", "differences", "risk_groups", "risk_group_tests",
                     "kaplan_meier", "events_per_parameter", "shuffled", "left_out"}  # fmt: skip
    for name in ("auc", "brier", "survival_handcrafted", "survival_volume"):
        assert (tmp_path / "out" / "figures" / f"{name}.svg").stat().st_size > 1000
    metrics = pd.read_csv(tmp_path / "out" / "tables" / "metrics.csv")
    assert sorted(metrics["horizon"].dropna().unique()) == [100, 200, 300]
