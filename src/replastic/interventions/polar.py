"""Scaled polar factors from settings: computed here alone, for fire and for the controls that are matched to it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple

from torch import Tensor

from replastic import linalg
from replastic.interventions.aim import TARGETS_HELP, aimed, check_targets
from replastic.interventions.method import Method, WeightMethod
from replastic.interventions.normalised import normalised_share
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.entries import MatrixInfo

AUTO: Final = "auto"
"""The scale that the network decides: see `PolarMethod.fitted`."""
NORMALISED_SCALE: Final = "modular"
FREE_SCALE: Final = "preserve"
SOLVER_OPTIONS = ("num_iters", "coefficients", "tol", "max_iters", "polish", "complete")


class Written(NamedTuple):
    """The matrices that fire writes in place of a batch, and the facts about them."""

    weight: Tensor
    """(batch, d_out, d_in): the factor times `scale`."""
    scale: Tensor
    """(batch,)."""
    facts: dict[str, Any]
    """Solver, iterations, residual, alignment, scale."""


@dataclass(kw_only=True)
class PolarSettings(Method):
    """The settings of fire, for methods that do as it does or are matched to it."""

    solver: str = option("exact", help="how the polar factor is computed", choices=tuple(linalg.SOLVERS))
    num_iters: int = option(
        10, help="newton_schulz: number of steps (the paper uses 10 for vision, 5 for language)", low=1
    )
    coefficients: str = option(
        "cubic", help="newton_schulz: polynomial of Algorithm 1 or of Appendix A.2", choices=("cubic", "quintic")
    )
    tol: float = option(1e-8, help="iterative: largest residual accepted", above=0)
    max_iters: int = option(20, help="iterative: most steps allowed", low=1)
    polish: int = option(0, help="fast: further steps in float32", low=0)
    complete: bool = option(True, help="exact, iterative, svd: fill up the directions that a weight of low rank lacks")
    scale: str = option(
        "modular",
        help="factor on the orthonormal matrix: the paper's (modular), or as the network decides (auto), or others",
        choices=(*linalg.SCALES, AUTO),
    )
    on_zero: str = option(
        "error",
        help="an all-zero matrix: raise an error, leave it as it is (skip), or put an arbitrary isometry (complete)",
        choices=("error", "skip", "complete"),
    )
    targets: str = option(
        "",
        help=f"{TARGETS_HELP}; the options that a recipe's rule sets for one of these still hold",
    )

    def validate(self) -> None:
        """Refuse an empty pattern in `targets`."""
        check_targets(self.name, self.targets)

    def required(self) -> frozenset[Need]:
        """`init`, if the scale is that of the initial weights; model, data and loss, if their place decides it."""
        further: Mapping[str, frozenset[Need]] = {
            "init": frozenset({"init"}),
            AUTO: frozenset({"model", "batches", "loss"}),
        }
        return self.needs | further.get(self.scale, frozenset())

    def idle(self) -> frozenset[str]:
        """Options of other solvers."""
        return frozenset(SOLVER_OPTIONS) - self._accepted()

    def _accepted(self) -> frozenset[str]:
        return frozenset(inspect.signature(linalg.SOLVERS[self.solver]).parameters) & frozenset(SOLVER_OPTIONS)


@dataclass(kw_only=True)
class PolarMethod(PolarSettings, WeightMethod):
    """Base of fire and of the controls that are matched to it: its settings, and the matrices it would write."""

    batched: ClassVar[bool] = True

    def narrowed(self, run: Run) -> Run:
        """The run with `targets` as the weights to touch, if there are any.

        Raises:
            UserError: The run names its targets already.
        """
        return aimed(self.name, self.targets, run)

    def fitted(self, run: Run) -> WeightMethod:
        """Decided by the network (ours): modular if most weights lie before normalisation layers, else preserve.

        Before a normalisation layer the scale has no effect on the function: it sets how far an update turns the
        weight, and the paper's small norms turn it far. Elsewhere the scale is a part of what was learnt.
        """
        if self.scale != AUTO:
            return self
        fitted = copy.copy(self)
        share = normalised_share(f"{self.name} with scale={AUTO}", run)
        fitted.scale = NORMALISED_SCALE if share > 0.5 else FREE_SCALE
        return fitted

    def written(self, w: Tensor, info: MatrixInfo, w0: Tensor | None) -> Written:
        """The matrices that fire would write in place of `w` (batch, d_out, d_in).

        Raises:
            MatrixError: A matrix is all zero, with ``on_zero="error"``, or not finite.
        """
        options = {name: getattr(self, name) for name in sorted(self._accepted())}
        result = linalg.polar(w, self.solver, on_zero=self.on_zero, **options)
        scale = linalg.scale_factor(self.scale, w, result.factor, taps=info.taps, w0=w0)
        weight = result.factor.mul_(scale.to(result.factor)[:, None, None])
        facts = {
            "solver": result.solver,
            "iterations": result.iterations,
            "residual": result.residual,
            "alignment": result.alignment,
            "scale": scale,
        }
        if result.products:
            facts["products"] = result.products
        return Written(weight, scale, facts)
