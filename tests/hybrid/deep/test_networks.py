from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
import torch

from hybrid.deep import ARCHITECTURES, RESNETS, Architecture, build_network
from hybrid.errors import InputError


@pytest.mark.parametrize(
    ("name", "tensors", "dim"), [("resnet10", 72, 512), ("resnet18", 102, 512), ("resnet34", 198, 512)]
)
def test_tensor_counts_are_those_of_medicalnet(name, tensors, dim):
    network = RESNETS[name]()
    assert len(network.state_dict()) == tensors
    assert network.architecture.dim == dim


def test_dim_is_the_length_of_the_output():
    for name, options in (("narrow", {}), ("resnet50", {"widen": 0.125}), ("resnet18", {"widen": 0.25})):
        network = build_network(name, **options)
        size = (1, network.architecture.in_channels, 32, 32, 32)
        with torch.no_grad():
            assert network(torch.zeros(size)).shape == (1, network.architecture.dim)


@pytest.mark.parametrize("name", ["resnet10", "resnet18", "resnet50"])
def test_dilated_form_has_output_stride_8_and_the_same_tensors(name):
    plain, dilated = (build_network(name, widen=0.125, dilated=flag) for flag in (False, True))
    shapes = []
    for network in (plain, dilated):
        network.layer4.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[2:]))
        with torch.no_grad():
            network(torch.zeros(1, 1, 64, 64, 64))
    assert shapes == [(2, 2, 2), (8, 8, 8)]
    assert [*plain.state_dict()] == [*dilated.state_dict()]
    assert dilated.architecture.variant.endswith("-dilated")


def test_dilated_form_gives_other_numbers_from_the_same_weights():
    plain, dilated = (build_network("resnet10", widen=0.125, dilated=flag) for flag in (False, True))
    dilated.load_state_dict(plain.state_dict())
    values = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(plain(values), dilated(values))


def test_weights_follow_the_seed_and_leave_the_global_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build_network("narrow", seed=seed).conv1.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_networks_can_be_pickled():
    network = build_network("resnet18", widen=0.125, dilated=True)
    copy = pickle.loads(pickle.dumps(network))
    values = torch.ones(1, 1, 32, 32, 32)
    with torch.no_grad():
        assert torch.equal(network(values), copy(values))


def test_unknown_names_and_options_name_the_nearest():
    with pytest.raises(InputError, match="'resnet18'"):
        build_network("resnet8")
    with pytest.raises(InputError, match="'dilated'"):
        build_network("resnet10", dilate=True)
    with pytest.raises(InputError, match="shortcut"):
        build_network("resnet10", shortcut="C")
    with pytest.raises(InputError, match="four stages"):
        build_network("resnet10", layers=(1, 1))


def test_architecture_survives_json():
    for architecture in ARCHITECTURES.values():
        assert Architecture.from_dict(architecture.to_dict()) == architecture
    with pytest.raises(InputError, match="first_kernel"):
        Architecture.from_dict({"name": "x", "first_kernal": 3})


def test_importing_the_package_does_not_import_torch():
    code = "import hybrid.deep, sys; print('torch' in sys.modules, 'monai' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "False"]
