"""Random changes of images: where they move to, what they leave alone, and that a seed repeats them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from hybrid.deep.classification.augmentation import NO_AUGMENTATION, Augmentation, moved, with_gamma

STILL = replace(NO_AUGMENTATION, probability=1.0)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_quarter_turn_in_the_plane_is_exact():
    image = noise(2, 12, 12)
    turned = moved(image, [math.pi / 2], [1, 1], [0, 0])
    expected = np.rot90(image, 1, (1, 2))
    assert np.abs(turned - expected).max() < 1e-4 or np.abs(turned - np.rot90(image, -1, (1, 2))).max() < 1e-4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_quarter_turn_of_a_volume_is_about_the_wanted_axis(axis):
    image = noise(1, 8, 8, 8)
    angles = [0.0, 0.0, 0.0]
    angles[axis] = math.pi / 2
    turned = moved(image, angles, [1, 1, 1], [0, 0, 0])
    plane = tuple(n + 1 for n in range(3) if n != axis)
    assert min(np.abs(turned - np.rot90(image, k, plane)).max() for k in (1, -1)) < 1e-4


@pytest.mark.parametrize("shape", [(1, 12, 20), (1, 6, 8, 10)])
def test_shift_moves_towards_the_end_of_each_axis(shape):
    image, dims = noise(*shape), len(shape) - 1
    for axis in range(dims):
        shifts = [0.0] * dims
        shifts[axis] = 2 / shape[axis + 1]
        found = moved(image, [0.0] * (3 if dims == 3 else 1), [1.0] * dims, shifts)
        kept = [slice(None)] * len(shape)
        kept[axis + 1] = slice(2, None)
        assert np.abs(found - np.roll(image, 2, axis + 1))[tuple(kept)].max() < 1e-4


def test_turn_keeps_angles_where_rows_and_columns_differ_in_number():
    """A disc stays a disc on a grid that is not square."""
    y, x = np.mgrid[:40, :80].astype(np.float32)
    disc = (np.hypot(y - 19.5, x - 39.5) < 12).astype(np.float32)[None]
    assert np.abs(moved(disc, [0.7], [1, 1], [0, 0]) - disc).sum() < 0.1 * disc.sum()


def test_factors_enlarge_about_the_middle_along_their_axis():
    image = np.zeros((1, 41, 41), np.float32)
    image[:, 16:25, 16:25] = 1
    larger = moved(image, [0.0], [1.5, 1.0], [0, 0])[0] > 0.5
    assert larger.any(axis=1).sum() == pytest.approx(9 * 1.5, abs=1.1)
    assert larger.any(axis=0).sum() == 9
    assert np.allclose(ndimage.center_of_mass(larger), (20, 20), atol=0.5)


def test_the_same_seed_gives_the_same_bits_and_inputs_stay():
    image, mask = noise(3, 32, 32), np.ones((1, 32, 32), np.float32)
    before = image.copy()
    first, second, other = (
        Augmentation(mirror=(1,), probability=1.0).change(image, mask, np.random.default_rng(seed))
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first[0], second[0])
    assert not np.array_equal(first[0], other[0])
    assert np.array_equal(image, before)
    assert first[0].dtype == np.float32


def test_a_mask_moves_with_its_image_and_keeps_its_values():
    image = np.zeros((2, 64, 64), np.float32)
    image[:, 20:36, 30:50] = 1
    changes = Augmentation(mirror=(0, 1), noise=0, blur=0, contrast=0, gamma=(1, 1), brightness=0.5, probability=1.0)
    for seed in range(10):
        values, mask = changes.change(image, image[:1], np.random.default_rng(seed))
        assert np.array_equal(values[0], values[1])
        assert np.abs((values[0] - values[0].min()) - mask[0]).max() < 1e-5
        assert not np.array_equal(mask[0], image[0])


@pytest.mark.parametrize(
    ("field", "amount"), [("noise", 0.5), ("blur", 2.0), ("brightness", 0.5), ("contrast", 0.5), ("gamma", (0.4, 0.5))]
)
def test_each_change_of_intensity_changes_the_image_and_not_the_mask(field, amount):
    image, mask = noise(1, 16, 16, 16), noise(1, 16, 16, 16, seed=1)
    values, same = replace(STILL, **{field: amount}).change(image, mask, np.random.default_rng(0))
    assert not np.allclose(values, image, atol=1e-3)
    assert np.allclose(same, mask, atol=1e-5)


def test_noise_has_at_most_the_wanted_standard_deviation():
    image = np.zeros((1, 64, 64), np.float32)
    deviations = [
        replace(STILL, noise=0.4).change(image, image[:0], np.random.default_rng(seed))[0].std() for seed in range(40)
    ]
    assert 0.3 < max(deviations) < 0.41
    assert min(deviations) < 0.1


def test_changes_are_as_frequent_as_wanted():
    image = noise(1, 8, 8)
    changed = [
        not np.array_equal(
            replace(NO_AUGMENTATION, brightness=0.5, probability=0.25).change(
                image, image[:0], np.random.default_rng(seed)
            )[0],
            image,
        )
        for seed in range(400)
    ]
    # Two of the drawn changes (place and brightness) do something: the place interpolates without moving.
    assert 0.15 < np.mean(changed) < 0.6


def test_gamma_keeps_the_range_and_leaves_constant_images_alone():
    image = noise(1, 16, 16)
    changed = with_gamma(image, 2.0)
    assert changed.min() == pytest.approx(image.min())
    assert changed.max() == pytest.approx(image.max(), rel=1e-5)
    assert (changed <= image + 1e-5).all()
    assert np.array_equal(with_gamma(np.ones((1, 4, 4), np.float32), 2.0), np.ones((1, 4, 4), np.float32))


def test_nothing_is_changed_without_probability_or_mirroring():
    assert NO_AUGMENTATION.is_off
    assert not replace(NO_AUGMENTATION, mirror=(1,)).is_off
    assert not Augmentation().is_off
