"""From a checkpoint: the network goes back to one of the phase just ended, the best or that of an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.earlier import Earlier
from replastic.interventions.method import register
from replastic.interventions.run import Checkpoint, Run
from replastic.options import option

_WORDS = ("best", "last")


@register("from_checkpoint", reference="https://arxiv.org/abs/2602.08040")
@dataclass(kw_only=True)
class FromCheckpoint(Earlier):
    """Takes the network back to a checkpoint of the phase that has just ended; other methods go on from there.

    So a first phase that is trained once serves comparisons from several of its checkpoints:
    ``from_checkpoint:at=best+fire`` beside ``from_checkpoint:at=30000+fire``.

    Reference: FIRE (Han et al., ICLR 2026), section 4.2, whose runs go on from the best checkpoint and from two of a
    network that was trained for longer. The network goes back, the optimizer's state does not: the run's policy decides
    on that for every method alike.
    """

    at: str = option("best", help="best, by the score that the phase aims at; last; or the number of an update")

    def validate(self) -> None:
        """A word or a number."""
        if self.at not in _WORDS and not self.at.isdecimal():
            raise UserError(f"at must be best, last or the number of an update, got {self.at!r}")

    def reference(self, run: Run) -> Mapping[str, Tensor]:
        """The checkpoint's tensors."""
        return self._chosen(run).load()

    def _chosen(self, run: Run) -> Checkpoint:
        kept = self.kept(run)
        if self.at == "last":
            return kept[-1]
        wanted = (c for c in kept if (c.best if self.at == "best" else c.step == int(self.at)))
        found = next(wanted, None)
        if found is None:
            there = ", ".join(str(c.step) for c in kept)
            why = "none is known to be the best" if self.at == "best" else f"there is none after update {self.at}"
            raise UserError(f"from_checkpoint:at={self.at}: {why}; of the phase that has ended there are {there}")
        return found
