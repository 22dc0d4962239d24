"""The kernel and the Jacobian that measures share, of the samples that a run can afford at the start of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from replastic.probes import JacobianSpectrum, Ntk, jacobian_spectrum, ntk

SAMPLES = 64
"""Samples that both are taken of."""
ENTRIES = 1024
"""Limit on samples times outputs of the kernel: with more than 16 outputs there are fewer samples."""

Batches = Iterable[Any]
LossFunction = Callable[[nn.Module, Any], Tensor]


def kernel(model: nn.Module, batches: Batches, loss_fn: LossFunction, *, generator: torch.Generator) -> Ntk:
    """The full kernel on the first batch; nothing is drawn."""
    return ntk(model, next(iter(batches)), loss_fn, samples=SAMPLES, entries=ENTRIES)


def jacobian(
    model: nn.Module, batches: Batches, loss_fn: LossFunction, *, generator: torch.Generator
) -> JacobianSpectrum:
    """The input-output Jacobians on the first batch; nothing is drawn."""
    return jacobian_spectrum(model, next(iter(batches)), loss_fn, samples=SAMPLES)
