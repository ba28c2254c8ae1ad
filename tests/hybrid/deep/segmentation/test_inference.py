import itertools
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.inferers import sliding_window_inference
from scipy import ndimage

from hybrid.deep.segmentation.engines import InferenceOptions, make_engine
from hybrid.deep.segmentation.export import SlabExporter
from hybrid.deep.segmentation.inference import choose_windows, predict_array, segment_scan
from hybrid.deep.segmentation.networks import SEGMENTERS, build_segmenter
from hybrid.deep.segmentation.preprocessing import network_array, open_scan, write_training_case
from hybrid.deep.segmentation.training import PreparedCase
from hybrid.errors import InputError


def noise_image(size, spacing):
    values = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal(size), 2).astype(np.float32)
    image = sitk.GetImageFromArray(values / values.std())
    image.SetSpacing(spacing[::-1])
    return image


@pytest.mark.parametrize("network", list(SEGMENTERS))
@pytest.mark.parametrize(("blending", "overlap"), [("constant", 0.25), ("gaussian", 0.5)])
def test_streamed_labels_equal_monai_over_the_whole_scan_and_full_interpolation(plan, network, blending, overlap):
    plan = replace(plan, network=network, spacing=(2.0, 1.5, 1.5), modality="ct")
    size = (30, 61, 47)
    scan = open_scan(noise_image(size, (3.0, 1.0, 1.0)))
    module = build_segmenter(plan).eval()
    options = InferenceOptions(overlap=overlap, blending=blending, precision="float32", device="cpu")
    found = segment_scan(scan, plan, make_engine([module], options, patch=plan.patch), options)
    with torch.no_grad():
        probabilities = sliding_window_inference(
            torch.from_numpy(network_array(scan, plan))[None, None], plan.patch, 1,
            lambda patch: torch.softmax(module(patch), 1), overlap=overlap, mode=blending, sigma_scale=0.125,
        )  # fmt: skip
    full = torch.nn.functional.interpolate(probabilities.double(), size=size, mode="trilinear")[0].argmax(0)
    assert len(np.unique(full)) > 1
    np.testing.assert_array_equal(found.labels, full.numpy())


def test_skipped_windows_do_not_change_what_is_wanted(plan):
    scan = open_scan(noise_image((60, 60, 60), (1.0, 1.0, 1.0)))
    options = InferenceOptions(overlap=0.25, precision="float32", device="cpu")
    engine = make_engine([build_segmenter(plan).eval()], options, patch=plan.patch)
    wanted = np.zeros(scan.array.shape, bool)
    wanted[5:15, 20:30, 10:20] = True
    whole, part = segment_scan(scan, plan, engine, options), segment_scan(scan, plan, engine, options, relevant=wanted)
    assert part.windows.run < part.windows.total / 4
    np.testing.assert_array_equal(part.coarse[wanted], whole.coarse[wanted])
    assert not part.coarse[~wanted].any()


def test_first_stage_without_export_gives_the_same_coarse_labels(plan):
    scan = open_scan(noise_image((40, 40, 40), (1.0, 1.0, 1.0)))
    options = InferenceOptions(overlap=0.25, precision="float32", device="cpu")
    engine = make_engine([build_segmenter(plan).eval()], options, patch=plan.patch)
    whole, coarse = (segment_scan(scan, plan, engine, options, export=export) for export in (True, False))
    assert len(np.unique(whole.coarse)) > 1
    np.testing.assert_array_equal(coarse.coarse, whole.coarse)
    assert coarse.labels.size == 0


def test_nothing_wanted_gives_background_and_runs_no_window(plan):
    scan = open_scan(noise_image((20, 20, 20), (1.0, 1.0, 1.0)))
    found = segment_scan(scan, plan, lambda patches: 1 / 0, relevant=np.zeros((20, 20, 20), bool))
    assert found.windows.run == 0
    assert found.labels.shape == (20, 20, 20)
    assert not found.labels.any()


