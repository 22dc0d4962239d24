"""`replastic sweep` as a user types it, on a Ray cluster of one machine."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from replastic import report
from replastic.cli import main
from replastic.records import RunDirectory, find_runs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed"),
]
SETTINGS = ["digits_warm_start", "--preset", "smoke", "--first-epochs", "3", "--epochs", "20", "--save-seconds", "0"]
SWEEP = ["sweep", *SETTINGS, "--methods", "interpolation", "--set", "interpolation.strength=0.1,0.9", "--jobs", "2"]
CLUSTER = """
import ray, sys
context = ray.init(num_cpus=2, num_gpus=0, include_dashboard=False, object_store_memory=100 * 2**20)
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a cluster with two processors, which ends with these tests; who joins it needs its token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        command, pipe = [sys.executable, "-c", CLUSTER], subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as cluster:
            assert cluster.stdout is not None
            found = cluster.stdout.readline().strip()
            assert found, "Ray did not start"
            yield found
            cluster.communicate(timeout=120)


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "replastic", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def content(folder: Path) -> dict[str, list[dict[str, object]]]:
    """Every record of every run below `folder`, without what cannot be repeated."""
    return {
        str(run.path.relative_to(folder)): [{k: v for k, v in r.items() if k != "seconds"} for r in run.records()]
        for run in find_runs(folder)
    }


def wait_for_records(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline:
        files = [file for file in folder.rglob("metrics.jsonl") if ".shared" not in file.parts]
        if sum(file.read_text().count("\n") for file in files) >= count:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    raise AssertionError("the sweep did not begin")


def test_stopped_killed_and_resumed_it_ends_like_plain_runs_and_says_which_is_best(
    tmp_path: Path, address: str
) -> None:
    plain, swept = tmp_path / "plain", tmp_path / "swept"
    specs = ["interpolation:strength=0.1", "interpolation:strength=0.9"]
    assert main(["run", *SETTINGS, "--methods", *specs, "--seeds", "1", "--out", str(plain), "--no-report"]) == 0

    command = [*SWEEP, "--seeds", "1", "--address", address, "--out", str(swept)]
    stopped = start(command)
    wait_for_records(swept, 12, stopped)
    os.killpg(stopped.pid, signal.SIGINT)
    _, said = stopped.communicate(timeout=120)
    assert stopped.returncode == 130, said
    assert "the same command goes on from here: replastic sweep digits_warm_start" in said
    assert "Traceback" not in said

    before = sum(len(run.records()) for run in find_runs(swept))
    killed = start(command)
    wait_for_records(swept, before + 4, killed)
    killed.kill()
    killed.communicate(timeout=120)

    done = start([*command, "--json"])
    out, said = done.communicate(timeout=600)
    assert done.returncode == 0, said
    assert content(swept) == content(plain)

    outcome = json.loads((swept / "best.json").read_text())
    assert {key: json.loads(out)[key] for key in outcome} == outcome
    scores = {
        spec: RunDirectory(swept / spec.replace(":", "-") / "seed-0").records()[-1]["metric/accuracy_held_out"]
        for spec in specs
    }
    search = outcome["methods"]["interpolation"]
    assert {tried["spec"]: tried["held_out"] for tried in search["tried"]} == scores
    assert search["held_out"] == max(scores.values())
    assert outcome["command"].endswith(f"--methods base {search['spec']}")
    assert report.load(swept).methods == tuple(specs)

    again = start(command)  # Everything is finished: no Ray, only the answer.
    out, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert f"run it: {outcome['command']}" in out


def test_a_trial_that_fails_is_named_and_the_others_go_on_each_with_one_thread(tmp_path: Path, address: str) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "from replastic import methods\n"
        "@methods.register('mine')\n"
        "@dataclass(kw_only=True)\n"
        "class Mine(methods.Method):\n"
        "    kind: int = methods.option(0, help='how to end', search=(1, 2))\n"
        "    def on_boundary(self, run):\n"
        "        if self.kind == 2 or torch.get_num_threads() != 1:\n"
        "            raise RuntimeError(f'broken on purpose with {torch.get_num_threads()} threads')\n"
    )
    out = tmp_path / "out"
    arguments = ["--methods", "mine", "--seeds", "1", "--out", str(out), "--jobs", "1", "--plugin", str(plugin)]
    swept = start(["sweep", *SETTINGS, *arguments, "--address", address])
    said, complaints = swept.communicate(timeout=600)
    assert swept.returncode == 1, complaints
    assert "mine:kind=2, seed 0 failed: " in complaints
    assert "broken on purpose with 1 threads" in complaints
    assert "mine:kind=1" in said
    outcome = json.loads((out / "best.json").read_text())
    assert outcome["methods"]["mine"]["spec"] == "mine:kind=1"
    assert list(outcome["failed"]) == ["mine:kind=2, seed 0"]
    assert f"--plugin {plugin}" in outcome["command"]
    assert not RunDirectory(out / "mine-kind=2" / "seed-0").done
