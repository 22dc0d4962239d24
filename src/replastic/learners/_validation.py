"""Validation of a language model: the mean loss on evenly spaced windows of a file of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.data.token_file import TokenFile
from replastic.errors import UserError
from replastic.learners._batches import Batch
from replastic.learners._forward import Forward
from replastic.parallel import distributed
from replastic.probes import undisturbed
from replastic.weights.shards import reshard


@dataclass(frozen=True)
class Validation:
    """Windows of `block` + 1 tokens that do not overlap, at most `most` of a file, and the loss on them."""

    block: int
    most: int
    """0 for all."""
    pair: Callable[[Tensor], Batch]
    """Sequences (B, block + 1) to inputs and targets (B, block) on the device."""
    criterion: Callable[[Tensor, Tensor], Tensor]
    """Mean loss from outputs and targets."""

    def starts(self, file: TokenFile) -> range:
        """First tokens of the windows.

        Raises:
            UserError: The file has not even one window.
        """
        windows = (file.facts.tokens - 1) // self.block
        if not windows:
            raise UserError(
                f"{file.path.name} has {file.facts.tokens} tokens to validate on, fewer than block + 1 = "
                f"{self.block + 1}"
            )
        apart = max(1, windows // self.most) if self.most else 1
        return range(0, windows * self.block, apart * self.block)[: self.most or windows]

    def loss(self, file: TokenFile, running: Forward) -> float:
        """Mean loss of a network that every process has whole."""
        starts = self.starts(file)
        return float(self._summed(file, starts, running)) / len(starts)

    def loss_of_all(self, file: TokenFile, running: Forward, *, sharded: bool) -> float:
        """The same with the windows shared out among the processes, which may have a part of the weights each."""
        starts = self.starts(file)
        mine = starts[distributed.portion(len(starts))]
        most = -(-len(starts) // distributed.world_size())
        passes = -(-most // running.chunk) if sharded else 0
        return float(distributed.total(self._summed(file, mine, running, passes))) / len(starts)

    def rehearse(self, file: TokenFile, running: Forward) -> int:
        """Score one chunk, to be timed; returns its windows."""
        starts = self.starts(file)[: running.chunk]
        self._summed(file, starts, running)
        return len(starts)

    @torch.no_grad()
    def _summed(self, file: TokenFile, starts: range, running: Forward, passes: int = 0) -> Tensor:
        """Sum of the mean losses of the windows that begin at these tokens, float64 on the CPU.

        It makes `passes` forward passes at least, as processes that share the weights gather them in step.
        """
        total = torch.zeros((), dtype=torch.float64)
        with undisturbed(running.model):
            for i in range(0, len(starts), running.chunk):
                inputs, targets = self._windows(file, starts[i : i + running.chunk])
                total += self.criterion(running(inputs), targets).double().cpu() * len(inputs)
            for _ in range(passes - -(-len(starts) // running.chunk)):
                running(self._windows(file, range(1))[0])
        reshard(running.model)
        return total

    def _windows(self, file: TokenFile, starts: range) -> Batch:
        return self.pair(torch.stack([file.slice(start, self.block + 1) for start in starts]))
