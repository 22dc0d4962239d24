"""Batch norm re-estimation (control): the statistics are measured anew on the coming data, the weights stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from replastic.errors import UserError
from replastic.interventions.aim import choose
from replastic.interventions.method import Method, register
from replastic.interventions.run import Need, Run
from replastic.probes import undisturbed
from replastic.seeds import derive
from replastic.weights.change import Change, Proposal, Skipped
from replastic.weights.entries import LiveStore


@register("bn_reestimate")
@dataclass(kw_only=True)
class BnReestimate(Method):
    """Replaces the running statistics of batch normalisation by those of one pass over the coming phase's data.

    The pass is that of `torch.optim.swa_utils.update_bn`: in training mode, without a trace of the old statistics, and
    with the same weight for every batch. Batches of a single sample have no variance and are left out. With
    ``fire+bn_reestimate`` the pass is made with the projected weights. A network without running statistics is left as
    it is, and the outcome says so. Ours, as a control.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model", "batches"})

    def check(self, run: Run) -> None:
        """See that the patterns match."""
        choose("state", run)

    def on_boundary(self, run: Run) -> Change:
        """The new statistics.

        Raises:
            UserError: There is no batch of two samples or more.
        """
        assert run.model is not None
        assert run.batches is not None
        assert isinstance(run.store, LiveStore)
        layers = [m for m in run.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        statistics = {id(b) for m in layers for b in m.buffers(recurse=False)}
        chosen, skipped = choose("state", run)
        store = run.store
        names = [t.entry.name for t in chosen if id(store.tensor(t.entry.name)) in statistics]
        if not names:
            why = "the network has no running statistics that may be touched: nothing to re-estimate"
            return Change(skipped=(*skipped, Skipped("batch normalisation", why)))
        momenta = [m.momentum for m in layers]
        seed = derive(run.seed, "bn_reestimate", run.phase)
        with undisturbed(run.model, training=None, seed=seed), torch.no_grad():
            try:
                update_bn(_inputs(run.batches()), run.model)
            finally:
                for layer, momentum in zip(layers, momenta, strict=True):
                    layer.momentum = momentum
            found = {name: run.store.read(name).clone() for name in names}
        counts = [value for value in found.values() if not value.is_floating_point()]
        if not all(counts):
            raise UserError(f"{self.name} needs data of the coming phase, but batches gave none of two samples or more")
        means = {n: run.average(v) if v.is_floating_point() else v for n, v in found.items()}
        return Change(proposals=[Proposal(n, v) for n, v in means.items()], skipped=skipped)


def _inputs(batches: Iterable[Any]) -> Iterator[torch.Tensor]:
    for batch in batches:
        inputs = batch[0] if isinstance(batch, list | tuple) else batch
        if len(inputs) > 1:
            yield inputs
