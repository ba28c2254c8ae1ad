"""The bootstrap engine on the city data: bias and standard error, besides the intervals tested elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.analysis.resampling import bootstrap

# Davison and Hinkley 1997, table 1.3 (R's boot::city): inhabitants of ten cities in 1920 and 1930, thousands.
U = np.array([138, 93, 61, 179, 48, 37, 29, 23, 30, 2], float)
X = np.array([143, 104, 69, 260, 75, 63, 50, 48, 111, 50], float)


def ratio(weights):
    return ((X @ weights) / (U @ weights))[None]


def test_bias_and_standard_error_equal_r_boot():
    result = bootstrap(ratio, np.zeros(10), n_bootstrap=99_999, seed=7)
    assert result.estimate[0] == pytest.approx(1.5203125)
    # boot 1.3-28.1 with 99999 replicates; three Monte-Carlo standard errors of either run, roughly.
    assert result.draws.mean() - result.estimate[0] == pytest.approx(0.0405575835572489, abs=0.003)
    assert result.draws.std(ddof=1) == pytest.approx(0.221836629719682, abs=0.004)


def test_influence_values_are_those_of_a_ratio():
    # Davison and Hinkley 1997, example 2.18: l = (x - t u) / mean(u).
    result = bootstrap(ratio, np.zeros(10), n_bootstrap=1)
    expected = (X - 1.5203125 * U) / U.mean()
    assert result.influence[0] == pytest.approx(expected, abs=1e-4)
