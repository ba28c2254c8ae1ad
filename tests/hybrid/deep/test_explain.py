"""Maps of this package's own networks end on the structure of the source image that they were made from."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image
from torch import nn

from hybrid.deep.classification.classifier import ImageClassifier
from hybrid.deep.classification.inputs import SliceInput, VolumeInput, read_slice
from hybrid.deep.classification.networks import build_classifier, classifier_architecture
from hybrid.deep.embeddings import load_encoder
from hybrid.deep.explain import (
    canonical_plane,
    explain_encoder,
    explain_lesion,
    explain_volume,
    slice_map,
    stored_plane,
    to_source_grid,
)
from hybrid.deep.segmentation.lesion_classes import train_lesion_classifier
from hybrid.errors import InputError
from hybrid.images import read_image, to_array

DIRECTIONS = {
    "plain": (1, 0, 0, 0, 1, 0, 0, 0, 1), "flipped": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "coronal": (1, 0, 0, 0, 0, 1, 0, -1, 0), "turned": (0, 1, 0, -1, 0, 0, 0, 0, 1),
}  # fmt: skip


def scan(direction=DIRECTIONS["plain"], shape=(12, 40, 50), spacing=(1.5, 2.0, 4.0), seed=0):
    """A volume with a bright box off the middle, and its mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(shape, np.uint8)
    mask[4:7, 24:31, 9:16] = 1
    images = []
    for values in (rng.normal(0, 3, shape).astype(np.float32) + 100 * mask, mask):
        image = sitk.GetImageFromArray(values)
        image.SetSpacing(spacing)
        image.SetOrigin((-12.0, 31.0, 7.0))
        image.SetDirection(direction)
        images.append(image)
    return images


def sees_brightness(classifier_network):
    """Turn a network into one that adds up brightness: its map must then lie on what is bright."""
    with torch.no_grad():
        for module in classifier_network.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                module.weight.zero_()
                centre = tuple(n // 2 for n in module.kernel_size)
                module.weight[(slice(None), slice(None), *centre)] = 1 / module.weight.shape[1]
            if isinstance(module, nn.Linear):
                module.bias.zero_()
                module.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand_as(module.weight))
    return classifier_network.eval()


def classifier(chosen):
    dims = len(chosen.size)
    options = {"first_stride": 1, "max_pool": False, "first_kernel": 3, "widen": 0.0625}
    network = build_classifier(
        classifier_architecture("resnet10", dims=dims, in_channels=chosen.shape[0], classes=2, **options)
    )
    return ImageClassifier(chosen, ("normal", "bright"), (sees_brightness(network),), ({},))


def test_resampled_images_come_back_to_their_own_grid():
    """There and back: the centre of mass of a blob stays, whatever the fit and the size."""
    rows, columns = np.indices((37, 60))
    blob = np.exp(-((rows - 22) ** 2 + (columns - 41) ** 2) / 30).astype(np.float32)
    for fit, size in (("pad", (48, 48)), ("stretch", (64, 32)), ("pad", (30, 90))):
        chosen = SliceInput(size=size, intensity="robust", fit=fit)
        image = sitk.GetImageFromArray(blob[None])
        image.SetSpacing((0.7, 1.1, 5.0))
        prepared = (chosen.prepare(image)[0] + 1) / 2
        back = to_source_grid(prepared, blob.shape, (1.1, 0.7), size, fit)
        assert back.shape == blob.shape
        found = [float((back * axis).sum() / back.sum()) for axis in (rows, columns)]
        expected = [float((blob * axis).sum() / blob.sum()) for axis in (rows, columns)]
        assert found == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_planes_are_turned_as_slices_are_read_and_back(tmp_path, name):
    image, _ = scan(DIRECTIONS[name])
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    stored = to_array(image)[5]
    read = read_slice(tmp_path / "a.nii.gz", 5).values[0]
    np.testing.assert_allclose(canonical_plane(stored, image), read, rtol=1e-6)
    np.testing.assert_allclose(stored_plane(read, image), stored, rtol=1e-6)


@pytest.mark.parametrize("method", ["gradcam", "gradcam++"])
def test_the_map_of_a_slice_lies_on_what_the_network_sees(tmp_path, method):
    image, mask = scan(DIRECTIONS["turned"])
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    model = classifier(SliceInput(size=(64, 64), intensity="robust"))
    found = slice_map(model, tmp_path / "a.nii.gz", 5, target="bright", layer="layer2", method=method)
    inside = canonical_plane(to_array(mask)[5] > 0, image)
    peak = np.unravel_index(found.values.argmax(), found.values.shape)
    assert np.linalg.norm(np.argwhere(inside) - peak, axis=1).min() <= 2
    assert found.values.shape == found.grey.shape == inside.shape
    assert found.grey[inside].mean() > 90
    with pytest.raises(InputError, match="explain_volume"):
        slice_map(classifier(VolumeInput((16, 16, 16))), tmp_path / "a.nii.gz", 5, target="bright")
    with pytest.raises(InputError, match="dark"):
        slice_map(model, tmp_path / "a.nii.gz", 5, target="dark")


