"""The parametrization by the QR decomposition against its definition, in float64."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from replastic.networks._orthonormal import OrthonormalFactor, keep_orthonormal

SIDE = st.integers(1, 9)


def by_cholesky(weight):
    """The same factor from R, which is the Cholesky factor of the smaller Gram matrix."""
    tall = weight.mT if weight.shape[0] < weight.shape[1] else weight
    triangle = torch.linalg.cholesky(tall.mT @ tall).mT
    factor = torch.linalg.solve_triangular(triangle, tall, upper=True, left=False)
    return factor.mT if weight.shape[0] < weight.shape[1] else factor


@given(SIDE, SIDE, st.integers(0, 2**31))
def test_it_is_the_factor_with_a_positive_diagonal(rows, columns, seed):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    condition = float(torch.linalg.cond(weight))
    assume(condition < 1e4)
    torch.testing.assert_close(OrthonormalFactor()(weight), by_cholesky(weight), rtol=0, atol=1e-13 * condition**2)


@given(SIDE, SIDE, st.integers(0, 2**31))
def test_an_orthonormal_matrix_stays_what_it_is(rows, columns, seed):
    torch.manual_seed(seed)
    linear = nn.Linear(columns, rows).double()
    keep_orthonormal(linear)
    other = torch.linalg.qr(torch.randn(max(rows, columns), min(rows, columns), dtype=torch.float64))[0]
    other = other.mT if rows < columns else other
    linear.weight = other
    torch.testing.assert_close(linear.weight.detach(), other, rtol=0, atol=1e-12)


def test_its_slope_is_that_of_finite_differences():
    for shape in ((3, 5), (5, 3), (4, 4)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(OrthonormalFactor(), weight)
