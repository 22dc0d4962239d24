"""Reading ahead gives each thing by its name, whatever the order, and reads it once where the order is as foretold."""

from __future__ import annotations

import threading

import pytest

from replastic.parallel.ahead import ReadAhead


def test_the_next_is_read_while_one_is_in_use() -> None:
    read: list[str] = []
    arrived = threading.Event()

    def fetch(name: str) -> str:
        read.append(name)
        if name == "b":
            arrived.set()
        return name.upper()

    ahead = ReadAhead(["a", "b", "c"], fetch)
    assert ahead.read("a") == "A"
    assert arrived.wait(10), "b is read though nobody has asked for it yet"
    assert [ahead.read("b"), ahead.read("c")] == ["B", "C"]
    assert read == ["a", "b", "c"]


def test_another_order_gives_the_same_things() -> None:
    ahead = ReadAhead(["a", "b", "c", "d"], str.upper)
    assert [ahead.read(name) for name in "dacbx"] == list("DACBX")


def test_an_error_is_that_of_the_thing_that_was_asked_for() -> None:
    def fetch(name: str) -> str:
        if name == "b":
            raise OSError(name)
        return name

    ahead = ReadAhead(["a", "b", "c"], fetch)
    assert ahead.read("a") == "a"
    assert ahead.read("c") == "c", "what nobody asks for disturbs nobody"
    assert ahead.read("a") == "a"
    with pytest.raises(OSError, match="b"):
        ahead.read("b")
