"""`replastic theory` as a new user would type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from replastic.api import rebuilt
from replastic.cli import main


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """An isometry, an expanding layer, and a head that only --include takes in."""
    weights = {"up.weight": torch.eye(8, 4), "down.weight": torch.eye(4, 8), "lm_head.weight": torch.eye(3, 4)}
    save_file(weights, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_prints_a_table_the_reasons_and_a_verdict(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", str(checkpoint)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert "sqrt(DfI)" in lines[0]
    assert "  up.weight: sqrt(DfI) < 1 cannot hold: as d_out > d_in, DfI is at least d_out - d_in" in lines
    assert "  it has weights that were not looked at (lm_head.weight)" in lines
    assert lines[-1].startswith("Theorems 3 and 4 make promises for 1 of 2 layers")


def test_prints_json(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", str(checkpoint), "--json", "--include", "head"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["path"] == str(checkpoint)
    layers = {x["weight"]: x for x in content["layers"]}
    assert {name: x["scores"] for name, x in layers.items()} == {
        "up.weight": None,
        "down.weight": pytest.approx([1, 1]),
        "lm_head.weight": pytest.approx([1, 1]),
    }
    assert layers["up.weight"]["reason"] == "sqrt(DfI) < 1 cannot hold: 4 to 8 expands, and DfI is at least 4"
    assert layers["down.weight"]["no_dormant"]
    assert content["hessian"] == {
        "obstacles": [],
        "single": pytest.approx(1 + 2 * 3),  # nu 3 for the expanding layer, whose DfI is 4; else 1
        "pairs": pytest.approx(3 + 1 + 1),
        "seen": False,
        **dict.fromkeys(("energy", "bound", "beta", "gamma", "whitening", "gates", "measured")),
        **dict.fromkeys(("corollary", "as_printed")),
    }
    assert content["verdict"]


def test_a_recipe_and_patterns_choose(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["theory", str(checkpoint), "--json", "--target-modules", "down"]) == 0
    assert [x["weight"] for x in json.loads(capsys.readouterr().out)["layers"]] == ["down.weight"]
    assert main(["theory", str(checkpoint), "--json", "--recipe", "all"]) == 0
    assert len(json.loads(capsys.readouterr().out)["layers"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("theory", "PATH is missing"),
        ("theory nowhere.safetensors", "no checkpoint at"),
        ("theory {path} --recipe nope", "unknown recipe"),
        ("theory {path} --target-modules dwon", "did you mean 'down'"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: str, message: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.format(path=checkpoint).split()) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def network(seed: int, *, bias: bool = False) -> dict[str, torch.Tensor]:
    """Ten layers, so that 10 comes after 9, and a head that sorts first by name."""
    draw = torch.Generator().manual_seed(seed)
    widths = [64, *[12] * 10, 10]
    names = [f"layers.{k}" for k in range(1, 11)] + ["head"]
    found = {}
    for name, d_in, d_out in zip(names, widths, widths[1:], strict=False):
        found[f"{name}.weight"] = torch.randn(d_out, d_in, generator=draw) * (2 / d_in) ** 0.5
        if bias:
            found[f"{name}.bias"] = torch.randn(d_out, generator=draw) / 10
    return found


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    old, new = network(0), network(0)
    new["layers.3.weight"] += 0.01
    for name, tensors in (("old", old), ("new", new)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return str(tmp_path / "old.safetensors"), str(tmp_path / "new.safetensors")


def test_two_files_are_before_and_now(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = pair
    options = ["--include", "head", "--json", "--layout", *(f"layers.{k}:transposed=false" for k in range(1, 11))]
    assert main(["theory", old, new, *options]) == 0
    two = json.loads(capsys.readouterr().out)
    assert main(["theory", new, "--old", old, *options]) == 0
    assert json.loads(capsys.readouterr().out) == two
    assert two["path"] == new
    assert two["covariance"]["sfe"] == pytest.approx(144 * 1e-4, rel=1e-4)
    assert two["covariance"]["factor"] > 0


def test_data_give_both_sides(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    old, new = pair
    assert main(["theory", old, new, "--data", "digits", "--samples", "40", "--include", "head", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    gaps = found["covariance"]["gaps"]
    assert len(gaps) == 11
    assert all(0 <= gap["measured"] <= gap["bound"] <= gap["corollary"] for gap in gaps)
    assert [gap["measured"] < 1e-9 for gap in gaps] == [True] * 2 + [False] * 9  # layer 3 is the first that changed
    assert 0 < found["hessian"]["measured"] <= found["hessian"]["bound"]
    assert all(layer["on_batch"]["srank"] >= 1 for layer in found["layers"])
    assert main(["theory", new, "--data", "digits", "--samples", "40", "--include", "head"]) == 0
    said = capsys.readouterr().out
    assert "measured on this batch" in said
    assert "corollary 1" in said


def test_the_chain_of_a_file_computes_what_its_network_did(tmp_path: Path) -> None:
    weights = network(3, bias=True)
    save_file(weights, tmp_path / "net.safetensors")
    model = rebuilt.chain(tmp_path / "net.safetensors", "tanh")
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    h = x.flatten(1)
    for name in [*(f"layers.{k}" for k in range(1, 11)), "head"]:
        h = h @ weights[f"{name}.weight"].double().T + weights[f"{name}.bias"].double()
        h = h if name == "head" else h.tanh()
    assert torch.allclose(model(x), h)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{old} {new} --old {old}", "the network before is given twice, by two paths and by --old"),
        ("{new} --data digits --samples 0", "--samples must be at least 1, got 0"),
        ("{odd} --data digits", "holds norm.scale, so that no chain of Linears can be made of it"),
        ("{apart} --data digits", "do not follow each other (a.weight (3, 64), b.weight (10, 4))"),
        ("{small} --data digits", "takes 4 numbers and gives 10, and samples of digits have 64 numbers and 10"),
        ("{small} {new} --data digits", "do not hold the same network"),
        ("{new} --data nothing", "unknown data"),
    ],
)
def test_mistakes_with_data_are_one_sentence(
    arguments: str, message: str, pair: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {
        "odd": {"a.weight": torch.eye(3), "norm.scale": torch.ones(3)},
        "apart": {"a.weight": torch.ones(3, 64), "b.weight": torch.ones(10, 4)},
        "small": {"a.weight": torch.ones(10, 4)},
    }
    for name, tensors in files.items():
        save_file(tensors, tmp_path / f"{name}.safetensors")
    paths = {name: str(tmp_path / f"{name}.safetensors") for name in (*files, "old", "new")}
    assert main(["theory", *arguments.format(**paths).split()]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
