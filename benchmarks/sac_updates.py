"""SAC with a reduced SimBa on one thread: environment steps plus updates, beside a plain loop as CleanRL writes it.

Both act in the same environment and have the same networks, batches and number of updates, in one process, in turn. An
interaction is two steps of the simulator and two updates. The ratio is the median over the rounds. Times are those of
the processor: there is one thread, and a machine that does something else as well does not count.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from measure import Row, command_line, in_turn, publish, ratio
from plain_sac import PlainSac

from replastic import benchmarks
from replastic.envs import from_spec
from replastic.learners._games import Games
from replastic.learners.sac import Sac, SacAgent
from replastic.methods import Method
from replastic.training.session import Session

GOAL = 1.5
WARMUP = 1000


def ours(environment: str) -> Session:
    """A run of `humanoid_sac` after its warm-up."""
    protocol = benchmarks.get("humanoid_sac")().presets["small"].protocol
    assert isinstance(protocol.task, Sac)
    task = replace(protocol.task, environment=environment, learning_starts=WARMUP)
    session = Session(replace(protocol, task=task), Games.of([from_spec(environment)]), Method(), 0)
    session.begin(0)
    session.learner.begin(0, 0)
    session.model.train()
    assert isinstance(session.learner, SacAgent)
    session.learner.act_until(WARMUP)
    return session


def plain(environment: str, session: Session) -> PlainSac:
    """The plain loop after the same warm-up."""
    task = session.protocol.task
    assert isinstance(task, Sac)
    made = from_spec(environment).make(1, 0)
    loop = PlainSac(made, task.actor_network(), task.network, session.protocol.trainer.batch_size)
    for _ in range(WARMUP):
        loop.act(at_random=True)
    return loop


def parts(session: Session, interactions: int) -> dict[str, float]:
    """Milliseconds of an update that go into acting, drawing a batch, and learning from it."""
    agent = session.learner
    assert isinstance(agent, SacAgent)
    found = {"acting": 0.0, "batches": 0.0, "learning": 0.0}

    def timed(name: str, work: Callable[[], object]) -> object:
        start = time.process_time()
        result = work()
        found[name] += 1e3 * (time.process_time() - start)
        return result

    for _ in range(interactions):
        timed("acting", lambda: agent.act_until(agent.interactions + 1))
        for _ in range(2):
            batch = timed("batches", agent.batch)
            timed("learning", lambda batch=batch: agent.learn(batch, session.descent))  # type: ignore[misc]
    return {name: value / (2 * interactions) for name, value in found.items()}


def main() -> int:
    """Measure and print; 1 if the goal is missed."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--environment", default="dm_control/humanoid-stand:repeat=2")
    parser.add_argument("--interactions", type=int, default=60, help="of a measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    session = ours(options.environment)
    loop = plain(options.environment, session)

    def by_library() -> None:
        for number in range(2 * options.interactions):
            session.update(number, 2 * options.interactions)

    def by_hand() -> None:
        for _ in range(options.interactions):
            loop.act()
            loop.update()
            loop.update()

    seconds = in_turn({"plain": by_hand, "replastic": by_library}, options.repeats, lambda: None, time.process_time)
    found = ratio(seconds["plain"], seconds["replastic"])
    per_second = {n: 2 * options.interactions / statistics.median(v) for n, v in seconds.items()}
    rows = [Row("updates, with the acting for them", n, v, "1/s") for n, v in per_second.items()]
    rows.append(Row("times as fast", "replastic", found, "x", GOAL))
    for name, value in parts(session, options.interactions).items():
        rows.append(Row("milliseconds of an update", name, value, "ms"))
    publish("SAC", rows, options.json, environment=options.environment)
    return int(found < GOAL)


if __name__ == "__main__":
    sys.exit(main())
