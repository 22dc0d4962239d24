"""Fire and the controls matched to it, against the singular value decomposition in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replastic import methods
from replastic.errors import UserError
from replastic.interventions.draws import haar
from replastic.interventions.kernels import joined_taps, split_taps
from replastic.weights.entries import MatrixInfo

RunOn = Callable[..., methods.Run]
Proposed = Callable[..., Any]

MATCHED = ("rescale", "random_isometry", "noise_matched")
SCALES = ("modular", "modular_norm", "preserve", "init", "procrustes", "unit")


def polar_oracle(w: Tensor) -> Tensor:
    u, _, vh = torch.linalg.svd(w.double(), full_matrices=False)
    return u @ vh


def scale_oracle(rule: str, w: Tensor, w0: Tensor, taps: int) -> Tensor:
    """The factor of each matrix of a batch, by its definition."""
    d_out, d_in = w.shape[-2:]
    r = min(d_out, d_in)
    norm = torch.linalg.matrix_norm
    return {
        "modular": torch.full(w.shape[:1], math.sqrt(d_out / d_in) / taps, dtype=torch.float64),
        "modular_norm": torch.full(w.shape[:1], math.sqrt(d_out / d_in) / taps, dtype=torch.float64),
        "preserve": norm(w.double()) / math.sqrt(r),
        "init": norm(w0.double()) / math.sqrt(r),
        "procrustes": torch.linalg.svdvals(w.double()).sum(-1) / r,
        "unit": torch.ones(w.shape[:1], dtype=torch.float64),
    }[rule]


def solve(name: str, w: Tensor, w0: Tensor, taps: int = 1, **options: Any) -> Tensor:
    method = methods.from_spec(name, **options)
    assert isinstance(method, methods.WeightMethod)
    info = MatrixInfo("layer.weight", "conv" if taps > 1 else "linear", len(w), *w.shape[-2:], taps=taps)
    answer = method.solve(w, info, w0, torch.Generator().manual_seed(3))
    return answer.weight if isinstance(answer, methods.Solution) else answer


shapes = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))


@settings(deadline=None, max_examples=15)
@given(shape=shapes, seed=st.integers(0, 10**6), scale=st.sampled_from(SCALES), taps=st.sampled_from([1, 4]))
def test_fire_is_the_scaled_polar_factor(shape: tuple[int, int, int], seed: int, scale: str, taps: int) -> None:
    g = torch.Generator().manual_seed(seed)
    w, w0 = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    new = solve("fire", w, w0, taps, scale=scale, solver="svd")
    wanted = polar_oracle(w) * scale_oracle(scale, w, w0, taps)[:, None, None]
    assert torch.allclose(new, wanted, rtol=1e-9, atol=1e-11)


@settings(deadline=None, max_examples=10)
@given(shape=shapes, seed=st.integers(0, 10**6), scale=st.sampled_from(SCALES))
def test_rescale_keeps_the_shape_of_the_spectrum_and_takes_fires_norm(
    shape: tuple[int, int, int], seed: int, scale: str
) -> None:
    g = torch.Generator().manual_seed(seed)
    w, w0 = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    new, fire = solve("rescale", w, w0, scale=scale), solve("fire", w, w0, scale=scale)
    assert torch.allclose(torch.linalg.matrix_norm(new), torch.linalg.matrix_norm(fire), rtol=1e-9)
    factor = torch.linalg.matrix_norm(new) / torch.linalg.matrix_norm(w)
    assert torch.allclose(new, w * factor[:, None, None], rtol=1e-12)


@settings(deadline=None, max_examples=10)
@given(shape=shapes, seed=st.integers(0, 10**6), scale=st.sampled_from(SCALES))
def test_random_isometry_is_orthonormal_at_fires_scale(shape: tuple[int, int, int], seed: int, scale: str) -> None:
    g = torch.Generator().manual_seed(seed)
    w, w0 = torch.randn(2, *shape, generator=g, dtype=torch.float64)
    new = solve("random_isometry", w, w0, scale=scale)
    q = new / scale_oracle(scale, w, w0, 1)[:, None, None]
    small = q.mT @ q if shape[1] >= shape[2] else q @ q.mT
    assert torch.allclose(small, torch.eye(small.shape[-1], dtype=torch.float64).expand_as(small), atol=1e-10)


def test_noise_moves_each_matrix_as_far_as_fire_does() -> None:
    g = torch.Generator().manual_seed(0)
    w, w0 = torch.randn(2, 3, 7, 5, generator=g, dtype=torch.float64)
    new, fire = solve("noise_matched", w, w0), solve("fire", w, w0)
    moved = torch.linalg.matrix_norm(new - w)
    assert torch.allclose(moved, torch.linalg.matrix_norm(fire - w), rtol=1e-10)
    toward_fire = ((new - w) * (fire - w)).sum((-2, -1)) / moved.square()
    assert (toward_fire.abs() < 0.6).all(), "noise has no preferred direction"


def test_init_spectrum_keeps_vectors_and_takes_initial_values() -> None:
    g = torch.Generator().manual_seed(0)
    w, w0 = torch.randn(2, 3, 7, 5, generator=g, dtype=torch.float64)
    new = solve("init_spectrum", w, w0)
    assert torch.allclose(torch.linalg.svdvals(new), torch.linalg.svdvals(w0), rtol=1e-10)
    assert torch.allclose(polar_oracle(new), polar_oracle(w), atol=1e-10)
    u, _, vh = torch.linalg.svd(w, full_matrices=False)
    middle = u.mT @ new @ vh.mT
    assert torch.allclose(middle, torch.diag_embed(torch.linalg.svdvals(w0)), atol=1e-10)


def test_haar_draws_are_uniform_in_sign_and_direction() -> None:
    q = haar((4000, 3, 3), torch.Generator().manual_seed(0), torch.empty(0, dtype=torch.float64))
    # Entries of a Haar matrix have mean 0 and variance 1/3; the mean of 4000 has standard deviation .009.
    # A QR without the correction of signs gives a first entry of one sign only (mean -.5).
    assert q.mean(0).abs().max() < 0.04
    assert (q.square().mean(0) - 1 / 3).abs().max() < 0.03
    assert abs(float((torch.linalg.det(q) > 0).double().mean()) - 0.5) < 0.04


@pytest.mark.parametrize("groups", [1, 2])
def test_orthogonal_reset_is_orthonormal_over_the_whole_kernel(groups: int, run_on: RunOn, proposed: Proposed) -> None:
    conv = nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups))
    new, _ = proposed(methods.from_spec("orthogonal_reset", gain=2.0), run_on(conv))
    rows = new["0.weight"].double().unflatten(0, (groups, -1)).flatten(2)
    assert torch.allclose(rows @ rows.mT, 4 * torch.eye(6 // groups).double().expand(groups, -1, -1), atol=1e-5)
    tap = new["0.weight"][:, :, 0, 0].double()
    assert not torch.allclose(tap.mT @ tap, (tap.mT @ tap).diagonal().mean() * torch.eye(tap.shape[1]).double())


@settings(deadline=None, max_examples=10)
@given(taps=st.integers(1, 5), groups=st.integers(1, 3), d_out=st.integers(1, 4), d_in=st.integers(1, 4))
def test_joined_taps_is_the_kernel_flattened(taps: int, groups: int, d_out: int, d_in: int) -> None:
    kernel = torch.randn(groups * d_out, d_in, taps)
    matrices = kernel.unflatten(0, (groups, d_out)).permute(3, 0, 1, 2).flatten(0, 1)
    info = MatrixInfo("w", "conv", taps * groups, d_out, d_in, taps=taps)
    assert torch.equal(joined_taps(matrices, info).flatten(0, 1), kernel.flatten(1))
    assert torch.equal(split_taps(joined_taps(matrices, info), info), matrices)


@pytest.mark.parametrize("name", MATCHED)
def test_controls_take_fires_settings(name: str) -> None:
    """Matched to fire as it is set: with two rough steps fire's norm and error are not those of an exact factor."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(1, 8, 8, generator=g)
    rough = {"solver": "newton_schulz", "num_iters": 2, "scale": "procrustes"}
    exact = solve(name, w, w, scale="procrustes")
    assert not torch.allclose(solve(name, w, w, **rough), exact, rtol=1e-3)


