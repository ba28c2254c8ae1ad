from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from hybrid import InputError
from hybrid.images import from_array, to_array
from hybrid.mri import correct_bias, foreground_mask, prepare_mr, robust_normalise
from hybrid.phantoms.malformation import simulate_malformation_patient


def shaded_head(shape=(20, 40, 40), spacing=(3.0, 3.0, 6.0)):
    """Image of two tissues under a smooth bias field, and where the larger tissue is."""
    rng = np.random.default_rng(3)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    head = z**2 + y**2 + x**2 < 0.85
    bright = head & (np.abs(x - 0.3) < 0.2) & (np.abs(y) < 0.25)
    signal = (100.0 * head + 180.0 * bright) * np.exp(0.5 * x + 0.4 * y**2 - 0.3 * z)
    noisy = np.hypot(signal + rng.normal(0, 2, shape), rng.normal(0, 2, shape)).astype(np.float32)
    image = sitk.GetImageFromArray(noisy)
    image.SetSpacing(spacing)
    image.SetOrigin((-20.0, 5.0, 30.0))
    image.SetDirection((1, 0, 0, 0, 0, 1, 0, -1, 0))
    return image, head & ~bright


def variation(image, where):
    values = to_array(image)[where]
    return values.std() / values.mean()


@pytest.mark.parametrize(
    ("shape", "spacing"), [((20, 40, 40), (3.0, 3.0, 6.0)), ((24, 80, 80), (1.0, 1.0, 1.0)), ((6, 64, 64), (2, 2, 6))]
)
def test_bias_correction_evens_out_one_tissue_and_keeps_the_grid(shape, spacing):
    image, tissue = shaded_head(shape, spacing)
    corrected = correct_bias(image)
    assert variation(corrected, tissue) < 0.4 * variation(image, tissue)
    assert (corrected.GetSize(), corrected.GetSpacing()) == (image.GetSize(), image.GetSpacing())
    assert (corrected.GetOrigin(), corrected.GetDirection()) == (image.GetOrigin(), image.GetDirection())
    assert corrected.GetPixelID() == sitk.sitkFloat32


def test_bias_correction_keeps_the_mean_brightness_and_repeats_bit_for_bit():
    image, tissue = shaded_head()
    corrected = to_array(correct_bias(image))
    np.testing.assert_array_equal(corrected, to_array(correct_bias(image)))
    assert corrected[tissue].mean() == pytest.approx(to_array(image)[tissue].mean(), rel=0.15)
    assert np.isfinite(corrected).all()


def test_an_even_image_is_left_nearly_as_it_is():
    image, tissue = shaded_head()
    even = from_array(np.where(to_array(image) > 30, 100.0, 2.0) + np.arange(40, dtype=np.float32) % 2, image)
    ratio = to_array(correct_bias(even)) / to_array(even)
    assert ratio[tissue].std() < 0.02


def test_shrink_mask_and_iterations_can_be_given():
    image, tissue = shaded_head()
    mask = from_array(tissue.astype(np.uint8), image)
    corrected = correct_bias(image, shrink=(2, 2, 1), mask=mask, iterations=(30, 20, 10))
    assert variation(corrected, tissue) < 0.4 * variation(image, tissue)
    for wrong in ({"shrink": 0}, {"shrink": (2, 2)}, {"shrink": 99}, {"iterations": ()}, {"iterations": (5, 0)}):
        with pytest.raises(InputError, match="Expected"):
            correct_bias(image, **wrong)


def test_foreground_is_the_head_also_beside_very_bright_tissue():
    image, tissue = shaded_head((24, 80, 80), (1.0, 1.0, 1.0))
    found = to_array(foreground_mask(image)) > 0
    assert found[tissue].mean() > 0.95
    assert found.mean() < 1.15 * (to_array(image) > 30).mean()


def test_foreground_holds_dim_muscle_of_a_shaded_simulated_head():
    for number in range(4):
        image, mask, _ = simulate_malformation_patient(number)
        found = to_array(foreground_mask(image)) > 0
        assert found[to_array(mask) > 0].mean() > 0.9
        assert 0.3 < found.mean() < 0.6


@pytest.mark.parametrize("gain", [0.01, 3.7, 250.0])
def test_normalised_image_does_not_depend_on_the_gain(gain):
    image, _ = shaded_head()
    one, two = (to_array(robust_normalise(scan)) for scan in (image, image * gain))
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_normalised_foreground_has_median_zero_and_spread_one():
    image, _ = shaded_head()
    inside = foreground_mask(image)
    normalised = robust_normalise(image, inside=inside)
    known = to_array(normalised)[to_array(inside) > 0]
    first, median, third = np.percentile(known, (25, 50, 75))
    assert median == pytest.approx(0, abs=1e-4)
    assert (third - first) / 1.349 == pytest.approx(1, abs=1e-4)
    assert normalised.GetPixelID() == sitk.sitkFloat32
    assert normalised.GetOrigin() == image.GetOrigin()


def test_one_hot_voxel_does_not_change_the_scale():
    image, tissue = shaded_head()
    values = to_array(image)
    values[tuple(np.argwhere(tissue)[500])] = 1e6
    one, two = to_array(robust_normalise(image)), to_array(robust_normalise(from_array(values, image)))
    np.testing.assert_allclose(one[~tissue], two[~tissue], atol=0.05)
    assert two.max() < 20


def test_preparing_corrects_and_normalises():
    image, tissue = shaded_head()
    plain, corrected = prepare_mr(image, bias=False), prepare_mr(image)
    np.testing.assert_array_equal(to_array(plain), to_array(robust_normalise(image)))
    bright = ~tissue & (to_array(image) > 150)

    def separation(scan):
        values = to_array(scan)
        return (values[bright].mean() - values[tissue].mean()) / values[tissue].std()

    assert separation(corrected) > 1.5 * separation(plain)


def test_whole_number_images_are_accepted():
    image, tissue = shaded_head()
    whole = sitk.Cast(image, sitk.sitkInt16)
    assert variation(correct_bias(whole), tissue) < 0.4 * variation(whole, tissue)


@pytest.mark.parametrize("function", [correct_bias, robust_normalise, prepare_mr, foreground_mask])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values * 0 + 7, "constant"),
        (lambda values: values * 0, "constant"),
        (lambda values: values - 50, "0 or more"),
        (lambda values: np.where(values > 90, np.nan, values), "NaN"),
    ],
)
def test_unusable_values_are_refused_by_name_of_the_case(function, change, message):
    image, _ = shaded_head()
    with pytest.raises(InputError, match=message) as caught:
        function(from_array(change(to_array(image)).astype(np.float32), image), case_id="p07")
    assert "p07" in str(caught.value)


def test_masks_that_do_not_fit_and_percentiles_out_of_order_are_refused():
    image, tissue = shaded_head()
    with pytest.raises(InputError, match="size"):
        correct_bias(image, mask=sitk.Image([4, 4, 4], sitk.sitkUInt8))
    with pytest.raises(InputError, match="empty"):
        robust_normalise(image, inside=from_array(np.zeros(tissue.shape, np.uint8), image))
    with pytest.raises(InputError, match="lower < upper"):
        robust_normalise(image, lower=60, upper=40)
    with pytest.raises(InputError, match="3D"):
        correct_bias(image[:, :, 3])
