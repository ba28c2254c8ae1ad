"""Smoothers of calibration curves: equal to R's and to statsmodels', under weights as for repeated rows."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.nonparametric.smoothers_lowess import lowess

from hybrid.analysis.smoothing import LOWESS_SPAN, SMOOTHERS, loess_vertices, smooth, smooth_draws
from hybrid.errors import InputError

P = (np.arange(1, 41) - 0.5) / 40
Y = np.array([int(c) for c in "0010000010100010100110011010111011011101"], float)
AT = np.array([0.05, 0.3, 0.52, 0.9])


def test_loess_equals_r_with_its_default_interpolated_surface():
    # R 4.2.2: predict(loess(y ~ p), c(.05, .3, .52, .9))
    expected = [0.167584319807457, 0.330699987086434, 0.485433956351567, 0.722043324401449]
    assert smooth(P, Y, AT) == pytest.approx(expected, abs=1e-12)


def test_direct_loess_equals_r_with_surface_direct():
    # R 4.2.2: predict(loess(y ~ p, control = loess.control(surface = "direct")), c(.05, .3, .52, .9))
    expected = [0.167314653102937, 0.327119478328334, 0.487978119503512, 0.722331107629180]
    assert smooth(P, Y, AT, smoother="loess_direct") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_lowess_equals_statsmodels(power):
    x = P**power
    expected = lowess(Y, x, frac=LOWESS_SPAN, it=0, delta=0, return_sorted=False)
    assert smooth(x, Y, x, smoother="lowess") == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_a_straight_line_is_kept(smoother):
    x = np.random.default_rng(0).uniform(0.1, 0.9, 60)
    assert smooth(x, 0.2 + 0.5 * x, x, smoother=smoother) == pytest.approx(0.2 + 0.5 * x, abs=1e-10)


@pytest.mark.parametrize("smoother", ["loess_direct", "lowess"])
def test_a_row_of_weight_two_counts_as_two_rows(smoother):
    weights = np.random.default_rng(1).multinomial(40, np.full(40, 1 / 40), size=6).T
    together = smooth_draws(P, Y, AT, weights.astype(float), smoother=smoother)
    for i, counts in enumerate(weights.T):
        alone = smooth(np.repeat(P, counts), np.repeat(Y, counts), AT, smoother=smoother)
        assert together[:, i] == pytest.approx(alone, abs=1e-10)


def test_a_small_change_of_the_weights_changes_the_curve_a_little():
    # The influence values of the bootstrap divide such a change by 1e-6.
    nudged = np.ones((40, 1))
    nudged[7] += 1e-6
    change = smooth_draws(P, Y, P, nudged) - smooth_draws(P, Y, P, np.ones((40, 1)))
    assert 0 < np.abs(change).max() < 1e-5


def test_vertices_enclose_the_data_and_follow_its_density():
    vertices = loess_vertices(P**3)
    assert vertices[0] < (P**3).min()
    assert vertices[-1] > (P**3).max()
    assert np.isin(vertices[1:-1], P**3).all()
    assert np.diff(vertices)[1] < np.diff(vertices)[-1]


@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_few_distinct_values_give_their_own_rates(smoother):
    x = np.repeat([0.2, 0.8], 30)
    y = np.r_[np.ones(6), np.zeros(24), np.ones(24), np.zeros(6)]
    assert smooth(x, y, np.array([0.2, 0.8]), smoother=smoother) == pytest.approx([0.2, 0.8], abs=1e-9)


@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_one_value_for_everybody_gives_the_event_rate(smoother):
    assert smooth(np.full(20, 0.3), np.r_[np.ones(8), np.zeros(12)], np.array([0.3]), smoother=smoother) == 0.4


@pytest.mark.parametrize("smoother", SMOOTHERS)
def test_draws_of_few_rows_stay_finite(smoother):
    x, y = np.array([0.0, 1.0, 0.0, 0.4, 0.7, 0.6]), np.array([0.0, 1, 1, 0, 1, 0])
    weights = np.random.default_rng(0).multinomial(6, np.full(6, 1 / 6), size=500).T.astype(float)
    found = smooth_draws(x, y, x, weights, smoother=smoother)
    assert np.isfinite(found).all()


def test_unknown_smoother_names_the_nearest():
    with pytest.raises(InputError, match="Did you mean 'lowess'"):
        smooth(P, Y, P, smoother="lowes")
