import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file, save_file

from hybrid.deep.segmentation import lesion_classes
from hybrid.deep.segmentation.candidates import FEATURES, SecondLook
from hybrid.deep.segmentation.cascade import (
    CascadeRules,
    RenalCascade,
    keep_kidneys,
    load_cascade,
    save_cascade,
)
from hybrid.deep.segmentation.lesion_classes import (
    default_preprocessing,
    lesion_input,
    load_lesion_classifier,
    save_lesion_classifier,
    train_lesion_classifier,
)
from hybrid.deep.segmentation.networks import build_segmenter
from hybrid.deep.segmentation.segmenter import Segmenter, load_segmenter, save_ensemble, save_segmenter
from hybrid.errors import InputError, LeakageError, WeightsError
from hybrid.images import from_array, to_array
from hybrid.provenance import hashed_patient

from .conftest import ball


class Threshold:
    """A stand-in for a trained network that is exact on the phantom: classes by intensity."""

    def __init__(self, low, high=None):
        self.low, self.high = low, high

    def __call__(self, patches):
        first = patches[:, 0] > self.low
        second = first & (patches[:, 0] > self.high) if self.high is not None else np.zeros_like(first)
        classes = [~first, first & ~second] + ([second] if self.high is not None else [])
        return np.stack(classes, axis=1).astype(np.float32)


def stage(plan, engine, **changes):
    plan = replace(plan, modality="ct", intensity={"low": -1e4, "high": 1e4, "mean": 0.0, "sd": 1.0}, **changes)
    segmenter = Segmenter(plan, (), ({"sha256": "x"},), None)
    segmenter.__dict__["engine"] = engine
    return segmenter


def abdomen(direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)):
    """Two kidneys (100), one with a mass (200), and a distant bright blob that is no mass."""
    values = np.zeros((48, 40, 64), np.float32)
    values[ball(values.shape, (24, 20, 14), 9)] = 100
    values[ball(values.shape, (24, 20, 50), 9)] = 100
    values[ball(values.shape, (24, 20, 20), 4)] = 200
    values[ball(values.shape, (8, 8, 34), 3)] = 200
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((2.0, 2.0, 2.0))
    image.SetDirection(direction)
    return image


@pytest.fixture
def cascade(plan):
    kidney = stage(plan, Threshold(60), spacing=(4.0, 4.0, 4.0), labels=(1,), label_names=("kidney",))
    mass = stage(plan, Threshold(60, 150), spacing=(2.0, 2.0, 2.0), label_names=("kidney", "mass"))
    return RenalCascade(kidney, mass, None, CascadeRules(min_kidney_mm3=2000))


def test_cascade_finds_the_kidneys_and_only_the_mass_at_a_kidney(cascade):
    found = cascade.segment(abdomen())
    labels = to_array(found.mask)
    truth = to_array(abdomen())
    assert set(np.unique(labels)) == {0, 1, 2}
    assert len(found.lesions) == 1
    expected = ball(truth.shape, (24, 20, 20), 4)
    overlap = 2 * ((labels == 2) & expected).sum() / ((labels == 2).sum() + expected.sum())
    assert overlap > 0.95
    assert found.lesions["confidence"].item() == pytest.approx(1.0)
    assert not (labels[:12, :14, 30:40] > 0).any()


def test_confidence_is_the_probability_of_a_mass_not_of_an_organ(cascade):
    def unsure(patches):
        """Sure of every kidney, and 60 % sure of the mass in it."""
        sure = Threshold(60, 150)(patches)
        return np.stack([sure[:, 0], sure[:, 1] + 0.4 * sure[:, 2], 0.6 * sure[:, 2]], axis=1)

    doubtful = replace(cascade, mass=stage(cascade.mass.plan, unsure))
    found = doubtful.segment(abdomen())
    assert found.lesions["confidence"].item() == pytest.approx(0.6, abs=1e-3)
    assert found.lesions["mean_probability"].item() == pytest.approx(0.6, abs=1e-3)


