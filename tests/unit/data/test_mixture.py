"""Mixtures: shares, windows and the order, against a plain count over all samples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic.data.mixture import ROUND, Mixture
from replastic.data.token_file import TokenFacts, TokenFile
from replastic.errors import UserError


def numbered(count: int, first: int = 0, tokenizer: str = "a") -> TokenFile:
    """A file whose ids are consecutive numbers, so that a sample shows where it comes from."""
    facts = TokenFacts(tokenizer, 1 << 20, count, 1, count, "")
    return TokenFile(Path(f"file{first}.tokens"), facts, np.arange(first, first + count, dtype="<u4"))


@given(
    sizes=st.lists(st.integers(20, 400), min_size=1, max_size=4),
    block=st.integers(1, 19),
    seed=st.integers(0, 1000),
    start=st.integers(0, 5000),
)
@settings(max_examples=30, deadline=None)
def test_a_sample_depends_on_its_number_alone(sizes: list[int], block: int, seed: int, start: int) -> None:
    files = [numbered(size, 1000 * i) for i, size in enumerate(sizes)]
    run, resumed = Mixture(files, None, block, seed), Mixture(files, None, block, seed)
    run.batch(0, 50)
    for number in range(start, start + 5):
        sample = run.sample(number)
        assert torch.equal(sample, resumed.sample(number))
        assert torch.equal(sample, torch.arange(int(sample[0]), int(sample[0]) + block + 1))
        which, _ = run.source(number)
        assert 1000 * which <= sample[0] <= sample[-1] < 1000 * which + sizes[which]


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=5), st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_every_round_has_its_shares_and_numbers_no_sample_twice(raw: list[float], seed: int) -> None:
    weights = [w / sum(raw) for w in raw]
    mixture = Mixture([numbered(50, 100 * i) for i in range(len(raw))], weights, 4, seed)
    seen: list[tuple[int, int]] = []
    for which in range(3):
        found = [mixture.source(which * ROUND + i) for i in range(ROUND)]
        for kind, share in enumerate(weights):
            count = sum(k == kind for k, _ in found)
            assert abs(count - share * ROUND) <= len(weights)
        seen += found
    for kind in range(len(raw)):
        ranks = [rank for k, rank in seen if k == kind]
        assert ranks == list(range(len(ranks)))


def test_a_pass_reads_each_window_once_and_the_next_pass_in_another_order() -> None:
    mixture = Mixture([numbered(103)], None, 10, seed=3)
    starts = [int(mixture.sample(i)[0]) for i in range(20)]
    for one in (starts[:10], starts[10:]):
        assert sorted(Counter((s - min(one)) // 10 for s in one).items()) == [(i, 1) for i in range(10)]
    assert [s - min(starts[:10]) for s in starts[:10]] != [s - min(starts[10:]) for s in starts[10:]]
    assert starts != [int(Mixture([numbered(103)], None, 10, seed=4).sample(i)[0]) for i in range(20)]


def test_shares_are_those_of_the_sizes_unless_given() -> None:
    files = [numbered(100), numbered(300, 1000)]
    assert Mixture(files, None, 4, 0).shares == (0.25, 0.75)
    only = Mixture(files, [0.0, 1.0], 4, 0)
    assert {only.source(i)[0] for i in range(ROUND)} == {1}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([0.5, 0.4], "sum to 1"),
        ([1.5, -0.5], "0 or more"),
        ([float("nan"), 1.0], "0 or more"),
        ([1.0], "2 corpora need 2 weights, got 1"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: list[float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Mixture([numbered(50), numbered(50)], weights, 4, 0)


def test_files_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="fewer than a sequence of block \\+ 1 = 51"):
        Mixture([numbered(50)], None, 50, 0)
    with pytest.raises(UserError, match="different tokenizers"):
        Mixture([numbered(50), numbered(50, 7, tokenizer="b")], None, 4, 0)
    with pytest.raises(UserError, match="at least one"):
        Mixture([], None, 4, 0)
