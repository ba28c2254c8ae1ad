"""Masks of training images teach a classifier where to look; new images need none."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import nn

from hybrid.deep.classification.augmentation import NO_AUGMENTATION, Augmentation
from hybrid.deep.classification.classifier import ImageClassifier
from hybrid.deep.classification.inputs import SliceInput, VolumeInput
from hybrid.deep.classification.localisation import LocalisingNetwork, place_loss, prepare_mask
from hybrid.deep.classification.networks import build_classifier, classifier_architecture
from hybrid.deep.classification.training import (
    ClassifierSettings,
    PreparedImage,
    _Images,
    train_network,
)
from hybrid.deep.explain import slice_map
from hybrid.errors import GeometryError, InputError

SLICE = classifier_architecture("resnet10", dims=2, in_channels=1, classes=2, widen=0.125, max_pool=False)
FAST = ClassifierSettings(epochs=3, batch=6, accelerator="cpu", patience=0, precision="32-true", mask_weight=1.0)


def write(path, values, spacing=(1.0, 1.0, 5.0), direction=None):
    image = sitk.GetImageFromArray(values)
    image.SetSpacing(spacing)
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def scan(tmp_path):
    """A scan of five slices with a lesion of 12 x 8 pixels on slice 2."""
    values = np.random.default_rng(0).normal(40, 10, (5, 48, 64)).astype(np.int16)
    mask = np.zeros(values.shape, np.uint8)
    mask[2, 4:16, 40:48] = 6
    return write(tmp_path / "scan.nii.gz", values), write(tmp_path / "mask.nii.gz", mask)


@pytest.fixture
def outlined(tmp_path):
    """Prepared slices, half of them with a bright square and its mask."""
    rng, found = np.random.default_rng(0), []
    for number in range(24):
        values, mask = rng.normal(0, 0.2, (1, 64, 64)), np.zeros((1, 64, 64), np.uint8)
        if number % 2:
            row, column = rng.integers(4, 44, 2)
            values[:, row : row + 12, column : column + 12] += 1.0
            mask[:, row : row + 12, column : column + 12] = 255
        np.save(tmp_path / f"{number}.npy", values.astype(np.float16))
        np.save(tmp_path / f"{number}-mask.npy", mask)
        files = tmp_path / f"{number}.npy", tmp_path / f"{number}-mask.npy"
        found.append(PreparedImage(f"i{number}", files[0], number % 2, f"content{number}", files[1]))
    return found


def test_mask_of_a_slice_lies_where_the_lesion_of_the_prepared_slice_lies(scan):
    shares = prepare_mask(SliceInput(size=(64, 64)), *scan, 2)
    assert shares.shape == (1, 64, 64)
    rows, columns = np.nonzero(shares[0] > 0.5)
    # 48 rows are padded to 64: eight above and below.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 23, 40, 47)
    assert not prepare_mask(SliceInput(size=(64, 64)), *scan, 1).any()


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_mask_is_turned_and_resampled_as_the_image_is(tmp_path, fit):
    values = np.full((3, 40, 60), -1000, np.int16)
    values[1, 5:20, 10:40] = 100
    turned = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
    image = write(tmp_path / "i.nii.gz", values, (0.5, 0.8, 3.0), turned)
    mask = write(tmp_path / "m.nii.gz", (values > 0).astype(np.uint8), (0.5, 0.8, 3.0), turned)
    chosen = SliceInput(size=(32, 32), fit=fit)
    shares, seen = prepare_mask(chosen, image, mask, 1)[0], chosen.read(image, 1)[0]
    inside, outside = seen[shares > 0.99], seen[shares < 0.01]
    assert inside.min() > 0.5
    assert outside.max() < -0.5
    assert len(inside) > 50


def test_mask_of_a_volume_lies_on_the_grid_of_the_volume(scan):
    shares = prepare_mask(VolumeInput((10, 24, 32)), *scan)
    assert shares.shape == (1, 10, 24, 32)
    assert shares[0, 4:6, 3:7, 21:23].min() > 0.5
    assert not shares[0, :, 12:].any()


def test_mask_of_another_scan_is_refused(scan, tmp_path):
    other = write(tmp_path / "other.nii.gz", np.ones((5, 48, 64), np.uint8), (2.0, 2.0, 9.0))
    with pytest.raises(GeometryError, match="do not belong together"):
        prepare_mask(SliceInput(size=(32, 32)), scan[0], other, 2)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["resnet10", "resnet50"])
def test_scores_are_those_of_the_plain_network(name, dims):
    trunk = build_classifier(classifier_architecture(name, dims=dims, in_channels=1, classes=2, widen=0.125))
    both = LocalisingNetwork(trunk).eval()
    images = torch.randn(2, 1, *(64,) * dims)
    scores, cells = both(images)
    assert torch.equal(scores, trunk(images))
    assert cells.shape == (2, 1, *(4,) * dims)


def test_loss_of_places_is_small_where_cells_agree_with_the_mask():
    masks = torch.zeros(2, 1, 32, 32)
    masks[0, 0, 3:5, 20:30] = 1
    right = torch.full((2, 1, 4, 4), -9.0)
    right[0, 0, 0, 2:] = 9.0
    assert place_loss(right, masks) < 0.01
    assert place_loss(-right, masks) > 8
    assert place_loss(torch.zeros(2, 1, 4, 4), masks).item() == pytest.approx(np.log(2), rel=1e-6)


def test_images_without_a_mask_add_nothing_to_the_loss_of_places():
    masks = torch.full((2, 1, 32, 32), -1.0)
    cells = torch.randn(2, 1, 4, 4, requires_grad=True)
    assert place_loss(cells, masks).item() == 0
    masks[0] = 0
    changed = cells.detach().clone()
    changed[1] += 5
    assert place_loss(cells, masks).item() == place_loss(changed, masks).item()


def test_mask_moves_with_its_image(outlined):
    settings = replace(FAST, augmentation=Augmentation(mirror=(1,), noise=0, blur=0, probability=1.0))
    dataset = _Images([image for image in outlined if image.target], settings, 0)
    for number in range(len(dataset)):
        values, _, mask = dataset[(0, number)]
        inside = mask[0] > 0.9
        assert values[0][inside].mean() > values[0][mask[0] < 0.1].mean() + 0.4
        assert values.shape == mask.shape


def test_intensity_changes_leave_the_mask_alone(outlined):
    calm = replace(NO_AUGMENTATION, noise=0.5, brightness=0.5, contrast=0.5, probability=1.0)
    _, _, mask = _Images(outlined, replace(FAST, augmentation=calm), 0)[(0, 1)]
    assert np.allclose(mask, outlined[1].load_mask(), atol=1e-5)


def test_training_with_masks_returns_a_plain_network_that_resumes_bit_for_bit(outlined, tmp_path):
    whole = train_network(SLICE, outlined[:18], outlined[18:], tmp_path / "a", FAST, progress=False)
    assert not any(isinstance(module, LocalisingNetwork) for module in whole.network.modules())
    train_network(SLICE, outlined[:18], outlined[18:], tmp_path / "b", FAST, progress=False, stop_after=1)
    again = train_network(SLICE, outlined[:18], outlined[18:], tmp_path / "b", FAST, progress=False)
    for one, other in zip(whole.network.state_dict().values(), again.network.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_masks_change_what_is_learnt_and_are_not_looked_at_without_a_weight(outlined, tmp_path):
    bare = [replace(image, mask=None) for image in outlined]
    plain = replace(FAST, mask_weight=0.0)
    runs = {
        name: train_network(SLICE, images[:18], images[18:], tmp_path / name, settings, progress=False).network
        for name, images, settings in (
            ("masks", outlined, FAST), ("ignored", outlined, plain), ("none", bare, plain), ("unknown", bare, FAST),
        )
    }  # fmt: skip
    weights = {name: network.conv1.weight for name, network in runs.items()}
    assert torch.equal(weights["ignored"], weights["none"])
    assert torch.equal(weights["unknown"], weights["none"])
    assert not torch.equal(weights["masks"], weights["none"])


def test_negative_weight_of_masks_is_refused():
    with pytest.raises(InputError, match="mask_weight of at least 0"):
        ClassifierSettings(mask_weight=-1)


def test_second_head_starts_alike_and_leaves_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second = (LocalisingNetwork(build_classifier(SLICE)) for _ in range(2))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(first.places.weight, second.places.weight)
    assert isinstance(first.places, nn.Conv2d)


def test_mask_and_map_lie_right_where_a_constant_border_is_cut_off(tmp_path):
    values = np.full((3, 60, 70), -1000, np.int16)
    values[:, 10:50, 20:60] = np.random.default_rng(0).integers(-200, 40, (3, 40, 40))
    values[1, 20:30, 40:50] = 300
    mask = np.zeros(values.shape, np.uint8)
    mask[1, 20:30, 40:50] = 1
    image, outline = write(tmp_path / "i.nii.gz", values), write(tmp_path / "m.nii.gz", mask)
    chosen = SliceInput(size=(40, 40), windows=((100, 400),), crop_border=True)
    shares = prepare_mask(chosen, image, outline, 1)[0]
    assert np.array_equal(shares > 0.5, chosen.read(image, 1)[0] > 0.9)
    classifier = ImageClassifier(chosen, ("no", "yes"), (build_classifier(SLICE),), ({},))
    found = slice_map(classifier, image, 1, target="yes", layer="layer2")
    inside = np.zeros((60, 70), bool)
    inside[10:50, 20:60] = True
    assert found.values.shape == (60, 70)
    assert not found.values[~inside].any()
