import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from scipy.special import softmax
from statsmodels.api import Logit

from hybrid.deep.classification.classifier import (
    ImageClassifier,
    abstention_threshold,
    coverage_accuracy,
    fit_temperature,
    probabilities,
)
from hybrid.deep.classification.inputs import SliceInput, VolumeInput
from hybrid.deep.classification.networks import build_classifier, classifier_architecture, load_pretrained
from hybrid.deep.saliency import saliency_map
from hybrid.errors import InputError, LeakageError, WeightsError
from hybrid.provenance import hashed_patient

from .conftest import blob, write_volume


def classifier(seed=0, temperature=2.0, classes=("big", "small"), patients=("p1",), one=None):
    one = one or VolumeInput((16, 16, 16))
    architecture = classifier_architecture(
        "resnet10", dims=len(one.size), in_channels=one.shape[0], classes=len(classes), widen=0.125
    )
    card = {"calibration": {"temperature": temperature}, "patients": [hashed_patient(name) for name in patients]}
    curve = coverage_accuracy([0.6, 0.7, 0.8, 0.9], [False, True, True, True])
    return ImageClassifier(one, classes, (build_classifier(architecture, seed=seed),), (card,), curve)


@pytest.fixture
def volumes(tmp_path):
    return [write_volume(tmp_path / f"v{number}.nii.gz", blob(number, 3 + number)) for number in range(3)]


def test_threads_that_share_a_network_get_the_results_of_their_own_images():
    one = classifier()
    rng = np.random.default_rng(0)
    inputs = [rng.normal(0, 1 + number, (1, 16, 16, 16)).astype(np.float32) for number in range(40)]

    def look(values):
        return one.probabilities(values), saliency_map(one.networks[0], values, target=0, layer="layer1").values

    alone = [look(values) for values in inputs]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(look, inputs))
    for first, second in zip(alone, together, strict=True):
        np.testing.assert_allclose(second[0], first[0], atol=1e-6)
        np.testing.assert_allclose(second[1], first[1], atol=1e-3)


# Temperature


def test_temperature_of_two_classes_is_that_of_a_logistic_regression():
    # With two classes p = logistic(difference / T): 1 / T is the slope of a regression without intercept (statsmodels).
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 4, (300, 2))
    difference = scores[:, 1] - scores[:, 0]
    targets = (rng.random(300) < 1 / (1 + np.exp(-difference / 3))).astype(int)
    slope = Logit(targets, difference).fit(disp=False).params[0]
    assert fit_temperature(scores, targets).value == pytest.approx(1 / slope, rel=1e-4)


def test_temperature_of_over_confident_scores_is_found():
    rng = np.random.default_rng(1)
    honest = rng.normal(0, 2, (20_000, 4))
    targets = (softmax(honest, axis=1).cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1)
    assert fit_temperature(2.5 * honest, targets).value == pytest.approx(2.5, rel=0.03)


def test_temperature_does_not_depend_on_doubled_images():
    rng = np.random.default_rng(2)
    scores, targets = rng.normal(0, 3, (60, 3)), rng.integers(0, 3, 60)
    once = fit_temperature(scores, targets)
    twice = fit_temperature(np.tile(scores, (2, 1)), np.tile(targets, 2))
    assert once.value == pytest.approx(twice.value)
    assert (once.images, twice.images) == (60, 120)


@pytest.mark.parametrize("count", [0, 2])
def test_temperature_stays_one_where_none_can_be_fitted(count):
    found = fit_temperature(np.array([[3.0, 0.0], [0.0, 1.0]])[:count], np.array([0, 1])[:count])
    assert found.value == 1
    assert found.note


def test_probabilities_are_a_softmax_and_survive_large_scores():
    scores = np.array([[1.0, 2.0, 3.0], [2000.0, 0.0, -2000.0]])
    np.testing.assert_allclose(probabilities(scores, 2.0), softmax(scores / 2, axis=1), atol=1e-15)


# Coverage and accuracy


def test_coverage_and_accuracy_of_four_images():
    table = coverage_accuracy([0.9, 0.6, 0.8, 0.7], [True, False, False, True])
    expected = pd.DataFrame(
        {
            "threshold": [0.6, 0.7, 0.8, 0.9],
            "coverage": [1.0, 0.75, 0.5, 0.25],
            "accuracy": [0.5, 2 / 3, 0.5, 1.0],
            "n": [4, 3, 2, 1],
        }
    )
    pd.testing.assert_frame_equal(table, expected)


