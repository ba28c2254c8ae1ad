from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss

from hybrid.deep.classification import training
from hybrid.deep.classification.augmentation import NO_AUGMENTATION, Augmentation
from hybrid.deep.classification.networks import classifier_architecture
from hybrid.deep.classification.training import (
    CHECKPOINT,
    CURVE_COLUMNS,
    ClassifierSettings,
    _Batches,
    _Images,
    class_scores,
    class_weights,
    train_network,
    weighted_log_loss,
)
from hybrid.errors import InputError

NETWORK = classifier_architecture("resnet10", dims=3, in_channels=1, classes=2, widen=0.125)
FAST = ClassifierSettings(epochs=4, batch=6, accelerator="cpu", checkpoint_minutes=1e-6, patience=0)


def same_weights(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def train(images, folder, settings=FAST, **options):
    return train_network(NETWORK, images[:16], images[16:], folder, settings, progress=False, **options)


def test_training_learns(images, tmp_path):
    settings = replace(FAST, epochs=15, learning_rate=3e-3, ema=0.9)
    trained = train(images, tmp_path / "run", settings)
    assert trained.curves["train_loss"].iloc[-1] < 0.5 * trained.curves["train_loss"].iloc[0]
    assert trained.curves["tuning_accuracy"].iloc[-1] == 1
    assert tuple(trained.curves.columns) == CURVE_COLUMNS
    scores = class_scores(trained.network, images[16:], batch=3, classes=2)
    assert (scores.argmax(axis=1) == [image.target for image in images[16:]]).all()


@pytest.mark.parametrize("patience", [0, 20])
def test_interrupted_training_goes_on_with_equal_curves_and_weights(images, tmp_path, patience):
    settings = replace(FAST, patience=patience)
    whole = train(images, tmp_path / "a", settings)
    train(images, tmp_path / "b", settings, stop_after=1)
    train(images, tmp_path / "b", settings, stop_after=2)
    resumed = train(images, tmp_path / "b", settings)
    pd.testing.assert_frame_equal(
        whole.curves.drop(columns="seconds"), resumed.curves.drop(columns="seconds"), check_exact=True
    )
    assert same_weights(whole.network, resumed.network)
    assert whole.best_epoch == resumed.best_epoch


def test_workers_change_the_images_alike(images, tmp_path):
    settings = replace(FAST, epochs=2)
    alone, helped = train(images, tmp_path / "a", settings), train(images, tmp_path / "b", replace(settings, workers=1))
    assert same_weights(alone.network, helped.network)


def test_the_seed_changes_the_training(images, tmp_path):
    settings = replace(FAST, epochs=1)
    first, other = train(images, tmp_path / "a", settings), train(images, tmp_path / "b", replace(settings, seed=1))
    assert not same_weights(first.network, other.network)


def test_early_stopping_keeps_the_weights_of_the_lowest_tuning_loss(images, tmp_path):
    settings = replace(FAST, epochs=40, patience=3, learning_rate=3e-3)
    wrong = [replace(image, target=1 - image.target) for image in images[16:]]  # the better it learns, the worse
    trained = train_network(NETWORK, images[:16], wrong, tmp_path / "run", settings, progress=False)
    losses = trained.curves["tuning_loss"]
    assert trained.epochs == trained.best_epoch + 3 < 40
    assert trained.best_epoch == losses.idxmin() + 1
    scores = class_scores(trained.network, wrong, batch=6, classes=2)
    targets = np.array([image.target for image in wrong])
    assert weighted_log_loss(scores, targets, np.ones(2)) == pytest.approx(losses.min(), rel=1e-5)


def test_without_tuning_images_the_last_weights_are_kept(images, tmp_path):
    settings = replace(FAST, patience=1)
    trained = train_network(NETWORK, images, [], tmp_path / "run", settings, progress=False)
    assert trained.best_epoch == trained.epochs == 4
    assert trained.curves["tuning_loss"].isna().all()


def test_training_ends_on_time_with_the_smallest_learning_rate(images, tmp_path):
    curves = train(images, tmp_path / "run", replace(FAST, epochs=None, minutes=0.05)).curves
    assert 0.4 * 3 < curves["seconds"].iloc[-1] < 2.5 * 3
    assert curves["learning_rate"].iloc[-1] < 0.3 * curves["learning_rate"].max()


def test_checkpoint_of_another_training_is_refused(images, tmp_path):
    train(images, tmp_path / "run", stop_after=1)
    for changed in (
        [replace(images[0], content="other"), *images[1:]], [replace(images[0], target=1), *images[1:]],
    ):  # fmt: skip
        with pytest.raises(InputError, match="another training") as caught:
            train(changed, tmp_path / "run")
        assert CHECKPOINT in caught.value.path
    with pytest.raises(InputError, match="another training"):
        train(images, tmp_path / "run", weights=np.array([1.0, 2.0]))
    train(images, tmp_path / "run", replace(FAST, workers=0, checkpoint_minutes=9.0), stop_after=1)
    train(images, tmp_path / "run", weights=np.array([1.0, 2.0]), resume=False, stop_after=1)


def test_damaged_prepared_image_is_named_and_training_goes_on_after_repair(images, tmp_path):
    train(images, tmp_path / "run", stop_after=1)
    good = images[2].path.read_bytes()
    images[2].path.write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match="cannot be read") as caught:
        train(images, tmp_path / "run")
    assert caught.value.case_id == "i2"
    images[2].path.write_bytes(good)
    assert len(train(images, tmp_path / "run").curves) == 4


def test_divergence_is_said(images, tmp_path):
    with pytest.raises(InputError, match="diverged"):
        train(images, tmp_path / "run", replace(FAST, learning_rate=1e30, epochs=30))


