"""The front of the solvers: odd shapes, layouts and magnitudes, and input that has no answer."""

from __future__ import annotations

import sys

import pytest
import torch

from replastic.errors import MatrixError, UnknownNameError, UserError
from replastic.linalg import SOLVERS, polar

ALL = sorted(SOLVERS)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("magnitude", [1e-30, 1e30, 3e38, 1e-40])
def test_magnitude_does_not_matter(solver: str, magnitude: float) -> None:
    w = gaussian(3, 12, 8).clamp(-1, 1)
    scaled = (w.double() * magnitude).float()
    tolerance = 1e-4 if magnitude == 1e-40 else 1e-6  # denormal numbers carry few digits
    tolerance = max(tolerance, 2e-2) if solver == "fast" else tolerance
    torch.testing.assert_close(polar(scaled, solver).factor, polar(w, solver).factor, atol=tolerance, rtol=0)


@pytest.mark.parametrize("solver", ALL)
def test_magnitudes_may_differ_within_a_batch(solver: str) -> None:
    w = gaussian(4, 10, 6)
    factors = torch.tensor([1e-30, 1.0, 1e30, 1e-3])[:, None, None]
    expected = torch.cat([polar(m[None], solver).factor for m in w * factors])
    tolerance = 2e-2 if solver == "fast" else 2e-5  # bfloat16 rounds a batch and a single matrix differently
    torch.testing.assert_close(polar(w * factors, solver).factor, expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("solver", ALL)
def test_wide_is_the_transpose_of_tall(solver: str) -> None:
    w = gaussian(2, 14, 6)
    tall, wide = polar(w, solver), polar(w.mT, solver)
    torch.testing.assert_close(wide.factor.mT, tall.factor, atol=2e-6, rtol=0)
    torch.testing.assert_close(wide.residual, tall.residual)


@pytest.mark.parametrize("solver", ALL)
def test_views_are_read_right_and_never_written(solver: str) -> None:
    kernel = gaussian(8, 6, 3, 3)
    taps = kernel.permute(2, 3, 0, 1)
    before = kernel.clone()
    factor = polar(taps, solver).factor
    torch.testing.assert_close(factor, polar(taps.contiguous(), solver).factor, atol=2e-6, rtol=0)
    assert torch.equal(kernel, before)
    assert factor.shape == (3, 3, 8, 6)
    strided = gaussian(20, 30)[::2, ::3]
    torch.testing.assert_close(polar(strided, solver).factor, polar(strided.clone(), solver).factor, atol=2e-6, rtol=0)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_narrow_weights_are_computed_in_float32(solver: str, dtype: torch.dtype) -> None:
    w = gaussian(9, 5).to(dtype)
    before = w.clone()
    result = polar(w, solver)
    assert result.factor.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    torch.testing.assert_close(result.factor, polar(w.to(wide), solver).factor)
    assert torch.equal(w, before)
    assert result.factor.untyped_storage().data_ptr() != w.untyped_storage().data_ptr()


@pytest.mark.parametrize("solver", ALL)
def test_an_orthonormal_weight_is_not_returned_itself(solver: str) -> None:
    w = torch.eye(6)
    factor = polar(w, solver).factor
    factor.zero_()
    assert torch.equal(w, torch.eye(6))


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (5, 1, 7), (1, 1)])
def test_a_vector_is_divided_by_its_norm(solver: str, shape: tuple[int, ...]) -> None:
    w = gaussian(*shape)
    expected = w / torch.linalg.matrix_norm(w)[..., None, None]
    torch.testing.assert_close(polar(w, solver).factor, expected, atol=1e-2 if solver == "fast" else 1e-6, rtol=0)


@pytest.mark.parametrize("solver", ALL)
def test_empty_batch(solver: str) -> None:
    result = polar(torch.empty(0, 3, 2), solver)
    assert result.factor.shape == (0, 3, 2)
    assert result.residual.shape == result.alignment.shape == (0,)


