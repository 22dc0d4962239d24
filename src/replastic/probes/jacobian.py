"""Singular values of the Jacobian of the outputs in the inputs, sample by sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.probes._trees import mapped, tensors
from replastic.probes.outputs import OutputFunction, Read


def jacobian_bytes(outputs: int, inputs: int) -> int:
    """Memory that the Jacobian of one sample takes with the work space of its singular values."""
    return 3 * 8 * outputs * inputs


@dataclass(frozen=True)
class JacobianSpectrum:
    """Singular values of Jacobians, one for each sample."""

    values: Tensor
    """(samples, min(outputs, inputs)) float64, descending."""
    outputs: int
    inputs: int

    @property
    def rounding(self) -> float:
        """Share of the largest singular value below which one cannot be told from 0."""
        return max(self.outputs, self.inputs) * torch.finfo(self.values.dtype).eps

    def mean_square(self) -> Tensor:
        """Mean of the squared singular values of each sample: (samples,)."""
        return self.values.square().mean(1)

    def top(self) -> Tensor:
        """Largest singular value of each sample: (samples,)."""
        return self.values[:, 0]

    def deviation(self) -> Tensor:
        """Standard deviation of each sample's singular values over their mean: (samples,), 0 for a zero Jacobian."""
        mean = self.values.mean(1)
        return self.values.std(1, correction=0) / torch.where(mean > 0, mean, 1)

    def gap(self) -> Tensor:
        """Root mean square distance of each sample's singular values from 1: (samples,), 0 for an isometry."""
        return (self.values - 1).square().mean(1).sqrt()

    def condition_number(self) -> Tensor:
        """Largest over smallest of each sample: (samples,); infinite where the smallest is 0 within rounding."""
        s = self.values
        singular = s[:, -1] <= self.rounding * s[:, 0]
        return torch.where(singular, torch.inf, s[:, 0] / s[:, -1])


def jacobian_spectrum(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    *,
    samples: int | None = None,
    outputs: Read | None = None,
    memory_gb: float = 2.0,
) -> JacobianSpectrum:
    """Singular values of the input-output Jacobian of each sample, in evaluation mode. Leaves no trace.

    One backward pass for each output serves all samples of a block at once.

    Args:
        model: The module.
        batch: The argument of `loss_fn`, or, without one, inputs of the model (the first of a tuple).
        loss_fn: Mean loss of the model on a batch. It shows how the model is called; its value is not used.
        samples: Taken from the start of the batch; None for all.
        outputs: From what the model returns to (samples, outputs); by default the tensor itself, or its ``logits``.
        memory_gb: Limit on the memory of the Jacobians of a block of samples, in 10^9 bytes.

    Raises:
        UserError: The inputs are whole numbers; samples depend on each other; one Jacobian does not fit; the outputs
            are no tensor (samples, outputs); the model has no trainable parameter.
    """
    f = OutputFunction(model, batch, loss_fn, outputs=outputs, samples=samples)
    place = next((t for t in tensors((f.args, f.kwargs)) if t.is_floating_point() and len(t) == f.samples), None)
    if place is None:
        raise UserError(
            "the inputs of the model are whole numbers, such as tokens, so there is no Jacobian in them: pass a model "
            "that begins after the embedding"
        )
    f.require_independent()
    needed = jacobian_bytes(f.outputs, place[0].numel())
    count = int(memory_gb * 1e9 / needed)
    if count < 1:
        raise UserError(
            f"the Jacobian of one sample ({f.outputs} outputs, {place[0].numel()} inputs) takes "
            f"{needed / 1e9:.3g} GB, more than memory_gb={memory_gb:g}: pass a larger memory_gb, or outputs= that "
            "chooses fewer outputs"
        )
    found = []
    with f.quietly():
        for start in range(0, f.samples, count):
            found.append(torch.linalg.svdvals(_jacobians(f, place, slice(start, start + count)).double()))
    return JacobianSpectrum(torch.cat(found), f.outputs, place[0].numel())


def _jacobians(f: OutputFunction, place: Tensor, part: slice) -> Tensor:
    """Jacobians of the outputs in the inputs, of some samples: (samples of the part, outputs, inputs)."""
    inputs = place[part].detach().requires_grad_()

    def fill(tensor: Tensor) -> Tensor:
        if tensor is place:
            return inputs
        return tensor[part] if tensor.dim() and len(tensor) == f.samples else tensor

    values = f(args=mapped(fill, f.args), kwargs=mapped(fill, f.kwargs))
    return rows_of(values, inputs)


def rows_of(values: Tensor, inputs: Tensor) -> Tensor:
    """Jacobians of values (samples, k) in inputs (samples, ...) of the same graph: (samples, k, entries of an input).

    Samples must not depend on each other. One backward pass for each of the k.
    """
    if not values.requires_grad:
        return values.new_zeros(len(inputs), values.shape[1], inputs[0].numel())
    rows = [
        torch.autograd.grad(
            values[:, index].sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True
        )[0].flatten(1)
        for index in range(values.shape[1])
    ]
    return torch.stack(rows, dim=1)
