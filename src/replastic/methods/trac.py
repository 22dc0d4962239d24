"""TRAC: whatever the optimizer does, the weights stay as far from a reference point as pays off; nothing to tune."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic import linalg
from replastic.errors import UserError
from replastic.interventions.aim import choose
from replastic.interventions.initial import Initial
from replastic.interventions.method import Method, register
from replastic.interventions.parts import working_dtype
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.change import Change, Proposal, UnitReset
from replastic.weights.entries import LiveStore

BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)
"""Discount factors of the tuners; the same for every problem."""
_TUNERS, _REFERENCE, _BEFORE = "tuners", "reference/", "before/"


@register("trac", reference="https://arxiv.org/abs/2405.16642")
@dataclass(kw_only=True)
class Trac(Method):
    """Scales the way from a reference point: theta <- theta_ref + S Delta, Delta the sum of the optimizer's steps.

    S is the sum of one scale for each of six discount factors beta. Each comes from the products h = <g, Delta> of the
    gradient and the way so far: v <- beta^2 v + h^2, sigma <- beta sigma - h, and the scale is ``initial`` times
    erfi(sigma / (sqrt(2 v) + eps)) / erfi(1 / sqrt(2)). So the way is short until gradients say that it leads down, and
    short again when they say that it leads up. The optimizer is that of the run, whichever it is; its own state goes on
    as ever. The gradients are read after its step, so do not clear them before `after_update`.

    Reference: Muppidi, Zhang and Yang (2024), algorithms 1 and 2, with the constants of their code, which also finds
    Delta as (theta - theta_ref) / (S + eps) and takes S as at least 0. In a combination it must come first.
    """

    takes_shards: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "optimizer"})
    scales_updates: ClassVar[bool] = True

    toward: str = option(
        "start",
        help="the reference point: the weights when the method is turned on, or the initial ones",
        choices=("start", "init"),
    )
    initial: float = option(1e-8, help="scale that a tuner begins with", above=0)
    eps: float = option(1e-8, help="keeps divisions by scales and deviations finite", above=0)

    def __post_init__(self) -> None:
        """Nothing is tuned yet."""
        super().__post_init__()
        self._parameters: dict[str, Tensor] = {}

    def required(self) -> frozenset[Need]:
        """`init`, if it is the reference point."""
        return self.needs | {"init"} if self.toward == "init" else self.needs

    def check(self, run: Run) -> None:
        """See that the patterns match, and that every parameter has an initial value if that is the reference."""
        initial = Initial(run.init)
        for target in choose("parameters", run)[0]:
            if self.toward == "init":
                initial.need(target.entry, self.name)

    def setup(self, run: Run) -> None:
        """Remember the reference point; every tuner is at rest."""
        assert isinstance(run.store, LiveStore)
        entries = [target.entry for target in choose("parameters", run)[0]]
        self._parameters = {entry.name: run.store.tensor(entry.name) for entry in entries}
        self._before = {name: p.detach().clone() for name, p in self._parameters.items()}
        initial = Initial(run.init)
        self._reference = {
            entry.name: (
                initial.need(entry, self.name).to(self._before[entry.name])
                if self.toward == "init"
                else self._before[entry.name]
            ).clone()
            for entry in entries
        }
        # Columns: variance, sigma, scale.
        self._tuners = torch.zeros(len(BETAS), 3, dtype=torch.float64)
        self._tuners[:, 1] = 1e-8

    @torch.no_grad()
    def after_step(self, run: Run) -> Change:
        """The weights at the new scale.

        Raises:
            UserError: No parameter has a gradient.
        """
        moved = {name: p for name, p in self._parameters.items() if p.grad is not None}
        if not moved:
            raise UserError(
                f"{self.name} reads the gradients after the optimizer's step, but there are none: clear them before "
                "the backward pass, not between optimizer.step() and after_update()"
            )
        divisor = float(self._tuners[:, 2].sum()) + self.eps
        ways, products = {}, []
        for name, p in moved.items():
            before, after, reference = (
                t.to(p.device, working_dtype(p)) for t in (self._before[name], p, self._reference[name])
            )
            way = (before - reference) / divisor
            assert p.grad is not None
            products.append((p.grad.to(way) * way).sum(dtype=torch.float64).cpu())
            ways[name] = reference, way + (after - before)
        scale = self._tuned(float(torch.stack(products).sum()))
        proposals = []
        for name, (reference, way) in ways.items():
            value = reference + scale * way
            self._before[name] = value.to(self._before[name].dtype)
            proposals.append(Proposal(name, value))
        return Change(proposals=proposals)

    @torch.no_grad()
    def after_write(self, run: Run, names: Collection[str], units: Sequence[UnitReset]) -> None:
        """The next update begins at what was written."""
        for name in {*names, *(unit.name for unit in units)} & self._parameters.keys():
            self._before[name] = self._parameters[name].detach().clone()

    def state_dict(self) -> dict[str, Tensor]:
        """Tuners, reference point, and the weights before the next update."""
        if not self._parameters:
            return {}
        tables = ((_REFERENCE, self._reference), (_BEFORE, self._before))
        kept = {f"{kind}{name}": value.clone() for kind, table in tables for name, value in table.items()}
        return {_TUNERS: self._tuners.clone(), **kept}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them, on the devices of the parameters."""
        if not state:
            return
        self._tuners = state[_TUNERS].clone()
        for kind, table in ((_REFERENCE, self._reference), (_BEFORE, self._before)):
            for name, value in table.items():
                table[name] = state[f"{kind}{name}"].to(value, copy=True)

    def close(self) -> None:
        """Let go of the parameters."""
        self._parameters, self._before, self._reference = {}, {}, {}

    def _tuned(self, product: float) -> float:
        """The new scale, after the tuners have seen the product of gradient and way."""
        norm = self.initial / linalg.erfi(1.0 / math.sqrt(2.0))
        for row, beta in zip(self._tuners, BETAS, strict=True):
            variance = beta**2 * float(row[0]) + product**2
            sigma = beta * float(row[1]) - product
            scale = norm * linalg.erfi(sigma / (math.sqrt(2.0 * variance) + self.eps))
            row.copy_(torch.tensor([variance, sigma, scale], dtype=torch.float64))
        return max(0.0, float(self._tuners[:, 2].sum()))
