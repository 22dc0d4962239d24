"""Files of tokens: a header that says what they are, and the ids, mapped into memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replastic.data.tokenizer import Tokenizer
from replastic.disk import make_folder, not_written, replacing
from replastic.errors import UserError

HEADER: Final = 4096
"""Bytes before the first token."""
_FORMAT: Final = "replastic tokens 1"
_TOGETHER: Final = 256
"""Documents that are tokenised together."""


@dataclass(frozen=True)
class TokenFacts:
    """The header."""

    tokenizer: str
    """`Tokenizer.digest`."""
    vocabulary: int
    """Ids are below it."""
    tokens: int
    documents: int
    bytes: int
    """Of the text, in UTF-8: for losses in bits per byte."""
    checksum: str
    """SHA-256 of the ids."""

    @property
    def dtype(self) -> str:
        """uint16 where every id fits into it, else uint32; little-endian."""
        return "<u2" if self.vocabulary <= 1 << 16 else "<u4"


@dataclass(frozen=True)
class TokenFile:
    """Ids of all documents of a corpus, one after the other, each with the end of a document behind it."""

    path: Path
    facts: TokenFacts
    ids: NDArray[np.unsignedinteger]
    """(tokens,), mapped and read only."""

    @property
    def bytes_per_token(self) -> float:
        """Mean length of a token's text: nats per token over this and ln 2 are bits per byte."""
        return self.facts.bytes / self.facts.tokens

    def slice(self, start: int, count: int) -> Tensor:
        """(count,) int64: the ids from number `start` on."""
        return torch.from_numpy(self.ids[start : start + count].astype(np.int64))


def write_tokens(path: Path, documents: Iterable[str], by: Tokenizer) -> None:
    """Tokenise documents into a file, which appears whole or not at all.

    Args:
        path: The file.
        documents: Texts; empty ones are left out.
        by: The tokenizer.

    Raises:
        UserError: There is no text, or the disk is full.
    """
    dtype = TokenFacts("", by.size, 0, 0, 0, "").dtype
    tokens = count = size = 0
    digest = hashlib.sha256()
    make_folder(path.parent)
    try:
        with replacing(path) as draft, draft.open("wb") as file:
            file.write(b" " * HEADER)
            for batch in _batches(documents):
                for ids, text in zip(by.encode(batch), batch, strict=True):
                    piece = np.asarray([*ids, by.end], dtype=dtype).tobytes()
                    file.write(piece)
                    digest.update(piece)
                    tokens, count, size = tokens + len(ids) + 1, count + 1, size + len(text.encode())
            if not count:
                raise UserError(f"{path.name}: there is no text to tokenise")
            facts = TokenFacts(by.digest, by.size, tokens, count, size, digest.hexdigest())
            file.seek(0)
            file.write(json.dumps({"format": _FORMAT, **asdict(facts)}).encode())
    except OSError as error:
        raise not_written(path, error) from error


def read_tokens(path: Path) -> TokenFile:
    """Map a file of tokens into memory; its size and the range of its ids are checked, its checksum is not.

    Raises:
        UserError: It is missing, is no file of tokens, was cut short, or holds an id outside its vocabulary.
    """
    try:
        with path.open("rb") as file:
            head = json.loads(file.read(HEADER))
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no file of tokens: {error}") from error
    if not isinstance(head, dict) or head.pop("format", None) != _FORMAT:
        raise UserError(f"{path} is no file of tokens of this version: remove it, so that it is made again")
    try:
        facts = TokenFacts(**head)
        expected = HEADER + facts.tokens * np.dtype(facts.dtype).itemsize
    except TypeError as error:
        raise UserError(f"{path} has a damaged header: remove it, so that it is made again ({error})") from error
    if size != expected:
        raise UserError(
            f"{path} has {size:,} bytes where its header tells of {expected:,}: remove it, to make it again"
        )
    ids = np.memmap(path, dtype=facts.dtype, mode="r", offset=HEADER, shape=(facts.tokens,))
    largest = int(ids.max(initial=0))
    if largest >= facts.vocabulary:
        raise UserError(f"{path} holds the token {largest}, but its vocabulary has {facts.vocabulary:,}: remove it")
    return TokenFile(path, facts, ids)


def _batches(documents: Iterable[str]) -> Iterable[Sequence[str]]:
    batch: list[str] = []
    for document in documents:
        if document.strip():
            batch.append(document)
        if len(batch) == _TOGETHER:
            yield batch
            batch = []
    if batch:
        yield batch
