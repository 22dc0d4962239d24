"""Checkpoints on the way: which are kept, that a run goes back to them, from a shared phase, and after a stop."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from replastic import methods
from replastic.data import Splits
from replastic.errors import UserError
from replastic.learners.language import LOSS_OLD, Language
from replastic.networks.gpt import Gpt
from replastic.records import CHECKPOINTS, Event, RunDirectory
from replastic.training import Protocol, checkpoints, train
from replastic.training.failures import DivergedError
from support.small_runs import content, trained_by


def text(**trainer: Any) -> Protocol:
    """A language model whose head is tied, over two phases with four and two evaluations."""
    task = Language(
        first="grammar:count=12,sentences=10",
        second="grammar:count=12,sentences=10,dialect=1",
        tokenizer="bpe:size=280",
        block=8,
        first_updates=12,
        updates=6,
        evaluations=3,
        validation=2,
        network=Gpt(depth=1, heads=2, dim=8),
    )
    protocol = Protocol(task=task, recipe="paper-gpt", methods_from=1)
    settings = {"batch_size": 4, "learning_rate": 3e-2, "checkpoints": True, "save_seconds": 0.0} | trainer
    return trained_by(protocol, **settings)


def run(protocol: Protocol, path: Path, spec: str = "base", **given: Any) -> RunDirectory:
    directory = RunDirectory(path)
    train(protocol, protocol.task.open(), methods.from_spec(spec), 3, directory, **given)
    return directory


def named(directory: RunDirectory) -> list[str]:
    return sorted(os.listdir(directory.path / CHECKPOINTS))


def files(directory: RunDirectory) -> dict[str, bytes]:
    return {name: (directory.path / CHECKPOINTS / name).read_bytes() for name in named(directory)}


def test_every_evaluation_but_those_that_nothing_follows_is_kept(tmp_path: Path) -> None:
    found = run(text(), tmp_path)
    steps = ((0, 12), (0, 4), (0, 8), (1, 18))
    assert named(found) == [f"phase-{phase}-step-{step}.safetensors" for phase, step in steps]
    state = load_file(tmp_path / CHECKPOINTS / "phase-1-step-18.safetensors")
    model = text().task.learner(text().task.open(), 3, text().trainer).model
    names = {name for name, _ in model.named_parameters()}
    assert len(names) < len(model.state_dict(keep_vars=True)), "the head is tied"
    assert state.keys() == names


def test_the_best_is_the_one_with_the_best_score_of_its_phase(tmp_path: Path) -> None:
    protocol = text()
    found = run(protocol, tmp_path)
    scores = {
        record["step"]: record[LOSS_OLD]
        for record in found.records()
        if record["phase"] == 0 and record["event"] in (Event.EVALUATION, Event.PHASE_END)
    }
    kept = checkpoints.of_phase(protocol.task, found, None, 0)
    assert [one.step for one in kept] == sorted(scores) == [4, 8, 12]
    assert [one.step for one in kept if one.best] == [min(scores, key=scores.__getitem__)]


@pytest.mark.parametrize("shared", [False, True])
def test_a_run_goes_back_and_says_so_in_its_records(shared: bool, tmp_path: Path) -> None:
    protocol = text()
    start = run(protocol, tmp_path / "shared", until=1) if shared else None
    found = {
        spec: run(protocol, tmp_path / spec, spec, start=start)
        for spec in ("base", "from_checkpoint:at=8", "from_checkpoint:at=last", "average:last=2")
    }
    records = {spec: content(directory) for spec, directory in found.items()}
    scored = {record["step"]: record[LOSS_OLD] for record in records["base"] if record["phase"] == 0}
    after = {spec: next(r[LOSS_OLD] for r in rs if r["event"] == Event.BOUNDARY) for spec, rs in records.items()}
    assert after["from_checkpoint:at=8"] == pytest.approx(scored[8], rel=1e-6)
    assert after["base"] == pytest.approx(scored[12], rel=1e-6)
    assert records["from_checkpoint:at=last"] == records["base"]
    assert len(set(after.values())) == 3


def test_what_was_trained_before_and_apart_makes_no_difference(tmp_path: Path) -> None:
    protocol, spec = text(), "from_checkpoint:at=8+fire"
    shared = run(protocol, tmp_path / "shared", until=1)
    assert content(run(protocol, tmp_path / "a", spec, start=shared)) == content(run(protocol, tmp_path / "b", spec))


class Stop(Exception):
    """As sudden as a kill: nothing is written after it."""


@pytest.mark.parametrize("stop", [0.3, 0.6, 1.0, 1.5])
def test_a_resumed_run_keeps_the_same_files_and_ends_the_same(stop: float, tmp_path: Path) -> None:
    protocol, spec = text(), "average:last=3+rewarm+replay:share=0.3"

    def progress(phases: float) -> None:
        if phases >= stop:
            raise Stop

    whole = run(protocol, tmp_path / "whole", spec)
    with pytest.raises(Stop):
        run(protocol, tmp_path / "parts", spec, progress=progress)
    parts = run(protocol, tmp_path / "parts", spec)
    assert content(parts) == content(whole)
    assert files(parts) == files(whole)


def test_a_half_written_file_is_none_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    protocol = text()
    shared = run(protocol, tmp_path / "shared", until=1)
    folder = shared.path / CHECKPOINTS
    (folder / "phase-0-step-9.safetensors.tmp").write_bytes(b"half")
    assert [one.step for one in checkpoints.of_phase(protocol.task, shared, None, 0)] == [4, 8, 12]
    (folder / "phase-0-step-8.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"cannot read the checkpoint .*phase-0-step-8\.safetensors"):
        run(protocol, tmp_path / "a", "from_checkpoint:at=8", start=shared)


def test_without_checkpoints_the_methods_say_how_to_get_them(tmp_path: Path) -> None:
    protocol = text(checkpoints=False)
    with pytest.raises(UserError, match=r"from_checkpoint needs checkpoints .* --checkpoints keeps them"):
        run(protocol, tmp_path, "from_checkpoint")
    assert not (tmp_path / CHECKPOINTS).exists()
    assert "checkpoints" not in protocol.config()["trainer"]
    assert text().config()["trainer"]["checkpoints"] is True


def test_a_learner_of_labelled_samples_goes_back_to_its_best_accuracy(
    protocol: Protocol, splits: Splits, tmp_path: Path
) -> None:
    protocol = trained_by(protocol, checkpoints=True, evaluate_every=1)
    found = RunDirectory(tmp_path)
    train(protocol, splits, methods.from_spec("from_checkpoint"), 0, found)
    before, boundary = [], []
    for record in found.records():
        if record["event"] in (Event.EVALUATION, Event.PHASE_END) and record["phase"] == 0:
            before.append(record["step"])
        if record["event"] == Event.BOUNDARY:
            boundary.append(record)
    assert [one.step for one in checkpoints.of_phase(protocol.task, found, None, 0)] == before
    assert len(boundary) == 2
    with pytest.raises(UserError, match="replay needs training data"):
        train(replace(protocol), splits, methods.from_spec("replay"), 0, RunDirectory(tmp_path / "replay"))


def test_a_rate_of_one_changes_nothing_and_another_one_does(tmp_path: Path) -> None:
    protocol = text(weight_decay=0.1)
    base, same, other = (content(run(protocol, tmp_path / s, s)) for s in ("base", "rewarm:peak=1", "rewarm"))
    assert same == base
    first = [[r for r in records if r["phase"] == 0] for records in (base, other)]
    assert first[0] == first[1]
    assert other[-1] != base[-1]


def test_half_the_peak_is_a_run_at_half_the_learning_rate(tmp_path: Path) -> None:
    """With weight decay, from one shared first phase."""
    protocol = text(weight_decay=0.3)
    shared = run(protocol, tmp_path / "shared", until=1)
    rewarmed = run(protocol, tmp_path / "rewarm", "rewarm:peak=0.5", start=shared)
    halved = run(trained_by(protocol, learning_rate=1.5e-2), tmp_path / "halved", start=shared)
    last = f"{CHECKPOINTS}/phase-1-step-18.safetensors"
    one, other = (load_file(directory.path / last) for directory in (rewarmed, halved))
    assert all(torch.allclose(one[name], other[name], rtol=1e-5, atol=1e-7) for name in one)


def test_a_loss_that_is_no_number_ends_a_run_in_one_sentence_and_overwrites_nothing(tmp_path: Path) -> None:
    protocol = text(learning_rate=1e30, clip_norm=0.0, warmup=0.0)
    with pytest.raises(DivergedError, match=r"became .* at update \d+ .*--learning-rate may help. Earlier records"):
        run(protocol, tmp_path)
    sound = text()
    shared = run(sound, tmp_path / "shared", until=1)
    before = files(shared)
    with pytest.raises(DivergedError):
        run(trained_by(sound, learning_rate=1e30, clip_norm=0.0, warmup=0.0), tmp_path / "a", start=shared)
    assert files(shared) == before


def test_a_checkpoint_of_another_network_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    protocol = text()
    shared = run(protocol, tmp_path / "shared", until=1)
    wider = replace(protocol, task=replace(protocol.task, network=Gpt(depth=1, heads=2, dim=16)))  # type: ignore[call-arg]
    other = run(wider, tmp_path / "wider", until=1)
    name = "phase-0-step-8.safetensors"
    (shared.path / CHECKPOINTS / name).write_bytes((other.path / CHECKPOINTS / name).read_bytes())
    with pytest.raises(UserError, match=r"has shape .*, but .* among the weights of the checkpoint"):
        run(protocol, tmp_path / "a", "from_checkpoint:at=8", start=shared)
