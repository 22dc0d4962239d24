"""The replay gives what a list of whole transitions gives, whatever the episodes, copies and the size of the ring."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from replastic import memory
from replastic.envs import ActionSpace, Environment, ObservationSpace, Replay, ReplaySize, Transitions
from replastic.errors import UserError
from replastic.seeds import generator
from support.scripted_environment import Script, ScriptedEnvironment

SCRIPTS = st.lists(
    st.builds(Script, steps=st.integers(1, 9), cut_off=st.booleans(), life=st.integers(0, 9)), min_size=1, max_size=5
)


@dataclass
class Naive:
    """Every transition of every copy as whole tensors, for good."""

    copies: int
    lists: list[list[tuple[Tensor, ...]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lists = [[] for _ in range(self.copies)]

    def add(self, before: Tensor, actions: Tensor, environment: Environment) -> None:
        """Act, and keep what happened."""
        step = environment.step(actions)
        after = step.observations.clone()
        after[step.ended] = step.final
        for copy, rows in enumerate(self.lists):
            rows.append((before[copy], actions[copy], step.rewards[copy], after[copy], step.terminated[copy]))
        self.step = step

    def newest(self, counts: list[int]) -> list[tuple[Tensor, ...]]:
        """The last so many of each copy."""
        return [row for rows, count in zip(self.lists, counts, strict=True) for row in rows[len(rows) - count :]]


def played(
    scripts: list[Script], copies: int, stack: int, capacity: int, steps: int, restart: int = 0
) -> tuple[Replay, Naive, ScriptedEnvironment]:
    """A replay and the naive lists after so many steps; at step `restart` the environment begins anew by a reset."""
    environment = ScriptedEnvironment(copies, scripts, stack)
    replay = Replay(capacity, copies, environment.observation, environment.action)
    naive, draw = Naive(copies), generator(0, "actions")
    replay.begin(environment.observations)
    for step in range(steps):
        if restart and step == restart:
            replay.begin(environment.reset(100))
        actions = torch.randint(3, (copies,), generator=draw)
        naive.add(environment.observations, actions, environment)
        replay.add(actions, naive.step)
    return replay, naive, environment


def kept(replay: Replay, copies: int) -> list[int]:
    """Transitions of each copy, from the frames' own first entry: the copy."""
    if not len(replay):
        return [0] * copies
    everything = replay.take(torch.arange(len(replay))).next_observations
    newest = everything[:, -1] if everything.ndim == 3 else everything
    return [int((newest[:, 0] == copy).sum()) for copy in range(copies)]


def assert_equal(got: Transitions, wanted: list[tuple[Tensor, ...]]) -> None:
    for name, mine, theirs in zip(Transitions._fields, got, map(torch.stack, zip(*wanted, strict=True)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


@settings(max_examples=60, deadline=None)
@given(
    SCRIPTS, st.integers(1, 4), st.sampled_from((1, 2, 4)), st.integers(9, 60), st.integers(1, 70), st.integers(0, 9)
)
def test_it_holds_the_newest_transitions(
    scripts: list[Script], copies: int, stack: int, places: int, steps: int, restart: int
) -> None:
    replay, naive, _ = played(scripts, copies, stack, places * copies, steps, restart)
    counts = kept(replay, copies)
    assert sum(counts) == len(replay)
    assert len(replay) > 0
    assert_equal(replay.take(torch.arange(len(replay))), naive.newest(counts))


@settings(max_examples=30, deadline=None)
@given(SCRIPTS, st.integers(1, 3), st.sampled_from((1, 4)))
def test_nothing_is_dropped_before_the_ring_is_full(scripts: list[Script], copies: int, stack: int) -> None:
    steps = 20
    replay, _, environment = played(scripts, copies, stack, copies * (steps + 1 + (steps + 1) * stack), steps)
    assert len(replay) == steps * copies
    assert environment.copies == copies


def test_a_full_ring_loses_little() -> None:
    """One frame for each of the ring's stack, and the first frames of each episode, hold no transition."""
    replay, _, _ = played([Script(steps=25)], copies=2, stack=4, capacity=2 * 100, steps=500)
    episodes = 100 / (25 + 4)
    assert 100 - 4 * (episodes + 2) <= len(replay) / 2 <= 100 - 4 * (episodes - 1)


def test_a_cut_off_episode_has_its_last_observation_and_no_end() -> None:
    replay, _, _ = played([Script(steps=3, cut_off=True), Script(steps=2)], 1, 1, 50, 5)
    batch = replay.take(torch.arange(5))
    assert batch.next_observations[:, 1:3].tolist() == [[0, 1], [0, 2], [0, 3], [1, 1], [1, 2]]
    assert batch.observations[:, 1:3].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]
    assert batch.terminated.tolist() == [False, False, False, False, True]


def test_a_lost_life_ends_no_stack() -> None:
    replay, _, _ = played([Script(steps=6, life=3)], 1, 2, 50, 5)
    batch = replay.take(torch.arange(5))
    assert batch.terminated.tolist() == [False, False, True, False, False]
    assert batch.next_observations[2, :, 2].tolist() == [2.0, 3.0]
    assert batch.observations[3, :, 2].tolist() == [2.0, 3.0]


def test_each_transition_is_drawn_equally_often() -> None:
    replay, _, _ = played([Script(steps=4), Script(steps=7)], 3, 2, 90, 60)
    draws = 40_000
    everything = replay.take(torch.arange(len(replay))).next_observations[:, -1, :3].tolist()
    drawn = replay.sample(draws, generator(1)).next_observations[:, -1, :3].tolist()
    counts = torch.tensor([drawn.count(row) for row in everything]).double()
    assert counts.sum() == draws
    expected = draws / len(everything)
    chi_square = float(((counts - expected).square() / expected).sum())
    freedom = len(everything) - 1
    assert chi_square < freedom + 5 * (2 * freedom) ** 0.5


def test_draws_follow_from_the_generator_alone() -> None:
    replay, _, _ = played([Script(steps=4)], 2, 1, 60, 40)
    torch.manual_seed(1)
    first = replay.sample(16, generator(3, "replay", 7))
    torch.manual_seed(2)
    again, other = replay.sample(16, generator(3, "replay", 7)), replay.sample(16, generator(3, "replay", 8))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.observations, other.observations)


