"""Runs that cannot go on: what they say, and what they leave behind."""

import math
import re

import pytest
import torch
from safetensors.torch import load_file

from replastic import methods
from replastic.errors import UserError
from replastic.learners import Trainer
from replastic.methods import Method
from replastic.records import RunDirectory
from replastic.training import loop, train
from replastic.training.failures import DivergedError, memory_in_words
from replastic.weights.change import Change, Proposal
from support.small_runs import trained_by


class Poison(Method):
    """Makes the penalty, and so the gradient, infinite at one update."""

    def __init__(self, step):
        self.step = step
        self.updates = 0
        super().__init__()

    def penalty(self, run):
        self.updates += 1
        return run.model.head.bias.sum() * (math.inf if run.step == self.step else 0.0)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(protocol, splits, tmp_path):
    directory = RunDirectory(tmp_path)
    said = r"the loss became nan at update 18 \(phase 1, update 6 of 12\); a smaller --learning-rate may help\. "
    said += rf"Earlier records are kept, and the last good state, after 12 updates, in {re.escape(str(tmp_path))}"
    with pytest.raises(DivergedError, match=said):
        train(protocol, splits, Poison(17), 0, directory)
    assert [r["event"] for r in directory.records()] == ["phase_end", "before_boundary", "boundary"]
    assert not directory.done
    state = load_file(tmp_path / "state" / "state.safetensors")
    assert all(value.isfinite().all() for value in state.values())


def test_weights_that_break_at_the_last_update_before_an_evaluation_are_not_saved(protocol, splits, tmp_path):
    # 50 images in batches of 20: evaluations after 2, 5, 8 and 10 updates. The loss of update 5 is still finite.
    protocol = trained_by(protocol, evaluate_every=1, save_seconds=0)
    with pytest.raises(DivergedError, match=r"the weights became NaN or infinite at update 4 .* after 2 updates, in"):
        train(protocol, splits, Poison(4), 0, RunDirectory(tmp_path))
    assert len(RunDirectory(tmp_path).records()) == 1
    state = load_file(tmp_path / "state" / "state.safetensors")
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("rate", [1e30, 1e38])
@pytest.mark.parametrize(
    "spec", ["nap:every=1", "hare_tortoise:every=1", "cbp:replacement_rate=0.5,maturity_threshold=1"]
)
def test_a_method_that_cannot_write_because_training_broke_is_no_wrong_input(spec, rate, protocol, splits, tmp_path):
    protocol = trained_by(protocol, learning_rate=rate, clip_norm=0.0)
    said = r"became (nan|inf|NaN or infinite) at update \d \(phase 0, update \d of 12\); a smaller --learning-rate may"
    with pytest.raises(DivergedError, match=said):
        train(protocol, splits, methods.from_spec(spec), 0, RunDirectory(tmp_path))


class Wrong(Method):
    """Proposes what cannot be written, from healthy weights."""

    def after_step(self, run):
        return Change(proposals=[Proposal("head.bias", torch.full((10,), math.nan))])


def test_a_method_that_proposes_nonsense_is_named_as_such(protocol, splits, tmp_path):
    with pytest.raises(UserError, match=r"the new value of head\.bias has 10 of 10 numbers that are NaN"):
        train(protocol, splits, Wrong(), 0, RunDirectory(tmp_path))


def test_without_a_saved_state_none_is_promised(protocol, splits, tmp_path):
    with pytest.raises(DivergedError) as error:
        train(protocol, splits, Poison(3), 0, RunDirectory(tmp_path))
    assert str(error.value).endswith("Earlier records are kept")


def test_a_long_phase_is_not_trained_to_its_end_once_the_loss_is_not_finite(protocol, splits, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOOK_EVERY", 4)
    method = Poison(1)
    with pytest.raises(DivergedError, match="became nan at update 2 "):
        train(protocol, splits, method, 0, RunDirectory(tmp_path))
    assert method.updates == 4


class Greedy(Method):
    """Asks for a petabyte at its fourth update."""

    def penalty(self, run):
        if run.step == 3:
            torch.empty(2**50, dtype=torch.uint8)


def test_memory_that_runs_out_names_the_batch_size_to_try(protocol, splits, tmp_path):
    said = r"out of memory on cpu with batches of 20 samples: try --batch-size 10 with another --out"
    with pytest.raises(UserError, match=said) as error:
        train(protocol, splits, Greedy(), 0, RunDirectory(tmp_path))
    assert "allocate" in str(error.value.__cause__)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()]
)
def test_every_kind_of_memory_error_is_recognised(error):
    said = r"try --batch-size 128 .*\(evaluation then takes 128 samples at a time instead of 256\), or fewer --jobs"
    with pytest.raises(UserError, match=said), memory_in_words(Trainer(batch_size=256), "cuda:0"):
        raise error
    with pytest.raises(UserError, match="try a smaller network"), memory_in_words(Trainer(batch_size=1), "cuda:0"):
        raise error


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"), memory_in_words(Trainer(), "cpu"):
        raise RuntimeError("shapes do not match")
