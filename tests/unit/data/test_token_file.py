"""Files of tokens: the ids by hand, the header, and files that are not what they should be."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from replastic.data.token_file import HEADER, read_tokens, write_tokens
from replastic.data.tokenizer import Tokenizer
from replastic.errors import UserError


def letters(size: int = 300) -> Tokenizer:
    """Each character is its code, the end is 256."""

    def encode(texts: Sequence[str]) -> list[list[int]]:
        return [[ord(c) for c in text] for text in texts]

    return Tokenizer("letters", size, 256, encode, lambda ids: "".join(map(chr, ids)))


def test_ids_stand_one_after_the_other_with_ends_between(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.tokens"
    write_tokens(path, ["abé", "", "  \n", "z"], letters())
    found = read_tokens(path)
    ids = [97, 98, 233, 256, 122, 256]
    assert found.ids.tolist() == ids
    assert (found.facts.tokens, found.facts.documents, found.facts.bytes) == (6, 2, 5)
    assert found.bytes_per_token == 5 / 6
    assert found.facts.checksum == hashlib.sha256(np.array(ids, "<u2").tobytes()).hexdigest()
    assert torch.equal(found.slice(1, 3), torch.tensor([98, 233, 256]))
    assert path.stat().st_size == HEADER + 12


def test_large_vocabularies_take_four_bytes(tmp_path: Path) -> None:
    write_tokens(tmp_path / "x", [chr(70_000)], letters(1 << 20))
    found = read_tokens(tmp_path / "x")
    assert found.ids.dtype == np.dtype("<u4")
    assert found.ids.tolist() == [70_000, 256]


def test_many_documents_keep_their_order(tmp_path: Path) -> None:
    write_tokens(tmp_path / "x", (chr(65 + i % 26) for i in range(1000)), letters())
    assert read_tokens(tmp_path / "x").ids[::2].tolist() == [65 + i % 26 for i in range(1000)]


def test_nothing_is_written_without_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text"):
        write_tokens(tmp_path / "x", ["", " "], letters())
    assert not list(tmp_path.iterdir())


def test_damaged_files_say_so(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_tokens(path, ["hello"], letters())
    whole = path.read_bytes()
    head = json.loads(whole[:HEADER])

    def with_head(**changed: object) -> bytes:
        return json.dumps(head | changed).encode().ljust(HEADER) + whole[HEADER:]

    for content, words in (
        (whole[:-1], "bytes where its header"),
        (b"", "no file of tokens"),
        (b"x" * 9000, "no file of tokens"),
        (with_head(format="other"), "of this version"),
        (with_head(more=1), "damaged header"),
        (with_head(vocabulary=111), "token 256, but its vocabulary has 111"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            read_tokens(path)
    with pytest.raises(UserError, match="no file of tokens"):
        read_tokens(tmp_path / "missing")
