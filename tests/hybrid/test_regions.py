"""Boxes, margins and closing of regions."""

import numpy as np
import pytest
from scipy import ndimage

from hybrid.regions import bounding_box, closed, widened


def test_box_of_an_empty_region():
    assert bounding_box(np.zeros((4, 5, 6), bool)) is None
    assert bounding_box(np.zeros((4, 5, 6), bool), margin=(9, 9, 9)) is None


def test_box_around_several_regions():
    first, second = np.zeros((2, 8, 9, 10), np.uint8)
    first[1, 2, 3], second[4, 2, 7] = 5, 1
    assert bounding_box(first, second) == (slice(1, 5), slice(2, 3), slice(3, 8))


def test_margin_of_the_box_ends_at_the_array():
    region = np.zeros((8, 9, 10), bool)
    region[1, 4, 9] = True
    assert bounding_box(region, margin=(3, 1, 2)) == (slice(0, 5), slice(3, 6), slice(7, 10))


def test_margin_is_in_millimetres():
    region = np.zeros((21, 21, 21), bool)
    region[10, 10, 10] = True
    near = widened(region, 4.0, (2.0, 1.0, 4.0))
    assert near[12, 10, 10]
    assert near[10, 14, 10]
    assert near[10, 10, 11]
    assert not near[13, 10, 10]
    assert not near[10, 10, 12]


def test_nothing_widened_is_nothing():
    assert not widened(np.zeros((4, 5, 6), bool), 10.0, (1.0, 1.0, 1.0)).any()


def test_closing_fills_holes_and_bays_but_not_wide_ones():
    region = np.zeros((30, 40, 40), bool)
    region[5:25, 5:35, 5:35] = True
    region[10:14, 18:22, 5:25] = False  # a bay of 4 x 4 voxels, open on one side
    region[18:22, 8:32, 5:20] = False  # one of 4 voxels in one direction only
    full = closed(region, 3.0, (1.0, 1.0, 1.0))
    assert full[12, 20, 10]
    assert full[20, 20, 10]
    assert not full[:5].any()
    assert not closed(region, 1.0, (1.0, 1.0, 1.0))[12, 20, 10]
    assert not closed(region, 3.0, (2.0, 2.0, 2.0))[12, 20, 10], "the radius is in mm"


@pytest.mark.parametrize("corner", [0, 12])
def test_closing_is_that_of_a_ball_with_background_around(corner):
    rng = np.random.default_rng(corner)
    region = np.zeros((24, 24, 24), bool)
    region[corner : corner + 10, corner : corner + 10, corner : corner + 10] = rng.random((10, 10, 10)) < 0.05
    offsets = np.indices((7, 7, 7)) - 3
    ball = (offsets**2).sum(axis=0) <= 9
    expected = ndimage.binary_closing(np.pad(region, 4), ball)[4:-4, 4:-4, 4:-4]
    assert np.array_equal(closed(region, 3.0, (1.0, 1.0, 1.0)), expected)


def test_closing_nothing_is_nothing():
    assert not closed(np.zeros((4, 5, 6), bool), 10.0, (1.0, 1.0, 1.0)).any()
