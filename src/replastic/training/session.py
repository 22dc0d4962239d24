"""One run in memory: what is trained, the method that watches over it, and where the run stands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from replastic import methods, networks, recipes
from replastic.data import Splits
from replastic.methods import Method
from replastic.seeds import derive
from replastic.streams import Phase
from replastic.training import supervised
from replastic.training.forward import Forward
from replastic.training.protocol import Protocol
from replastic.weights.change import Change, Proposal
from replastic.weights.module_store import ModuleStore
from replastic.weights.optimizer_state import Policy
from replastic.weights.writer import write


@dataclass
class Position:
    """Where a run stands; with the tensors of `resume` this is all that is needed to go on."""

    phase: int = 0
    step_in_phase: int = 0
    """Updates made in this phase."""
    step: int = 0
    """Updates made since the run began."""
    crossed: bool = False
    """Whether the boundary before `phase` lies behind."""
    set_up: bool = False
    """Whether the method has been set up."""


class Session:
    """A model, its optimizer and a method. Use as a context manager, so that the method's hooks are removed."""

    def __init__(self, protocol: Protocol, splits: Splits, method: Method, seed: int, device: str = "cpu") -> None:
        self.protocol = protocol
        self.splits = splits
        self.method = method
        self.seed = seed
        self.position = Position()
        sample = splits.train

        def build(s: int) -> nn.Module:
            return networks.build(protocol.network, sample.sample_shape, sample.classes, s).to(device)

        self.model = build(derive(seed, "network"))
        self.forward = Forward(self.model, protocol.trainer, device)
        init = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        self.run = methods.Run(
            store=ModuleStore(self.model),
            recipe=recipes.load(protocol.recipe),
            model=self.model,
            init=init,
            fresh=lambda s: build(s).state_dict(),
            loss_fn=supervised.loss,
            seed=derive(seed, "method"),
        )
        self.optimizer: torch.optim.Optimizer
        self.renew_optimizer()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.method.close()

    @property
    def method_is_on(self) -> bool:
        """Whether the method has a say in the current phase."""
        return self.position.set_up

    def phase(self, index: int) -> Phase:
        """Phase number `index` of the run's stream."""
        return self.protocol.stream.phase(self.splits, index, derive(self.seed, "stream"))

    def set_up_method(self) -> None:
        """Turn the method on; its needs are checked first."""
        methods.check_needs(self.method, self.run)
        self.method.setup(self.run)
        self.position.set_up = True
        if self.method.makes_optimizer:
            self.renew_optimizer()

    def apply(self, change: Change, policy: Policy, *, between_phases: bool = False) -> None:
        """Write what a method proposes, and tell the method where weights were replaced (`Method.after_write`).

        Where modules were replaced there is a new optimizer for the parameters that are there now; of those that were
        there before it knows what the policy left.

        Args:
            change: What is to be written.
            policy: What becomes of the optimizer's state.
            between_phases: Whether every new value stands in place of the old one. After an update only a change that
                resets units does that.

        Raises:
            UserError: What was proposed cannot be written; nothing was.
        """
        names: list[str] = []

        def noted(proposal: Proposal) -> Proposal:
            names.append(proposal.name)
            return proposal

        units = tuple(change.units)
        proposals = map(noted, change.proposals)
        write(
            self.run.store,
            replace(change, proposals=proposals, units=units),
            optimizer=self.optimizer,
            policy=policy,
        )
        if units or between_phases:
            self.method.after_write(self.run, names, units)
        if change.modules:
            state = self.optimizer.state
            self.renew_optimizer()
            self.optimizer.state.update({p: state[p] for p in self.parameters if p in state})

    def renew_optimizer(self) -> None:
        """A new optimizer with nothing remembered, made by the method if it is on."""
        groups: list[dict[str, Any]] = [{"params": list(self.model.parameters())}]
        build = self._adam
        self.optimizer = self.method.make_optimizer(groups, build) if self.method_is_on else build(groups)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.run.optimizer = self.optimizer

    def _adam(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=self.protocol.trainer.learning_rate, fused=True)
