"""Plasticity itself: how much of the loss of random tasks a copy of the network removes in a fixed number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from replastic.metrics._budget import Budget
from replastic.metrics._metric import register
from replastic.options import option
from replastic.probes.random_tasks import shares_removed


@dataclass(frozen=True, kw_only=True)
class Options(Budget):
    """Options of `plasticity`."""

    name = "plasticity"

    tasks: int = option(2, help="random tasks over which the mean is taken", low=1)
    least: float = option(0.0, help="loss to which a random task could be brought")

    @property
    def gradients(self) -> float:
        """Steps of all copies."""
        return float(self.steps * self.tasks)


@register(
    "plasticity",
    on="loss",
    label="plasticity (share of excess loss removed)",
    better="higher",
    outcome=True,
    bounds=(0.0, 1.0),
    options=Options,
    reference="https://arxiv.org/abs/2606.09762",
)
def plasticity(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
    options: Options = Options(),
) -> Tensor:
    """Share of the excess loss of random tasks that a copy of the network removes in 200 steps of Adam, from 0 to 1.

    A task is the first batch with its labels handed out at random among its samples. A new copy learns it in training
    mode by plain steps, without what a method adds to them. The excess reaches from `least` up to the network's own
    initial loss, or to the loss of the best outputs that ignore the inputs, whichever is lower: a network is not
    credited for unlearning, and one whose units are all dead has 0. The value is the mean over the tasks.

    Reference: Rosseau et al. (2026), who define plasticity as the expected fraction of the excess achievable
        loss removed under a resource budget. Random labels as the tasks, the budget and the start of the excess are
        ours.
    """
    (batch, *_) = batches
    shares = shares_removed(
        model,
        batch,
        loss_fn,
        options.make,
        steps=options.steps,
        tasks=options.tasks,
        batch_size=options.batch_size,
        least=options.least,
        seed=int(torch.randint(2**62, (), generator=generator)),
    )
    return torch.tensor(math.fsum(shares) / len(shares), dtype=torch.float64)
