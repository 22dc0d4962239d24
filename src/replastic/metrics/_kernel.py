"""The kernel and the Jacobian that measures share, of the samples that a run can afford at the start of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from replastic.probes import JacobianSpectrum, LayerJacobians, Ntk, jacobian_spectrum, layer_jacobians, ntk

SAMPLES = 64
"""Samples that both are taken of."""
LAYER_SAMPLES = 4
"""Samples that the Jacobians of the layers are taken of, each with as many backward passes as the layer has outputs."""
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


def layers(model: nn.Module, batches: Batches, loss_fn: LossFunction, *, generator: torch.Generator) -> LayerJacobians:
    """The Jacobians of the blocks on the first batch; nothing is drawn."""
    return layer_jacobians(model, next(iter(batches)), loss_fn, samples=LAYER_SAMPLES, memory_gb=0.25)
