"""Measures of the Hessian of the loss: the shape they share, and what several of them compute once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from replastic import linalg
from replastic.linalg import SpectralDensity
from replastic.probes import HessianProduct, hessian_density


def of_hessian(*, batch_statistics: bool) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorate a function of Hessian-vector products, so that it is called as measures of the loss are."""

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(function)
        def compute(
            model: nn.Module,
            batches: Iterable[Any],
            loss_fn: Callable[[nn.Module, Any], Tensor],
            *,
            generator: torch.Generator,
            **options: Any,
        ) -> Tensor:
            product = HessianProduct(model, batches, loss_fn, batch_statistics=batch_statistics)
            return function(product, generator, **options)

        return compute

    return decorate


def top_eigenvalue(product: HessianProduct, generator: torch.Generator, num_steps: int) -> Tensor:
    """Largest eigenvalue by Lanczos on Hessian-vector products: a lower bound, which approaches it from below."""
    found = linalg.lanczos(
        product, product.dim, num_steps=num_steps, generator=generator, dtype=product.dtype, device=product.device
    )
    return found.values[0]


def density(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
) -> SpectralDensity:
    """The spectral density of the Hessian with the defaults of `hessian_density`."""
    return hessian_density(model, batches, loss_fn, generator=generator)
