from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace

import joblib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from hybrid.deep import Encoder, EncoderSpec, Preprocessing, build_network, load_encoder, save_model
from hybrid.deep.embeddings import _cached_encoder
from hybrid.errors import InputError, WeightsError
from hybrid.phantoms.lesions import draw_properties, paint_lesion


def lesion(seed: int = 0) -> tuple[sitk.Image, sitk.Image]:
    rng = np.random.default_rng(seed)
    spacing = (2.0, 1.0, 1.0)
    values, region = paint_lesion(draw_properties(rng), rng=rng, size=(40, 80, 80), spacing=spacing)
    image, mask = sitk.GetImageFromArray(values), sitk.GetImageFromArray(region)
    for volume in (image, mask):
        volume.SetSpacing(spacing[::-1])
    return image, mask


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random-narrow", modality="ct")


def test_columns_and_length(encoder):
    values = encoder.embed(*lesion())
    assert list(values)[:2] == ["deep_0000", "deep_0001"]
    assert len(values) == encoder.dim == 128
    assert all(type(value) is float for value in values.values())
    assert next(iter(encoder.embed(*lesion(), image_name="ct"))) == "deep_ct_0000"


def test_same_case_gives_the_same_bits_whatever_ran_before(encoder):
    first = encoder.embed(*lesion(1))
    threads, itk = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        torch.set_num_threads(2)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        torch.manual_seed(99)
        load_encoder("random-resnet10").embed(*lesion(3))
        encoder.embed(*lesion(2))
        assert encoder.embed(*lesion(1)) == first
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(itk)


def test_fresh_process_gives_the_same_bits(tmp_path, encoder):
    image, mask = lesion(4)
    sitk.WriteImage(image, str(tmp_path / "i.nrrd"))
    sitk.WriteImage(mask, str(tmp_path / "m.nrrd"))
    code = (
        "import SimpleITK as sitk, torch; torch.set_num_threads(2)\n"
        "from hybrid.deep import load_encoder\n"
        "image, mask = sitk.ReadImage('i.nrrd'), sitk.ReadImage('m.nrrd')\n"
        "values = load_encoder('random-narrow', modality='ct').embed(image, mask)\n"
        "print(*[value.hex() for value in values.values()])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [value.hex() for value in encoder.embed(image, mask).values()]


def test_embedding_does_not_depend_on_orientation_of_storage(encoder):
    image, mask = lesion(5)
    flipped = [sitk.Flip(volume, (True, True, False)) for volume in (image, mask)]
    one, other = (np.array(list(encoder.embed(*pair).values())) for pair in ((image, mask), flipped))
    assert np.allclose(one, other, rtol=1e-3, atol=1e-3 * np.abs(one).max())


def embed_arrays(encoder: Encoder, values: np.ndarray, region: np.ndarray) -> dict[str, float]:
    return encoder.embed(sitk.GetImageFromArray(values), sitk.GetImageFromArray(region))


def test_encoder_travels_to_worker_processes(encoder):
    assert len(pickle.dumps(encoder)) < 2000
    cases = [tuple(sitk.GetArrayFromImage(volume) for volume in lesion(seed)) for seed in (6, 7)]
    results = joblib.Parallel(n_jobs=2)(joblib.delayed(embed_arrays)(encoder, *case) for case in cases)
    assert results == [embed_arrays(encoder, *case) for case in cases]


def test_encoder_made_by_hand_is_pickled_with_its_weights():
    network = build_network("resnet10", widen=0.125, seed=4)
    own = Encoder("mine", network, Preprocessing(size=24), "0" * 64)
    copy = pickle.loads(pickle.dumps(own))
    assert copy.embed(*lesion()) == own.embed(*lesion())
    assert copy.digest == own.digest


def test_encoder_whose_file_changed_is_not_rebuilt(tmp_path):
    save_model(tmp_path / "m", build_network("narrow", seed=1), load_encoder("random-narrow").preprocessing)
    stored = pickle.dumps(load_encoder(tmp_path / "m"))
    pickle.loads(stored)
    save_model(tmp_path / "m", build_network("narrow", seed=2), load_encoder("random-narrow").preprocessing)
    _cached_encoder.cache_clear()
    with pytest.raises(WeightsError, match="has changed"):
        pickle.loads(stored)


def test_spec_is_loaded_once_per_process():
    spec = EncoderSpec("random-narrow", modality="mr")
    assert spec.load() is EncoderSpec("random-narrow", modality="mr").load()
    assert spec.load().preprocessing.modality == "mr"


def test_digest_changes_with_whatever_changes_the_numbers(tmp_path):
    base = load_encoder("random-narrow")
    others = [
        load_encoder("random-narrow", modality="ct"),
        load_encoder("random-narrow", seed=1),
        load_encoder("random-narrow", preprocessing=replace(base.preprocessing, margin_mm=5)),
        load_encoder("random-resnet10"),
    ]
    digests = {encoder.digest for encoder in (base, *others)}
    assert len(digests) == 5
    assert load_encoder("random-narrow").digest == base.digest


def test_description_is_plain_data(encoder):
    import json

    described = json.loads(json.dumps(encoder.describe()))
    assert described["variant"] == "narrow-stride2"
    assert described["preprocessing"]["modality"] == "ct"


@pytest.mark.parametrize("name", ["bundeld", "random-resnet11"])
def test_unknown_name_names_the_nearest(name):
    with pytest.raises(InputError, match=r"Did you mean '(bundled|random-resnet1)"):
        load_encoder(name)


def test_missing_file_and_wrong_arguments_are_clear(tmp_path):
    with pytest.raises(WeightsError, match=r"absent\.pth: The weight file or model folder does not exist"):
        load_encoder(tmp_path / "absent.pth")
    with pytest.raises(InputError, match="'ct'"):
        load_encoder("random-narrow", modality="cta")
    with pytest.raises(InputError, match="cannot be used"):
        load_encoder("random-narrow", device="warp9")
    with pytest.raises(InputError, match="3 input channels, the preprocessing gives 1"):
        load_encoder("random-narrow", preprocessing=Preprocessing())


def test_errors_name_the_case(encoder):
    image, mask = lesion()
    with pytest.raises(InputError, match="case p3: The mask is empty"):
        encoder.embed(image, mask * 0, case_id="p3")
    with pytest.raises(InputError, match="case p4: Label 2"):
        encoder.embed(image, mask, label=2, case_id="p4")


def test_damaged_weights_do_not_give_nan_features():
    network = build_network("resnet10", widen=0.125)
    with torch.no_grad():
        network.conv1.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        Encoder("broken", network, Preprocessing(size=24), "").embed(*lesion())
