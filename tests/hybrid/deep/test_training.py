from __future__ import annotations

import functools
import pickle

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from sklearn.linear_model import LogisticRegression

from hybrid.cases import Case
from hybrid.deep import OutcomeEncoder
from hybrid.errors import InputError, WeightsError

Tiny = functools.partial(OutcomeEncoder, start="random-narrow", size=16, epochs=8, learning_rate=3e-3)


def write_case(folder, name: str, bright: bool, seed: int) -> Case:
    """A bright or a dark ball in noise."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), axis=-1)
    ball = ((grid - rng.uniform(10, 13, 3)) ** 2).sum(axis=-1) < rng.uniform(5, 7) ** 2
    values = rng.normal(0, 20, (24, 24, 24)) + (60 if bright else -60) * ball
    paths = []
    for kind, array in (("image", values.astype(np.float32)), ("mask", ball.astype(np.uint8))):
        path = folder / f"{name}_{kind}.nrrd"
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))
        paths.append(path)
    return Case(name, image=paths[0], mask=paths[1], outcome=int(bright))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    cases = [write_case(folder, f"c{i:02d}", bool(i % 2), i) for i in range(24)]
    return cases, np.array([case.outcome for case in cases])


@pytest.fixture(scope="module")
def fitted(toy):
    cases, y = toy
    return Tiny(seed=3).fit(cases[:14], y[:14])


def test_separable_outcome_is_learnt_and_carries_over_to_new_cases(toy, fitted):
    cases, y = toy
    probe = LogisticRegression().fit(fitted.transform(cases[:14]), y[:14])
    assert probe.score(fitted.transform(cases[14:]), y[14:]) == 1.0
    assert fitted.loss_[-1] < 0.5 * fitted.loss_[0]
    assert len(fitted.loss_) == 8


def test_transform_returns_one_row_per_case_in_order(toy, fitted):
    cases, _ = toy
    table = fitted.transform([cases[5], cases[2]])
    assert list(table.index) == ["c05", "c02"]
    assert table.index.name == "case_id"
    assert list(table.columns[:2]) == ["deep_0000", "deep_0001"]
    pd.testing.assert_frame_equal(table.loc[["c02"]], fitted.transform([cases[2]]), check_exact=True)


def test_same_seed_gives_the_same_bits_and_another_seed_does_not(toy, fitted):
    cases, y = toy
    torch.manual_seed(123)
    before = torch.get_rng_state()
    again = Tiny(seed=3).fit(cases[:14], pd.Series(y[:14]))
    other = Tiny(seed=4).fit(cases[:14], y[:14])
    assert torch.equal(torch.get_rng_state(), before)
    pd.testing.assert_frame_equal(again.transform(cases), fitted.transform(cases), check_exact=True)
    assert again.encoder_.digest == fitted.encoder_.digest != other.encoder_.digest
    assert not np.allclose(other.transform(cases), fitted.transform(cases))


def test_factory_and_fitted_encoder_can_be_pickled(toy, fitted):
    cases, _ = toy
    assert pickle.loads(pickle.dumps(Tiny))(seed=1).settings["epochs"] == 8
    copy = pickle.loads(pickle.dumps(fitted))
    pd.testing.assert_frame_equal(copy.transform(cases[:2]), fitted.transform(cases[:2]), check_exact=True)


def test_text_outcomes_and_three_classes_work(toy):
    cases, _ = toy
    encoder = Tiny(epochs=1, seed=0).fit(cases[:6], ["a", "b", "c", "a", "b", "c"])
    assert list(encoder.classes_) == ["a", "b", "c"]


def test_rewritten_image_is_read_again(tmp_path):
    case = write_case(tmp_path, "a", True, 1)
    other = write_case(tmp_path, "b", False, 2)
    encoder = Tiny(epochs=1).fit([case, other], [1, 0])
    first = encoder.transform([case])
    write_case(tmp_path, "a", False, 50)
    assert not np.allclose(encoder.transform([case]), first)


def test_settings_enter_the_digest():
    assert Tiny().digest == Tiny().digest
    assert len({Tiny().digest, Tiny(seed=1).digest, Tiny(size=24).digest, Tiny(start="random-resnet10").digest}) == 4
    assert Tiny().describe()["start_encoder"]["name"] == "random-narrow"


def test_unusable_input_is_refused(toy, tmp_path):
    cases, _ = toy
    with pytest.raises(InputError, match="not fitted"):
        Tiny().transform(cases)
    with pytest.raises(InputError, match="two outcome classes"):
        Tiny().fit(cases[:3], [1, 1, 1])
    with pytest.raises(InputError, match="one outcome for each of 3 cases"):
        Tiny().fit(cases[:3], [1, 0])
    with pytest.raises(InputError, match="case c01: The outcome is missing"):
        Tiny().fit(cases[:3], [1, None, 0])
    with pytest.raises(InputError, match="epochs >= 1"):
        Tiny(epochs=0)
    with pytest.raises(WeightsError, match="does not exist"):
        Tiny(start="models/none.pth").fit(cases[:2], [0, 1])
    masks = {"ct": cases[0].mask, "t2": cases[0].mask}
    several = Case("x", image={"ct": cases[0].image, "t2": cases[0].image}, mask=masks)
    with pytest.raises(InputError, match="several images: ct, t2"):
        Tiny().fit([several, cases[1]], [0, 1])
    with pytest.raises(InputError, match="Did you mean 't2'"):
        Tiny(image="t1").fit([several, several], [0, 1])
    with pytest.raises(InputError, match=r"case y.* Image 'image' has no mask"):
        Tiny().fit([Case("y", image=cases[0].image), cases[1]], [0, 1])
