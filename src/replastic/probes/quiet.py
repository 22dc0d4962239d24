"""A `with` block that restores the model, its statistics and the random generators at its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

from replastic.seeds import drawing_from

_PROBED: ContextVar[frozenset[int]] = ContextVar("_PROBED", default=frozenset())
"""Identities of the models that are inside a `probing` or `undisturbed` block."""


def is_probed(model: nn.Module) -> bool:
    """Whether the model is inside a `probing` or `undisturbed` block. Its passes are then no training passes."""
    return id(model) in _PROBED.get()


@contextmanager
def probing(model: nn.Module) -> Iterator[None]:
    """Passes of the model inside the block are no training passes, so that nobody takes statistics from them."""
    token = _PROBED.set(_PROBED.get() | {id(model)})
    try:
        yield
    finally:
        _PROBED.reset(token)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Passes of the model inside the block are in evaluation mode, may be differentiated, and are no training passes.

    Unlike `undisturbed` it does not touch buffers, which a backward pass after the block may need.
    """
    training = [module for module in model.modules() if module.training]
    with probing(model):
        try:
            for module in training:
                module.training = False
            yield
        finally:
            for module in training:
                module.training = True


@contextmanager
def undisturbed(model: nn.Module, *, training: bool | None = False, seed: int | None = None) -> Iterator[None]:
    """Run forward and backward passes inside the block without a trace in the model.

    The end of the block, also after an error, restores the training flag of every module, every buffer (such as the
    running statistics of batch normalisation), and the global random generators of the CPU and of the model's devices.
    It does not restore `.grad`: compute gradients with `torch.autograd.grad`, which leaves `.grad` alone.

    Args:
        model: The module to run.
        training: Mode inside the block: ``False`` means running statistics and no dropout, ``True`` batch statistics
            and dropout, ``None`` the present mode.
        seed: Seed of the global generators inside the block; ``None`` keeps their state at its start.
    """
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, value, None if value is None else value.detach().clone())
        for module in model.modules()
        for name, value in module._buffers.items()
    ]
    with drawing_from(seed, model), probing(model):
        try:
            if training is not None:
                model.train(training)
            yield
        finally:
            for module, flag in flags:
                module.training = flag
            with torch.no_grad():
                for module, name, value, content in buffers:
                    module._buffers[name] = value
                    if value is not None and content is not None:
                        value.copy_(content)


@contextmanager
def without_dropout(model: nn.Module, *, batch_statistics: bool) -> Iterator[None]:
    """`undisturbed`, with a loss that is a fixed function of the weights: no dropout.

    Args:
        model: The module to run.
        batch_statistics: Whether batch and instance normalisation use the statistics of each batch, as in training, or
            their running statistics, as in evaluation.
    """
    with undisturbed(model):
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._NormBase):
                module.training = batch_statistics
        yield
