"""Kronecker factors of the curvature of each layer, and their effective ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from replastic import linalg
from replastic.errors import UserError
from replastic.probes._factors import Layer, Layers
from replastic.probes.loss import loss_on
from replastic.probes.quiet import without_dropout
from replastic.probes.samples import count_samples, first

SAMPLES = 256


@dataclass(frozen=True)
class KroneckerRank:
    """Effective ranks of the two factors of one layer, exp of the entropy of the eigenvalues divided by their sum."""

    inputs: float
    """Of E[h h^T], h the inputs of the layer or the patches that a convolution sees: from 1 to fan_in."""
    gradients: float
    """Of E[g g^T], g the gradients of the loss in the outputs of the layer: from 1 to fan_out."""
    value: float
    """Of the Kronecker product, which is the product of both. A grouped convolution has one product for each group, and
    this is of all of them together; `inputs` and `gradients` are then geometric means over groups, weighted by trace.
    0 where no gradient arrives."""


def kronecker_ranks(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    samples: int = SAMPLES,
) -> dict[str, KroneckerRank]:
    """Effective rank of the Kronecker factors of each Linear and convolution, by the name of its weight.

    The factors are second moments over samples and positions, not centred, without a row for the bias. Gradients are
    those of the labels given (the empirical Fisher matrix). No rank exceeds samples times positions. The model is in
    evaluation mode. Layers whose weight is used twice, or in another way than by a Linear or a convolution, are left
    out.

    Cost: one training step on the samples, and the eigenvalues of a matrix of fan_in and one of fan_out for each layer.
    Memory holds the patches of one convolution at a time.

    Args:
        model: The model; left as it is.
        batch: The argument of `loss_fn`: tensors whose first axis counts samples.
        loss_fn: Mean loss of the model on a batch.
        samples: Only the first samples of the batch are used.

    Raises:
        UserError: Fewer than 2 samples; no such layer; a loss that is not one finite number.

    Reference: Martens and Grosse (2015), arXiv 1503.05671, for Linears; Grosse and Martens (2016), arXiv 1602.01407,
        for convolutions. He et al. (2025), arXiv 2509.22335, motivate the rank; its definition is ours.
    """
    batch = first(batch, samples)
    count = count_samples(batch)
    if count < 2:
        raise UserError(f"an effective rank needs a batch of at least 2 samples, got {count}")
    names = {id(p): n for n, p in model.named_parameters() if p.requires_grad and p.is_floating_point()}
    if not names:
        raise UserError("curvature needs at least one trainable parameter: set requires_grad=True on some")
    watch = Layers(names, count)
    with without_dropout(model, batch_statistics=False), torch.enable_grad():
        with watch:
            loss = loss_on(model, batch, loss_fn, differentiable=True)
        layers = [layer for layer in watch.layers() if layer.weight is not None and layer.is_matrix]
        if not layers:
            raise UserError(
                "no Linear or convolution with a trainable weight runs on the samples of the batch: the first axis of "
                "its input must count them"
            )
        outputs = [layer.output for layer in layers]
        found = torch.autograd.grad(loss, outputs, allow_unused=True, materialize_grads=True)
    return {layer.name: _ranks(layer, gradient) for layer, gradient in zip(layers, found, strict=True)}


@torch.no_grad()
def _ranks(layer: Layer, gradient: Tensor) -> KroneckerRank:
    a, g = (_second_moments(side) for side in (layer.forward(), layer.backward(gradient)))
    weights = a.sum(-1) * g.sum(-1)
    if not bool(weights.sum() > 0):
        return KroneckerRank(float(_rank(a)[0]), 0.0, 0.0)
    share = weights / weights.sum()
    there = share > 0
    logs = [(share[there] * _rank(of)[there].log()).sum() for of in (a, g)]
    between = torch.special.entr(share).sum()
    inputs, gradients, whole = (float(x.exp()) for x in (*logs, logs[0] + logs[1] + between))
    return KroneckerRank(inputs, gradients, whole)


def _second_moments(side: Tensor) -> Tensor:
    """Eigenvalues of the mean outer product of each group: (samples, groups, n, positions) -> (groups, n)."""
    rows = side.transpose(0, 1).transpose(2, 3).flatten(1, 2).double()
    if rows.shape[1] < rows.shape[2]:
        values: Tensor = torch.linalg.svdvals(rows).square()
        values = torch.nn.functional.pad(values, (0, rows.shape[2] - values.shape[1]))
    else:
        values = torch.linalg.eigvalsh(rows.mT @ rows).flip(-1).clamp_min(0)
    return values.cpu() / rows.shape[1]


def _rank(values: Tensor) -> Tensor:
    found: Tensor = linalg.Spectrum(values).effective_rank()
    return found
