"""Calibration: against R's numbers, and what must hold for any predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import special
from sklearn import metrics

from hybrid.analysis.calibration import (
    CALIBRATION_METRIC_COLUMNS,
    CALIBRATION_METRICS,
    CALIBRATION_SMOOTH_COLUMNS,
    CLIP,
    CURVE_NOTE,
    SMOOTH_METRICS,
    brier_score,
    calibration_errors,
    calibration_metrics,
    calibration_smooth,
    hosmer_lemeshow,
    log_loss,
    logistic_recalibration,
    plot_calibration_smooth,
    spiegelhalter_test,
)
from hybrid.analysis.smoothing import SMOOTHER_NAMES
from hybrid.errors import InputError

P = (np.arange(1, 41) - 0.5) / 40
Y = np.array([int(c) for c in "0010000010100010100110011010111011011101"])


@pytest.fixture
def calcurves(benchmarks):
    """500 test patients of CalibrationCurves' example (GPL, hence not typed)."""
    table = pd.read_csv(benchmarks / "statistics/calcurves_test_pred.csv")
    return table["y"].to_numpy(), table["pHat"].to_numpy()


def recalibration(y, p):
    return logistic_recalibration(y, p).set_index(["measure", "interval"])


def predictions(y, p, **columns):
    return pd.DataFrame({"case_id": [f"c{i:03d}" for i in range(len(y))], "y_true": y, "y_prob": p} | columns)


def calibrated(n, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.95, n)
    return (rng.random(n) < p).astype(int), p


# --- reference numbers ------------------------------------------------------------------------------------------------


def test_slope_and_intercepts_equal_r_glm():
    # R 4.2.2: glm(y ~ qlogis(p)), confint.default; profile bounds of the slope by uniroot on its deviance.
    table = recalibration(Y, P)
    wald, profile = table.loc[("slope", "Wald")], table.loc[("slope", "profile likelihood")]
    assert wald["estimate"] == pytest.approx(0.509129336852658, abs=1e-9)
    assert wald[["lower", "upper"]].tolist() == pytest.approx([0.0563266428948581, 0.961932030810458], abs=1e-8)
    assert profile[["lower", "upper"]].tolist() == pytest.approx([0.0993975500134615, 1.02334593115686], abs=1e-7)
    intercept = table.loc[("intercept", "Wald")]
    assert intercept["estimate"] == pytest.approx(-0.116891379237755, abs=1e-9)
    assert intercept[["lower", "upper"]].tolist() == pytest.approx([-0.787999909843928, 0.554217151368419], abs=1e-8)


def test_calibration_in_the_large_equals_r_glm_with_offset():
    # R 4.2.2: glm(y ~ 1 + offset(qlogis(p))), confint.default
    row = recalibration(Y, P).loc[("calibration_in_the_large", "Wald")]
    found = row[["estimate", "lower", "upper"]].tolist()
    assert found == pytest.approx([-0.150065485436108, -0.909890972106825, 0.609760001234609], abs=1e-8)


@pytest.mark.parametrize(
    ("smoother", "expected"),
    [
        # R 4.2.2: abs(fitted(loess(y ~ p)) - p), its mean, median, 90 % quantile and maximum
        ("loess", [0.0782176594613686, 0.0541038074642996, 0.1687767620892897, 0.2714700787570573]),
        # the same with loess.control(surface = "direct")
        ("loess_direct", [0.0776050087500272, 0.0542163409698768, 0.1685699146492349, 0.2713497972346287]),
        # lowess(p, y, iter = 0, delta = 0)
        ("lowess", [0.0787480394034049, 0.0641144199119466, 0.1689545068400411, 0.2268281006962738]),
    ],
)
def test_ici_e50_e90_emax_equal_r(smoother, expected):
    assert list(calibration_errors(Y, P, smoother=smoother).values()) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # R 4.2.2: loess(y ~ q) with q <- round(p * 12) / 12 and round(p * 8) / 8
        (12, [0.0868172711290700, 0.0790344112856637, 0.1806981691443806, 0.2705930930690112]),
        (8, [0.0879708809413462, 0.0442772284025731, 0.2133263734070447, 0.3263558749332680]),
    ],
)
def test_ici_with_ties_equals_r(steps, expected):
    tied = np.round(P * steps) / steps
    assert list(calibration_errors(Y, tied).values()) == pytest.approx(expected, abs=1e-12)


