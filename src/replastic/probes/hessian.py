"""Products of the Hessian of the loss with vectors, by differentiating twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from replastic.errors import UserError
from replastic.probes.loss import loss_on
from replastic.probes.quiet import without_dropout


class HessianProduct:
    """v -> H v for the Hessian of the mean loss over given batches, in the trainable real parameters of a model.

    Dropout is off, so that the loss is a fixed function of the weights. The model does not change. Attention runs on
    the plain kernel, since the fused ones cannot be differentiated twice.

    Shapes: vectors are flat, (dim,), with the parameters one after the other in the order of `named_parameters`.

    Args:
        model: The model. Its trainable parameters are differentiated.
        batches: The arguments of `loss_fn`, one after the other.
        loss_fn: Mean loss of the model on a batch.
        batch_statistics: If True, batch (and instance) normalisation uses the statistics of each batch, as in
            training, and is differentiated through them. If False, it uses its running statistics, as in evaluation.

    Raises:
        UserError: There is no trainable parameter, or no batch.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        loss_fn: Callable[[nn.Module, Any], Tensor],
        *,
        batch_statistics: bool = False,
    ) -> None:
        self.model = model
        self.batch_statistics = batch_statistics
        self.batches = list(batches)
        self.loss_fn = loss_fn
        self.parameters = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
        if not self.parameters or not self.batches:
            raise UserError("a Hessian needs at least one trainable parameter and one batch")
        self.dim = sum(p.numel() for p in self.parameters)

    @property
    def device(self) -> torch.device:
        """Device of the vectors."""
        return self.parameters[0].device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the vectors."""
        return self.parameters[0].dtype

    def __call__(self, vector: Tensor) -> Tensor:
        """H times `vector`, (dim,) -> (dim,)."""
        pieces = torch.split(vector, [p.numel() for p in self.parameters])
        direction = [v.view_as(p).to(p) for v, p in zip(pieces, self.parameters, strict=True)]
        total = torch.zeros_like(vector)
        quietly = without_dropout(self.model, batch_statistics=self.batch_statistics)
        with quietly, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for batch in self.batches:
                total += self._on_batch(batch, direction).to(vector)
        return total / len(self.batches)

    def _on_batch(self, batch: Any, direction: list[Tensor]) -> Tensor:
        loss = loss_on(self.model, batch, self.loss_fn, differentiable=True)
        first = torch.autograd.grad(loss, self.parameters, create_graph=True, materialize_grads=True, allow_unused=True)
        slope = sum((g * v).sum() for g, v in zip(first, direction, strict=True))
        assert isinstance(slope, Tensor)
        if not slope.requires_grad:
            return torch.zeros(self.dim, device=self.device, dtype=self.dtype)
        second = torch.autograd.grad(slope, self.parameters, materialize_grads=True, allow_unused=True)
        return torch.cat([g.detach().reshape(-1) for g in second])
