"""Hare and Tortoise: a slow average follows the training network, which is put back to it now and then."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.aim import choose
from replastic.interventions.method import Method, register
from replastic.interventions.parts import working_dtype
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.change import Change, Proposal, UnitReset
from replastic.weights.entries import LiveStore


@register("hare_tortoise", reference="https://arxiv.org/abs/2406.02596")
@dataclass(kw_only=True)
class HareTortoise(Method):
    """Keeps a slow average of the weights, and puts the training network back to it every `every` updates.

    The network that trains is the hare h, its average the tortoise: t <- momentum t + (1 - momentum) h after every
    update. The average covers trainable parameters and the running statistics that belong to them. It begins at the
    weights of the moment when the method is turned on, and goes on over boundaries. Where another part of a combination
    puts new weights in place of the old, at a boundary or for units that are reset, it begins anew at these. The
    optimizer keeps its moments.

    Scores are those of the network that trains, the hare, as for every other method. It equals the tortoise right after
    a reset only.

    Reference: Lee et al. (2024), section 4. The values of `momentum` and `every` are ours, and so is the treatment of
    running statistics.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    momentum: float = option(
        0.999, help="share of the old average that each update keeps", low=0, below=1, search=(0.99, 0.999)
    )
    every: int = option(
        1000, help="updates between two resets of the network to its average", low=1, search=(500, 1000, 2000)
    )

    def check(self, run: Run) -> None:
        """See that the patterns match."""
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

    @torch.no_grad()
    def after_step(self, run: Run) -> Change | None:
        """Move the average; every `every` updates propose it."""
        for name, slow in self._tortoise.items():
            fast = self._hare[name].to(slow.dtype)
            slow.lerp_(run.average(fast) if name in self._buffers else fast, 1 - self.momentum)
        if run.step % self.every:
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
        """The tortoise."""
        return dict(self._tortoise)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore it, on the devices of the parameters."""
        self._tortoise = {name: state[name].to(slow, copy=True) for name, slow in self._tortoise.items()}

    def close(self) -> None:
        """Let go of the model."""
        self._hare, self._tortoise = {}, {}
