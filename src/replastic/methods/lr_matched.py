"""Matched learning rate (control): rates rise as much as fire's norms would raise them; the weights stay."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.optim import ASGD, SGD, Adagrad, Adam, Adamax, AdamW, NAdam, Optimizer, RAdam, RMSprop

from replastic.errors import UserError
from replastic.interventions.method import register
from replastic.interventions.normalised import is_normalised, normalised_names
from replastic.interventions.parts import working_dtype
from replastic.interventions.plan import Job, Plan, plan
from replastic.interventions.polar import PolarMethod, PolarSettings
from replastic.interventions.run import Need, Run
from replastic.interventions.solve import propose
from replastic.interventions.spec import build
from replastic.methods.fire import Fire
from replastic.optim import MuonAdam
from replastic.options import option
from replastic.weights.change import Change, Proposal, Skipped, UnitReset

_POWERS: dict[type[Optimizer], int] = {
    **dict.fromkeys((SGD, ASGD), 2),
    **dict.fromkeys((Adam, AdamW, NAdam, RAdam, Adamax, Adagrad, RMSprop, MuonAdam), 1),
}
"""By the class of the optimizer: how the effective learning rate falls with the norm of a normalised weight."""
_FACTOR, _BEFORE = "factor/", "before/"


@register("lr_matched")
@dataclass(kw_only=True)
class LrMatched(PolarSettings):
    """Trains on as if fire had changed the scale of each normalised weight: the learning rate of that weight is raised.

    The scale of a weight before a normalisation layer changes nothing but how far a step turns it. A step of Adam has
    one length whatever the gradient's, so it turns a weight W by about lr / ||W||; a step of SGD is proportional to a
    gradient that grows as W shrinks, and turns it by about lr / ||W||^2. Where fire would bring ||W|| to s ||W||, the
    learning rate of W is multiplied by 1/s here (Adam and its relatives) or by 1/s^2 (SGD), as `exponent` says. It goes
    down where fire would make a weight larger. Each boundary finds new factors.

    The weights are those that fire would rewrite (with these options and the run's recipe) and whose output goes into
    a normalisation layer and nowhere else. Their updates are multiplied by the factor, after the optimizer's step: that
    is a higher learning rate under every schedule, decoupled weight decay included. Clipping by the norm of the
    gradient is not matched: fire's smaller weights have larger gradients. A network without such weights is trained
    as by `base`. A note in the outcome says by how much the rates change.

    Ours, as a control. With Adam and without clipping the run is that of `rescale` applied to these weights alone, as
    whole tensors; for effective learning rates see Lyle et al. (2024), section 3.
    """

    takes_shards: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model", "batches", "loss", "optimizer"})
    scales_updates: ClassVar[bool] = True

    exponent: int = option(
        0,
        help="power of the norm by which a rate is raised: 1 for Adam, 2 for SGD, 0 as the optimizer is",
        low=0,
        high=2,
    )

    def __post_init__(self) -> None:
        """No rate is raised yet."""
        super().__post_init__()
        self._factors: dict[str, float] = {}
        self._before: dict[str, Tensor] = {}

    def check(self, run: Run) -> None:
        """See that patterns match, that the model runs on the data, and that the optimizer is known."""
        self._jobs(run)
        self._power(run)

    def on_boundary(self, run: Run) -> Change:
        """Find the factors; nothing is rewritten."""
        planned, jobs = self._jobs(run)
        power, factors = self._power(run), {}
        for proposal in propose(replace(planned, jobs=tuple(jobs)), run).proposals:
            old, new = (
                float(torch.linalg.vector_norm(w, dtype=torch.float64))
                for w in (run.store.read(proposal.name), proposal.value)
            )
            if old > 0 and new > 0:
                factors[proposal.name] = (old / new) ** power
        self._factors = factors
        self._before = {name: run.store.read(name).clone() for name in factors}
        why = "its scale matters, as no normalisation layer alone reads what it gives"
        chosen = {job.entry.name for job in jobs}
        others = [Skipped(job.entry.name, why) for job in planned.jobs if job.entry.name not in chosen]
        return Change(skipped=(*planned.skipped, *others), notes=(_in_words(factors),))

    @torch.no_grad()
    def after_step(self, run: Run) -> Change | None:
        """The weights where a step with the raised rates would have brought them."""
        if not self._factors:
            return None
        proposals = []
        for name, factor in self._factors.items():
            stored = run.store.read(name)
            before, after = (w.to(stored.device, working_dtype(stored)) for w in (self._before[name], stored))
            value = torch.lerp(before, after, factor)
            self._before[name] = value.to(stored.dtype)
            proposals.append(Proposal(name, value))
        return Change(proposals=proposals)

    def after_write(self, run: Run, names: Collection[str], units: Sequence[UnitReset]) -> None:
        """The next update begins at what was written."""
        for name in {*names, *(unit.name for unit in units)} & self._before.keys():
            self._before[name] = run.store.read(name).clone()

    def state_dict(self) -> dict[str, Tensor]:
        """The factors, and the weights before the next update."""
        factors = {f"{_FACTOR}{n}": torch.tensor(f, dtype=torch.float64) for n, f in self._factors.items()}
        return {**factors, **{f"{_BEFORE}{name}": value.clone() for name, value in self._before.items()}}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them."""
        named = {key.removeprefix(_FACTOR): float(value) for key, value in state.items() if key.startswith(_FACTOR)}
        self._factors = named
        self._before = {name: state[f"{_BEFORE}{name}"].clone() for name in named}

    def close(self) -> None:
        """Every rate is as it was."""
        self._factors, self._before = {}, {}

    def _jobs(self, run: Run) -> tuple[Plan, list[Job]]:
        """The plan of fire, and what of it are normalised weights."""
        given = {f.name: getattr(self, f.name) for f in fields(PolarSettings) if f.name in self.explicit}
        planned = plan(build(Fire, given), run)
        found = normalised_names(self.name, run)
        kept = [job for job in planned.jobs if is_normalised(job.entry, found) and isinstance(job.method, PolarMethod)]
        return planned, kept

    def _power(self, run: Run) -> int:
        assert run.optimizer is not None
        kind = type(run.optimizer)
        if not self.exponent and kind not in _POWERS:
            raise UserError(
                f"{self.name} does not know how the steps of {kind.__name__} depend on the gradient: give exponent=1 "
                "(as for Adam: their length does not) or exponent=2 (as for SGD: they are proportional to it)"
            )
        return self.exponent or _POWERS[kind]


def _in_words(factors: Mapping[str, float]) -> str:
    """The factors on the learning rates, the least and the largest with their weights."""
    if not factors:
        return "no learning rate is changed: no weight goes into a normalisation layer and nowhere else"
    least, most = (chosen(factors, key=lambda name: factors[name]) for chosen in (min, max))
    if len(factors) == 1:
        return f"learning rate x {factors[least]:.3g} on 1 weight ({least})"
    ends = f"{factors[least]:.3g} ({least}) to {factors[most]:.3g} ({most})"
    return f"learning rates x {ends} on {len(factors)} weights"
