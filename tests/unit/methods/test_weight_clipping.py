"""Weight clipping: which entries are clipped at which bound, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import replastic
from replastic import methods
from replastic.errors import UserError

RunOn = Callable[..., methods.Run]


class Net(nn.Module):
    """A grouped convolution, norms, an embedding that is not used, a fused projection and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, groups=2)
        self.bn = nn.BatchNorm2d(6)
        self.embedding = nn.Embedding(5, 7)
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, 3)


FAN_IN = {
    "conv.weight": 2 * 9,
    "conv.bias": 2 * 9,
    "attention.in_proj_weight": 8,
    "attention.in_proj_bias": 8,
    "attention.out_proj.weight": 8,
    "attention.out_proj.bias": 8,
    "head.weight": 8,
    "head.bias": 8,
}


def clipped(model: nn.Module, run: methods.Run, spec: str) -> dict[str, Tensor]:
    """The new values by name, with every weight of the model ten times as large as at initialisation."""
    method = methods.from_spec(spec)
    methods.check_needs(method, run)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    method.setup(run)
    change = method.after_step(run)
    assert change is not None
    return {proposal.name: proposal.value for proposal in change.proposals}


def test_every_layer_is_clipped_at_its_own_bound(run_on: RunOn) -> None:
    model = Net()
    found = clipped(model, run_on(model), "weight_clipping:kappa=1.5")
    assert set(found) == set(FAN_IN)
    for name, value in found.items():
        limit = 1.5 / math.sqrt(FAN_IN[name])
        assert torch.equal(value, model.get_parameter(name).detach().clamp(-limit, limit)), name
        assert float(value.abs().max()) == pytest.approx(limit)


def test_the_bound_may_be_the_largest_initial_value(run_on: RunOn) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    init = {name: value.clone() for name, value in model.state_dict().items()}
    found = clipped(model, run_on(model, init=init), "weight_clipping:kappa=2,bound=init")
    assert set(found) == set(init)
    for name, value in found.items():
        limit = 2 * float(init[name].abs().max())
        assert torch.equal(value, model.get_parameter(name).detach().clamp(-limit, limit)), name


def test_choices_of_weights(run_on: RunOn) -> None:
    model = Net()
    assert not {n for n in clipped(model, run_on(model), "weight_clipping:head=false") if n.startswith("head")}
    assert set(clipped(model, run_on(model), "weight_clipping:targets=conv")) == {"conv.weight", "conv.bias"}
    assert "conv.weight" not in clipped(model, run_on(model, exclude_modules=("conv",)), "weight_clipping")


def test_after_every_update_and_not_where_nothing_is_too_large() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=10.0)
    with replastic.during("weight_clipping", model, optimizer) as method:
        assert method.after_update() == [], "torch draws within the bounds"
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(1, 4)).sum().backward()
            optimizer.step()
            (outcome,) = method.after_update()
            assert outcome.written
            assert all(float(p.detach().abs().max()) <= 0.5 for p in model.parameters())


def test_bad_input_is_named(run_on: RunOn) -> None:
    with pytest.raises(UserError, match="kappa"):
        methods.from_spec("weight_clipping:kappa=0")
    with pytest.raises(UserError, match="weight_clipping regularises hidden matrices, but this model has none"):
        methods.check_needs(methods.from_spec("weight_clipping:head=false"), run_on(nn.Sequential(nn.LayerNorm(3))))
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    init = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"0\.weight was all zero at initialisation, .* take bound=fan_in"):
        methods.check_needs(methods.from_spec("weight_clipping:bound=init"), run_on(model, init=init))
    with pytest.raises(UserError, match="weight_clipping needs the initial weights"):
        methods.check_needs(methods.from_spec("weight_clipping:bound=init"), run_on(model))
