"""Kron: PSGD with Kronecker-factored preconditioners in place of the run's optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from replastic.interventions.method import Method, register
from replastic.interventions.run import Need, Run
from replastic.optim import PsgdKron
from replastic.options import option


@register("kron", reference="https://arxiv.org/abs/1512.04202")
@dataclass(kw_only=True)
class Kron(Method):
    """Trains with `optim.PsgdKron`, whose updates P_l M P_r are whitened by two triangular factors for each matrix.

    The learning rate is the method's own, in place of the run's; the run's warm-up scales it. Memory beside the
    weights: one copy of them, and for every matrix the squares of its two sides up to `largest`.

    Reference: Li (2018); as a remedy for lost plasticity Castanyer et al. (2025), arXiv 2506.15544. Ours, since
    libraries draw from torch's global generator, so that a resumed run would go on in another way.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    draws: ClassVar[bool] = True

    lr: float = option(3e-4, help="learning rate", above=0, search=(1e-4, 3e-4, 1e-3))
    momentum: float = option(0.9, help="decay of the mean gradient", low=0, below=1)
    precond_lr: float = option(0.1, help="rate of the preconditioners", above=0)
    largest: int = option(8192, help="longest side with a triangular factor; longer ones have a diagonal", low=0)

    def setup(self, run: Run) -> None:
        """Remember the seed."""
        self._seed = run.seed

    def make_optimizer(
        self, groups: list[dict[str, Any]], build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """Kron on the same groups."""
        return PsgdKron(
            [{"params": group["params"]} for group in groups],
            lr=self.lr,
            momentum=self.momentum,
            precond_lr=self.precond_lr,
            largest=self.largest,
            seed=self._seed,
        )
