"""tau-trainability: whether a fixed budget of steps brings the loss on the task at hand below tau."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from replastic.metrics._budget import Budget
from replastic.metrics._metric import register
from replastic.options import option
from replastic.probes.random_tasks import parts
from replastic.probes.trainee import Trainee, copied, unwrapped


@dataclass(frozen=True, kw_only=True)
class Options(Budget):
    """Options of `trainability`."""

    name = "trainability"

    tau: float = option(0.5, help="loss that the budget must bring it below")


@register(
    "trainability",
    on="loss",
    label="tau-trainable (1) or not (0)",
    better="higher",
    outcome=True,
    bounds=(0.0, 1.0),
    options=Options,
    reference="https://arxiv.org/abs/2509.22335",
)
def trainability(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
    options: Options = Options(),
) -> Tensor:
    """1 if 200 steps of Adam bring the loss of a copy on the batches below tau = 0.5, otherwise 0.

    The copy learns the task at hand in training mode by plain steps, without what a method adds to them. tau is in the
    units of the loss, so it belongs to a task: nats for cross-entropy. Fix it before you look at results.

    Reference: He et al. (2025) introduce the notion. Budget and tau are ours, as their summary gives neither.
    """
    given = list(batches)
    pieces = [part for batch in given for part in parts(batch, options.batch_size)]
    trainee = Trainee(copied(unwrapped(model)), options.make, loss_fn)
    _, after = trainee.course(pieces, given, options.steps, int(torch.randint(2**62, (), generator=generator)))
    return torch.tensor(float(after < options.tau), dtype=torch.float64)
