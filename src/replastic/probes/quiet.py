"""A `with` block after which the model, its statistics and the random generators are as they were before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

from replastic.seeds import drawing_from

_PROBED: ContextVar[frozenset[int]] = ContextVar("_PROBED", default=frozenset())
"""Identities of the models that are inside an `undisturbed` block."""


def is_probed(model: nn.Module) -> bool:
    """Whether the model is inside an `undisturbed` block, so that its passes are no training."""
    return id(model) in _PROBED.get()


@contextmanager
def undisturbed(model: nn.Module, *, training: bool | None = False, seed: int | None = None) -> Iterator[None]:
    """Run forward and backward passes inside and leave no trace.

    Restored on the way out, by an error too: the training flag of every module, every buffer (such as the running
    statistics of batch normalisation), and the global random generators of the CPU and of the model's devices.
    Gradients are not: ask for them with `torch.autograd.grad`, which leaves `.grad` alone.

    Args:
        model: The module to look into.
        training: Mode to switch to: ``False`` means running statistics and no dropout, ``True`` batch statistics and
            dropout, ``None`` as it is.
        seed: Of those generators inside the block; ``None`` leaves them where they are.
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, value, None if value is None else value.detach().clone())
        for module in model.modules()
        for name, value in module._buffers.items()
    ]
    with drawing_from(seed, model):
        token = _PROBED.set(_PROBED.get() | {id(model)})
        try:
            if training is not None:
                model.train(training)
            yield
        finally:
            _PROBED.reset(token)
            for module, flag in flags:
                module.training = flag
            with torch.no_grad():
                for module, name, value, content in buffers:
                    module._buffers[name] = value
                    if value is not None and content is not None:
                        value.copy_(content)
