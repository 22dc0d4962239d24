"""A new checkpoint is written tensor by tensor, and a later call trusts what is in it only as far as it can check."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from replastic import disk
from replastic.api.checkpoints import rewrite
from replastic.cli import _tensors
from replastic.errors import CheckpointError
from replastic.methods import from_spec
from replastic.methods.fire import Fire
from replastic.weights import draft as draft_module
from replastic.weights.change import LayerOutcome, Proposal, Proposals
from replastic.weights.journal import Done, Journal, Work, work_of

METHOD = "shrink_perturb:noise=gaussian"
NAMES = {*(f"layers.{i}.fc.weight" for i in range(4)), "norm.weight"}
MANY = 400
"""Rows and columns."""


@pytest.fixture(params=[".safetensors", ".pt"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"in{request.param}"
    draw = torch.Generator().manual_seed(0)
    tensors = {f"layers.{i}.fc.weight": torch.randn(MANY, MANY, generator=draw).bfloat16() for i in range(4)}
    tensors["norm.weight"] = torch.arange(1000.0)
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    return path


class Stopped(KeyboardInterrupt):
    """Ctrl-C at a chosen moment."""


def stopped(source: Path, count: int, **settings: object) -> tuple[Path, list[str]]:
    """Rewrite a file and stop when `count` tensors are made; the draft and the notes of the interruption."""

    def some(proposals: Proposals) -> Iterator[Proposal]:
        for number, proposal in enumerate(proposals):
            if number == count:
                raise Stopped
            yield proposal

    out = source.with_stem("out")
    with pytest.raises(Stopped) as caught:
        rewrite(source, out, METHOD, recipe="all", progress=some, **settings)  # type: ignore[arg-type]
    (draft,) = list(source.parent.glob(".replastic-*.tmp")) or [out]
    return draft, list(getattr(caught.value, "__notes__", []))


def read(path: Path) -> dict[str, torch.Tensor]:
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path)


def alone(source: Path) -> dict[str, torch.Tensor]:
    whole = source.with_stem("whole")
    rewrite(source, whole, METHOD, recipe="all")
    return read(whole)


def resumed(source: Path) -> tuple[dict[str, torch.Tensor], int]:
    """The output of the second call, and how many tensors it did not have to make."""
    out = source.with_stem("out")
    outcome = rewrite(source, out, METHOD, recipe="all")
    notes = [note for note in outcome.notes if note.startswith("went on from a call that was stopped")]
    assert set(outcome.written) == {layer.weight for layer in outcome.layers} == NAMES
    assert not list(source.parent.glob(".replastic-*"))
    return read(out), int(notes[0].split(": ")[1].split()[0]) if notes else 0


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_is_done_is_not_done_again(source: Path) -> None:
    draft, notes = stopped(source, 3)
    assert notes == [f"the same command goes on from here: 3 new tensors are kept in {draft}"]
    found, kept = resumed(source)
    assert kept == 3
    assert equal(found, alone(source))


def test_nothing_is_kept_of_a_call_that_had_done_nothing(source: Path) -> None:
    assert stopped(source, 0) == (source.with_stem("out"), [])
    assert not list(source.parent.glob(".replastic-*"))


def test_bytes_that_the_disk_lost_are_made_again(source: Path) -> None:
    draft = stopped(source, 3)[0]
    content = bytearray(draft.read_bytes())
    content[len(content) // 4] ^= 1
    draft.write_bytes(content)
    found, kept = resumed(source)
    assert kept == 2
    assert equal(found, alone(source))


def test_a_line_that_was_cut_off_does_not_count(source: Path) -> None:
    draft = stopped(source, 3)[0]
    journal = disk.journal_of(draft)
    journal.write_bytes(journal.read_bytes()[:-5])
    found, kept = resumed(source)
    assert kept == 2
    assert equal(found, alone(source))


@pytest.mark.parametrize("change", ["input", "settings", "journal", "draft"])
def test_only_the_same_work_is_gone_on_with(source: Path, change: str) -> None:
    draft = stopped(source, 3, **({"seed": 1} if change == "settings" else {}))[0]
    if change == "input":
        os.utime(source, ns=(1, 1))
    elif change == "journal":
        disk.journal_of(draft).write_bytes(b"\xff\n")
    elif change == "draft":
        draft.unlink()
    found, kept = resumed(source)
    assert kept == 0
    assert equal(found, alone(source))


def test_a_draft_with_a_journal_waits_a_day_for_its_own_output(source: Path) -> None:
    draft = stopped(source, 3)[0]
    journal = disk.journal_of(draft)
    rewrite(source, source.with_stem("other"), METHOD, recipe="all")
    assert draft.exists()
    assert journal.exists()
    long_ago = time.time() - disk.FORGOTTEN - 60
    os.utime(journal, (long_ago, long_ago))
    disk.clear(draft.parent)
    assert not draft.exists()
    assert not journal.exists()


def test_room_is_asked_for_before_anything_is_solved(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(source.parent)
    monkeypatch.setattr(draft_module.shutil, "disk_usage", lambda path: usage._replace(free=500_000))
    monkeypatch.setattr(Fire, "solve", lambda *arguments: pytest.fail("a tensor was solved"))
    with pytest.raises(CheckpointError, match=r"out\S* needs 1\.3 MB, but only 0\.5 MB are free there"):
        rewrite(source, source.with_stem("out"), from_spec("fire"), recipe="all")
    assert [p.name for p in source.parent.iterdir()] == [source.name]


def test_what_a_killed_call_has_written_needs_no_further_room(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if source.suffix == ".safetensors":  # a torch file is copied as a whole first
        stopped(source, 3)[0]
        usage = shutil.disk_usage(source.parent)
        monkeypatch.setattr(draft_module.shutil, "disk_usage", lambda path: usage._replace(free=900_000))
        assert resumed(source)[1] == 3


def test_a_journal_keeps_what_is_told_of_a_tensor(tmp_path: Path) -> None:
    work = Work("/out", "facts")
    layer = LayerOutcome("w", "q", "linear", 1, 2, 3, "fire", 0.1, float("inf"), 1.0, 2.0, {"residual": 1e-9}, "names")
    with closing(Journal(tmp_path / "j", work)) as journal:
        journal.add("w", Done("00", (layer,)))
    with closing(Journal(tmp_path / "j", work)) as journal:
        assert journal.done == {"w": Done("00", (layer,))}
        journal.add("v", Done("11", ()))
    with closing(Journal(tmp_path / "j", work)) as journal:
        assert list(journal.done) == ["w", "v"]
    assert work_of(tmp_path / "j") == work
    assert work_of(tmp_path / "none") is None
    with closing(Journal(tmp_path / "j", Work("/out", "other"))) as journal:
        assert journal.done == {}


def test_progress_tells_the_time_that_is_left_by_the_costs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(_tensors.time, "monotonic", lambda: now[0])

    def made() -> Iterator[Proposal]:
        for name, seconds in (("a", 0.0), ("b", 40.0), ("c", 120.0)):
            now[0] += seconds
            yield Proposal(name, torch.zeros(1), kept=name == "a")

    costs = {"a": 5.0, "b": 1.0, "c": 3.0}
    assert [p.name for p in _tensors.watched(Proposals(costs, made()))] == ["a", "b", "c"]
    assert capsys.readouterr().err == "2 of 3 tensors, about 2 minutes left\n3 of 3 tensors\n"
    assert list(_tensors.watched([1, 2])) == [1, 2]
    assert capsys.readouterr().err == "", "short work is done in silence"
