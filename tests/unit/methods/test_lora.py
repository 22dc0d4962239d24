"""LoRA: its arithmetic by hand, what is frozen and what learns, resuming, and what FIRE may touch beside it."""

from __future__ import annotations

from dataclasses import replace
from itertools import repeat
from pathlib import Path

import pytest
import torch
from torch import nn

from replastic import fire_, methods
from replastic.errors import UserError
from replastic.interventions.low_rank import LowRank
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
    third_updates=6,
    evaluations=2,
    validation=3,
    network=Gpt(depth=2, heads=2, dim=8),
)
PROTOCOL = Protocol(
    task=TASK, trainer=Trainer(batch_size=4, learning_rate=1e-2, save_seconds=0), recipe="blocks", methods_from=2
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path_factory.getbasetemp() / "lora"))


def crossed(spec: str) -> Session:
    """A session just after the boundary at which the method acts."""
    session = Session(PROTOCOL, TASK.open(), methods.from_spec(spec), 0)
    for phase in (1, 2):
        session.inform(phase)
        session.attached.cross(phase, begin=phase == 2)
    return session


def test_the_arithmetic_by_hand() -> None:
    base = nn.Linear(5, 7)
    module = LowRank(base, 2, 1.5, torch.Generator().manual_seed(0))
    x = torch.randn(3, 4, 5)
    assert torch.equal(module(x), base(x)), "nothing changes at first"
    assert module.lora_A.weight.abs().max() <= 5**-0.5
    with torch.no_grad():
        module.lora_B.weight.normal_()
    a, b = module.lora_A.weight, module.lora_B.weight
    by_hand = torch.stack([base.weight @ v + base.bias + 1.5 * b @ (a @ v) for v in x.view(-1, 5)])
    torch.testing.assert_close(module(x).view(-1, 7), by_hand)
    torch.testing.assert_close(nn.functional.linear(x, module.merged(), base.bias), module(x))
    assert module.weight is base.weight


def test_factors_learn_and_all_else_is_frozen() -> None:
    session = crossed("lora:rank=2,alpha=4")
    model = session.model
    adapted = [name for name, module in model.named_modules() if isinstance(module, LowRank)]
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert adapted == [f"transformer.h.{i}.{part}" for i in range(2) for part in parts]
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {f"{name}.lora_{f}.weight" for name in adapted for f in "AB"}
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    batch = session.learner.probe(2, 4)
    session.learner.stream = lambda phase, first: repeat(batch)  # type: ignore[attr-defined]
    session.learner.begin(2, 0)
    losses = [float(session.update(step, 6)) for step in range(6)]
    assert losses[-1] < losses[0]
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == learning


def test_fire_rewrites_the_weights_before_the_adapters_come() -> None:
    plain, fired = crossed("lora:rank=2"), crossed("fire:solver=exact,scale=unit+lora:rank=2")
    name = "transformer.h.0.mlp.c_fc.weight"
    weight = fired.model.get_parameter(name)
    torch.testing.assert_close(weight.mT @ weight, torch.eye(8), atol=1e-5, rtol=0)
    assert not torch.equal(weight, plain.model.get_parameter(name))


def test_fire_leaves_an_adapted_model_alone_unless_its_factors_are_named() -> None:
    model = crossed("lora:rank=2").model
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, LowRank):
                module.lora_B.weight.normal_()
    with pytest.raises(UserError, match="chooses no weight"):
        fire_(model, recipe="blocks")
    for factor in ("lora_A", "lora_B"):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        outcome = fire_(model, target_modules=[f"*{factor}"], recipe="blocks")
        assert {layer.weight.split(".")[-2] for layer in outcome.layers} == {factor}
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) == (not name.endswith(f"{factor}.weight")), name
        reasons = {skipped.weight: skipped.reason for skipped in outcome.skipped}
        assert reasons["transformer.h.0.mlp.c_fc.weight"]


def test_a_resumed_run_ends_in_the_same_numbers(tmp_path: Path) -> None:
    records = []
    for name, stops in (("whole", (3,)), ("stopped", (1, 2, 3))):
        directory = RunDirectory(tmp_path / name)
        for until in stops:
            train(PROTOCOL, TASK.open(), methods.from_spec("fire+lora:rank=2"), 0, directory, until=until)
        records.append([{k: v for k, v in r.items() if k != "seconds"} for r in directory.records()])
    assert records[0] == records[1]


def test_where_nothing_can_be_adapted_it_says_so() -> None:
    for spec, words in (
        ("lora:targets=wte", "hidden nn.Linear"),
        ("lora:rank=0", "rank"),
        ("lora:targets=a|", "targets"),
    ):
        with pytest.raises(UserError, match=words):
            crossed(spec)


def test_the_frozen_weights_are_measured_on(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    protocol = replace(PROTOCOL, metrics=("dfi",), boundary_metrics=("sfe",))
    train(protocol, TASK.open(), methods.from_spec("lora:rank=2"), 0, directory)
    last, at = directory.records()[-1], [r for r in directory.records() if r["event"] == "boundary"][-1]
    assert at["metric/sfe"] == 0
    key = "metric/dfi/transformer.h.0.mlp.c_fc.weight"
    ends = [r[key] for r in directory.records() if r["event"] == "phase_end"]
    assert ends[2] == ends[1] != ends[0]
    assert not any("lora" in name for name in last)
