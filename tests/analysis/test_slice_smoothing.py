"""Probabilities averaged along a scan."""

import numpy as np
import pandas as pd
import pytest

from hybrid.analysis.slice_smoothing import smooth_along_scan, triangular_weights
from hybrid.errors import InputError


def table(values, numbers=None, case="a"):
    numbers = range(len(values)) if numbers is None else numbers
    return pd.DataFrame({"case_id": case, "slice": pd.array(list(numbers), "Int64"), "p": values})


def test_weights_fall_along_a_line():
    assert triangular_weights(0).tolist() == [1]
    assert triangular_weights(3).tolist() == [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]


def test_mean_is_weighted_and_renormalised_at_the_ends():
    found = smooth_along_scan(table([1.0, 0, 0, 0.4]), ["p"], 1)["p"].tolist()
    assert found == pytest.approx([1 / 1.5, 0.5 / 2, 0.2 / 2, 0.4 / 1.5])


def test_order_of_rows_and_columns_stays_and_the_input_too():
    rows = table([0.1, 0.5, 0.9, 0.3]).assign(name=list("wxyz"))
    mixed = rows.iloc[[2, 0, 3, 1]].reset_index(drop=True)
    before = mixed.copy()
    found = smooth_along_scan(mixed, ["p"], 2)
    pd.testing.assert_frame_equal(mixed, before)
    assert found["name"].tolist() == list("ywzx")
    expected = smooth_along_scan(rows, ["p"], 2).set_index("name")["p"]
    assert found.set_index("name")["p"].to_dict() == pytest.approx(expected.to_dict())


def test_scans_do_not_mix():
    both = pd.concat([table([0.0] * 5), table([1.0] * 5, case="b")], ignore_index=True)
    assert smooth_along_scan(both, ["p"], 3)["p"].tolist() == [0.0] * 5 + [1.0] * 5


def test_missing_slices_take_no_part():
    assert smooth_along_scan(table([1.0, 0.0], [0, 5]), ["p"], 2)["p"].tolist() == [1.0, 0.0]
    found = smooth_along_scan(table([1.0, 0.0], [0, 2]), ["p"], 2)["p"].tolist()
    assert found == pytest.approx([1 / (1 + 1 / 3), (1 / 3) / (1 + 1 / 3)])


def test_unread_slices_stay_unread_and_do_not_spoil_their_neighbours():
    found = smooth_along_scan(table([0.2, np.nan, 0.6]), ["p"], 1)["p"]
    assert np.isnan(found[1])
    assert found[[0, 2]].tolist() == pytest.approx([0.2, 0.6])


def test_probabilities_of_classes_still_add_up_to_one():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet((1, 1, 1), 9)
    rows = table(shares[:, 0]).assign(q=shares[:, 1], r=shares[:, 2])
    found = smooth_along_scan(rows, ["p", "q", "r"], 3)[["p", "q", "r"]]
    assert found.sum(axis=1).to_numpy() == pytest.approx(np.ones(9))


def test_without_smoothing_nothing_changes():
    rows = table([0.2, 0.9])
    assert smooth_along_scan(rows, ["p"], 0) is rows


@pytest.mark.parametrize("half", [-1, 21, 1.5])
def test_impossible_widths_are_refused(half):
    with pytest.raises(InputError, match="0 to 20 slices"):
        smooth_along_scan(table([0.2]), ["p"], half)
