"""A run's saved state: written without a second copy, told beforehand where the disk is too small; films of agents."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from replastic import memory
from replastic.cli import main
from replastic.envs import ReplaySize
from replastic.errors import UserError
from replastic.learners import Trainer
from replastic.learners.dqn import Dqn
from replastic.methods import from_spec
from replastic.networks.minatar_cnn import MinAtarCnn
from replastic.records import RunDirectory
from replastic.training import Protocol, state_file, train
from support.toy_games import games

TASK = Dqn(
    environment="toy/corridor",
    steps=40,
    learning_starts=12,
    buffer_size=10_000,
    evaluations=2,
    episodes=2,
    longest=10,
    network=MinAtarCnn(channels=(3,), hidden=(8,)),
)
PROTOCOL = Protocol(task=TASK, trainer=Trainer(batch_size=4, warmup=0.0, save_seconds=0.0))
Usage = namedtuple("Usage", ("total", "used", "free"))


def test_what_lies_by_itself_is_not_copied() -> None:
    alone, twice = torch.arange(1000), torch.ones(8)
    part = torch.arange(100.0)[:10]
    separate = state_file._separate(
        {"alone": alone, "a": twice, "b": twice[:4], "part": part, "flipped": torch.ones(2, 3).T}
    )
    assert separate["alone"].data_ptr() == alone.data_ptr()
    assert separate["a"].data_ptr() == twice.data_ptr() != separate["b"].data_ptr()
    assert separate["part"].data_ptr() == part.data_ptr()
    assert all(value.is_contiguous() for value in separate.values())


def test_parts_of_larger_memory_are_written_as_they_are(tmp_path: Path) -> None:
    ring = torch.arange(60.0).view(20, 3)
    state_file.write(tmp_path / "state", {"part": ring[:7], "same": ring[:2], "none": ring[:0]}, {"fact": 1})
    tensors, facts = state_file.read(tmp_path / "state")
    assert facts == {"fact": 1}
    assert torch.equal(tensors["part"], ring[:7])
    assert torch.equal(tensors["same"], ring[:2])
    assert tensors["none"].shape == (0, 3)


def test_a_disk_too_small_for_the_replay_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = games()
    needed = ReplaySize(40 * 2 + 2, source.observation, source.action).bytes
    learner = TASK.learner(source, 0, PROTOCOL.trainer)
    assert learner.saved_bytes() == needed, "as far as it can be filled, not its capacity"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed - 1))
    said = r"the saved state of a run, with its replay, needs .* GB on the disk of .*run, and .* --buffer-size"
    with pytest.raises(UserError, match=said):
        train(PROTOCOL, source, from_spec("base"), 0, RunDirectory(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 0, needed))
    train(PROTOCOL, source, from_spec("base"), 0, RunDirectory(tmp_path / "run"))


def test_the_memory_of_a_control_group_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_of_the_group", lambda: [1000])
    assert memory.free_memory() == 1000
    with pytest.raises(UserError, match="a thing, but only 1e-06 GB of memory are free: make it smaller"):
        memory.check_memory(1001, "a thing", "make it smaller")
    memory.check_memory(1000, "a thing", "make it smaller")


def test_a_finished_run_leaves_a_film(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    directory = RunDirectory(tmp_path)
    train(PROTOCOL, games(), from_spec("base"), 0, directory, film=tmp_path / "agent.gif")
    plain = RunDirectory(tmp_path / "plain")
    train(PROTOCOL, games(), from_spec("base"), 0, plain)
    with image.open(tmp_path / "agent.gif") as film:
        assert film.size == (20, 20)
        assert film.n_frames <= 10, "pictures that show the same are one"
    assert [{**record, "seconds": 0} for record in directory.records()] == [
        {**record, "seconds": 0} for record in plain.records()
    ]


def test_what_is_no_agent_is_not_filmed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "digits_random_labels", "--preset", "smoke", "--record", "gif"]) == 2
    assert "--record films agents, and classification is none: leave it out" in capsys.readouterr().err
