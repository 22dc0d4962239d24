"""Each trigger's rule, on numbers made by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replastic import triggers
from replastic.errors import UserError
from replastic.triggers import Trigger


def acted(trigger: Trigger, losses: Iterable[float]) -> list[int]:
    """Numbers of the updates, from 1, after which it wants the method to act."""
    return [step for step, loss in enumerate(losses, 1) if trigger.update(loss)]


@given(st.integers(1, 20), st.integers(0, 30))
def test_every_counts_updates_and_rests_to_the_next_multiple(steps: int, rest: int) -> None:
    trigger = triggers.from_spec(f"every:steps={steps},rest={rest}")
    between = steps * max(1, math.ceil(rest / steps))
    assert [s for s in range(1, 200) if trigger.update()] == list(range(between, 200, between))


def test_plateau_waits_for_looks_without_a_new_low() -> None:
    trigger = triggers.from_spec("plateau:interval=2,patience=2,least=0.1")
    # Means of two: 4, 3, 2.9 (no new low: 2.9 > 2.7), 2.8 -> second without; then all anew: 5, 5, 5.
    losses = [4, 4, 2, 4, 3, 2.8, 2.8, 2.8, 5, 5, 5, 5, 5, 5]
    assert acted(trigger, losses) == [8, 14]


def test_plateau_lets_a_learned_task_alone() -> None:
    losses = [0.01] * 50 + [1.0] * 50
    assert acted(triggers.from_spec("plateau:interval=1,patience=10,above=0.5"), losses) == [51, 62, 73, 84, 95]
    assert acted(triggers.from_spec("plateau:interval=1,patience=10"), losses)[0] == 11


def test_plateau_of_a_falling_loss_never_acts() -> None:
    falling = [-0.1 * step for step in range(300)]  # below zero, too
    assert acted(triggers.from_spec("plateau:interval=1,patience=3,least=0"), falling) == []


def test_plateau_tells_a_new_low_below_zero() -> None:
    losses = [-1.0, -1.05, -1.08, -1.2, -1.25, -1.3]  # with least 0.1 a new low after -1 begins at -1.1
    assert acted(triggers.from_spec("plateau:interval=1,patience=2,least=0.1"), losses) == [3, 6]


def test_dataset_change_sees_a_jump_of_the_loss() -> None:
    fall = [2 * 0.9**step for step in range(60)]
    trigger = triggers.from_spec("dataset_change:interval=1,window=10")
    assert acted(trigger, [*fall, *fall, *fall]) == [61, 121]


def test_dataset_change_ignores_small_ups_near_zero() -> None:
    losses = [2 * 0.9**step for step in range(100)] + [0.01, 0.0, 0.0, 0.3, 0.0] * 10
    assert acted(triggers.from_spec("dataset_change:interval=1,window=10"), losses) == []
    assert acted(triggers.from_spec("dataset_change:interval=1,window=10,rise=0"), losses) != []


def test_dataset_change_ignores_noise() -> None:
    noise = (1 + 0.1 * torch.randn(3000, generator=torch.Generator().manual_seed(0))).tolist()
    # Of means of 10 with a window of 10, one in some 10,000 lies 4 robust deviations above the median or more.
    assert len(acted(triggers.from_spec("dataset_change"), noise)) <= 2
    assert acted(triggers.from_spec("dataset_change"), noise + [2.0] * 10) != acted(
        triggers.from_spec("dataset_change"), noise
    )


def test_dataset_change_fills_its_window_before_it_judges() -> None:
    assert acted(triggers.from_spec("dataset_change:interval=1,window=10"), [1.0] * 10 + [9.0]) == [11]
    assert acted(triggers.from_spec("dataset_change:interval=1,window=11"), [1.0] * 10 + [9.0]) == []


@pytest.mark.parametrize(
    ("by", "jump", "signal"), [("both", True, True), ("loss", True, False), ("signal", False, True)]
)
def test_dataset_change_listens_to_what_it_was_told_to(by: str, jump: bool, signal: bool) -> None:
    trigger = triggers.from_spec(f"dataset_change:interval=1,window=3,by={by}")
    assert bool(acted(trigger, [1.0, 1.0, 1.0, 5.0])) is jump
    assert trigger.update(1.0, changed=True) == ("the data changed, as was signalled" if signal else "")
    assert bool(trigger.signal()) is signal


@pytest.mark.parametrize("name", ["every", "plateau", "rank_drop", "dfi"])
def test_others_do_not_listen(name: str) -> None:
    assert triggers.from_spec(name).signal() == ""


def measured(spec: str, *looks: dict[str, float]) -> list[int]:
    """Looks, from 1, at which it wants the method to act; the first is the start."""
    trigger = triggers.from_spec(spec)
    coming = iter(looks)
    trigger.bind(lambda names: {f"metric/{names[0]}/{layer}": value for layer, value in next(coming).items()})
    trigger.begin()
    return [look for look in range(1, len(looks)) if trigger.update(1.0)]


def test_dfi_compares_each_layer_with_itself() -> None:
    start = {"a": 142.0, "b": 10.0}
    spec = "dfi:interval=1,growth=2,layers=1"
    assert measured(spec, start, {"a": 284.0, "b": 19.0}, {"a": 284.0, "b": 20.0}) == [2]
    assert measured("dfi:interval=1,growth=2,layers=0.5", start, {"a": 284.0, "b": 19.0}) == [1]
    # The limit of corollary 2 lies far below where these layers began: it is no reason to act.
    assert measured(spec, start, start) == []


def test_dfi_of_an_orthogonal_start_counts_from_the_floor() -> None:
    spec = "dfi:interval=1,growth=4"
    assert measured(spec, {"a": 1e-12}, {"a": 1e-3}, {"a": 3.9}, {"a": 4.0}) == [3]
    assert measured(spec + ",floor=0.01", {"a": 1e-12}, {"a": 0.03}, {"a": 0.04}) == [2]


def test_what_an_action_does_not_mend_is_no_reason_to_act_again() -> None:
    spec = "dfi:interval=1,growth=2"
    # Acts at 30; the look after that finds 28, from which the next growth counts: 56.
    assert measured(spec, {"a": 10.0}, {"a": 30.0}, {"a": 28.0}, {"a": 55.0}, {"a": 56.0}) == [1, 4]
    # Mended to less than at the start, it counts from the start.
    assert measured(spec, {"a": 10.0}, {"a": 30.0}, {"a": 2.0}, {"a": 19.0}, {"a": 20.0}) == [1, 4]


def test_rank_drop_compares_each_layer_with_itself() -> None:
    spec = "rank_drop:interval=1,drop=0.25,layers=1"
    assert measured(spec, {"a": 100.0, "b": 8.0}, {"a": 75.0, "b": 7.0}, {"a": 75.0, "b": 6.0}) == [2]
    assert measured(spec, {"a": 100.0}, {"a": 60.0}, {"a": 50.0}, {"a": 38.0}, {"a": 37.5}) == [1, 4]
    assert measured(spec, {"a": 100.0}, {"a": 60.0}, {"a": 120.0}, {"a": 76.0}, {"a": 75.0}) == [1, 4]


def test_readiness_falls_from_its_peak_and_a_learned_task_is_let_alone() -> None:
    looks = [{"": value} for value in (1.0, 5.0, 0.6, 0.5, 0.06, 0.04)]
    spec = "readiness:interval=1,left=0.1"
    start = {"": 99.0}  # is not compared with
    # 0.5 is a tenth of the peak of 5; after the action 0.06 is the peak, of which 0.04 is more than a tenth.
    assert measured(spec, start, *looks) == [4]
    assert measured(spec + ",above=0.9", start, *looks) == [4]
    assert measured(spec + ",above=1", start, *looks) == []


def test_without_begin_the_first_look_is_the_start() -> None:
    trigger = triggers.from_spec("dfi:interval=1,growth=2")
    values = iter((10.0, 19.0, 20.0))
    trigger.bind(lambda names: {"metric/dfi": 99.0, "metric/dfi/a": next(values)})
    assert [bool(trigger.update()) for _ in range(3)] == [False, False, True]


def test_a_measure_of_the_whole_network_counts_as_one_layer() -> None:
    trigger = triggers.from_spec("rank_drop:interval=1,measure=mine")
    values = iter((10.0, 8.0, 6.0))
    trigger.bind(lambda names: {"metric/mine": next(values)})
    trigger.begin()
    assert [trigger.update() for _ in range(2)] == ["", "mine is 6, and was 10"]


def test_what_is_missing_is_said() -> None:
    with pytest.raises(UserError, match=r"the trigger plateau decides by the training loss: pass loss="):
        triggers.from_spec("plateau").update()
    with pytest.raises(UserError, match=r"loss must be a number or a scalar tensor, got a tensor of shape \(3,\)"):
        triggers.from_spec("plateau").update(torch.ones(3))
    with pytest.raises(UserError, match="loss must be a number or a scalar tensor, got 'low'"):
        triggers.from_spec("plateau").update("low")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the trigger dfi decides by dfi of the network: use it through"):
        triggers.from_spec("dfi").begin()
