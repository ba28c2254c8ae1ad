import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from hybrid.deep.segmentation.geometry import axis_weights, resize, resize_labels, target_shape
from hybrid.deep.segmentation.preprocessing import open_scan
from hybrid.images import from_array, orientation_of, to_array

AXES = [(order, signs) for order in itertools.permutations(range(3)) for signs in itertools.product((1, -1), repeat=3)]


def rotated(order, signs, angles=(0.0, 0.0, 0.0)):
    matrix = np.zeros((3, 3))
    for column, (row, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[row, column] = sign
    tilt = sitk.Euler3DTransform()
    tilt.SetRotation(*angles)
    return np.asarray(tilt.GetMatrix()).reshape(3, 3) @ matrix


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (0.2, -0.15, 0.3)], ids=["straight", "oblique"])
def test_canonical_order_and_back_is_exact_for_all_48_orientations(angles):
    values = np.random.default_rng(0).integers(0, 1000, (5, 6, 7)).astype(np.int16)
    for order, signs in AXES:
        image = sitk.GetImageFromArray(values)
        image.SetDirection(rotated(order, signs, angles).ravel().tolist())
        orientation = orientation_of(image)
        canonical = orientation.apply(values)
        np.testing.assert_array_equal(orientation.undo(canonical), values)
        np.testing.assert_array_equal(canonical, to_array(sitk.DICOMOrient(image, "LPS")))


def test_pasted_back_labels_lie_where_they_were_drawn():
    for order, signs in AXES[::5]:
        image = sitk.GetImageFromArray(np.zeros((8, 9, 10), np.float32))
        image.SetDirection(rotated(order, signs, (0.1, 0.2, 0.1)).ravel().tolist())
        image.SetSpacing((1.0, 2.0, 3.0))
        scan = open_scan(image)
        drawn = np.zeros(scan.array.shape, np.uint8)
        drawn[1, 2, 3] = 1
        mask = from_array(scan.orientation.undo(drawn), image)
        index = np.argwhere(to_array(mask))[0]
        first = np.array(mask.TransformIndexToPhysicalPoint([int(i) for i in index[::-1]]))
        canonical = sitk.DICOMOrient(image, "LPS")
        expected = np.array(canonical.TransformIndexToPhysicalPoint((3, 2, 1)))
        np.testing.assert_allclose(first, expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(80, 75, 90), (37, 51, 60), (41, 100, 61)])
def test_linear_resampling_equals_torch(shape):
    values = np.random.default_rng(1).standard_normal((40, 50, 60)).astype(np.float32)
    expected = torch.nn.functional.interpolate(torch.from_numpy(values)[None, None], size=shape, mode="trilinear")[0, 0]
    np.testing.assert_allclose(resize(values, shape, antialias=False), expected.numpy(), atol=2e-5)


def test_a_part_of_a_resampled_volume_has_the_same_bits_as_the_whole():
    values = np.random.default_rng(2).standard_normal((2, 40, 50, 60)).astype(np.float32)
    part = (slice(3, 9), slice(11, 40), slice(5, 7))
    whole = resize(values, (20, 75, 60))
    np.testing.assert_array_equal(resize(values, (20, 75, 60), part), whole[(slice(None), *part)])


def test_downsampling_averages_instead_of_picking():
    values = np.random.default_rng(3).standard_normal((64, 64, 64)).astype(np.float32)
    assert resize(values, (16, 16, 16)).std() < 0.25


def test_constant_stays_constant():
    assert np.allclose(resize(np.full((7, 8, 9), 3.0, np.float32), (5, 13, 9)), 3.0, atol=1e-6)


@pytest.mark.parametrize(("n_in", "n_out"), [(10, 10), (10, 23), (23, 10), (1, 4)])
def test_weights_sum_to_one_and_stay_inside(n_in, n_out):
    weights = axis_weights(n_in, n_out)
    np.testing.assert_allclose(weights.weight.sum(axis=1), 1.0, atol=1e-6)
    assert weights.index.min() >= 0
    assert weights.index.max() < n_in


def test_labels_keep_their_volume_when_resampled():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[8:30, 10:30, 9:31] = 3
    labels[14:24, 14:24, 14:24] = 7
    small = resize_labels(labels, (20, 20, 20), (3, 7))
    for number, value in enumerate((3, 7), 1):
        assert (small == number).sum() * 8 == pytest.approx((labels == value).sum(), rel=0.2)


def test_target_shape_keeps_the_extent():
    assert target_shape((100, 50, 1), (1.0, 2.0, 3.0), (2.0, 2.0, 2.0)) == (50, 50, 2)