def test_logistic_recalibration_equals_r_on_calcurves(calcurves):
    table = recalibration(*calcurves)
    # glm of R 4.2.2; its Wald bounds use the weights of the last but one iteration.
    for name, estimate, wald, profile in (
        ("slope", 0.822782963356577, (0.665835961396393, 0.97972996531676), (0.672243692211088, 0.986714274516159)),
        (
            "calibration_in_the_large", 0.22404680485767, (0.00339230322420117, 0.444701306491138),
            (0.00373971743122551, 0.445202590690104),
        ),
    ):  # fmt: skip
        for kind, bounds in (("Wald", wald), ("profile likelihood", profile)):
            row = table.loc[(name, kind)]
            assert row["estimate"] == pytest.approx(estimate, abs=1e-7)
            assert row[["lower", "upper"]].tolist() == pytest.approx(bounds, abs=2e-5)
    assert table.loc[("intercept", "Wald"), "estimate"] == pytest.approx(0.207518231389685, abs=1e-7)


def test_the_two_intercepts_differ_as_in_rms_val_prob(calcurves):
    # rms 6.5-0 calls 0.2075 "Intercept": the one estimated with the slope, not calibration-in-the-large (0.2240).
    table = recalibration(*calcurves)
    assert table.loc[("intercept", "Wald"), "estimate"] == pytest.approx(0.207518232568747, abs=1e-8)
    assert table.loc[("calibration_in_the_large", "Wald"), "estimate"] == pytest.approx(0.2240, abs=5e-5)


def test_ici_equals_calibration_curves_on_calcurves(calcurves):
    # CalibrationCurves 2.0.7 prints Eavg 0.04747448; R's loess with its defaults.
    found = calibration_errors(*calcurves)
    expected = [0.0474744781725111, 0.0502051670289948, 0.0904702443122277, 0.09659830390513]
    assert list(found.values()) == pytest.approx(expected, abs=1e-12)


def test_lowess_errors_equal_rms_val_prob_on_calcurves(calcurves):
    # rms 6.5-0 skips points nearer than 1 % of the range (lowess' delta), hence the tolerance.
    found = calibration_errors(*calcurves, smoother="lowess")
    assert found["ici"] == pytest.approx(0.0429742175864535, abs=1e-6)
    assert found["e90"] == pytest.approx(0.0733502824853334, abs=1e-8)
    assert found["emax"] == pytest.approx(0.0771431710575431, abs=2e-4)


def test_brier_and_spiegelhalter_equal_rms_val_prob_on_calcurves(calcurves):
    assert brier_score(*calcurves)[0] == pytest.approx(0.177033394725558, abs=1e-14)
    assert spiegelhalter_test(*calcurves) == pytest.approx((2.16101448682232, 0.0306942203742432), abs=1e-12)


def test_hosmer_lemeshow_equals_r_on_calcurves(calcurves):
    result = hosmer_lemeshow(*calcurves)
    assert result.groups["n"].tolist() == [50] * 10
    assert result.groups["observed"].tolist() == [6, 8, 13, 24, 27, 32, 33, 37, 43, 47]
    assert result.groups["expected"].iloc[0] == pytest.approx(2.25132371386574, abs=1e-12)
    assert result.statistic == pytest.approx(14.8506636677367, abs=1e-10)
    assert (result.degrees_of_freedom, result.p) == (10, pytest.approx(0.137601987985229, abs=1e-12))
    fitted = hosmer_lemeshow(*calcurves, fitted_on_these=True)
    assert (fitted.degrees_of_freedom, fitted.p) == (8, pytest.approx(0.0621150891945243, abs=1e-12))


def test_recalibration_and_ici_equal_r_on_pima(benchmarks):
    # R 4.2.2 on MASS::Pima.tr with glu / 200 as the prediction: glm, confint.default, loess with its defaults.
    pima = pd.read_csv(benchmarks / "statistics/pima_tr.csv")
    y, p = (pima["type"] == "Yes").to_numpy(dtype=int), pima["glu"].to_numpy() / 200
    table = recalibration(y, p)
    assert table.loc[("slope", "Wald"), "estimate"] == pytest.approx(1.28096042365647, abs=1e-7)
    # R's standard errors use the weights of the last but one iteration.
    assert table.loc[("slope", "Wald"), "lower"] == pytest.approx(0.807308308961818, abs=1e-4)
    row = table.loc[("calibration_in_the_large", "Wald")]
    found = row[["estimate", "lower", "upper"]].tolist()
    assert found == pytest.approx([-1.32840099694281, -1.6469977486654, -1.00980424522022], abs=2e-5)
    loess = [0.283665308139608, 0.313395569406546, 0.366331412201855, 0.366888513529263]
    assert list(calibration_errors(y, p).values()) == pytest.approx(loess, abs=1e-12)
    direct = [0.283048653180492, 0.314177077008943, 0.367167248719609, 0.368335153563216]
    assert list(calibration_errors(y, p, smoother="loess_direct").values()) == pytest.approx(direct, abs=1e-12)


