import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch

from hybrid.deep.segmentation import training
from hybrid.deep.segmentation.augmentation import cut_patch, random_matrix, random_patch
from hybrid.deep.segmentation.inference import choose_windows
from hybrid.deep.segmentation.preprocessing import voxel_files, write_training_case
from hybrid.deep.segmentation.training import (
    CHECKPOINT,
    PatchDataset,
    PreparedCase,
    TrainingSettings,
    growing_patches,
    train_network,
)
from hybrid.errors import InputError

from .conftest import blob_case

FAST = TrainingSettings(epochs=4, steps=6, precision="32-true", accelerator="cpu", checkpoint_minutes=1e-6)


@pytest.fixture
def cases(plan, tmp_path):
    found = []
    for seed in range(5):
        path = tmp_path / "prepared" / f"c{seed}.npz"
        write_training_case(*blob_case(seed), plan, path, case_id=f"c{seed}")
        found.append(PreparedCase(f"c{seed}", path))
    return found


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_training_learns(plan, cases, tmp_path):
    settings = replace(FAST, epochs=12, steps=15, learning_rate=3e-3, ema=0.9, augment=False)
    trained = train_network(plan, cases[:4], cases[4:], tmp_path / "run", settings, progress=False)
    assert trained.curves["train_loss"].iloc[-1] < 0.6 * trained.curves["train_loss"].iloc[0]
    assert trained.curves["validation_dice"].iloc[-1] > 0.75
    assert list(trained.curves["epoch"]) == list(range(1, 13))


def test_interrupted_training_goes_on_with_equal_curves_and_weights(plan, cases, tmp_path):
    whole = train_network(plan, cases[:4], cases[4:], tmp_path / "a", FAST, progress=False)
    train_network(plan, cases[:4], cases[4:], tmp_path / "b", FAST, progress=False, stop_after=1)
    train_network(plan, cases[:4], cases[4:], tmp_path / "b", FAST, progress=False, stop_after=2)
    resumed = train_network(plan, cases[:4], cases[4:], tmp_path / "b", FAST, progress=False)
    pd.testing.assert_frame_equal(
        whole.curves.drop(columns="seconds"), resumed.curves.drop(columns="seconds"), check_exact=True
    )
    assert same_weights(whole.network, resumed.network)


def test_dice_of_large_scans_is_computed_at_the_first_last_and_some_other_epochs(plan, cases, tmp_path, monkeypatch):
    windows = sum(len(choose_windows(case.load()["image"].shape, plan.patch, 0.25, None)[0]) for case in cases)
    share = windows / (training.WINDOWS_PER_PATCH * FAST.steps * plan.batch) / 3  # affordable after every third epoch
    monkeypatch.setattr(training, "MONITORED_SHARE", 1.01 * share)
    settings = replace(FAST, epochs=8)
    whole = train_network(plan, cases[:4], cases[4:], tmp_path / "a", settings, progress=False)
    known = whole.curves.loc[whole.curves["validation_dice"].notna(), "epoch"]
    assert list(known) == [1, 3, 6, 8]
    assert whole.curves["train_dice"].notna().equals(whole.curves["validation_dice"].notna())
    for stop_after in (2, 3, None):
        resumed = train_network(
            plan, cases[:4], cases[4:], tmp_path / "b", settings, progress=False, stop_after=stop_after
        )
    curves = [trained.curves.drop(columns="seconds") for trained in (whole, resumed)]
    pd.testing.assert_frame_equal(*curves, check_exact=True)


def test_watching_fewer_cases_changes_no_weight(plan, cases, tmp_path):
    six, none = (
        train_network(plan, cases, [], tmp_path / str(n), replace(FAST, monitored=n), progress=False) for n in (6, 0)
    )
    assert six.curves["train_dice"].notna().any()
    assert none.curves["train_dice"].isna().all()
    assert same_weights(six.network, none.network)
    with pytest.raises(InputError, match="counts cases"):
        replace(FAST, monitored=0, patience=3)


def test_early_stopping_counts_only_epochs_with_a_dice(plan, cases, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "MONITORED_SHARE", 1e-9)
    settings = replace(FAST, epochs=40, patience=3, learning_rate=1e-9)
    trained = train_network(plan, cases[:4], cases[4:], tmp_path / "run", settings, progress=False)
    assert trained.epochs < 40
    assert np.isfinite(trained.curves.set_index("epoch").loc[trained.best_epoch, "validation_dice"])


