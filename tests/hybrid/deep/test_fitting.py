"""Precision of a training: wanted, measured, or not worth measuring."""

import time

import pytest
import torch
from torch import nn

from hybrid.deep.fitting import bf16_helps, choose_precision

SAMPLE = torch.ones((2, 1, 160, 160))


class Network(nn.Module):
    """Mean of the input; sleeps, and answers otherwise, by precision."""

    def __init__(self, full=0.0, half=0.0, sign=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.full, self.half, self.sign, self.calls = full, half, sign, 0

    def forward(self, values):
        self.calls += 1
        self.halved = torch.is_autocast_enabled("cpu")
        time.sleep(self.half if self.halved else self.full)
        return values.mean() * self.weight * (self.sign if self.halved else 1.0)


def test_faster_network_with_equal_results_is_trained_in_bfloat16():
    assert bf16_helps(Network(full=0.06, half=0.01), SAMPLE)


def test_slower_network_stays_in_32_bits():
    assert not bf16_helps(Network(full=0.01, half=0.06), SAMPLE)


def test_network_with_other_results_in_bfloat16_stays_in_32_bits():
    assert not bf16_helps(Network(full=0.06, half=0.01, sign=-1.0), SAMPLE)


@pytest.mark.parametrize("wrong", [0.0, float("nan"), 10.0])
def test_network_with_other_gradients_in_bfloat16_stays_in_32_bits(wrong):
    network = Network(full=0.06, half=0.01)
    network.weight.register_hook(lambda gradient: gradient * (wrong if network.halved else 1.0))
    assert not bf16_helps(network, SAMPLE)


def test_small_batches_are_not_measured():
    network = Network(full=0.06, half=0.01)
    assert not bf16_helps(network, SAMPLE[:, :, :60])
    assert network.calls == 0


@pytest.mark.parametrize(("full", "half", "found"), [(0.06, 0.01, "bf16-mixed"), (0.01, 0.06, "32-true")])
def test_automatic_precision_on_a_cpu_is_the_faster_one(full, half, found):
    assert choose_precision("cpu", "auto", Network(full, half), SAMPLE) == found


def test_wanted_precision_is_taken_without_a_measurement():
    network = Network(full=0.06, half=0.01)
    assert choose_precision("cpu", "32-true", network, SAMPLE) == "32-true"
    assert network.calls == 0


def test_measurement_leaves_weights_statistics_and_random_numbers_alone():
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


def test_part_of_a_result_is_compared_when_it_is_named():
    class Several(Network):
        def forward(self, values):
            return [super().forward(values), None]

    assert bf16_helps(Several(full=0.06, half=0.01), SAMPLE, scores=lambda found: found[0])
