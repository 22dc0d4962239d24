"""Optimization readiness: how much one step of stochastic gradient descent can gain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.probes.samples import count_samples, drawn
from replastic.probes.slope import mean_gradient, square

DRAWS = 64
SIZE = 4


@dataclass(frozen=True)
class Readiness:
    """Loss L, squared norm |g|^2 of its gradient, and mean squared norm E|g_B|^2 of the gradients of minibatches.

    Reference: Wang et al. (2026), arXiv 2605.09044, after a public implementation of its equations; the paper itself
    was out of reach.
    """

    loss: float
    gradient: float
    """|g|^2, of all samples."""
    minibatch: float
    """E|g_B|^2, over minibatches; never less than |g|^2 but for chance."""

    @property
    def strength(self) -> float:
        """|g|^2 / L: gradient beside what is left to gain. 0 where the loss is 0."""
        return self.gradient / self.loss if self.loss > 0 else 0.0

    @property
    def reliability(self) -> float:
        """|g|^2 / E|g_B|^2: 1 where all minibatches agree, near 0 where they cancel out. 0 without a gradient."""
        return self.gradient / self.minibatch if self.minibatch > 0 else 0.0

    @property
    def value(self) -> float:
        """Strength times reliability."""
        return self.strength * self.reliability

    def step(self, smoothness: float) -> float:
        """The learning rate at which `gain` is reached: reliability / smoothness."""
        return self.reliability / _positive(smoothness)

    def gain(self, smoothness: float) -> float:
        """Lower bound on the expected share of the loss that one step removes: value / (2 smoothness).

        It holds for one step of stochastic gradient descent with the learning rate `step`, if the loss is smooth: its
        gradient changes by no more than `smoothness` times the distance. From E L(w - lr g_B) <= L - lr |g|^2 +
        lr^2 smoothness E|g_B|^2 / 2, at the best lr. It tells nothing of Adam's steps.
        """
        return self.value / (2 * _positive(smoothness))


def optimization_readiness(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
    draws: int = DRAWS,
    size: int = SIZE,
) -> Readiness:
    """Strength and reliability of the gradient on the samples of a batch.

    Minibatches are drawn from the batch, each without replacement. Batch normalisation uses its running statistics and
    dropout is off, so that the mean over minibatches is the loss of the batch.

    Cost: one training step on the batch, and `draws` on minibatches.

    Args:
        model: The model; left as it is.
        batch: The argument of `loss_fn`: tensors whose first axis counts samples.
        loss_fn: Mean loss of the model on a batch, not negative.
        generator: Source of the minibatches; on the CPU.
        draws: Number of minibatches. The paper's experiments use 128, of 4 samples.
        size: Samples of a minibatch.

    Raises:
        UserError: The batch holds fewer than two minibatches; no trainable parameter; a loss that is negative or not
            one finite number; `draws` or `size` is less than 1.
    """
    if draws < 1 or size < 1:
        raise UserError(f"draws and size must be at least 1, got {draws} and {size}")
    samples = count_samples(batch)
    if samples < 2 * size:
        raise UserError(
            f"optimization readiness compares minibatches of {size} samples, so the batch must hold at least "
            f"{2 * size}, got {samples}"
        )
    loss, whole = mean_gradient(model, [batch], loss_fn, batch_statistics=False)
    if loss < 0:
        raise UserError(f"optimization readiness needs a loss that cannot be negative, got {loss}")
    squares = []
    for _ in range(draws):
        _, part = mean_gradient(model, [drawn(batch, size, generator)], loss_fn, batch_statistics=False)
        squares.append(_total(part))
    return Readiness(loss, _total(whole), sum(squares) / draws)


def _total(gradient: dict[str, Tensor]) -> float:
    return float(sum(square(value) for value in gradient.values()))


def _positive(smoothness: float) -> float:
    if not smoothness > 0:
        raise UserError(f"smoothness must be above 0, got {smoothness}")
    return smoothness