def test_learning_rate_reaches_its_end(plan, cases, tmp_path):
    curves = train_network(plan, cases[:4], [], tmp_path / "run", FAST, progress=False).curves
    assert curves["learning_rate"].iloc[-1] < 0.05 * curves["learning_rate"].max()
    assert curves["validation_dice"].isna().all()


def test_training_ends_on_time_with_the_smallest_learning_rate(plan, cases, tmp_path):
    settings = replace(FAST, epochs=None, minutes=0.1)
    curves = train_network(plan, cases[:4], cases[4:], tmp_path / "run", settings, progress=False).curves
    assert 0.5 * 6 < curves["seconds"].iloc[-1] < 2 * 6
    assert curves["learning_rate"].iloc[-1] < 0.3 * curves["learning_rate"].max()


def test_interrupted_time_limited_training_has_one_schedule(plan, cases, tmp_path):
    settings = replace(FAST, epochs=None, minutes=0.1)
    train_network(plan, cases[:4], cases[4:], tmp_path / "run", settings, progress=False, stop_after=2)
    curves = train_network(plan, cases[:4], cases[4:], tmp_path / "run", settings, progress=False).curves
    assert curves["seconds"].is_monotonic_increasing
    assert curves["learning_rate"].iloc[3:].is_monotonic_decreasing
    assert curves["seconds"].iloc[-1] < 2 * 6


def test_workers_give_the_same_patches(plan, cases, tmp_path):
    settings = replace(FAST, epochs=1)
    alone = train_network(plan, cases[:4], [], tmp_path / "a", settings, progress=False)
    helped = train_network(plan, cases[:4], [], tmp_path / "b", replace(settings, workers=2), progress=False)
    assert same_weights(alone.network, helped.network)


def test_training_stops_early_without_progress(plan, cases, tmp_path):
    settings = replace(FAST, epochs=40, steps=1, learning_rate=1e-9, patience=3)
    assert len(train_network(plan, cases[:4], cases[4:], tmp_path / "run", settings, progress=False).curves) < 40


def test_checkpoint_of_another_training_is_refused(plan, cases, tmp_path):
    train_network(plan, cases[:4], cases[4:], tmp_path / "run", FAST, progress=False, stop_after=1)
    with pytest.raises(InputError, match="another training") as caught:
        train_network(plan, cases[1:], cases[:1], tmp_path / "run", FAST, progress=False)
    assert CHECKPOINT in str(caught.value.path)
    train_network(plan, cases[1:], cases[:1], tmp_path / "run", FAST, progress=False, resume=False, stop_after=1)


def test_one_case_is_refused(plan, cases, tmp_path):
    with pytest.raises(InputError, match="two cases"):
        train_network(plan, cases[:1], [], tmp_path / "run", FAST)


def test_too_little_memory_is_said_before_the_start(plan, cases, tmp_path, monkeypatch):
    from hybrid.deep.segmentation import training

    class Little:
        available = 2**20

    monkeypatch.setattr(training.psutil, "virtual_memory", Little)
    with pytest.raises(InputError, match=r"needs about .* GiB, 0.0 GiB are free"):
        train_network(plan, cases, [], tmp_path / "run", FAST)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_damaged_file_in_the_middle_of_an_epoch_names_the_case_and_training_goes_on_after_repair(
    plan, cases, tmp_path, which
):
    train_network(plan, cases[:4], cases[4:], tmp_path / "run", FAST, progress=False, stop_after=1)
    damaged = (cases[2].path, *voxel_files(cases[2].path))[which]
    good = damaged.read_bytes()
    damaged.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match="cannot be read") as caught:
        train_network(plan, cases[:4], cases[4:], tmp_path / "run", FAST, progress=False)
    assert caught.value.case_id == "c2"
    assert caught.value.path == str(damaged)
    damaged.write_bytes(good)
    trained = train_network(plan, cases[:4], cases[4:], tmp_path / "run", FAST, progress=False)
    assert len(trained.curves) == 4


