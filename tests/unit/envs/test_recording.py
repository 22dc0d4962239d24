"""Films of an agent: what was seen is in the file, and the file appears whole or not at all."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from replastic import envs
from replastic.envs import _mujoco
from replastic.errors import MissingExtraError, UserError
from support.scripted_environment import Script, ScriptedEnvironment
from support.simulators import HEAVY, params

image = pytest.importorskip("PIL.Image")


class Lamp(ScriptedEnvironment):
    """Shines brighter with every step."""

    def render(self, copy: int = 0) -> Tensor:
        return torch.full((21, 30, 3), 40 * self.time[copy] + 15, dtype=torch.uint8)


def ones(observations: Tensor) -> Tensor:
    return torch.ones(len(observations), dtype=torch.int64)


def shades(file: Path) -> list[int]:
    with image.open(file) as film:
        found = []
        for number in range(film.n_frames):
            film.seek(number)
            found.append(film.convert("RGB").getpixel((3, 4))[0])
        assert film.size == (30, 20), "an odd line is cut off"
        return found


def test_one_episode_is_shown_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "new" / "agent.gif"
    score = envs.record(Lamp(2, [Script(steps=4), Script(steps=2)]), ones, file)
    assert shades(file) == [15, 55, 95, 135]
    assert score == 4 * 2.0, "of the first copy alone"
    assert [path.name for path in file.parent.iterdir()] == ["agent.gif"]


def test_a_long_episode_is_shown_in_part(tmp_path: Path) -> None:
    file = tmp_path / "agent.gif"
    score = envs.record(Lamp(1, [Script(steps=50)]), ones, file, steps=5, every=2)
    assert shades(file) == [15, 95, 175]
    assert score == 5 * 2.0


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a recording must end in \.gif or \.mp4, got '.*agent\.avi'"):
        envs.record(Lamp(1, [Script(steps=2)]), ones, tmp_path / "agent.avi")
    with pytest.raises(UserError, match="scripted/game cannot be drawn"):
        envs.check_recording(ScriptedEnvironment(1, [Script(steps=2)]), tmp_path / "agent.gif")


@pytest.mark.skipif(importlib.util.find_spec("imageio_ffmpeg") is not None, reason="what writes MP4 is installed")
def test_a_missing_writer_is_named_with_its_extra(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"recording an MP4 needs imageio_ffmpeg.*pip install 'replastic\[vid"):
        envs.record(Lamp(1, [Script(steps=2)]), ones, tmp_path / "agent.mp4")


@pytest.mark.parametrize("spec", params(["minatar/seaquest", "gym/HalfCheetah-v5", "dm_control/reacher-easy"]))
def test_simulators_are_drawn(spec: str, tmp_path: Path) -> None:
    environment = envs.from_spec(spec).make(1, 0, drawn=True)
    try:
        first = environment.render()
    except UserError as error:
        environment.close()
        assert spec.split("/")[0] in ("gym", "dm_control")
        pytest.skip(str(error))
    assert first.dtype == torch.uint8
    assert first.shape[2] == 3
    assert float(first.float().std()) > 1
    for _ in range(20):
        environment.step(torch.ones(1, *environment.action.shape, dtype=environment.action.dtype))
    assert not torch.equal(environment.render(), first)
    environment.close()


@pytest.mark.integration
@pytest.mark.skipif(importlib.util.find_spec(HEAVY[0]) is None, reason="mujoco is not installed")
def test_a_missing_gl_library_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mujoco, "_BACKENDS", ("nowhere",))
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    environment = envs.from_spec("gym/HalfCheetah-v5").make(1, 0, drawn=True)
    said = "gym/HalfCheetah-v5 cannot be drawn here: no GL library works (nowhere); install one (Debian and Ubuntu: apt"
    with pytest.raises(UserError, match=re.escape(said)):
        environment.render()
    environment.close()
