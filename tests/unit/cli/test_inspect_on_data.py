"""`replastic inspect --data`: a checkpoint, the function that makes its network, and data; or a run's own folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import replastic
from replastic import networks
from replastic.api.on_data import inspect_on
from replastic.cli.inspect import main
from replastic.errors import UserError
from replastic.records import RunDirectory, RunInfo

MAKE = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))

def wrong():
    return 3
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        batch = {"inputs": torch.randn(40, 12), "targets": torch.randint(4, (40,))}
    (tmp_path / "net.py").write_text(MAKE)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    torch.save((batch["inputs"], batch["targets"]), tmp_path / "pair.pt")
    torch.save({"x": batch["inputs"], "y": batch["inputs"][:, :4]}, tmp_path / "numbers.pt")
    save_file(batch, tmp_path / "batch.safetensors")
    torch.save([batch["inputs"]], tmp_path / "none.pt")
    return tmp_path


def test_the_command_gives_what_diagnose_gives(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = f"{place}/net.py:make"
    for data in ("pair.pt", "batch.safetensors"):
        asked = [str(place / "model.pt"), "--model", made, "--data", str(place / data), "--measures", "dead", "ntk_top"]
        assert main([*asked, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        model.load_state_dict(torch.load(place / "model.pt"))
        expected = replastic.diagnose(
            model,
            torch.load(place / "pair.pt"),
            lambda m, b: nn.functional.cross_entropy(m(b[0]), b[1]),
            measures=["dead", "ntk_top"],
        ).to_dict()
        assert {k: v for k, v in found.items() if k != "path"} == json.loads(json.dumps(expected))
    assert main([str(place / "model.pt"), "--model", made, "--data", str(place / "pair.pt"), "--samples", "9"]) == 0
    said = capsys.readouterr().out
    assert "units of" in said
    assert "seen on 9 samples" in said


def test_numbers_as_targets_have_the_squared_error(place: Path) -> None:
    found = inspect_on(place / "model.pt", place / "numbers.pt", model=f"{place}/net.py:make", samples=10)
    x = torch.load(place / "numbers.pt")
    model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    model.load_state_dict(torch.load(place / "model.pt"))
    expected = (model(x["x"][:10]) - x["y"][:10]).detach().square().mean()
    assert found.loss == pytest.approx(float(expected), rel=1e-5)


def test_the_folder_of_a_run_knows_its_network(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = networks.build(networks.get("mlp")(hidden=(24, 24)), (64,), 10, seed=0)
    network = {"type": "Mlp", "hidden": [24, 24]}
    run = RunDirectory(tmp_path / "seed-0")
    run.create(RunInfo("digits_random_labels", "base", 0, {"network": network}))
    with pytest.raises(UserError, match="holds no weights: a run keeps them in state/ until it has finished"):
        inspect_on(run.path, "digits")
    (run.path / "state").mkdir()
    state = {f"model/{name}": value for name, value in model.state_dict().items()}
    save_file(state | {"learner/x": torch.ones(2)}, run.path / "state" / "state.safetensors")
    found = inspect_on(run.path, "digits", samples=50)
    assert found.loss is not None
    assert {u.samples for u in found.units} == {50}


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("", "pair.pt", "holds weights, but no code that runs them: pass --model"),
        ("net.py:make", "absent.pt", "there is no file"),
        ("net.py:make", "none.pt", "must hold inputs and targets"),
        ("net.py:make", "net.py", "cannot be read as tensors"),
        ("net.py:absent", "pair.pt", "has no function 'absent'"),
        ("net.py:wrong", "pair.pt", r"wrong\(\) must return a torch.nn.Module, got int"),
        ("net.py", "pair.pt", "must be FILE.py:FUNCTION or MODULE:FUNCTION"),
        ("nothing.py:make", "pair.pt", "cannot import .*nothing.py"),
    ],
)
def test_what_is_missing_is_said(place: Path, model: str, data: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        inspect_on(place / "model.pt", place / data, model=f"{place}/{model}" if model else "")


def test_a_checkpoint_of_another_network(place: Path) -> None:
    save_file({"0.weight": torch.ones(16, 12)}, place / "other.safetensors")
    with pytest.raises(UserError, match=r"does not fit the model: it lacks 0\.bias"):
        inspect_on(place / "other.safetensors", place / "pair.pt", model=f"{place}/net.py:make")
    with pytest.raises(UserError, match="--measures needs --data"):
        main([str(place / "model.pt"), "--measures", "dead"])


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        (torch.randn(40, 3, 8, 8), torch.randint(4, (40,)), r"samples of 3x8x8 \(torch.float32\).* RuntimeError: mat1"),
        (torch.randint(9, (40, 12)), torch.randint(4, (40,)), r"samples of 12 \(torch.int64\).* RuntimeError: "),
        (torch.randn(40, 12), torch.randint(4, (40, 2)), r"targets of 2 \(torch.int64\): RuntimeError: "),
        (torch.randn(40, 12), torch.full((40,), 7), r"targets of one number .*: IndexError: Target 7 is out of bounds"),
    ],
)
def test_data_that_the_network_does_not_take(
    place: Path, inputs: torch.Tensor, targets: torch.Tensor, words: str
) -> None:
    torch.save((inputs, targets), place / "other.pt")
    with pytest.raises(UserError, match=f"the network cannot be run on these data, .*{words}"):
        inspect_on(place / "model.pt", place / "other.pt", model=f"{place}/net.py:make")