def test_the_newest_come_last() -> None:
    replay, naive, _ = played([Script(steps=4)], 2, 1, 200, 30)
    assert_equal(replay.newest(10), naive.newest([5, 5]))
    assert_equal(replay.newest(10_000), naive.newest([30, 30]))


@pytest.mark.parametrize("steps", [7, 90])
def test_a_saved_replay_goes_on_as_before(steps: int) -> None:
    scripts = [Script(steps=4), Script(steps=3, cut_off=True)]
    replay, _, environment = played(scripts, 2, 2, 80, steps)
    saved = {name: value.clone() for name, value in replay.state_dict().items()}
    restored = Replay(80, 2, environment.observation, environment.action)
    restored.load_state_dict(saved)
    for _ in range(25):
        actions = torch.tensor([1, 2])
        step = environment.step(actions)
        replay.add(actions, step)
        restored.add(actions, step)
    numbers = torch.arange(len(replay))
    assert len(restored) == len(replay)
    assert all(torch.equal(a, b) for a, b in zip(replay.take(numbers), restored.take(numbers), strict=True))


def test_saving_copies_nothing_and_takes_what_is_filled() -> None:
    replay, _, _ = played([Script(steps=4)], 2, 1, 10_000, 7)
    state = replay.state_dict()
    assert len(state["frames"]) == 7 + 1 + 1
    assert state["frames"].data_ptr() == replay._frames.data_ptr()
    assert all(value.is_contiguous() for value in state.values())


def test_another_replay_is_refused() -> None:
    replay, _, environment = played([Script(steps=4)], 2, 2, 80, 50)
    other = Replay(60, 2, environment.observation, environment.action)
    with pytest.raises(UserError, match=r"saved replay has frames .* capacity, copies and environment"):
        other.load_state_dict(replay.state_dict())


def test_the_paper_s_replay_takes_seven_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = ObservationSpace((4, 84, 84), torch.uint8, stack=4)
    size = ReplaySize(1_000_000, pixels, ActionSpace(18))
    # a frame of 7,056 bytes, an action of 8, a reward of 4, a flag, a place of 8
    assert size.bytes == 1_000_000 * (84 * 84 + 8 + 4 + 1 + 8)
    assert str(size) == "replay of 1,000,000 frames of 84 x 84 uint8: 7.08 GB"
    monkeypatch.setattr(memory, "free_memory", lambda: 3_000_000_000)
    said = "replay of 1,000,000 frames of 84 x 84 uint8: 7.08 GB, but only 3 GB of memory are free: lower its capacity"
    with pytest.raises(UserError, match=re.escape(said)):
        Replay(1_000_000, 4, pixels, ActionSpace(18))


def test_its_tensors_take_what_was_said() -> None:
    space, actions = ObservationSpace((5,), torch.float32), ActionSpace(shape=(3,))
    replay = Replay(103, 2, space, actions)
    held = sum(value.numel() * value.element_size() for value in replay._tensors().values())
    assert replay.size.bytes == held == 102 * (5 * 4 + 3 * 4 + 13)


def test_what_cannot_work_is_said() -> None:
    space = ObservationSpace((4, 4), torch.float32, stack=4)
    with pytest.raises(UserError, match="capacity must be at least 18 frames for 2 copies, got 17"):
        Replay(17, 2, space, ActionSpace(3))
    with pytest.raises(UserError, match="the replay is empty"):
        Replay(18, 2, space, ActionSpace(3)).sample(1, generator(0))
