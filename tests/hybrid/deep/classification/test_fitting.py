import copy

import numpy as np
import pytest
import torch

from hybrid.deep.fitting import Schedule, cosine, read_checkpoint, update_average, write_checkpoint
from hybrid.errors import InputError


def test_rate_rises_and_falls_to_zero():
    schedule = Schedule(steps=10, learning_rate=2.0, epochs=20)
    rates = [schedule.rate(epoch, number, 0.0) for epoch in range(20) for number in range(10)]
    assert np.argmax(rates) == 5  # 3 % of 200 steps
    assert rates[5] == 2.0
    assert rates[-1] == 0.0
    assert (np.diff(rates[5:]) < 0).all()
    # Half-way along the cosine: cos(pi / 2).
    assert cosine(0.03 + 0.97 / 2) == pytest.approx(0.5)


def test_rate_by_time_follows_the_time_that_was_spent():
    schedule = Schedule(steps=10, learning_rate=1.0, minutes=1.0)
    assert schedule.rate(5, 0, 30.0) == pytest.approx(cosine(0.5))
    # Half of the next epoch on the way: 5.5 epochs at 6 s each.
    assert schedule.rate(5, 5, 30.0) == pytest.approx(cosine(0.55))
    assert schedule.rate(20, 0, 60.0) == pytest.approx(0, abs=1e-12)
    assert 0 < schedule.rate(0, 0, 0.0) < schedule.rate(0, 1, 0.0)


def test_progress_by_time_ends_half_an_epoch_early():
    schedule = Schedule(steps=10, learning_rate=1.0, minutes=1.0)
    assert schedule.progress(0, 0.0) == 0
    assert schedule.progress(5, 50.0) == pytest.approx(55 / 60)
    assert schedule.progress(6, 56.0) == 1


def test_schedule_wants_minutes_or_epochs():
    for both in ({}, {"epochs": 3, "minutes": 1}):
        with pytest.raises(InputError, match="not both"):
            Schedule(1, 1.0, **both)
    with pytest.raises(InputError, match="'epochs' parameter must be positive"):
        Schedule(1, 1.0, epochs=0)


def test_average_follows_weights_and_copies_buffers():
    network = torch.nn.BatchNorm1d(1)
    averaged = copy.deepcopy(network).requires_grad_(False)
    with torch.no_grad():
        network.weight.fill_(11.0)
        network.running_mean.fill_(4.0)
    update_average(averaged, network, step=10**6, decay=0.9)
    assert averaged.weight.item() == pytest.approx(1 + 0.1 * 10)
    assert averaged.running_mean.item() == 4
    update_average(averaged, network, step=0, decay=0.0)
    assert averaged.weight.item() == 11


def test_early_average_follows_faster():
    network, averaged = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1).requires_grad_(False)
    with torch.no_grad():
        network.weight.fill_(1.0)
        averaged.weight.fill_(0.0)
    update_average(averaged, network, step=0, decay=0.99)
    assert averaged.weight.item() == pytest.approx(0.9)  # decay (1 + 0) / (10 + 0)


def test_checkpoint_is_read_back_and_belongs_to_its_key(tmp_path):
    path = tmp_path / "new" / "checkpoint.pt"
    write_checkpoint({"key": "a", "weights": {"w": torch.arange(3)}, "epoch": 2}, path)
    assert read_checkpoint(path, "a")["epoch"] == 2
    with pytest.raises(InputError, match="another training"):
        read_checkpoint(path, "b")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        read_checkpoint(path, "a")
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]