def test_rescale_leaves_an_all_zero_matrix() -> None:
    w = torch.zeros(1, 3, 3)
    assert torch.equal(solve("rescale", w, w, on_zero="skip"), w)


@pytest.mark.parametrize("name", ["fire", *MATCHED])
def test_what_cannot_be_solved_is_named(name: str, run_on: RunOn, proposed: Proposed) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 3))
    with torch.no_grad():
        model[1].weight[:, :, 1, 2] = 0
    if name != "random_isometry":
        with pytest.raises(UserError, match=r"1\.weight \(matrix 5 of 9\) is all zero"):
            proposed(methods.from_spec(name), run_on(model))
    with torch.no_grad():
        model[0].weight[1, 2] = float("nan")
    with pytest.raises(UserError, match=r"0\.weight holds 1 of 16 values that are NaN or Inf"):
        proposed(methods.from_spec(name), run_on(model))


def test_scale_init_needs_the_initial_weights(run_on: RunOn) -> None:
    with pytest.raises(UserError, match="fire needs the initial weights: pass init="):
        methods.check_needs(methods.from_spec("fire", scale="init"), run_on(nn.Sequential(nn.Linear(3, 3))))


def test_outcome_tells_solver_residual_alignment_and_scale(run_on: RunOn, proposed: Proposed) -> None:
    model = nn.Sequential(nn.Linear(6, 3))
    _, layers = proposed(methods.from_spec("fire"), run_on(model, target_modules="0"))
    facts = layers["0.weight"].facts
    assert facts["solver"] == "exact"
    assert facts["residual"] < 1e-8
    assert facts["alignment"] == pytest.approx(1.0, abs=1e-5)
    assert facts["scale"] == pytest.approx(math.sqrt(0.5))


