"""Tokenizers: GPT-2's byte-level BPE from its files, one trained on a corpus, or any file of `tokenizers`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from replastic.disk import cache_folder, make_folder, user_path, write_text
from replastic.errors import UserError
from replastic.extras import require
from replastic.options import split

END: Final = "<|endoftext|>"
"""The token after each document."""
FOLDER: Final = "REPLASTIC_DATA"
"""Environment variable: the folder that holds ``gpt2_bpe``, where no other place is named."""
_VOCABULARY, _MERGES = ("encoder.json", "vocab.json"), ("vocab.bpe", "merges.txt")
LEAST: Final = 257
"""Smallest vocabulary of a byte-level BPE: 256 bytes and the end of a document."""


@dataclass(frozen=True)
class Tokenizer:
    """Text to token ids and back."""

    digest: str
    """The same for two tokenizers that give the same ids: goes into every file of tokens."""
    size: int
    """Number of tokens; ids are below it."""
    end: int
    """Id of the token that stands after each document."""
    encode: Callable[[Sequence[str]], list[list[int]]]
    """Ids of each text, without `end`."""
    decode: Callable[[Sequence[int]], str]
    """Text of ids; bytes that are no UTF-8 become the replacement character."""


def tokenizer(spec: str, texts: Callable[[], Iterable[str]], key: Sequence[Any] = ()) -> Tokenizer:
    """The tokenizer that a text names.

    Args:
        spec: ``gpt2`` (files in ``source=FOLDER``, or ``$REPLASTIC_DATA/gpt2_bpe``, or those that `tiktoken` fetches),
            ``bpe:size=2048`` (trained on `texts`, once: it is kept in the cache), or ``file:source=tokenizer.json``.
        texts: Documents to train on.
        key: What `texts` depends on, as values whose `repr` is complete.

    Raises:
        UserError: No such tokenizer or field, a file is missing or damaged, or a size is out of range.
        MissingExtraError: `tokenizers` is not installed.
    """
    kind, given = split(spec)
    if kind == "gpt2" and not given.keys() - {"source"}:
        return _gpt2(given.get("source", ""))
    if kind == "bpe" and given.keys() == {"size"}:
        return _trained(given["size"], texts, key)
    if kind == "file" and given.keys() == {"source"}:
        return _of(_read(user_path(given["source"])))
    raise UserError(f"no tokenizer {spec!r}: choose gpt2, gpt2:source=FOLDER, bpe:size=2048 or file:source=FILE.json")


def _gpt2(source: str) -> Tokenizer:
    root = os.environ.get(FOLDER)
    places = [user_path(source)] if source else [Path(root) / "gpt2_bpe"] if root else []
    for place in places:
        pair = [next((place / n for n in names if (place / n).is_file()), None) for names in (_VOCABULARY, _MERGES)]
        if None not in pair:
            library = require("tokenizers", "language", "GPT-2's tokenizer")
            try:
                return _of(library.ByteLevelBPETokenizer(*map(str, pair), add_prefix_space=False)._tokenizer, "gpt2")
            except Exception as error:  # the library raises its own, and plain Exception
                raise UserError(f"{place} holds no BPE of GPT-2: {error}") from error
    if source:
        raise UserError(f"{places[0]} lacks {' or '.join(_VOCABULARY)}, or {' or '.join(_MERGES)}, of GPT-2")
    return _of_tiktoken()


def _of_tiktoken() -> Tokenizer:
    try:
        found = require("tiktoken", "language", "GPT-2's tokenizer").get_encoding("gpt2")
    except UserError:
        raise
    except Exception as error:  # of the network
        raise UserError(
            f"cannot fetch GPT-2's tokenizer: {error}. Give a folder with encoder.json and vocab.bpe: "
            "gpt2:source=FOLDER, or $REPLASTIC_DATA/gpt2_bpe"
        ) from error
    return Tokenizer(
        "gpt2",
        found.n_vocab,
        found.eot_token,
        lambda texts: list(found.encode_ordinary_batch(list(texts))),
        lambda ids: str(found.decode(list(ids))),
    )


def _trained(text: str, texts: Callable[[], Iterable[str]], key: Sequence[Any]) -> Tokenizer:
    if not text.isdecimal() or not LEAST <= int(text) <= 1 << 20:
        raise UserError(f"bpe: size must be a whole number of {LEAST} or more, got {text!r}")
    library = require("tokenizers", "language", "training a tokenizer")
    folder = cache_folder()
    kept = folder / f"bpe-{hashlib.sha256(repr([1, text, *key]).encode()).hexdigest()[:24]}.json"
    if not kept.is_file():
        made = library.ByteLevelBPETokenizer(add_prefix_space=False)
        made.train_from_iterator(
            texts(), vocab_size=int(text), min_frequency=2, special_tokens=[END], show_progress=False
        )
        make_folder(folder)
        write_text(kept, made._tokenizer.to_str())
    return _of(_read(kept))


def _read(path: Path) -> Any:
    library = require("tokenizers", "language", "reading a tokenizer")
    if not path.is_file():
        raise UserError(f"there is no tokenizer {path}")
    try:
        return library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path} is no file of the library tokenizers: {error}") from error


def _of(found: Any, digest: str = "") -> Tokenizer:
    end = found.token_to_id(END)
    if end is None:
        raise UserError(f"the tokenizer has no token {END}, which stands after each document")
    found.encode_special_tokens = True  # in a text they are text
    content = json.dumps(json.loads(found.to_str()), sort_keys=True)
    return Tokenizer(
        digest or hashlib.sha256(content.encode()).hexdigest(),
        found.get_vocab_size(),
        end,
        lambda texts: [list(e.ids) for e in found.encode_batch(list(texts), add_special_tokens=False)],
        lambda ids: str(found.decode(list(ids), skip_special_tokens=False)),
    )
