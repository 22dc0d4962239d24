"""Theorem 1: the formula by hand, the inequality over random networks, and where the paper's statement fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replastic.errors import UserError
from replastic.linalg import covariance_gap, covariance_gap_bound

Activation = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, tuple[Activation, float]] = {
    "relu": (torch.relu, 1.0),
    "tanh": (torch.tanh, 1.0),
    "identity": (lambda x: x, 1.0),
    "twice": (lambda x: 2 * torch.relu(x), 2.0),
    "sine": (lambda x: torch.sin(3 * x) / 2, 1.5),
}


def run(weights: Sequence[Tensor], z: Tensor, activation: Activation) -> list[Tensor]:
    """Features of every layer; the weights are the paper's, (d_in, d_out)."""
    found = []
    for w in weights:
        z = activation(z @ w)
        found.append(z)
    return found


def gap(h: Tensor, other: Tensor) -> float:
    """From the covariances themselves, (samples, samples)."""
    c, d = (x @ x.T / x.square().sum() for x in (h, other))
    return float((c - d).norm())


def bounds(
    new: Sequence[Tensor], old: Sequence[Tensor], z: Tensor, activation: Activation, steepness: float, layer: int
):
    """Both sides at a layer, 1 to L: the bound, its corollary, and the gap."""
    h, other = run(new, z, activation)[layer - 1], run(old, z, activation)[layer - 1]
    pairs = list(zip(new, old, strict=True))
    norms = [(float(torch.linalg.matrix_norm(a, 2)), float(torch.linalg.matrix_norm(b, 2))) for a, b in pairs]
    bound, corollary = covariance_gap_bound(
        norms[:layer],
        [steepness] * layer,
        sfe=sum(float((a - b).square().sum()) for a, b in pairs),
        inputs=float(z.norm()),
        least=min(float(h.norm()), float(other.norm())),
    )
    return bound, corollary, gap(h, other)


def test_by_hand() -> None:
    """B = (2, 3), SFE 4, ||Z|| 5, m 10: 4 * 5 / 10 * 6 * sqrt(1/4 + 1/9) * 2; the corollary has S = 3."""
    bound, corollary = covariance_gap_bound([(2, 1), (0.5, 3)], [1, 1], sfe=4, inputs=5, least=10)
    assert bound == pytest.approx(2 * 6 * math.sqrt(13) / 6 * 2)
    assert corollary == pytest.approx(2 * math.sqrt(2) * 3 * 2)
    assert covariance_gap_bound([(2, 1), (0.5, 3)], [2, 0.5], sfe=4, inputs=5, least=10)[1] == math.inf
    assert covariance_gap_bound([(2, 1), (0.5, 3)], [2, 0.5], sfe=4, inputs=5, least=10)[0] == pytest.approx(bound)
    assert covariance_gap_bound([(2, 1)], [1], sfe=4, inputs=5, least=0) == (math.inf, math.inf)
    assert covariance_gap_bound([(0, 0)], [1], sfe=0, inputs=5, least=1)[0] == 0


@settings(max_examples=200, deadline=None)
@given(
    widths=st.lists(st.integers(1, 8), min_size=2, max_size=5),
    samples=st.integers(1, 12),
    name=st.sampled_from(sorted(ACTIVATIONS)),
    size=st.floats(0.05, 4),
    change=st.floats(0, 3),
    seed=st.integers(0, 10_000),
)
def test_theorem_1_holds(widths: list[int], samples: int, name: str, size: float, change: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    activation, steepness = ACTIVATIONS[name]
    z = normal(samples, widths[0])
    old = [size * normal(a, b) for a, b in pairwise(widths)]
    new = [w + change * normal(*w.shape) for w in old]
    for layer in range(1, len(widths)):
        if min(float(run(ws, z, activation)[layer - 1].norm()) for ws in (new, old)) < 1e-9:
            return  # all units are silent: the theorem asks for m > 0
        bound, corollary, found = bounds(new, old, z, activation, steepness, layer)
        assert found <= bound * (1 + 1e-9) + 1e-12
        if steepness <= 1:
            assert bound <= corollary * (1 + 1e-9)


def test_it_says_something_of_small_changes() -> None:
    draw = torch.Generator().manual_seed(0)
    old = [torch.linalg.qr(torch.randn(16, 16, generator=draw, dtype=torch.float64))[0] for _ in range(3)]
    new = [w + 1e-3 * torch.randn(16, 16, generator=draw, dtype=torch.float64) for w in old]
    z = torch.randn(64, 16, generator=draw, dtype=torch.float64)
    bound, _, found = bounds(new, old, z, lambda x: x, 1.0, 3)
    assert 0.001 < found < bound < math.sqrt(2)


def test_theorem_1_as_the_paper_has_it_fails_with_sigmoids() -> None:
    """Every assumption of the paper holds: elementwise, Lipschitz (1/4), no biases, m > 0. Its equation 11 does not."""
    size, far, change = 1e-4, 100.0, 0.1
    first = far * torch.tensor([[1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    second = far * torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64) / math.sqrt(2)
    moved = second + change * torch.tensor([[0.0, 1.0], [0.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    z = torch.tensor([[size], [-size]], dtype=torch.float64)
    bound, _, found = bounds([first, moved], [first, second], z, torch.sigmoid, 0.25, 2)
    assert found > 1.5 * bound > 0
    # With tanh(x) / 4, as steep and 0 at 0, the same weights keep the bound.
    bound, _, found = bounds([first, moved], [first, second], z, lambda x: torch.tanh(x) / 4, 0.25, 2)
    assert found <= bound


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 9), st.integers(0, 1000))
def test_the_gap_is_that_of_the_covariances(samples: int, units: int, others: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    h = torch.randn(samples, units, generator=draw, dtype=torch.float64)
    other = torch.randn(samples, others, generator=draw, dtype=torch.float64)
    assert covariance_gap(h, other) == pytest.approx(gap(h, other), abs=1e-12)
    assert covariance_gap(h, 3 * h) == pytest.approx(0, abs=1e-12)
    assert covariance_gap(h, other) <= math.sqrt(2) + 1e-12


def test_features_that_are_all_zero_have_no_covariance() -> None:
    with pytest.raises(UserError, match="features of one of the networks are all 0"):
        covariance_gap(torch.zeros(3, 2), torch.ones(3, 2))
