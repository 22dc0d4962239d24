"""Streams: phases by number, the same whenever they are asked for, with the data they promise."""

import pytest
import torch

from replastic import data, streams
from replastic.data import Dataset
from replastic.errors import UserError
from replastic.streams import Phase
from replastic.streams.random_labels import RandomLabels
from replastic.streams.warm_start import WarmStart


@pytest.fixture(scope="module")
def splits():
    return data.load("digits")


@pytest.mark.parametrize("name", streams.names())
def test_every_stream_gives_the_same_phase_whenever_it_is_asked(name, splits):
    stream = streams.get(name)(**{"class_incremental": {"phases": 5}}.get(name, {}))
    last = len(stream) - 1
    state = torch.get_rng_state()
    first, again, other = (stream.phase(splits, last, seed) for seed in (1, 1, 2))
    stream.phase(splits, 0, 1)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert torch.equal(first.train.targets, again.train.targets)
    assert first.evaluations.keys() == other.evaluations.keys()
    assert torch.equal(state, torch.get_rng_state())


def test_random_labels_draws_images_once_and_labels_independent_of_the_digit(splits):
    stream = RandomLabels(tasks=3, images=1302)
    task = stream.phase(splits, 0, seed=0)
    assert len(torch.unique(task.train.inputs.flatten(1), dim=0)) == 1302
    assert task.evaluations[""] is task.train
    counts = torch.bincount(task.train.targets, minlength=10)
    # Binomial(1302, 0.1): mean 130, deviation 10.8; five deviations.
    assert (counts - 130.2).abs().max() < 54
    other = stream.phase(splits, 1, seed=0)
    agree = float((task.train.targets == other.train.targets).float().mean())
    assert abs(agree - 0.1) < 0.05


def test_warm_start_begins_with_a_tenth_of_the_training_data_and_never_sees_the_test(splits):
    stream = WarmStart(ratio=0.1, first_epochs=7, epochs=3)
    small, full = (stream.phase(splits, i, seed=0) for i in (0, 1))
    assert (len(small.train), small.epochs, full.epochs) == (130, 7, 3)
    assert len(full.train) == len(splits.train)
    both = torch.cat([full.train.inputs, small.train.inputs]).flatten(1)
    assert len(torch.unique(both, dim=0)) == len(full.train)
    assert full.evaluations[""] is splits.test
    assert full.evaluations["held_out"] is splits.held_out


def test_settings_that_cannot_work_are_refused(splits):
    with pytest.raises(UserError, match="images must be at most 1302"):
        RandomLabels(images=5000).phase(splits, 0, 0)
    with pytest.raises(UserError, match="random_labels: tasks must be at least 1, got 0"):
        RandomLabels(tasks=0)
    with pytest.raises(UserError, match=r"ratio must lie in \(0, 1\), got 1\.5"):
        WarmStart(ratio=1.5)
    with pytest.raises(UserError, match="empty first phase"):
        WarmStart(ratio=0.0001).phase(splits, 0, 0)
    one = Dataset(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), 2)
    with pytest.raises(UserError, match="either"):
        Phase(0, one, steps=3, epochs=3)
    with pytest.raises(UserError, match="no training data"):
        Phase(2, one.first(0), steps=3)
