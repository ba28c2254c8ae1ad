"""Start weights: files with the names of each kind, narrow and untrained, are written here and read back."""

import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from monai.networks.nets import DynUNet, SegResNet, SegResNetDS, UNet
from monai.networks.nets.segresnet_ds import SegResEncoder
from safetensors.torch import save_file
from torch.nn import functional

from hybrid.cases import Cohort
from hybrid.deep.segmentation.foreign import (
    INPUTS,
    Checkpoint,
    load_checkpoint,
    plan_from_checkpoint,
    read_checkpoint,
)
from hybrid.deep.segmentation.foreign_networks import LAYOUTS, GenesisUNet
from hybrid.deep.segmentation.networks import TRANSFER_SEGMENTERS, build_segmenter, outputs
from hybrid.deep.segmentation.preprocessing import network_array, open_scan, write_training_case
from hybrid.deep.segmentation.segmenter import load_segmenter, save_segmenter
from hybrid.deep.segmentation.training import PatchDataset, PreparedCase, TrainingSettings, train_network
from hybrid.deep.segmentation.transfer import Transfer
from hybrid.errors import InputError, WeightsError
from hybrid.pipelines.cli import main
from hybrid.pipelines.train import train_segmenter
from hybrid.provenance import hashed_patient

from .conftest import blob_case

STAGES = ("down_tr64", "down_tr128", "down_tr256", "down_tr512")
FAST = TrainingSettings(epochs=1, steps=2, precision="32-true", accelerator="cpu", ema=0.0)


@pytest.fixture
def ct(plan):
    """Plan of a CT cohort with three channels, whose network, width and stages belong to no file below."""
    return replace(plan, modality="ct", intensity={"low": -100.0, "high": 200.0, "mean": 40.0, "sd": 50.0})


def random_state(network, seed=0):
    """Tensors of a network with running statistics and affine weights that are not those of the start."""
    torch.manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if tensor.ndim == 1 else 0.2 * torch.randn_like(tensor))
    return network.eval()


