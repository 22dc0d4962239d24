"""SAM: the gradient of every update is taken where the loss is highest nearby."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.interventions.aim import choose
from replastic.interventions.method import Method, register
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.probes.quiet import probing
from replastic.weights.entries import LiveStore


@register("sam", reference="https://arxiv.org/abs/2010.01412")
@dataclass(kw_only=True)
class Sam(Method):
    """Sharpness-aware minimisation: steps by the gradient at theta + rho g / ||g||, g the gradient at theta.

    The loss of every update is computed twice, penalties included, so an update takes about twice as long. The norm is
    that of all parameters of an optimizer together, over the whole batch: of all micro-batches and processes. Between
    the two passes weights move and come back to the bit. Running statistics are those of the first pass. Excluded
    weights are not perturbed. The optimizer is the run's.

    In a loop of your own the loss must be given as a function: see `Attached.backward`.

    Reference: Foret et al. (2021), algorithm 1 with p = 2; rho .05 is their default. Differs: they take the norm on
    each accelerator by itself.
    """

    takes_shards: ClassVar[bool] = True
    needs: ClassVar[frozenset[Need]] = frozenset({"model"})

    rho: float = option(
        0.05, help="distance to the weights at which the gradient is taken", above=0, search=(0.02, 0.05, 0.1)
    )

    def check(self, run: Run) -> None:
        """See that the patterns match."""
        choose("parameters", run)

    def setup(self, run: Run) -> None:
        """Look up the parameters."""
        assert isinstance(run.store, LiveStore)
        self._moved = frozenset(id(run.store.tensor(t.entry.name)) for t in choose("parameters", run)[0])

    def backward(self, run: Run, parameters: Sequence[Tensor], closure: Callable[[], Tensor]) -> Tensor:
        """The gradients at the perturbed weights; those at the weights themselves where they are zero or not finite."""
        assert run.model is not None
        loss = closure()
        moved = [p for p in parameters if p.grad is not None and id(p) in self._moved]
        slopes = [p.grad for p in moved if p.grad is not None]
        norm = _norm(slopes)
        if not 0 < norm < torch.inf:
            return loss
        kept = [value.detach().clone() for value in (*moved, *run.model.buffers())]
        try:
            with torch.no_grad():
                torch._foreach_add_(moved, torch._foreach_mul(slopes, self.rho / norm))
            with probing(run.model):
                closure()
        finally:
            with torch.no_grad():
                for value, old in zip((*moved, *run.model.buffers()), kept, strict=True):
                    value.copy_(old)
        return loss


def _norm(gradients: Sequence[Tensor]) -> float:
    """The norm of all of them together, in float32 or wider; 0 of none."""
    norms = [
        torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients if g.numel()
    ]
    home = norms[0] if norms else None
    return 0.0 if home is None else float(torch.linalg.vector_norm(torch.stack([n.to(home) for n in norms])))
