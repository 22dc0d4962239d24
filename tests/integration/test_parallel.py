"""Two processes under torchrun have the numbers of one process with the same batches."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from replastic.records import RunDirectory

SCRIPT = Path(__file__).parents[1] / "support" / "parallel_run.py"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SAME = ("fire", "dash", "average", "vit", "redo", "cbp", "snr", "sam")


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same runs by one process and by two."""
    alone, together = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("together")
    for done in (run(SCRIPT, alone, *SAME), run(*TORCHRUN, SCRIPT, together, *SAME)):
        assert done.returncode == 0, done.stderr
        assert "terminate called" not in done.stderr
    return alone, together


@pytest.mark.integration
@pytest.mark.parametrize("case", SAME)
def test_two_processes_have_the_records_and_weights_of_one(case, folders):
    found, expected = ([*RunDirectory(folder / case).records()] for folder in (folders[1], folders[0]))
    assert [(r["event"], r["step"]) for r in found] == [(r["event"], r["step"]) for r in expected]
    assert [r["event"] for r in found].count("evaluation") == 3
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds", "event"}:
            # float64; only the order of sums differs, which some steps of Adam magnify.
            assert one[key] == pytest.approx(other[key], rel=1e-9, abs=1e-12), key
    states = [load_file(folder / case / "state" / "state.safetensors") for folder in (folders[1], folders[0])]
    assert states[0].keys() == states[1].keys()
    if "method/drawn" in states[0]:
        assert states[0]["method/drawn"].any(), "no unit was reset"
    assert any(name.startswith("optimizer/") for name in states[0])
    for name, value in states[0].items():
        assert value.shape == states[1][name].shape, name
        if value.numel():
            assert (value - states[1][name]).abs().max() <= 1e-9 * (1 + value.abs().max()), name


@pytest.mark.integration
def test_a_process_that_fails_says_why_and_ends_the_other(tmp_path):
    done = run(*TORCHRUN, SCRIPT, tmp_path, "breaking")
    assert done.returncode != 0
    assert "broken on purpose in the second process" in done.stderr
    assert "terminate called" not in done.stderr