def test_paper_iteration_by_hand(run_on: RunOn, proposed: Proposed) -> None:
    model = nn.Sequential(nn.Linear(5, 4, bias=False))
    x = model[0].weight.detach().double()
    x = x / torch.linalg.matrix_norm(x)
    for _ in range(5):
        x = 1.5 * x - 0.5 * x @ x.mT @ x
    new, layers = proposed(
        methods.from_spec("fire:solver=newton_schulz,num_iters=5"), run_on(model, target_modules="0")
    )
    assert torch.allclose(new["0.weight"].double(), x * math.sqrt(4 / 5), atol=5e-6)
    assert layers["0.weight"].facts["iterations"] == 5


@pytest.mark.parametrize("name", ["fire", *MATCHED])
def test_targets_replace_the_recipes_choice(name: str, run_on: RunOn, proposed: Proposed) -> None:
    blocks = {"q": nn.Linear(6, 6), "k": nn.Linear(6, 6), "v": nn.Linear(6, 6), "head": nn.Linear(6, 3)}
    model = nn.ModuleDict({"attention": nn.ModuleDict(blocks)})
    new, _ = proposed(methods.from_spec(f"{name}:targets=attention.q|*.head"), run_on(model))
    assert set(new) == {"attention.q.weight", "attention.head.weight"}
    everything, _ = proposed(methods.from_spec(f"{name}:targets="), run_on(model))
    assert {f"attention.{block}.weight" for block in "qkv"} <= set(everything)


def test_the_recipes_options_hold_for_the_targets_that_it_would_touch_itself(run_on: RunOn, proposed: Proposed) -> None:
    model = nn.ModuleDict({"q": nn.Linear(6, 6), "v": nn.Linear(6, 6)})
    _, layers = proposed(methods.from_spec("fire:targets=q|v"), run_on(model, recipe="paper-vit"))
    assert layers["q.weight"].facts["iterations"] == 10
    assert layers["v.weight"].facts["solver"] == "exact"
    _, layers = proposed(methods.from_spec("fire:targets=q|v,solver=svd"), run_on(model, recipe="paper-vit"))
    assert {layer.facts["solver"] for layer in layers.values()} == {"svd"}


def test_wrong_targets_are_named(run_on: RunOn) -> None:
    run = run_on(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(UserError, match=r"fire: targets must be patterns joined by \|, got '0\|'"):
        methods.from_spec("fire:targets=0|")
    with pytest.raises(UserError, match="matches no weight"):
        methods.check_needs(methods.from_spec("fire:targets=1"), run)
    with pytest.raises(UserError, match="give target_modules or the option targets, not both"):
        methods.check_needs(methods.from_spec("fire:targets=0"), run_on(run.model, target_modules="0"))
