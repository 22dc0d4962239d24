"""Weight clipping: after every update no entry of a layer is larger than a multiple of its initialisation bound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from replastic.errors import UserError
from replastic.interventions.aim import check_targets, choose
from replastic.interventions.initial import Initial
from replastic.interventions.method import Method, register
from replastic.interventions.regularised import REGULARISED_HELP, regularised
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.weights.change import Change, Proposal
from replastic.weights.entries import LiveStore, WeightEntry


@register("weight_clipping", reference="https://arxiv.org/abs/2407.01704")
@dataclass(kw_only=True)
class WeightClipping(Method):
    """Clips every entry of weights and biases to [-kappa s, kappa s], s the layer's initialisation bound.

    The bound s is 1 / sqrt(fan_in), that of the uniform draw by which torch makes a Linear or a convolution, and their
    biases. With ``bound=init`` it is the largest absolute value that the tensor had at initialisation, for layers that
    were drawn in another way. Clipped are all hidden matrices and kernels, the head and the biases of these layers,
    whatever the recipe rewrites at boundaries; normalisation layers and embeddings are left alone.

    Reference: Elsayed, Lan, Lyle and Mahmood (2024), algorithm 1, with kappa and bounds as in their code. Differs from
    the code: it clips the gains and offsets of norms as well, by the bound of the layer before. ``bound=init`` is ours.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    kappa: float = option(1.0, help="multiple of the bound that is allowed", above=0, search=(1.0, 2.0, 3.0, 5.0))
    bound: str = option(
        "fan_in",
        help="1 / sqrt(fan_in) of the layer, or the largest |value| of the tensor at initialisation",
        choices=("fan_in", "init"),
    )
    head: bool = option(True, help="include the head")
    targets: str = option("", help=REGULARISED_HELP)

    def validate(self) -> None:
        """Refuse an empty pattern in `targets`."""
        check_targets(self.name, self.targets)

    def required(self) -> frozenset[Need]:
        """`init`, if it gives the bounds."""
        return self.needs | {"init"} if self.bound == "init" else self.needs

    def idle(self) -> frozenset[str]:
        """`head`, where `targets` chooses."""
        return frozenset({"head"} if self.targets else ())

    def check(self, run: Run) -> None:
        """See that the patterns match, and that every clipped tensor has a bound above 0."""
        self._limits_of(run)

    def setup(self, run: Run) -> None:
        """Look up the weights and their bounds."""
        assert isinstance(run.store, LiveStore)
        self._limits = {name: (run.store.tensor(name), limit) for name, limit in self._limits_of(run).items()}

    @torch.no_grad()
    def after_step(self, run: Run) -> Change | None:
        """The tensors in which an entry is too large, clipped."""
        large = torch.stack([weight.abs().amax().double().cpu() for weight, _ in self._limits.values()]).tolist()
        proposals = [
            Proposal(name, weight.clamp(-limit, limit))
            for largest, (name, (weight, limit)) in zip(large, self._limits.items(), strict=True)
            if largest > limit
        ]
        return Change(proposals=proposals) if proposals else None

    def close(self) -> None:
        """Let go of the parameters."""
        self._limits = {}

    def _limits_of(self, run: Run) -> dict[str, float]:
        """The largest |value| allowed, by the names of the clipped tensors."""
        targets = [t for t in regularised(self.name, self.targets, run, head=self.head) if t.infos]
        fan_in = {t.entry.name: t.infos[0].d_in * t.infos[0].taps for t in targets}
        biases = {t.entry.name: t.entry for t in choose("parameters", run)[0] if t.entry.role == "bias"}
        layers = {name.rpartition(".")[0]: name for name in fan_in}
        paired = {name: layers[name.rpartition(".")[0]] for name in biases if name.rpartition(".")[0] in layers}
        entries = {t.entry.name: t.entry for t in targets} | {name: biases[name] for name in paired}
        if self.bound == "fan_in":
            return {name: self.kappa / math.sqrt(fan_in[paired.get(name, name)]) for name in entries}
        initial = Initial(run.init)
        return {name: self.kappa * self._largest(initial, entry) for name, entry in entries.items()}

    def _largest(self, initial: Initial, entry: WeightEntry) -> float:
        largest = float(initial.need(entry, self.name).abs().amax())
        if not largest:
            raise UserError(
                f"{self.name}: {entry.name} was all zero at initialisation, so bound=init would keep it there; take "
                "bound=fan_in, or leave it out with exclude_modules"
            )
        return largest
