"""Isometry penalty: the loss pulls the singular values of every chosen matrix toward one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.aim import TARGETS_HELP, aimed_matrices, check_targets
from replastic.interventions.method import Method, register
from replastic.interventions.penalties import total
from replastic.interventions.regularised import KERNELS, KERNELS_HELP, Matrices
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.entries import LiveStore, MatrixInfo


@register("isometry", reference="https://arxiv.org/abs/2606.09762")
@dataclass(kw_only=True)
class Isometry(Method):
    """Adds strength ||G - I||_F^2 to the loss, G the smaller Gram matrix of each matrix: W W^T or W^T W.

    The smaller Gram matrix can always become the identity, unlike the one that `parseval` takes for a tall matrix. The
    taps of kernels and the blocks of fused weights are matrices of their own, as in a rewrite. Adaptive optimizers
    scale the gradient of this term together with that of the task; `optim.AdamO` keeps them apart. With the same
    `targets` and `kernels`, `parseval` and `spectral` act on these very matrices.

    Reference: Rosseau, Mueller and Nowe (2026), the isometry-promoting regulariser.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    strength: float = option(1e-3, help="weight of the term (lambda): 0 turns it off", low=0, search=(1e-2, 1e-3, 1e-4))
    targets: str = option("", help=TARGETS_HELP)
    kernels: str = option("taps", help=KERNELS_HELP, choices=KERNELS)

    def validate(self) -> None:
        """Refuse an empty pattern in `targets`."""
        check_targets(self.name, self.targets)

    def check(self, run: Run) -> None:
        """See that the patterns match."""
        aimed_matrices(self.name, self.targets, run)

    def setup(self, run: Run) -> None:
        """Look up the weights."""
        assert isinstance(run.store, LiveStore)
        self._matrices: Iterable[tuple[MatrixInfo, Tensor]] = Matrices(
            run.store, aimed_matrices(self.name, self.targets, run), self.kernels
        )

    def penalty(self, run: Run) -> Tensor | None:
        """The sum over all matrices, times `strength`."""
        return total([_deviation(part) for _, part in self._matrices], self.strength)

    def close(self) -> None:
        """Let go of the parameters."""
        self._matrices = ()


def _deviation(w: Tensor) -> Tensor:
    """||G - I||_F^2 of the smaller Gram matrix, summed over the batch."""
    gram = w @ w.mT if w.shape[-2] <= w.shape[-1] else w.mT @ w
    return (gram - torch.eye(gram.shape[-1], dtype=w.dtype, device=w.device)).square().sum()
