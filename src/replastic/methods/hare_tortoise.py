"""Hare and Tortoise: a slow average follows the training network, which is put back to it now and then."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.aim import choose
from replastic.interventions.method import Method, register
from replastic.interventions.parts import working_dtype
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.change import Change, Proposal, UnitReset
from replastic.weights.entries import LiveStore

_PLACE = "phase and updates in it"
"""Of the state; no tensor of a network has such a name."""


@register("hare_tortoise", reference="https://arxiv.org/abs/2406.02596")
@dataclass(kw_only=True)
class HareTortoise(Method):
    """Keeps a slow average of the weights, and puts the training network back to it every `epochs` passes.

    The network that trains is the hare h, its average the tortoise: t <- momentum t + (1 - momentum) h after every
    update. The average covers trainable parameters and the running statistics that belong to them. It begins at the
    weights of the moment when the method is turned on, and goes on over boundaries. Where another part of a combination
    puts new weights in place of the old, at a boundary or for units that are reset, it begins anew at these. The
    optimizer keeps its moments.

    The hare is put back after the first pass over the data of each phase, and then after every `epochs` more (passes 1,
    11, 21, ...). With `every` above 0 it is put back every so many updates of the run instead.

    Scores are those of the network that trains, the hare, as for every other method. It equals the tortoise right after
    a reset only.

    Reference: Lee et al. (2024), section 4; momentum .999, passes and averaged running statistics as in their code.
    Differs from it: after a reset their two networks share memory until the next update, so that their average goes on
    from the weights after that update; here it goes on from the reset.
    """

    takes_shards: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    momentum: float = option(
        0.999, help="share of the old average that each update keeps", low=0, below=1, search=(0.99, 0.999)
    )
    epochs: int = option(
        10,
        help="passes over a phase's data between two resets of the network to its average; the first comes after one",
        low=1,
        search=(5, 10, 20),
    )
    every: int = option(0, help="updates of the run between two resets; 0 counts passes (epochs)", low=0)

    def idle(self) -> frozenset[str]:
        """`epochs`, where updates are counted."""
        return frozenset({"epochs"} if self.every else ())

    def check(self, run: Run) -> None:
        """See that the patterns match, and that there is a time for resets."""
        if not (self.every or run.pass_steps):
            raise UserError(
                f"{self.name}: nobody says how many updates a pass over the data takes; give every=<updates>"
            )
        choose("state", run)

    def setup(self, run: Run) -> None:
        """Begin the average at the weights as they are."""
        assert isinstance(run.store, LiveStore)
        store = run.store
        entries = [t.entry for t in choose("state", run)[0] if t.entry.dtype.is_floating_point]
        self._known = {name: e.name for e in entries for name in (e.name, *e.aliases)}
        self._hare = {e.name: store.tensor(e.name) for e in entries}
        self._buffers = frozenset(name for name, tensor in self._hare.items() if not tensor.requires_grad)
        self._tortoise = {
            name: tensor.detach().to(working_dtype(tensor), copy=True) for name, tensor in self._hare.items()
        }
        self._place = run.phase, 0

    @torch.no_grad()
    def after_step(self, run: Run) -> Change | None:
        """Move the average; when it is time propose it."""
        for name, slow in self._tortoise.items():
            fast = self._hare[name].to(slow.dtype)
            slow.lerp_(run.average(fast) if name in self._buffers else fast, 1 - self.momentum)
        phase, done = self._place
        self._place = run.phase, done + 1 if phase == run.phase else 1
        if not self._is_time(run):
            return None
        return Change(proposals=[Proposal(name, slow) for name, slow in self._tortoise.items()])

    @torch.no_grad()
    def after_write(self, run: Run, names: Collection[str], units: Sequence[UnitReset]) -> None:
        """Begin anew at what was written."""
        for name in (self._known[n] for n in names if n in self._known):
            self._tortoise[name].copy_(self._hare[name])
        for unit in (u for u in units if u.name in self._known):
            slow, fast = (tensors[self._known[unit.name]] for tensors in (self._tortoise, self._hare))
            index = unit.index.to(slow.device)
            slow.index_copy_(unit.dim, index, fast.index_select(unit.dim, index).to(slow.dtype))

    def state_dict(self) -> dict[str, Tensor]:
        """The tortoise, the phase, and the updates made in it."""
        return {**self._tortoise, _PLACE: torch.tensor(self._place)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore it, on the devices of the parameters."""
        self._tortoise = {name: state[name].to(slow, copy=True) for name, slow in self._tortoise.items()}
        phase, done = state[_PLACE].tolist()
        self._place = phase, done

    def close(self) -> None:
        """Let go of the model."""
        self._hare, self._tortoise = {}, {}

    def _is_time(self, run: Run) -> bool:
        if self.every:
            return run.step % self.every == 0
        passes, rest = divmod(self._place[1], max(1, run.pass_steps))
        return rest == 0 and passes % self.epochs == 1 % self.epochs
