"""The solver from products alone against the float64 singular value decomposition, on spectra that are hard for it."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from replastic.linalg import polar, residual
from replastic.linalg.eigen import by_eigenvectors
from replastic.linalg.halley import LEAST, halley, lifted, weights, well_conditioned
from replastic.linalg.rational import by_products
from replastic.linalg.spd_inverse import spd_inverse_
from replastic.linalg.tall import Tall
from support.direction import alignment
from support.spectra import SPECTRA, distance, matrix, polar_factor

SHAPES = ((1, 208, 208), (1, 320, 208))
ALLOWED = {"condition 1e5": 1e-3, "one at 1e-5": 1e-3}
"""Largest distance; that of `exact` for condition numbers up to 1e4 elsewhere."""
UNDETERMINED = ("condition 1e7", "half rank")
"""Spectra with singular values that float32 weights do not tell from zero."""


def spoiled(kind: str, shape: tuple[int, ...]) -> Tensor:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    if kind == "zero rows":
        w[:, 5:40] = 0
    elif kind == "zero columns":
        w[:, :, 5:9] = 0
    else:
        w[:, :, 1], w[:, 2] = w[:, :, 0], w[:, 1]
    return w


def solved(w: Tensor, complete: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    tall = Tall(w, torch.ones(len(w), 1, 1), torch.empty_like(w))
    found = by_products(tall, complete=complete)
    return tall.out, found.residual, found.alignment


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [k for k in SPECTRA if k not in UNDETERMINED])
def test_hard_spectra(kind: str, shape: tuple[int, ...]) -> None:
    w = matrix(kind, shape).float()
    factor, told, aligned = solved(w)
    assert distance(factor, polar_factor(w)) <= ALLOWED.get(kind, 3e-4)
    assert float(residual(factor).max()) <= 1e-8
    torch.testing.assert_close(told, residual(factor), rtol=0.1, atol=1e-11)
    assert float(alignment(factor, w).min()) >= 1 - 1e-5
    assert 0.99 <= float(aligned.min()) <= float(aligned.max()) <= 1 + 1e-5


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [*UNDETERMINED, "zero rows", "zero columns", "duplicates"])
def test_what_lacks_directions_is_completed_as_eigenvectors_do(kind: str, shape: tuple[int, ...]) -> None:
    w = matrix(kind, shape).float() if kind in UNDETERMINED else spoiled(kind, shape)
    for complete in (True, False):
        tall = Tall(w, torch.ones(1, 1, 1), torch.empty_like(w))
        by_eigenvectors(tall, complete=complete)
        factor, _, aligned = solved(w, complete)
        tolerance = 1e-4 if kind == "zero rows" else 1e-7  # with zero rows a tall matrix may have full rank
        torch.testing.assert_close(factor, tall.out, atol=tolerance, rtol=0)
        assert float((aligned - 1).abs().max()) <= 1e-2


def test_one_hard_matrix_of_a_batch_leaves_the_others_as_they_are() -> None:
    w = torch.randn(3, 208, 208, generator=torch.Generator().manual_seed(0))
    alone = [solved(m[None])[0] for m in w]
    w[1, :, 3] = w[1, :, 4]
    factors = solved(w)[0]
    for i in (0, 2):
        torch.testing.assert_close(factors[i], alone[i][0], atol=2e-5, rtol=0)
    torch.testing.assert_close(factors[1], solved(w[1:2])[0][0], atol=0, rtol=0)


def test_orthonormal_weights_take_no_halley_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["replastic.linalg.rational"], "halley")
    w = torch.linalg.qr(torch.randn(1, 208, 208, generator=torch.Generator().manual_seed(0))).Q
    assert float(solved(w * 3)[1]) <= 1e-10


@pytest.mark.parametrize(("shape", "by"), [((1, 208, 208), "by_products"), ((1, 640, 208), "by_eigenvectors")])
def test_exact_chooses_by_shape(shape: tuple[int, ...], by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    module = sys.modules["replastic.linalg.exact"]
    for name in ("by_products", "by_eigenvectors"):
        real = getattr(module, name)
        spy = lambda tall, *, complete, real=real, name=name: called.append(name) or real(tall, complete=complete)  # noqa: E731
        monkeypatch.setattr(module, name, spy)
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    polar(w)
    polar(w.mT)
    assert called == [by, by]
    polar(w[:, :20, :20])
    polar(w.double())
    assert called[2:] == ["by_eigenvectors"] * 2


def test_in_place_equals_out_of_place() -> None:
    w = torch.randn(3, 208, 208, generator=torch.Generator().manual_seed(0))
    w[1, :, 3] = w[1, :, 4]
    expected = polar(w).factor
    polar(w, out=w)
    assert torch.equal(w, expected)


@pytest.mark.parametrize("low", [1e-3, LEAST, 0.3, 0.9])
def test_weights_are_the_best_for_their_interval(low: float) -> None:
    """The step lies in (0, 1] on [low, 1], is 1 at 1, and takes its least value at both ends of the small ones."""
    step = weights(low)
    values = [lifted(low + (1 - low) * k / 1000, step) for k in range(1001)]
    assert values[-1] == pytest.approx(1)
    assert max(values) <= 1 + 1e-9
    assert min(values) == pytest.approx(values[0], rel=1e-3)


def test_a_halley_step_is_its_function_of_the_singular_values() -> None:
    s = torch.logspace(0, -0.5, 80, dtype=torch.float64)
    s[-1] = 0.005
    draw = torch.Generator().manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(90, 80, generator=draw, dtype=torch.float64), full_matrices=False)
    x, step = ((u * s) @ vh)[None], weights(LEAST)
    out, gram = torch.empty_like(x), x.mT @ x
    least = halley(x, gram, step, out=out)
    expected = (u * torch.tensor([lifted(float(v), step) for v in s])) @ vh
    torch.testing.assert_close(out[0], expected)
    torch.testing.assert_close(gram, out.mT @ out)
    assert float(s[-1]) <= float(least) <= 1.1 * float(s[-1])


def test_a_small_singular_value_is_seen() -> None:
    w = matrix("one at 1e-5", (1, 100, 100))
    assert float(well_conditioned(w.mT @ w)) < 0.05
    assert 0.5 < float(well_conditioned(torch.eye(100, dtype=torch.float64)[None])) <= 1.01


@pytest.mark.parametrize("n", [1, 63, 64, 65, 130, 200])
def test_inverse_from_products(n: int) -> None:
    x = torch.randn(3, n, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    a = x.mT @ x + torch.eye(n)
    torch.testing.assert_close(spd_inverse_(a.clone()), torch.linalg.inv(a))
    with pytest.raises(torch.linalg.LinAlgError):
        spd_inverse_(-a)
