"""Numbers of rms 6.5-0 (val.prob) and of the vignette of CalibrationCurves 2.0.7 on its 500 test patients.

What ``test_calibration.py`` checks on the same data is not repeated here.
"""

from __future__ import annotations

import pandas as pd
import pytest

from hybrid.analysis import auc, hosmer_lemeshow, logistic_recalibration
from hybrid.analysis.calibration import calibration_metrics

EXPECTED_EVENTS = (
    2.25132371386574, 6.11799632221979, 11.6865667856886, 17.3543221432652, 22.855271016737, 27.803384208586,
    34.1134555302468, 38.9461799706188, 43.5315403868503, 47.5844231763115,
)  # fmt: skip


@pytest.fixture
def calcurves(benchmarks):
    table = pd.read_csv(benchmarks / "statistics" / "calcurves_test_pred.csv")
    return table["y"].to_numpy(), table["pHat"].to_numpy()


def test_expected_events_of_hosmer_lemeshow_groups_equal_r(calcurves):
    found = hosmer_lemeshow(*calcurves).groups["expected"]
    assert found.tolist() == pytest.approx(EXPECTED_EVENTS, abs=1e-11)


def test_ratio_of_observed_to_expected_events_equals_r(calcurves):
    y, p = calcurves
    table = pd.DataFrame({"case_id": [f"c{i:03d}" for i in range(y.size)], "y_true": y, "y_prob": p})
    found = calibration_metrics(table, n_bootstrap=20).set_index("metric")["estimate"]
    assert found["observed_expected_ratio"] == pytest.approx(1.07039019416535, abs=1e-13)
    assert (y.mean(), p.mean()) == pytest.approx((0.54, 0.504488926508779), abs=1e-14)


def test_slope_equals_rms_val_prob(calcurves):
    # rms and glm stop their iterations at 1e-8 and 1e-9 of each other.
    slope = logistic_recalibration(*calcurves).query("measure == 'slope'")["estimate"].iloc[0]
    assert slope == pytest.approx(0.822782970452246, abs=2e-8)


def test_c_statistic_equals_the_vignette_and_not_the_binned_one_of_rms(calcurves):
    area = auc(*calcurves)
    assert area == pytest.approx(0.81426731, abs=5e-9)
    # val.prob ranks probabilities in bins of 0.002: its C is 0.814235, and its Dxy is 2 (C - 1/2).
    assert area == pytest.approx(0.814235104669887, abs=1e-4)
    assert 2 * (area - 0.5) == pytest.approx(0.628470209339775, abs=2e-4)