def second_look(threshold, **middle):
    """Ranks by what is named: above this value a mass is rather real."""
    ones, products = (1.0,) * len(FEATURES), (0.0,) * (len(FEATURES) * (len(FEATURES) + 1) // 2)
    means, linear = (tuple(values.get(n, 0.0) for n in FEATURES) for values in (middle, dict.fromkeys(middle, 1.0)))
    return SecondLook(means, ones, linear, products, 0.0, threshold, {})


def two_masses():
    """The abdomen with a further, dark mass in the other kidney."""
    values = to_array(abdomen()).copy()
    values[ball(values.shape, (24, 20, 54), 3)] = 160
    return from_array(values, abdomen())


def test_second_look_drops_masses_and_its_score_is_their_confidence(cascade):
    by_density = second_look(0.5, density=180.0)
    assert len(cascade.segment(two_masses()).lesions) == 2
    looked = replace(cascade, second_look=by_density)
    found = looked.segment(two_masses())
    assert len(found.lesions) == 1
    assert found.lesions["confidence"].item() == pytest.approx(1 / (1 + np.exp(-3)))
    assert (to_array(found.mask)[ball((48, 40, 64), (24, 20, 54), 2)] == 1).all()
    assert (to_array(found.maps["dropped"])[ball((48, 40, 64), (24, 20, 54), 2)] == 1).all()
    assert not (to_array(found.maps["dropped"])[to_array(found.mask) != 1]).any()
    assert found.dropped.to_dict("list") == {"lesion_id": [1], "confidence": [pytest.approx(1 / (1 + np.exp(3)))]}
    assert "dropped" not in cascade.segment(two_masses()).maps
    kept = replace(looked, second_look=replace(by_density, threshold=0.0)).segment(two_masses())
    assert len(kept.lesions) == 2
    assert not to_array(kept.maps["dropped"]).any()
    assert kept.dropped.empty
    assert kept.lesions["confidence"].min() == pytest.approx(1 / (1 + np.exp(3)))
    assert len({cascade.digest, looked.digest, replace(looked, second_look=second_look(0.0)).digest}) == 3


class Unsure(Threshold):
    """Takes the outer shell of a mass, or all of it, for kidney, with 30 % for the mass."""

    def __init__(self, low, high, surely):
        super().__init__(low, high)
        self.surely = surely

    def __call__(self, patches):
        sure = super().__call__(patches)
        doubt = 0.7 * sure[:, 2] * (patches[:, 0] < self.surely)
        return np.stack([sure[:, 0], sure[:, 1] + doubt, sure[:, 2] - doubt], axis=1)


def test_a_weight_marks_what_stage_two_doubts_and_its_probability_stays(cascade):
    doubtful = replace(cascade, mass=stage(cascade.mass.plan, Unsure(60, 150, surely=300)))
    assert doubtful.segment(abdomen()).lesions.empty
    marked = replace(doubtful, rules=replace(cascade.rules, mass_weight=5.0)).segment(abdomen())
    assert marked.lesions["mean_probability"].item() == pytest.approx(0.3, abs=1e-3)
    expected = ball((48, 40, 64), (24, 20, 20), 4)
    assert (to_array(marked.mask)[expected] == 2).mean() > 0.95


def test_a_mass_that_stage_two_is_sure_of_keeps_its_shape_with_a_weight(cascade):
    values = to_array(abdomen()).copy()
    core = ball(values.shape, (24, 20, 20), 2)
    values[core] = 400
    image = from_array(values, abdomen())
    halved = replace(cascade, mass=stage(cascade.mass.plan, Unsure(60, 150, surely=300)))
    plain = halved.segment(image)
    weighted = replace(halved, rules=replace(cascade.rules, mass_weight=5.0)).segment(image)
    assert (to_array(plain.mask)[core] == 2).all()
    np.testing.assert_array_equal(to_array(weighted.mask), to_array(plain.mask))
    assert len(weighted.lesions) == 1


def test_candidates_are_measured_and_compared_with_the_reference(cascade):
    image = two_masses()
    values = to_array(image)
    reference = np.where(values == 200, 2, (values > 60).astype(int)).astype(np.uint8)
    table = cascade.candidates(image, from_array(reference, image))
    assert table["is_mass"].tolist() == [1, 0]
    assert table["density"].to_numpy() == pytest.approx([200, 160])
    assert table["contrast"].to_numpy() == pytest.approx([100, 60])


def test_a_scan_without_kidneys_has_no_candidates(cascade):
    empty = sitk.Cast(abdomen(), sitk.sitkFloat32) * 0
    looked = replace(cascade, second_look=second_look(0.5))
    found = looked.segment(empty)
    assert found.lesions.empty
    assert "confidence" in found.lesions
    assert cascade.candidates(empty, sitk.Cast(empty, sitk.sitkUInt8)).empty


@pytest.mark.parametrize(("voxels", "masses"), [(3, 1), (5, 2)])
def test_specks_of_few_voxels_of_stage_two_are_kidney(cascade, voxels, masses):
    values = to_array(abdomen()).copy()
    values[24, 20, 50 : 50 + voxels] = 200
    cascade = replace(cascade, rules=replace(cascade.rules, min_mass_mm3=10.0))
    assert cascade.smallest_mass_mm3 == 4 * 8
    found = cascade.segment(from_array(values, abdomen()))
    assert len(found.lesions) == masses
    assert (to_array(found.mask)[24, 20, 50 : 50 + voxels] == masses).all()


@pytest.mark.parametrize("direction", [(-1, 0, 0, 0, -1, 0, 0, 0, 1), (0, 0, 1, 1, 0, 0, 0, -1, 0)])
def test_result_does_not_depend_on_how_the_axes_lie(cascade, direction):
    image = abdomen()
    turned = abdomen(direction)
    mask = to_array(cascade.segment(turned).mask)
    np.testing.assert_array_equal(mask, to_array(cascade.segment(image).mask))


def test_stage_two_looks_at_the_kidneys_only(cascade):
    tall = sitk.ConstantPad(abdomen(), (0, 0, 40), (0, 0, 40), 0.0)
    found, whole = cascade.segment(tall), cascade.mass.segment(tall)
    assert found.details["windows_run"] < found.details["windows"]
    assert whole.details["windows_run"] == whole.details["windows"]


def test_masks_lie_on_the_image_grid(cascade):
    image = abdomen((0, 0, 1, 1, 0, 0, 0, -1, 0))
    found = cascade.segment(image)
    for item in (found.mask, *found.maps.values()):
        assert item.GetSize() == image.GetSize()
        assert item.GetDirection() == image.GetDirection()
        assert item.GetOrigin() == image.GetOrigin()


def test_a_scan_without_kidneys_gives_an_empty_mask_and_no_lesions(cascade):
    image = from_array(np.zeros((48, 40, 64), np.float32), abdomen())
    found = cascade.segment(image)
    assert not to_array(found.mask).any()
    assert found.lesions.empty


def test_at_most_two_kidneys_and_none_too_small():
    region = np.zeros((20, 20, 60), bool)
    for x, size in ((3, 6), (20, 5), (40, 4), (55, 1)):
        region[5 : 5 + size, 5 : 5 + size, x : x + size] = True
    kept = keep_kidneys(region, (1.0, 1.0, 1.0), CascadeRules(min_kidney_mm3=10))
    assert kept.sum() == 6**3 + 5**3


def test_model_folder_round_trip(plan, tmp_path):
    network = build_segmenter(plan, seed=3).eval()
    save_segmenter(tmp_path / "m", network, plan, {"patients": [hashed_patient("p1")], "metrics": {}})
    loaded = load_segmenter(tmp_path / "m")
    assert loaded.plan == plan
    with pytest.raises(LeakageError, match="p1"):
        loaded.refuse_trained(["p2", "p1"])
    loaded.refuse_trained(["p2"])


def test_weights_of_another_network_are_refused(plan, tmp_path):
    save_segmenter(tmp_path / "m", build_segmenter(plan).eval(), plan, {})
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, tmp_path / "m" / "model.safetensors")
    with pytest.raises(WeightsError, match="1 of"):
        load_segmenter(tmp_path / "m")


