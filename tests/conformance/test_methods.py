"""What every method keeps to, whoever wrote it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from replastic import methods
from replastic.errors import UserError
from replastic.methods import Method, Run
from replastic.weights.change import Change
from replastic.weights.checkpoint import CheckpointStore
from replastic.weights.outcome import Outcome
from replastic.weights.writer import write

Build = Callable[..., tuple[nn.Module, dict[str, Tensor]]]
Boundary = Callable[..., Run]

every_method = pytest.mark.parametrize("name", methods.names())
LAYOUTS = [torch.contiguous_format, torch.channels_last]
DTYPES = [torch.float32, torch.bfloat16]


def cross(method: Method, run: Run, **options: Any) -> Outcome:
    """Lead a run over one boundary, as training and the library call do."""
    methods.check_needs(method, run)
    method.setup(run)
    return write(run.store, method.on_boundary(run) or Change(), optimizer=run.optimizer, **options)


def train_on(method: Method, run: Run) -> None:
    """One pass of updates, as training makes them, with the method's optimizer if it makes one."""
    assert run.model is not None
    assert run.batches is not None
    assert run.loss_fn is not None
    if method.makes_optimizer:
        groups = [{"params": [p for p in run.model.parameters() if p.requires_grad]}]
        run.optimizer = method.make_optimizer(groups, lambda given: torch.optim.Adam(given, lr=1e-3))
    assert run.optimizer is not None
    run.model.train()
    for batch in run.batches():
        run.optimizer.zero_grad()
        value = run.loss_fn(run.model, batch)
        penalty = method.penalty(run)
        if penalty is not None:
            assert penalty.shape == ()
            assert penalty.requires_grad
            value = value + penalty
        value.backward()
        run.optimizer.step()
        run.step += 1
        for part in method.parts:
            change = part.after_step(run)
            if change is not None:
                write(run.store, change, optimizer=run.optimizer, policy="keep")
        assert torch.isfinite(value)


