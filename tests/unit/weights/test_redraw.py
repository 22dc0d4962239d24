"""A new draw comes from the modules' own initialisers and disturbs nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from replastic.errors import UserError
from replastic.weights.redraw import redraw


def test_a_draw_is_the_one_that_building_the_model_makes() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model(torch.randn(8, 5))
    state = torch.get_rng_state()
    drawn = redraw(model, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        oracle = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).state_dict()
    assert drawn.keys() == oracle.keys()
    for name, value in oracle.items():
        assert torch.equal(drawn[name], value), name
    assert not torch.equal(model[0].weight, drawn["0.weight"])


def test_bare_parameters_are_named() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

    with pytest.raises(UserError, match=r"cannot draw 1 anew: Own holds parameters"):
        redraw(nn.Sequential(nn.Linear(2, 2), Own()), seed=0)


def test_hooks_are_neither_copied_nor_called() -> None:
    class Held:
        def __deepcopy__(self, memo: object) -> object:
            raise AssertionError("the hook was copied")

        def hook(self, *arguments: object) -> None:
            raise AssertionError("the hook was called")

    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    plain = redraw(model, 5)
    for module in model.modules():
        module.register_forward_hook(Held().hook)
        module.register_forward_pre_hook(Held().hook, with_kwargs=True)
        module.register_full_backward_hook(Held().hook)
    drawn = redraw(model, 5)
    assert drawn.keys() == plain.keys()
    assert all(torch.equal(drawn[name], value) for name, value in plain.items())
    assert all(len(module._forward_hooks) == len(module._forward_pre_hooks) == 1 for module in model.modules())
