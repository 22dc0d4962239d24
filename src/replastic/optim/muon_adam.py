"""Muon for matrices and kernels, Adam for the rest, behind the interface of one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Muon, Optimizer

_MUON = "muon"
"""Key of a parameter group: whether it is Muon's."""


class MuonAdam(Optimizer):
    """`torch.optim.Muon` and `torch.optim.Adam` as one: groups of both, each with its own ``lr``, and one state.

    Muon takes matrices alone: tensors of more axes go in as (first axis, the rest), as views that share memory. State
    is kept by the parameters themselves and in their shapes, so that whoever drops, saves or clears it need not know.
    There is no weight decay.

    Args:
        matrices: Parameters of two axes or more, for Muon.
        others: Any other parameters, for Adam.
        lr: Muon's learning rate. As in `torch.optim.Muon` a matrix of d_out > d_in rows takes steps
            sqrt(d_out / d_in) times as large.
        momentum: Muon's momentum, in Nesterov's form.
        adam_lr: Adam's learning rate.
        betas: Adam's.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        others: Sequence[Tensor],
        *,
        lr: float = 1e-2,
        momentum: float = 0.95,
        adam_lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        self._muon = Muon([torch.zeros(1, 1)], lr=lr, momentum=momentum, weight_decay=0.0, nesterov=True)
        self._adam = Adam([torch.zeros(1)], lr=adam_lr, betas=betas, fused=True)
        groups: list[dict[str, Any]] = [
            {**inner.param_groups[0], "params": list(parameters), _MUON: inner is self._muon}
            for inner, parameters in ((self._adam, others), (self._muon, matrices))
            if parameters
        ]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon.state.clear()
        self._muon.param_groups = [self._as_matrices(g) for g in self.param_groups if g[_MUON]]
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adam.state = self.state
        self._adam.param_groups = [g for g in self.param_groups if not g[_MUON]]
        self._adam.step()
        return loss

    def _as_matrices(self, group: dict[str, Any]) -> dict[str, Any]:
        """The group with views for parameters; gradients and momenta are views, too."""
        views = []
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            order = _memory_order(parameter)
            view = _matrix(parameter.detach(), order)
            view.grad = parameter.grad.permute(order).flatten(1)
            self._muon.state[view] = {"momentum_buffer": _matrix(state["momentum_buffer"], order)}
            views.append(view)
        return {**group, "params": views}


def _memory_order(tensor: Tensor) -> list[int]:
    """The first axis, then the others from the slowest to the fastest: flattened so, channels-last kernels are views.

    Muon treats all columns alike, so their order changes nothing but rounding.
    """
    strides = tensor.stride()
    return [0, *sorted(range(1, tensor.dim()), key=lambda axis: -strides[axis])]


def _matrix(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """A view (first axis, the rest)."""
    moved = tensor.permute(*order)
    return moved.view(moved.shape[0], -1)
