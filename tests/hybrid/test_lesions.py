from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk

from hybrid import InputError
from hybrid.lesions import equivalent_diameter_mm, label_lesions, lesion_table, max_diameter_mm

ANISOTROPIC = (3.0, 0.5, 0.8)


def empty(shape=(6, 7, 8)):
    return np.zeros(shape, dtype=bool)


def ellipsoid(shape, radii, spacing):
    axes = [(np.arange(n) - (n - 1) / 2) * step / radius for n, step, radius in zip(shape, spacing, radii, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= 1


def test_lesions_are_numbered_by_decreasing_volume():
    region = empty()
    region[0, 0, 0] = True
    region[3:5, 3:5, 3:5] = True
    region[0, 5, 5:8] = True
    numbers, count = label_lesions(region, (1, 1, 1))
    assert count == 3
    assert numbers.dtype == np.int32
    assert (numbers[4, 4, 4], numbers[0, 5, 6], numbers[0, 0, 0]) == (1, 2, 3)
    assert np.array_equal(numbers > 0, region)


def test_lesions_of_equal_volume_keep_the_order_of_the_array():
    region = empty()
    region[0, 0, 0] = region[0, 0, 4] = region[5, 0, 0] = True
    numbers, _ = label_lesions(region, (1, 1, 1))
    assert (numbers[0, 0, 0], numbers[0, 0, 4], numbers[5, 0, 0]) == (1, 2, 3)


@pytest.mark.parametrize("second", [(1, 1, 2), (1, 2, 2), (2, 2, 2)], ids=["face", "edge", "corner"])
def test_voxels_that_touch_by_face_edge_or_corner_are_one_lesion(second):
    region = empty()
    region[1, 1, 1] = region[second] = True
    assert label_lesions(region, (1, 1, 1))[1] == 1


def test_small_lesions_are_left_out_and_a_lesion_of_just_that_volume_stays():
    region = empty()
    region[0, 0, 0] = True
    region[3, 3, 3:6] = True
    numbers, count = label_lesions(region, (1.0, 0.1, 0.7), min_volume_mm3=3 * 1.0 * 0.1 * 0.7)
    assert count == 1
    assert np.array_equal(numbers == 1, region & (np.arange(6) > 0)[:, None, None])
    assert label_lesions(region, (1.0, 0.1, 0.7), min_volume_mm3=1)[1] == 0


def test_an_empty_region_has_no_lesions():
    numbers, count = label_lesions(empty(), ANISOTROPIC)
    assert (count, numbers.any(), numbers.shape) == (0, False, (6, 7, 8))
    assert math.isnan(max_diameter_mm(empty(), ANISOTROPIC))
    assert list(lesion_table(empty(), ANISOTROPIC, probability=np.zeros((6, 7, 8)))) == [
        *("lesion_id", "volume_ml", "max_diameter_mm", "equivalent_diameter_mm", "centre_x", "centre_y", "centre_z"),
        *("confidence", "mean_probability"),
    ]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (np.s_[2, 3, 4], 3.0),  # one voxel: its longest edge
        (
            np.s_[2, 3, 1:6],
            math.hypot(4 * 0.8, 3.0),
        ),  # a row of five: from the top of one end to the bottom of the other
        (np.s_[1:5, 3, 4], 4 * 3.0),
        (np.s_[2, 1:3, 1:5], math.hypot(0.5, 3 * 0.8, 3.0)),  # flat: between opposite corner voxels, top to bottom
        (np.s_[1:4, 1:3, 1:3], math.hypot(3 * 3.0, 0.5, 0.8)),  # block: between top and bottom faces
    ],
)
def test_maximum_diameter_of_simple_bodies(part, expected):
    region = empty()
    region[part] = True
    assert max_diameter_mm(region, ANISOTROPIC) == pytest.approx(expected, abs=1e-9)


def test_maximum_diameter_counts_distance_between_separate_parts():
    region = empty()
    region[0, 0, 0] = region[5, 0, 0] = True
    assert max_diameter_mm(region, ANISOTROPIC) == pytest.approx(18.0)