def test_equal_confidences_are_answered_together():
    table = coverage_accuracy([0.9, 0.9, 0.5], [True, False, True])
    assert table["threshold"].tolist() == [0.5, 0.9]
    assert table["accuracy"].tolist() == pytest.approx([2 / 3, 0.5])


def test_threshold_answers_as_many_images_as_the_accuracy_allows():
    curve = coverage_accuracy([0.9, 0.6, 0.8, 0.7], [True, False, False, True])
    assert abstention_threshold(curve, 0.5) == 0.6
    assert abstention_threshold(curve, 0.6) == 0.7
    assert abstention_threshold(curve, 1.0) == 0.9


def test_unreachable_accuracy_is_refused():
    with pytest.raises(InputError, match=r"at most 0\.500 is reached"):
        abstention_threshold(coverage_accuracy([0.9, 0.6], [False, True]), 0.9)
    with pytest.raises(InputError, match="no tuning images"):
        abstention_threshold(pd.DataFrame(columns=["threshold", "coverage", "accuracy", "n"]), 0.9)
    with pytest.raises(InputError, match="at most 1; found 95"):
        abstention_threshold(coverage_accuracy([0.9], [True]), 95)


# The classifier


def test_prediction_is_the_calibrated_softmax_of_the_network(volumes):
    one = classifier()
    table = one.predict(volumes, ids=["a", "b", "c"])
    assert list(table.columns) == ["id", "y_prob_big", "y_prob_small", "y_pred", "confidence", "abstained", "problem"]
    prepared = torch.from_numpy(one.input.read(volumes[1]).astype(np.float16).astype(np.float32))[None]
    with torch.inference_mode():
        expected = softmax(one.networks[0](prepared).numpy().astype(float)[0] / 2)
    np.testing.assert_allclose(table.loc[1, ["y_prob_big", "y_prob_small"]].astype(float), expected, rtol=1e-6)
    assert table["id"].tolist() == ["a", "b", "c"]
    assert (table["y_pred"] == np.where(table["y_prob_big"] > 0.5, "big", "small")).all()
    assert (table["confidence"] == table[["y_prob_big", "y_prob_small"]].max(axis=1)).all()
    assert not table["abstained"].any()


def test_prediction_of_an_image_does_not_depend_on_the_others(volumes):
    one = classifier()
    alone = pd.concat([one.predict([path]) for path in volumes], ignore_index=True)
    together = one.predict(volumes)
    pd.testing.assert_frame_equal(alone.drop(columns="id"), together.drop(columns="id"), check_exact=True)


def test_images_in_memory_and_on_disk_are_the_same(volumes):
    one = classifier()
    pd.testing.assert_frame_equal(
        one.predict([sitk.ReadImage(str(path)) for path in volumes]), one.predict(volumes), check_exact=True
    )


def test_bad_images_are_rows(volumes, tmp_path):
    (tmp_path / "bad.nii.gz").write_bytes(b"not an image")
    table = classifier().predict([volumes[0], tmp_path / "bad.nii.gz", tmp_path / "absent.nii.gz"])
    assert table["problem"].str.contains("|".join(["cannot be read", "does not exist"])).tolist() == [False, True, True]
    assert table["y_prob_big"].isna().tolist() == [False, True, True]
    assert table["y_pred"].iloc[1] == ""
    assert table["abstained"].tolist() == [False, True, True]


def test_slices_are_named_by_number(tmp_path):
    one = classifier(one=SliceInput((16, 16), "robust"))
    path = write_volume(tmp_path / "v.nii.gz", blob(0, 4))
    table = one.predict([path, path, path], slices=[2, 8, None])
    assert table["y_prob_big"].iloc[0] != table["y_prob_big"].iloc[1]
    assert "none is named" in table["problem"].iloc[2]
    with pytest.raises(InputError, match="Expected 1 slices"):
        one.predict([path], slices=[1, 2])


def test_it_abstains_below_the_threshold_of_the_wanted_accuracy(volumes):
    one = classifier()
    confident = one.predict(volumes)["confidence"]
    strict = replace(one, curve=coverage_accuracy([confident.max(), 0.5], [True, False])).abstaining(1.0)
    assert strict.predict(volumes)["abstained"].tolist() == (confident < confident.max()).tolist()
    assert not strict.abstaining(None).predict(volumes)["abstained"].any()
    with pytest.raises(InputError, match="No threshold reaches"):
        replace(one, curve=coverage_accuracy([0.9], [False])).abstaining(0.5)


