"""Run directories survive kills, damage and newer versions."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from replastic.errors import UserError
from replastic.records import RunDirectory, RunInfo, environment, find_runs, write_text

INFO = RunInfo(benchmark="digits_random_labels", method="fire", seed=3, config={"tasks": 2})


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "fire" / "seed-3")
    directory.create(INFO)
    return directory


def test_what_is_written_is_read(run: RunDirectory) -> None:
    assert run.info() == INFO
    run.append({"phase": 0, "metric/accuracy": 0.25})
    run.append({"phase": 1, "metric/accuracy": 0.5}, {"phase": 2, "metric/accuracy": 1.0})
    assert [r["metric/accuracy"] for r in run.records()] == [0.25, 0.5, 1.0]
    assert not run.done
    run.finish()
    assert run.done


def test_a_line_cut_short_by_a_kill_is_left_out_and_overwritten(run: RunDirectory) -> None:
    run.append({"phase": 0}, {"phase": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": 2, "metric/acc')
    assert [r["phase"] for r in run.records()] == [0, 1]
    run.keep_records(1)
    run.append({"phase": 7})
    assert [r["phase"] for r in run.records()] == [0, 7]


def test_runs_are_found_by_their_run_json(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert [r.path for r in find_runs(tmp_path)] == [run.path]
    with pytest.raises(UserError, match="no runs found"):
        find_runs(tmp_path / "notes")


def test_damage_and_newer_formats_are_named(run: RunDirectory) -> None:
    file = run.path / "run.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(UserError, match="newer version"):
        run.info()
    file.write_text(file.read_text()[:-20])
    with pytest.raises(UserError, match="damaged"):
        run.info()
    file.unlink()
    with pytest.raises(UserError, match=r"has no run\.json"):
        run.info()


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.json"
    write_text(file, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_that_cannot_be_listed_is_passed_over(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "closed").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise OSError(22, "Invalid argument")
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    assert [found.path for found in find_runs(tmp_path)] == [run.path]


def test_environment_says_what_a_reader_needs() -> None:
    found = environment()
    assert found["packages"]["torch"]
    assert found["cores"] >= 1
    assert set(found["git"] or {"revision": "", "dirty": False}) == {"revision", "dirty"}
