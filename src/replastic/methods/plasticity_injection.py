"""Plasticity injection: a new classifier learns, while frozen copies keep the network's outputs what they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.interventions.aim import choose
from replastic.interventions.draws import drawn
from replastic.interventions.injected import Classifier, find_classifiers
from replastic.interventions.method import Method, register
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.change import Change, Proposal


@register("plasticity_injection", reference="https://arxiv.org/abs/2305.15555")
@dataclass(kw_only=True)
class PlasticityInjection(Method):
    """The classifier becomes new(x) + old(x) - fresh(x): old and fresh are frozen, new begins as fresh and is trained.

    Outputs are the same right after the injection, up to rounding. The encoder below is shared and trained on, through
    all three. At every further boundary another frozen pair is added. Parameters keep their names and identity; the
    frozen copies are ``head.old.0...`` and ``head.fresh.0...``, in evaluation mode always, and measures of features
    see their units, too. The fresh weights are a new draw at every boundary. Of several networks, such as an actor and
    critics, and of several heads each has a classifier of its own.

    The classifier is the last Linear and up to `hidden` hidden layers right before it. Beware: with the last Linear
    alone (``hidden=0``, or a network such as a transformer whose classifier is one layer) the sum of the three is just
    as expressive, and has the same gradients, as the Linear before: only the optimizer's state tells them apart.

    Reference: Nikishin et al. (2023), section 4, where the classifier is the value head and there is one injection.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "fresh"})
    changes_structure: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    hidden: int = option(
        1, help="most hidden layers before the last Linear that belong to the classifier, each an nn.Sequential", low=0
    )

    def check(self, run: Run) -> None:
        """See that there is a classifier whose weights may be touched."""
        chosen = {target.entry.name for target in choose("parameters", run)[0]}
        for classifier in self._find(run):
            for name, _ in classifier.parameters():
                if name not in chosen:
                    raise UserError(f"{self.name} puts new weights into the classifier, but {name} is to be left alone")

    def setup(self, run: Run) -> None:
        """Look up the classifiers."""
        self._classifiers = self._find(run)
        self._wanted = 0

    def on_boundary(self, run: Run) -> Change:
        """A frozen pair more, and fresh weights for what is trained."""
        draw, proposals, modules = drawn(run), list[Proposal](), dict[str, nn.Module]()
        for classifier in self._classifiers:
            fresh = {name: self._of(draw, name).to(value) for name, value in classifier.state().items()}
            pair = (classifier.copy(classifier.state()), classifier.copy(fresh))
            proposals += [Proposal(name, value) for name, value in fresh.items()]
            modules |= classifier.with_pairs([*classifier.pairs(), pair])
        return Change(proposals=proposals, modules=modules)

    def state_dict(self) -> dict[str, Tensor]:
        """The number of pairs; their weights are saved with the model."""
        return {"pairs": torch.tensor(len(self._classifiers[0].pairs()))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Note how many pairs there are to be."""
        self._wanted = int(state["pairs"])

    def rebuild(self, run: Run) -> Change | None:
        """As many pairs as there were, with any weights: the saved ones come next."""
        if not self._wanted:
            return None
        modules = dict[str, nn.Module]()
        for classifier in self._classifiers:
            some = classifier.state()
            pairs = [(classifier.copy(some), classifier.copy(some)) for _ in range(self._wanted)]
            modules |= classifier.with_pairs(pairs)
        return Change(modules=modules)

    def close(self) -> None:
        """Let go of the model."""
        self.__dict__.pop("_classifiers", None)

    def _find(self, run: Run) -> list[Classifier]:
        assert isinstance(run.model, nn.Module)
        heads = [entry.name.removesuffix(".weight") for entry in run.store.entries() if entry.role == "head"]
        found = find_classifiers(run.model, self.hidden, heads)
        if not found:
            raise UserError(f"{self.name} needs a network that ends with an nn.Linear, but this one has none")
        return found

    def _of(self, draw: Mapping[str, Tensor], name: str) -> Tensor:
        if name not in draw:
            raise UserError(f"{self.name} needs a new draw of {name}, which fresh(seed) does not give")
        return draw[name]
