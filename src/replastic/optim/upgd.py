"""UPGD: gradient descent that protects useful weights and perturbs the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

RANGES: dict[str, tuple[float, float]] = {
    "lr": (0.0, math.inf),
    "sigma": (0.0, math.inf),
    "beta": (0.0, 1.0),
    "weight_decay": (0.0, math.inf),
}
"""Least value of each number, and the value that it must stay below."""


class UPGD(Optimizer):
    r"""Utility-based perturbed gradient descent, of first order, weight by weight, with global normalisation.

    The utility of a weight is how much the loss would grow without it, to first order, as a running mean that is
    corrected for its start:

        u <- beta u - (1 - beta) g w,   u_hat = u / (1 - beta^t),   s = sigmoid(u_hat / max u_hat)

    The largest value is taken over all parameters of the optimizer. With noise z of deviation sigma:

        w <- (1 - lr weight_decay) w - lr (g + z) (1 - s)      protecting (the default)
        w <- (1 - lr weight_decay) w - lr (g + z (1 - s))      otherwise

    Where no utility is above zero, s is 1/2 for all. A parameter without a gradient stays.

    Noise comes from `generator` alone, on the CPU, so that it is the same on every device. Its state is not in
    `state_dict`: to go on to the bit, save `generator.get_state()` as well.

    Reference: Elsayed and Mahmood (2024), arXiv 2404.00781, algorithm 1. Their code differs: the largest value is that
    of u, not of u_hat, and the README doubles the step.

    Args:
        params: Parameters or groups of them; each group may have its own of the numbers below.
        lr: Step size.
        sigma: Standard deviation of the noise that is added to the gradient.
        beta: Decay rate of the utilities.
        weight_decay: Decoupled weight decay.
        protect: Whether a useful weight takes smaller steps, and not less noise alone.
        generator: Of the noise, on the CPU; None makes one with seed 0.

    Raises:
        ValueError: A number is out of its range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-2,
        *,
        sigma: float = 1e-3,
        beta: float = 0.999,
        weight_decay: float = 1e-3,
        protect: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        self.generator = torch.Generator().manual_seed(0) if generator is None else generator
        defaults = {"lr": lr, "sigma": sigma, "beta": beta, "weight_decay": weight_decay, "protect": protect}
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_drawn": self.generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "_drawn" in state:
            self.generator = torch.Generator().set_state(state.pop("_drawn"))
        super().__setstate__(state)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters. Settings that the group does not name are those of the constructor.

        Raises:
            ValueError: The optimizer has one of them already, or a number is out of its range; nothing was added.
        """
        for name, (low, below) in RANGES.items():
            value = param_group.get(name, self.defaults[name])
            if not low <= value < below:
                limit = f"at least {low:g}" if below == math.inf else f"at least {low:g} and below {below:g}"
                raise ValueError(f"{name} must be {limit}, got {value}")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient.

        Args:
            closure: Computes the loss and its gradients again, as for any optimizer of torch.

        Returns:
            The result of the closure, computed before the update; None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        useful = [self._utility(p, group["beta"]) for group, p in moved]
        largest = _largest(useful)
        for (group, p), utility in zip(moved, useful, strict=True):
            noise = torch.randn(p.shape, generator=self.generator, dtype=torch.float32).to(p).mul_(group["sigma"])
            top = largest.to(utility)
            free = 1 - torch.where(top > 0, utility / top, 0).sigmoid_()
            step = (p.grad + noise).mul_(free) if group["protect"] else noise.mul_(free).add_(p.grad)
            p.mul_(1 - group["lr"] * group["weight_decay"]).add_(step, alpha=-group["lr"])
        return loss

    def _utility(self, parameter: Tensor, beta: float) -> Tensor:
        """The corrected running mean of the utilities, after one update of it."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["step"], state["utility"] = torch.zeros(()), torch.zeros_like(parameter)
        state["step"] += 1
        state["utility"].mul_(beta).addcmul_(parameter.grad, parameter, value=beta - 1)
        corrected: Tensor = state["utility"] / (1 - beta ** float(state["step"]))
        return corrected


def _largest(values: list[Tensor]) -> Tensor:
    """The largest number in any of them, on the device of the first."""
    tops = [value.max() for value in values if value.numel()]
    widest = reduce(torch.promote_types, (top.dtype for top in tops), torch.float32)
    return torch.stack([top.to(tops[0].device, widest) for top in tops]).max() if tops else torch.zeros(())
