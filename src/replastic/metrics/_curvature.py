"""The largest eigenvalue of a Hessian, for the measures that differ only in the Hessian."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic import linalg
from replastic.probes import HessianProduct


def top_eigenvalue(product: HessianProduct, generator: torch.Generator, num_steps: int) -> Tensor:
    """Largest eigenvalue by Lanczos on Hessian-vector products: a lower bound, which approaches it from below."""
    found = linalg.lanczos(
        product, product.dim, num_steps=num_steps, generator=generator, dtype=product.dtype, device=product.device
    )
    return found.values[0]
