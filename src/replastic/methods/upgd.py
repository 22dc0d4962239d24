"""UPGD: training by gradient descent that protects useful weights and perturbs the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from replastic.interventions.method import Method, register
from replastic.interventions.run import Need, Run
from replastic.optim import UPGD
from replastic.options import option
from replastic.seeds import derive
from replastic.weights.change import Change


@register("upgd", reference="https://arxiv.org/abs/2404.00781")
@dataclass(kw_only=True)
class Upgd(Method):
    """Trains with w <- w - lr (g + noise) (1 - s), s the utility of each weight as a number between 0 and 1.

    The utility is -g w as a running mean, s = sigmoid(utility / largest utility of all weights). Learning rate and
    weight decay are the method's own, in place of the run's; the run's schedule scales the learning rate. There is no
    momentum and no adaptive step, so a learning rate for Adam is too small for it.

    Of the paper's variants this is the one of first order, weight by weight, with global normalisation; it protects.
    `protect=false` gives every weight its whole gradient step and only less noise ("non-protecting").

    Reference: Elsayed and Mahmood (2024), algorithm 1; beta, sigma and decay as in the README of their code, which
    doubles the step; lr .01 as in their experiments.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    lr: float = option(1e-2, help="learning rate", above=0, search=(1e-3, 1e-2, 1e-1))
    sigma: float = option(1e-3, help="deviation of the noise added to the gradient", low=0, search=(1e-3, 1e-2, 1e-1))
    beta: float = option(0.999, help="decay rate of the utilities", low=0, below=1)
    decay: float = option(1e-3, help="decoupled weight decay", low=0)
    protect: bool = option(True, help="useful weights take smaller steps, and not less noise alone")

    @property
    def draws(self) -> bool:
        """The noise."""
        return self.sigma > 0

    def setup(self, run: Run) -> None:
        """No generator yet: each optimizer gets one."""
        self._run = run
        self._generators: list[torch.Generator] = []

    def make_optimizer(
        self, groups: list[dict[str, Any]], build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """UPGD over the same groups, whose own settings are of no use to it."""
        self._generators.append(torch.Generator())
        self._seed()
        return UPGD(
            [{"params": group["params"]} for group in groups],
            lr=self.lr,
            sigma=self.sigma,
            beta=self.beta,
            weight_decay=self.decay,
            protect=self.protect,
            generator=self._generators[-1],
        )

    def after_step(self, run: Run) -> Change | None:
        """Seed the noise of the next update."""
        self._seed()
        return None

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the noise of the update that comes."""
        self._seed()

    def _seed(self) -> None:
        """Seed by the number of the update, so that a resumed run draws the same."""
        for number, generator in enumerate(self._generators):
            generator.manual_seed(derive(self._run.seed, self.name, number, self._run.step))
