"""Reading ahead: while one thing is in use, a thread fetches the next."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Reads things by name, and guesses from a known order which one is wanted next.

    Args:
        order: The names in the order in which they will be asked for. Another order is allowed, and slower.
        read: Reads one; it is called by a thread, too, but never by two at a time for the same purpose.
    """

    def __init__(self, order: Sequence[str], read: Callable[[str], T]) -> None:
        self._following = dict(itertools.pairwise(order))
        self._read = read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="replastic-read")
        self._coming: dict[str, Future[T]] = {}

    def read(self, name: str) -> T:
        """The thing of that name. The next one begins to be read."""
        coming = self._coming.pop(name, None)
        self._coming.clear()
        value = self._read(name) if coming is None else coming.result()
        following = self._following.get(name)
        if following is not None:
            self._coming[following] = self._thread.submit(self._read, following)
        return value
