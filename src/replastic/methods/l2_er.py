"""L2-ER: weight decay, and now and then a step of its own up the effective rank of the last features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.aim import choose
from replastic.interventions.method import Method, register
from replastic.interventions.parts import working_dtype
from replastic.interventions.penalties import total
from replastic.interventions.reading import Reading
from replastic.interventions.run import Need, Run
from replastic.linalg.rank_gradient import effective_rank_gradient
from replastic.options import option
from replastic.probes.features import last_features
from replastic.probes.quiet import undisturbed
from replastic.weights.change import Change, Proposal
from replastic.weights.entries import LiveStore

LAYERS = 2
"""The last ones, whose features count."""
LEAST = 2
"""Samples: one alone always has the effective rank 1."""


@register("l2_er", reference="https://arxiv.org/abs/2509.22335")
@dataclass(kw_only=True)
class L2Er(Method):
    """Adds decay/2 ||theta||^2 to the loss; every `er_batch` updates theta <- theta + er_lr grad (effective rank).

    The effective rank is the mean over the features of the last two layers, exp(entropy) of their singular values
    divided by the sum, on the samples of `er_batch` batches together. The step is a plain one, past the optimizer and
    its moments. Features are what the last two Linears or convolutions read, in training mode. The rank of n samples
    is at most n: take more samples than the layers have units.

    Reference: He et al. (2025) and their code. Differs: batches are drawn from the phase's data instead of being the
    coming minibatches; the first step comes after `er_batch` updates; running statistics stay; each batch is normalised
    by itself; positions of a map count as samples.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "batches", "loss"})

    decay: float = option(1e-4, help="weight decay in the gradient: 0 is er", low=0, search=(1e-3, 1e-4, 1e-5))
    er_lr: float = option(
        1e-3, help="size of the step up the effective rank: 0 is l2", low=0, search=(1e-2, 1e-3, 1e-4)
    )
    er_batch: int = option(12, help="batches whose samples are taken together, and updates between two steps", low=1)

    @property
    def draws(self) -> bool:
        """The order of the samples comes from the run's seed."""
        return self.er_lr > 0

    def idle(self) -> frozenset[str]:
        """`er_batch`, where no step is taken."""
        return frozenset() if self.er_lr else frozenset({"er_batch"})

    def check(self, run: Run) -> None:
        """See that patterns match and that there are features of enough samples.

        Raises:
            UserError: There are no features, or fewer than two samples.
        """
        choose("parameters", run)
        if not self.er_lr:
            return
        assert run.batches is not None
        assert run.model is not None
        with undisturbed(run.model, training=True):
            batch = next(iter(run.batches()), None)
            if batch is None:
                raise UserError(f"{self.name} needs data of the phase, but batches gave none")
            features = self._features(run, batch)
        if not features:
            raise UserError(f"{self.name} needs features, but no Linear or convolution of this model reads any")
        samples = min(len(f) for f in features) * self.er_batch
        if samples < LEAST:
            raise UserError(
                f"{self.name} needs at least {LEAST} samples for an effective rank, but er_batch={self.er_batch} "
                f"batches have {samples}: raise er_batch or the batch size"
            )

    def setup(self, run: Run) -> None:
        """Look up the parameters."""
        assert isinstance(run.store, LiveStore)
        self._parameters = {t.entry.name: run.store.tensor(t.entry.name) for t in choose("parameters", run)[0]}
        self._reading: Reading | None = Reading(self.name, run.phase)

    def penalty(self, run: Run) -> Tensor | None:
        """Half the squared norm of the weights, times `decay`."""
        if not self.decay:
            return None
        return total([p.square().sum() for p in self._parameters.values()], 0.5 * self.decay)

    def after_step(self, run: Run) -> Change | None:
        """The step up the effective rank, when it is time."""
        if not self.er_lr or run.step % self.er_batch:
            return None
        gradients = self._ascent(run)
        return Change(
            [
                Proposal(name, p.detach().to(working_dtype(p)) + self.er_lr * run.average(gradients[name]))
                for name, p in self._parameters.items()
                if name in gradients
            ]
        )

    def state_dict(self) -> dict[str, Tensor]:
        """The phase, the passes over its data so far, and the batches taken from the one under way."""
        assert self._reading is not None
        return {"place": self._reading.state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from that batch."""
        assert self._reading is not None
        self._reading.load(state["place"])

    def close(self) -> None:
        """Let go of the parameters and of the data."""
        self._parameters = {}
        self._reading = None

    def _ascent(self, run: Run) -> dict[str, Tensor]:
        """Gradient of the mean effective rank, by name of the parameters that it depends on."""
        assert run.model is not None
        assert self._reading is not None
        with undisturbed(run.model, training=True), torch.enable_grad():
            passes = [self._features(run, self._reading.next(run)) for _ in range(self.er_batch)]
            layers = [torch.cat(parts) for parts in zip(*passes, strict=True)]
            slopes = [effective_rank_gradient(features)[1] / len(layers) for features in layers]
            found = torch.autograd.grad(layers, list(self._parameters.values()), slopes, allow_unused=True)
        return {
            name: gradient.to(working_dtype(gradient))
            for name, gradient in zip(self._parameters, found, strict=True)
            if gradient is not None
        }

    def _features(self, run: Run, batch: Any) -> list[Tensor]:
        assert run.loss_fn is not None
        assert run.model is not None
        loss_fn, model = run.loss_fn, run.model
        with torch.enable_grad():
            return last_features(lambda: loss_fn(model, batch), LAYERS)
