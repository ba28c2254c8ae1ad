"""Precision of a training: wanted, what the processor has, or not worth trying."""

import pytest
import torch
from torch import nn

from hybrid.deep.fitting import bf16_helps, choose_precision

SAMPLE = torch.ones((2, 1, 160, 160))


class Network(nn.Module):
    """Mean of the input; answers otherwise by precision."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.sign, self.calls = sign, 0

    def forward(self, values):
        self.calls += 1
        self.halved = torch.is_autocast_enabled("cpu")
        return values.mean() * self.weight * (self.sign if self.halved else 1.0)


@pytest.fixture
def with_bf16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)


@pytest.fixture
def without_bf16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True}, raising=False)


def test_network_with_equal_results_is_trained_in_bfloat16(with_bf16):
    assert bf16_helps(Network(), SAMPLE)


def test_cpu_without_the_instructions_stays_in_32_bits(without_bf16):
    network = Network()
    assert not bf16_helps(network, SAMPLE)
    assert network.calls == 0


def test_version_of_torch_that_cannot_tell_stays_in_32_bits(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not bf16_helps(Network(), SAMPLE)


def test_network_with_other_results_in_bfloat16_stays_in_32_bits(with_bf16):
    assert not bf16_helps(Network(sign=-1.0), SAMPLE)


@pytest.mark.parametrize("wrong", [0.0, float("nan"), 10.0])
def test_network_with_other_gradients_in_bfloat16_stays_in_32_bits(wrong, with_bf16):
    network = Network()
    network.weight.register_hook(lambda gradient: gradient * (wrong if network.halved else 1.0))
    assert not bf16_helps(network, SAMPLE)


class Scaled(torch.autograd.Function):
    """Product with a matrix whose gradient another function changes in bfloat16."""

    @staticmethod
    def forward(ctx, values, weight, change):
        ctx.save_for_backward(values)
        ctx.change = change if torch.is_autocast_enabled("cpu") else lambda gradient: gradient
        return values @ weight

    @staticmethod
    def backward(ctx, gradient):
        (values,) = ctx.saved_tensors
        return None, ctx.change(values.T @ gradient.float()), None


def unwritten(gradient):
    return torch.empty_like(gradient)


def turned(gradient):
    return gradient.flip(0)


@pytest.mark.parametrize(("change", "expected"), [(unwritten, False), (turned, False), (torch.clone, True)])
def test_gradients_must_be_written_and_of_one_direction(change, expected, with_bf16):
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn((160, 160), generator=torch.Generator().manual_seed(0)))

        def forward(self, values):
            return Scaled.apply(values.flatten(0, 2), self.weight, change)

    sample = torch.randn(SAMPLE.shape, generator=torch.Generator().manual_seed(1))
    assert bf16_helps(Linear(), sample) is expected


def test_small_batches_are_not_tried(with_bf16):
    network = Network()
    assert not bf16_helps(network, SAMPLE[:, :, :60])
    assert network.calls == 0


def test_automatic_precision_on_a_cpu_follows_its_instructions(with_bf16):
    assert choose_precision("cpu", "auto", Network(), SAMPLE) == "bf16-mixed"


def test_automatic_precision_without_instructions_is_32_bits(without_bf16):
    assert choose_precision("cpu", "auto", Network(), SAMPLE) == "32-true"


def test_wanted_precision_is_taken_without_a_trial():
    network = Network()
    assert choose_precision("cpu", "32-true", network, SAMPLE) == "32-true"
    assert network.calls == 0


def test_trial_leaves_weights_statistics_and_random_numbers_alone(with_bf16):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    choose_precision("cpu", "auto", network, SAMPLE, layout=torch.channels_last)
    assert torch.equal(torch.rand(3), expected)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.is_contiguous()
    assert all(parameter.grad is None for parameter in network.parameters())


def test_part_of_a_result_is_compared_when_it_is_named(with_bf16):
    class Several(Network):
        def forward(self, values):
            return [super().forward(values), None]

    assert bf16_helps(Several(), SAMPLE, scores=lambda found: found[0])
