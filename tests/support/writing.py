"""What the tests of the writer share: a small network of every kind of tensor, and changes to write into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from replastic.weights.change import Change, LayerOutcome, Proposal, Skipped
from replastic.weights.module_store import ModuleStore

STAGINGS = ["memory", "disk"]
TOUCHED = ("conv.weight", "bn.running_mean", "mid.weight", "table.weight")


class Net(nn.Module):
    """Convolution, norm with buffers, hidden layer, embedding tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.mid = nn.Linear(4, 4)
        self.table = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mid(torch.relu(self.bn(self.conv(x))).mean((2, 3))))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    generator = torch.Generator().manual_seed(1)
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 5, 5, generator=generator).to(dtype)).square().mean().backward()
        optimizer.step()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(actual[key], value), key


def doubled(model: nn.Module, names: tuple[str, ...] = TOUCHED) -> Change:
    """Twice the old value of each of these, lazily."""
    store = ModuleStore(model)

    def proposals() -> Iterator[Proposal]:
        for name in names:
            yield Proposal(name, store.read(name).double() * 2, (outcome_of(name),))

    return Change(proposals(), skipped=(Skipped("mid.bias", "is a bias"),))


def outcome_of(name: str) -> LayerOutcome:
    return LayerOutcome(name, "", "linear", 1, 4, 4, "double", 1.0, 1.0, 1.0, 2.0, {"residual": 0.5})


def moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in optimizer.state.get(parameter, {}).items()}