def test_a_patch_of_a_mapped_scan_is_that_of_a_read_one(plan, cases):
    stored = cases[0].load()
    assert isinstance(stored["image"], np.memmap)
    assert isinstance(stored["drawn"], np.memmap)
    whole = {**stored, "image": np.array(stored["image"]), "drawn": np.array(stored["drawn"])}
    places = [stored["places_1"], stored["places_2"]]
    for seed in range(5):
        patches = [
            random_patch(arrays["image"], arrays["drawn"], places, plan, [seed], fill=fill)
            for arrays, fill in ((stored, float(stored["minimum"])), (whole, None))
        ]
        assert torch.equal(patches[0][0], patches[1][0])
        assert torch.equal(patches[0][1], patches[1][1])


def test_content_of_a_prepared_case_follows_image_and_labels(plan, tmp_path):
    image, mask = blob_case(0)
    brighter = image + 1.0
    other = sitk.GetImageFromArray(np.where(sitk.GetArrayFromImage(mask) == 2, 1, sitk.GetArrayFromImage(mask)))
    other.CopyInformation(mask)
    pairs = {"a": (image, mask), "b": (image, mask), "c": (brighter, mask), "d": (image, other)}
    ct = replace(plan, modality="ct")
    content = {
        name: write_training_case(*pair, ct, tmp_path / f"{name}.npz", case_id=name)["content"]
        for name, pair in pairs.items()
    }
    assert content["a"] == content["b"]
    assert len(set(content.values())) == 3


def test_settings_refuse_nonsense():
    with pytest.raises(InputError, match="minutes"):
        TrainingSettings(minutes=-1)
    with pytest.raises(InputError, match="not both"):
        TrainingSettings(minutes=1, epochs=3)
    with pytest.raises(InputError, match="growing"):
        TrainingSettings(growing=1.5)
    with pytest.raises(InputError, match="strength"):
        TrainingSettings(strength=-0.1)


def test_a_patch_is_a_function_of_its_seed(plan, cases):
    stored = cases[0].load()
    places = [stored["places_1"], stored["places_2"]]
    first = random_patch(stored["image"], stored["labels"], places, plan, [3, 1])
    second = random_patch(stored["image"], stored["labels"], places, plan, [3, 1])
    other = random_patch(stored["image"], stored["labels"], places, plan, [3, 2])
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_a_calm_patch_is_a_mirrored_crop_of_measured_voxels(plan, cases):
    stored = cases[0].load()
    places = [stored["places_1"]]
    for seed in range(6):
        values, labels = random_patch(stored["image"], stored["labels"], places, plan, [seed], calm=True)
        assert np.isin(values.numpy(), np.append(stored["image"], stored["image"].min()).astype(np.float32)).all()
        assert values.shape == labels.shape == (1, *plan.patch)


def test_calm_end_of_a_training_changes_only_its_last_epochs(plan, cases, tmp_path):
    plain = train_network(plan, cases[:4], [], tmp_path / "a", replace(FAST, calm=0.0), progress=False).curves[
        "train_loss"
    ]
    calm = train_network(plan, cases[:4], [], tmp_path / "b", replace(FAST, calm=0.5), progress=False).curves
    assert list(plain[:2]) == list(calm["train_loss"][:2])
    assert set(plain[2:]).isdisjoint(calm["train_loss"][2:])


def test_growing_patches_go_from_half_the_edges_to_the_whole(plan):
    cube = replace(plan, patch=(32, 32, 32), strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2)))
    sizes = growing_patches(cube)
    assert (sizes[0], sizes[-1]) == ((16, 16, 16), (32, 32, 32))
    assert (24, 24, 24) in sizes
    steps = np.diff(sizes, axis=0)
    assert (steps.sum(axis=1) == 8).all(), "one axis at a time, by what the network divides by"
    flat = growing_patches(replace(cube, patch=(8, 40, 32)))
    assert (flat[0], flat[-1]) == ((8, 24, 16), (8, 40, 32))
    assert growing_patches(replace(cube, patch=(16, 16, 16))) == [(16, 16, 16)], "the deepest level keeps two voxels"