def test_brier_and_log_loss_equal_scikit_learn():
    assert brier_score(Y, P)[0] == pytest.approx(metrics.brier_score_loss(Y, P), abs=1e-15)
    assert brier_score(Y, P)[1] == pytest.approx(1 - metrics.brier_score_loss(Y, P) / (Y.mean() * (1 - Y.mean())))
    assert log_loss(Y, P) == pytest.approx(metrics.log_loss(Y, P), abs=1e-14)


# --- properties -------------------------------------------------------------------------------------------------------


def test_a_recalibrated_model_has_slope_one_and_intercept_zero():
    table = recalibration(Y, P)
    a, b = table.loc[("intercept", "Wald"), "estimate"], table.loc[("slope", "Wald"), "estimate"]
    again = recalibration(Y, special.expit(a + b * special.logit(P)))["estimate"]
    assert again.loc["slope"].to_numpy() == pytest.approx([1, 1], abs=1e-7)
    assert again.loc["intercept"].to_numpy() == pytest.approx([0, 0], abs=1e-7)
    assert again.loc["calibration_in_the_large"].to_numpy() == pytest.approx([0, 0], abs=1e-7)


def test_a_perfectly_calibrated_model_has_slope_near_one_and_small_errors():
    y, p = calibrated(20_000)
    table = recalibration(y, p)
    assert table.loc[("slope", "Wald"), "estimate"] == pytest.approx(1.0, abs=0.05)
    assert table.loc[("calibration_in_the_large", "Wald"), "estimate"] == pytest.approx(0.0, abs=0.05)
    assert calibration_errors(y, p)["ici"] < 0.01
    assert abs(spiegelhalter_test(y, p)[0]) < 3


def test_too_extreme_predictions_have_a_slope_below_one():
    y, p = calibrated(4000)
    extreme = special.expit(2 * special.logit(p))
    slope = recalibration(y, extreme).loc["slope"]
    assert slope["estimate"].to_numpy() == pytest.approx([0.5, 0.5], abs=0.05)
    assert (slope["upper"] < 1).all()
    assert spiegelhalter_test(y, extreme)[1] < 0.001


def test_the_profile_interval_drops_the_likelihood_by_the_same_amount_on_both_sides():
    table = recalibration(Y, P)
    lower, upper = table.loc[("calibration_in_the_large", "profile likelihood"), ["lower", "upper"]]
    x = special.logit(P)
    lower, best, upper = (
        np.sum(Y * (a + x) - np.logaddexp(0, a + x))
        for a in (lower, table.loc[("calibration_in_the_large", "Wald"), "estimate"], upper)
    )
    assert 2 * (best - lower) == pytest.approx(3.841458820694124, abs=1e-6)
    assert 2 * (best - upper) == pytest.approx(3.841458820694124, abs=1e-6)


def test_separated_classes_have_no_slope_but_calibration_in_the_large():
    table = recalibration([0, 0, 0, 1, 1], [0.1, 0.2, 0.3, 0.6, 0.7])
    assert table.loc[["slope", "intercept"], "estimate"].isna().all()
    assert table.loc["calibration_in_the_large", ["estimate", "lower", "upper"]].notna().all(axis=None)


def test_a_constant_prediction_has_no_slope():
    assert recalibration([0, 1, 0, 1], [0.3] * 4).loc["slope", "estimate"].isna().all()


def test_predictions_of_zero_and_one_stay_finite():
    y, p = np.array([0, 1, 1, 0, 1, 0]), np.array([0.0, 1.0, 0.0, 0.4, 0.7, 0.6])
    assert np.isfinite(logistic_recalibration(y, p).drop(columns=["measure", "interval"])).all(axis=None)
    assert log_loss(y, p) == pytest.approx(metrics.log_loss(y, np.clip(p, CLIP, 1 - CLIP)))
    table = calibration_metrics(predictions(y, p), n_bootstrap=20)
    assert (table["n_clipped"] == 3).all()


