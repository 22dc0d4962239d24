"""Sequences out of several files of tokens in given proportions; each is known by its number alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from replastic.data.token_file import TokenFile
from replastic.errors import UserError
from replastic.seeds import generator

ROUND = 1024
"""Sequences among which the proportions hold but for rounding."""


class Mixture:
    """An endless sequence of samples (block + 1,), of which sample number i depends on the seed and i alone.

    So training goes on at the exact token, whatever was read before. In each `ROUND` samples every file has its share,
    in an order that the seed decides. A file's own samples are windows that do not overlap, each once in a pass; every
    pass has another order and begins at another token. (nanoGPT draws windows with replacement.)

    Args:
        files: Made by one tokenizer.
        weights: Share of each file's samples; they sum to 1. None: by their numbers of tokens.
        block: Tokens that are predicted in a sample.
        seed: Seed of the order.

    Raises:
        UserError: Weights do not fit the files or do not sum to 1, a file is shorter than a sample, or two files were
            made by different tokenizers.
    """

    def __init__(self, files: Sequence[TokenFile], weights: Sequence[float] | None, block: int, seed: int) -> None:
        if not files:
            raise UserError("a mixture needs at least one corpus")
        for file in files:
            if file.facts.tokenizer != files[0].facts.tokenizer:
                raise UserError(f"{file.path.name} and {files[0].path.name} were made by different tokenizers")
            if file.facts.tokens < block + 1:
                raise UserError(
                    f"{file.path.name} has {file.facts.tokens:,} tokens, fewer than a sequence of block + 1 = "
                    f"{block + 1:,}: take a shorter block or more text"
                )
        total = sum(file.facts.tokens for file in files)
        shares = [file.facts.tokens / total for file in files] if weights is None else list(weights)
        if len(shares) != len(files):
            raise UserError(f"{len(files)} corpora need {len(files)} weights, got {len(shares)}")
        if any(not math.isfinite(w) or w < 0 for w in shares) or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise UserError(f"weights of a mixture must be 0 or more and sum to 1, got {shares} (sum {sum(shares):g})")
        self.files, self.shares, self.block, self.seed = tuple(files), tuple(shares), block, seed
        self._largest = max(range(len(shares)), key=shares.__getitem__)
        self._round = lru_cache(maxsize=2)(self._make_round)
        self._order = lru_cache(maxsize=2 * len(files))(self._make_order)

    def source(self, number: int) -> tuple[int, int]:
        """Of sample `number`: its file, and its number among that file's samples."""
        which, place = divmod(number, ROUND)
        chosen, ranks = self._round(which)
        return int(chosen[place]), int(ranks[place])

    def sample(self, number: int) -> Tensor:
        """(block + 1,) int64."""
        which, rank = self.source(number)
        file = self.files[which]
        passes, place = divmod(rank, (file.facts.tokens - 1) // self.block)
        order, shift = self._order(which, passes)
        return file.slice(shift + int(order[place]) * self.block, self.block + 1)

    def batch(self, first: int, count: int) -> Tensor:
        """(count, block + 1) int64: samples from number `first` on."""
        return torch.stack([self.sample(number) for number in range(first, first + count)])

    def _make_round(self, which: int) -> tuple[Tensor, Tensor]:
        """File of each sample of a round, and its number among that file's samples."""
        before, after = self._counts(which), self._counts(which + 1)
        kinds = torch.repeat_interleave(torch.arange(len(self.files)), torch.tensor(after) - torch.tensor(before))
        chosen = kinds[torch.randperm(ROUND, generator=generator(self.seed, "round", which))]
        ranks = torch.empty(ROUND, dtype=torch.int64)
        for kind, first in enumerate(before):
            mine = chosen == kind
            ranks[mine] = first + torch.arange(int(mine.sum()))
        return chosen, ranks

    def _counts(self, rounds: int) -> list[int]:
        """Samples of each file in the first `rounds` rounds; what rounding leaves goes to the largest share."""
        counts = [math.floor(share * rounds * ROUND) for share in self.shares]
        counts[self._largest] = 0
        counts[self._largest] = rounds * ROUND - sum(counts)
        return counts

    def _make_order(self, which: int, passes: int) -> tuple[Tensor, int]:
        """The order of a file's windows in one pass, and the token at which the first window begins."""
        draw = generator(self.seed, "pass", which, passes)
        windows, rest = divmod(self.files[which].facts.tokens - 1, self.block)
        shift = int(torch.randint(rest + 1, (), generator=draw))
        return torch.randperm(windows, generator=draw), shift