def content(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


@every_method
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parameters_stay_the_objects_they_are(
    name: str, dtype: torch.dtype, layout: torch.memory_format, build: Build, boundary: Boundary
) -> None:
    method = methods.from_spec(name)
    if method.changes_structure:
        pytest.skip("adds modules; has its own contract")
    model, init = build(dtype, layout)

    def facts() -> dict[str, object]:
        return {n: (id(p), p.dtype, p.stride(), p.requires_grad, p.data_ptr()) for n, p in model.named_parameters()}

    before = facts()
    cross(method, boundary(model, init))
    assert facts() == before
    assert [n for n, value in model.state_dict().items() if not value.isfinite().all()] == []


@every_method
def test_same_seed_same_result_whatever_the_global_generator(name: str, build: Build, boundary: Boundary) -> None:
    results = []
    for global_seed in (1, 2):
        model, init = build()
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        method, run = methods.from_spec(name), boundary(model, init, seed=5)
        cross(method, run)
        train_on(method, run)
        method.close()
        assert torch.equal(torch.get_rng_state(), state), "the method drew from the global generator"
        results.append(content(model))
    assert differing(*results) == []


@every_method
@pytest.mark.parametrize("what", ["seed", "phase"])
def test_seed_and_phase_matter_if_and_only_if_it_draws(name: str, what: str, build: Build, boundary: Boundary) -> None:
    draws = methods.from_spec(name).draws
    if draws and methods.get(name).on_boundary is Method.on_boundary:
        pytest.skip("draws while it trains; see its own tests")
    results = []
    for value in (5, 6):
        model, init = build()
        cross(methods.from_spec(name), boundary(model, init, **{what: value}))
        results.append(content(model))
    assert bool(differing(*results)) == draws


@every_method
def test_frozen_and_excluded_parameters_are_left_alone(name: str, build: Build, boundary: Boundary) -> None:
    model, init = build()
    model.conv2.weight.requires_grad_(False)
    before = content(model)
    method, run = methods.from_spec(name), boundary(model, init, exclude_modules=("fc1",))
    if "units" in method.required():  # every unit of this network feeds one of the two, or is fed by it
        with pytest.raises(UserError, match="frozen or excluded"):
            cross(method, run)
        return
    outcome = cross(method, run)
    after = content(model)
    for kept in ("conv2.weight", "fc1.weight", "fc1.bias"):
        assert torch.equal(after[kept], before[kept]), kept
    reasons = {s.weight: s.reason for s in outcome.skipped}
    if outcome.layers and not outcome.layers[0].weight.startswith("head"):
        assert "frozen" in reasons["conv2.weight"]
        assert "excluded" in reasons["fc1.weight"]


@every_method
@pytest.mark.parametrize("dtype", DTYPES)
def test_undo_restores_every_bit(name: str, dtype: torch.dtype, build: Build, boundary: Boundary) -> None:
    model, init = build(dtype)
    before = content(model)
    outcome = cross(methods.from_spec(name), boundary(model, init))
    outcome.undo_()
    assert differing(content(model), before) == []


@every_method
def test_dry_run_writes_nothing_and_reports_the_same(name: str, build: Build, boundary: Boundary) -> None:
    model, init = build()
    before = content(model)
    dry = cross(methods.from_spec(name), boundary(model, init), dry_run=True)
    assert differing(content(model), before) == []
    wet = cross(methods.from_spec(name), boundary(model, init))
    assert dry.layers == wet.layers


@every_method
def test_reported_change_is_the_change_made(name: str, build: Build, boundary: Boundary) -> None:
    model, init = build(torch.bfloat16)
    before = content(model)
    outcome = cross(methods.from_spec(name), boundary(model, init))
    after = content(model)
    for weight in {layer.weight for layer in outcome.layers}:
        moved = (after[weight].double() - before[weight].double()).square().sum()
        reported = sum(layer.sfe for layer in outcome.layers if layer.weight == weight)
        assert reported == pytest.approx(float(moved), rel=1e-9, abs=1e-12), weight


@every_method
def test_training_goes_on_afterwards_and_leaves_no_hooks(name: str, build: Build, boundary: Boundary) -> None:
    model, init = build()
    run = boundary(model, init)
    method = methods.from_spec(name)
    cross(method, run)
    train_on(method, run)
    assert all(value.isfinite().all() for value in content(model).values())
    method.close()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@every_method
def test_state_survives_a_round_trip(name: str, build: Build, boundary: Boundary) -> None:
    model, init = build()
    run = boundary(model, init)
    method, other = methods.from_spec(name), methods.from_spec(name)
    cross(method, run)
    train_on(method, run)
    state = method.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    method.close()
    other.setup(run)
    other.load_state_dict(state)
    assert differing(other.state_dict(), state) == []


@every_method
@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
def test_a_file_gets_the_same_numbers_as_the_live_model(
    name: str, reverse: bool, build: Build, boundary: Boundary, tmp_path: Path
) -> None:
    method = methods.from_spec(name)
    if method.required() & {"model", "batches", "loss", "units", "optimizer"}:
        pytest.skip("needs the live model")
    model, init = build()
    state = content(model)
    names = sorted(state, reverse=reverse)
    save_file({n: state[n] for n in names}, tmp_path / "model.safetensors")
    store = CheckpointStore(tmp_path / "model.safetensors", destination=tmp_path / "out.safetensors")
    run = boundary(model, init)
    write(store, method.on_boundary(replace(run, store=store, model=None, optimizer=None)) or Change())
    cross(method, run)
    assert differing(load_file(tmp_path / "out.safetensors"), content(model)) == []


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
def test_missing_needs_are_named_with_the_remedy(name: str, build: Build, boundary: Boundary) -> None:
    fields_of_run = {"loss": "loss_fn", "units": "model"}
    method = methods.from_spec(name)
    run = boundary(*build())
    for need in method.required():
        with pytest.raises(UserError, match=f"{name} needs"):
            methods.check_needs(method, replace(run, **{fields_of_run.get(need, need): None}))


@every_method
def test_a_pattern_without_match_shows_before_training(name: str, build: Build, boundary: Boundary) -> None:
    model, init = build()
    if type(methods.from_spec(name)).check is Method.check:
        pytest.skip("chooses no weights")
    with pytest.raises(UserError, match="did you mean 'fc1'"):
        methods.check_needs(methods.from_spec(name), boundary(model, init, target_modules="fcc1"))
