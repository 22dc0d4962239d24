"""Eigenvalues of the Hessian of the loss: the largest ones, and the density of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from replastic import linalg
from replastic.errors import UserError
from replastic.linalg import SpectralDensity
from replastic.probes.hessian import HessianProduct
from replastic.probes.samples import first

SAMPLES = 128
PROBES = 2
STEPS = 40


@dataclass(frozen=True)
class TopEigenvalues:
    """The eigenvalues of largest size, in descending order of size."""

    values: Tensor
    """(k,) float64."""
    bounds: Tensor
    """(k,) float64: some eigenvalue lies within this distance of the value."""


def hessian_density(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
    samples: int = SAMPLES,
    num_probes: int = PROBES,
    num_steps: int = STEPS,
    batch_statistics: bool = True,
) -> SpectralDensity:
    """Spectral density of the Hessian of the mean loss; exact where the model has few parameters.

    Cost: num_probes * num_steps Hessian-vector products, or one per parameter if those are fewer. A product takes the
    time of two training steps on the samples, in a small network of up to six. Memory holds num_probes + num_steps
    copies of the parameters.

    Args:
        model: The model; left as it is.
        batches: The arguments of `loss_fn`.
        loss_fn: Mean loss of the model on a batch.
        generator: Source of the probes; on the CPU.
        samples: Only the first samples of each batch are used.
        num_probes: Random start vectors of the quadrature.
        num_steps: Lanczos steps for each. 40 resolve a threshold of about 1% of the largest eigenvalue in a trained
            network; 100 do in a new one, whose eigenvalues have both signs.
        batch_statistics: As in `HessianProduct`.

    Raises:
        UserError: No trainable parameter, no batch, a loss that is not one finite number, or a number out of range.
    """
    parts = [first(batch, samples) for batch in batches]
    product = HessianProduct(model, parts, loss_fn, batch_statistics=batch_statistics)
    return linalg.spectral_density(
        product,
        product.dim,
        num_probes=num_probes,
        num_steps=num_steps,
        generator=generator,
        dtype=product.dtype,
        device=product.device,
    )


def hessian_eigenvalues(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
    count: int = 5,
    samples: int = SAMPLES,
    num_steps: int = STEPS,
    batch_statistics: bool = True,
) -> TopEigenvalues:
    """The `count` Hessian eigenvalues of largest size, by Lanczos with full reorthogonalisation.

    An eigenvalue with several directions may be found once only, unless num_steps is the number of parameters.

    Cost: num_steps Hessian-vector products, each with the time of two training steps on the samples. Memory holds
    num_steps copies of the parameters.

    Args:
        count: How many; no more than num_steps.
        num_steps: Lanczos steps; as many as there are parameters at most.
        model: The model; left as it is.
        batches: The arguments of `loss_fn`.
        loss_fn: Mean loss of the model on a batch.
        generator: Source of the start; on the CPU.
        samples: Only the first samples of each batch are used.
        batch_statistics: As in `HessianProduct`.

    Raises:
        UserError: As `hessian_density`; or `count` is out of range.
    """
    if not 1 <= count <= num_steps:
        raise UserError(f"count must lie between 1 and num_steps = {num_steps}, got {count}")
    parts = [first(batch, samples) for batch in batches]
    product = HessianProduct(model, parts, loss_fn, batch_statistics=batch_statistics)
    found = linalg.lanczos(
        product,
        product.dim,
        num_steps=num_steps,
        generator=generator,
        restart=True,
        dtype=product.dtype,
        device=product.device,
    )
    order = found.values.abs().argsort(descending=True, stable=True)[:count]
    return TopEigenvalues(found.values[order], found.bounds[order])
