"""A copy of a network that is trained for a while and thrown away: how far a number of steps brings its loss down."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from replastic.denormals import flushed
from replastic.errors import UserError
from replastic.probes.loss import loss_on
from replastic.seeds import derive, drawing_from

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class Trainee:
    """A network in training mode with an optimizer of its own.

    Args:
        model: The network to train; a copy, as its weights change (see `copied`).
        make: Makes the optimizer from the trainable parameters.
        loss_fn: Mean loss of the model on a batch.

    Raises:
        UserError: No parameter is trainable.
    """

    def __init__(self, model: nn.Module, make: MakeOptimizer, loss_fn: Callable[[nn.Module, Any], Tensor]) -> None:
        self.model = model.train()
        self.loss_fn = loss_fn
        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise UserError("a trial trains a copy, but no parameter of this model has requires_grad=True")
        self.optimizer = make(parameters)

    def step(self, batch: Any) -> None:
        """One step of the optimizer."""
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss_on(self.model, batch, self.loss_fn, finite=False, differentiable=True))
        self.optimizer.step()

    def score(self, batches: Iterable[Any]) -> float:
        """Mean loss over the batches in training mode, as the steps see it."""
        with torch.no_grad():
            losses = [float(loss_on(self.model, batch, self.loss_fn, finite=False)) for batch in batches]
        return math.fsum(losses) / len(losses)

    def curve(
        self, batches: Iterable[Any], score: Callable[[nn.Module], float], marks: Sequence[int], seed: int
    ) -> list[float]:
        """Scores of the network before the first step, and after each of the given numbers of steps on `batches`.

        Args:
            batches: Read in their order, and again and again.
            score: Gives the score of the network and leaves no trace in it.
            marks: Numbers of steps, ascending.
            seed: Decides what is drawn on the way, such as dropout.
        """
        with drawing_from(derive(seed, "course"), self.model), flushed(), torch.enable_grad():
            scores, stream, done = [score(self.model)], _endless(batches), 0
            for mark in marks:
                for batch in islice(stream, mark - done):
                    self.step(batch)
                done = mark
                scores.append(score(self.model))
            return scores

    def course(self, batches: Iterable[Any], scored: Iterable[Any], steps: int, seed: int) -> tuple[float, float]:
        """The loss on `scored` before and after so many steps on `batches`, which are read again and again.

        What is drawn on the way, such as dropout, depends on the seed alone.
        """
        with drawing_from(derive(seed, "course"), self.model), flushed(), torch.enable_grad():
            before = self.score(scored)
            for batch in islice(_endless(batches), steps):
                self.step(batch)
            return before, self.score(scored)


def copied(model: nn.Module, content: Mapping[str, Tensor] | None = None) -> nn.Module:
    """A copy without gradients; with new values for the trainable parameters and the buffers if there is `content`.

    Raises:
        UserError: The model cannot be copied.
    """
    try:
        duplicate = copy.deepcopy(model)
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"a trial trains a copy, but this model cannot be copied: {said}") from error
    for parameter in duplicate.parameters():
        parameter.grad = None
    if content is not None:
        frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
        duplicate.load_state_dict({k: v for k, v in content.items() if k not in frozen}, strict=False)
    return duplicate


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile` and data-parallel wrappers, which a copy does without."""
    for inner in ("_orig_mod", "module"):
        found = getattr(model, inner, None)
        if isinstance(found, nn.Module) and next(iter(model.children()), None) is found and len(model._modules) == 1:
            return unwrapped(found) if inner == "_orig_mod" or _is_parallel(model) else model
    return model


def share_removed(before: float, after: float, least: float = 0.0) -> float:
    """The share of the loss above `least` that training removed, from 0 to 1; 0 where it removed none or diverged."""
    if not before > least or not math.isfinite(after):
        return 0.0
    return min(1.0, max(0.0, (before - after) / (before - least)))


def _is_parallel(model: nn.Module) -> bool:
    return isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        yield from batches
