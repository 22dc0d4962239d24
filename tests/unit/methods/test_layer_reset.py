"""Layer reset: which tensors get which draw, when, and what becomes of the optimizer's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import replastic
from replastic import methods
from replastic.errors import UserError
from replastic.weights.redraw import redraw

RunOn = Callable[..., methods.Run]
Proposed = Callable[..., Any]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize(("options", "layers"), [("", (5,)), (":last=2", (3, 5)), (":last=3", (0, 3, 5))])
def test_the_last_layers_are_drawn_anew(
    options: str, layers: tuple[int, ...], run_on: RunOn, proposed: Proposed
) -> None:
    model, seeds = network(), []

    def fresh(seed: int) -> dict[str, torch.Tensor]:
        seeds.append(seed)
        return redraw(model, seed)

    new, _ = proposed(methods.from_spec(f"layer_reset{options}"), run_on(model, fresh=fresh, phase=1))
    assert set(new) == {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")}
    draw = redraw(model, seeds[0])
    assert all(torch.equal(value, draw[name]) for name, value in new.items())
    assert not any(torch.equal(value, model.get_parameter(name)) for name, value in new.items())


def test_named_layers_take_their_buffers_along(run_on: RunOn, proposed: Proposed) -> None:
    model = network()
    with torch.no_grad():
        model[1].running_mean.fill_(9.0)
        model[1].num_batches_tracked.fill_(9)
    run = run_on(model, fresh=lambda seed: redraw(model, seed), phase=1)
    new, _ = proposed(methods.from_spec("layer_reset:targets=1|3"), run)
    assert set(new) == {n for n in model.state_dict() if n.startswith(("1.", "3."))}
    assert torch.equal(new["1.running_mean"], torch.zeros(6))
    assert int(new["1.num_batches_tracked"]) == 0


def test_in_training_it_draws_another_layer_every_time_and_clears_moments_of_that_layer_alone() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, y = torch.randn(8, 4), torch.randint(0, 3, (8,))
    heads = []
    with replastic.during("layer_reset:every=2", model, optimizer, seed=3) as method:
        for update in range(1, 7):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
            before = model[5].weight.detach().clone()
            outcomes = method.after_update()
            assert bool(outcomes) == (update % 2 == 0)
            if outcomes:
                assert not torch.equal(model[5].weight, before)
                heads.append(model[5].weight.detach().clone())
                for p in model[5].parameters():
                    assert not optimizer.state[p]["exp_avg"].any()
                    assert not optimizer.state[p]["exp_avg_sq"].any()
                assert all(optimizer.state[p]["exp_avg"].any() for p in model[3].parameters())
    assert len({tuple(head.flatten().tolist()) for head in heads}) == 3


def test_counters_without_axes_are_reset_in_training_too() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with replastic.during("layer_reset:every=1,targets=1", model, optimizer) as method:
        model(torch.randn(8, 4))
        assert int(model[1].num_batches_tracked) == 1
        method.after_update()
        assert int(model[1].num_batches_tracked) == 0
        assert torch.equal(model[1].running_mean, torch.zeros(6))


def test_it_is_head_reset_with_a_draw_for_the_initial_values(run_on: RunOn, proposed: Proposed) -> None:
    model = network()
    run = run_on(model, fresh=lambda seed: redraw(model, seed), init=dict(model.state_dict()), phase=1)
    assert set(proposed(methods.from_spec("layer_reset"), run)[0]) == set(
        proposed(methods.from_spec("head_reset"), run)[0]
    )


def test_bad_input_is_named(run_on: RunOn) -> None:
    model = network()
    run = run_on(model, fresh=lambda seed: redraw(model, seed))
    with pytest.raises(UserError, match="layer_reset: last must be at most 3, the layers of this network, got 4"):
        methods.check_needs(methods.from_spec("layer_reset:last=4"), run)
    with pytest.raises(UserError, match="last"):
        methods.from_spec("layer_reset:last=0")
    with pytest.raises(UserError, match="last has no effect beside"):
        methods.check_needs(methods.from_spec("layer_reset:last=2,targets=0"), run)
    headless = nn.ModuleDict({"body": nn.Linear(3, 3), "norm": nn.LayerNorm(3)})
    with pytest.raises(UserError, match="layer_reset found no output layer"):
        methods.check_needs(methods.from_spec("layer_reset"), run_on(headless, fresh=lambda seed: {}))
