"""Classes that arrive a few at a time, with outputs for all of them from the start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from replastic.data import Dataset, Splits
from replastic.errors import UserError
from replastic.options import option
from replastic.seeds import generator
from replastic.streams._growing import Growing, scores, shuffled
from replastic.streams._stream import register


@register("class_incremental", reference="https://arxiv.org/abs/2602.08040")
@dataclass(frozen=True, kw_only=True)
class ClassIncremental(Growing):
    """Each phase brings the same number of new classes; scored on the classes seen so far, and on all (``all``).

    No output is masked: the network may answer with a class it has not seen. The FIRE paper (section 4.1) does not say
    in which order its 20 phases bring the classes; here the seed draws it.
    """

    phases: int = option(20, help="number of phases; a divisor of the number of classes", low=1)
    epochs: int = option(100, help="passes over its data in each phase", low=1)

    def __len__(self) -> int:
        """`phases`."""
        return self.phases

    def lasts(self, index: int) -> int:
        """`epochs` in every phase."""
        return self.epochs

    def new_classes(self, classes: int, seed: int) -> tuple[Tensor, ...]:
        """The classes that each phase brings, (classes / phases,) each.

        Raises:
            UserError: The classes cannot be shared out equally; the divisors are named.
        """
        if classes % self.phases:
            divisors = ", ".join(str(d) for d in range(1, classes + 1) if classes % d == 0)
            raise UserError(f"phases must divide the {classes} classes, got {self.phases}; use one of: {divisors}")
        return torch.randperm(classes, generator=generator(seed, "classes")).chunk(self.phases)

    def parts(self, train: Dataset, seed: int) -> tuple[Tensor, ...]:
        """The images of each phase's new classes, in random order."""
        order = shuffled(train, "class_incremental", seed=seed)
        targets = train.targets.cpu()[order]
        return tuple(order[torch.isin(targets, new)] for new in self.new_classes(train.classes, seed))

    def scored(self, splits: Splits, index: int, seed: int) -> Mapping[str, Dataset]:
        """Test and held-out images of the classes seen so far, and the whole test split."""
        seen = torch.cat(self.new_classes(splits.train.classes, seed)[: index + 1])
        test, held_out = (
            part.take(torch.nonzero(torch.isin(part.targets.cpu(), seen)).flatten())
            for part in (splits.test, splits.held_out)
        )
        return {**scores(test, held_out), "all": splits.test}