def test_hosmer_lemeshow_names_its_groups_and_merges_tied_ones():
    p = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], 20)
    y = np.tile([0, 1], 50)
    tied = hosmer_lemeshow(y, p)
    assert len(tied.groups) == tied.degrees_of_freedom == 5
    assert (tied.groups["lower"] == tied.groups["upper"]).all()
    assert tied.groups["observed"].sum() == y.sum()


def test_hosmer_lemeshow_refuses_fewer_than_three_groups():
    with pytest.raises(InputError, match="at least three groups; found 2"):
        hosmer_lemeshow([0, 1, 0, 1], [0.2, 0.2, 0.8, 0.8])


def test_certain_and_wrong_predictions_are_refused_by_hosmer_lemeshow():
    with pytest.raises(InputError, match="exactly 0 or 1"):
        hosmer_lemeshow([1, 0, 0, 1, 0, 1], [0.0, 0.0, 0.5, 0.5, 0.9, 0.9], n_groups=3)


def test_spiegelhalter_is_undefined_without_variance():
    assert np.isnan(spiegelhalter_test([0, 1], [0.0, 1.0])).all()


@pytest.mark.parametrize("probability", [[0.2, 1.2], [-0.1, 0.4]])
def test_probabilities_outside_the_unit_interval_are_refused(probability):
    with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
        brier_score([0, 1], probability)


# --- tables -----------------------------------------------------------------------------------------------------------


def test_table_holds_the_numbers_of_the_plain_functions():
    table = calibration_metrics(predictions(Y, P), n_bootstrap=50)
    assert tuple(table.columns) == CALIBRATION_METRIC_COLUMNS
    assert tuple(table["metric"]) == CALIBRATION_METRICS
    values = table.set_index("metric")["estimate"]
    plain = recalibration(Y, P)["estimate"]
    for name in ("slope", "intercept", "calibration_in_the_large"):
        assert values[name] == pytest.approx(plain[(name, "Wald")], abs=1e-8)
    assert values["observed_expected_ratio"] == pytest.approx(Y.sum() / P.sum())
    assert values[["brier", "scaled_brier"]].tolist() == pytest.approx(brier_score(Y, P))
    assert values["log_loss"] == pytest.approx(log_loss(Y, P))
    assert values[["ici", "e50", "e90", "emax"]].tolist() == pytest.approx(list(calibration_errors(Y, P).values()))


def test_bootstrap_and_wald_intervals_agree_in_a_large_sample():
    y, p = calibrated(1500, seed=3)
    boot = calibration_metrics(predictions(y, p), n_bootstrap=1000, interval="percentile").set_index("metric")
    plain = recalibration(y, p)
    for name in ("slope", "calibration_in_the_large"):
        wald = plain.loc[(name, "Wald"), ["lower", "upper"]].to_numpy(dtype=float)
        width = wald[1] - wald[0]
        assert boot.loc[name, ["lower", "upper"]].to_numpy(dtype=float) == pytest.approx(wald, abs=0.12 * width)


def test_weighted_metrics_equal_those_of_the_repeated_rows():
    from hybrid.analysis.calibration import _all_metrics

    rng = np.random.default_rng(4)
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=5).T
    together = _all_metrics(Y == 1, P, counts.astype(float), "lowess")
    for i, count in enumerate(counts.T):
        y, p = np.repeat(Y, count), np.repeat(P, count)
        alone = _all_metrics(y == 1, p, np.ones((y.size, 1)), "lowess")[:, 0]
        assert together[:, i] == pytest.approx(alone, abs=1e-8)
        slope = recalibration(y, p).loc[("slope", "Wald"), "estimate"]
        assert together[0, i] == pytest.approx(slope, abs=1e-7)


def test_repeats_are_averaged_and_patients_resampled(small_predictions):
    table = calibration_metrics(small_predictions, models=["fused"], n_bootstrap=50).set_index("metric")
    rows = small_predictions.query("feature_set == 'fused' and classifier == 'selected'")
    repeats = [brier_score(part["y_true"], part["y_prob"])[0] for _, part in rows.groupby("repeat")]
    assert table.loc["brier", "estimate"] == pytest.approx(np.mean(repeats))
    assert (table.loc["brier", ["n_patients", "n_cases", "n_repeats"]] == [26, 26, 3]).all()
    assert "not stratified" in table.loc["brier", "method"]


