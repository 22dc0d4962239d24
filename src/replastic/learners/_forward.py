"""How the network is run: number format, memory layout, compiled or not. What methods see stays the plain module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.learners._trainer import Trainer
from replastic.parallel import distributed


class Forward:
    """The network as training and evaluation run it: inputs (B, *sample) to outputs in float32.

    The module itself is untouched but for the memory layout of its 4-D weights: parameters keep their identity, the
    state dict its names, and a forward pass of the module alone is in float32 and never compiled.

    Compiled code is made for whole batches and whole chunks of an evaluation; other sizes, and a network that somebody
    watches through hooks, run as they are, as compiled code would not see hooks added after it was made.
    """

    def __init__(self, model: nn.Module, trainer: Trainer, device: str | torch.device) -> None:
        self.model = model
        self.chunk = trainer.evaluation_chunk
        self._device = torch.device(device).type
        self._bfloat16 = trainer.precision == "bfloat16"
        self._channels_last = trainer.channels_last
        self._compiled: Callable[[Tensor], Tensor] | None = None
        self._sizes = {trainer.batch_size, self.chunk}
        if trainer.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if trainer.compiled and distributed.is_distributed():
            raise UserError("a compiled network trains in one process: leave out --compiled, or torchrun")
        if trainer.compiled:
            torch.compiler.reset()  # A process trains many networks, and code made for the others counts to a limit.
            self._compiled = torch.compile(model, dynamic=False)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs of the network in the mode it is in."""
        if self._channels_last and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        run: Callable[[Tensor], Tensor] = self.model
        if self._compiled is not None and len(inputs) in self._sizes and not _watched(self.model):
            run = self._compiled
        if not self._bfloat16:
            return run(inputs)
        with torch.autocast(self._device, torch.bfloat16):
            return run(inputs).float()


def _watched(model: nn.Module) -> bool:
    """Whether hooks are attached to the network."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in model.modules()
    )
