"""redo: which units are dormant by hand, and when it looks."""

from __future__ import annotations

import copy

import pytest
import torch

from replastic import methods
from replastic.errors import UserError
from support.unit_bench import Bench, mlp, some_batch, units_of


def test_redo_resets_exactly_the_units_at_or_below_the_threshold() -> None:
    torch.manual_seed(0)
    model, batch = mlp(3, 4, 2), some_batch()
    with torch.no_grad():
        model[0].weight[1] *= 0.01
        model[0].bias[1] = 0.0
        model[0].bias[2] = -100.0
        activity = model[1](model[0](batch[0])).abs().mean(0)
    scores = activity / activity.mean()
    assert scores[2] == 0
    for threshold in (float(scores[1]) * 0.99, float(scores[1]) * 1.01):
        bench = Bench(copy.deepcopy(model), methods.from_spec("redo", dormancy_threshold=threshold), batch)
        expected = [unit for unit in range(4) if scores[unit] <= threshold]
        assert units_of(bench.step(), "0.weight") == expected != []


def test_a_silent_layer_is_dormant_as_a_whole() -> None:
    model = mlp(3, 4, 2)
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    bench = Bench(model, methods.from_spec("redo", dormancy_threshold=0.0), some_batch())
    assert units_of(bench.step(), "0.weight") == [0, 1, 2, 3]


def test_redo_checks_once_per_pass_or_as_often_as_told_on_the_last_batches() -> None:
    g = torch.Generator().manual_seed(3)
    inputs = torch.randn(7, 6, 3, generator=g, dtype=torch.float64)
    model = mlp(3, 4, 2)
    for spec in ("redo:batches=2,dormancy_threshold=1.0", "redo:every=3,batches=2,dormancy_threshold=1.0"):
        bench = Bench(copy.deepcopy(model), methods.from_spec(spec), some_batch(), pass_steps=3)
        for number, x in enumerate(inputs, start=1):
            weights = copy.deepcopy(bench.model)
            found = units_of(bench.step((x, some_batch()[1])), "0.weight")
            assert bool(found) == (number % 3 == 0)
            if found:
                pair = inputs[number - 2 : number].flatten(0, 1)
                activity = weights[1](weights[0](pair)).mean(0).detach()
                assert found == torch.nonzero(activity <= activity.mean()).flatten().tolist()


def test_redo_needs_to_know_how_long_a_pass_is() -> None:
    with pytest.raises(UserError, match="give every=<updates>"):
        Bench(mlp(3, 4, 2), methods.from_spec("redo"), some_batch(), pass_steps=0)
