"""C-CHAIN: the loss holds the outputs on data that is not in the batch where they were before the last update."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from replastic.interventions.aim import choose
from replastic.interventions.method import Method, register
from replastic.interventions.reading import Reading
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.probes._trees import tensors
from replastic.probes.first_calls import first_calls
from replastic.probes.quiet import evaluating, undisturbed
from replastic.weights.change import UnitReset

TINY = 1e-8
LOOK = 10
"""Updates between two looks at the sizes of loss and term."""


@register("c_chain", reference="https://arxiv.org/abs/2506.00592")
@dataclass(kw_only=True)
class CChain(Method):
    """Adds strength (f(x) - f_before(x))^2 to the loss: mean over outputs and a reference batch of the phase's data.

    f_before is the network as it was before the last update, so the term is the churn of that update on other data,
    and its gradient takes it back. Both are taken in evaluation mode. The reference batch is a new one at every update:
    of an agent from its replay. The strength is `strength` for the first `after` updates. From then on the term is
    `ratio` times the size of the loss, both as means over `window` updates; with ``ratio=0`` the strength stays.

    Reference: Tang et al. (2025), section 4, and their code for double DQN (ratio 0.01 after 10,000 updates with 50,
    mean over 50,000); the term itself Tang and Berseth (2024), arXiv 2409.04792. Differs: means are exponential, of
    the loss on reference batches at every tenth update; of several networks (`nn.ModuleDict`) the terms add up; the
    term begins anew where weights were replaced.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "batches", "loss"})

    ratio: float = option(
        0.01, help="size of the term as a share of the loss: 0 keeps the strength", low=0, search=(0.1, 0.01, 0.001)
    )
    strength: float = option(50.0, help="weight of the term for the first `after` updates", low=0)
    after: int = option(10_000, help="updates from which on the ratio decides", low=1)
    window: int = option(50_000, help="updates over which sizes are averaged", low=1)

    @property
    def draws(self) -> bool:
        """The reference batches come from the run's seed."""
        return True

    def idle(self) -> frozenset[str]:
        """The options that only the ratio uses."""
        return frozenset() if self.ratio else frozenset({"after", "window"})

    def check(self, run: Run) -> None:
        """See that patterns match, that there is data, and that the loss calls the network.

        Raises:
            UserError: One of them is not so.
        """
        choose("parameters", run)
        assert run.model is not None
        assert run.loss_fn is not None
        with undisturbed(run.model):
            first_calls(run.model, run.loss_fn, Reading(self.name, run.phase).next(run))

    def setup(self, run: Run) -> None:
        """Begin with the weights as they are."""
        self._reading: Reading | None = Reading(self.name, run.phase)
        self._model: nn.Module | None = run.model
        self._chosen = {target.entry.name for target in choose("parameters", run)[0]}
        self._before: dict[str, Tensor] = {}
        self._now = self._copied()
        self._updates = 0
        self._means = torch.zeros(3, dtype=torch.float64)
        """Looks so far, and the means of loss and term; of the first ones plain means."""

    def penalty(self, run: Run) -> Tensor | None:
        """The term, times its weight; None for the first update."""
        assert self._reading is not None
        if not self._before:
            return None
        batch = self._reading.next(run)
        term = self._churn(run, batch)
        if self.ratio and self._updates % LOOK == 0:
            self._look(run, batch, term)
        return self._weight() * term

    def after_step(self, run: Run) -> None:
        """Keep the weights from before this update."""
        self._updates += 1
        if self._now.keys() != dict(self._trained()).keys():
            self._begin_anew()
            return
        if not self._before:
            self._before = {name: value.clone() for name, value in self._now.items()}
        else:
            self._before, self._now = self._now, self._before
        trained = self._trained()
        torch._foreach_copy_([self._now[name] for name, _ in trained], [p.detach() for _, p in trained])

    def after_write(self, run: Run, names: Collection[str], units: Sequence[UnitReset]) -> None:
        """A replacement is no churn: begin with the weights as they are."""
        self._begin_anew()

    def state_dict(self) -> dict[str, Tensor]:
        """Both copies of the weights, the means, and the place in the data."""
        assert self._reading is not None
        copies = {f"now/{name}": value for name, value in self._now.items()}
        copies |= {f"before/{name}": value for name, value in self._before.items()}
        numbers = {"updates": torch.tensor(self._updates), "means": self._means.clone()}
        return {**copies, **numbers, "place": self._reading.state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them."""
        assert self._reading is not None
        like = {name: p.device for name, p in self._trained()}

        def under(prefix: str) -> dict[str, Tensor]:
            found = {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
            return {name: value.to(like.get(name, value.device), copy=True) for name, value in found.items()}

        self._now, self._before = under("now/"), under("before/")
        self._updates, self._means = int(state["updates"]), state["means"].clone()
        self._reading.load(state["place"])

    def close(self) -> None:
        """Let go of the model, its copies and the data."""
        self._model, self._reading = None, None
        self._before, self._now = {}, {}

    def _churn(self, run: Run, batch: Any) -> Tensor:
        """The mean squared change of the outputs on a reference batch, summed over networks."""
        assert run.model is not None
        assert run.loss_fn is not None
        model, total = run.model, torch.zeros(())
        with evaluating(model):
            for name, args, kwargs in first_calls(model, run.loss_fn, batch):
                network, part = model.get_submodule(name), f"{name}." if name else ""
                old = {n.removeprefix(part): v for n, v in self._before.items() if n.startswith(part)}
                with torch.no_grad():
                    before = list(tensors(functional_call(network, old, args, dict(kwargs))))
                left = {n: p.detach() for n, p in network.named_parameters() if f"{part}{n}" not in self._chosen}
                found = functional_call(network, left, args, dict(kwargs)) if left else network(*args, **kwargs)
                for one, other in zip(tensors(found), before, strict=True):
                    if one.requires_grad:
                        total = total.to(one.device) + functional.mse_loss(one, other)
        return total

    @torch.no_grad()
    def _look(self, run: Run, batch: Any, term: Tensor) -> None:
        """Take the sizes of loss and term into their means."""
        assert run.model is not None
        assert run.loss_fn is not None
        with evaluating(run.model):
            loss = run.loss_fn(run.model, batch)
        sizes = run.average(torch.stack([loss.abs().double(), term.detach().double()])).to(self._means)
        self._means[0] += 1.0
        self._means[1:] += (sizes - self._means[1:]) / min(float(self._means[0]), max(1.0, self.window / LOOK))

    def _weight(self) -> float:
        """The strength now."""
        if not self.ratio or self._updates < self.after or not self._means[0]:
            return self.strength
        return self.ratio * float(self._means[1]) / (float(self._means[2]) + TINY)

    def _trained(self) -> list[tuple[str, Tensor]]:
        assert self._model is not None
        return [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]

    def _copied(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self._trained()}

    def _begin_anew(self) -> None:
        self._before, self._now = {}, self._copied()
