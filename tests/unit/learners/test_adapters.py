"""A third phase that trains adapters: what learns when, what FIRE touches, and resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from replastic import fire_, methods
from replastic.errors import UserError
from replastic.learners import Trainer
from replastic.learners.language import Language
from replastic.networks.gpt import Gpt
from replastic.records import RunDirectory
from replastic.training import Protocol, train
from replastic.training.session import Session

TASK = Language(
    first="grammar:count=12,sentences=10",
    second="grammar:count=12,sentences=10,dialect=1",
    third="grammar:count=12,sentences=10,dialect=2",
    tokenizer="bpe:size=280",
    block=16,
    first_updates=4,
    updates=3,
    third_updates=4,
    adapters=2,
    evaluations=2,
    validation=3,
    network=Gpt(depth=2, heads=2, dim=8),
)
PROTOCOL = Protocol(
    task=TASK,
    trainer=Trainer(batch_size=4, learning_rate=1e-2, save_seconds=0),
    recipe="blocks",
    metrics=("dfi",),
    boundary_metrics=("sfe",),
    methods_from=2,
)
FACTORS = ("lora_A.weight", "lora_B.weight")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path_factory.getbasetemp() / "adapters"))


@pytest.mark.parametrize(("phase", "factors_move"), [(0, False), (1, False), (2, True)])
def test_factors_alone_move_in_the_third_phase_and_not_before(phase: int, factors_move: bool) -> None:
    session = Session(PROTOCOL, TASK.open(), methods.from_spec("base"), 0)
    before = {name: p.detach().clone() for name, p in session.model.named_parameters()}
    session.learner.begin(phase, 0)
    for step in range(3):
        session.update(step, 3)
    moved = {name for name, p in session.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.endswith(FACTORS) == factors_move}


def test_the_base_is_rewritten_at_the_boundary_and_stays_so(tmp_path: Path) -> None:
    records = []
    for name, stops in (("whole", (3,)), ("stopped", (1, 2, 3))):
        directory = RunDirectory(tmp_path / name)
        for until in stops:
            train(PROTOCOL, TASK.open(), methods.from_spec("fire:solver=exact,scale=unit"), 0, directory, until=until)
        records.append([{k: v for k, v in r.items() if k != "seconds"} for r in directory.records()])
    assert records[0] == records[1]
    dfi = [r["metric/dfi/transformer.h.0.mlp.c_proj.weight"] for r in records[0] if r["event"] == "phase_end"]
    boundary = [r for r in records[0] if r["event"] == "boundary"][-1]
    assert boundary["metric/sfe"] > 0
    assert dfi[2] < 1e-6 < dfi[1], "the base is isometric and frozen"
    assert not any("lora" in name for r in records[0] for name in r)


def test_fire_leaves_factors_alone_unless_they_are_named() -> None:
    learner = TASK.learner(TASK.open(), 0, Trainer(batch_size=4))
    model = learner.model
    learner.begin(2, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    with pytest.raises(UserError, match="chooses no weight"):
        fire_(model, recipe="blocks")
    for factor in ("lora_A", "lora_B"):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        outcome = fire_(model, target_modules=[f"*{factor}"], recipe="blocks")
        assert {layer.weight.split(".")[-2] for layer in outcome.layers} == {factor}
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) == (not name.endswith(f"{factor}.weight")), name


def test_settings_that_do_not_go_together_say_so() -> None:
    with pytest.raises(UserError, match="give third"):
        replace(TASK, third="")
    with pytest.raises(UserError, match="leave out one of them"):
        replace(TASK, sharded=True)
