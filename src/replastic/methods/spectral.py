"""Spectral regularisation: training is pulled, at every step, toward weights whose largest singular value is 1."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
from replastic.seeds import generator
from replastic.weights.entries import LiveStore, MatrixInfo

WARM_UP = 30
"""Steps of the power iteration before the first update."""


@register("spectral", reference="https://arxiv.org/abs/2406.06811")
@dataclass(kw_only=True)
class Spectral(Method):
    """Adds strength sum (sigma_max(W)^k - 1)^2 to the loss, and strength sum (||b||_2^k)^2 for biases.

    W are all hidden matrices and the head's; the kernel of a convolution counts as one matrix, C_out x (C_in kh kw),
    one per group; with ``kernels=taps`` each tap is one. Biases include those of normalisation layers, whose gain g
    counts as the matrix diag(g): its sigma_max is max |g_i|. The largest singular value comes from power iteration
    whose vectors stay from one update to the next.

    Reference: Lewandowski et al. (2024), section 4, with their k = 2, over all layers. Ours: the gains of normalisation
    layers as diagonal matrices; and ||b||^(2k) for biases, the square of the k-th power's distance from 0 as for the
    other terms, where the survey of Klein et al. (2024) prints ||b||^k.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    strength: float = option(
        1e-3, help="weight of the terms (lambda): 0 turns them off", low=0, search=(1e-2, 1e-3, 1e-4, 1e-5)
    )
    power: int = option(2, help="exponent k on the largest singular value and on the norm of a bias", low=1)
    iterations: int = option(1, help="steps of power iteration per update; 0 computes singular values exactly", low=0)
    others: bool = option(True, help="include biases and the gains of normalisation layers")
    head: bool = option(True, help="include the head's matrix")
    targets: str = option("", help=REGULARISED_HELP)
    kernels: str = option("joined", help=KERNELS_HELP, choices=KERNELS)

    @property
    def draws(self) -> bool:
        """The vectors that power iteration begins with are drawn."""
        return self.iterations > 0

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
        """Look up the weights and begin the power iteration, if there is one."""
        assert isinstance(run.store, LiveStore)
        store = run.store
        targets = regularised(self.name, self.targets, run, head=self.head)
        self._matrices: Iterable[tuple[MatrixInfo, Tensor]] = Matrices(store, targets, self.kernels)
        rest = [t.entry for t in choose("parameters", run)[0]] if self.others else []
        self._biases = [store.tensor(e.name) for e in rest if e.name.endswith("bias")]
        self._gains = [store.tensor(e.name) for e in rest if e.role == "norm" and e.name.endswith("weight")]
        self._vectors: dict[str, Tensor] = {}
        with torch.no_grad():
            for info, rows in self._matrices if self.iterations else ():
                shape = (*rows.shape[:-1], 1)
                start = torch.randn(shape, generator=generator(run.seed, "spectral", info.label)).to(rows)
                self._vectors[info.label] = _iterated(rows, start, WARM_UP)[0]

    def penalty(self, run: Run) -> Tensor | None:
        """The sum over matrices, gains and biases, times `strength`."""
        terms = [self._term(self._sigma(info.label, rows)) for info, rows in self._matrices]
        terms += [self._term(gain.abs().amax()) for gain in self._gains]
        terms += [bias.square().sum() ** self.power for bias in self._biases]
        return total(terms, self.strength)

    def state_dict(self) -> dict[str, Tensor]:
        """The left vectors of the power iteration; none where singular values are exact."""
        return dict(self._vectors)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them, on the devices of the weights."""
        self._vectors = {label: state[label].to(value) for label, value in self._vectors.items()}

    def close(self) -> None:
        """Let go of the parameters."""
        self._matrices, self._biases, self._gains, self._vectors = (), [], [], {}

    def _sigma(self, label: str, rows: Tensor) -> Tensor:
        if not self.iterations:
            exact: Tensor = torch.linalg.matrix_norm(rows, ord=2)
            return exact
        with torch.no_grad():
            left, right = _iterated(rows, self._vectors[label], self.iterations)
            self._vectors[label] = left
        return (left * (rows @ right)).sum((-2, -1))

    def _term(self, sigma: Tensor) -> Tensor:
        return (sigma**self.power - 1).square().sum()


def _iterated(rows: Tensor, left: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Power iteration on (B, m, n) from left vectors (B, m, 1): left and right vectors of length 1, or 0 for W = 0."""
    right = rows.mT @ left
    for _ in range(steps):
        right = torch.nn.functional.normalize(rows.mT @ left, dim=-2)
        left = torch.nn.functional.normalize(rows @ right, dim=-2)
    return left, right
