"""A model in training under one method, step by step, and small models and batches to put into it."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from replastic import methods, recipes
from replastic.methods import Method
from replastic.weights.change import Change
from replastic.weights.module_store import ModuleStore
from replastic.weights.redraw import redraw
from replastic.weights.writer import write

Batch = tuple[Tensor, Tensor]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


class Bench:
    """A model in training under one method, step by step."""

    def __init__(self, model: nn.Module, method: Method, batch: Batch, lr: float = 0.0, **given: Any) -> None:
        self.model, self.method, self.batch = model, method, batch
        self.run = methods.Run(
            store=ModuleStore(model),
            recipe=recipes.load("default"),
            model=model,
            optimizer=torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=lr),
            batches=lambda: [batch],
            loss_fn=loss_fn,
            **{"pass_steps": 1, "fresh": lambda seed: redraw(model, seed), **given},
        )
        methods.check_needs(method, self.run)
        method.setup(self.run)

    def step(self, batch: Batch | None = None) -> Change | None:
        optimizer = self.run.optimizer
        assert optimizer is not None
        self.model.train()
        optimizer.zero_grad()
        loss_fn(self.model, batch or self.batch).backward()
        optimizer.step()
        self.run.step += 1
        self.updated = content(self.model)
        self.moments = {n: copy.deepcopy(optimizer.state[p]) for n, p in self.model.named_parameters()}
        change = self.method.after_step(self.run)
        if change is not None:
            change = replace(change, proposals=list(change.proposals))
            write(self.run.store, change, optimizer=optimizer, policy="keep")
        return change


def mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths[:-1]):
        layers += [nn.Linear(d_in, d_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:])).double()


def some_batch(size: int = 6, features: int = 3, classes: int = 2) -> Batch:
    g = torch.Generator().manual_seed(0)
    inputs = torch.randn(size, features, generator=g, dtype=torch.float64)
    return inputs, torch.randint(0, classes, (size,), generator=g)


def content(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def units_of(change: Change | None, weight: str) -> list[int]:
    """Rows of a weight that were reset."""
    units = () if change is None else change.units
    return [int(u) for reset in units if reset.name == weight and reset.dim == 0 for u in reset.index]
