"""Every printed number of R's pmsampsize 1.1.3 for binary, survival and continuous outcomes.

Rows are criteria 1 to 3; events per parameter (EPP) and Nagelkerke's R2 are printed with two and three decimals.
"""

from __future__ import annotations

import pytest

from hybrid.analysis.sample_size import sample_size_binary, sample_size_survival

# pmsampsize(type = "b", csrsquared = .288, parameters = 24, prevalence = .174)
GIVEN_R2 = sample_size_binary(24, 0.174, r2_cs=0.288)
# pmsampsize(type = "b", csrsquared = .1, parameters = 10, prevalence = .3)
OTHER_R2 = sample_size_binary(10, 0.3, r2_cs=0.1)
# pmsampsize(type = "b", cstatistic = .89, parameters = 24, prevalence = .174, seed = 1234); it simulates R2 = .2902
GIVEN_C = sample_size_binary(24, 0.174, r2_cs=0.2902)
# pmsampsize(type = "s", csrsquared = .051, parameters = 30, rate = .065, timepoint = 2, meanfup = 2.07)
SURVIVAL = sample_size_survival(30, 0.065, horizon=2, mean_follow_up=2.07, r2_cs=0.051)


@pytest.mark.parametrize(
    ("size", "expected"), [(GIVEN_R2, 0.477), (OTHER_R2, 0.142), (GIVEN_C, 0.481), (SURVIVAL, 0.092)]
)
def test_nagelkerke_r2_equals_pmsampsize(size, expected):
    assert round(size.r2 / size.max_r2, 3) == expected


@pytest.mark.parametrize(
    ("size", "expected"), [(GIVEN_R2, [4.52, 4.8, 1.6]), (OTHER_R2, [25.5, 7.92, 9.69]), (GIVEN_C, [4.47, 4.79, 1.6])]
)
def test_events_per_parameter_equal_pmsampsize(size, expected):
    assert size.table["events_per_parameter"].round(2).tolist() == expected


def test_sizes_and_shrinkage_from_the_simulated_r2_equal_pmsampsize():
    assert GIVEN_C.table["n"].tolist() == [617, 661, 221]
    assert GIVEN_C.table["shrinkage"].iloc[:2].round(3).tolist() == [0.9, 0.906]
