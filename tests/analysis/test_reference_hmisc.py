"""Intervals of a proportion against R's Hmisc 4.8-0, binconf, on the examples of Newcombe 1998.

Newcombe, Statistics in Medicine 17:857-872, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E.
"""

from __future__ import annotations

import math

import pytest

from hybrid.analysis.proportions import wilson_interval
from hybrid.analysis.roc import perfect_interval

WILSON = {
    (81, 263): (0.255288519878274, 0.3662095769828),
    (15, 148): (0.0623863995307363, 0.160487241723308),
    (0, 20): (0.0, 0.161125158052819),
    (29, 29): (0.883030201500259, 1.0),
}


@pytest.mark.parametrize(("counts", "expected"), WILSON.items(), ids=[f"{x}of{n}" for x, n in WILSON])
def test_wilson_interval_equals_hmisc(counts, expected):
    found = wilson_interval([counts[0]], [counts[1]])[0]
    assert found.tolist() == pytest.approx(expected, abs=2e-15)


def test_wilson_interval_of_1_of_29_equals_newcombe_and_in_its_upper_bound_hmisc():
    # For one success binconf replaces the lower bound by -log(0.95) / n, a change proposed by Brown, Cai and DasGupta
    # (2001, doi:10.1214/ss/1009213286). Newcombe's table has the score interval itself, as we do.
    lower, upper = wilson_interval([1], [29])[0]
    assert (round(lower, 4), round(upper, 4)) == (0.0061, 0.1718)
    assert upper == pytest.approx(0.171755218793203, abs=2e-15)
    assert -math.log(0.95) / 29 == pytest.approx(0.00176873428922588, abs=1e-16)


def test_exact_interval_of_none_of_20_equals_hmisc():
    assert perfect_interval(0.0, 20) == pytest.approx((0.0, 0.168433470983085), abs=1e-14)


def test_exact_interval_of_29_of_29_equals_hmisc():
    assert perfect_interval(1.0, 29) == pytest.approx((0.880555130930497, 1.0), abs=1e-14)