def genesis_tensors(width=4, classes=None, seed=0):
    """Tensors under the names of Models Genesis' ``UNet3D``; ``width`` is that of the first stage."""
    generator = torch.Generator().manual_seed(seed)
    found = {}

    def put(name, *shape):
        value = torch.randn(shape, generator=generator)
        found[name] = 0.5 + value.abs() if len(shape) == 1 else value / (27 * shape[1]) ** 0.5

    def convolution(name, inputs, outputs):
        put(f"{name}.conv1.weight", outputs, inputs, 3, 3, 3)
        for part in ("conv1.bias", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"):
            put(f"{name}.{part}", outputs)
        found[f"{name}.bn1.num_batches_tracked"] = torch.tensor(7)

    features = [width * 2**stage for stage in range(4)]
    for stage, inputs, count in zip(STAGES, [1, *features], features, strict=False):
        convolution(f"{stage}.ops.0", inputs, count // 2)
        convolution(f"{stage}.ops.1", count // 2, count)
    for stage, count in (("up_tr256", features[2]), ("up_tr128", features[1]), ("up_tr64", features[0])):
        put(f"{stage}.up_conv.weight", 2 * count, 2 * count, 2, 2, 2)
        put(f"{stage}.up_conv.bias", 2 * count)
        convolution(f"{stage}.ops.0", 3 * count, count)
        convolution(f"{stage}.ops.1", count, count)
    if classes:
        put("out_tr.final_conv.weight", classes, width, 1, 1, 1)
        put("out_tr.final_conv.bias", classes)
    return found


def genesis_features(tensors, images):
    """Features of the finest stage, computed from the file's tensors (Zhou et al. 2021), running statistics."""

    def stage(name, values):
        for number in (0, 1):
            get = {part: tensors[f"{name}.ops.{number}.{part}"] for part in ("conv1.weight", "conv1.bias")}
            values = functional.conv3d(values, get["conv1.weight"], get["conv1.bias"], padding=1)
            bn = {part: tensors[f"{name}.ops.{number}.bn1.{part}"] for part in ("running_mean", "running_var")}
            scale, shift = (tensors[f"{name}.ops.{number}.bn1.{part}"] for part in ("weight", "bias"))
            values = functional.batch_norm(values, bn["running_mean"], bn["running_var"], scale, shift, eps=1e-5)
            values = functional.relu(values)
        return values

    skips = [stage(STAGES[0], images)]
    for name in STAGES[1:]:
        skips.append(stage(name, functional.max_pool3d(skips[-1], 2)))
    values = skips.pop()
    for name in ("up_tr256", "up_tr128", "up_tr64"):
        weight, bias = tensors[f"{name}.up_conv.weight"], tensors[f"{name}.up_conv.bias"]
        values = stage(name, torch.cat([functional.conv_transpose3d(values, weight, bias, 2), skips.pop()], 1))
    return values


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def written(folder, source, *, wrapper=None, prefix="", name="weights.pt"):
    """Weight file of a source network."""
    state = prefixed(source.state_dict(), prefix)
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, folder / name)
    return folder / name


def suprem_unet(folder):
    state = prefixed(genesis_tensors(), "module.backbone.")
    state["module.precls_conv.0.weight"] = torch.ones(4)
    state["module.organ_embedding"] = torch.zeros(5, 6)
    torch.save({"net": state, "optimizer": {"state": {}}, "scheduler": {"last_epoch": 3}, "epoch": 3}, folder / "u.pth")
    return folder / "u.pth"


def suprem_segresnet(folder):
    source = random_state(SegResNet(init_filters=8, in_channels=1, out_channels=3, blocks_down=(1, 2, 2, 4)))
    return written(folder, source, wrapper="net", prefix="module.", name="s.pth")


def genesis(folder):
    torch.save({"state_dict": prefixed(genesis_tensors(classes=1), "module.")}, folder / "Genesis_Chest_CT.pt")
    return folder / "Genesis_Chest_CT.pt"


def ctfm(folder, network=None, **config):
    network = network or SegResNetDS(init_filters=4, out_channels=3, blocks_down=(1, 2, 1), dsdepth=2)
    home = folder / "ct_fm"
    home.mkdir()
    save_file(random_state(network).state_dict(), home / "model.safetensors")
    said = {"spatial_dims": 3, "in_channels": 1, "init_filters": 4, "blocks_down": [1, 2, 1], **config}
    (home / "config.json").write_text(json.dumps(said))
    return home


def ctfm_encoder(folder):
    return ctfm(folder, SegResEncoder(init_filters=4, blocks_down=(1, 2, 1)))


THIN = ((1, 3, 3), (3, 3, 3), (3, 3, 3))
HALVED = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
SOURCES = {
    "segresnet_plain": [
        SegResNet(init_filters=8, out_channels=3, blocks_down=(1, 2, 1), blocks_up=(2, 1)),
        SegResNet(3, 4, 1, 3, norm="batch", blocks_down=(1, 1), blocks_up=(1,), upsample_mode="deconv"),
        SegResNet(init_filters=8, out_channels=3, blocks_down=(1, 1), blocks_up=(1,), upsample_mode="pixelshuffle"),
    ],
    "segresnet": [
        SegResNetDS(init_filters=4, out_channels=3, blocks_down=(1, 2, 1), dsdepth=2, norm="instance"),
        SegResNetDS(init_filters=4, out_channels=3, blocks_down=(1, 1, 1), resolution=(5.0, 1.0, 1.0)),
        SegResNetDS(init_filters=4, out_channels=3, blocks_down=(1, 1, 1), resolution=(2.0, 1.0, 4.0)),
        SegResNetDS(init_filters=4, out_channels=3, blocks_down=(1, 2), blocks_up=(2,), upsample_mode="nontrainable"),
    ],
    "dynunet": [
        DynUNet(3, 1, 3, [3] * 3, [1, 2, 2], [2, 2], filters=[4, 6, 10]),
        DynUNet(
            3, 1, 3, THIN, HALVED, HALVED[1:], filters=[4, 8, 8], norm_name="batch", res_block=True, trans_bias=True,
            deep_supervision=True, deep_supr_num=1,
        ),
    ],
    "unet": [
        UNet(3, 1, 3, (4, 8, 12), (2, 2), num_res_units=2, norm="batch"),
        UNet(3, 1, 3, (4, 8, 12), (2, 1), num_res_units=1, act="RELU", bias=False),
        UNet(3, 1, 3, (4, 8, 12, 16), (2, 2, 2), kernel_size=5, up_kernel_size=3, norm=("instance", {"affine": True})),
    ],
}  # fmt: skip
MONAI = [(kind, number) for kind, found in SOURCES.items() for number in range(len(found))]
WRITERS = {
    "suprem_unet": suprem_unet, "suprem_segresnet": suprem_segresnet, "genesis": genesis, "ctfm": ctfm,
    "ctfm_encoder": ctfm_encoder,
}  # fmt: skip


def filled(path, plan, **options):
    """Network that follows a file and is filled with it, its plan, and the report."""
    checkpoint = read_checkpoint(path, **options)
    followed = plan_from_checkpoint(checkpoint, plan)
    network = build_segmenter(followed, seed=3)
    return network.eval(), followed, load_checkpoint(network, checkpoint)


def images(plan, seed=0):
    return torch.randn(1, 1, *plan.patch, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "number"), MONAI)
@pytest.mark.parametrize(("wrapper", "prefix"), [(None, ""), ("state_dict", "module."), ("model", "net._orig_mod.")])
def test_a_monai_network_is_rebuilt_from_its_tensors_and_computes_the_same(tmp_path, ct, kind, number, wrapper, prefix):
    source = random_state(SOURCES[kind][number])
    path = written(tmp_path, source, wrapper=wrapper, prefix=prefix)
    network, plan, report = filled(path, ct)
    assert (plan.network, report.coverage, report.convention) == (kind, 1.0, "monai")
    assert set(report.table["status"]) == {"matched"}
    assert all(edge % step == 0 for edge, step in zip(plan.patch, plan.divisor, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(network(images(plan)), source(images(plan)))
        both = [outputs(net.train()(images(plan).expand(2, -1, -1, -1, -1))) for net in (network, source)]
    assert [depth.shape for depth in both[0]] == [depth.shape for depth in both[1]]


@pytest.mark.parametrize("name", WRITERS)
def test_every_published_kind_fills_the_whole_trunk(tmp_path, ct, name):
    network, plan, report = filled(WRITERS[name](tmp_path), ct)
    assert report.coverage == 1.0
    assert report.counts["missing"] == report.counts["shape_mismatch"] == 0
    assert report.describe()["sha256"] == report.sha256
    assert network(images(plan)).shape == (1, 3, *plan.patch)


@pytest.mark.parametrize(
    ("name", "kind", "prefix", "orientation", "expected"),
    [
        ("suprem_unet", "genesis_unet", "module.backbone.", "RAS", ((1.5,) * 3, -250.0, 500.0)),
        ("suprem_segresnet", "segresnet_plain", "module.", "RAS", ((1.5,) * 3, -250.0, 500.0)),
        ("genesis", "genesis_unet", "module.", "LPS", ((1.0,) * 3, -1000.0, 2000.0)),
        ("ctfm", "segresnet", "", "SPL", ((1.0,) * 3, -1024.0, 3072.0)),
    ],
)
def test_the_plan_takes_network_voxel_size_and_intensities_of_the_authors(
    tmp_path, ct, name, kind, prefix, orientation, expected
):
    checkpoint = read_checkpoint(WRITERS[name](tmp_path))
    plan = plan_from_checkpoint(checkpoint, ct)
    assert (checkpoint.kind, checkpoint.prefix, checkpoint.orientation) == (kind, prefix, orientation)
    assert (plan.spacing, plan.intensity["mean"], plan.intensity["sd"]) == expected
    assert (plan.labels, plan.batch, plan.modality) == (ct.labels, ct.batch, "ct")
    assert type(plan).from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_hounsfield_units_of_suprem_become_0_to_1(tmp_path, ct):
    plan = plan_from_checkpoint(read_checkpoint(suprem_unet(tmp_path)), ct)
    image = blob_case(0)[0] * 20 - 1000
    values = network_array(open_scan(image), plan)
    assert (values.min(), values.max()) == (0, 1)
    assert plan.foreground == pytest.approx(((40 + 250) / 500, 50 / 500))


def test_voxel_size_and_intensities_can_be_kept(tmp_path, ct):
    checkpoint = read_checkpoint(suprem_unet(tmp_path))
    kept = plan_from_checkpoint(checkpoint, ct, keep=("spacing", "intensity"))
    assert (kept.spacing, kept.intensity, kept.foreground) == (ct.spacing, ct.intensity, (0.0, 1.0))
    assert kept.network == "genesis_unet"
    with pytest.raises(InputError, match="'spacings'"):
        plan_from_checkpoint(checkpoint, ct, keep=("spacings",))


def test_a_plan_for_mr_keeps_its_own_intensities(tmp_path, plan):
    assert plan_from_checkpoint(read_checkpoint(genesis(tmp_path)), plan).intensity == plan.intensity


def test_strides_of_a_unet_do_not_show_and_can_be_kept(tmp_path, ct):
    source = random_state(UNet(3, 1, 3, (4, 8, 12), ((1, 2, 2), (2, 2, 2)), num_res_units=2))
    checkpoint = read_checkpoint(written(tmp_path, source))
    wanted = replace(ct, strides=HALVED, kernels=((3, 3, 3),) * 3)
    assert plan_from_checkpoint(checkpoint, wanted).strides[1] == (2, 2, 2)
    plan = plan_from_checkpoint(checkpoint, wanted, keep=("strides",))
    network = build_segmenter(plan).eval()
    load_checkpoint(network, checkpoint)
    torch.testing.assert_close(network(images(plan)), source(images(plan)))
    with pytest.raises(InputError, match="3 stages"):
        plan_from_checkpoint(checkpoint, replace(wanted, strides=HALVED[:2]), keep=("strides",))


def to_ours(images):
    """From R, A, S to S, P, L."""
    return images.permute(0, 1, 4, 3, 2).flip([3, 4])


@pytest.mark.parametrize(("name", "turn"), [("suprem_unet", to_ours), ("genesis", lambda x: x.permute(0, 1, 4, 3, 2))])
def test_the_unet_of_genesis_and_suprem_sees_the_body_as_its_authors_turned_it(tmp_path, ct, name, turn):
    """Without strided convolutions, turned kernels give exactly the turned result."""
    network, _, _ = filled(WRITERS[name](tmp_path), ct)
    theirs = torch.randn(2, 1, 16, 24, 8, generator=torch.Generator().manual_seed(1)).double()
    tensors = genesis_tensors(classes=1 if name == "genesis" else None)
    features = genesis_features({name: value.double() for name, value in tensors.items()}, theirs)
    seen = []
    network.head.register_forward_hook(lambda module, given, result: seen.append(given[0]))
    with torch.no_grad():
        network.double()(turn(theirs))
    torch.testing.assert_close(seen[0], turn(features))


def test_suprem_segresnet_computes_the_same_and_leaves_its_head_out(tmp_path, ct):
    source = random_state(SegResNet(init_filters=8, in_channels=1, out_channels=3, blocks_down=(1, 2, 2, 4)))
    network, plan, report = filled(suprem_segresnet(tmp_path), ct, orientation="SPL")
    own = report.table.loc[report.table["status"] == "own_start", "tensor"]
    assert set(own) == {"conv_final.2.conv.weight", "conv_final.2.conv.bias"}
    network.conv_final[2].load_state_dict(source.conv_final[2].state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network(images(plan)), source(images(plan)))


def test_transposed_axes_change_nothing_in_a_network_with_strided_convolutions(tmp_path, ct):
    source = random_state(SOURCES["segresnet_plain"][0])
    network, plan, _ = filled(written(tmp_path, source), ct, orientation="lps")
    ours = images(plan)
    with torch.no_grad():
        theirs = source(ours.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
        torch.testing.assert_close(network(ours), theirs)


def test_mirrored_axes_are_understood_far_better_than_kernels_as_they_are(tmp_path, ct):
    """Strided convolutions sample from the other end, so that the result is not exact."""
    torch.manual_seed(0)
    source = SegResNet(init_filters=16, out_channels=3, blocks_down=(1, 2, 2, 4)).eval()
    path = written(tmp_path, source)
    theirs = 5 * functional.avg_pool3d(torch.randn(1, 1, 50, 50, 50), 3, 1)
    with torch.no_grad():
        wanted = to_ours(source(theirs)).flatten()
        found = {axes: filled(path, ct, orientation=axes)[0](to_ours(theirs)).flatten() for axes in ("RAS", "SPL")}
    similar = {axes: float(torch.corrcoef(torch.stack([values, wanted]))[0, 1]) for axes, values in found.items()}
    assert similar["RAS"] > 0.8
    assert similar["SPL"] < similar["RAS"] - 0.2


def test_thin_axes_follow_the_kernels_when_they_are_turned(tmp_path, ct):
    source = random_state(SOURCES["segresnet"][2])  # voxels of 2 x 1 x 4 mm
    path = written(tmp_path, source)
    for orientation, turn in (("SPL", (2, 3, 4)), ("LPS", (4, 3, 2)), ("PSL", (3, 2, 4))):
        network, plan, _ = filled(path, replace(ct, patch=(32, 32, 32)), orientation=orientation)
        divisors = [source.shape_factor()[axis - 2] for axis in turn]
        assert list(plan.divisor) == divisors
        with torch.no_grad():
            back = [2 + turn.index(axis) for axis in (2, 3, 4)]
            theirs = source(images(plan).permute(0, 1, *back)).permute(0, 1, *turn)
            torch.testing.assert_close(network(images(plan)), theirs)


@pytest.mark.parametrize("axes", ["RAX", "RLS", "RA", ""])
def test_an_impossible_orientation_is_refused(tmp_path, axes):
    with pytest.raises(InputError, match="three letters"):
        read_checkpoint(genesis(tmp_path), orientation=axes or "R")


def test_files_of_batch_normalisation_give_a_case_the_same_result_whatever_its_neighbours(tmp_path, ct):
    """The original computes with the statistics of the batch, also when it is applied."""
    network, plan, _ = filled(genesis(tmp_path), ct)
    one, two = images(plan).double(), images(plan, seed=1).double()
    network.double()
    with torch.no_grad():
        torch.testing.assert_close(network(torch.cat([one, two]))[:1], network(one))


def test_an_encoder_fills_the_encoder_and_says_that_the_decoder_starts_at_random(tmp_path, ct, caplog):
    checkpoint = read_checkpoint(ctfm_encoder(tmp_path))
    network = build_segmenter(plan_from_checkpoint(checkpoint, ct), seed=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        report = load_checkpoint(network, checkpoint)
    own = report.table.loc[report.table["status"] == "own_start", "tensor"]
    assert report.coverage == 1.0
    assert len(own)
    assert all(name.startswith("up_layers.") for name in own)
    assert f"{len(own)} tensors keep their random start" in caplog.text
    after = network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in own)
    assert all(torch.equal(after[name], checkpoint.tensors[name]) for name in after if name.startswith("encoder."))


def test_head_of_other_classes_keeps_its_own_start(tmp_path, ct):
    checkpoint = read_checkpoint(written(tmp_path, random_state(SOURCES["dynunet"][1])))
    plan = replace(plan_from_checkpoint(checkpoint, ct), labels=(1, 2, 3), label_names=("a", "b", "c"))
    network, untouched = build_segmenter(plan, seed=3), build_segmenter(plan, seed=3).state_dict()
    report = load_checkpoint(network, checkpoint)
    own = list(report.table.loc[report.table["status"] == "own_start", "tensor"])
    assert report.coverage == 1.0
    assert {name.split(".")[0] for name in own} == {"output_block", "deep_supervision_heads"}
    assert all(torch.equal(untouched[name], network.state_dict()[name]) for name in own)
    rows = report.describe()["not_matched"]
    assert [row["tensor"] for row in rows] == own
    assert rows[0]["shape_expected"].startswith("4x")
    assert rows[0]["shape_found"].startswith("3x")


@pytest.mark.parametrize("channels", [2, 4])
def test_stem_of_other_channels_answers_an_image_that_is_repeated_in_all_of_them(tmp_path, ct, channels):
    source = random_state(UNet(3, channels, 3, (4, 8), (2,), num_res_units=2))
    network, plan, report = filled(written(tmp_path, source), ct)
    adapted = list(report.table.loc[report.table["status"] == "adapted", "tensor"])
    assert adapted == ["model.0.conv.unit0.conv.weight", "model.0.residual.weight"]
    assert (report.coverage, report.counts["own_start"]) == (1.0, 0)
    with torch.no_grad():
        torch.testing.assert_close(network(images(plan)), source(images(plan).expand(-1, channels, -1, -1, -1)))


def test_one_channel_is_repeated_for_a_network_with_several(tmp_path):
    source = random_state(SOURCES["segresnet_plain"][0])
    checkpoint = read_checkpoint(written(tmp_path, source))
    network = SegResNet(init_filters=8, in_channels=3, out_channels=3, blocks_down=(1, 2, 1), blocks_up=(2, 1)).eval()
    load_checkpoint(network, checkpoint)
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(network(image.expand(-1, 3, -1, -1, -1)), source(image), rtol=1e-4, atol=1e-4)


def test_a_renamed_trunk_is_refused_with_the_first_missing_names_and_nothing_is_filled(tmp_path, ct):
    source = random_state(SOURCES["segresnet_plain"][0])
    state = {name.replace("up_layers.0.0.", "up_layers.0.0.block_"): v for name, v in source.state_dict().items()}
    torch.save(state, tmp_path / "renamed.pt")
    checkpoint = read_checkpoint(tmp_path / "renamed.pt")
    network = build_segmenter(plan_from_checkpoint(checkpoint, ct), seed=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(WeightsError, match=r"up_layers\.0\.0\.norm1\.weight \(missing: expected 16") as caught:
        load_checkpoint(network, checkpoint)
    assert "Unexpected in the file: up_layers.0.0.block_norm1" in str(caught.value)
    assert "at least 95 %" in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_five_per_cent_may_be_missing(tmp_path, ct):
    source = random_state(SegResNet(init_filters=8, out_channels=3, blocks_down=(1, 2, 2, 4)))
    state = source.state_dict()
    trunk = [name for name in state if not name.startswith("conv_final.2")]
    gone = [name for name in trunk if "norm2.bias" in name]
    for allowed, count in ((True, int(0.05 * len(trunk))), (False, int(0.05 * len(trunk)) + 1)):
        torch.save({name: value for name, value in state.items() if name not in gone[:count]}, tmp_path / "a.pt")
        if allowed:
            _, _, report = filled(tmp_path / "a.pt", ct)
            assert (report.counts["missing"], report.coverage < 1) == (count, True)
        else:
            with pytest.raises(WeightsError, match=f"{count} missing"):
                filled(tmp_path / "a.pt", ct)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"stem.weight": torch.ones(2, 2)}, r"not the tensors of a network that can be started: found stem\.weight"),
        ({"module.swinViT.patch_embed.proj.weight": torch.ones(2)}, "They look like SwinUNETR"),
        ({"encoder.stages.0.0.convs.0.conv.weight": torch.ones(2)}, "They look like nnU-Net"),
        ({"epoch": 3}, "holds no tensors; its keys are: epoch"),
        ({"convInit.conv.weight": torch.ones(8, 1, 3, 3, 3)}, "looks like 'segresnet_plain' but is not complete"),
        ({"input_block.conv1.conv.weight": torch.ones(8, 1, 3, 3, 3)}, r"bottleneck\.conv1\.conv\.weight' is missing"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, tensors, message):
    torch.save({"state_dict": tensors} if "epoch" not in tensors else tensors, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match=message):
        read_checkpoint(tmp_path / "other.pt")


class Planted:
    """Runs code when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return open, (self.target, "w")


def test_a_file_with_pickled_objects_is_refused_and_runs_nothing(tmp_path):
    target = tmp_path / "was_here"
    torch.save({"state_dict": genesis_tensors(), "extra": Planted(str(target))}, tmp_path / "a.pt")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Planted(str(target)), protocol=2))
    for name in ("a.pt", "b.pth"):
        with pytest.raises(WeightsError, match=r"pickled objects|cannot be read"):
            read_checkpoint(tmp_path / name)
    assert not target.exists()


def test_missing_and_cut_off_files_are_named(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pt")
    path = genesis(tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(WeightsError, match="Genesis_Chest_CT"):
        read_checkpoint(path)
    with pytest.raises(InputError, match="'suprem'"):
        read_checkpoint(path, convention="supreme")


def test_config_of_ctfm_must_agree_with_its_tensors(tmp_path):
    with pytest.raises(WeightsError, match=r"blocks_down = \[1, 2, 2\], the tensors have \[1, 2, 1\]"):
        read_checkpoint(ctfm(tmp_path, blocks_down=[1, 2, 2]))


def test_without_its_config_ctfm_is_a_network_of_monai_unless_it_is_said(tmp_path):
    home = ctfm(tmp_path)
    (home / "config.json").unlink()
    assert read_checkpoint(home / "model.safetensors").convention == "monai"
    assert read_checkpoint(home, convention="ctfm").convention == "ctfm"


def test_half_precision_becomes_float32(tmp_path):
    state = {name: value.half() for name, value in random_state(SOURCES["unet"][1]).state_dict().items()}
    torch.save(state, tmp_path / "half.pt")
    tensors = read_checkpoint(tmp_path / "half.pt").tensors.values()
    assert {value.dtype for value in tensors if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("kind", ["dynunet", "unet", "segresnet", "segresnet_plain", "genesis_unet"])
def test_an_own_model_folder_starts_a_network_of_the_same_kind(tmp_path, ct, kind):
    """Its plan is in the card: thick slices, strides and normalisation need no guessing."""
    every = kind in ("segresnet", "segresnet_plain")
    plan = replace(ct, network=kind, spacing=(1.0, 1.0, 1.0) if every else (3.0, 1.0, 1.0))
    if not every:
        plan = replace(plan, strides=HALVED, kernels=THIN)
    source = random_state(build_segmenter(plan))
    save_segmenter(tmp_path, source, plan, {"patients": ["abc"]})
    new = replace(ct, network="dynunet", width=16, patch=(19, 33, 33), spacing=(2.0, 2.0, 2.0))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        network, found, report = filled(path, new)
        assert (report.coverage, report.convention, report.patients) == (1.0, "hybrid", ("abc",))
        assert (found.network, found.width, found.strides, found.spacing) == (kind, 8, plan.strides, plan.spacing)
        assert all(edge % step == 0 for edge, step in zip(found.patch, found.divisor, strict=True))
        torch.testing.assert_close(network(images(found)), source(images(found)))


def test_own_segresnet_keeps_its_kernels_when_the_voxel_size_changes(tmp_path, ct):
    plan = replace(ct, network="segresnet", spacing=(4.0, 1.0, 1.0), strides=((1, 1, 1), (1, 2, 2), (1, 2, 2)))
    save_segmenter(tmp_path, random_state(build_segmenter(plan)), plan, {})
    checkpoint = read_checkpoint(tmp_path)
    followed = plan_from_checkpoint(checkpoint, replace(ct, spacing=(1.0, 1.0, 1.0)), keep=("spacing",))
    assert followed.spacing == (1.0, 1.0, 1.0)
    assert load_checkpoint(build_segmenter(followed), checkpoint).coverage == 1.0


def test_own_models_need_no_orientation(tmp_path, ct):
    save_segmenter(tmp_path, build_segmenter(ct), ct, {})
    with pytest.raises(InputError, match=r"model\.json has them"):
        read_checkpoint(tmp_path, orientation="RAS")


def test_own_folders_that_cannot_start_a_network_are_refused(tmp_path, ct):
    tagged = replace(ct, network="dynunet_tagged")
    save_segmenter(tmp_path / "tagged", build_segmenter(tagged), tagged, {})
    with pytest.raises(WeightsError, match="one branch"):
        read_checkpoint(tmp_path / "tagged")
    save_segmenter(tmp_path / "plain", build_segmenter(ct), ct, {})
    (tmp_path / "plain" / "model.safetensors").write_bytes((tmp_path / "tagged" / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError, match="not those of the model card"):
        read_checkpoint(tmp_path / "plain")
    (tmp_path / "plain" / "model.json").write_text('{"format": "hybrid-segmenter-ensemble-1", "members": []}')
    with pytest.raises(WeightsError, match="one member of an ensemble"):
        read_checkpoint(tmp_path / "plain")


@pytest.mark.parametrize("kind", TRANSFER_SEGMENTERS)
def test_networks_for_two_cohorts_start_from_a_foreign_dynunet(tmp_path, ct, kind):
    checkpoint = read_checkpoint(written(tmp_path, random_state(SOURCES["dynunet"][0])))
    plan = plan_from_checkpoint(checkpoint, ct)
    network = build_segmenter(replace(plan, network=kind)).eval()
    report = load_checkpoint(network, checkpoint)
    assert report.coverage == 1.0
    torch.testing.assert_close(network(images(plan)), SOURCES["dynunet"][0](images(plan)))


@pytest.mark.parametrize("name", ["suprem_unet", "ctfm", "genesis"])
def test_training_starts_from_a_foreign_file_and_says_what_it_filled(tmp_path, ct, name):
    path = WRITERS[name](tmp_path)
    checkpoint = read_checkpoint(path)
    plan = plan_from_checkpoint(checkpoint, replace(ct, patch=(16, 16, 16)), keep=("spacing",))
    cases = []
    for seed in range(2):
        file = tmp_path / f"c{seed}.npz"
        write_training_case(*blob_case(seed), plan, file, case_id=f"c{seed}")
        cases.append(PreparedCase(f"c{seed}", file))
    slow = replace(FAST, learning_rate=1e-12)
    trained = train_network(plan, cases, [], tmp_path / "run", slow, transfer=Transfer(path), progress=False)
    assert trained.start["coverage"] == 1.0
    assert trained.start["convention"] in INPUTS
    weights = {n: v for n, v in checkpoint.tensors.items() if n.endswith("weight") and v.ndim == 5}
    state = trained.network.state_dict()
    assert all(torch.allclose(state[n], v, atol=1e-6) for n, v in weights.items() if state[n].shape == v.shape)


def test_a_patch_is_changed_in_standard_deviations_of_the_foreground(tmp_path, ct):
    """Noise and shifts made for standardised images would bury an image of 0 to 1."""
    followed = plan_from_checkpoint(read_checkpoint(ctfm(tmp_path)), ct, keep=("spacing",))
    own = replace(followed, intensity={"low": -1024.0, "high": 2048.0, "mean": 40.0, "sd": 50.0})
    patches = []
    for number, plan in enumerate((followed, own)):
        path = tmp_path / f"{number}.npz"
        write_training_case(*blob_case(0), plan, path, case_id="c")
        patches.append([PatchDataset([PreparedCase("c", path)], plan, FAST, 40)[i] for i in range(40)])
    mean, sd = followed.foreground
    for (theirs, labels), (ours, same) in zip(*patches, strict=True):
        assert torch.equal(labels, same)
        np.testing.assert_allclose((theirs - mean) / sd, ours, atol=0.05)


def followed(kind, network, plan, convention="monai"):
    """Plan that follows a network of full size, of which only names and shapes exist."""
    tensors = network.state_dict()
    checkpoint = Checkpoint(Path("x.pt"), kind, tensors, "", "", convention, LAYOUTS[kind].structure(tensors))
    return plan_from_checkpoint(checkpoint, plan)


def test_full_size_networks_have_the_published_numbers_of_weights(ct):
    """Models Genesis 19.08 M with running statistics; CT-FM's encoder 161 tensors, 77.8 M; SegResNet 16 4.7 M."""
    with torch.device("meta"):
        genesis = GenesisUNet(1, 1, (64, 128, 256, 512), ((3, 3, 3),) * 4, ((1, 1, 1), *[(2, 2, 2)] * 3))
        again = build_segmenter(followed("genesis_unet", genesis, replace(ct, labels=())))
        ct_fm = followed("segresnet", SegResNetDS(init_filters=32, blocks_down=(1, 2, 2, 4, 4), dsdepth=4), ct)
        encoder = build_segmenter(ct_fm).encoder
        plain = build_segmenter(followed("segresnet_plain", SegResNet(init_filters=16, blocks_down=(1, 2, 2, 4)), ct))
    state = [value for name, value in again.state_dict().items() if not name.endswith("num_batches_tracked")]
    assert round(sum(value.numel() for value in state) / 1e6, 2) == 19.08
    assert len(encoder.state_dict()) == 161
    assert round(sum(value.numel() for value in encoder.parameters()) / 1e6, 1) == 77.8
    assert round(sum(value.numel() for value in plain.parameters()) / 1e6, 1) == 4.7
    assert (ct_fm.divisor, ct_fm.width) == ((16, 16, 16), 32)


def write_cohort(folder, count=3):
    rows = []
    for seed in range(count):
        for item, name in zip(blob_case(seed), ("image", "mask"), strict=True):
            sitk.WriteImage(item, str(folder / f"{name}{seed}.nii.gz"))
        rows.append((f"c{seed}", f"p{seed}", f"image{seed}.nii.gz", f"mask{seed}.nii.gz"))
    table = pd.DataFrame(rows, columns=["case_id", "patient_id", "image", "mask"])
    table.to_csv(folder / "cohort.csv", index=False)
    return folder / "cohort.csv"


def test_the_command_line_trains_from_a_weight_file_and_the_model_card_says_what_was_filled(tmp_path, capsys):
    cohort = write_cohort(tmp_path)
    words = ["train", str(cohort), "--epochs", "1", "--modality", "ct", "--validation", "0", "--quiet", "--jobs", "1"]
    path = suprem_unet(tmp_path)
    assert main([*words, "--weights", str(path), "--spacing", "2", "2", "2", "--out", str(tmp_path / "a")]) == 0
    card = json.loads((tmp_path / "a" / "model.json").read_text(encoding="utf-8"))
    plan, start = card["plan"], card["start"]
    assert (plan["network"], plan["width"], plan["spacing"]) == ("genesis_unet", 4, [2, 2, 2])
    assert (plan["intensity"]["low"], plan["intensity"]["high"]) == (-250, 250)
    assert (start["coverage"], start["convention"], start["path"]) == (1.0, "suprem", "u.pth")
    assert [row["status"] for row in start["not_matched"]] == ["own_start", "own_start"]
    assert (start["matched"], start["unexpected"]) == (90, 2)
    found = load_segmenter(tmp_path / "a").segment(blob_case(7)[0])
    assert found.mask.GetSize() == blob_case(7)[0].GetSize()
    assert main([*words, "--weights", str(tmp_path / "none.pth"), "--out", str(tmp_path / "b")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_patients_of_own_start_weights_count_as_trained_on(tmp_path, ct, caplog):
    plan = replace(ct, network="dynunet")
    earlier = {"patients": [hashed_patient("p0"), hashed_patient("p9")]}
    save_segmenter(tmp_path / "first", build_segmenter(plan), plan, earlier)
    cohort = Cohort.read(write_cohort(tmp_path, count=4))
    settings = {"steps": 1, "precision": "32-true", "accelerator": "cpu"}
    with caplog.at_level(logging.WARNING):
        train_segmenter(
            cohort, tmp_path / "second", weights=tmp_path / "first", epochs=1, folds=2, settings=settings,
            plan={"modality": "ct", "patch": (16, 16, 16)}, progress=False,
        )  # fmt: skip
    assert "trained on 1 of the 4 validation patients" in caplog.text
    model = load_segmenter(tmp_path / "second")
    assert model.patients == {hashed_patient(f"p{number}") for number in (0, 1, 2, 3, 9)}
    assert all(card["start"]["convention"] == "hybrid" for card in model.cards)
    assert "patients" not in model.cards[0]["start"]


def test_start_weights_belong_to_the_key_of_a_training(tmp_path):
    first, second = Transfer(genesis(tmp_path)), Transfer(ctfm(tmp_path))
    assert first.key != second.key
    assert first.key != Transfer(first.start, orientation="SPL").key
    with pytest.raises(InputError, match="do not exist"):
        Transfer(tmp_path / "none.pt").read_start()
