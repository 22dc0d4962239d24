"""Learning from labelled samples: batches, their parts, and the update; the loss and the scores are the learner's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from replastic import networks
from replastic.errors import UserError
from replastic.learners._batches import Batch
from replastic.learners._forward import Forward
from replastic.learners._learner import Descend, Learner, Pieces
from replastic.learners._trainer import Trainer
from replastic.networks import Inputs, Network
from replastic.parallel import distributed
from replastic.parallel.joint_batch_norm import joint_batch_norm
from replastic.seeds import derive


class SupervisedLearner(Learner):
    """One network and one optimizer; each update is one batch of inputs and targets."""

    inputs: ClassVar[Inputs] = "numbers"
    """The kind of its samples, which the network must read."""

    def __init__(
        self,
        network: Network,
        sample_shape: tuple[int, ...],
        outputs: int,
        seed: int,
        trainer: Trainer,
        device: str,
    ) -> None:
        if network.inputs != self.inputs:
            raise UserError(
                f"{network.name} reads {network.inputs}, and the samples are {self.inputs}: choose another network"
            )
        self.seed = seed
        self.trainer = trainer
        self._made_of = (network, sample_shape, outputs)
        self._device = device
        self.model = self._build(derive(seed, "network"))
        self.forward = Forward(self.model, trainer, device)
        self._coming: Iterator[Batch] = iter(())

    def draw(self, seed: int) -> Mapping[str, Tensor]:
        """State dict of a network made from another seed."""
        return self._build(seed).state_dict()

    def begin(self, phase: int, done: int) -> None:
        """Seek the batch after `done` updates."""
        self._coming = self.stream(phase, done)

    def update(self, descend: Descend) -> Tensor:
        """Train on the next batch: of several processes each trains on its portion."""
        batch = next(self._coming)
        loss = descend(lambda: self._parts(batch))
        self.note(loss)
        return loss

    def pieces(self) -> Pieces | None:
        """The next batch, the loss of each sample, and `note`, unless a subclass makes updates of its own."""
        kind = type(self)
        both = [next(c for c in kind.__mro__ if name in vars(c)) for name in ("criterion", "losses")]
        if kind.update is not SupervisedLearner.update or both[0] is not both[1] or both[1] is SupervisedLearner:
            return None
        return Pieces(take=lambda: next(self._coming), losses=self.losses, note=self.note)

    def note(self, loss: Tensor) -> None:
        """Called with the loss of every update, for scores that are taken while it trains."""

    @abstractmethod
    def stream(self, phase: int, first: int) -> Iterator[Batch]:
        """Training batches of a phase from number `first` on, without end."""

    @abstractmethod
    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch's outputs, a scalar."""

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each sample, (B,), if `criterion` is their mean; else a learner leaves this as it is."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean loss of a model on a batch of inputs and targets."""
        inputs, targets = batch
        return self.criterion(model(inputs), targets)

    def _parts(self, batch: Batch) -> Iterable[Tensor]:
        """The loss on this process's portion of a batch, part by part, each weighted by its share of the batch."""
        inputs, targets = batch
        if self.trainer.accumulate == 1 and distributed.world_size() == 1:
            yield self.criterion(self.forward(inputs), targets)
            return
        mine, count = distributed.portion(len(targets)), len(targets)
        # As many in every process, because batch normalisation waits for the others in each.
        parts = min(self.trainer.accumulate, count // distributed.world_size())
        for index in torch.arange(mine.start, mine.stop).tensor_split(parts):
            part = slice(int(index[0]), int(index[-1]) + 1)
            with joint_batch_norm():
                loss = self.criterion(self.forward(inputs[part]), targets[part])
            yield (len(index) / count) * loss

    def _build(self, seed: int) -> nn.Module:
        network, sample_shape, outputs = self._made_of
        return networks.build(network, sample_shape, outputs, seed).to(self._device)
