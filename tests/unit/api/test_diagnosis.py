"""The report on weights: numbers against hand computation, and the verdict in words."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import replastic
from replastic import linalg, recipes
from replastic.api.checkpoints import inspect, rewrite
from replastic.api.diagnosis import COLLAPSED, WeightReport, weight_report
from replastic.errors import UserError
from replastic.weights.module_store import ModuleStore


def gaussian(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def low_rank(d_out: int, d_in: int, rank: int) -> Tensor:
    """Exactly `rank` equal singular values."""
    left, right = torch.linalg.qr(gaussian(d_out, rank))[0], torch.linalg.qr(gaussian(d_in, rank))[0]
    return left @ right.T


def report(tmp_path: Path, **tensors: Tensor) -> WeightReport:
    content = {f"{name}.weight": value.contiguous() for name, value in tensors.items()}
    save_file(
        content | {f"{name}.bias": torch.zeros(len(t)) for name, t in tensors.items()}, tmp_path / "m.safetensors"
    )
    return inspect(tmp_path / "m.safetensors")


def test_measures_of_a_diagonal_matrix(tmp_path: Path) -> None:
    (layer,) = report(tmp_path, a=torch.diag(torch.tensor([4.0, 2.0, 1.0, 1.0]))).layers
    share = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
    assert layer.effective_rank == pytest.approx(math.exp(-(share * share.log()).sum()))
    assert layer.stable_rank == pytest.approx(22 / 16)
    assert layer.condition_number == pytest.approx(4)
    assert layer.norm == pytest.approx(math.sqrt(22))
    assert (layer.mean_square, layer.largest) == (pytest.approx(22 / 4), pytest.approx(4))
    assert layer.dfi == pytest.approx(15**2 + 3**2)
    assert layer.residual == pytest.approx((15**2 + 3**2) / 4)
    assert (layer.shape, layer.kind, layer.role, layer.batch) == ((4, 4), "linear", "matrix", 1)


def test_taps_of_a_kernel_are_summed_and_averaged(tmp_path: Path) -> None:
    kernel = gaussian(6, 4, 2, 2)
    (layer,) = report(tmp_path, conv=kernel).layers
    taps = [kernel[:, :, i, j].double() for i in range(2) for j in range(2)]
    grams = [float((w @ w.T - torch.eye(6)).square().sum()) for w in taps]
    assert layer.dfi == pytest.approx(sum(grams))
    assert layer.effective_rank == pytest.approx(sum(float(linalg.effective_rank(w)) for w in taps) / 4)
    assert layer.norm == pytest.approx(float(kernel.norm()))


def test_scale_largest_and_spread_of_a_spectrum_are_side_by_side(tmp_path: Path) -> None:
    lines = str(report(tmp_path, a=torch.diag(torch.tensor([4.0, 2.0, 1.0, 1.0])))).splitlines()
    head = next(i for i, line in enumerate(lines) if "singular values of" in line)
    assert "mean square" in lines[head]
    assert "spread (largest / smallest)" in lines[head]
    assert lines[head + 1].split() == ["a.weight", "5.5", "4", "4"]


def test_verdict_names_the_collapsed_layers(tmp_path: Path) -> None:
    found = report(tmp_path, good=gaussian(64, 64), bad=low_rank(64, 128, 5), worse=low_rank(64, 64, 3))
    assert [x.weight for x in found.collapsed] == ["worse.weight", "bad.weight"]
    assert found.verdict.startswith("2 of 3 layers have collapsed: worse.weight uses 3 of 64 directions.")
    assert str(found).endswith(found.verdict)
    assert "3.0 of 64 !" in str(found)


def test_verdict_when_nothing_is_wrong(tmp_path: Path) -> None:
    verdict = report(tmp_path, a=gaussian(32, 32), b=gaussian(32, 64)).verdict
    used = round(float(linalg.effective_rank(gaussian(32, 32))))
    narrowest = f"the narrowest of 2 layers, a.weight, uses {used} of 32 directions."
    assert verdict.startswith(f"No layer has collapsed: {narrowest}")
    assert "replastic.diagnose" in verdict


def test_verdict_on_numbers_that_are_not_finite(tmp_path: Path) -> None:
    broken = gaussian(16, 16)
    broken[3, 2] = torch.nan
    found = report(tmp_path, a=broken, b=low_rank(16, 16, 1))
    assert found.verdict.startswith("1 of 2 layers hold NaN or infinite numbers, a.weight first")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["layers"][0]["dfi"] is None


def test_verdict_on_zero_and_on_small_layers(tmp_path: Path) -> None:
    assert "are all zero, a.weight first" in report(tmp_path, a=torch.zeros(16, 16), b=gaussian(16, 16)).verdict
    assert "too few to judge by" in report(tmp_path, a=low_rank(4, 4, 1)).verdict


@pytest.mark.parametrize("shape", [(8, 8), (64, 64), (256, 256), (16, 200), (10, 12)])
def test_matrices_drawn_at_random_are_far_from_collapsed(shape: tuple[int, int]) -> None:
    """What the threshold's docstring says of random matrices."""
    share = linalg.effective_rank(gaussian(20, *shape)) / min(shape)
    assert float(share.min()) > 0.65
    assert COLLAPSED < 0.5


