from __future__ import annotations

import json
import logging

import pytest
import torch
from safetensors.torch import save_file

from hybrid.deep import (
    Preprocessing,
    build_network,
    compare_weights,
    guess_architecture,
    load_encoder,
    load_weights,
    read_weights,
    save_model,
)
from hybrid.errors import InputError, WeightsError

SMALL = {"widen": 0.125}


def trunk(name: str = "resnet10", **options) -> dict[str, torch.Tensor]:
    return build_network(name, seed=11, **{**SMALL, **options}).state_dict()


def write_medicalnet(path, name="resnet10", *, head=True, **options):
    tensors = {f"module.{key}": value for key, value in trunk(name, **options).items()}
    if head:
        tensors["module.conv_seg.0.weight"] = torch.zeros(4, 2, 2, 2, 2)
    torch.save({"state_dict": tensors}, path)
    return path


def same_weights(network, tensors) -> bool:
    state = network.state_dict()
    return all(torch.equal(state[key], value) for key, value in tensors.items())


@pytest.mark.parametrize(
    ("name", "shortcut", "bias"),
    [("resnet10", "B", False), ("resnet18", "A", False), ("resnet34", "A", False), ("resnet50", "B", False)],
)
def test_medicalnet_file_is_recognised(tmp_path, name, shortcut, bias):
    stored = read_weights(write_medicalnet(tmp_path / f"{name}.pth", name))
    found = guess_architecture(stored)
    assert (stored.convention, stored.prefix) == ("medicalnet", "module.")
    assert (found.name, found.shortcut, found.bias_downsample) == (name, shortcut, bias)
    assert (found.dilated, found.first_stride, found.widen) == (True, 2, 0.125)
    network = build_network(found)
    report = load_weights(network, stored)
    assert report.coverage == 1.0
    assert same_weights(network, trunk(name))


def test_head_of_medicalnet_is_listed_as_unexpected_and_does_not_matter(tmp_path):
    stored = read_weights(write_medicalnet(tmp_path / "a.pth"))
    report = load_weights(build_network("resnet10", **SMALL), stored)
    assert report.counts == {"matched": 60, "missing": 0, "shape_mismatch": 0, "unexpected": 1}
    assert list(report.table.columns) == ["tensor", "status", "shape_expected", "shape_found"]
    assert len(report.sha256) == 64


def test_file_without_batch_counters_is_complete(tmp_path):
    """Files written by PyTorch before 0.4.1 have none."""
    tensors = {f"module.{k}": v for k, v in trunk().items() if "num_batches_tracked" not in k}
    torch.save({"state_dict": tensors}, tmp_path / "old.pth")
    assert load_weights(build_network("resnet10", **SMALL), tmp_path / "old.pth").coverage == 1.0


def test_fmcib_layout_is_recognised_with_its_width(tmp_path):
    tensors = trunk("resnet50", widen=0.25, bias_downsample=True)
    content = {"trunk_state_dict": tensors, "head_state_dict": {"0.weight": torch.zeros(2, 2)}}
    torch.save(content, tmp_path / "model_weights.torch")
    encoder = load_encoder(tmp_path / "model_weights.torch")
    found = encoder.network.architecture
    assert (found.name, found.widen, found.bias_downsample, found.first_stride) == ("resnet50", 0.25, True, 2)
    assert not found.dilated
    assert encoder.dim == 512
    settings = encoder.preprocessing
    assert (settings.size, settings.spacing_mm, settings.intensity) == (50, 1.0, "fmcib")


@pytest.mark.slow
def test_full_size_fmcib_file_gives_4096_features(tmp_path):
    tensors = build_network("resnet50", widen=2.0, bias_downsample=True).state_dict()
    assert len(tensors) == 322
    assert sum(tensor.numel() for name, tensor in tensors.items() if "running" not in name) > 184_000_000
    torch.save({"trunk_state_dict": tensors}, tmp_path / "model_weights.torch")
    encoder = load_encoder(tmp_path / "model_weights.torch")
    assert (encoder.dim, encoder.details["coverage"]) == (4096, 1.0)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "encoder.backbone."])
def test_plain_monai_file_is_recognised(tmp_path, suffix, prefix):
    tensors = {f"{prefix}{name}": value for name, value in trunk("resnet18").items()}
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    stored = read_weights(path)
    assert (stored.convention, stored.prefix) == ("monai", prefix)
    assert guess_architecture(stored).first_stride == 1
    assert load_weights(build_network(guess_architecture(stored)), stored).coverage == 1.0


def test_half_precision_is_widened(tmp_path):
    torch.save({name: value.half() for name, value in trunk().items() if value.is_floating_point()}, tmp_path / "h.pt")
    assert read_weights(tmp_path / "h.pt").tensors["conv1.weight"].dtype == torch.float32


def test_convention_can_be_overridden(tmp_path):
    path = write_medicalnet(tmp_path / "own_dataparallel.pth")
    assert load_encoder(path, convention="monai").preprocessing.intensity == "own"
    assert load_encoder(path).details["convention"] == "medicalnet"
    with pytest.raises(InputError, match="'medicalnet'"):
        read_weights(path, convention="medicalnets")


