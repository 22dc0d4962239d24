"""`replastic theory` as a new user would type it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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
        "energy": None,
        "bound": None,
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