def test_a_rewrite_is_seen_as_isometric(tmp_path: Path) -> None:
    save_file({"a.fc1.weight": low_rank(32, 32, 4) + 0.001 * gaussian(32, 32)}, tmp_path / "m.safetensors")
    assert inspect(tmp_path / "m.safetensors").collapsed
    rewrite(tmp_path / "m.safetensors", tmp_path / "n.safetensors")
    (layer,) = inspect(tmp_path / "n.safetensors").layers
    assert layer.residual < 1e-6
    assert layer.effective_rank == pytest.approx(32, rel=1e-4)


def test_same_report_on_a_live_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 12))
    live = weight_report(ModuleStore(model), recipes.load("default"))
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    on_file = inspect(tmp_path / "m.safetensors").layers
    assert [x.known_by for x in (*live.layers, *on_file)] == ["module type"] * len(live.layers) + [
        "names and shapes"
    ] * len(on_file)
    assert [replace(x, known_by="") for x in live.layers] == [replace(x, known_by="") for x in on_file]


def test_what_cannot_be_seen_is_listed_with_the_remedy(tmp_path: Path) -> None:
    save_file(
        {"a.fc1.weight": gaussian(8, 8), "qkv.weight": gaussian(16, 8), "q.weight": torch.ones(4, 4, dtype=torch.int8)},
        tmp_path / "m.safetensors",
    )
    found = inspect(tmp_path / "m.safetensors")
    assert [x.weight for x in found.layers] == ["a.fc1.weight"]
    reasons = {s.weight: s.reason for s in found.skipped}
    assert "--layout qkv:split=q+k+v" in reasons["qkv.weight"]
    assert "dequantise" in reasons["q.weight"]
    given = inspect(tmp_path / "m.safetensors", layout="qkv:sizes=8+4+4")
    assert [x.block for x in given.layers if x.weight == "qkv.weight"] == ["q", "k", "v"]
    recipe = tmp_path / "r.toml"
    recipe.write_text('[[rule]]\nmatch = ["qkv"]\nlayout = { split = ["q", "k", "v"], sizes = [8, 4, 4] }\n')
    assert [x.block for x in inspect(tmp_path / "m.safetensors", recipe=recipe).layers] == ["q", "k", "v"]


def test_pattern_without_match(tmp_path: Path) -> None:
    save_file({"mlp.weight": gaussian(8, 8)}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="did you mean 'mlp'"):
        inspect(tmp_path / "m.safetensors", target_modules="mpl")


@pytest.mark.parametrize("size", [1e-250, 1e250])
def test_float64_of_every_size(tmp_path: Path, size: float) -> None:
    (layer,) = report(tmp_path, a=gaussian(16, 12).double() * size).layers
    assert layer.norm == pytest.approx(float(gaussian(16, 12).double().norm()) * size)
    assert layer.effective_rank == pytest.approx(float(linalg.effective_rank(gaussian(16, 12))))


