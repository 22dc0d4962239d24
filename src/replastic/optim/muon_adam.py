"""Muon for matrices and kernels, Adam for the rest, with the interface of one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from replastic.errors import UserError

_MUON = "muon"
"""Key of a parameter group: True if Muon updates it, False if Adam does."""


class MuonAdam(Optimizer):
    """`torch.optim.Muon` and `torch.optim.Adam` as one: groups of both, each with its own ``lr``, and one state.

    Muon takes matrices alone. A tensor of more axes is given to it as (first axis, the rest), a view that shares
    memory. The state is stored under the parameters themselves and in their shapes, so it can be dropped, saved and
    cleared like that of any optimizer: ``momentum_buffer`` for Muon's parameters, ``step``, ``exp_avg`` and
    ``exp_avg_sq`` for Adam's. The key ``muon`` of a parameter group says which of the two updates it. There is no
    weight decay.

    Args:
        matrices: Parameters of two axes or more, for Muon.
        others: Any other parameters, for Adam.
        lr: Muon's learning rate. As in `torch.optim.Muon`, steps of a matrix with d_out > d_in are sqrt(d_out / d_in)
            times as large.
        momentum: Muon's momentum, in Nesterov's form.
        adam_lr: Adam's learning rate.
        betas: Adam's decay rates.

    Raises:
        ValueError: A number is out of its range, no parameter is given, or a parameter is given twice.
        UserError: Muon is given a parameter of fewer than two axes, or torch is older than 2.9.
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
        self._options: dict[str, Any] = {"lr": lr, "momentum": momentum, "adam_lr": adam_lr, "betas": betas}
        self._make_inner()
        groups = [{"params": list(others), _MUON: False}, {"params": list(matrices), _MUON: True}]
        super().__init__([group for group in groups if group["params"]], {})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make_inner()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters. Settings that the group does not name are those of the constructor.

        Args:
            param_group: ``params``, and ``muon=True`` for parameters that Muon updates; otherwise Adam does.

        Raises:
            ValueError: The optimizer has one of the parameters already.
            UserError: Muon is given a parameter of fewer than two axes; nothing was added.
        """
        is_muon = param_group.get(_MUON, False)
        super().add_param_group({**(self._muon if is_muon else self._adam).defaults, _MUON: is_muon, **param_group})
        flat = [tuple(p.shape) for p in self.param_groups[-1]["params"] if is_muon and p.dim() < 2]
        if flat:
            self.param_groups.pop()
            raise UserError(f"Muon takes parameters of two axes or more, got one of shape {flat[0]}; give it to Adam")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient.

        Args:
            closure: Computes the loss and its gradients again, as for any optimizer of torch.

        Returns:
            The result of the closure, computed before the update; None without a closure.

        Raises:
            RuntimeError: A gradient is sparse, or one of Muon's parameters is complex.
        """
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

    def _make_inner(self) -> None:
        """Make the two optimizers that do the work. From update to update they keep nothing but their defaults."""
        try:
            from torch.optim import Muon
        except ImportError:
            raise UserError(f"muon needs torch 2.9 or newer, this is {torch.__version__}") from None
        made_with = self._options
        self._muon = Muon(
            [torch.zeros(1, 1)],
            lr=made_with["lr"],
            momentum=made_with["momentum"],
            weight_decay=0.0,
            nesterov=True,
        )
        self._adam = Adam([torch.zeros(1)], lr=made_with["adam_lr"], betas=made_with["betas"], fused=True)

    def _as_matrices(self, group: dict[str, Any]) -> dict[str, Any]:
        """The group with matrix views in place of its parameters, gradients and momenta."""
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
    """The first axis, then the others from the slowest to the fastest in memory.

    Flattened in this order, a channels-last kernel is a view. Muon treats all columns alike, so their order changes
    nothing but rounding.
    """
    strides = tensor.stride()
    return [0, *sorted(range(1, tensor.dim()), key=lambda axis: -strides[axis])]


def _matrix(tensor: Tensor, order: Sequence[int]) -> Tensor:
    """A view of shape (first axis, the rest), with the axes in the given order."""
    moved = tensor.permute(*order)
    return moved.view(moved.shape[0], -1)
