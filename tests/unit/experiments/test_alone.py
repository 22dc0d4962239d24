"""A folder is held by one process at a time, and by none once that process is gone, however it went."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from replastic.errors import UserError
from replastic.experiments.experiment import alone

HOLD = """
import sys
from pathlib import Path
from replastic.experiments.experiment import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError) as error, alone(folder):
            pytest.fail("two processes hold one folder")
        assert str(error.value) == (f"another process is running an experiment in {folder}; wait for it or give --out")
        other.kill()
        other.wait()
        with alone(folder):
            pass


def test_it_is_free_again_after_an_error_inside(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="inside"), alone(tmp_path):
        raise RuntimeError("inside")
    with alone(tmp_path), pytest.raises(UserError, match="another process"), alone(tmp_path):
        pytest.fail("held twice")
    with alone(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory"), alone(tmp_path / "file" / "runs"):
        pytest.fail("nothing is held")
