from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from hybrid.deep.segmentation.branches import ENCODER, DualBranchNetwork, encoder_parameters, start_from
from hybrid.deep.segmentation.networks import build_segmenter, outputs
from hybrid.deep.segmentation.preprocessing import write_training_case
from hybrid.deep.segmentation.segmenter import load_segmenter, save_segmenter
from hybrid.deep.segmentation.training import PreparedCase, TrainingSettings, train_network
from hybrid.deep.segmentation.transfer import Transfer, annotated_only
from hybrid.errors import InputError, WeightsError

from .conftest import blob_case

FAST = TrainingSettings(epochs=2, steps=4, precision="32-true", accelerator="cpu", ema=0.0)


@pytest.fixture
def dynunet(plan):
    return replace(plan, network="dynunet")


@pytest.fixture
def cases(dynunet, tmp_path):
    found = []
    for seed in range(5):
        path = tmp_path / "prepared" / f"c{seed}.npz"
        write_training_case(*blob_case(seed), dynunet, path, case_id=f"c{seed}")
        found.append(PreparedCase(f"c{seed}", path))
    return found


@pytest.fixture
def start(dynunet, tmp_path):
    network = build_segmenter(dynunet, seed=5)
    state = {name: value.contiguous() for name, value in network.state_dict().items() if "skip_layers" not in name}
    save_file(state, tmp_path / "start.safetensors")
    return network.eval(), tmp_path / "start.safetensors"


