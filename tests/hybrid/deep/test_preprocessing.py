from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from hybrid.deep import Preprocessing, crop_lesion, network_input
from hybrid.errors import GeometryError, InputError

OBLIQUE = sitk.Euler3DTransform((0, 0, 0), 0.35, -0.2, 0.5).GetMatrix()
STRAIGHT = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def scene(spacing, direction=STRAIGHT, *, extent=90.0, centre=(3.0, -5.0, 8.0), radii=(14.0, 10.0, 8.0)):
    """A blurred ellipsoid along the patient's axes, sampled on any grid around ``centre``."""
    size = [int(np.ceil(extent / step)) for step in spacing]
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing(spacing)
    grid.SetDirection(direction)
    middle = grid.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size])
    grid.SetOrigin([c - m for c, m in zip(centre, middle, strict=True)])
    source = sitk.PhysicalPointSource(sitk.sitkVectorFloat64, size, grid.GetOrigin(), spacing, direction)
    points = sitk.GetArrayFromImage(source)
    distance = np.sqrt((((points - centre) / radii) ** 2).sum(axis=-1))
    values = 100 * np.exp(-(distance**2)) + 0.5 * points[..., 0]
    image = sitk.GetImageFromArray(values.astype(np.float32))
    mask = sitk.GetImageFromArray((distance <= 1).astype(np.uint8))
    for volume in (image, mask):
        volume.CopyInformation(grid)
    return image, mask


def test_crop_does_not_depend_on_how_the_image_is_stored():
    settings = Preprocessing(size=32, margin_mm=8)
    straight = crop_lesion(*scene((1.0, 1.0, 1.0)), settings)
    for stored in (
        scene((1.0, 1.0, 1.0), OBLIQUE),
        scene((0.8, 0.8, 2.0), OBLIQUE),
        tuple(sitk.Flip(volume, (True, False, True)) for volume in scene((1.0, 1.0, 1.0))),
        tuple(sitk.PermuteAxes(volume, (2, 0, 1)) for volume in scene((1.0, 1.0, 2.0))),
    ):
        crop = crop_lesion(*stored, settings)
        assert np.allclose(crop.centre_mm, (3, -5, 8), atol=0.6)
        assert crop.spacing_mm == pytest.approx(straight.spacing_mm, abs=0.08)
        assert np.abs(crop.image - straight.image).mean() < 1.5
        overlap = 2 * (crop.mask * straight.mask).sum() / (crop.mask**2 + straight.mask**2).sum()
        assert overlap > 0.95


def test_cube_holds_the_lesion_and_its_margin():
    crop = crop_lesion(*scene((1.0, 1.0, 1.0)), Preprocessing(size=40, margin_mm=6))
    assert crop.image.shape == crop.mask.shape == (40, 40, 40)
    assert crop.spacing_mm * 40 == pytest.approx(2 * 14 + 2 * 6, abs=1.01)
    volume = crop.mask.sum() * crop.spacing_mm**3
    assert volume == pytest.approx(4 / 3 * np.pi * 14 * 10 * 8, rel=0.03)
    assert crop.mask[:4].max() == 0


def test_axes_are_z_y_x():
    image, mask = scene((1.0, 1.0, 1.0))
    crop = crop_lesion(image, mask, Preprocessing(size=32, spacing_mm=1.5))
    widths = [crop.mask.max(axis=axes).sum() * 1.5 for axes in ((1, 2), (0, 2), (0, 1))]
    assert np.allclose(widths, [16, 20, 28], atol=3)


def test_fixed_spacing_keeps_the_size_and_cuts_off_what_is_larger():
    small, large = (scene((1.0, 1.0, 1.0), radii=(r, r, r), extent=100) for r in (8.0, 30.0))
    settings = Preprocessing(size=32, spacing_mm=1.0)
    crops = [crop_lesion(*pair, settings) for pair in (small, large)]
    assert [crop.spacing_mm for crop in crops] == [1.0, 1.0]
    assert crops[0].mask.sum() == pytest.approx(4 / 3 * np.pi * 8**3, rel=0.05)
    assert crops[1].mask.min() > 0 or crops[1].mask[0].max() == 1


def test_coarse_cube_averages_instead_of_picking_voxels():
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.normal(0, 100, (64, 64, 64)).astype(np.float32))
    mask = sitk.GetImageFromArray(np.ones((64, 64, 64), np.uint8))
    settings = [Preprocessing(size=16, margin_mm=0, antialias=flag) for flag in (True, False)]
    spread = [crop_lesion(image, mask, setting).image.std() for setting in settings]
    assert spread[0] < 0.4 * spread[1]


def test_lesion_at_the_border_repeats_the_edge_or_takes_the_value_outside():
    values = np.full((20, 20, 20), 40, np.float32)
    region = np.zeros((20, 20, 20), np.uint8)
    region[:4, :4, :4] = 1
    image, mask = sitk.GetImageFromArray(values), sitk.GetImageFromArray(region)
    crop = crop_lesion(image, mask, Preprocessing(size=16, margin_mm=6))
    assert np.allclose(crop.image, 40)
    assert crop.mask[:3].max() == 0
    assert 0.2 < crop.inside.mean() < 0.6
    filled = crop_lesion(image, mask, Preprocessing(size=16, margin_mm=6, outside=-1024.0))
    assert filled.image.min() == -1024
    assert np.allclose(filled.image[filled.mask > 0.9], 40)


