"""One run in memory: what is trained, the method that watches over it, and where the run stands."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from replastic import methods, networks, recipes
from replastic.data import Splits
from replastic.interventions.attached import Attached
from replastic.methods import Method
from replastic.seeds import derive
from replastic.streams import Phase
from replastic.training import supervised
from replastic.training.forward import Forward
from replastic.training.protocol import Protocol
from replastic.weights.module_store import ModuleStore


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
        optimizer = torch.optim.Adam(self.model.parameters(), lr=protocol.trainer.learning_rate, fused=True)
        self.attached = Attached(method, self.run, {"": optimizer}, policy=protocol.trainer.optimizer_policy)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.attached.close()

    @property
    def method_is_on(self) -> bool:
        """Whether the method has a say in the current phase."""
        return self.attached.is_on

    def phase(self, index: int) -> Phase:
        """Phase number `index` of the run's stream."""
        return self.protocol.stream.phase(self.splits, index, derive(self.seed, "stream"))

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The run's optimizer, or the method's own."""
        return self.attached.optimizer

    @property
    def parameters(self) -> list[torch.Tensor]:
        """What the optimizer trains."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]
