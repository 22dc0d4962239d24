"""A small network, data for it, and the run that every method is put into."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replastic import methods, recipes
from replastic.weights.module_store import ModuleStore
from replastic.weights.redraw import redraw

Boundary = Callable[..., methods.Run]


class SmallConvnet(nn.Module):
    """Convolutions tall, wide and square, norms, biases and a head; every kind of tensor a method may meet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=False)
        self.conv3 = nn.Conv2d(8, 6, 1)
        self.fc1 = nn.Linear(24, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.conv3(torch.relu(self.conv2(x))))
        return self.head(torch.relu(self.fc1(x.flatten(1))))


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


@pytest.fixture
def loss() -> Callable[..., Tensor]:
    return loss_fn


@pytest.fixture
def build() -> Callable[..., tuple[nn.Module, dict[str, Tensor]]]:
    """Function (dtype, layout) -> a network a few steps away from its initial state, and that state."""

    def make(
        dtype: torch.dtype = torch.float32, layout: torch.memory_format = torch.contiguous_format
    ) -> tuple[nn.Module, dict[str, Tensor]]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = SmallConvnet().to(dtype=dtype, memory_format=layout)
            init = {name: value.clone() for name, value in model.state_dict().items()}
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1.3).add_(0.05 * torch.randn_like(parameter))
                model.bn1.running_mean.add_(0.5)
                model.bn1.num_batches_tracked.add_(7)
        return model, init

    return make


@pytest.fixture
def batches() -> Callable[..., list[tuple[Tensor, Tensor]]]:
    """Function (dtype) -> three batches, the same at every call."""

    def make(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
        g = torch.Generator().manual_seed(1)
        return [
            (torch.randn(8, 3, 6, 6, generator=g).to(dtype), torch.randint(0, 4, (8,), generator=g)) for _ in range(3)
        ]

    return make


@pytest.fixture
def boundary(batches: Callable[..., Any]) -> Boundary:
    """Function (model, init, **overrides) -> a run in which nothing is missing."""

    def make(model: nn.Module, init: dict[str, Tensor], **overrides: Any) -> methods.Run:
        dtype = next(model.parameters()).dtype
        given: dict[str, Any] = {
            "store": ModuleStore(model),
            "recipe": recipes.load("default"),
            "model": model,
            "optimizer": torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3),
            "init": init,
            "fresh": lambda seed: redraw(model, seed),
            "batches": lambda: batches(dtype),
            "loss_fn": loss_fn,
            "phase": 1,
            "pass_steps": 3,
        }
        return methods.Run(**{**given, **overrides})

    return make