@pytest.mark.parametrize("seed", range(4))
def test_maximum_diameter_equals_that_of_pyradiomics(seed):
    shape = pytest.importorskip("radiomics.shape")
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.5, 4, 3)
    region = np.zeros((12, 16, 16), dtype=bool)
    region[2:-2, 2:-2, 2:-2] = ellipsoid((8, 12, 12), (12, 8, 7), spacing) & (rng.random((8, 12, 12)) < 0.8)
    mask = sitk.GetImageFromArray(region.astype(np.uint8))
    mask.SetSpacing(tuple(spacing[::-1]))
    features = shape.RadiomicsShape(sitk.Cast(mask, sitk.sitkFloat32), mask, label=1)
    assert max_diameter_mm(region, spacing) == pytest.approx(features.getMaximum3DDiameterFeatureValue(), rel=1e-6)


def test_equivalent_diameter_is_that_of_the_ball():
    assert equivalent_diameter_mm(4 / 3 * math.pi * 5**3) == pytest.approx(10)
    assert equivalent_diameter_mm(0) == 0
    with pytest.raises(InputError, match="0 mm³ or more"):
        equivalent_diameter_mm(-1)


def test_table_gives_size_place_and_confidence():
    region = empty()
    region[1, 2, 3:5] = True
    region[4, 4, 4] = True
    probability = np.full(region.shape, 0.9)
    probability[1, 2, 3:5] = (0.4, 0.8)
    probability[4, 4, 4] = 0.6
    image = sitk.GetImageFromArray(np.zeros(region.shape, dtype=np.int16))
    image.SetSpacing(ANISOTROPIC[::-1])
    image.SetOrigin((10.0, 20.0, 30.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    table = lesion_table(region, image, probability=probability)
    assert table["lesion_id"].tolist() == [1, 2]
    assert table["volume_ml"].tolist() == pytest.approx([2 * 1.2 / 1000, 1.2 / 1000])
    assert table["max_diameter_mm"].tolist() == pytest.approx([math.hypot(3.0, 0.8), 3.0])
    assert table["equivalent_diameter_mm"][1] == pytest.approx((6 * 1.2 / math.pi) ** (1 / 3))
    centres = table[["centre_x", "centre_y", "centre_z"]].to_numpy()
    assert centres == pytest.approx(np.array([[10 - 3.5 * 0.8, 20 - 1.0, 33.0], [10 - 3.2, 18.0, 42.0]]))
    assert table["confidence"].tolist() == pytest.approx([0.8, 0.6])
    assert table["mean_probability"].tolist() == pytest.approx([0.6, 0.6])


def test_table_with_a_voxel_size_only_places_lesions_along_the_axes():
    region = empty()
    region[2, 3, 4] = True
    row = lesion_table(region, ANISOTROPIC).iloc[0]
    assert (row["centre_x"], row["centre_y"], row["centre_z"]) == pytest.approx((3.2, 1.5, 6.0))
    assert "confidence" not in row


def test_rows_of_the_table_follow_the_numbers_of_the_labels():
    region = np.random.default_rng(1).random((12, 20, 20)) < 0.06
    numbers, count = label_lesions(region, ANISOTROPIC, min_volume_mm3=3)
    table = lesion_table(region, ANISOTROPIC, min_volume_mm3=3)
    assert len(table) == count > 5
    assert table["volume_ml"].to_numpy() == pytest.approx(np.bincount(numbers.ravel())[1:] * 1.2 / 1000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_lesions(np.zeros((3, 3, 3), dtype=np.uint8), (1, 1, 1)), "array of bool"),
        (lambda: label_lesions(np.zeros((3, 3), dtype=bool), (1, 1, 1)), "array of bool"),
        (lambda: label_lesions(empty(), (1, 1)), "three positive voxel sizes"),
        (lambda: label_lesions(empty(), (1, 0, 1)), "three positive voxel sizes"),
        (lambda: label_lesions(empty(), (1, 1, 1), min_volume_mm3=-1), "smallest volume"),
        (lambda: lesion_table(~empty(), sitk.Image(3, 3, 3, sitk.sitkUInt8)), "differ"),
        (lambda: lesion_table(~empty(), (1, 1, 1), probability=np.zeros((2, 2, 2))), "probabilities of shape"),
        (lambda: lesion_table(~empty(), (1, 1, 1), probability=np.full((6, 7, 8), 1.5)), "between 0 and 1"),
        (lambda: lesion_table(~empty(), (1, 1, 1), probability=np.full((6, 7, 8), np.nan)), "between 0 and 1"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
