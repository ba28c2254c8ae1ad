from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.losses import DiceCELoss

from hybrid.deep.segmentation import make_plan
from hybrid.deep.segmentation.losses import FULL_VOXELS, MAX_WEIGHT, SegmentationLoss, lesion_weights
from hybrid.deep.segmentation.planning import SegmentationPlan, describe_plan, fingerprint
from hybrid.deep.segmentation.preprocessing import write_training_case
from hybrid.deep.segmentation.training import PatchDataset, PreparedCase, TrainingSettings, train_network
from hybrid.errors import InputError
from hybrid.lesions import label_lesions


def mask_of_three():
    """A large lesion, one of 27 voxels, and a speck, of label 2, in an organ of label 1."""
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[4:36, 4:36, 4:36] = 1
    labels[6:18, 6:18, 6:18] = 2
    labels[25:28, 25:28, 25:28] = 2
    labels[32, 32, 32] = 2
    return labels


@pytest.fixture
def plan():
    image, mask = pair()
    return make_plan(
        [fingerprint(image, mask, case_id="a")], labels={"organ": 1, "lesion": 2}, patch=(16, 16, 16), width=4,
        lesions=("lesion",), foreground_share=1.0,
    )  # fmt: skip


def pair():
    labels = mask_of_three()
    image = sitk.GetImageFromArray((labels * 40.0 + np.random.default_rng(0).normal(0, 5, labels.shape)).astype("f4"))
    return image, sitk.GetImageFromArray(labels)


def test_small_lesions_weigh_more_up_to_a_limit():
    labels = mask_of_three()
    extra = lesion_weights([label_lesions(labels == 2, (1, 1, 1))[0]])
    assert set(np.unique(extra[labels != 2])) == {0}
    assert (extra[7, 7, 7], extra[26, 26, 26], extra[32, 32, 32]) == (0, round(FULL_VOXELS / 27) - 1, MAX_WEIGHT - 1)


def test_without_weights_the_loss_is_dice_and_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 6, 6, generator=generator)
    labels = torch.randint(0, 3, (2, 1, 6, 6, 6), generator=generator)
    known = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True, batch=True)(logits, labels)
    loss = SegmentationLoss()
    torch.testing.assert_close(loss(logits, labels), known)
    torch.testing.assert_close(loss(logits, labels, torch.zeros_like(labels)), known)
    heavy = torch.zeros_like(labels)
    heavy[0, 0, 2, 3, 4] = 9
    voxel = torch.nn.functional.cross_entropy(logits[0, :, 2, 3, 4][None], labels[0, 0, 2, 3, 4][None])
    torch.testing.assert_close(loss(logits, labels, heavy), known + 9 * voxel / labels.numel())


def test_patches_are_centred_on_lesions_of_any_size_equally_often(plan, tmp_path):
    path = tmp_path / "a.npz"
    write_training_case(*pair(), plan, path, case_id="a")
    stored = PreparedCase("a", path).load()
    is_small = (stored["places_2"] >= 20).all(axis=1)
    assert 0.45 < is_small.mean() < 0.55
    assert not (stored["places_2"] == 32).all(axis=1).any()  # the speck is no centre, there are larger lesions
    assert stored["weights"].shape == stored["labels"].shape
    plain = tmp_path / "plain.npz"
    write_training_case(*pair(), replace(plan, lesions=()), plain, case_id="a")
    assert "weights" not in PreparedCase("a", plain).load()
    assert (PreparedCase("a", plain).load()["places_2"] >= 20).all(axis=1).mean() < 0.05


def test_weights_are_cut_and_turned_with_the_labels(plan, tmp_path):
    path = tmp_path / "a.npz"
    write_training_case(*pair(), plan, path, case_id="a")
    dataset = PatchDataset([PreparedCase("a", path)], plan, TrainingSettings(epochs=1), 40)
    seen = set()
    for number in range(40):
        image, labels = dataset[number]
        assert image.shape == (1, 16, 16, 16)
        assert labels.shape == (2, 16, 16, 16)
        assert (labels[1][labels[0] != 2] == 0).all()
        seen |= set(labels[1].unique().tolist())
    assert seen == {0, round(FULL_VOXELS / 27) - 1, MAX_WEIGHT - 1}


def test_a_network_trains_with_weights_and_its_plan_survives(plan, tmp_path):
    cases = []
    for name in "ab":
        path = tmp_path / f"{name}.npz"
        write_training_case(*pair(), plan, path, case_id=name)
        cases.append(PreparedCase(name, path))
    settings = TrainingSettings(epochs=2, steps=3, precision="32-true", accelerator="cpu", monitored=0)
    trained = train_network(plan, cases, [], tmp_path / "run", settings, progress=False)
    assert np.isfinite(trained.curves["train_loss"]).all()
    assert SegmentationPlan.from_dict(plan.to_dict()) == plan
    assert "lesions" not in replace(plan, lesions=()).to_dict()
    assert "lesion" in describe_plan(plan)["value"].tolist()


def test_unknown_lesion_labels_are_refused():
    image, mask = pair()
    with pytest.raises(InputError, match="Unknown label 'mass'"):
        make_plan([fingerprint(image, mask, case_id="a")], labels={"organ": 1, "lesion": 2}, lesions=("mass",))