def test_smoother_is_named_where_the_number_depends_on_it():
    table = calibration_metrics(predictions(Y, P), smoother="lowess", n_bootstrap=5).set_index("metric")
    assert (table.loc[["ici", "e50", "e90", "emax"], "smoother"] == SMOOTHER_NAMES["lowess"]).all()
    assert table.loc["brier", "smoother"] == ""
    assert table.loc["ici", "method"].endswith(CURVE_NOTE)


def test_intervals_of_distances_hold_their_estimate():
    for seed in range(5):
        rng = np.random.default_rng(seed)
        p = rng.uniform(0.05, 0.95, 60)
        y = (rng.random(60) < p).astype(int)
        table = calibration_metrics(predictions(y, p), n_bootstrap=100).set_index("metric")
        for name in SMOOTH_METRICS:
            assert table.loc[name, "lower"] <= table.loc[name, "estimate"] <= table.loc[name, "upper"], name


def test_a_slope_that_many_draws_leave_undefined_has_no_interval():
    # One overlapping pair: about a third of the draws separate the classes.
    y, p = np.repeat([0, 1], 10), np.r_[np.linspace(0.1, 0.4, 9), 0.62, 0.6, np.linspace(0.7, 0.9, 9)]
    table = calibration_metrics(predictions(y, p), n_bootstrap=200).set_index("metric")
    assert np.isfinite(table.loc["slope", "estimate"])
    assert np.isnan(table.loc["slope", ["lower", "upper"]].to_numpy(dtype=float)).all()
    assert "separated" in table.loc["slope", "method"]
    assert np.isfinite(table.loc["brier", ["lower", "upper"]].to_numpy(dtype=float)).all()


def test_input_is_left_alone_and_the_order_of_rows_does_not_matter():
    table = predictions(Y, P)
    before = table.copy(deep=True)
    first = calibration_metrics(table, n_bootstrap=20)
    pd.testing.assert_frame_equal(table, before)
    pd.testing.assert_frame_equal(first, calibration_metrics(table.sample(frac=1, random_state=0), n_bootstrap=20))


def test_smooth_curve_stays_within_its_band_and_the_range_of_the_predictions(small_predictions):
    curve = calibration_smooth(small_predictions, models=["deep"], n_bootstrap=100)
    assert tuple(curve.columns) == CALIBRATION_SMOOTH_COLUMNS
    assert ((curve["lower"] <= curve["observed"] + 0.05) & (curve["observed"] - 0.05 <= curve["upper"])).all()
    rows = small_predictions.query("feature_set == 'deep' and classifier == 'selected'")
    assert curve["predicted"].min() == pytest.approx(rows.groupby("repeat")["y_prob"].min().max())
    assert curve["predicted"].max() == pytest.approx(rows.groupby("repeat")["y_prob"].max().min())


def test_a_constant_model_has_no_curve():
    with pytest.raises(InputError, match="no range of probabilities"):
        calibration_smooth(predictions([0, 1, 0, 1], [0.4] * 4), n_bootstrap=5)


def test_plot_draws_the_table_and_names_the_smoother(small_predictions):
    curve = calibration_smooth(small_predictions, n_bootstrap=20)
    ax = Figure().add_subplot()
    assert plot_calibration_smooth(curve, ax) is ax
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["Ideal", "handcrafted", "deep", "fused"]
    assert ax.get_legend().get_title().get_text() == "loess"
    drawn = ax.lines[1].get_ydata()
    assert drawn == pytest.approx(curve.query("feature_set == 'handcrafted'")["observed"].to_numpy())
    assert len(ax.collections) == 3


def test_plot_refuses_another_table():
    with pytest.raises(InputError, match="smooth calibration table has no column"):
        plot_calibration_smooth(pd.DataFrame({"feature_set": []}))


@pytest.mark.slow
def test_intervals_of_the_table_cover_at_their_level():
    hits, n = np.zeros(3), 250
    for seed in range(n):
        y, p = calibrated(200, seed=seed)
        table = calibration_metrics(predictions(y, p), n_bootstrap=300, seed=seed).set_index("metric")
        # For p uniform on (.05, .95) the Brier score has expectation E[p (1 - p)].
        truth = {"slope": 1.0, "calibration_in_the_large": 0.0, "brier": 0.25 - 0.9**2 / 12}
        for i, (name, value) in enumerate(truth.items()):
            hits[i] += table.loc[name, "lower"] <= value <= table.loc[name, "upper"]
    # Three Monte-Carlo standard errors of 250 studies around 0.94.
    assert ((hits / n > 0.895) & (hits / n < 0.985)).all()