def test_patches_grow_in_the_first_part_of_a_training(plan, cases, tmp_path):
    large = replace(plan, patch=(24, 24, 24))
    settings = replace(FAST, epochs=6, growing=0.5)
    grown = train_network(large, cases[:4], cases[4:], tmp_path / "a", settings, progress=False)
    assert list(grown.curves["patch_voxels"][3:]) == [24**3] * 3
    assert grown.curves["patch_voxels"][:3].is_monotonic_increasing
    assert grown.curves["patch_voxels"][0] < 24**3
    assert np.isfinite(grown.curves["train_loss"]).all()
    train_network(large, cases[:4], cases[4:], tmp_path / "b", settings, progress=False, stop_after=2)
    resumed = train_network(large, cases[:4], cases[4:], tmp_path / "b", settings, progress=False)
    pd.testing.assert_frame_equal(
        grown.curves.drop(columns="seconds"), resumed.curves.drop(columns="seconds"), check_exact=True
    )
    assert same_weights(grown.network, resumed.network)


def test_an_unrotated_patch_is_a_plain_crop():
    image = np.random.default_rng(0).standard_normal((20, 21, 22)).astype(np.float32)
    labels = (image > 1).astype(np.uint8)
    values, region = cut_patch(image, labels, (9.5, 10.5, 11.5), (8, 8, 8), np.eye(3))
    np.testing.assert_array_equal(values[0], image[6:14, 7:15, 8:16])
    np.testing.assert_array_equal(region[0], labels[6:14, 7:15, 8:16])


def test_image_and_labels_are_rotated_together():
    labels = np.zeros((30, 30, 30), np.uint8)
    labels[10:20, 8:22, 12:17] = 1
    matrix = random_matrix((1.0, 1.0, 1.0), np.random.default_rng(2))
    assert not np.allclose(matrix, np.eye(3))
    values, region = cut_patch(labels.astype(np.float32), labels, (14.5, 14.5, 14.5), (24, 24, 24), matrix)
    assert ((values[0] > 0.5) == (region[0] > 0)).float().mean() > 0.99


def test_strength_shortens_the_ranges_of_turning_and_scaling():
    for seed in range(20):
        full, third, none = (
            random_matrix((1.0, 1.0, 1.0), np.random.default_rng(seed), strength=s) for s in (1.0, 1 / 3, 0.0)
        )
        assert np.allclose(none, np.eye(3))
        scale, smaller = (np.cbrt(np.linalg.det(matrix)) - 1 for matrix in (full, third))
        assert smaller == pytest.approx(scale / 3)
        assert np.abs(third / (1 + smaller) - np.eye(3)).max() <= np.abs(full / (1 + scale) - np.eye(3)).max()


def test_patches_are_turned_as_the_settings_say(plan, cases):
    drawn = [
        PatchDataset(cases, plan, replace(FAST, strength=strength, seed=3), 12)[index][1]
        for strength in (0.0, 1.0) for index in range(12)
    ]  # fmt: skip
    assert any(not torch.equal(still, turned) for still, turned in zip(drawn[:12], drawn[12:], strict=True))


def test_thick_slices_are_rotated_in_plane_only():
    for seed in range(20):
        matrix = random_matrix((5.0, 1.0, 1.0), np.random.default_rng(seed))
        assert np.allclose(matrix[0, 1:], 0)
        assert np.allclose(matrix[1:, 0], 0)


def test_prepared_case_keeps_labels_and_says_their_size(plan, cases):
    stored = cases[0].load()
    assert set(np.unique(stored["labels"])) == {0, 1, 2}
    assert json.dumps(stored["labels"].shape)
    assert (stored["labels"][tuple(stored["places_2"].T)] == 2).all()


def test_two_processes_see_different_patches_and_write_one_model(plan, cases, tmp_path):
    settings = replace(FAST, epochs=2, steps=3, devices=2)
    trained = train_network(plan, cases, [], tmp_path / "two", settings, progress=False)
    alone = train_network(plan, cases, [], tmp_path / "one", replace(settings, devices=1), progress=False)
    assert list(trained.curves["epoch"]) == [1, 2]
    # Two processes with the same patches would have the losses of one.
    assert not np.allclose(trained.curves["train_loss"], alone.curves["train_loss"], rtol=1e-3)
    stored = torch.load(tmp_path / "two" / CHECKPOINT, weights_only=True)
    assert stored["epoch"] == 2
    assert set(stored["network"]) == set(alone.network.state_dict())
