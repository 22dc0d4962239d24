"""SingularClip against the decomposition in float64: the band, its scales, its weights, its times."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import replastic
from replastic import methods
from replastic.errors import UserError
from replastic.weights.entries import MatrixInfo

RunOn = Callable[..., methods.Run]
Proposed = Callable[..., Any]


def clamped(w: Tensor, low: float, high: float) -> Tensor:
    u, s, vh = torch.linalg.svd(w.double(), full_matrices=False)
    return (u * s.clamp(low, high).unsqueeze(-2)) @ vh


def rms(w: Tensor) -> float:
    """Root mean square of the singular values."""
    return float(torch.linalg.svdvals(w.double()).square().mean().sqrt())


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from(["unit", "preserve", "init", "modular"]),
    taps=st.sampled_from([1, 3]),
)
def test_the_band_is_that_many_times_the_scale(shape: tuple[int, int, int], seed: int, scale: str, taps: int) -> None:
    w, w0 = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    method = methods.from_spec("singular_clip", low=0.5, high=1.25, scale=scale)
    info = MatrixInfo("layer.weight", "conv", *shape, taps=taps)
    answer = method.solve(w, info, w0, torch.Generator())
    for i in range(shape[0]):
        unit = {
            "unit": 1.0,
            "preserve": rms(w[i]),
            "init": rms(w0[i]),
            "modular": math.sqrt(shape[1] / shape[2]) / taps,
        }
        assert torch.allclose(answer.weight[i], clamped(w[i], 0.5 * unit[scale], 1.25 * unit[scale]), atol=1e-10)
        assert float(answer.facts["scale"][i]) == pytest.approx(unit[scale])


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 2), nn.Flatten(), nn.Linear(24, 5), nn.Linear(5, 3)).double()


def test_taps_hidden_matrices_and_the_head_are_clamped(run_on: RunOn, proposed: Proposed) -> None:
    model = network()
    new, layers = proposed(methods.from_spec("singular_clip:low=0.3,high=0.4"), run_on(model))
    assert set(new) == {"0.weight", "2.weight", "3.weight"}
    for i in range(2):
        for j in range(2):
            assert torch.allclose(new["0.weight"][:, :, i, j], clamped(model[0].weight[:, :, i, j], 0.3, 0.4))
    assert torch.allclose(new["3.weight"], clamped(model[3].weight, 0.3, 0.4))
    s = torch.linalg.svdvals(model[3].weight)
    assert layers["3.weight"].facts == {
        "scale": 1.0,
        "raised": float((s < 0.3).sum()),
        "lowered": float((s > 0.4).sum()),
    }


def test_the_head_is_left_alone_if_asked_and_named_targets_replace_the_choice(
    run_on: RunOn, proposed: Proposed
) -> None:
    assert set(proposed(methods.from_spec("singular_clip:head=false"), run_on(network()))[0]) == {
        "0.weight",
        "2.weight",
    }
    assert set(proposed(methods.from_spec("singular_clip:targets=2"), run_on(network()))[0]) == {"2.weight"}
    assert set(proposed(methods.from_spec("singular_clip"), run_on(network(), target_modules="0"))[0]) == {"0.weight"}
    headless = nn.ModuleDict({"body": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})
    assert set(proposed(methods.from_spec("singular_clip"), run_on(headless))[0]) == {"body.weight"}


def test_it_clips_in_training_every_so_many_updates_and_at_boundaries() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    outside = 9 * torch.eye(4, dtype=torch.float64)
    seen = []
    with replastic.during("singular_clip:every=3,high=2", model, optimizer) as method:
        for _ in range(7):
            with torch.no_grad():
                model[0].weight.copy_(outside)
            method.after_update()
            seen.append(float(model[0].weight.detach()[0, 0]))
        assert seen == [9.0, 9.0, pytest.approx(2.0), 9.0, 9.0, pytest.approx(2.0), 9.0]
        method.cross()
        assert torch.allclose(model[0].weight, 2 * torch.eye(4, dtype=torch.float64))
    with replastic.during("singular_clip:high=2", model, optimizer) as method:
        with torch.no_grad():
            model[0].weight.copy_(outside)
        assert method.after_update() == []


def test_a_file_is_clipped_like_the_model(tmp_path: Path) -> None:
    model = network().float()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    replastic.rewrite(tmp_path / "model.safetensors", tmp_path / "out.safetensors", "singular_clip:low=0.3,high=0.4")
    values = torch.linalg.svdvals(load_file(tmp_path / "out.safetensors")["2.weight"].double())
    assert values.min() > 0.3 - 1e-6
    assert values.max() < 0.4 + 1e-6
    assert torch.linalg.svdvals(model[2].weight.double()).max() > 0.4


def test_a_band_that_is_upside_down_is_refused() -> None:
    with pytest.raises(UserError, match=r"singular_clip: low must be at most high, got low=0\.5 and high=0\.25"):
        methods.from_spec("singular_clip:low=0.5,high=0.25")
    with pytest.raises(UserError, match="low"):
        methods.from_spec("singular_clip:low=-0.1")
    with pytest.raises(UserError, match="high"):
        methods.from_spec("singular_clip:high=0")


def test_the_initial_weights_are_asked_for_where_the_band_is_relative_to_them(run_on: RunOn) -> None:
    with pytest.raises(UserError, match="singular_clip needs the initial weights"):
        methods.check_needs(methods.from_spec("singular_clip:scale=init"), run_on(network()))
