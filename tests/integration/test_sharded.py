"""A GPT in shards over two and three processes (FSDP2): rewritten as if it were whole, by all processes or by none."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from support.sharded_ranks import CASES

TESTS = Path(__file__).parents[1]

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@cache
def told(processes: int) -> list[dict[str, str]]:
    """What the processes say of all cases, which one start of them goes through."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "REPLASTIC_PATIENCE": "60"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "support.sharded_ranks", str(rank), str(processes), meet],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(processes)
    ]
    ended = [process.communicate(timeout=400) for process in started]
    for process, (_, problems) in zip(started, ended, strict=True):
        assert process.returncode == 0, problems
    return [json.loads(said.splitlines()[-1]) for said, _ in ended]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("processes", [2, 3])
def test_the_shards_are_rewritten_as_the_whole_model_is(processes: int, case: str) -> None:
    assert [of_process[case] for of_process in told(processes)] == [""] * processes
