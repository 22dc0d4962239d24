"""PSGD with Kronecker-factored preconditioners ("Kron"), behind torch's interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from replastic.errors import UserError
from replastic.seeds import derive

_LARGEST_STEP = 1.1
"""Root mean square of an update, at most, in units of the learning rate."""
_BALANCE = 100
"""Preconditioner updates between two that give both factors of a matrix the same size."""

_COUNTERS = ("step", "waiting", "updates")


class PsgdKron(Optimizer):
    """Preconditioned SGD: the update of a matrix is P_l M P_r, M the mean gradient and P = Q^T Q its preconditioners.

    Both Q are triangular and learned on the way, so that the update becomes white: Q <- Q - rate triu(A - B) Q /
    ||A + B||, with A from the mean gradient and B from a random matrix V, both as Q sees them. A side longer than
    `largest` has a diagonal Q, and so have vectors. Kernels are matrices (first axis, the rest).

    The preconditioners are updated at every step at first, and ever more rarely from step 500 to about 4000, then at
    one step in 33. V depends on `seed` and on the number of the step alone: nothing is drawn from a global generator,
    and a run that is taken up again from its state dict goes on as if it had not stopped.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate. An update has a root mean square of about 1 before it.
        momentum: Decay of the mean gradient, corrected for its start as Adam's.
        precond_lr: Rate of the preconditioners.
        weight_decay: Decoupled, for tensors of two axes or more.
        largest: Longest side with a triangular Q, which has largest^2 entries.
        seed: Of V.

    Raises:
        ValueError: A number is out of its range.

    Reference: Li (2018), Preconditioned stochastic gradient descent, arXiv 1512.04202; Pooladzandi and Li (2024), arXiv
    2402.04553. Settings and the lower bound for ||A + B|| as in kron-torch 0.3.3, with which it agrees where that
    damps a copy of the mean gradient. Ours: both factors are balanced at every 100th of their updates, not at random,
    and kernels are always (first axis, the rest).
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float = 3e-4,
        momentum: float = 0.9,
        precond_lr: float = 0.1,
        weight_decay: float = 0.0,
        largest: int = 8192,
        seed: int = 0,
    ) -> None:
        for name, value, good in (
            ("lr", lr, lr >= 0),
            ("momentum", momentum, 0 <= momentum < 1),
            ("precond_lr", precond_lr, precond_lr >= 0),
            ("weight_decay", weight_decay, weight_decay >= 0),
            ("largest", largest, largest >= 0),
        ):
            if not (good and math.isfinite(value)):
                raise ValueError(f"{name} is out of its range: {value}")
        settings = {"lr": lr, "momentum": momentum, "precond_lr": precond_lr, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "largest": largest, "seed": seed})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; see `torch.optim.Optimizer.step`.

        Raises:
            UserError: A gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group_number, group in enumerate(self.param_groups):
            for number, p in enumerate(group["params"]):
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    raise UserError("PsgdKron takes no sparse gradients; make the embedding with sparse=False")
                update = self._update(p, group, (group_number, number)).view_as(p)
                if p.dim() > 1 and group["weight_decay"]:
                    update = update.add(p, alpha=group["weight_decay"])
                p.add_(update.to(p.dtype), alpha=-group["lr"])
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a state, with factors and momenta in the precision they had."""
        super().load_state_dict(state_dict)
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, p in zip(numbers, parameters, strict=True):
            saved = state_dict["state"].get(number)
            if saved:
                self.state[p] = {
                    key: value.to("cpu" if value.dim() == 0 and key in _COUNTERS else p.device, copy=True)
                    for key, value in saved.items()
                }

    def _update(self, p: Tensor, group: dict[str, Any], place: tuple[int, int]) -> Tensor:
        state = self.state[p]
        if not state:
            self._begin(p, group["largest"])
        state["step"] += 1
        assert p.grad is not None
        state["momentum_buffer"].lerp_(p.grad.to(state["momentum_buffer"]), 1 - group["momentum"])
        step = int(state["step"])
        mean = _matrix(state["momentum_buffer"] / (1 - group["momentum"] ** step))
        sides = factors(state)
        state["waiting"] += 1
        if float(state["waiting"]) >= 1 / update_share(step - 1):
            state["waiting"].zero_()
            state["updates"] += 1
            draw = torch.Generator(device=p.device).manual_seed(derive(group["seed"], step, *place))
            v = torch.empty_like(mean).normal_(generator=draw)
            if int(state["updates"]) % _BALANCE == 0:
                _balance_(sides)
            _learn_(sides, mean, v, group["precond_lr"])
        white = _apply(sides[-1], (_apply(sides[0], mean) if len(sides) > 1 else mean).mT).mT
        return white * (_LARGEST_STEP / white.square().mean().sqrt().add(1e-12)).clamp(max=1.0)

    def _begin(self, p: Tensor, largest: int) -> None:
        dtype = torch.float64 if p.dtype == torch.float64 else torch.float32
        state = self.state[p]
        for counter in _COUNTERS:
            state[counter] = torch.zeros((), dtype=torch.float32)
        state["momentum_buffer"] = torch.zeros_like(p, dtype=dtype, memory_format=torch.contiguous_format)
        sizes = _matrix(state["momentum_buffer"]).shape[-max(1, min(2, p.dim())) :]
        for name, size in zip(("right", "left"), reversed(sizes), strict=False):
            whole = p.dim() > 1 and 1 < size <= largest
            q = torch.eye(size, dtype=dtype, device=p.device) if whole else torch.ones(size, 1).to(p.device, dtype)
            state[name] = q[..., None, None, None, None]


def factors(state: dict[str, Any]) -> list[Tensor]:
    """The left factor and the right one, or for a vector the right one alone: (n, n), or (n,) where diagonal.

    They share memory with the state, where they have six axes: whoever clears rows of moments goes by the shapes of
    tensors, and a factor of a square weight would look like the weight.
    """
    stored = [state[name] for name in ("left", "right") if name in state]
    return [q.flatten(1) if q.shape[0] == q.shape[1] > 1 else q.flatten() for q in stored]


def update_share(step: int) -> float:
    """The share of steps at which preconditioners are updated, after so many steps: 1 until 500, then down to .03."""
    return min(1.0, max(0.03, math.exp(-0.001 * (step - 500))))


def _matrix(t: Tensor) -> Tensor:
    """A tensor as one matrix: a vector is a row."""
    return t.reshape(1, -1) if t.dim() < 2 else t.flatten(1)


def _apply(q: Tensor, m: Tensor) -> Tensor:
    """Q^T Q M; a vector is the diagonal of Q."""
    return q.square().unsqueeze(1) * m if q.dim() == 1 else q.mT @ (q @ m)


def _learn_(sides: list[Tensor], mean: Tensor, v: Tensor, rate: float) -> None:
    """Update the factors from the mean gradient (m, n) and a random matrix of its shape, in place.

    `sides` are the left and the right one, or the right one alone.
    """
    seen, noise = mean + torch.finfo(torch.float32).eps ** 0.5 * mean.abs().mean() * v, v
    if len(sides) > 1:
        seen, noise = _times(sides[0], seen), _inverse_times(sides[0], noise)
    seen, noise = _times(sides[-1], seen.mT).mT, _inverse_times(sides[-1], noise.mT).mT
    views = [(seen, noise), (seen.mT, noise.mT)][-len(sides) :]
    grams = [_gram(q, view) for q, (view, _) in zip(sides, views, strict=True)]
    others = [_gram(q, view) for q, (_, view) in zip(sides, views, strict=True)]
    tiny = torch.finfo(mean.dtype).tiny
    for q, gram, other in zip(sides, grams, others, strict=True):
        if q.dim() == 1:
            q.sub_(rate * (gram - other) / (gram + other).abs().amax().clamp(min=tiny) * q)
        else:
            q.sub_(rate * torch.triu(gram - other) @ q / _norm(gram + other).clamp(min=tiny))


def _times(q: Tensor, m: Tensor) -> Tensor:
    return q.unsqueeze(1) * m if q.dim() == 1 else q @ m


def _inverse_times(q: Tensor, m: Tensor) -> Tensor:
    """Q^-T M."""
    return m / q.unsqueeze(1) if q.dim() == 1 else torch.linalg.solve_triangular(q.mT, m, upper=False)


def _gram(q: Tensor, m: Tensor) -> Tensor:
    """M M^T, or its diagonal where Q is diagonal."""
    return m.square().sum(1) if q.dim() == 1 else m @ m.mT


def _norm(a: Tensor) -> Tensor:
    """A lower bound for the largest singular value of a symmetric matrix, from its longest column."""
    peak = a.abs().amax()
    scaled = a / torch.where(peak > 0, peak, 1.0)
    column = scaled[:, scaled.square().sum(0).argmax()]
    column = column @ scaled
    column = column / torch.linalg.vector_norm(column).clamp(min=torch.finfo(a.dtype).tiny)
    bound: Tensor = torch.linalg.vector_norm(scaled @ column) * peak
    return bound


def _balance_(sides: list[Tensor]) -> None:
    """Give both factors the same largest entry; their product stays."""
    peaks = torch.stack([q.abs().amax() for q in sides])
    common = peaks.log().mean().exp()
    for q, peak in zip(sides, peaks, strict=True):
        q.mul_(common / peak)
