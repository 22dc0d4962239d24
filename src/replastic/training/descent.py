"""One step of one optimizer: losses and penalty, gradients over processes, clipping, decay, learning rate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, pairwise

import torch
from torch import Tensor

from replastic.interventions.attached import Attached
from replastic.learners import Trainer
from replastic.parallel import distributed
from replastic.training import light
from replastic.weights.shards import is_sharded

_END: list[Tensor | None] = [None]


class Descent:
    """Makes a learner's steps; see `learners.Descend`."""

    def __init__(self, attached: Attached, trainer: Trainer) -> None:
        self._attached = attached
        self._trainer = trainer
        self.rate = 1.0
        """Factor on every group's learning rate."""
        self.weight_decay = trainer.weight_decay
        """Of the phase under way."""

    def __call__(self, losses: Callable[[], Iterable[Tensor]], optimizer: str = "") -> Tensor:
        """Have the gradients computed as the method wants it, and step."""
        chosen = self._attached.optimizers[optimizer]
        parameters = [p for group in chosen.param_groups for p in group["params"]]
        total = self._attached.backward(lambda: self._gradients(losses(), parameters), optimizer)
        with torch.no_grad():
            if self._trainer.clip_norm:
                light.clip(parameters, self._trainer.clip_norm)
            factor = self._attached.rate()  # the step itself heeds it
            for group in chosen.param_groups:
                group["lr"] = self.rate * group.setdefault("initial_lr", group["lr"])
                if self.weight_decay:
                    self._decay(group["params"], factor * group["lr"])
            light.step(chosen)
        return total

    def _gradients(self, losses: Iterable[Tensor], parameters: list[Tensor]) -> Tensor:
        """Differentiate the losses one by one, the method's penalty with the last of them; summed over processes."""
        for parameter in parameters:
            parameter.grad = None
        # Of several optimizers each has parameters that it alone needs the gradients of.
        several = len(self._attached.optimizers) > 1
        inputs = [p for p in parameters if p.requires_grad] if several else None
        total: Tensor | None = None
        averaged = bool(parameters) and is_sharded(parameters[0])  # FSDP2 gives the mean of the processes' gradients
        scale = distributed.world_size() if averaged else 1
        for loss, following in pairwise(chain(losses, _END)):
            assert loss is not None
            penalty = self._attached.penalty() if following is None else None
            whole = loss if penalty is None else loss + penalty / distributed.world_size()
            torch.autograd.backward(whole if scale == 1 else scale * whole, inputs=inputs)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None, "a learner gives at least one loss"
        if averaged:
            total = distributed.total(total)
        elif distributed.is_distributed():
            total = distributed.sum_gradients(parameters, total)
        return total

    def _decay(self, parameters: Iterable[Tensor], rate: float) -> None:
        """Decoupled weight decay (Loshchilov and Hutter 2019, algorithm 2) of what has two axes or more."""
        shrunk = [p for p in parameters if p.dim() >= 2 and p.grad is not None]
        if shrunk:
            torch._foreach_mul_(shrunk, 1.0 - rate * self.weight_decay)
