"""Lanczos against dense eigenvalues."""

from __future__ import annotations

import pytest
import torch

from replastic.errors import UserError
from replastic.linalg import lanczos


def symmetric(dim: int, seed: int = 0) -> torch.Tensor:
    a = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a + a.mT


def test_full_run_gives_every_eigenvalue() -> None:
    a = symmetric(30)
    result = lanczos(lambda v: a @ v, 30, num_steps=100, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(result.values, torch.linalg.eigvalsh(a).flip(0))
    assert result.values.shape == result.bounds.shape == (30,)


def test_bounds_hold_and_the_top_converges_first() -> None:
    a = symmetric(200)
    a += 60 * torch.outer(a[0], a[0]) / a[0].square().sum()
    truth = torch.linalg.eigvalsh(a)
    result = lanczos(lambda v: a @ v, 200, num_steps=25, generator=torch.Generator().manual_seed(1))
    distance = (result.values[:, None] - truth[None]).abs().amin(1)
    assert (distance <= result.bounds + 1e-9).all()
    assert float(result.values[0]) == pytest.approx(float(truth[-1]), rel=1e-8)
    residual = a @ result.top_vector - result.values[0] * result.top_vector
    assert float(residual.norm()) == pytest.approx(float(result.bounds[0]), rel=0.1, abs=1e-7)


def test_stops_when_the_space_is_exhausted() -> None:
    a = torch.diag(torch.tensor([5.0, 5, 5, -2, -2, 0], dtype=torch.float64))
    result = lanczos(lambda v: a @ v, 6, num_steps=6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(result.values, torch.tensor([5.0, 0.0, -2.0], dtype=torch.float64))
    assert float(result.bounds.max()) < 1e-6


def test_zero_operator_and_one_dimension() -> None:
    zero = lanczos(torch.zeros_like, 4, num_steps=3, generator=torch.Generator().manual_seed(0))
    assert zero.values.tolist() == [0.0]
    one = lanczos(lambda v: 3 * v, 1, num_steps=5, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    assert one.values.tolist() == pytest.approx([3.0])
    assert one.top_vector.dtype == torch.float32


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    lanczos(lambda v: v, 5, num_steps=2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("dim", "num_steps"), [(0, 3), (3, 0)])
def test_out_of_range(dim: int, num_steps: int) -> None:
    with pytest.raises(UserError, match="at least 1"):
        lanczos(lambda v: v, dim, num_steps=num_steps, generator=torch.Generator())


def test_going_on_finds_every_eigenvalue_as_often_as_it_occurs() -> None:
    values = torch.tensor([5.0, 5, 5, -2, -2, 0], dtype=torch.float64)
    q = torch.linalg.qr(symmetric(6)).Q
    a = q @ torch.diag(values) @ q.mT
    found = lanczos(lambda v: a @ v, 6, num_steps=6, generator=torch.Generator().manual_seed(0), restart=True)
    torch.testing.assert_close(found.values, values.sort(descending=True).values)


def test_weights_are_those_of_the_start() -> None:
    a, start = symmetric(5), torch.tensor([3.0, 0, 4, 0, 0], dtype=torch.float64)
    found = lanczos(lambda v: a @ v, 5, num_steps=5, generator=torch.Generator(), start=start)
    vectors = torch.linalg.eigh(a).eigenvectors
    torch.testing.assert_close(found.weights, (vectors.mT @ start / 5).square().flip(0))


def test_a_matrix_that_is_not_finite() -> None:
    with pytest.raises(UserError, match="NaN or infinite"):
        lanczos(lambda v: v * float("nan"), 3, num_steps=2, generator=torch.Generator())
