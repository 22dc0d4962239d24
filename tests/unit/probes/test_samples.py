"""Samples of batches of every structure."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch

from replastic.errors import UserError
from replastic.probes.samples import count_samples, drawn, first, take

Pair = namedtuple("Pair", "x y")


def test_every_structure_keeps_its_kind() -> None:
    x, y = torch.arange(6).view(3, 2), torch.arange(3)
    assert torch.equal(take(x, slice(2)), x[:2])
    for batch in ((x, y), [x, y], Pair(x, y)):
        found = take(batch, torch.tensor([2, 0]))
        assert type(found) is type(batch)
        assert torch.equal(found[0], x[[2, 0]])
        assert torch.equal(found[1], y[[2, 0]])
    found = take({"x": x, "more": (y, torch.tensor(4.0)), "name": "n"}, slice(1))
    assert torch.equal(found["more"][0], y[:1])
    assert found["more"][1] == 4
    assert found["name"] == "n"


def test_first_and_drawn() -> None:
    x, y = torch.arange(5), torch.arange(5) * 2
    assert first((x, y), 2)[1].tolist() == [0, 2]
    assert first((x, y), 9)[0] is x
    mine, partner = drawn((x, y), 4, torch.Generator().manual_seed(0))
    assert torch.equal(2 * mine, partner)
    assert len(set(mine.tolist())) == 4
    strange = object()
    assert first(strange, 2) is strange
    assert count_samples({"a": x, "b": [y]}) == 5


def test_what_cannot_be_counted() -> None:
    with pytest.raises(UserError, match="samples must be at least 1, got 0"):
        first(torch.ones(3), 0)
    with pytest.raises(UserError, match="cannot draw 4 samples of a batch that holds 3"):
        drawn(torch.ones(3), 4, torch.Generator())
    with pytest.raises(UserError, match="lengths 2 and 3"):
        count_samples((torch.ones(2), torch.ones(3)))
    with pytest.raises(UserError, match="got str"):
        count_samples("batch")
