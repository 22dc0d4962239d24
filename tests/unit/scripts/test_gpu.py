"""`./run gpu` without a GPU: order, time, kills and going on, failures, records; data in pieces and back."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Script = Callable[[str], ModuleType]


@pytest.fixture
def parts(script: Script, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Function (name=(seconds expected, source of a Python program)) -> there are these parts and no others."""

    def make(**given: tuple[float, str]) -> None:
        known = script("gpu_parts")

        def part(name: str, seconds: float, source: str) -> Any:
            return known.Part(
                name,
                f"the part {name}",
                seconds,
                lambda here: [[sys.executable, "-c", source, str(here.out)]],
                lambda here: f"found by {name}",
                smoke=seconds,
            )

        made = tuple(part(name, *value) for name, value in given.items())
        monkeypatch.setattr(known, "PARTS", made)
        for module in (known, script("gpu_records")):
            monkeypatch.setattr(module, "ORDER", tuple(given))

    return make


def start(script: Script, out: Path, *more: str, minutes: float = 5.0) -> int:
    return script("gpu").main(["--dry-run", "--out", str(out), "--minutes", str(minutes), *more])


def statuses(out: Path) -> dict[str, str]:
    read = {file.stem: json.loads(file.read_text()) for file in out.glob("*.json") if ".rows" not in file.name}
    return {name: content["status"] for name, content in read.items()}


NOTE = "import sys, pathlib; file = pathlib.Path(sys.argv[1]) / 'order'; file.open('a').write('{}\\n')"