@pytest.mark.parametrize("solver", ALL)
def test_chunks_do_not_change_the_result(solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    w = gaussian(7, 24, 10)
    whole = polar(w, solver)
    monkeypatch.setattr(sys.modules["replastic.linalg.polar"], "CHUNK_ELEMENTS", 500)
    monkeypatch.setattr(sys.modules["replastic.linalg.tall"], "BLOCK_ELEMENTS", 64)
    tolerance = 2e-2 if solver == "fast" else 2e-6
    torch.testing.assert_close(polar(w, solver).factor, whole.factor, atol=tolerance, rtol=0)


@pytest.mark.parametrize("solver", ALL)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_inf_are_refused(solver: str, value: float) -> None:
    w = gaussian(2, 3, 4, 5)
    w[1, 0, 2, 2] = value
    with pytest.raises(MatrixError, match="matrix 3 of the batch holds NaN or Inf") as caught:
        polar(w, solver)
    assert caught.value.index == 3


@pytest.mark.parametrize("solver", ALL)
class TestZeroMatrix:
    @staticmethod
    def batch() -> torch.Tensor:
        w = gaussian(5, 6, 4)
        w[0], w[3] = 0, 0
        return w

    def test_error_by_default(self, solver: str) -> None:
        w = self.batch()
        w[0] = 1
        with pytest.raises(MatrixError, match="matrix 3 of the batch is all zero"):
            polar(w, solver)

    def test_nan_is_refused_whatever_on_zero_says(self, solver: str) -> None:
        w = self.batch()
        w[4, 0, 0] = float("nan")
        with pytest.raises(MatrixError, match="matrix 4 of the batch holds NaN"):
            polar(w, solver, on_zero="skip")

    def test_skip(self, solver: str) -> None:
        result = polar(self.batch(), solver, on_zero="skip")
        assert result.factor[0].eq(0).all()
        assert result.factor[3].eq(0).all()
        assert result.residual[[0, 3]].tolist() == [1.0, 1.0]
        torch.testing.assert_close(result.factor[1:3], polar(self.batch()[1:3], solver).factor, atol=2e-6, rtol=0)

    def test_complete(self, solver: str) -> None:
        result = polar(self.batch(), solver, on_zero="complete")
        for i in (0, 3):
            torch.testing.assert_close(result.factor[i].mT @ result.factor[i], torch.eye(4), atol=1e-6, rtol=0)
        assert torch.equal(result.factor[0], result.factor[3])
        assert torch.equal(result.factor[0], polar(torch.zeros(6, 4), solver, on_zero="complete").factor)


def test_completion_survives_another_eigenbasis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any rotation of the basis of the null space, such as another LAPACK picks, gives the same factor."""
    w = gaussian(10, 3, seed=1) @ gaussian(3, 8, seed=2)
    expected = polar(w).factor
    eigh = torch.linalg.eigh

    def rotated(gram: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = eigh(gram)
        turn = torch.linalg.qr(gaussian(5, 5, seed=3, dtype=torch.float64)).Q
        vectors = torch.cat([vectors[:, :, :5] @ turn, -vectors[:, :, 5:]], dim=-1)
        return values, vectors

    monkeypatch.setattr(torch.linalg, "eigh", rotated)
    torch.testing.assert_close(polar(w).factor, expected, atol=1e-6, rtol=0)


def test_exact_in_place_overwrites_the_weight() -> None:
    for w in (gaussian(3, 40, 12), gaussian(12, 40), gaussian(20, 20)):
        expected = polar(w).factor
        mine = w.clone()
        result = polar(mine, out=mine)
        assert result.factor is not w
        assert torch.equal(mine, expected)


def test_in_place_is_for_exact_alone() -> None:
    w = gaussian(6, 4)
    with pytest.raises(UserError, match="cannot work in place"):
        polar(w, "newton_schulz", out=w)
    with pytest.raises(UserError, match="out must be"):
        polar(w, out=torch.empty(4, 6))


def test_no_autograd_history() -> None:
    w = gaussian(6, 4).requires_grad_()
    for solver in ALL:
        assert not polar(w, solver).factor.requires_grad


def test_wrong_names_and_options() -> None:
    w = gaussian(3, 3)
    with pytest.raises(UnknownNameError, match="newton_schulz"):
        polar(w, "newton_shulz")
    with pytest.raises(UserError, match="no option 'num_iter'; it takes num_iters, coefficients"):
        polar(w, "newton_schulz", num_iter=3)
    for options in ({"num_iters": 0}, {"coefficients": "quartic"}):
        with pytest.raises(UserError, match=next(iter(options))):
            polar(w, "newton_schulz", **options)
    for solver, name, value in (("iterative", "tol", 0.0), ("iterative", "max_iters", 0), ("fast", "polish", -1)):
        with pytest.raises(UserError, match=name):
            polar(w, solver, **{name: value})
    with pytest.raises(UserError, match="on_zero"):
        polar(w, on_zero="ignore")
    for bad in (torch.ones(3), torch.ones(3, 3, dtype=torch.int64), torch.ones(2, 0, 3)):
        with pytest.raises(UserError, match="polar needs a float tensor"):
            polar(bad)


def test_iterative_stops_early_and_reports_steps() -> None:
    w = torch.linalg.qr(gaussian(30, 30)).Q + 1e-3 * gaussian(30, 30, seed=1)
    assert polar(w, "iterative", tol=1.0).iterations < polar(w, "iterative", tol=1e-8).iterations <= 20
    assert polar(w, "newton_schulz", num_iters=7).iterations == 7
    assert polar(w).iterations == 0


def test_iterative_falls_back_for_the_matrices_that_do_not_converge() -> None:
    w = gaussian(3, 16, 16)
    w[1, :, 0] = w[1, :, 1]
    result = polar(w, "iterative", max_iters=12)
    assert float(result.residual.max()) <= 1e-8
    torch.testing.assert_close(result.factor[1], polar(w).factor[1])
    assert float(polar(w, "iterative", complete=False).residual[1]) == pytest.approx(1 / 16, abs=1e-6)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_an_autocast_around_the_call_changes_nothing(solver: str) -> None:
    w = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(5))
    plain = polar(w, solver).factor
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(polar(w, solver).factor, plain)
