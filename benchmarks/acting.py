"""Acting and replay beside a plain loop, in turn in one process; drawing batches; memory of a full replay.

The plain loop is written as single-file implementations do it: Gymnasium environments one after the other, wrappers for
grey pixels, stacks and sticky actions, whole stacks in the replay and transitions gathered one by one. No network is in
it: actions are drawn, and a batch is taken for every fourth action (replay ratio 1/4). The updates are measured where
the agents are.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from measure import Row, command_line, in_turn, publish, ratio
from memory import fresh_process, peak
from PIL import Image

from replastic import envs
from replastic.envs import ActionSpace, ObservationSpace, Replay, ReplaySize
from replastic.seeds import generator

GAMES = {"atari/Asterix": 8, "minatar/breakout": 8, "minatar/space_invaders": 8}
"""Environments, and copies of each that are stepped together."""
BATCH, RATIO = 32, 4
"""Transitions of a batch, and agent interactions for each batch."""
ACTING, SAMPLING = 2.0, 5.0
"""Least speed as a multiple of the plain loop's: acting on Atari, and drawing a batch."""
FULL = ReplaySize(1_000_000, ObservationSpace((4, 84, 84), torch.uint8, stack=4), ActionSpace(9))


class Ours:
    """The library's environment and replay."""

    def __init__(self, spec: str, copies: int, capacity: int) -> None:
        self.environment = envs.from_spec(spec).make(copies, 0)
        self.replay = Replay(capacity, copies, self.environment.observation, self.environment.action)
        self.replay.begin(self.environment.observations)
        self.draw, self.copies, self.done = generator(0, "actions"), copies, 0

    def advance(self, interactions: int) -> None:
        """Act so often, over all copies, and take the batches that belong to it."""
        count = self.environment.action.count
        for _ in range(interactions // self.copies):
            actions = torch.randint(count, (self.copies,), generator=self.draw)
            self.replay.add(actions, self.environment.step(actions))
            self.done += self.copies
            for _ in range(self.copies // RATIO):
                self.replay.sample(BATCH, self.draw)


class PlainReplay:
    """Whole observations in two arrays, one place after the other; a batch is gathered index by index."""

    def __init__(self, capacity: int, shape: tuple[int, ...], dtype: Any) -> None:
        self.seen, self.followed = np.zeros((capacity, *shape), dtype), np.zeros((capacity, *shape), dtype)
        self.actions, self.rewards = np.zeros(capacity, np.int64), np.zeros(capacity, np.float32)
        self.over = np.zeros(capacity, bool)
        self.capacity, self.count = capacity, 0

    def add(self, seen: Any, action: int, reward: float, followed: Any, over: bool) -> None:
        """Keep one transition."""
        place = self.count % self.capacity
        self.seen[place], self.followed[place] = seen, followed
        self.actions[place], self.rewards[place], self.over[place] = action, reward, over
        self.count += 1

    def sample(self, count: int, random: np.random.RandomState) -> tuple[torch.Tensor, ...]:
        """A batch."""
        places = random.randint(0, min(self.count, self.capacity), count)
        rows = [(self.seen[i], self.actions[i], self.rewards[i], self.followed[i], self.over[i]) for i in places]
        return tuple(torch.as_tensor(np.stack(column)) for column in zip(*rows, strict=True))


class PlainAtari:
    """One ALE behind Gymnasium, with the wrappers of DQN in Python: 4 frames an action, the maximum of the last two."""

    def __init__(self, game: str, seed: int) -> None:
        import ale_py
        import gymnasium

        gymnasium.register_envs(ale_py)
        self.game = gymnasium.make(f"ALE/{game}-v5", frameskip=1, obs_type="grayscale", repeat_action_probability=0.25)
        self.count = int(self.game.action_space.n)
        self.frames: deque[Any] = deque(maxlen=4)
        self.seed: int | None = seed

    def reset(self) -> Any:
        """Begin an episode with up to 30 idle frames."""
        screen, _ = self.game.reset(seed=self.seed)
        self.seed = None
        for _ in range(15):
            screen = self.game.step(0)[0]
        self.frames.extend([shrunk(screen)] * 4)
        return np.stack(self.frames)

    def step(self, action: int) -> tuple[Any, float, bool, bool]:
        """Hold the action for 4 frames."""
        total, last = 0.0, []
        for _ in range(4):
            screen, reward, over, late, _ = self.game.step(action)
            last.append(screen)
            total += float(reward)
            if over or late:
                break
        self.frames.append(shrunk(np.maximum(last[-1], last[-2]) if len(last) > 1 else last[-1]))
        return np.stack(self.frames), float(np.sign(total)), over, late


class PlainMinAtar:
    """MinAtar's own environment."""

    def __init__(self, game: str, seed: int) -> None:
        from minatar import Environment

        self.game, self.count = Environment(game), 6
        self.game.seed(seed)

    def reset(self) -> Any:
        """Begin an episode."""
        self.game.reset()
        return self.game.state().transpose(2, 0, 1)

    def step(self, action: int) -> tuple[Any, float, bool, bool]:
        """Take an action."""
        reward, over = self.game.act(action)
        return self.game.state().transpose(2, 0, 1), float(reward), over, False


def shrunk(screen: Any) -> Any:
    """A screen (210, 160) as 84 x 84, each pixel the mean of those it covers, as OpenCV's area makes it."""
    return np.asarray(Image.fromarray(screen).resize((84, 84), Image.Resampling.BOX))


def one_by_one(replay: Replay, count: int, draw: torch.Generator) -> tuple[torch.Tensor, ...]:
    """A batch of the library's replay as a plain loop takes it: transition by transition, frame by frame."""
    frames, at = replay._frames.numpy(), replay._at.numpy()
    kept = replay._next - replay._first
    rows = []
    for number in torch.randint(len(replay), (count,), generator=draw).tolist():
        copy = 0
        while number >= kept[copy]:
            number -= int(kept[copy])
            copy += 1
        place = int(at[(int(replay._first[copy]) + number) % replay.places, copy])
        places = range(place - replay._stack + 1, place + 2)
        span = np.stack([frames[p % replay.places, copy] for p in places])
        seen, followed = (span[:-1], span[1:]) if replay._stack > 1 else (span[0], span[1])
        slot = place % replay.places, copy
        numbers = (values.numpy()[slot] for values in (replay._actions, replay._rewards, replay._terminated))
        rows.append((seen, followed, *numbers))
    return tuple(torch.as_tensor(np.stack(column)) for column in zip(*rows, strict=True))


class Plain:
    """Several plain environments, one after the other, and a plain replay."""

    def __init__(self, spec: str, copies: int, capacity: int) -> None:
        family, _, game = spec.partition("/")
        kind: Callable[[str, int], Any] = PlainAtari if family == "atari" else PlainMinAtar
        self.games = [kind(game, seed) for seed in range(copies)]
        self.seen = [game.reset() for game in self.games]
        self.replay = PlainReplay(capacity, self.seen[0].shape, self.seen[0].dtype)
        self.random = np.random.RandomState(0)

    def advance(self, interactions: int) -> None:
        """Act so often, over all copies, and take the batches that belong to it."""
        for _ in range(interactions // len(self.games)):
            for number, game in enumerate(self.games):
                action = int(self.random.randint(game.count))
                followed, reward, over, late = game.step(action)
                self.replay.add(self.seen[number], action, reward, followed, over)
                self.seen[number] = game.reset() if over or late else followed
            for _ in range(len(self.games) // RATIO):
                self.replay.sample(BATCH, self.random)


def acting(spec: str, interactions: int, repeats: int) -> list[Row]:
    """Interactions a second of acting with replay, and the batches alone."""
    copies, capacity = GAMES[spec], 20_000
    ours, plain = Ours(spec, copies, capacity), Plain(spec, copies, capacity)
    seconds = in_turn(
        {"ours": lambda: ours.advance(interactions), "plain": lambda: plain.advance(interactions)},
        repeats,
        lambda: None,
    )
    goal = ACTING if spec.startswith("atari/") else None
    what = f"{spec}, {copies} copies"
    rows = [Row(what, f"{n} loop", interactions / statistics.median(s), "interactions/s") for n, s in seconds.items()]
    rows.append(Row(what, "acting and replay / plain", ratio(seconds["plain"], seconds["ours"]), "x", goal))

    def drawn() -> None:
        for _ in range(100):
            ours.replay.sample(BATCH, ours.draw)

    def gathered() -> None:
        for _ in range(100):
            plain.replay.sample(BATCH, plain.random)

    def looped() -> None:
        for _ in range(100):
            one_by_one(ours.replay, BATCH, ours.draw)

    batches = in_turn({"ours": drawn, "plain": gathered, "one by one": looped}, repeats, lambda: None)
    rows += [Row(f"{what}: batch of {BATCH}", n, 1e4 * statistics.median(s), "us") for n, s in batches.items()]
    rows.append(
        Row(
            f"{what}: batch of {BATCH}",
            "ours / the same frames, one by one",
            ratio(batches["one by one"], batches["ours"]),
            "x",
            SAMPLING,
        )
    )
    rows.append(
        Row(
            f"{what}: batch of {BATCH}",
            "ours / whole stacks index by index",
            ratio(batches["plain"], batches["ours"]),
            "x",
        )
    )
    return rows


def fill() -> None:
    """Fill a replay of the paper's size, and print the MiB that it took."""
    made: list[Replay] = []

    def work() -> None:
        replay = Replay(FULL.capacity, 1, FULL.observation, FULL.action)
        for tensor in replay._tensors().values():
            tensor.fill_(1)
        made.append(replay)

    print(peak(work))


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--games", nargs="+", choices=tuple(GAMES), default=list(GAMES))
    parser.add_argument("--interactions", type=int, default=2000, help="of each contestant in a round, over all copies")
    parser.add_argument("--fill", action="store_true", help="only fill a replay of 1e6 frames, and print its memory")
    parser.add_argument("--memory", action="store_true", help="also measure the memory of a full replay: takes 7 GB")
    options = parser.parse_args()
    if options.fill:
        fill()
        return
    torch.set_num_threads(1)
    rows = [row for game in options.games for row in acting(game, options.interactions, options.repeats)]
    rows.append(Row("replay of 1e6 frames", "said beforehand", FULL.bytes / 1e9, "GB", note=str(FULL)))
    if options.memory:
        taken = float(fresh_process(__file__, "--fill")) * 2**20 / 1e9
        rows.append(Row("replay of 1e6 frames", "taken when full", taken, "GB", 7.5, "lower"))
    publish("Acting and replay", rows, options.json)


if __name__ == "__main__":
    main()
