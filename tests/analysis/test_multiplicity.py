"""Adjusted p-values against R's p.adjust, and families with undefined tests."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.analysis.multiplicity import METHODS, adjust
from hybrid.errors import InputError

# The 15 p-values of Benjamini and Hochberg 1995 (doi:10.1111/j.2517-6161.1995.tb02031.x), section 4.
TABLE_1995 = [
    0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.324, 0.4262, 0.5719, 0.6528, 0.759, 1,
]  # fmt: skip
# R 4.2.2, p.adjust.
R_ADJUSTED = {
    "holm": [0.0015, 0.0056, 0.0247, 0.114, 0.2211, 0.278, 0.278, 0.278, 0.3213, 1, 1, 1, 1, 1, 1],
    "hochberg": [0.0015, 0.0056, 0.0247, 0.114, 0.2211, 0.2682, 0.2682, 0.2752, 0.3213, 1, 1, 1, 1, 1, 1],
    "hommel": [0.0015, 0.0056, 0.0247, 0.095, 0.1608, 0.1946, 0.2086, 0.2408, 0.3213, 1, 1, 1, 1, 1, 1],
    "bonferroni": [0.0015, 0.006, 0.0285, 0.1425, 0.3015, 0.417, 0.447, 0.516, 0.6885, 1, 1, 1, 1, 1, 1],
    "benjamini_hochberg": [
        0.0015, 0.003, 0.0095, 0.035625, 0.0603, 0.0638571428571429, 0.0638571428571429, 0.0645, 0.0765, 0.486,
        0.581181818181818, 0.714875, 0.753230769230769, 0.813214285714286, 1,
    ],
    "benjamini_yekutieli": [
        0.00497734348984349, 0.00995468697968698, 0.0315231754356754, 0.118211907883783, 0.200089208291708,
        0.211892622853337, 0.211892622853337, 0.21402577006327, 0.253844517982018, 1, 1, 1, 1, 1, 1,
    ],
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_adjusted_p_values_equal_r_on_the_table_of_1995(method):
    result = adjust(TABLE_1995, method)
    np.testing.assert_allclose(result.p, R_ADJUSTED[method], rtol=1e-12)
    assert (result.n_family, result.n_undefined, result.method) == (15, 0, method)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_the_family_does_not_matter(method):
    order = np.random.default_rng(0).permutation(15)
    np.testing.assert_allclose(adjust(np.array(TABLE_1995)[order], method).p, np.array(R_ADJUSTED[method])[order])


@pytest.mark.parametrize("method", METHODS)
def test_adjusted_p_is_never_below_p_nor_above_one_and_ties_stay_tied(method):
    rng = np.random.default_rng(1)
    for size in (1, 2, 7, 40):
        p = rng.choice([0.0, 0.001, 0.01, 0.03, 0.2, 1.0], size)
        adjusted = adjust(p, method).p
        assert (adjusted >= p).all()
        assert (adjusted <= 1).all()
        assert all(np.ptp(adjusted[p == value]) < 1e-15 for value in np.unique(p))


@pytest.mark.parametrize("method", METHODS)
def test_an_undefined_test_counts_as_a_member_with_p_of_one(method):
    given = [0.01, np.nan, 0.04, np.nan, 0.2]
    result = adjust(given, method)
    assert (result.n_family, result.n_undefined) == (5, 2)
    assert np.isnan(result.p[[1, 3]]).all()
    np.testing.assert_array_equal(result.p[[0, 2, 4]], adjust([0.01, 1.0, 0.04, 1.0, 0.2], method).p[[0, 2, 4]])


@pytest.mark.parametrize("method", METHODS)
def test_undefined_tests_can_be_left_out_of_the_family(method):
    result = adjust([0.01, np.nan, 0.04], method, count_undefined=False)
    assert (result.n_family, result.n_undefined) == (2, 1)
    np.testing.assert_array_equal(result.p[[0, 2]], adjust([0.01, 0.04], method).p)
    assert np.isnan(result.p[1])


@pytest.mark.parametrize("count_undefined", [True, False])
def test_families_without_any_defined_test_stay_undefined(count_undefined):
    assert np.isnan(adjust([np.nan, np.nan], "holm", count_undefined=count_undefined).p).all()
    empty = adjust([], "hommel", count_undefined=count_undefined)
    assert (empty.p.size, empty.n_family) == (0, 0)


def test_the_input_is_not_modified():
    p = np.array([0.2, np.nan, 0.01])
    adjust(p, "benjamini_hochberg")
    np.testing.assert_array_equal(p, [0.2, np.nan, 0.01])


def test_the_sentence_names_family_and_source():
    text = adjust([0.2, np.nan, 0.01], "benjamini_hochberg").sentence
    assert "family of 3 tests, of which 1 were undefined" in text
    assert "doi:10.1111/j.2517-6161.1995.tb02031.x" in text


@pytest.mark.parametrize(
    ("p", "method", "message"),
    [
        ([0.1, 1.2], "holm", "between 0 and 1; found 1.2"),
        ([-0.1], "holm", "found -0.1"),
        ([np.inf], "holm", "found inf"),
        ([[0.1, 0.2]], "holm", r"shape \(1, 2\)"),
        ([0.1], "bonferoni", "Did you mean 'bonferroni'"),
    ],
)
def test_invalid_input_is_refused(p, method, message):
    with pytest.raises(InputError, match=message):
        adjust(p, method)
