"""The slowly changing target by hand, its inputs, errors as shares of its variance, and going on after a stop."""

from itertools import islice, pairwise, product

import pytest
import torch
from torch.nn import functional

from replastic.errors import UserError
from replastic.learners import Trainer
from replastic.learners.bit_flipping import BLOCK, BitFlipping
from replastic.methods import Method
from replastic.networks.mlp import Mlp
from replastic.records import RunDirectory
from replastic.training import Protocol, train
from support.small_runs import content

TASK = BitFlipping(bits=7, slow_bits=4, flips=6, updates=12, target_units=9, window=2, network=Mlp(hidden=(8,)))
TRAINER = Trainer(batch_size=5, learning_rate=0.05, warmup=0.0)


@pytest.fixture
def learner():
    return TASK.learner(TASK.open(), 3, TRAINER)


def by_hand(target, bits):
    """The target of one input: each unit that sees enough of the bits it wants adds its sign."""
    total = 0.0
    for weights, out in zip(target._weights.tolist(), target._outputs.tolist(), strict=True):
        assert set(weights) <= {-1.0, 1.0}
        assert out in (-1.0, 1.0)
        threshold = (TASK.bits + 1) * TASK.beta - sum(w < 0 for w in weights)
        seen = sum(w * b for w, b in zip(weights, [*bits, 1], strict=True))
        total += out * (seen > threshold)
    return total


def inputs_of(learner, phase):
    """All inputs of a phase: its slow bits, as they are in each example, with all there are of the others."""
    (slow,) = {tuple(x[:4].tolist()) for inputs, _ in islice(learner.stream(phase, 0), 20) for x in inputs}
    return [(*slow, *map(float, fast)) for fast in product((0, 1), repeat=3)]


def test_one_slow_bit_flips_between_two_phases_and_none_within(learner):
    slow = [torch.tensor(inputs_of(learner, phase)[0][:4]) for phase in range(TASK.flips)]
    assert [int((a != b).sum()) for a, b in pairwise(slow)] == [1] * (TASK.flips - 1)


def test_targets_are_those_of_the_threshold_network_by_hand(learner):
    seen = set()
    for inputs, targets in islice(learner.stream(2, 0), 40):
        for bits, target in zip(inputs.tolist(), targets.tolist(), strict=True):
            assert target == by_hand(learner._target, bits)
            seen.add(tuple(bits))
    assert seen == set(inputs_of(learner, 2)), "200 examples show each of 8 inputs"


def test_errors_are_shares_of_the_variance_so_that_the_best_constant_has_one(learner):
    for phase in (0, 3):
        inputs = torch.tensor(inputs_of(learner, phase))
        targets = torch.tensor([by_hand(learner._target, bits) for bits in inputs.tolist()], dtype=torch.float64)
        assert targets.var() > 0
        outputs = learner.model(inputs).squeeze(1).double()
        expected = float(((outputs - targets).square().mean() / targets.var(unbiased=False)).detach())
        assert learner.evaluate(phase) == {"metric/error": pytest.approx(expected, rel=1e-5)}
    with torch.no_grad():
        learner.model.head.weight.zero_()
        learner.model.head.bias.fill_(float(targets.mean()))
    assert learner.evaluate(3)["metric/error"] == pytest.approx(1.0, rel=1e-5)


def test_the_sequence_of_examples_can_begin_anywhere(learner):
    whole = [inputs for inputs, _ in islice(learner.stream(1, 0), BLOCK + 10)]
    for first in (1, BLOCK - 1, BLOCK, BLOCK + 3):
        part = [inputs for inputs, _ in islice(learner.stream(1, first), 5)]
        assert all(torch.equal(a, b) for a, b in zip(part, whole[first:], strict=False))
    assert not torch.equal(whole[0], whole[BLOCK])


def run(path, stop_at=99.0, trainer=TRAINER):
    class Stop(Exception):
        pass

    def progress(phases):
        if phases >= stop_at:
            raise Stop

    directory = RunDirectory(path)
    try:
        train(Protocol(task=TASK, trainer=trainer), "cpu", Method(), 3, directory, progress=progress)
    except Stop:
        assert not directory.done
    return content(directory)


def test_the_score_is_the_error_at_the_ends_of_the_last_phases_and_the_online_error_that_of_training(tmp_path, learner):
    ends = [r for r in run(tmp_path) if r["event"] == "phase_end"]
    assert len(ends) == TASK.flips
    variances = []
    for phase in range(TASK.flips):
        targets = torch.tensor([by_hand(learner._target, bits) for bits in inputs_of(learner, phase)])
        variances.append(float(targets.double().var(unbiased=False)) or 1.0)
    for phase, end in enumerate(ends):
        last = range(max(0, phase - 1), phase + 1)
        errors = sum(ends[p]["metric/error"] * variances[p] for p in last)
        assert end["metric/recent_error"] == pytest.approx(errors / sum(variances[p] for p in last), rel=1e-6)
        assert end["metric/online_error"] == pytest.approx(end["metric/train_loss"] / variances[phase], rel=1e-5)


def test_stopped_anywhere_and_resumed_the_records_are_the_same(tmp_path):
    often = Trainer(batch_size=5, learning_rate=0.05, warmup=0.0, save_seconds=0.0)
    whole = run(tmp_path / "whole", trainer=often)
    for stop in (0.5, 2.0, 3.5):
        run(tmp_path / "parts", stop, often)
    assert run(tmp_path / "parts", trainer=often) == whole


def test_a_target_that_never_changes_with_the_input_counts_as_variance_one(learner):
    learner._target._outputs.zero_()
    assert learner._target.variance(0) == 1
    expected = functional.mse_loss(learner.model(torch.tensor(inputs_of(learner, 0))), torch.zeros(8, 1))
    assert learner.evaluate(0)["metric/error"] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_more_slow_bits_than_bits_are_refused():
    with pytest.raises(UserError, match="slow_bits must be at most bits, 7, got 8"):
        BitFlipping(bits=7, slow_bits=8)