def test_one_slice_and_one_voxel_lesions_work():
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(0, 1, (1, 30, 30)).astype(np.float32))
    region = np.zeros((1, 30, 30), np.uint8)
    region[0, 12, 14] = 1
    mask = sitk.GetImageFromArray(region)
    crop = crop_lesion(image, mask, Preprocessing(size=16, margin_mm=4))
    assert np.isfinite(crop.image).all()
    assert crop.mask.sum() > 0


def test_labels_are_told_apart():
    image, mask = scene((1.0, 1.0, 1.0))
    array = sitk.GetArrayFromImage(mask)
    array[:5, :5, :5] = 7
    both = sitk.GetImageFromArray(array)
    both.CopyInformation(mask)
    settings = Preprocessing(size=16, margin_mm=4)
    assert crop_lesion(image, both, settings, label=1).centre_mm == crop_lesion(image, mask, settings).centre_mm
    assert crop_lesion(image, both, settings).spacing_mm > crop_lesion(image, mask, settings).spacing_mm
    with pytest.raises(InputError, match="Label 3 is not in the mask: found only 1, 7"):
        crop_lesion(image, both, settings, label=3, case_id="p1")


def test_empty_mask_is_an_error_that_names_the_case():
    image, mask = scene((2.0, 2.0, 2.0))
    with pytest.raises(InputError, match="case p9: The mask is empty"):
        crop_lesion(image, mask * 0, Preprocessing(), case_id="p9")


def test_mask_of_another_scan_is_refused():
    image, mask = scene((2.0, 2.0, 2.0))
    mask.SetOrigin([value + 500 for value in mask.GetOrigin()])
    with pytest.raises(GeometryError):
        crop_lesion(image, mask, Preprocessing())


def test_infinite_voxels_in_the_cube_are_refused_and_elsewhere_ignored():
    image, mask = scene((2.0, 2.0, 2.0))
    array = sitk.GetArrayFromImage(image)
    settings = Preprocessing(size=16, margin_mm=4)
    array[0, 0, 0] = np.nan
    broken = sitk.GetImageFromArray(array)
    broken.CopyInformation(image)
    crop_lesion(broken, mask, settings)
    array[22, 22, 22] = np.inf
    broken = sitk.GetImageFromArray(array)
    broken.CopyInformation(image)
    with pytest.raises(InputError, match="NaN or infinite"):
        crop_lesion(broken, mask, settings)


def test_scale_brings_stored_values_back_to_their_unit():
    image, mask = scene((2.0, 2.0, 2.0))
    settings = Preprocessing(size=16, modality="pet")
    stored = network_input(crop_lesion(image * 1000, mask, settings, scale=0.001), settings)
    assert np.allclose(stored, network_input(crop_lesion(image, mask, settings), settings), atol=1e-5)


@pytest.mark.parametrize(("modality", "invariant"), [("mr", True), ("any", True), ("ct", False), ("pet", False)])
def test_only_images_without_a_unit_are_scaled_to_themselves(modality, invariant):
    image, mask = scene((2.0, 2.0, 2.0))
    settings = Preprocessing(size=16, modality=modality)
    one, other = (network_input(crop_lesion(volume, mask, settings), settings) for volume in (image, image * 3 + 7))
    assert np.allclose(one, other, atol=1e-4) == invariant
    assert np.abs(one).max() <= 1 + 1e-6


def test_conventions_normalise_as_documented():
    image, mask = scene((1.0, 1.0, 1.0))
    fmcib = Preprocessing(size=16, spacing_mm=1.0, intensity="fmcib", modality="ct", antialias=False)
    crop = crop_lesion(image, mask, fmcib)
    assert np.allclose(network_input(crop, fmcib)[0], (crop.image + 1024) / 3072, atol=1e-6)
    medicalnet = Preprocessing(size=16, intensity="medicalnet", modality="mr")
    crop = crop_lesion(image, mask, medicalnet)
    body = crop.image > 0
    values = network_input(crop, medicalnet)[0]
    assert values[body].mean() == pytest.approx(0, abs=1e-5)
    assert values[body].std() == pytest.approx(1, abs=1e-5)
    assert np.all(values[~body] == 0)


def test_constant_image_becomes_zero():
    image, mask = scene((2.0, 2.0, 2.0))
    for intensity in ("own", "medicalnet"):
        settings = Preprocessing(size=16, intensity=intensity, modality="mr")
        assert np.all(network_input(crop_lesion(image * 0 + 5, mask, settings), settings) == 0)


def test_channels_hold_mask_and_voxel_size():
    image, mask = scene((1.0, 1.0, 1.0))
    settings = Preprocessing(size=16, spacing_mm=2.0, channels=("image", "mask", "voxel_size"))
    tensor = network_input(crop_lesion(image, mask, settings), settings)
    assert tensor.shape == (3, 16, 16, 16)
    assert tensor.dtype == np.float32
    assert (tensor[1].min(), tensor[1].max()) == (-1, 1)
    assert np.all(tensor[2] == 0.5)


def test_wrong_settings_name_the_valid_ones():
    with pytest.raises(InputError, match="'mr'"):
        Preprocessing(modality="mri")
    with pytest.raises(InputError, match="ct only"):
        Preprocessing(intensity="fmcib", modality="mr")
    with pytest.raises(InputError, match="size >= 8"):
        Preprocessing(size=4)
    with pytest.raises(InputError, match="'margin_mm'"):
        Preprocessing.from_dict({"margin": 3})
    settings = Preprocessing(channels=("image", "mask"), modality="pet")
    assert Preprocessing.from_dict(settings.to_dict()) == settings
