"""Several runs in one process, segment by segment: those that stand at the same place train as one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing

from replastic.training import stacked
from replastic.training.loop import Segment

Place = tuple[int, int, int]


def train_together(runs: Sequence[Generator[Segment]]) -> dict[int, Exception]:
    """Train runs of one protocol to their ends.

    Those that are behind go first, so that runs that were stopped at different places meet. A run that fails, or that
    cannot be stacked, does not hold up the others: the one ends, the other trains as ever.

    Args:
        runs: What `loop.course` gave for each.

    Returns:
        The errors of those that failed, by their number.
    """
    failed: dict[int, Exception] = {}
    waiting: dict[int, Segment] = {}

    def go_on(index: int) -> None:
        waiting.pop(index, None)
        try:
            segment = next(runs[index], None)
        except BrokenPipeError:  # Whoever is told of the progress is gone.
            raise
        except Exception as error:
            failed[index] = error
        else:
            if segment is not None:
                waiting[index] = segment

    with ExitStack() as stack:
        for index, run in enumerate(runs):
            stack.enter_context(closing(run))
            go_on(index)
        while waiting:
            first = min(map(_place, waiting.values()))
            chosen = {index: segment for index, segment in waiting.items() if _place(segment) == first}
            able = {index: s for index, s in chosen.items() if not stacked.obstacle(s.session)}
            if len(able) > 1 and stacked.alike(list(able.values())):
                stacked.train(list(able.values()))
            else:
                able = {}
            for index, segment in chosen.items():
                if index not in able:
                    try:
                        segment.train()
                    except Exception as error:
                        runs[index].close()
                        failed[index] = error
                        del waiting[index]
                        continue
                go_on(index)
    return failed


def _place(segment: Segment) -> Place:
    return segment.phase, segment.first, segment.last