def test_dilation_can_be_switched_off_and_is_named(tmp_path):
    path = write_medicalnet(tmp_path / "a.pth")
    variants = [load_encoder(path, dilated=flag).describe()["variant"] for flag in (None, True, False)]
    assert variants == ["resnet10-stride2-wide0.125-dilated"] * 2 + ["resnet10-stride2-wide0.125"]


def drop(tensors: dict, share: float) -> dict:
    names = [name for name in tensors if "num_batches_tracked" not in name]
    gone = set(names[: round(share * len(names))])
    return {name: value for name, value in tensors.items() if name not in gone}


def test_file_with_90_percent_of_the_tensors_is_refused_with_counts_and_names(tmp_path):
    torch.save(drop(trunk("resnet18"), 0.10), tmp_path / "cut.pt")
    network = build_network("resnet18", **SMALL)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=r"Only 77 of 85 .* 8 missing.*conv1\.weight \(missing: expected 8x1x7x7x7"):
        load_weights(network, tmp_path / "cut.pt")
    assert same_weights(network, before)
    table = compare_weights(network, read_weights(tmp_path / "cut.pt")).table
    assert (table["status"] == "missing").sum() == 8


def test_file_with_97_percent_is_accepted_and_what_is_left_is_named(tmp_path, caplog):
    tensors = trunk("resnet18")
    del tensors["layer4.1.bn2.bias"], tensors["layer4.1.bn2.weight"]
    torch.save(tensors, tmp_path / "most.pt")
    with caplog.at_level(logging.WARNING):
        report = load_weights(build_network("resnet18", **SMALL), tmp_path / "most.pt")
    assert report.coverage == pytest.approx(83 / 85)
    assert "layer4.1.bn2.bias" in caplog.text


def test_other_shapes_are_refused(tmp_path):
    torch.save(trunk("resnet10", widen=0.25), tmp_path / "wide.pt")
    with pytest.raises(WeightsError, match=r"60 of another shape.*expected 8x1x7x7x7, found 16x1x7x7x7"):
        load_weights(build_network("resnet10", **SMALL), tmp_path / "wide.pt")


def test_medicalnet_file_in_an_fmcib_network_is_refused_not_ignored(tmp_path):
    """FMCIB's own loader keeps its random weights here, without a word."""
    path = write_medicalnet(tmp_path / "resnet50.pth", "resnet50")
    tensors = {key.replace("layer", "stage"): value for key, value in torch.load(path)["state_dict"].items()}
    torch.save({"trunk_state_dict": tensors}, tmp_path / "wrong.torch")
    network = build_network("resnet50", widen=0.25, bias_downsample=True)
    with pytest.raises(WeightsError, match="Only 0 of 269 tensors"):
        load_weights(network, tmp_path / "wrong.torch")
    with pytest.raises(WeightsError, match="not the tensors of a 3D ResNet"):
        load_encoder(tmp_path / "wrong.torch")


class Payload:
    """Something whose unpickling would run code."""

    executed = False

    def __reduce__(self):
        return setattr, (Payload, "executed", True)


@pytest.mark.parametrize("content", [Payload(), build_network("resnet10", **SMALL)])
def test_pickled_objects_are_refused_and_not_executed(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(WeightsError, match="pickled objects"):
        read_weights(tmp_path / "model.pt")
    assert not Payload.executed


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_damaged_file_is_a_clear_error(tmp_path, suffix, keep):
    path = tmp_path / f"net{suffix}"
    save_file(trunk(), path) if suffix == ".safetensors" else torch.save(trunk(), path)
    data = path.read_bytes()
    path.write_bytes(data[: keep if isinstance(keep, int) else int(keep * len(data))])
    with pytest.raises(WeightsError, match=path.name):
        read_weights(path)


def test_files_without_tensors_are_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    torch.save([torch.zeros(1)], tmp_path / "b.pt")
    (tmp_path / "c.pt").write_text("case_id,image\n")
    with pytest.raises(WeightsError, match="no tensors; its keys are: epoch"):
        read_weights(tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="found list"):
        read_weights(tmp_path / "b.pt")
    with pytest.raises(WeightsError):
        read_weights(tmp_path / "c.pt")
    with pytest.raises(WeightsError, match="does not exist"):
        read_weights(tmp_path / "d.pt")


def test_model_folder_survives_a_round_trip(tmp_path):
    network = build_network("narrow", seed=3)
    settings = Preprocessing(size=24, margin_mm=5, channels=("image", "mask", "voxel_size"), modality="ct")
    save_model(tmp_path / "model", network, settings, metrics={"r2": 0.5})
    encoder = load_encoder(tmp_path / "model")
    assert encoder.preprocessing == settings
    assert encoder.network.architecture == network.architecture
    assert same_weights(encoder.network, network.state_dict())
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["model.json", "model.safetensors"]


def test_model_folder_with_other_weights_is_refused(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        save_model(tmp_path / name, build_network("narrow", seed=seed), Preprocessing())
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(WeightsError, match="not those of the model card"):
        read_weights(tmp_path / "a")
    (tmp_path / "a" / "model.json").write_text(json.dumps({"architecture": {}}))
    with pytest.raises(WeightsError, match="model card"):
        read_weights(tmp_path / "a")
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        read_weights(tmp_path / "b")