def test_ensemble_members_must_share_their_labels(plan, tmp_path):
    save_segmenter(tmp_path / "e" / "a", build_segmenter(plan).eval(), plan, {})
    other = replace(plan, label_names=("x", "y"))
    save_segmenter(tmp_path / "e" / "b", build_segmenter(other).eval(), other, {})
    save_ensemble(tmp_path / "e", ["a", "b"])
    with pytest.raises(InputError, match="different labels"):
        load_segmenter(tmp_path / "e")


def test_cascade_refuses_a_stage_of_another_label_set(plan, tmp_path):
    one = replace(plan, labels=(1,), label_names=("kidney",))
    for name, own in (("kidney", one), ("mass", one)):
        save_segmenter(tmp_path / name, build_segmenter(own).eval(), own, {})
    save_cascade(tmp_path, CascadeRules(), classifier=False)
    with pytest.raises(InputError, match=r"kidney.*mass"):
        load_cascade(tmp_path)


def test_a_cascade_keeps_its_rules_and_second_look(plan, tmp_path):
    one = replace(plan, labels=(1,), label_names=("kidney",))
    both = replace(plan, labels=(1, 2), label_names=("kidney", "mass"))
    for name, own in (("kidney", one), ("mass", both)):
        save_segmenter(tmp_path / name, build_segmenter(own).eval(), own, {})
    look, rules = replace(second_look(0.3, log_volume=2.0), card={"masses": 40}), CascadeRules(mass_weight=3.0)
    save_cascade(tmp_path, rules, classifier=False, second_look=look)
    loaded = load_cascade(tmp_path)
    assert (loaded.second_look, loaded.rules) == (look, rules)
    assert loaded.describe()["second_look"] == {"masses": 40}
    save_cascade(tmp_path, CascadeRules(), classifier=False)
    assert load_cascade(tmp_path).second_look is None


