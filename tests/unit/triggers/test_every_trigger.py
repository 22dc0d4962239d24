"""Promises of every registered trigger: settings as text, memory that survives, one decision in all processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor

from replastic import metrics, triggers
from replastic.errors import UserError
from replastic.triggers import Trigger

every_trigger = pytest.mark.parametrize("name", triggers.names())
QUICK: Mapping[str, str] = {
    "every": "every:steps=7",
    "plateau": "plateau:interval=3,patience=2",
    "dataset_change": "dataset_change:interval=2,window=4",
    "rank_drop": "rank_drop:interval=5",
    "dfi": "dfi:interval=5",
    "readiness": "readiness:interval=5",
}
"""Settings with which it acts within the 200 updates of `life`."""
UPDATES = 200


def loss_at(step: int) -> float:
    """Falls for 60 updates, stays, and jumps up again, with a little noise."""
    return 0.05 + 2.0 * math.exp(-0.08 * (step % 60)) + 0.003 * math.sin(37.0 * step)


class Network:
    """Two layers, whose measures go up and down with the updates."""

    def __init__(self) -> None:
        self.step = 0

    def __call__(self, names: tuple[str, ...]) -> dict[str, float]:
        wave = math.sin(math.pi * self.step / 100) ** 2
        values = (4.0 + 40 * wave) if names == ("dfi",) else (10.0 - 9.5 * wave)
        layers = {f"metric/{name}/{layer}": k * values for name in names for k, layer in enumerate(("a", "b"), 1)}
        return {f"metric/{name}": values for name in names} | layers


def made(name: str, network: Network) -> Trigger:
    trigger = triggers.from_spec(QUICK.get(name, name))
    trigger.bind(network)
    return trigger


def life(name: str, *, stop: int | None = None, as_tensor: Callable[[float], Any] = float) -> list[tuple[int, str]]:
    """Updates and reasons of its actions; at update `stop` it is saved and another one goes on from there."""
    network = Network()
    trigger = made(name, network)
    trigger.begin()
    found = []
    for step in range(1, UPDATES + 1):
        network.step = step
        reason = trigger.update(as_tensor(loss_at(step)))
        if reason:
            found.append((step, reason))
        if step == stop:
            saved = {key: value.clone() for key, value in trigger.state_dict().items()}
            trigger = made(name, network)
            trigger.load_state_dict(saved)
    return found


@every_trigger
def test_it_acts_and_says_why_in_one_line(name: str) -> None:
    found = life(name)
    assert found, f"{name} never acted: give QUICK settings with which it does"
    for _, reason in found:
        assert len(reason) < 150
        assert "\n" not in reason
        assert not reason.endswith(".")


@every_trigger
def test_saved_at_any_update_another_goes_on_alike(name: str) -> None:
    whole = life(name)
    for stop in range(1, UPDATES, 13):
        assert life(name, stop=stop) == whole, f"saved at update {stop}"


@every_trigger
def test_a_loss_may_be_a_number_or_a_scalar_tensor(name: str) -> None:
    def double(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64, requires_grad=True)

    assert life(name, as_tensor=double) == life(name)


@every_trigger
def test_its_state_is_tensors_that_safetensors_takes(name: str) -> None:
    network = Network()
    trigger = made(name, network)
    trigger.begin()
    trigger.update(1.0)
    assert all(isinstance(value, Tensor) and value.is_contiguous() for value in trigger.state_dict().values())


@every_trigger
def test_the_state_of_another_is_refused(name: str) -> None:
    trigger = made(name, Network())
    other = next(n for n in triggers.names() if n != name)
    with pytest.raises(UserError, match=f"the saved state is that of the trigger {other}, not of {name}"):
        trigger.load_state_dict(made(other, Network()).state_dict())
    with pytest.raises(UserError, match="this is no state of a trigger: it lacks losses, name, updates"):
        trigger.load_state_dict({})


@every_trigger
def test_a_loss_that_is_no_number_is_no_reason(name: str) -> None:
    trigger = made(name, Network())
    trigger.begin()
    if trigger.uses_loss:
        assert [trigger.update(math.nan) for _ in range(UPDATES)] == [""] * UPDATES


@every_trigger
def test_processes_that_see_different_losses_decide_alike(name: str) -> None:
    """The numbers of each look are exchanged: here for those of the other one."""
    network = Network()
    one, other = made(name, network), made(name, network)
    seen: list[Tensor] = []

    def keep(numbers: Tensor) -> Tensor:
        seen.append(numbers)
        return numbers

    def take(numbers: Tensor) -> Tensor:
        taken = seen.pop(0)
        assert taken.shape == numbers.shape
        return taken

    one.bind(network, keep)
    other.bind(network, take)
    one.begin()
    other.begin()
    for step in range(1, UPDATES + 1):
        network.step = step
        assert one.update(loss_at(step)) == other.update(9.9 - loss_at(step)), f"update {step}"
    assert not seen


@every_trigger
def test_text_and_trigger_say_the_same(name: str) -> None:
    spec = QUICK.get(name, name)
    trigger = triggers.from_spec(spec)
    assert triggers.spec_of(trigger) == spec
    assert type(trigger) is triggers.get(name)
    assert triggers.spec_of(triggers.from_spec(name)) == name


@every_trigger
def test_every_setting_has_help_and_a_rest(name: str) -> None:
    kind = triggers.get(name)
    assert all(f.metadata.get("help") for f in fields(kind))
    assert "rest" in {f.name for f in fields(kind)}
    entry = triggers.entry(name)
    assert entry.summary.endswith(".")
    assert "Reference:" in (kind.__doc__ or "") or "Ours" in (kind.__doc__ or "")


@every_trigger
def test_it_rests_after_an_action(name: str) -> None:
    network = Network()
    trigger = triggers.from_spec(f"{QUICK.get(name, name)}{',' if ':' in QUICK.get(name, name) else ':'}rest=90")
    trigger.bind(network)
    trigger.begin()
    found = []
    for step in range(1, 400):
        network.step = step
        if trigger.update(loss_at(step), changed=True):
            found.append(step)
    assert found
    assert all(after - before >= 90 for before, after in zip([0, *found], found, strict=False))


@every_trigger
def test_its_measures_exist(name: str) -> None:
    for measure in triggers.from_spec(name).measures():
        assert metrics.get(measure).on != "change"


@every_trigger
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("rest=-1", "rest must be at least 0, got -1"),
        ("rest=often", "rest must be of type int, got 'often'"),
        ("patients=3", "has no option 'patients'"),
    ],
)
def test_wrong_settings_are_one_sentence(name: str, options: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        triggers.from_spec(f"{name}:{options}")


def test_an_unknown_name_offers_near_ones() -> None:
    with pytest.raises(UserError, match="plateau"):
        triggers.from_spec("plateu")
    for wrong in ("", 3, None):
        with pytest.raises(UserError, match="trigger must be a name such as 'plateau'"):
            triggers.from_spec(wrong)  # type: ignore[arg-type]
