"""The skeletons on the architecture page keep to the interface of learners."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from replastic.learners import Learner, Task

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SKELETONS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def mypy(folder: Path, *sources: str) -> subprocess.CompletedProcess[str]:
    files = []
    for number, source in enumerate(sources):
        files.append(folder / f"skeleton_{number}.py")
        files[-1].write_text(source, encoding="utf-8")
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *config, *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_an_agent_and_a_language_model_fit_the_interface(tmp_path: Path) -> None:
    assert len(SKELETONS) == 2
    checked = mypy(tmp_path, *SKELETONS)
    assert checked.returncode == 0, checked.stdout


def test_a_skeleton_that_does_not_fit_is_found(tmp_path: Path) -> None:
    broken = SKELETONS[1].replace("def begin(self, phase: int, done: int) -> None:", "def begin(self) -> None:")
    assert broken != SKELETONS[1]
    checked = mypy(tmp_path, broken)
    assert 'incompatible with supertype "replastic.learners._learner.Learner"' in checked.stdout


@pytest.mark.parametrize("number", range(2))
def test_skeletons_leave_nothing_abstract(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType(f"skeleton_{number}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(SKELETONS[number], "architecture.md", "exec"), module.__dict__)
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]
    assert {Task, Learner} == {base for kind in kinds for base in (Task, Learner) if issubclass(kind, base)}
    assert not any(getattr(kind, "__abstractmethods__", ()) for kind in kinds)
