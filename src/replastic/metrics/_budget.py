"""The budget of measures that train a copy: steps, optimizer, samples of a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import nn
from torch.optim import Optimizer

from replastic.options import Settings, option
from replastic.probes.trainee import MakeOptimizer

_KINDS: dict[str, type[Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass(frozen=True, kw_only=True)
class Budget(Settings):
    """How a copy is trained: the same for every network that is compared, whatever trains the network itself."""

    steps: int = option(200, help="optimizer steps of a copy", low=1)
    optimizer: Literal["adam", "sgd"] = option(
        "adam", help="optimizer, with torch's defaults but for the learning rate"
    )
    learning_rate: float = option(1e-3, help="learning rate", above=0)
    batch_size: int = option(64, help="samples of a step; 0 for all that are given", low=0)

    @property
    def gradients(self) -> float:
        """Steps of all copies."""
        return float(self.steps)

    @property
    def vectors(self) -> float:
        """A copy with its gradient and two moments."""
        return 4.0

    @property
    def make(self) -> MakeOptimizer:
        """Makes the optimizer from parameters."""
        return partial(_made, self.optimizer, self.learning_rate)


def _made(kind: str, learning_rate: float, parameters: Iterable[nn.Parameter]) -> Optimizer:
    return _KINDS[kind](parameters, lr=learning_rate)  # type: ignore[call-arg]
