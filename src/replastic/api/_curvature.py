"""Both sides of theorem 2 that take a loss: beta and gamma on a batch, and the norm of the Hessian."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from replastic import linalg
from replastic.api._shared import LossFunction
from replastic.errors import UserError
from replastic.probes import HessianProduct, forward_on, loss_on, undisturbed

STEPS = 40
"""Lanczos steps for the norm of the Hessian."""
_MOST = 2**26
"""Most numbers in the Hessians of all samples' losses in the outputs."""


class _Outputs(nn.Module):
    """Gives the same outputs whatever it is called with."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """The outputs."""
        return self.outputs


def output_side(model: nn.Module, batch: Any, loss_fn: LossFunction) -> tuple[float, float]:
    """The beta and gamma of theorem 2 on a batch: norms of Hessian and gradient of a sample's loss in its outputs.

    The largest over the samples. The loss must be the mean over the samples of a function of each sample's outputs.

    Raises:
        UserError: The outputs are no (samples, outputs), there are too many of them, or the loss looks at more than
            the model's outputs.
    """
    with undisturbed(model), torch.no_grad():
        outputs = forward_on(model, batch)
        there = loss_on(model, batch, loss_fn)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2:
        raise UserError("beta and gamma are found for outputs (samples, outputs): pass beta= and gamma= yourself")
    samples, width = outputs.shape
    if samples * width * width > _MOST:
        raise UserError(
            f"the Hessians of {samples} losses in {width} outputs would be too large: pass fewer samples, or beta= and "
            "gamma= yourself"
        )
    with torch.enable_grad():
        given = outputs.detach().double().requires_grad_()
        loss = loss_fn(_Outputs(given), batch)
        if not torch.isclose(loss.detach().double(), there.double(), rtol=1e-3, atol=1e-6):
            raise UserError("the loss looks at more than the model's outputs: pass beta= and gamma= yourself")
        if not loss.requires_grad:
            raise UserError("the loss does not depend on the model's outputs: loss_fn must not detach it")
        (slope,) = torch.autograd.grad(loss, given, create_graph=True)
        rows = [
            torch.autograd.grad(slope[:, k].sum(), given, retain_graph=True, materialize_grads=True, allow_unused=True)[
                0
            ]
            if slope.requires_grad
            else torch.zeros_like(given)
            for k in range(width)
        ]
    norms = torch.linalg.matrix_norm(torch.stack(rows, dim=1).detach(), ord=2)
    gradients = slope.detach().norm(dim=1)
    return samples * float(norms.max()), samples * float(gradients.max())


def hessian_norm(model: nn.Module, batch: Any, loss_fn: LossFunction) -> float:
    """Spectral norm of the Hessian of the loss in all trainable weights, by Lanczos, which approaches it from below.

    Raises:
        UserError: There is nothing to differentiate.
    """
    product = HessianProduct(model, [batch], loss_fn)
    found = linalg.lanczos(
        product,
        product.dim,
        num_steps=STEPS,
        generator=torch.Generator().manual_seed(0),
        dtype=product.dtype,
        device=product.device,
    )
    return float(found.values.abs().max())
