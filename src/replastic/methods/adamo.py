"""AdamO: Adam for the task, and beside it a decoupled step of the chosen matrices toward isometry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from replastic.errors import UserError
from replastic.interventions.aim import TARGETS_HELP, aimed_matrices, check_targets
from replastic.interventions.cuts import cuts
from replastic.interventions.method import Method, register
from replastic.interventions.run import Need, Run
from replastic.optim import AdamO
from replastic.options import option
from replastic.weights.entries import LiveStore

_TAKEN = ("lr", "betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "fused")
"""Settings of the run's optimizer that AdamO has as well."""


@register("adamo", reference="https://arxiv.org/abs/2606.09762")
@dataclass(kw_only=True)
class AdamOMethod(Method):
    """Trains with Adam, and takes W <- W - lr strength grad ||G - I||_F^2 as a step that its moments do not see.

    G is the smaller Gram matrix, W W^T or W^T W. Settings are those of the run's optimizer: of SGD and others the
    learning rate alone, of Adam and AdamW all that `optim.AdamO` has. The run's schedule scales both steps. Matrices
    are chosen and cut as in a rewrite. An optimizer that trains none of them stays what it is.

    Reference: Rosseau et al. (2026); the strength 1e-3 is as reported for random labels. The name is taken
    twice: arXiv 2605.01968 is another method.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    strength: float = option(1e-3, help="weight of the step (lambda): 0 is Adam", low=0, search=(1e-3, 1e-1, 1.0, 10.0))
    isometry_lr: float = option(0.0, help="learning rate of the isometry step; 0 takes that of the run", low=0)
    targets: str = option("", help=TARGETS_HELP)

    def validate(self) -> None:
        """Refuse an empty pattern in `targets`."""
        check_targets(self.name, self.targets)

    def check(self, run: Run) -> None:
        """See that the patterns match."""
        aimed_matrices(self.name, self.targets, run)

    def setup(self, run: Run) -> None:
        """Look up the weights."""
        assert isinstance(run.store, LiveStore)
        self._cuts = cuts(run.store, aimed_matrices(self.name, self.targets, run))

    def make_optimizer(
        self, groups: list[dict[str, Any]], build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """AdamO with the settings of the run's own optimizer.

        Raises:
            UserError: The run's optimizer adds weight decay to the gradient.
        """
        own = build(groups)
        trained = {id(p) for group in own.param_groups for p in group["params"]}
        here = {weight: cut for weight, cut in self._cuts.items() if id(weight) in trained}
        if not here:
            return own
        coupled = [group["weight_decay"] for group in own.param_groups if _adds_decay(own, group)]
        if coupled:
            raise UserError(
                f"{self.name} keeps weight decay apart from the gradient, but {type(own).__name__} adds it "
                f"(weight_decay={coupled[0]}): give AdamW, or 0"
            )
        kept = ("lr", *(_TAKEN[1:] if isinstance(own, torch.optim.Adam | torch.optim.AdamW) else ()))
        foreign = own.defaults.keys() - kept
        return AdamO(
            [{name: value for name, value in group.items() if name not in foreign} for group in groups],
            **{name: own.defaults[name] for name in kept if name in own.defaults},
            isometry_strength=self.strength,
            isometry_lr=self.isometry_lr or None,
            matrices=here,
        )

    def close(self) -> None:
        """Let go of the parameters."""
        self._cuts = {}


def _adds_decay(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> bool:
    """Whether weight decay of a group goes through the optimizer's moments."""
    decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
    return bool(group.get("weight_decay")) and not decoupled
