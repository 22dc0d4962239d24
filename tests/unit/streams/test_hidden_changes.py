"""Hidden changes: the tasks of another stream, of random lengths that the seed draws, with nobody told."""

import pytest
import torch

from replastic import methods
from replastic.data import Dataset, Splits
from replastic.errors import UserError
from replastic.learners import Trainer
from replastic.learners.classification import Classification
from replastic.networks.mlp import Mlp
from replastic.records import RunDirectory
from replastic.streams.hidden_changes import HiddenChanges
from replastic.streams.permuted_pixels import PermutedPixels
from replastic.training import Protocol, train

STREAM = HiddenChanges(changes="permuted_pixels:tasks=60", shortest=5, longest=9)


@pytest.fixture(scope="module")
def splits():
    draw = torch.Generator().manual_seed(0)
    whole = Dataset(torch.randn(60, 1, 4, 4, generator=draw), torch.randint(4, (60,), generator=draw), 4)
    return Splits(whole.take(torch.arange(40)), whole.take(torch.arange(40, 50)), whole.take(torch.arange(50, 60)))


def test_lengths_are_drawn_by_the_seed_from_the_whole_range(splits):
    lengths = [[STREAM.phase(splits, index, seed).steps for index in range(60)] for seed in (0, 1)]
    assert len(STREAM) == 60
    assert set(lengths[0]) == {5, 6, 7, 8, 9}
    assert lengths[0] != lengths[1]
    assert lengths[0][17] == STREAM.phase(splits, 17, 0).steps, "the same whenever it is asked for"


def test_data_are_those_of_the_other_stream_and_no_change_is_announced(splits):
    plain = PermutedPixels(tasks=60)
    for index in (0, 3):
        hidden, known = STREAM.phase(splits, index, 7), plain.phase(splits, index, 7)
        assert torch.equal(hidden.train.inputs, known.train.inputs)
        assert hidden.evaluations.keys() == known.evaluations.keys()
        assert (hidden.announced, known.announced) == (False, True)
        assert hidden.epochs is None


def test_passes_of_the_other_stream_become_updates(splits):
    phase = HiddenChanges(changes="continual:stages=2", shortest=4, longest=4).phase(splits, 1, 0)
    assert (phase.steps, phase.epochs) == (4, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shortest": 5, "longest": 4}, "shortest must be at most longest, got 5 and 4"),
        ({"changes": "random_label"}, "did you mean 'random_labels'"),
        ({"changes": "random_labels:image=4"}, "image"),
        ({"changes": "hidden_changes"}, "cannot take its tasks from itself"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        HiddenChanges(**settings)


def test_scores_are_recorded_at_every_change_and_a_trigger_is_not_told(splits, tmp_path):
    stream = HiddenChanges(changes="permuted_pixels:tasks=4", shortest=3, longest=6)
    task = Classification(data="digits", stream=stream, network=Mlp(hidden=(8,)))

    def events(trigger):
        trainer = Trainer(batch_size=8, warmup=0.0, clip_norm=0.0)
        protocol = Protocol(task=task, trainer=trainer, recipe="all", trigger=trigger)
        directory = RunDirectory(tmp_path / (trigger.replace(":", "-") or "told"))
        train(protocol, splits, methods.from_spec("fire"), 0, directory)
        return [r["event"] for r in directory.records()], [r["step"] for r in directory.records()]

    told, steps = events("")
    hidden, same = events("dataset_change:by=signal")
    assert told.count("boundary") == 3
    assert hidden == ["phase_end"] * 4, "the signal never came, so fire never acted"
    assert same == sorted(set(steps))
    acted, _ = events("every:steps=4")
    assert "acted" in acted
