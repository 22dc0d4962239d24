"""Runs without a pool of processes, each of which takes a second or more to start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from replastic.parallel.workers import attempt


def work(
    jobs: Mapping[str, Any],
    function: Callable[[Any, Callable[[float], None]], None],
    *,
    progress: Callable[[str, float], None],
    ended: Callable[[str, str], None],
    **_: Any,
) -> dict[str, str]:
    """Stand-in for `replastic.parallel.workers.work` that does the jobs one after another where it is called."""
    failures = {}
    for name, job in jobs.items():
        problem = attempt(function, job, partial(progress, name))
        if problem:
            failures[name] = problem
        ended(name, problem)
    return failures
