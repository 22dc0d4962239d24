"""What every method keeps to, whoever wrote it: the checks of `support.method_checks`, and what its class says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from replastic import methods
from replastic.errors import UserError
from replastic.interventions.attached import Attached
from replastic.methods import Method
from replastic.weights.checkpoint import CheckpointStore
from support.method_checks import CHECKS, check_parameters_stay_the_objects_they_are
from support.training_bench import Bench, build, differing, lively, run_of

JOINED = ("redo+fire", "ewc+fire", "fire+hare_tortoise")
"""Combinations that stand for all: one that acts after updates, one with a penalty, one that is told of writes."""

every_method = pytest.mark.parametrize("name", methods.names())
every_spec = pytest.mark.parametrize("spec", [*methods.names(), *JOINED])


@every_spec
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_at_work(check: Callable[[Any], None], spec: str) -> None:
    check(lambda: methods.from_spec(lively(spec)))


@every_spec
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parameters_stay_the_objects_they_are(dtype: torch.dtype, layout: torch.memory_format, spec: str) -> None:
    check_parameters_stay_the_objects_they_are(lambda: methods.from_spec(lively(spec)), dtype, layout)


@every_method
def test_its_phase_matters_where_its_seed_does(name: str) -> None:
    """What acts between phases draws anew at every boundary."""
    method = methods.from_spec(name)
    if not method.acts_between_phases:
        pytest.skip("acts while it trains alone: draws depend on what happens, not on the phase")
    ends = []
    for phase in (5, 6):
        with Bench(lambda: methods.from_spec(name)) as bench:
            bench.attached.cross(phase)
            ends.append({n: v.clone() for n, v in bench.model.state_dict().items()})
    assert bool(differing(*ends)) == method.draws


@every_method
def test_what_is_left_alone_is_listed_with_the_reason(name: str) -> None:
    if not issubclass(methods.get(name), methods.WeightMethod):
        pytest.skip("is no function of the weights")
    with Bench(lambda: methods.from_spec(name), frozen=["conv2.weight"], exclude_modules=("fc1",)) as bench:
        (outcome,) = bench.attached.cross()
    reasons = {s.weight: s.reason for s in outcome.skipped}
    assert "frozen" in reasons["conv2.weight"] or "not among" in reasons["conv2.weight"]
    assert "excluded" in reasons["fc1.weight"]
    assert not {"conv2.weight", "fc1.weight"} & set(outcome.written)


@every_method
@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_a_file_gets_the_same_numbers_as_the_live_model(name: str, reverse: bool, tmp_path: Path) -> None:
    method = methods.from_spec(name)
    if method.required() & {"model", "batches", "loss", "units", "optimizer"} or not method.acts_between_phases:
        pytest.skip("needs the live model")
    model, init = build()
    save_file({n: model.state_dict()[n] for n in sorted(init, reverse=reverse)}, tmp_path / "model.safetensors")
    store = CheckpointStore(tmp_path / "model.safetensors", destination=tmp_path / "out.safetensors")
    run = run_of(model, init)
    for given in (replace(run, store=store, model=None, optimizer=None), run):
        with Attached(methods.from_spec(name), given) as attached:
            attached.begin()
            assert len(attached.cross()) == 1
    assert differing(load_file(tmp_path / "out.safetensors"), model.state_dict()) == []


@every_method
def test_what_it_remembers_are_tensors(name: str) -> None:
    with Bench(lambda: methods.from_spec(lively(name))) as bench:
        state = bench.go().attached.state_dict()
    assert [key for key, value in state.items() if not isinstance(value, Tensor)] == []
    assert [key for key, value in state.items() if value.requires_grad] == []


@every_method
def test_the_state_of_another_method_is_refused(name: str) -> None:
    other = next(other for other in methods.names() if other != name)
    with Bench(lambda: methods.from_spec(lively(other))) as bench:
        state = bench.attached.state_dict()
    refused = pytest.raises(UserError, match=f"is that of {other}, not of {name}")
    with Bench(lambda: methods.from_spec(lively(name))) as bench, refused:
        bench.attached.load_state_dict(state)


@every_method
def test_registry_facts(name: str) -> None:
    entry = methods.entry(name)
    kind = entry.target
    assert kind.name == name
    assert entry.summary.endswith("."), "the first line of the docstring is one sentence"
    assert len(entry.summary) <= 120
    assert entry.reference.startswith("https://") or "Ours" in (kind.__doc__ or "") or name in ("base", "fresh")
    for field in fields(kind):
        assert field.metadata.get("help"), f"{field.name} has no help; use option(default, help=...)"


def changed(method: Method) -> Iterator[Method]:
    """The method with one field at a time set to another value that is allowed."""
    for field in fields(method):
        value = getattr(method, field.name)
        choices = field.metadata["choices"]
        others: list[Any] = [c for c in choices if c != value]
        if isinstance(value, bool):
            others = [not value]
        elif field.name == "at":
            others = ["last", "300"]
        elif isinstance(value, str) and not choices:
            others = [f"{value}conv1"]
        elif not choices:
            others = [value / 2 if isinstance(value, float) else value + 1]
        for other in others:
            yield replace(method, **{field.name: other})


@every_method
def test_spec_round_trip(name: str) -> None:
    method = methods.from_spec(name)
    assert methods.spec_of(method) == name
    for other in (method, *changed(method)):
        again = methods.from_spec(methods.spec_of(other))
        assert again == other
        assert methods.from_spec(methods.spec_of(again)).explicit == again.explicit


def wrong_values(field: Field[Any]) -> list[Any]:
    """Values that no method can allow for a field."""
    if field.metadata["choices"]:
        return ["no such choice", None, 3.5]
    if isinstance(field.default, bool):
        return ["maybe", 2, None]
    if isinstance(field.default, str):
        return [-1, 1.5, True, None]
    one = type(field.default)(1)
    allowed = field.metadata["range"]
    just_outside = {"low": -one, "above": 0 * one, "high": one, "below": 0 * one}
    outside = [getattr(allowed, end) + step for end, step in just_outside.items() if getattr(allowed, end) is not None]
    if allowed.low is None and allowed.above is None:
        outside.append(-one)  # a method that can use negative numbers says so with `low`
    if isinstance(field.default, float):
        return [float("nan"), float("inf"), -float("inf"), *outside, "much", True]
    return [*outside, 1.5, "many", True, None]


@every_method
def test_wrong_values_are_refused_by_name(name: str) -> None:
    for field in fields(methods.get(name)):
        for value in wrong_values(field):
            with pytest.raises(UserError) as caught:
                methods.from_spec(name, **{field.name: value})
            message = str(caught.value)
            assert field.name in message, message
            assert str(value) in message, message


@every_method
def test_missing_needs_are_named_with_the_remedy(name: str) -> None:
    fields_of_run = {"loss": "loss_fn", "units": "model"}
    method = methods.from_spec(name)
    run = run_of(*build())
    for need in method.required():
        with pytest.raises(UserError, match=f"{name} needs"):
            Attached(method, replace(run, **{fields_of_run.get(need, need): None})).begin()


@every_method
def test_a_pattern_without_match_shows_before_training(name: str) -> None:
    method = methods.from_spec(name)
    if not isinstance(method, methods.WeightMethod) and type(method).check is Method.check:
        pytest.skip("chooses no weights")
    with pytest.raises(UserError, match="did you mean 'fc1'"):
        Attached(method, run_of(*build(), target_modules="fcc1")).begin()
