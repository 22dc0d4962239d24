"""kill -9 at any moment: the same command goes on and ends in the numbers of a run that was left alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from replastic.records import find_runs

SCRIPT = Path(__file__).parents[1] / "support" / "killed_run.py"
CAMPAIGN = Path(__file__).parents[2] / "benchmarks" / "kill_campaign.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "bfloat16", "channels_last": True, "optimizer_policy": "keep"},
    ],
    ids=["plain", "fast"],
)
def test_killed_before_any_of_its_writes_a_run_ends_in_the_same_records(settings, tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=600,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # 3 evaluations, 2 ends of phases, before and after the boundary: each is one write at least.
    assert [r["event"] for r in found["whole"]].count("evaluation") == 3
    assert len(found["resumed"]) > len(found["whole"]) == 7
    for write, records in enumerate(found["resumed"]):
        assert records == found["whole"], f"killed before write {write}"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_language_model_killed_on_the_way_ends_in_the_same_records(tmp_path):
    settings = {
        "benchmark": "language_warm_start",
        "method": "from_checkpoint:at=best+fire+replay:share=0.3+rewarm",
        "every": 7,
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**ENVIRONMENT, "REPLASTIC_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["resumed"]) >= 4
    assert all(records == found["whole"] for records in found["resumed"])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize(
    ("benchmark", "package", "compared"),
    [
        ("minatar_priming", "minatar", None),
        ("shifted_control", "gymnasium", None),
        ("humanoid_sac", "dm_control", None),
        ("atari_dqn", "ale_py", ("phase", "step", "event", "frames")),  # this simulator cannot be restored
    ],
)
def test_an_agent_killed_on_the_way_ends_in_the_same_records(benchmark, package, compared, tmp_path):
    """With its replay, its environments, its normalisers and its place in every draw."""
    pytest.importorskip(package)
    settings = {"benchmark": benchmark, "method": "fire+redo", "every": 5}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), json.dumps(settings)],
        capture_output=True,
        text=True,
        timeout=500,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["resumed"]) >= 3
    whole, *resumed = [
        [{key: record.get(key) for key in compared or record} for record in records]
        for records in (found["whole"], *found["resumed"])
    ]
    assert all(records == whole for records in resumed)


def start(folder):
    settings = ["--preset", "smoke", "--methods", "base", "fire", "--seeds", "1", "--no-report", "--jobs", "2"]
    settings += ["--first-epochs", "30", "--epochs", "20", "--save-seconds", "0", "--out", str(folder)]
    command = [sys.executable, "-m", "replastic", "run", "digits_warm_start", *settings]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=ENVIRONMENT
    )


def written(folder):
    return sum(file.read_bytes().count(b"\n") for file in folder.rglob("metrics.jsonl"))


def content(folder):
    return {
        run.path.name + run.info().method: [{k: v for k, v in r.items() if k != "seconds"} for r in run.records()]
        for run in find_runs(folder)
    }


@pytest.mark.slow
def test_an_experiment_killed_again_and_again_ends_in_the_same_records(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    alone = start(whole)
    _, said = alone.communicate(timeout=600)
    assert alone.returncode == 0, said
    # 30 records of the shared first phase, which both runs begin with; then 22 of each: the boundary and 20 passes.
    for records in (5, 25, 100):
        process = start(parts)
        deadline = time.monotonic() + 600
        try:
            while written(parts) < records and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            assert process.poll() is None, process.communicate()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=60)
        assert records <= written(parts) < 134
    last = start(parts)
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0, said
    assert content(parts) == content(whole)
    assert written(parts) == 134
    assert all(run.done for run in find_runs(parts))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_commands_killed_at_random_moments_end_in_the_same_numbers_and_leave_nothing(tmp_path):
    log = tmp_path / "log.jsonl"

    def made(count):
        command = [sys.executable, str(CAMPAIGN), "--count", str(count), "--seed", "7", "--log", str(log)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    assert made(4)["kills"] == 4
    first = log.read_text()
    found = made(5)
    assert log.read_text().startswith(first), "what the log holds is not done again"
    assert found["kills"] == 5
    assert found["problems"] == {}
    assert len(found["trials"]) == 5, "every command is among them"
