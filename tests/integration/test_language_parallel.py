"""A language model in two processes under torchrun, with a copy each or with a part of the weights each, and in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from replastic.records import RunDirectory

pytestmark = pytest.mark.integration
SCRIPT = Path(__file__).parents[1] / "support" / "language_run.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
COPIES = ("base", "kept", "best", "bfloat16")
SHARDED = tuple(f"sharded-{name}" for name in COPIES)


def run(cache: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "REPLASTIC_CACHE": str(cache)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same runs by one process and by two."""
    alone, together, cache = (tmp_path_factory.mktemp(name) for name in ("alone", "together", "cache"))
    for done in (
        run(cache, SCRIPT, alone, *COPIES),
        run(cache, *TORCHRUN, SCRIPT, together, *COPIES, *SHARDED),
    ):
        assert done.returncode == 0, done.stderr[-6000:]
        assert "terminate called" not in done.stderr
    return alone, together


@pytest.mark.parametrize("case", [*COPIES, *SHARDED])
def test_two_processes_have_the_losses_and_weights_of_one(case: str, folders: tuple[Path, Path]) -> None:
    """Only the order of sums differs, which some steps of Adam magnify; and rounding, in bfloat16."""
    alone, together = folders[0] / case.removeprefix("sharded-"), folders[1] / case
    close = 5e-3 if "bfloat16" in case else 2e-4
    found, expected = RunDirectory(together).records(), RunDirectory(alone).records()
    assert [(r["event"], r["step"], r["tokens"]) for r in found] == [
        (r["event"], r["step"], r["tokens"]) for r in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds", "event"}:
            if "bfloat16" in case and "loss" not in key:
                continue  # measures near 0 show the rounding
            where = f"{case}, update {one['step']}, {one['event']}, {key}"
            assert one[key] == pytest.approx(other[key], rel=close, abs=1e-5), where
    for part in ("state/state.safetensors", "checkpoints/phase-0-step-4.safetensors"):
        mine, theirs = load_file(together / part), load_file(alone / part)
        assert mine.keys() == theirs.keys()
        assert len(mine) > 5
        for name, value in mine.items():
            assert value.shape == theirs[name].shape
            if value.is_floating_point():
                torch.testing.assert_close(value, theirs[name], atol=10 * close, rtol=10 * close, msg=f"{case} {name}")


def test_sharding_needs_several_processes(tmp_path: Path) -> None:
    command = [
        "-m",
        "replastic",
        "run",
        "language_warm_start",
        "--preset",
        "smoke",
        "--sharded",
        "--out",
        tmp_path / "x",
    ]
    done = run(tmp_path, *command)
    assert done.returncode != 0
    assert "start it with torchrun" in done.stderr
