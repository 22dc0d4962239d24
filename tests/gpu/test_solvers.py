"""Every solver on the device against the float64 singular value decomposition on the CPU, on the hard spectra."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from replastic.errors import MatrixError
from replastic.linalg import SOLVERS, polar, residual
from support.direction import alignment
from support.spectra import SOLVABLE, SPECTRA, distance, matrix, polar_factor

pytestmark = pytest.mark.gpu
SHAPES = [(96, 32), (64, 64), (24, 80), (5, 40, 40), (2, 3, 30, 12), (1, 9), (7, 1)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
every_spectrum = pytest.mark.parametrize("kind", SPECTRA)
exact_solver = pytest.mark.parametrize("solver", ["exact", "iterative", "svd"])


@every_shape
@every_spectrum
@exact_solver
def test_exact_solvers(solver: str, kind: str, shape: tuple[int, ...], device: torch.device, tf32: bool) -> None:
    w = matrix(kind, shape).float()
    result = polar(w.to(device), solver)
    assert result.factor.device == result.residual.device == result.alignment.device == device
    assert float(residual(result.factor).max()) <= 1.1e-8
    assert float(result.residual.max()) <= 1.1e-8
    assert float(alignment(result.factor.cpu(), w).min()) >= 1 - 1e-5
    assert float((result.alignment - 1).abs().max()) <= 1e-2
    if kind in SOLVABLE:
        assert distance(result.factor, polar_factor(w)) <= 3e-4


@every_shape
@pytest.mark.parametrize("coefficients", ["cubic", "quintic"])
def test_newton_schulz_is_the_formula(
    coefficients: str, shape: tuple[int, ...], device: torch.device, tf32: bool
) -> None:
    w = matrix("condition 1e3", shape).float()
    found = polar(w.to(device), "newton_schulz", num_iters=10, coefficients=coefficients).factor
    assert distance(found, formula(w, 10, coefficients)) <= 5e-6


def formula(w: Tensor, num_iters: int, coefficients: str) -> Tensor:
    """The paper's iteration in float64."""
    x = w.double()
    x = x / torch.linalg.matrix_norm(x)[..., None, None]
    for _ in range(num_iters):
        gram = x.mT @ x
        cubic = 1.5 * x - 0.5 * x @ gram
        x = cubic if coefficients == "cubic" else 2 * x - 1.5 * x @ gram + 0.5 * x @ gram @ gram
    return x


@every_shape
@every_spectrum
def test_fast_is_bounded_and_says_its_residual(kind: str, shape: tuple[int, ...], device: torch.device) -> None:
    w = matrix(kind, shape).float().to(device)
    result = polar(w, "fast")
    assert float(torch.linalg.svdvals(result.factor.double().cpu()).max()) < 1.1
    torch.testing.assert_close(result.residual, residual(result.factor), rtol=2e-2, atol=1e-4)
    polished = polar(w, "fast", polish=2)
    assert float(polished.residual.max()) <= float(result.residual.max()) + 1e-6


def test_fast_is_closer_than_ten_cubic_steps(device: torch.device) -> None:
    draw = torch.Generator().manual_seed(3)
    w = torch.randn(3, 192, 192, generator=draw) / 192**0.5
    w = w + 3 * torch.randn(3, 192, 1, generator=draw) @ torch.randn(3, 1, 192, generator=draw) / 192
    truth = polar_factor(w)
    rough = distance(polar(w.to(device), "newton_schulz").factor, truth)
    assert distance(polar(w.to(device), "fast").factor, truth) <= max(rough, 1e-2)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_weights_of_every_dtype(solver: str, dtype: torch.dtype, device: torch.device) -> None:
    w = matrix("condition 1e3", (3, 40, 16)).to(dtype)
    found = polar(w.to(device), solver)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert found.factor.dtype == wide
    allowed = 2e-2 if solver == "fast" else 1e-7 if dtype == torch.float64 and solver != "newton_schulz" else 3e-4
    assert distance(found.factor, polar(w.to(wide), solver).factor.double()) <= allowed


@exact_solver
@pytest.mark.parametrize("shape", [(12, 12), (30, 12), (12, 30)], ids=str)
def test_deficient_ranks_are_completed_as_on_the_cpu(solver: str, shape: tuple[int, int], device: torch.device) -> None:
    draw = torch.Generator().manual_seed(5)
    w = torch.randn(shape[0], 7, generator=draw) @ torch.randn(7, shape[1], generator=draw)
    w[1], w[2] = w[0], 0.0  # a repeated and a dead unit
    found, expected = polar(w.to(device), solver), polar(w, "svd")
    assert float(found.residual) <= 1e-8
    assert distance(found.factor, expected.factor.double()) <= 1e-5
    partial = polar(w.to(device), solver, complete=False)
    assert distance(partial.factor, polar(w, "svd", complete=False).factor.double()) <= 1e-5


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_a_large_batch_equals_its_matrices_one_by_one(solver: str, device: torch.device) -> None:
    w = torch.randn(40, 24, 16, generator=torch.Generator().manual_seed(0)).to(device)
    whole = polar(w, solver).factor
    apart = torch.stack([polar(one, solver).factor for one in w])
    torch.testing.assert_close(whole, apart, rtol=0, atol=2e-2 if solver == "fast" else 2e-5)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_views_and_places_given(solver: str, device: torch.device) -> None:
    kernel = torch.randn(8, 6, 3, 3, generator=torch.Generator().manual_seed(0)).to(device)
    taps, before = kernel.permute(2, 3, 0, 1), kernel.clone()
    expected = polar(taps.contiguous(), solver).factor
    out = torch.empty(3, 3, 8, 6, device=device)
    assert polar(taps, solver, out=out).factor.data_ptr() == out.data_ptr()
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-6)
    assert torch.equal(kernel, before)


def test_exact_overwrites_its_input_where_asked(device: torch.device) -> None:
    w = torch.randn(300, 40, generator=torch.Generator().manual_seed(0)).to(device)
    expected = polar(w, "exact").factor
    assert torch.equal(polar(w, "exact", out=w).factor, expected)
    assert torch.equal(w, expected)


@pytest.mark.parametrize("magnitude", [1e-30, 1e30, 1e-40])
@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_magnitude_does_not_matter(solver: str, magnitude: float, device: torch.device) -> None:
    w = torch.randn(3, 12, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    scaled = (w.double() * magnitude).float()
    found = polar(scaled.to(device), solver).factor
    allowed = 2e-2 if solver == "fast" else 1e-4 if magnitude == 1e-40 else 5e-6
    torch.testing.assert_close(found.cpu(), polar(w, solver).factor, rtol=0, atol=allowed)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_what_has_no_answer_is_named(solver: str, bad: float, device: torch.device) -> None:
    w = torch.ones(3, 4, 4, device=device) + torch.eye(4, device=device)
    w[1] = bad
    with pytest.raises(MatrixError, match="matrix 1 of the batch"):
        polar(w, solver)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_callers_autocast_rounds_nothing(dtype: torch.dtype, device: torch.device) -> None:
    if device.type == "cpu" and dtype == torch.float16:
        pytest.skip("slow on a CPU")
    w = matrix("condition 1e3", (3, 40, 40)).float().to(device)
    plain = polar(w).factor
    with torch.autocast(device.type, dtype):
        assert torch.equal(polar(w).factor, plain)