@pytest.mark.parametrize("size", [(10, 12, 11), (33, 10, 10)])
def test_scan_smaller_than_the_patch_is_padded(plan, size):
    scan = open_scan(noise_image(size, (1.0, 1.0, 1.0)))
    options = InferenceOptions(precision="float32", device="cpu")
    engine = make_engine([build_segmenter(plan).eval()], options, patch=plan.patch)
    assert segment_scan(scan, plan, engine, options).labels.shape == size
    assert predict_array(network_array(scan, plan), plan, engine, options).shape == size


def test_an_ensemble_averages_probabilities(plan):
    modules = [build_segmenter(plan, seed=seed).eval() for seed in range(2)]
    options = InferenceOptions(precision="float32", device="cpu")
    patch = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)
    both = make_engine(modules, options, patch=plan.patch)(patch)
    each = [make_engine([module], options, patch=plan.patch)(patch) for module in modules]
    np.testing.assert_allclose(both, (each[0] + each[1]) / 2, atol=1e-6)


@pytest.mark.parametrize("mirror_axes", [(), (0, 2)])
def test_a_patch_gets_the_same_result_alone_and_beside_others(plan, mirror_axes):
    options = InferenceOptions(precision="float32", device="cpu", mirror=bool(mirror_axes))
    engine = make_engine([build_segmenter(plan).eval()], options, patch=plan.patch, mirror_axes=mirror_axes)
    patches = np.random.default_rng(0).standard_normal((3, 1, 16, 16, 16)).astype(np.float32)
    together = engine(patches)
    alone = np.concatenate([engine(patch[None]) for patch in patches])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(engine(patches[[2, 0]]), together[[2, 0]])


def test_a_small_network_never_sees_a_single_patch_on_a_cpu(plan):
    module, seen = build_segmenter(plan).eval(), []
    module.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    options = InferenceOptions(precision="float32", device="cpu")
    patch = np.zeros((1, 1, 16, 16, 16), np.float32)
    make_engine([module], options, patch=plan.patch)(patch)
    make_engine([module], options, patch=(400, 400, 16))(patch)
    assert seen == [2, 1]


def test_mirroring_makes_the_result_symmetric(plan):
    options = InferenceOptions(precision="float32", device="cpu", mirror=True)
    engine = make_engine([build_segmenter(plan).eval()], options, patch=plan.patch, mirror_axes=(0, 2))
    patch = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)
    flipped = engine(np.ascontiguousarray(patch[:, :, ::-1]))
    np.testing.assert_allclose(engine(patch), flipped[:, :, ::-1], atol=1e-5)


def test_half_precision_that_disagrees_is_not_used(plan, monkeypatch, caplog):
    from hybrid.deep.segmentation import engines

    monkeypatch.setattr(engines, "MAX_DIFFERENCE", -1.0)
    module = build_segmenter(plan).eval()
    options = InferenceOptions(precision="half", device="cpu")
    patch = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)
    full = make_engine([module], replace(options, precision="float32"), patch=plan.patch)(patch)
    np.testing.assert_array_equal(make_engine([module], options, patch=plan.patch)(patch), full)
    assert "Half precision is not used" in caplog.text


def test_openvino_gives_the_same_labels_as_torch(plan):
    pytest.importorskip("openvino")
    module = build_segmenter(plan).eval()
    patch = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 16)).astype(np.float32)
    results = [
        make_engine([module], InferenceOptions(engine=engine, precision="float32", device="cpu"), patch=plan.patch)(
            patch
        )
        for engine in ("torch", "openvino")
    ]
    np.testing.assert_allclose(results[0], results[1], atol=1e-3)