def test_class_weights_balance_or_follow_what_was_asked():
    targets = [0] * 6 + [1] * 2
    # n / (classes * count): 8 / (2 * 6) and 8 / (2 * 2)
    np.testing.assert_allclose(class_weights(targets, ["a", "b"], "balanced"), [8 / 12, 2])
    np.testing.assert_allclose(class_weights(targets, ["a", "b"], None), [1, 1])
    asked = class_weights(targets, ["a", "b"], {"b": 5, "a": 1})
    assert asked[1] / asked[0] == pytest.approx(5)
    assert asked[targets].mean() == pytest.approx(1)
    for wanted, message in (
        ("balance", "Unknown class weighting"), ({"c": 1}, "Unknown class 'c'"), ({"a": 1}, "Every class needs"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            class_weights(targets, ["a", "b"], wanted)
    with pytest.raises(InputError, match="Class 'c' has no training images"):
        class_weights(targets, ["a", "b", "c"], "balanced")


def test_log_loss_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, targets, weights = rng.normal(0, 3, (50, 3)), rng.integers(0, 3, 50), np.array([1.0, 2.0, 0.5])
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    expected = log_loss(targets, shares, sample_weight=weights[targets])
    assert weighted_log_loss(scores, targets, weights) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("count", "size"), [(2, 2), (3, 2), (7, 3), (24, 8), (25, 8)])
def test_every_image_once_per_epoch_and_no_batch_of_one(count, size):
    batches = _Batches(count, size, seed=0)
    first = list(batches)
    batches.epoch = 1
    second = list(batches)
    assert len(first) == len(batches)
    assert min(map(len, first)) >= 2
    assert sorted(number for batch in first for _, number in batch) == list(range(count))
    assert {epoch for batch in second for epoch, _ in batch} == {1}
    assert count < 7 or [n for b in first for _, n in b] != [n for b in second for _, n in b]


def test_changes_follow_epoch_and_number(images):
    dataset = _Images(images, replace(FAST, augmentation=Augmentation(probability=1.0, mirror=(0,))), 0)
    again = _Images(images, replace(FAST, augmentation=Augmentation(probability=1.0, mirror=(0,))), 0)
    dataset[0, 5]
    first = dataset[3, 1][0]
    assert torch.equal(first, again[3, 1][0])
    assert not torch.equal(first, again[4, 1][0])
    assert first.shape == (1, 16, 16, 16)


def test_without_augmentation_the_prepared_image_is_read(images):
    dataset = _Images(images, replace(FAST, augmentation=NO_AUGMENTATION), 0)
    values, target, mask = dataset[3, 1]
    np.testing.assert_array_equal(values.numpy(), np.load(images[1].path))
    assert target == images[1].target
    assert mask.numel() == 0


def test_constant_channels_are_not_changed(images, tmp_path):
    both = np.concatenate([np.load(images[0].path), np.full((3, 16, 16, 16), 0.7, np.float16)])
    np.save(tmp_path / "g.npy", both)
    dataset = _Images(
        [replace(images[0], path=tmp_path / "g.npy")], replace(FAST, augmentation=Augmentation(probability=1.0)), 3
    )
    values = dataset[0, 0][0].numpy()
    np.testing.assert_array_equal(values[1:], both[1:])
    assert not np.array_equal(values[0], both[0])


def test_nonsense_settings_are_refused():
    with pytest.raises(InputError, match="not both"):
        ClassifierSettings(minutes=1, epochs=2)
    with pytest.raises(InputError, match="batch >= 2"):
        ClassifierSettings(batch=1)
    with pytest.raises(InputError, match="Unknown precision '16-mixed'"):
        ClassifierSettings(precision="16-mixed")
    with pytest.raises(InputError, match="must not be negative"):
        Augmentation(noise=-1)


def test_one_image_is_refused(images, tmp_path):
    with pytest.raises(InputError, match="two images; found 1"):
        train_network(NETWORK, images[:1], [], tmp_path)


def prefers_bf16(accelerator, precision, network, sample, *, layout):
    return "bf16-mixed" if precision == "auto" else precision


# Two strides less, and twice the size: kernels of torch are wrong in bfloat16 where a convolution sees few voxels.
SHALLOW = classifier_architecture(
    "resnet10", dims=3, in_channels=1, classes=2, widen=0.125, first_stride=1, max_pool=False
)


@pytest.fixture
def large_images(images):
    for image in images:
        values = np.load(image.path)
        for axis in (1, 2, 3):
            values = values.repeat(2, axis=axis)
        np.save(image.path, values)
    return images


def test_resumed_training_keeps_the_precision_it_was_begun_with(large_images, tmp_path, monkeypatch):
    images = large_images
    monkeypatch.setitem(globals(), "NETWORK", SHALLOW)
    monkeypatch.setattr(training, "choose_precision", prefers_bf16)
    train(images, tmp_path / "a", stop_after=1)
    monkeypatch.setattr(training, "choose_precision", lambda *_, **__: pytest.fail("measured again"))
    resumed = train(images, tmp_path / "a")
    monkeypatch.setattr(training, "choose_precision", prefers_bf16)
    assert same_weights(train(images, tmp_path / "b").network, resumed.network)
    assert not same_weights(train(images, tmp_path / "c", replace(FAST, precision="32-true")).network, resumed.network)


def test_weights_trained_in_bfloat16_are_32_bits_in_the_usual_order(large_images, tmp_path, monkeypatch):
    images = large_images
    monkeypatch.setitem(globals(), "NETWORK", SHALLOW)
    monkeypatch.setattr(training, "choose_precision", prefers_bf16)
    network = train(images, tmp_path, replace(FAST, epochs=1)).network
    assert all(value.is_contiguous() and value.dtype != torch.bfloat16 for value in network.state_dict().values())
