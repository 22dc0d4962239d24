"""The kernel and the Jacobians that measures share, of the samples that a run can afford at the start of each task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from replastic.options import Settings, option
from replastic.probes import JacobianSpectrum, Ntk, NtkKind, jacobian_spectrum, ntk


@dataclass(frozen=True, kw_only=True)
class KernelOptions(Settings):
    """Which kernel; see `probes.ntk`."""

    kind: NtkKind = option("full", help="of pairs (sample, output), or of samples: mean over outputs, or their sum")
    samples: int = option(64, help="only so many first samples are used", low=1)
    entries: int = option(1024, help="fewer samples where samples times outputs would exceed this", low=1)
    memory_gb: float = option(2.0, help="limit on the memory of the computation", above=0)


@dataclass(frozen=True, kw_only=True)
class JacobianOptions(Settings):
    """Of which samples; see `probes.jacobian_spectrum`."""

    samples: int = option(64, help="only so many first samples are used", low=1)
    memory_gb: float = option(2.0, help="limit on the memory of the Jacobians of a block of samples", above=0)


class Outputs:
    """Kernels and Jacobians of the outputs on the first batch, each computed once for all measures that want it."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        loss_fn: Callable[[nn.Module, Any], Tensor],
        *,
        generator: torch.Generator,
    ) -> None:
        self._given = model, next(iter(batches)), loss_fn
        self._kernels: dict[Any, Ntk] = {}
        self._jacobians: dict[Any, JacobianSpectrum] = {}

    def kernel(self, by: KernelOptions) -> Ntk:
        """The kernel with these options."""
        wanted = {"kind": by.kind, "samples": by.samples, "entries": by.entries, "memory_gb": by.memory_gb}
        known = tuple(wanted.values())
        if known not in self._kernels:
            self._kernels[known] = ntk(*self._given, **wanted)  # type: ignore[arg-type]
        return self._kernels[known]

    def jacobian(self, by: JacobianOptions) -> JacobianSpectrum:
        """The Jacobians with these options."""
        known = by.samples, by.memory_gb
        if known not in self._jacobians:
            self._jacobians[known] = jacobian_spectrum(*self._given, samples=by.samples, memory_gb=by.memory_gb)
        return self._jacobians[known]
