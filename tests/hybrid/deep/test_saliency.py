from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.networks.nets import DenseNet121
from monai.visualize import GradCAM
from PIL import Image
from torch import nn

from hybrid.deep import Preprocessing, build_network, crop_lesion, network_input
from hybrid.deep.saliency import (
    Saliency,
    gradcam_plus_plus,
    list_layers,
    pointing_score,
    randomisation_check,
    randomised_copy,
    saliency_map,
)
from hybrid.deep.saliency_pictures import crop_grid, mosaic_png, overlay_png, write_saliency
from hybrid.errors import GeometryError, InputError
from hybrid.images import index_to_point, read_image, to_array


def blobs(n: int, axes: int, seed: int, *, size: int, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise; every second image holds a bright ball somewhere. Images, classes, masks."""
    rng = np.random.default_rng(seed)
    classes = np.arange(n) % 2
    images = rng.normal(0, 0.3, (n, 1, *[size] * axes)).astype(np.float32)
    masks = np.zeros((n, *[size] * axes), bool)
    grid = np.stack(np.meshgrid(*[np.arange(size)] * axes, indexing="ij"), axis=-1)
    for i in np.flatnonzero(classes):
        centre = rng.uniform(radius, size - 1 - radius, axes)
        masks[i] = ((grid - centre) ** 2).sum(axis=-1) <= radius**2
        images[i, 0][masks[i]] += 2
    return images, classes, masks


def small_network(axes: int) -> nn.Sequential:
    conv, pool = (nn.Conv2d, nn.AdaptiveAvgPool2d) if axes == 2 else (nn.Conv3d, nn.AdaptiveAvgPool3d)
    return nn.Sequential(
        conv(1, 8, 3, 2, 1), nn.ReLU(inplace=True), conv(8, 16, 3, 2, 1), nn.ReLU(inplace=True), pool(1), nn.Flatten(),
        nn.Linear(16, 2),
    )  # fmt: skip


SETTINGS = {2: {"size": 32, "radius": 3.0}, 3: {"size": 20, "radius": 3.5}}


@pytest.fixture(scope="module", params=[2, 3], ids=["2d", "3d"])
def trained(request):
    """A network that tells images with a ball from images without, and new images with a ball and their masks."""
    axes = request.param
    torch.manual_seed(0)
    network = small_network(axes)
    images, classes, _ = blobs(64, axes, 0, **SETTINGS[axes])
    x, y = torch.from_numpy(images), torch.from_numpy(classes)
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(120):
        batch = torch.randperm(len(y))[:16]
        loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    new, truth, masks = blobs(40, axes, 1, **SETTINGS[axes])
    with torch.no_grad():
        right = (network(torch.from_numpy(new)).argmax(dim=1).numpy() == truth).mean()
    assert right > 0.9
    return network.eval(), new[truth == 1], masks[truth == 1]


@pytest.fixture(scope="module")
def resnet() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(build_network("narrow", in_channels=1), nn.Linear(128, 3)).eval()


def features_and_gradient(network, image, layer, target):
    """What the definition needs, with autograd alone and without the code under test."""
    kept = {}
    handle = network.get_submodule(layer).register_forward_hook(lambda _m, _i, output: kept.update(a=output))
    scores = network(torch.from_numpy(image)[None])
    handle.remove()
    gradient = torch.autograd.grad(scores[0, target], kept["a"])[0]
    return kept["a"].detach().double().numpy()[0], gradient.double().numpy()[0]


def volume(seed: int = 0, size: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, size, size, size)).astype(np.float32)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
def test_maximum_lies_in_the_object_in_most_images(trained, method):
    network, images, masks = trained
    maps = [saliency_map(network, image, target=1, method=method) for image in images]
    result = pointing_score(maps, masks, 1.0, tolerance_mm=1.0)
    assert result.score >= 0.8
    assert result.chance < 0.1
    assert all(saliency.values.shape == image.shape[1:] for saliency, image in zip(maps, images, strict=True))
    assert all(saliency.values.min() >= 0 and saliency.values.max() == 1 for saliency in maps)


def test_map_is_centred_on_the_object_not_shifted_by_half_a_cell(trained):
    network, images, masks = trained
    axes = masks.ndim - 1
    centres = []
    for image, mask in zip(images, masks, strict=True):
        values = saliency_map(network, image, target=1).values.astype(float) ** 4
        where = np.stack(np.meshgrid(*[np.arange(n) for n in values.shape], indexing="ij"), axis=-1).reshape(-1, axes)
        centres.append((values.ravel() @ where) / values.sum() - np.argwhere(mask).mean(axis=0))
    # Cells are 4 voxels apart: stretching them to the input would shift the maps by 1.5 voxels.
    assert np.abs(np.mean(centres, axis=0)).max() < 0.75


def test_random_weights_change_the_map(trained):
    network, images, _ = trained
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    table = randomisation_check(network, list(images[:6]), targets=[1] * 6, copies=3)
    assert list(table.columns) == ["image", "copy", "target", "layer", "correlation", "changed"]
    assert len(table) == 18
    assert table["correlation"].mean() < 0.5
    assert table["changed"].mean() > 0.6
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_randomisation_check_sees_a_map_that_does_not_depend_on_weights():
    """The features are the image itself and the weights of one class all alike: nothing learnt can show."""

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.stage = nn.ReLU()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.stage(x).mean(dim=(2, 3)) * self.scale

    images, _, _ = blobs(4, 2, 3, size=16, radius=3.0)
    table = randomisation_check(Fixed(), list(images))
    assert (table["correlation"] > 0.999).all()
    assert not table["changed"].any()


def test_equals_gradcam_computed_by_hand(resnet):
    image = volume()
    for layer in ("0.layer4", "0.layer2"):
        features, gradient = features_and_gradient(resnet, image, layer, 2)
        expected = np.zeros(features.shape[1:])
        for channel in range(len(features)):
            expected += gradient[channel].mean() * features[channel]
        found = saliency_map(resnet, image, target=2, layer=layer)
        np.testing.assert_allclose(found.cells, np.maximum(expected, 0), rtol=1e-4, atol=1e-9)


def test_equals_monai(resnet):
    image = volume(1)
    reference = GradCAM(resnet, "0.layer3").compute_map(torch.from_numpy(image)[None], class_idx=1)
    found = saliency_map(resnet, image, target=1, layer="0.layer3")
    np.testing.assert_allclose(found.cells, reference.detach().numpy()[0, 0], rtol=1e-4, atol=1e-9)


def test_equals_gradcam_plus_plus_computed_by_hand(resnet):
    image = volume(2)
    features, gradient = features_and_gradient(resnet, image, "0.layer3", 0)
    expected = np.zeros(features.shape[1:])
    for a, g in zip(features, gradient, strict=True):
        alpha = np.zeros(a.shape)
        for i in np.ndindex(a.shape):
            if g[i] != 0:
                alpha[i] = g[i] ** 2 / (2 * g[i] ** 2 + a.sum() * g[i] ** 3)
        expected += (alpha * np.maximum(g, 0)).sum() * a
    found = saliency_map(resnet, image, target=0, layer="0.layer3", method="gradcam++")
    np.testing.assert_allclose(found.cells, np.maximum(expected, 0), rtol=1e-4, atol=1e-9)


def test_gradcam_plus_plus_weighs_objects_of_different_size_alike():
    """Figure 2 of Chattopadhay et al. 2018: Grad-CAM fades a small object, Grad-CAM++ does not."""
    features = np.zeros((2, 8, 8))
    features[0, :4, :4] = 1
    features[1, 7, 7] = 1
    found = gradcam_plus_plus(features, np.where(features > 0, 1.0, 0.0))
    # One map of 16 cells: 16 / (2 + 16); one of a single cell: 1 / (2 + 1).
    assert found[0, 0] == pytest.approx(16 / 18)
    assert found[7, 7] == pytest.approx(1 / 3)


def test_default_layer_is_the_last_stage_and_is_stated(resnet):
    image = volume()
    found = saliency_map(resnet, image)
    assert found.layer == "0.layer4"
    assert "3 x 3 x 3 cells, one every 16 x 16 x 16 voxels" in found.describe()
    table = list_layers(resnet, image)
    assert table.loc[table["default"], "layer"].tolist() == ["0.layer4"]
    assert table.set_index("layer").loc["0.layer2", "cells"] == "12 x 12 x 12"
    dense = DenseNet121(spatial_dims=2, in_channels=1, out_channels=2)
    assert saliency_map(dense, volume(size=64)[:, 0]).layer == "class_layers.relu"


def test_works_in_front_of_an_inplace_activation(resnet):
    dense = DenseNet121(spatial_dims=2, in_channels=1, out_channels=2).eval()
    image = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    features = dense.features(torch.from_numpy(image)[None]).detach().requires_grad_()
    gradient = torch.autograd.grad(dense.class_layers(features.clone())[0, 1], features)[0]
    expected = torch.relu((gradient.mean((2, 3), keepdim=True) * features).sum(1))[0]
    found = saliency_map(dense, image, target=1, layer="features")
    np.testing.assert_allclose(found.cells, expected.detach().numpy(), rtol=1e-3, atol=1e-7)


def test_network_is_left_as_it_was():
    network = small_network(2)
    network[0].requires_grad_(False)
    network.train()
    network[2].eval()
    image = np.zeros((1, 32, 32), np.float32)
    network(torch.from_numpy(image)[None]).sum().backward()
    gradient = network[6].weight.grad.clone()
    saliency_map(network, image)
    assert [module.training for module in network] == [True, True, False, True, True, True, True]
    assert torch.equal(network[6].weight.grad, gradient)
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
    frozen = network.requires_grad_(False)
    assert saliency_map(frozen, image).cells.shape == (8, 8)


@pytest.mark.parametrize(
    ("size", "stride", "kernel", "padding", "step", "offset"),
    [(33, 2, 3, 1, 2.0, 0.0), (32, 2, 2, 0, 2.0, 0.5), (32, 1, 5, 0, 1.0, 2.0), (32, 4, 4, 0, 4.0, 1.5)],
)
def test_cells_are_placed_where_they_look(size, stride, kernel, padding, step, offset):
    """The voxels that change a cell lie around the position that is given for it."""
    network = nn.Sequential(
        nn.Conv2d(1, 2, kernel, stride, padding), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    found = saliency_map(network, np.ones((1, size, size), np.float32))
    assert found.step == (step, step)
    assert found.offset == (offset, offset)
    x = torch.zeros(1, 1, size, size, requires_grad=True)
    network[0](x)[0, 0, 3, 5].backward()
    touched = np.argwhere(x.grad[0, 0].numpy() != 0)
    np.testing.assert_allclose((touched.min(axis=0) + touched.max(axis=0)) / 2, [offset + 3 * step, offset + 5 * step])


def test_resnet_cells_look_where_stated(resnet):
    image = torch.from_numpy(volume()).requires_grad_()
    found = saliency_map(resnet, image, layer="0.layer2")
    kept = {}
    handle = resnet[0].layer2.register_forward_hook(lambda _m, _i, output: kept.update(a=output))
    resnet(image[None])
    handle.remove()
    kept["a"][0, :, 6, 6, 6].sum().backward()
    weight = np.abs(image.grad[0].numpy())
    centre = [(weight.sum(axis=tuple({0, 1, 2} - {axis})) @ np.arange(48)) / weight.sum() for axis in range(3)]
    np.testing.assert_allclose(centre, found.offset[0] + 6 * found.step[0], atol=1.0)


def test_single_output_explains_the_positive_class():
    network = small_network(2)
    network[6] = nn.Linear(16, 1)
    found = saliency_map(network, np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.float32))
    assert found.target == 0


def test_nothing_that_speaks_for_the_class_gives_a_map_of_zeros():
    network = small_network(2)
    with torch.no_grad():
        network[6].weight[:] = -1
    found = saliency_map(network, np.ones((1, 32, 32), np.float32), target=1)
    assert found.is_flat
    assert not found.values.any()
    assert "nothing there speaks" in found.describe()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gradcamm"}, "saliency method"),
        ({"layer": "9"}, "layer with positions"),
        ({"target": 5}, "2 outputs"),
        ({"image_tensor": np.ones((2, 1, 8, 8, 8), np.float32)}, "one input of shape"),
        ({"image_tensor": np.full((1, 32, 32), np.nan, np.float32)}, "NaN"),
        ({"network": nn.Sequential(nn.Conv2d(1, 2, 3))}, "one row of scores"),
        ({"network": nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))}, "No layer"),
    ],
)
def test_bad_input_is_refused(change, message):
    arguments = {"network": small_network(2), "image_tensor": np.ones((1, 32, 32), np.float32), **change}
    network, image = arguments.pop("network"), arguments.pop("image_tensor")
    with pytest.raises(InputError, match=message):
        saliency_map(network, image, **arguments)


def test_randomised_copy_changes_every_weight_and_repeats_with_its_seed(trained):
    network, _, _ = trained
    first, again, other = (randomised_copy(network, seed=seed) for seed in (0, 0, 1))
    for own, a, b, c in zip(
        network.parameters(), first.parameters(), again.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert not torch.equal(a, own)


def test_pointing_score_counts_distance_in_millimetres():
    mask = np.zeros((10, 40, 40), bool)
    mask[5, 20, 20] = True
    near, far, flat = np.zeros(mask.shape), np.zeros(mask.shape), np.zeros(mask.shape)
    near[8, 20, 20] = 1  # 3 slices of 5 mm
    far[5, 36, 20] = 1  # 16 rows of 1 mm
    result = pointing_score([near, far, flat], [mask] * 3, (5.0, 1.0, 1.0))
    np.testing.assert_allclose(result.table["distance_mm"], [15.0, 16.0, np.nan])
    assert result.table["hit"].tolist() == [True, False, False]
    assert result.score == pytest.approx(1 / 3)
    # Wilson's interval of 1 of 3 by its formula, z = 1.96: 0.0615 to 0.7923.
    assert (result.lower, result.upper) == (pytest.approx(0.0615, abs=1e-4), pytest.approx(0.7923, abs=1e-4))
    assert result.centre == 1.0


def test_pointing_score_of_random_points_is_its_chance():
    rng = np.random.default_rng(0)
    mask = np.zeros((30, 30), bool)
    mask[3:7, 4:9] = True
    result = pointing_score(list(rng.random((600, 30, 30))), [mask] * 600, 2.0, tolerance_mm=8.0)
    assert result.chance == pytest.approx(result.score, abs=0.06)


@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([], [], "at least one"),
        ([np.ones((3, 3))], [np.zeros((3, 3))], "at least one voxel"),
        ([np.ones((3, 3))], [np.ones((3, 4))], "of its own shape"),
    ],
)
def test_pointing_score_refuses(maps, masks, message):
    with pytest.raises(InputError, match=message):
        pointing_score(maps, masks, 1.0)


def scan(direction: tuple[float, ...], spacing=(0.8, 1.1, 3.0), size=(50, 44, 20)) -> tuple[sitk.Image, sitk.Image]:
    """A volume with a bright box away from the middle, stored along the given axes."""
    rng = np.random.default_rng(0)
    mask = np.zeros(size[::-1], np.uint8)
    mask[4:7, 28:36, 8:18] = 1
    images = []
    for values in (rng.normal(0, 10, mask.shape).astype(np.float32) + 100 * mask, mask):
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(spacing)
        image.SetOrigin((-12.0, 31.0, 7.0))
        image.SetDirection(direction)
        images.append(image)
    return images[0], images[1]


ANGLE = np.deg2rad(20)
DIRECTIONS = {
    "plain": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "flipped": (-1, 0, 0, 0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, 1, 0, -1, 0),
    "oblique": (np.cos(ANGLE), -np.sin(ANGLE), 0, np.sin(ANGLE), np.cos(ANGLE), 0, 0, 0, 1),
}


@pytest.mark.parametrize("name", DIRECTIONS)
def test_nifti_lies_on_the_grid_of_the_source(tmp_path, name):
    image, mask = scan(DIRECTIONS[name])
    crop = crop_lesion(image, mask, Preprocessing(size=32, spacing_mm=1.0))
    path = write_saliency(crop.mask, image, tmp_path / "map.nii.gz", grid=crop_grid(crop))
    written = read_image(path)
    assert written.GetSize() == image.GetSize()
    np.testing.assert_allclose(written.GetOrigin(), image.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(written.GetDirection(), image.GetDirection(), atol=1e-5)
    # The crop's own mask comes back onto the mask it was made from: same place in millimetres, nothing outside.
    values, region = to_array(written), to_array(mask) > 0
    found = index_to_point(written, np.argwhere(values > 0.5)[:, ::-1]).mean(axis=0)
    expected = index_to_point(mask, np.argwhere(region)[:, ::-1]).mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=0.3)
    assert values[region].mean() > 0.7
    assert values[~region].mean() < 0.02


def test_nifti_of_the_source_grid_itself_and_of_one_slice(tmp_path):
    image, _ = scan(DIRECTIONS["flipped"])
    values = np.random.default_rng(1).random(to_array(image).shape).astype(np.float32)
    np.testing.assert_array_equal(to_array(read_image(write_saliency(values, image, tmp_path / "a.nii.gz"))), values)
    path = write_saliency(values[6], image, tmp_path / "b.nii.gz", grid=image[:, :, 6:7])
    written = to_array(read_image(path))
    np.testing.assert_allclose(written[6], values[6], atol=1e-6)
    assert not np.delete(written, 6, axis=0).any()
    with pytest.raises(GeometryError, match="axes"):
        write_saliency(values[6], image, tmp_path / "c.nii.gz")
    with pytest.raises(GeometryError, match="shape"):
        write_saliency(values[:5], image, tmp_path / "c.nii.gz")


def test_map_of_a_network_ends_on_the_lesion_of_the_source(tmp_path):
    """From scan to crop to map to NIfTI: a network that sees brightness points at the bright box in the scan."""
    image, mask = scan(DIRECTIONS["coronal"])
    everything = sitk.Image(mask) * 0 + 1  # so that the lesion is not in the middle of the crop
    preprocessing = Preprocessing(size=48, margin_mm=0.0, modality="mr")
    crop = crop_lesion(image, everything, preprocessing)
    network = small_network(3)
    with torch.no_grad():
        for layer in (network[0], network[2]):
            layer.weight[:] = 1 / layer.weight[0].numel()
            layer.bias[:] = 0
        network[6].weight[:] = 1
    found = saliency_map(network, network_input(crop, preprocessing))
    written = read_image(write_saliency(found, image, tmp_path / "map.nii.gz", grid=crop_grid(crop)))
    distance = pointing_score([to_array(written)], [to_array(mask)], image.GetSpacing()[::-1]).table["distance_mm"]
    assert distance[0] <= 2.0


def colours(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_overlay_shows_the_map_in_colour_where_it_is_high(tmp_path):
    grey = np.tile(np.linspace(0, 1, 60), (40, 1))
    heat = np.zeros((40, 60))
    plain = colours(overlay_png(grey, heat, tmp_path / "plain.png", title="No evidence"))
    heat[10:20, 30:40] = 1
    shown = colours(overlay_png(grey, heat, tmp_path / "shown.png", title="Evidence", outline=heat > 0.5))
    assert plain.shape == shown.shape
    changed = np.abs(plain - shown).sum(axis=2) > 60
    assert 0.005 < changed.mean() < 0.1
    with pytest.raises(InputError, match="one shape"):
        overlay_png(grey, heat[:20], tmp_path / "bad.png")
    with pytest.raises(InputError, match="2D"):
        overlay_png(np.zeros((3, 4, 5)), heat, tmp_path / "bad.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.png", "shown.png"]


def test_mosaic_is_the_same_picture_however_the_scan_is_stored(tmp_path):
    image, mask = scan(DIRECTIONS["plain"], spacing=(1.0, 1.0, 2.0))
    heat = sitk.SmoothingRecursiveGaussian(sitk.Cast(mask, sitk.sitkFloat32), 4.0)
    pictures = []
    for order in ("LPS", "RAI", "PSL"):
        turned, values, region = (sitk.DICOMOrient(volume, order) for volume in (image, heat, mask))
        scaled = to_array(values) / to_array(values).max()
        path = mosaic_png(turned, scaled, tmp_path / f"{order}.png", title="Same scan", outline=region)
        pictures.append(colours(path))
    for other in pictures[1:]:
        assert np.abs(other - pictures[0]).max() <= 2
    with pytest.raises(InputError, match="one 3D shape"):
        mosaic_png(image, np.zeros((2, 2, 2)), tmp_path / "bad.png")


def test_saliency_objects_are_drawn_as_they_are(tmp_path, trained):
    network, images, masks = trained
    found = saliency_map(network, images[0], target=1)
    assert isinstance(found, Saliency)
    if masks.ndim == 3:
        path = overlay_png(images[0][0], found, tmp_path / "map.png", outline=masks[0])
    else:
        path = mosaic_png(sitk.GetImageFromArray(images[0][0]), found, tmp_path / "map.png")
    assert len(np.unique(colours(path).reshape(-1, 3), axis=0)) > 100
