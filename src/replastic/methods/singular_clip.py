"""SingularClip: now and then, the singular values of every chosen matrix are clamped to a band."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from replastic import linalg
from replastic.errors import UserError
from replastic.interventions.aim import TARGETS_HELP, aimed, check_targets
from replastic.interventions.method import Solution, WeightMethod, register
from replastic.interventions.plan import plan
from replastic.interventions.run import Need, Run
from replastic.interventions.solve import propose
from replastic.options import option
from replastic.weights.change import Change
from replastic.weights.entries import MatrixInfo


@register("singular_clip", reference="https://arxiv.org/abs/2608.18319")
@dataclass(kw_only=True)
class SingularClip(WeightMethod):
    """Clamps the singular values of each matrix to [low, high] times a scale: W = U S V^T becomes U clamp(S) V^T.

    It acts at every boundary and, with `every`, after every so many updates as well. The scale says what the band is
    relative to. With ``unit`` the ends of the band are the singular values themselves, whatever the matrix. The other
    scales are those of fire: ``preserve`` is the root mean square of the matrix's own singular values, ``init`` that at
    initialisation, ``modular`` sqrt(d_out / d_in) / taps. A matrix that lies in the band stays to the bit. The taps of
    kernels and the blocks of fused weights are matrices of their own, as in every rewrite, and the head is taken too. A
    direction in which a matrix is zero is filled as fire fills it.

    Reference: Kastner, De La Vega and Farahmand (2026), whose abstract says that the singular values of all weight
    matrices are clipped periodically. Only the abstract was at hand. So the band of [1/4, 4], the scales, the taps and
    the clip at boundaries are ours.
    """

    batched: ClassVar[bool] = True

    low: float = option(
        0.25, help="lower end of the band, as a multiple of the scale: 0 leaves small values", low=0, search=(0.25, 0.5)
    )
    high: float = option(4.0, help="upper end of the band, as a multiple of the scale", above=0, search=(2.0, 4.0))
    scale: str = option(
        "unit",
        help="what the band is relative to: 1 (unit), the matrix's own root mean square singular value (preserve), "
        "that at initialisation (init), sqrt(d_out / d_in) / taps (modular)",
        choices=("unit", "preserve", "init", "modular"),
    )
    every: int = option(0, help="updates of the run between two clips; 0 clips at boundaries alone", low=0)
    head: bool = option(True, help="take the output layer's matrix, too")
    targets: str = option("", help=TARGETS_HELP)

    def validate(self) -> None:
        """Refuse a band that is upside down, and an empty pattern in `targets`."""
        check_targets(self.name, self.targets)
        if self.low > self.high:
            raise UserError(f"{self.name}: low must be at most high, got low={self.low} and high={self.high}")

    def required(self) -> frozenset[Need]:
        """`init`, if the scale is that of the initial weights."""
        return frozenset({"init"} if self.scale == "init" else ())

    def idle(self) -> frozenset[str]:
        """`head`, where `targets` chooses."""
        return frozenset({"head"} if self.targets else ())

    def narrowed(self, run: Run) -> Run:
        """The run with `targets` as its weights, or with the output layer among them unless the caller names targets.

        Raises:
            UserError: Both name targets.
        """
        run = aimed(self.name, self.targets, run)
        there = any(entry.role == "head" for entry in run.store.entries())
        if not self.head or not there or run.target_modules is not None:
            return run
        return replace(run, include=tuple(dict.fromkeys((*run.include, "head"))))

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Solution:
        """The clamped matrices; reports the scale, and the mean number of values raised and lowered in a matrix."""
        isometry = torch.eye(*w.shape[-2:], dtype=w.dtype, device=w.device).expand_as(w)
        scale = linalg.scale_factor(self.scale, w, isometry, taps=info.taps, w0=w0)
        found = linalg.clamp_singular_values(w, self.low * scale, self.high * scale)
        return Solution(
            found.weight, {"scale": scale, "raised": found.raised.double(), "lowered": found.lowered.double()}
        )

    def after_step(self, run: Run) -> Change | None:
        """Clip when it is time; weights for which a recipe's rule names another method wait for the boundary."""
        if not self.every or run.step % self.every:
            return None
        planned = plan(self, run)
        mine = tuple(job for job in planned.jobs if type(job.method) is type(self))
        return Change(proposals=propose(replace(planned, jobs=mine), run).proposals)
