"""Measures of the Hessian of the loss: the shape they share, and what several of them compute once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from replastic import linalg
from replastic.linalg import SpectralDensity
from replastic.options import Settings, option
from replastic.probes import HessianProduct, hessian_density
from replastic.probes.curvature import PROBES, SAMPLES, STEPS


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


@dataclass(frozen=True, kw_only=True)
class Quadrature(Settings):
    """How the density is estimated; see `probes.hessian_density`."""

    samples: int = option(SAMPLES, help="only so many first samples are used", low=1)
    probes: int = option(PROBES, help="random start vectors", low=1)
    steps: int = option(STEPS, help="Lanczos steps for each", low=1)

    @property
    def gradients(self) -> float:
        """As a Hessian-vector product takes about three; on more samples than are used."""
        return 3.0 * self.probes * self.steps

    @property
    def vectors(self) -> float:
        """Those of the Lanczos iteration."""
        return float(self.steps)


class Densities:
    """Spectral densities of the Hessian of a loss, each computed once for all measures that want it."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        loss_fn: Callable[[nn.Module, Any], Tensor],
        *,
        generator: torch.Generator,
    ) -> None:
        self._given = (model, list(batches), loss_fn)
        self._generator = generator
        self._known: dict[tuple[int, int, int], SpectralDensity] = {}

    def density(self, by: Quadrature) -> SpectralDensity:
        """The density with these settings."""
        wanted = by.samples, by.probes, by.steps
        if wanted not in self._known:
            self._known[wanted] = hessian_density(
                *self._given, generator=self._generator, samples=by.samples, num_probes=by.probes, num_steps=by.steps
            )
        return self._known[wanted]