def test_folder_that_is_no_model_says_so(tmp_path):
    with pytest.raises(InputError, match=r"no model\.json"):
        load_segmenter(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"format": "something"}))
    with pytest.raises(InputError, match="no segmentation model"):
        load_segmenter(tmp_path)


@pytest.fixture(scope="module")
def lesions():
    """Bright and dark lesions as network inputs."""
    preprocessing = default_preprocessing("ct")
    inputs, names = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        region = ball((40, 40, 40), (20, 20, 20), rng.uniform(6, 9))
        values = np.where(region, 10.0 if seed % 2 else 170.0, 100.0) + rng.normal(0, 8, region.shape)
        image = sitk.GetImageFromArray(values.astype(np.float32))
        inputs.append(lesion_input(image, from_array(region.astype(np.uint8), image), preprocessing))
        names.append("cyst" if seed % 2 else "solid")
    return inputs, names


def test_lesion_classifier_learns_and_survives_its_folder(lesions, tmp_path):
    inputs, names = lesions
    trained = train_lesion_classifier(inputs, names, epochs=12, batch_size=4)
    probabilities, embeddings = trained.classify(inputs)
    assert [trained.classes[i] for i in probabilities.argmax(1)] == names
    assert embeddings.shape == (12, trained.head.in_features)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    save_lesion_classifier(tmp_path, trained)
    again = load_lesion_classifier(tmp_path)
    assert again.classes == ("cyst", "solid")
    np.testing.assert_allclose(again.classify(inputs)[0], probabilities, atol=1e-6)


def test_lesions_of_one_class_are_refused(lesions):
    with pytest.raises(InputError, match="two of the classes"):
        train_lesion_classifier(lesions[0][:2], ["cyst", "cyst"])


def test_an_interrupted_training_of_classes_goes_on_with_the_same_weights(lesions, tmp_path, monkeypatch):
    inputs, names = lesions
    settings = {"epochs": 3, "batch_size": 4, "precision": "32-true"}
    whole = train_lesion_classifier(inputs, names, **settings)
    own = lesion_classes._Fit._epoch

    def interrupted(fit, epoch, half):
        if epoch == 2:
            raise KeyboardInterrupt
        own(fit, epoch, half)

    monkeypatch.setattr(lesion_classes._Fit, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_lesion_classifier(inputs, names, checkpoint=tmp_path / "checkpoint.pt", **settings)
    monkeypatch.setattr(lesion_classes._Fit, "_epoch", own)
    resumed = train_lesion_classifier(inputs, names, checkpoint=tmp_path / "checkpoint.pt", **settings)
    assert resumed.digest == whole.digest
    for first, second in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(first, second)
    monkeypatch.setattr(lesion_classes._Fit, "_epoch", None)  # a finished training is read
    read = train_lesion_classifier(inputs, names, checkpoint=tmp_path / "checkpoint.pt", **settings)
    assert read.digest == whole.digest
    with pytest.raises(InputError, match="another training"):
        train_lesion_classifier(inputs[1:], names[1:], checkpoint=tmp_path / "checkpoint.pt", **settings)
