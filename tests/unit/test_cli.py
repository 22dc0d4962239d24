"""The frame of the command line: help, exit codes, errors in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from replastic import __version__
from replastic.cli import commands, main
from replastic.parallel.distributed import LostProcessError


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert {"compare", "inspect", "list", "report", "rewrite", "run"} <= set(commands())
    for name, summary in commands().items():
        assert name in text
        assert summary in text


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        sys.exit(main([command, "--help"]))
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"replastic {command}" in text
    assert "example" in text.lower()


def test_unknown_command_offers_a_near_miss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reprot"]) == 2
    assert (
        capsys.readouterr().err == "replastic: error: unknown command 'reprot'; did you mean 'report' or 'rewrite'?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run digits_random_labels --jobs x", "--jobs must be a whole number, got 'x'"),
        ("run digits_random_labels --learning-rate x", "--learning-rate must be a number, got 'x'"),
        ("run digits_random_labels --optimizer-policy foo", "'reset_all'"),
        ("run digits_random_labels --tasks 3 4", "unknown option or one argument too many: 4"),
        ("run digits_random_labels --methods --jobs 1", "--methods needs the names of methods after it"),
        ("inspect", "PATH is missing"),
        ("inspect a --recip all", "unknown option or one argument too many: --recip, all (did you mean --recipe?)"),
        ("inspect a --include banana", "invalid choice 'banana' for argument '--include'"),
        ("rewrite a b --method", "argument --method: expected one argument"),
        ("report", "the following arguments are required: RUNS"),
        ("compare", "the following arguments are required: FIRST"),
        ("list --nope", "unrecognized arguments: --nope"),
    ],
)
def test_arguments_that_cannot_be_read_are_one_sentence(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("replastic: error: ")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"replastic {__version__}\n"


def test_list_knows_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"fire", "base", "rescale"} <= {row["name"] for row in found["methods"]}
    assert {"default", "paper-gpt"} <= {row["name"] for row in found["recipes"]}
    assert [row["name"] for row in found["solvers"]]
    for rows in found.values():
        assert all(row["summary"] for row in rows), rows


def test_list_tells_the_settings_of_the_kinds_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "streams", "networks", "data", "methods", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"warm_start", "continual", "class_incremental", "random_labels"} <= {r["name"] for r in found["streams"]}
    assert {"cifar10", "images"} <= {row["name"] for row in found["data"]}
    for kind, rows in found.items():
        for row in rows:
            for setting in row["settings"]:
                assert setting["help"], (kind, row["name"], setting["name"])
    settings = {row["name"]: [s["name"] for s in row["settings"]] for row in found["streams"]}
    assert settings["warm_start"] == ["access", "replay", "ratio", "first_epochs", "epochs"]
    (interpolation,) = (row for row in found["methods"] if row["name"] == "interpolation")
    assert interpolation["settings"][0] == {
        "name": "strength",
        "default": 0.8,
        "help": "how far to go: 0 keeps the weights, 1 gives the initial ones",
    }
    assert main(["list", "networks"]) == 0
    assert "blocks=2 2 2 2  blocks of each stage" in capsys.readouterr().out
    assert main(["list"]) == 0
    assert "blocks=" not in capsys.readouterr().out


def test_list_of_an_unknown_kind_offers_a_near_miss(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "metods"]) == 2
    assert "unknown kind 'metods'; did you mean 'methods'" in capsys.readouterr().err


def test_help_is_quick_because_it_does_not_import_torch() -> None:
    code = "import sys; from replastic.cli import main; main(['--help']); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)


def test_what_is_no_mistake_of_the_input_ends_in_a_sentence_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(arguments: object) -> int:
        raise LostProcessError("another process has ended")

    monkeypatch.setattr("replastic.cli.list.main", lost)
    assert main(["list"]) == 1
    assert capsys.readouterr().err == "replastic: error: another process has ended\n"