@pytest.mark.parametrize("kind", ["dynunet", "dynunet_tagged", "dynunet_dual"])
def test_training_begins_with_what_the_auxiliary_network_knows(dynunet, start, kind):
    network = build_segmenter(replace(dynunet, network=kind), seed=9).eval()
    images = torch.randn(2, 1, *dynunet.patch, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(network(images), start[0](images))
    assert start_from(network, start[0].state_dict()) == 1.0
    torch.testing.assert_close(network(images), start[0](images))
    if kind != "dynunet":
        torch.testing.assert_close(network(images, auxiliary=True), start[0](images))


def test_closed_gates_pass_the_primary_branch_and_learn_to_open(dynunet):
    network = build_segmenter(replace(dynunet, network="dynunet_dual"), seed=1)
    assert isinstance(network, DualBranchNetwork)
    images = torch.randn(2, 1, *dynunet.patch)
    network.eval()
    before = network(images)
    with torch.no_grad():
        for parameter in network.auxiliary.parameters():
            parameter.mul_(3.0)
    torch.testing.assert_close(network(images), before)
    network.train()
    outputs(network(images))[0].square().mean().backward()
    assert all(gate.grad is not None and gate.grad.abs().max() > 0 for gate in network.gates)
    assert network.gate_openings() == [0.0] * len(network.gates)


def test_start_weights_of_another_plan_are_refused(dynunet, start):
    with pytest.raises(WeightsError, match="Both need the same plan"):
        start_from(build_segmenter(replace(dynunet, width=dynunet.width * 2)), start[0].state_dict())


def test_frozen_encoder_stays_and_the_rest_learns(dynunet, cases, start, tmp_path):
    trained = train_network(
        dynunet, cases[:2], [], tmp_path / "run", FAST, transfer=Transfer(start[1], freeze=1.0), progress=False
    )
    before, after = start[0].state_dict(), trained.network.state_dict()
    own = [name for name in before if "skip_layers" not in name]
    assert all(torch.equal(before[name], after[name]) for name in own if name.startswith(ENCODER))
    assert not all(torch.equal(before[name], after[name]) for name in own if not name.startswith(ENCODER))


def test_encoder_thaws_after_its_share(dynunet, cases, start, tmp_path):
    trained = train_network(
        dynunet, cases[:2], [], tmp_path / "run", FAST, transfer=Transfer(start[1], freeze=0.5), progress=False
    )
    before = start[0].state_dict()
    assert any(
        not torch.equal(before[name], value)
        for name, value in trained.network.state_dict().items() if name.startswith(ENCODER)
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["dynunet_tagged", "dynunet_dual"])
def test_joint_training_goes_on_with_equal_curves_and_its_model_segments(dynunet, cases, start, tmp_path, kind):
    plan = replace(dynunet, network=kind)
    borrowed = Transfer(start[1], auxiliary=tuple(cases[2:]), weight=0.5, decays=True)
    whole = train_network(plan, cases[:2], [], tmp_path / "a", FAST, transfer=borrowed, progress=False)
    train_network(plan, cases[:2], [], tmp_path / "b", FAST, transfer=borrowed, progress=False, stop_after=1)
    resumed = train_network(plan, cases[:2], [], tmp_path / "b", FAST, transfer=borrowed, progress=False)
    pd.testing.assert_frame_equal(
        whole.curves.drop(columns="seconds"), resumed.curves.drop(columns="seconds"), check_exact=True
    )
    save_segmenter(tmp_path / "model", whole.network, plan, {})
    found = load_segmenter(tmp_path / "model").segment(blob_case(3)[0])
    assert found.mask.GetSize() == blob_case(3)[0].GetSize()


def test_auxiliary_cases_change_the_result_and_weight_zero_does_not(dynunet, cases, tmp_path):
    runs = {
        name: train_network(dynunet, cases[:2], [], tmp_path / name, FAST, transfer=transfer, progress=False)
        for name, transfer in {
            "alone": None,
            "zero": Transfer(auxiliary=tuple(cases[2:]), weight=0.0),
            "joint": Transfer(auxiliary=tuple(cases[2:])),
        }.items()
    }
    states = {name: run.network.state_dict() for name, run in runs.items()}
    same = [torch.equal(a, b) for a, b in zip(states["alone"].values(), states["zero"].values(), strict=True)]
    assert all(same)
    assert not all(torch.equal(a, b) for a, b in zip(states["alone"].values(), states["joint"].values(), strict=True))


def test_a_checkpoint_with_other_borrowing_is_refused(dynunet, cases, tmp_path):
    train_network(dynunet, cases[:2], [], tmp_path, FAST, progress=False, stop_after=1)
    with pytest.raises(InputError, match="another training"):
        train_network(dynunet, cases[:2], [], tmp_path, FAST, transfer=Transfer(freeze=0.5), progress=False)


def test_weight_decays_to_nothing():
    transfer = Transfer(weight=0.4, decays=True)
    assert transfer.weight_at(0) == 0.4
    assert transfer.weight_at(0.5) == pytest.approx(0.2)
    assert transfer.weight_at(1) == 0
    assert Transfer(weight=0.4).weight_at(1) == 0.4


def test_classes_that_are_not_drawn_count_as_background_without_punishment():
    logits = torch.zeros(1, 3, 2, 2, 2)
    logits[:, 2] = 5.0
    labels = torch.zeros(1, 1, 2, 2, 2, dtype=torch.long)
    labels[..., 0] = 1
    merged, renumbered = annotated_only(logits, labels, (1,))
    expected = np.log(1 + np.exp(5.0))
    np.testing.assert_allclose(merged[:, 0].numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(
        torch.softmax(merged, 1)[:, 1].numpy(), torch.softmax(logits, 1)[:, 1].numpy(), rtol=1e-5
    )
    assert torch.equal(renumbered, labels)
    assert annotated_only(logits, labels, None)[0] is logits
    swapped = annotated_only(logits, 2 * labels, (2,))[1]
    assert torch.equal(swapped, labels)


def test_only_a_dynunet_can_be_frozen(plan):
    with pytest.raises(InputError, match="Only the encoder of a DynUNet"):
        encoder_parameters(build_segmenter(replace(plan, network="unet")))


def test_settings_refuse_nonsense():
    with pytest.raises(InputError, match="frozen share"):
        Transfer(freeze=1.5)
    with pytest.raises(InputError, match="not negative"):
        Transfer(weight=-1)
