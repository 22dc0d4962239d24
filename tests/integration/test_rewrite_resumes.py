"""A rewrite that is killed or stopped goes on at the tensor where it was, and ends in the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support.commands import replastic

TENSORS, SHARDS = 24, 3
PLUGIN = Path(__file__).parents[1] / "support" / "slow_copy.py"


def make(folder: Path) -> Path:
    """Matrices in shards that also hold what a rewrite leaves alone, and a file beside them."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(0)
    index = {}
    for shard in range(SHARDS):
        layers = range(shard * TENSORS // SHARDS, (shard + 1) * TENSORS // SHARDS)
        tensors = {f"layers.{i}.fc.weight": torch.randn(1100, 1000, generator=draw).bfloat16() for i in layers}
        tensors |= {f"layers.{i}.norm.weight": torch.randn(16, generator=draw) for i in layers}
        save_file(tensors, folder / f"model-{shard}.safetensors")
        index |= dict.fromkeys(tensors, f"model-{shard}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text("{}")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def begun(folder: Path, solved: Path, *further: str) -> subprocess.Popen[str]:
    arguments = ["rewrite", str(folder / "in"), str(folder / "out"), "--method", "slow_negation", "--recipe", "all"]
    environment = {**os.environ, "SOLVED": str(solved), "OMP_NUM_THREADS": "1"}
    return replastic(*arguments, "--plugin", str(PLUGIN), *further, env=environment)


def stop_after(process: subprocess.Popen[str], solved: Path, count: int, end: Callable[[], object]) -> list[str]:
    """End the process when it has solved some tensors, and return which it has."""
    until = time.monotonic() + 120
    while len(lines(solved)) < count and time.monotonic() < until:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    end()
    return lines(solved)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="tells a dead process from a living one by /proc")
def test_a_killed_rewrite_goes_on_at_its_tensor(tmp_path: Path) -> None:
    source = make(tmp_path / "in")
    before = content(source)
    solved = tmp_path / "solved"
    done: set[str] = set()
    for stop in (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        solved.unlink(missing_ok=True)
        process = begun(tmp_path, solved)
        names = stop_after(process, solved, 4, lambda p=process, s=stop: os.killpg(p.pid, s))  # type: ignore[misc]
        _, said = process.communicate(timeout=60)
        assert not (tmp_path / "out").exists()
        assert not done & set(names[:-1]), "no tensor is solved twice, but for the one under way"
        done |= set(names[:-2])  # the last may not have been written, the one before it was being written
        if stop != signal.SIGKILL:
            assert "the same command goes on from here:" in said
            assert "Traceback" not in said
    solved.unlink()
    last = begun(tmp_path, solved, "--json")
    told, said = last.communicate(timeout=120)
    assert last.returncode == 0, said
    outcome = json.loads(told)
    assert len(outcome["written"]) == len(outcome["layers"]) == TENSORS
    assert len(lines(solved)) <= TENSORS - len(done)
    (note,) = [note for note in outcome["notes"] if "went on from a call that was stopped" in note]
    assert int(note.split(": ")[1].split()[0]) == TENSORS - len(lines(solved))

    whole = begun(tmp_path, tmp_path / "alone", "--overwrite", "--json")
    first = content(tmp_path / "out")
    told, said = whole.communicate(timeout=120)
    assert whole.returncode == 0, said
    assert content(tmp_path / "out") == first, "the bytes are those of a rewrite that was left alone"
    assert json.loads(told)["layers"] == outcome["layers"], "so is what is reported of each tensor"
    assert len(lines(tmp_path / "alone")) == TENSORS
    assert content(source) == before
    for shard in range(SHARDS):
        old, new = (load_file(tmp_path / place / f"model-{shard}.safetensors") for place in ("in", "out"))
        assert all(torch.equal(new[n], -old[n] if old[n].ndim == 2 else old[n]) for n in old)
    assert sorted(os.listdir(tmp_path)) == ["alone", "in", "out", "solved"], "nothing is left behind"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="tells a dead process from a living one by /proc")
def test_other_settings_begin_anew(tmp_path: Path) -> None:
    make(tmp_path / "in")
    process = begun(tmp_path, tmp_path / "solved")
    stop_after(process, tmp_path / "solved", 4, lambda: os.killpg(process.pid, signal.SIGKILL))
    process.communicate(timeout=60)
    assert len([name for name in os.listdir(tmp_path) if name.startswith(".replastic-")]) == 2
    other = begun(tmp_path, tmp_path / "other", "--seconds", "0")
    _, said = other.communicate(timeout=120)
    assert other.returncode == 0, said
    assert len(lines(tmp_path / "other")) == TENSORS
    assert sorted(os.listdir(tmp_path)) == ["in", "other", "out", "solved"]
