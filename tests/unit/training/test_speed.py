"""The probe of settings: what it tries, what it prefers, and that it changes nothing."""

from dataclasses import replace

import pytest
import torch

from replastic.networks.convnet import ConvNet
from replastic.training import speed
from support.small_runs import with_task

PLAIN = {"precision": "float32", "channels_last": False, "compiled": False}
EAGER = ["float32", "float32, channels last", "bfloat16", "bfloat16, channels last"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that a run moves by the milliseconds of its settings; how the runs took turns goes into `turns`."""
    turns = []
    milliseconds = {}

    class Trial:
        def __init__(self, protocol, splits, device):
            trainer = protocol.trainer
            self.words = speed.in_words({name: getattr(trainer, name) for name in PLAIN})

        def seconds(self, updates):
            if updates == speed.UPDATES:
                turns.append(self.words)
            return milliseconds[self.words] / 1e3

    monkeypatch.setattr(speed, "Trial", Trial)
    monkeypatch.setattr(speed, "WARM_UPDATES", speed.UPDATES + 1)
    return milliseconds, turns


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ((100, 100, 100, 100), {}),
        ((100, 96, 97, 95.5), {}),
        ((100, 90, 97, 95), {"channels_last": True}),
        ((100, 90, 60, 58), {"precision": "bfloat16"}),
        ((100, 90, 60, 50), {"precision": "bfloat16", "channels_last": True}),
        ((100, 200, 300, 400), {}),
    ],
)
def test_the_simplest_settings_within_five_percent_of_the_fastest_are_chosen(times, chosen, clock, protocol, splits):
    milliseconds, turns = clock
    milliseconds.update(zip(EAGER, times, strict=True))
    choice = speed.choose(protocol, splits)
    assert choice.settings == {**PLAIN, **chosen}
    assert choice.table == pytest.approx(milliseconds)
    assert turns == EAGER * speed.ROUNDS, "each has its turn in every round"
    assert choice.record() == {"chosen": choice.settings, "milliseconds_per_update": choice.table}
    replace(protocol.trainer, **choice.settings)


def test_compiled_is_tried_with_the_fastest_of_the_others_when_asked(clock, protocol, splits):
    milliseconds, turns = clock
    milliseconds.update(zip(EAGER, (100, 90, 60, 50), strict=True))
    milliseconds["bfloat16, channels last, compiled"] = 30
    choice = speed.choose(protocol, splits, compiled=True)
    assert choice.settings == {"precision": "bfloat16", "channels_last": True, "compiled": True}
    assert choice.table["bfloat16, channels last, compiled"] == 30
    assert turns[-3:] == ["float32", "bfloat16, channels last", "bfloat16, channels last, compiled"]


def test_real_runs_are_timed_and_leave_no_trace(protocol, splits):
    state = torch.get_rng_state()
    protocol = with_task(protocol, network=ConvNet(channels=(4, 6)))
    choice = speed.choose(protocol, splits)
    assert list(choice.table) == EAGER
    assert all(value > 0 for value in choice.table.values())
    assert torch.equal(state, torch.get_rng_state())
