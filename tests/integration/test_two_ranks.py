"""Two processes of a group: they write the same into the same weights, or both refuse and say the remedy."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "two_ranks.py"

pytestmark = pytest.mark.integration


def both(case: str, patience: str = "60") -> list[dict[str, object]]:
    """What the two processes of a case say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meet = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "REPLASTIC_PATIENCE": patience, "LINGER": "3"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), case, str(rank), meet],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in range(2)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    for process, (_, problems) in zip(started, ended, strict=True):
        assert process.returncode == 0, problems
    return [json.loads(said.splitlines()[-1]) for said, _ in ended]


@pytest.mark.parametrize("case", ["wrapped", "late", "whole", "statistics", "independent", "triggered"])
def test_what_is_alike_is_written(case: str) -> None:
    assert [told["error"] for told in both(case)] == ["", ""]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("apart", "processes 0 and 1 hold different weights (0.weight, 0.bias, 3.weight and 3 more): bring them to"),
        ("shares", "processes 0 and 1 would write different values (0.weight, 0.bias, 3.weight and 1 more) into"),
        ("inside", "processes 0 and 1 would write different values ("),
        ("failing", "process 1 could not go on (3.weight"),
    ],
)
def test_both_refuse_what_would_make_them_diverge(case: str, words: str) -> None:
    zero, one = both(case)
    assert words in str(zero["error"])
    assert "nothing was written in any process" in str(zero["error"])
    assert "ranks='independent'" in str(zero["error"])
    assert one["error"] == zero["error"] or case == "failing"
    assert float(str(zero["seconds"])) < 30


def test_a_call_in_one_process_alone_ends_with_the_remedy() -> None:
    zero, one = both("alone", patience="3")
    assert "only some processes of the group made this call: process 1 did not within 3 seconds" in str(zero["error"])
    assert "Call it in every process" in str(zero["error"])
    assert 3 <= float(str(zero["seconds"])) < 20
    assert one["error"] == ""


def test_after_it_calls_in_all_processes_meet_again() -> None:
    assert [told["error"] for told in both("again", patience="2")] == ["", ""]
