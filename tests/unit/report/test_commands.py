"""`replastic report` and `replastic compare`: words, JSON and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from replastic.cli import main


def test_report_prints_the_table_and_where_the_page_is(tmp_path: Path, write_run, capsys) -> None:
    for seed in range(2):
        write_run(tmp_path / "runs", "base", seed, [0.5 + seed / 10])
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "base    0.550" in out
    assert out.endswith(f"report: {tmp_path / 'out' / 'report.html'}\n")


def test_report_as_json(small_folder: Path, capsys) -> None:
    assert main(["report", str(small_folder), "--json", "--reference", "fire"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert Path(content["report"]).is_file()
    assert content["reference"] == "fire"
    assert [m["standing"] for m in content["methods"]] == [None, "worse"]


def test_compare_in_words_and_as_json(experiment_folder: Path, capsys) -> None:
    command = ["compare", str(experiment_folder), "--methods", "base", "fire"]
    assert main(command) == 0
    assert "fire minus base" in capsys.readouterr().out
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["standing"] == "better"


@pytest.mark.parametrize("command", ["report", "compare"])
def test_wrong_paths_exit_with_2_and_one_sentence(command: str, tmp_path: Path, capsys) -> None:
    assert main([command, str(tmp_path / "nowhere"), *(["b"] if command == "compare" else [])]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("replastic: error: no runs found in")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("command", ["report", "compare"])
def test_help_teaches(command: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"replastic {command} runs/" in capsys.readouterr().out
