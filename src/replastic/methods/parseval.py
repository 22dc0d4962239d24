"""Parseval regularisation: training is pulled, at every step, toward weights with orthonormal rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.aim import check_targets, choose
from replastic.interventions.method import Method, register
from replastic.interventions.penalties import total
from replastic.interventions.regularised import KERNELS, KERNELS_HELP, REGULARISED_HELP, Matrices, regularised
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.entries import LiveStore, MatrixInfo

WIDTH = 64
"""Of the networks that Chung et al. tuned the strength for."""


@register("parseval", reference="https://arxiv.org/abs/2412.07224")
@dataclass(kw_only=True)
class Parseval(Method):
    """Adds strength ||W W^T - s I||_F^2 to the loss for every hidden matrix, and ||g^2 - s||^2 for norms.

    The kernel of a convolution counts as one matrix, C_out x (C_in kh kw), one per group; with ``kernels=taps`` each
    tap is one. Where d_out > d_in the term cannot reach 0.

    Reference: Chung et al. (2024), section 3, of which FIRE (Han et al., 2026) has a variant of its own. The defaults
    are FIRE's (s = 1, a term for norms, strengths 1e-5 to 1e-3), but for the head: Chung et al. leave it alone, FIRE's
    code takes it (``head=true``). Chung's code is ``s=2,norms=false,per_width=true`` with strengths 1e-3 and 1e-4.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    strength: float = option(1e-3, help="weight of the term (lambda): 0 turns it off", low=0, search=(1e-3, 1e-4, 1e-5))
    s: float = option(
        1.0,
        help="squared length of the rows it pulls toward: 1 in FIRE, 2 (the gain of ReLU, squared) in Chung",
        above=0,
    )
    norms: bool = option(True, help="include the weights of normalisation layers")
    head: bool = option(False, help="include the head's matrix")
    per_width: bool = option(
        False, help="multiply the term of each matrix by (64 / d_out)^2, so that one strength serves all widths"
    )
    targets: str = option("", help=REGULARISED_HELP)
    kernels: str = option("joined", help=KERNELS_HELP, choices=KERNELS)

    def validate(self) -> None:
        """Refuse an empty pattern in `targets`."""
        check_targets(self.name, self.targets)

    def check(self, run: Run) -> None:
        """See that the patterns match."""
        regularised(self.name, self.targets, run, head=self.head)

    def idle(self) -> frozenset[str]:
        """`head`, where `targets` chooses."""
        return frozenset({"head"} if self.targets else ())

    def setup(self, run: Run) -> None:
        """Look up the weights."""
        assert isinstance(run.store, LiveStore)
        targets = regularised(self.name, self.targets, run, head=self.head)
        self._matrices: Iterable[tuple[MatrixInfo, Tensor]] = Matrices(run.store, targets, self.kernels)
        self._gains = []
        if self.norms:
            names = [t.entry.name for t in choose("parameters", run)[0] if t.entry.role == "norm"]
            self._gains = [run.store.tensor(name) for name in names if name.endswith("weight")]

    def penalty(self, run: Run) -> Tensor | None:
        """The sum over all matrices and norm weights, times `strength`."""
        terms = [self._of_matrices(info, rows) for info, rows in self._matrices]
        terms += [(gain.square() - self.s).square().sum() for gain in self._gains]
        return total(terms, self.strength)

    def close(self) -> None:
        """Let go of the parameters."""
        self._matrices, self._gains = (), []

    def _of_matrices(self, info: MatrixInfo, rows: Tensor) -> Tensor:
        identity = torch.eye(info.d_out, dtype=rows.dtype, device=rows.device)
        factor = (WIDTH / info.d_out) ** 2 if self.per_width else 1.0
        return factor * (rows @ rows.mT - self.s * identity).square().sum()