@pytest.mark.parametrize(
    ("coarse", "fine"), [((7, 9, 8), (20, 31, 15)), ((20, 21, 22), (9, 50, 22)), ((5, 5, 5), (5, 5, 5))]
)
@pytest.mark.parametrize("cuts", [(0, 1.0), (0, 0.3, 1.0), (0, 0.2, 0.5, 0.7, 1.0)])
def test_exported_slabs_equal_full_interpolation(coarse, fine, cuts):
    rng = np.random.default_rng(5)
    logits = ndimage.gaussian_filter(rng.standard_normal((3, *coarse)), (0, 1, 1, 1)) * 8
    logits[0] += 0.5
    values = np.exp(logits) / np.exp(logits).sum(0)
    exporter = SlabExporter(fine, coarse)
    edges = sorted({int(cut * coarse[0]) for cut in cuts})
    for start, stop in itertools.pairwise(edges):
        exporter.add(values[:, start:stop].astype(np.float32), start, slice(0, coarse[1]), slice(0, coarse[2]))
    full = torch.nn.functional.interpolate(torch.from_numpy(values)[None], size=fine, mode="trilinear")[0].argmax(0)
    assert (exporter.finish() != full.numpy()).mean() < 1e-4


def test_unknown_option_lists_the_known_ones():
    with pytest.raises(InputError, match="gaussian"):
        InferenceOptions(blending="gausian")


def test_what_is_wanted_of_an_array_does_not_change_and_the_rest_is_background(plan):
    options = InferenceOptions(precision="float32", device="cpu")
    engine = make_engine([build_segmenter(plan).eval()], options, patch=plan.patch)
    values = np.random.default_rng(4).standard_normal((40, 30, 33)).astype(np.float32)
    relevant = np.zeros(values.shape, bool)
    relevant[26:36, 4:12, 20:30] = True
    whole = predict_array(values, plan, engine, options)
    assert whole[~relevant].any()
    np.testing.assert_array_equal(
        predict_array(values, plan, engine, options, relevant=relevant), np.where(relevant, whole, 0)
    )
    assert not predict_array(values, plan, engine, options, relevant=np.zeros_like(relevant)).any()


def test_training_sees_what_windows_of_inference_see_around_the_region(plan, tmp_path):
    labels = np.zeros((90, 70, 64), np.uint8)
    labels[40:50, 30:44, 3:20] = 1
    image = sitk.GetImageFromArray(np.arange(labels.size, dtype=np.float32).reshape(labels.shape))
    cropping = replace(plan, crop_margin_mm=4.0, spacing=(1.0, 1.0, 1.0))
    write_training_case(image, sitk.GetImageFromArray(labels), cropping, tmp_path / "a.npz", case_id="a")
    stored = PreparedCase("a", tmp_path / "a.npz").load()
    region = np.zeros(labels.shape, bool)
    region[36:54, 26:48, 0:24] = True
    wanted = [np.flatnonzero(region.any(axis=axes))[[0, -1]] for axes in ((1, 2), (0, 2), (0, 1))]
    first = [int(low[0] - inner[0]) for low, inner in zip(wanted, stored["inner"], strict=True)]
    last = [start + size for start, size in zip(first, stored["labels"].shape, strict=True)]
    np.testing.assert_array_equal(stored["inner"][:, 1] - stored["inner"][:, 0], [18, 22, 24])
    assert stored["labels"].size < labels.size / 2
    windows, _ = choose_windows(labels.shape, plan.patch, 0.5, region)
    reaching = 0
    for window in windows:
        middle = [(part.start + part.stop - 1) / 2 for part in window]
        beyond = [max(low - m, m - high, 0) / n for m, (low, high), n in zip(middle, wanted, plan.patch, strict=True)]
        inside = all(a <= part.start and part.stop <= b for a, part, b in zip(first, window, last, strict=True))
        assert inside or max(beyond) > 0.25
        reaching += any(
            part.start < low or part.stop > high + 1 for part, (low, high) in zip(window, wanted, strict=True)
        )
    assert reaching > len(windows) / 2
