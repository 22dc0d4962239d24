"""Claims on isometry and the NTK (Rosseau et al. 2026, sections 3 and 4), checked in float64; those that fail, too."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replastic import networks
from replastic.probes import jacobian_spectrum, layer_jacobians, ntk

shapes = st.lists(st.integers(2, 7), min_size=2, max_size=5)
seeds = st.integers(0, 10**6)
quick = settings(deadline=None, max_examples=15)


def linear(weights: list[Tensor]) -> nn.Sequential:
    """x -> W_L ... W_1 x."""
    layers = [nn.Linear(w.shape[1], w.shape[0], bias=False).double() for w in weights]
    with torch.no_grad():
        for layer, w in zip(layers, weights, strict=True):
            layer.weight.copy_(w)
    return nn.Sequential(*layers)


def orthonormal(rows: int, columns: int) -> Tensor:
    """A random matrix with orthonormal rows or columns."""
    return nn.init.orthogonal_(torch.empty(rows, columns).double())


def condition(gram: Tensor) -> float:
    values = torch.linalg.eigvalsh(gram)
    return float(values[-1] / values[0])


@quick
@given(widths=shapes, samples=st.integers(1, 4), seed=seeds)
def test_of_a_deep_linear_net_it_is_forward_gram_times_backward_gram(
    widths: list[int], samples: int, seed: int
) -> None:
    torch.manual_seed(seed)
    weights = [torch.randn(b, a).double() for a, b in pairwise(widths)]
    x = torch.randn(samples, widths[0]).double()
    expected = 0
    for index in range(len(weights)):
        h, b = x, torch.eye(widths[-1]).double()
        for w in weights[:index]:
            h = h @ w.mT
        for w in reversed(weights[index + 1 :]):
            b = b @ w
        expected = expected + torch.kron(h @ h.mT, b @ b.mT)
    found = ntk(linear(weights), x, products=False).matrix
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))


@quick
@given(width=st.integers(2, 6), depth=st.integers(1, 5), seed=seeds)
def test_with_orthogonal_weights_the_condition_is_that_of_the_inputs(width: int, depth: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(max(1, width - 1), width).double()
    model = linear([orthonormal(width, width) for _ in range(depth)])
    assert ntk(model, x).condition_number == pytest.approx(condition(x @ x.mT), rel=1e-6)


@quick
@given(widths=shapes, seed=seeds)
def test_with_orthonormal_rows_the_condition_is_at_most_the_depth(widths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    widths = sorted(widths, reverse=True)
    model = linear([orthonormal(b, a) for a, b in pairwise(widths)])
    found = ntk(model, orthonormal(widths[0], widths[0]))
    assert 1 - 1e-9 <= found.condition_number <= (len(widths) - 1) * (1 + 1e-9)


@quick
@given(width=st.integers(2, 5), depth=st.integers(1, 5), epsilon=st.floats(0, 0.5), seed=seeds)
def test_near_isometry_of_each_layer_bounds_the_condition(width: int, depth: int, epsilon: float, seed: int) -> None:
    torch.manual_seed(seed)
    weights = []
    for _ in range(depth):
        s = 1 + epsilon * (2 * torch.rand(width).double() - 1)
        s[0], s[-1] = 1 - epsilon, 1 + epsilon
        weights.append(orthonormal(width, width) @ torch.diag(s) @ orthonormal(width, width))
    x = torch.randn(width, width).double()
    bound = condition(x @ x.mT) * ((1 + epsilon) / (1 - epsilon)) ** (2 * (depth - 1))
    assert ntk(linear(weights), x).condition_number <= bound * (1 + 1e-6)


@quick
@given(stretch=st.floats(1.1, 5))
def test_end_to_end_isometry_is_not_enough(stretch: float) -> None:
    first = torch.diag(torch.tensor([stretch, 1 / stretch])).double()
    model, x = linear([first, torch.linalg.inv(first)]), torch.eye(2).double()
    assert torch.allclose(jacobian_spectrum(model, x).values, torch.ones(2, 2).double())
    assert float(layer_jacobians(model, x).spectra["0"].gap().min()) > 0.05
    # K = I (x) W_2 W_2^T + W_1 W_1^T (x) I: eigenvalues s_i^2 + s_j^-2.
    squares = (stretch**2, stretch**-2)
    sums = [a + 1 / b for a in squares for b in squares]
    assert ntk(model, x).condition_number == pytest.approx(max(sums) / min(sums))
    assert max(sums) / min(sums) > 1


@quick
@given(width=st.integers(2, 8), depth=st.integers(1, 4), seed=seeds)
def test_an_isometric_net_is_isotropic_for_each_sample(width: int, depth: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = networks.get("mlp")(hidden=(width,) * depth, activation="maxmin", weights="orthonormal")
    model = network.module((width,), width)[:-1]
    plain = nn.Sequential()
    for block in model[1:]:
        layer = nn.Linear(width, width, bias=False)
        layer.weight = nn.Parameter(torch.linalg.qr(block.linear.weight.detach().double()).Q)
        plain.extend([layer, block.maxmin])
    x = torch.randn(3, width).double()
    blocks = ntk(plain, x).matrix.view(3, width, 3, width)
    for n in range(3):
        eye = torch.eye(width).double()
        assert torch.allclose(blocks[n, :, n], depth * x[n].square().sum() * eye, atol=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_an_isometric_net_is_not_isotropic_over_samples(depth: int) -> None:
    # MaxMin brings (1, 0) and (0, 1) to the same place: orthonormal inputs do not stay orthogonal.
    make = networks.get("mlp")(hidden=(2,), activation="maxmin").module((2,), 2)[1].maxmin
    model = nn.Sequential()
    for index in range(depth):
        model.append(linear([torch.eye(2).double()])[0])
        if index < depth - 1:
            model.append(make)
    x = torch.eye(2).double()
    for spectrum in layer_jacobians(model, x).spectra.values():
        assert torch.equal(spectrum.values, torch.ones(2, 2).double())
    assert ntk(model, x).condition_number == pytest.approx(2 * depth - 1)


def test_orthogonal_weights_with_relu_are_not_isometric() -> None:
    model = nn.Sequential(linear([torch.eye(2).double()])[0], nn.ReLU(), linear([torch.eye(2).double()])[0])
    x = torch.tensor([[1.0, -1.0], [1.0, -0.5]]).double()
    assert jacobian_spectrum(model, x).values.tolist() == [[1, 0], [1, 0]]
    assert ntk(model, x).condition_number == math.inf


@quick
@given(scale=st.floats(0.1, 10), steps=st.integers(1, 8), seed=seeds)
def test_the_condition_and_not_the_scale_decides_what_gradient_descent_removes(
    scale: float, steps: int, seed: int
) -> None:
    torch.manual_seed(seed)
    model, x = nn.Linear(4, 2, bias=False).double(), scale * torch.randn(3, 4).double()
    kernel = ntk(model, x)
    slowest = torch.linalg.eigh(kernel.matrix).eigenvectors[:, 0]
    targets = model(x).detach() + slowest.view(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1 / float(kernel.eigenvalues[0]))
    for _ in range(steps):
        optimizer.zero_grad()
        (0.5 * (model(x) - targets).square().sum()).backward()
        optimizer.step()
    left = float((model(x) - targets).detach().norm())
    assert left == pytest.approx((1 - 1 / kernel.condition_number) ** steps, rel=1e-6)