def test_saved_classifier_predicts_the_same(volumes, tmp_path):
    one = classifier().abstaining(1.0)
    loaded = ImageClassifier.load(one.save(tmp_path / "model"))
    pd.testing.assert_frame_equal(loaded.predict(volumes), one.predict(volumes), check_exact=True)
    pd.testing.assert_frame_equal(loaded.curve, one.curve, check_exact=True)
    assert (loaded.classes, loaded.input, loaded.threshold) == (one.classes, one.input, 0.7)
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == [
        "coverage_accuracy.csv", "model.json", "model.safetensors",
    ]  # fmt: skip


def test_ensemble_is_the_mean_of_its_members(volumes, tmp_path):
    first, second = classifier(0), classifier(1, temperature=0.5, patients=("p2",))
    both = replace(first, networks=first.networks + second.networks, cards=first.cards + second.cards)
    loaded = ImageClassifier.load(both.save(tmp_path / "ensemble"))
    mean = (first.predict(volumes)["y_prob_big"] + second.predict(volumes)["y_prob_big"]) / 2
    np.testing.assert_allclose(loaded.predict(volumes)["y_prob_big"], mean, rtol=1e-12)
    assert loaded.patients == {hashed_patient("p1"), hashed_patient("p2")}


def test_trained_patients_are_refused():
    classifier().refuse_trained(["p2", "p3"])
    with pytest.raises(LeakageError, match="Patient 'p1' was used"):
        classifier().refuse_trained(["p2", "p1"])


def test_the_card_holds_no_patient_identifier(tmp_path):
    classifier(patients=("Smith-1950",)).save(tmp_path / "model")
    assert "Smith" not in (tmp_path / "model" / "model.json").read_text(encoding="utf-8")


def test_folders_that_are_no_classifier_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no model\.json"):
        ImageClassifier.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format": "hybrid-segmenter-1"}))
    with pytest.raises(InputError, match="no image classifier"):
        ImageClassifier.load(tmp_path)


def test_exchanged_weights_are_refused(tmp_path):
    classifier(0).save(tmp_path / "a")
    classifier(1).save(tmp_path / "b")
    (tmp_path / "a" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match=r"not those of model\.json"):
        ImageClassifier.load(tmp_path / "a")


def test_members_with_other_classes_are_refused(tmp_path):
    first = classifier()
    replace(first, networks=first.networks * 2, cards=first.cards * 2).save(tmp_path)
    classifier(classes=("a", "b")).save(tmp_path / "member_1")
    with pytest.raises(InputError, match="differ in classes"):
        ImageClassifier.load(tmp_path)


def test_a_saved_classifier_can_start_another(tmp_path):
    source = classifier(0)
    source.save(tmp_path / "model")
    other = classifier(1, classes=("a", "b", "c")).networks[0]
    assert load_pretrained(other, tmp_path / "model").coverage == 1
    assert torch.equal(other.conv1.weight, source.networks[0].conv1.weight)


def test_wrong_shape_is_refused():
    with pytest.raises(InputError, match=r"shape \(1, 16, 16, 16\); found \(1, 8, 8, 8\)"):
        classifier().probabilities(np.zeros((1, 8, 8, 8), np.float32))


def test_the_network_can_be_explained(volumes):
    one = classifier()
    found = saliency_map(one.networks[0], one.input.read(volumes[0]), layer="layer1")
    assert found.values.shape == (16, 16, 16)
    assert found.target in (0, 1)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_slice_has_the_same_bits_whatever_goes_through_with_it(name):
    chosen = SliceInput(size=(48, 48))
    architecture = classifier_architecture(name, dims=2, in_channels=3, classes=3, widen=0.25)
    model = ImageClassifier(chosen, ("a", "b", "c"), (build_classifier(architecture),), ({},))
    slices = list(np.random.default_rng(0).uniform(-1, 1, (19, *chosen.shape)).astype(np.float32))
    together = model.probabilities_of(slices)
    assert together.shape == (19, 3)
    assert np.array_equal(model.probabilities_of(slices[::-1])[::-1], together)
    assert np.array_equal(model.probabilities_of(slices[7:8])[0], together[7])
    alone = np.array([model.probabilities(values) for values in slices])
    assert np.abs(alone - together).max() < 1e-5
    assert model.probabilities_of([]).shape == (0, 3)