def test_without_a_gpu_it_says_so(script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if script("torch").cuda.is_available():
        pytest.skip("there is a GPU")
    assert script("gpu").main(["--out", str(tmp_path / "out")]) == 2
    assert "no CUDA device here. --dry-run" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_parts_run_in_order_and_one_that_fails_stops_no_other(
    script: Script, parts: Callable[..., None], tmp_path: Path
) -> None:
    parts(a=(1, NOTE.format("a")), b=(1, "raise SystemExit('no luck')"), c=(1, NOTE.format("c")))
    assert start(script, tmp_path) == 1
    assert (tmp_path / "order").read_text() == "a\nc\n"
    assert statuses(tmp_path) == {"a": "done", "b": "failed", "c": "done"}
    page = (tmp_path / "summary.md").read_text()
    assert "no luck" in page
    assert "found by c" in page
    assert "* commit: {'revision'" in page


def test_what_is_done_is_not_done_again(script: Script, parts: Callable[..., None], tmp_path: Path) -> None:
    parts(a=(1, NOTE.format("a")), b=(1, "raise SystemExit(1)"))
    start(script, tmp_path)
    assert start(script, tmp_path) == 0
    assert (tmp_path / "order").read_text() == "a\n"
    assert start(script, tmp_path, "--only", "b") == 1
    with pytest.raises(SystemExit, match="no part is called c; there are a, b"):
        start(script, tmp_path, "--only", "c")


def test_a_part_that_does_not_fit_is_skipped_with_a_sentence(
    script: Script, parts: Callable[..., None], tmp_path: Path
) -> None:
    parts(long=(1e4, NOTE.format("long")), short=(1, NOTE.format("short")))
    assert start(script, tmp_path) == 0
    assert statuses(tmp_path) == {"long": "skipped", "short": "done"}
    assert json.loads((tmp_path / "long.json").read_text())["reason"].startswith("it takes about 10000 s, and ")


def test_a_part_is_ended_when_its_time_is_over_and_begun_again_next_time(
    script: Script, parts: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script("gpu"), "MARGIN", 0.0)
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    parts(endless=(0.1, child), next=(0.1, NOTE.format("next")))
    began = time.monotonic()
    assert start(script, tmp_path, minutes=2 / 60) == 0
    assert time.monotonic() - began < 30
    assert statuses(tmp_path) == {"endless": "stopped", "next": "skipped"}
    parts(endless=(0.1, NOTE.format("again")), next=(0.1, NOTE.format("next")))
    assert start(script, tmp_path) == 0
    assert (tmp_path / "order").read_text() == "again\nnext\n"


def test_a_kill_leaves_a_record_to_go_on_from(script: Script, parts: Callable[..., None], tmp_path: Path) -> None:
    parts(a=(1, NOTE.format("a")))
    seen = {}
    records = script("gpu_records")
    usual = records.run

    def killed(*arguments: Any) -> Any:
        seen.update(statuses(tmp_path))
        raise KeyboardInterrupt

    records.run = killed
    try:
        with pytest.raises(KeyboardInterrupt):
            start(script, tmp_path)
    finally:
        records.run = usual
    assert seen == {"a": "stopped"}
    assert start(script, tmp_path) == 0
    assert statuses(tmp_path) == {"a": "done"}


def test_missing_packages_and_images_are_named(script: Script, tmp_path: Path) -> None:
    known, front = script("gpu_parts"), script("gpu")
    lacking = known.Part("x", "", 1, lambda here: [], lambda here: "", ("torch", "no_such_module"))
    assert front.why_not(lacking, known.Place(tmp_path), 99).startswith("it needs no_such_module, which ")
    images = known.Part("x", "", 1, lambda here: [], lambda here: "", (), "cifar10")
    assert "it needs cifar10 in --data" in front.why_not(images, known.Place(tmp_path, tmp_path), 99)
    assert front.why_not(images, known.Place(tmp_path, tmp_path, dry=True), 99) == ""


def test_commands_of_every_part_name_scripts_that_exist(script: Script, tmp_path: Path) -> None:
    known = script("gpu_parts")
    for part in known.PARTS:
        for dry in (False, True):
            commands = part.commands(known.Place(tmp_path, tmp_path, dry))
            assert commands
            for command in commands:
                assert command[1] == "-m" or Path(command[1]).is_file()
                assert ("cuda" in command) <= (not dry)


def folder_of_data(root: Path) -> dict[str, bytes]:
    content = {}
    for name, sizes in {"cifar10": (2500, 10, 999), "mnist": (1234,), "other": (5,)}.items():
        for number, size in enumerate(sizes):
            file = root / name / f"train-{number}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes((number * 7 + i * 13) % 251 for i in range(size)))
            if name != "other":
                content[str(file.relative_to(root))] = file.read_bytes()
    return content


def test_pieces_come_one_at_a_time_and_give_the_same_files(
    script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = script("gpu_pack")
    content = folder_of_data(tmp_path / "data")
    assert tool.pack(tmp_path / "data", tmp_path / "all", limit=1000) == 0
    manifest = json.loads((tmp_path / "all" / "manifest.json").read_text())
    assert [p["size"] for p in manifest["pieces"]] == [1000] * 4 + [743]
    there = tmp_path / "there"
    for piece in manifest["pieces"]:
        call = tmp_path / "call"
        call.mkdir(exist_ok=True)
        for name in (piece["name"], "manifest.json"):
            (call / name).write_bytes((tmp_path / "all" / name).read_bytes())
        assert tool.unpack(call, there)
        for file in call.iterdir():
            file.unlink()
        if piece["name"] == "piece-3":
            assert (there / "cifar10" / "train-2.parquet").exists(), "a set is there as soon as its last byte is"
            assert not (there / "mnist").exists()
    found = {str(f.relative_to(there)): f.read_bytes() for f in there.rglob("*.parquet")}
    assert found == content
    assert "still to come" not in capsys.readouterr().out.splitlines()[-1]


def test_damaged_pieces_are_refused(script: Script, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = script("gpu_pack")
    folder_of_data(tmp_path / "data")
    tool.pack(tmp_path / "data", tmp_path / "all", limit=1000)
    piece = tmp_path / "all" / "piece-1"
    piece.write_bytes(piece.read_bytes()[:-1] + b"x")
    assert not tool.unpack(tmp_path / "all", tmp_path / "there")
    assert "piece-1 is damaged" in capsys.readouterr().out
    assert tool.pack(tmp_path / "nothing", tmp_path / "all") == 2
    assert not tool.unpack(tmp_path / "nothing", tmp_path / "there")


def test_records_go_out_as_two_files_and_come_back(script: Script, parts: Callable[..., None], tmp_path: Path) -> None:
    parts(a=(1, NOTE.format("a")), b=(1, "raise SystemExit(1)"))
    state = tmp_path / "one" / "vision_warm_start" / "fire" / "seed-0" / "state" / "big"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"0" * 100)
    start(script, tmp_path / "one", "--export", str(tmp_path / "fetched"))
    assert sorted(f.name for f in (tmp_path / "fetched").iterdir()) == ["records.tar.gz", "summary.md"]
    archive = tmp_path / "fetched" / "records.tar.gz"
    assert start(script, tmp_path / "two", "--restore", str(archive)) == 0
    assert statuses(tmp_path / "two") == statuses(tmp_path / "one") == {"a": "done", "b": "failed"}
    assert not list((tmp_path / "two").rglob("big"))
    digest = hashlib.sha256((tmp_path / "two" / "summary.md").read_bytes())
    assert start(script, tmp_path / "two", "--restore", str(archive)) == 0
    assert hashlib.sha256((tmp_path / "two" / "summary.md").read_bytes()).digest() == digest.digest()


def test_the_smallest_number_of_runs_that_is_hardly_slower(script: Script) -> None:
    best = script("gpu_at_once").best
    assert best({1: 100.0, 2: 150.0, 4: 155.0}) == 2
    assert best({1: 100.0, 2: 80.0}) == 1
    assert best({1: 100.0, 2: 180.0, 4: 300.0}) == 4


@pytest.mark.slow
def test_a_dry_run_does_everything(script: Script, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    assert start(script, tmp_path, minutes=9) == 0
    assert set(statuses(tmp_path).values()) == {"done"} or "skipped" in (tmp_path / "summary.md").read_text()
    for name, status in statuses(tmp_path).items():
        assert status == "done" or name.endswith(".rows"), name


def test_a_dry_run_of_the_solvers(script: Script, tmp_path: Path) -> None:
    assert start(script, tmp_path, "--only", "large") == 0
    page = (tmp_path / "summary.md").read_text()
    assert "large (dry run: these numbers mean nothing)" in page
    assert "| tiny | exact |" in page
