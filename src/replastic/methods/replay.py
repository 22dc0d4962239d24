"""Replay of old data: batches of all phases after the first hold a share of the first phase's data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.interventions.method import Method, register
from replastic.interventions.run import Need, Run
from replastic.options import option


@register("replay", reference="https://arxiv.org/abs/2403.08763")
@dataclass(kw_only=True)
class Replay(Method):
    """Mixes a share of the first phase's data into the batches of all phases after it.

    The batches stay as large as they were, so that the new data get what is left. Which samples are replayed depends on
    the run's seed and on their place in the stream alone: a resumed run goes on at the exact one. Combines with any
    method: ``fire+replay:share=0.1``. Learners that keep their old data can do it, as the language learner does; in a
    loop of your own mix old data into your batches.

    Reference: Ibrahim et al. (2024), who replay 5% where the new data are like the old ones and 25% where they are not.
    """

    takes_shards: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"replay"})

    share: float = option(
        0.1, help="share of old data in each phase after the first", above=0, below=1, search=(0.01, 0.05, 0.1, 0.25)
    )

    def setup(self, run: Run) -> None:
        """Ask the learner for it."""
        assert run.replay is not None
        run.replay(self.share)