@pytest.mark.parametrize("name", ["plain", "coronal"])
def test_the_map_of_a_volume_lies_on_its_grid(tmp_path, name):
    image, mask = scan(DIRECTIONS[name])
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    model = classifier(VolumeInput((32, 32, 32)))
    found = explain_volume(model, tmp_path / "a.nii.gz", tmp_path, target="bright", layer="layer2", case_id="a")
    written = read_image(found.nifti)
    assert written.GetSize() == image.GetSize()
    assert written.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)
    peak = np.unravel_index(to_array(written).argmax(), to_array(written).shape)
    spacing = np.array(image.GetSpacing()[::-1])
    assert np.linalg.norm((np.argwhere(to_array(mask) > 0) - peak) * spacing, axis=1).min() <= 6
    assert np.asarray(Image.open(found.picture)).std() > 10
    assert found.explained == "bright"


def test_the_lesion_classifier_of_a_cascade_is_explained(tmp_path):
    """Bright and dark lesions are told apart, and the map has its maximum near the lesion on the source grid."""
    from hybrid.deep.segmentation.lesion_classes import default_preprocessing, lesion_input

    preprocessing = default_preprocessing("ct")
    inputs, names, scans = [], [], []
    for number in range(8):
        image, mask = scan(shape=(24, 40, 50), spacing=(1.5, 1.5, 2.0), seed=number)
        bright = number % 2 == 0
        image = image if bright else image - 200 * sitk.Cast(mask, sitk.sitkFloat32)
        scans.append((image, mask))
        inputs.append(lesion_input(image, mask, preprocessing))
        names.append("bright" if bright else "dark")
    trained = train_lesion_classifier(inputs, names, epochs=3, batch_size=4)
    image, mask = scans[0]
    found = explain_lesion(trained, image, mask, tmp_path, layer="layer2", case_id="case", target="bright")
    assert found.saliency.layer == "layer2"
    assert found.explained == "bright"
    values = to_array(read_image(found.nifti))
    assert values.shape == to_array(image).shape
    assert 0 < values.max() <= 1
    assert found.picture.is_file()
    assert explain_lesion(trained, image, mask, tmp_path).saliency.layer == "layer4"
    with pytest.raises(InputError, match="grey"):
        explain_lesion(trained, image, mask, tmp_path, target="grey")


def test_an_embedding_is_explained_along_any_direction(tmp_path):
    image, mask = scan(shape=(24, 40, 50), spacing=(1.5, 1.5, 2.0))
    encoder = load_encoder("bundled", modality="mr")
    own = explain_encoder(encoder, image, mask, tmp_path, case_id="own", layer="layer2")
    assert own.explained == "embedding"
    embedding = np.array(list(encoder.embed(image, mask).values()))
    same = explain_encoder(
        encoder, image, mask, tmp_path, case_id="same", layer="layer2", direction=3 * embedding, name="score"
    )
    assert same.explained == "score"
    np.testing.assert_allclose(same.saliency.values, own.saliency.values, atol=1e-4)
    assert own.saliency.score == pytest.approx(np.linalg.norm(embedding), rel=1e-4)
    other = explain_encoder(encoder, image, mask, tmp_path, case_id="minus", layer="layer2", direction=-embedding)
    assert np.abs(other.saliency.values - own.saliency.values).max() > 0.1
    written = read_image(own.nifti)
    assert written.GetSize() == image.GetSize()
    for wrong in (np.zeros(encoder.dim), np.ones(3), np.full(encoder.dim, np.nan)):
        with pytest.raises(InputError, match="direction"):
            explain_encoder(encoder, image, mask, tmp_path, direction=wrong)


def test_a_real_sarcoma_is_explained_on_its_mri(benchmarks, tmp_path):
    folder = benchmarks / "sts_cohort" / "STS_001"
    image, mask = read_image(folder / "MR_T1.nii.gz"), read_image(folder / "MR_T1_gtv.nii.gz")
    found = explain_encoder(load_encoder("bundled", modality="mr"), image, mask > 0, tmp_path, case_id="STS_001")
    values, inside = to_array(read_image(found.nifti)), to_array(mask) > 0
    assert values.shape == inside.shape
    assert values[inside].mean() > 3 * values[~inside].mean()
    assert np.asarray(Image.open(found.picture)).std() > 10