def two_of_three(tmp_path: Path) -> Path:
    """A file with a fused weight of which one block has collapsed, a collapsed weight and a good one."""
    qkv = torch.cat([gaussian(32, 32), low_rank(32, 32, 2), gaussian(32, 32)])
    tensors = {"attn.qkv.weight": qkv, "blocks.0.fc1.weight": low_rank(32, 48, 3), "a.fc1.weight": gaussian(32, 32)}
    save_file(tensors, tmp_path / "m.safetensors")
    rule = '[[rule]]\nmatch = ["qkv"]\nlayout = { split = ["q", "k", "v"], sizes = [32, 32, 32] }\n'
    (tmp_path / "r.toml").write_text(f'{rule}[[rule]]\nmatch = ["*"]\n')
    return tmp_path / "m.safetensors"


def test_collapsed_layers_are_listed_for_scripts(tmp_path: Path) -> None:
    found = inspect(two_of_three(tmp_path), recipe=tmp_path / "r.toml")
    assert found.to_dict()["collapsed_layers"] == ["attn.qkv.weight[k]", "blocks.0.fc1.weight"]
    assert not found.sound


@pytest.mark.parametrize("dry_run", [False, True])
def test_only_collapsed_layers_are_rewritten(tmp_path: Path, dry_run: bool) -> None:
    source = two_of_three(tmp_path)
    arguments: dict[str, Any] = {"recipe": tmp_path / "r.toml", "only_collapsed": True, "dry_run": dry_run}
    outcome = rewrite(source, tmp_path / "n.safetensors", **arguments)
    assert {x.label for x in outcome.layers} == {"attn.qkv.weight[k]", "blocks.0.fc1.weight"}
    assert {s.weight: s.reason for s in outcome.skipped}["a.fc1.weight"] == "has not collapsed (only_collapsed)"
    if dry_run:
        return
    old, new = load_file(source), load_file(tmp_path / "n.safetensors")
    assert torch.equal(old["a.fc1.weight"], new["a.fc1.weight"])
    same = (old["attn.qkv.weight"] == new["attn.qkv.weight"]).all(1)
    assert same.tolist() == [True] * 32 + [False] * 32 + [True] * 32
    assert inspect(tmp_path / "n.safetensors", recipe=tmp_path / "r.toml").sound


def test_only_collapsed_where_nothing_has_collapsed(tmp_path: Path) -> None:
    save_file({"a.fc1.weight": gaussian(16, 16)}, tmp_path / "m.safetensors")
    outcome = rewrite(tmp_path / "m.safetensors", tmp_path / "n.safetensors", only_collapsed=True)
    assert outcome.written == ()
    assert "no layer has collapsed" in str(outcome)
    assert torch.equal(load_file(tmp_path / "n.safetensors")["a.fc1.weight"], gaussian(16, 16))
    with pytest.raises(UserError, match="only_collapsed must be True or False, got 'no'"):
        rewrite(tmp_path / "m.safetensors", None, only_collapsed="no", dry_run=True)  # type: ignore[arg-type]


def test_where_each_cut_comes_from_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    store = ModuleStore(nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 2)))
    source = {"2.weight": "a known class"}
    known = [replace(e, known_by=source.get(e.name, "names and shapes")) for e in store.entries()]
    monkeypatch.setattr(store, "entries", lambda: known)
    found = weight_report(store, recipes.load("default"))
    assert found.to_dict()["layers"][1]["known_by"] == "a known class"
    assert "cut into matrices by:\n  0.weight: names and shapes\n  2.weight: a known class\n" in str(found)


def test_the_output_layer_is_named(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))
    found = replastic.diagnose(model)
    assert "2.weight: taken as output layer" in str(found)
    assert "2.weight: taken as output layer" in str(replastic.fire_(model))
