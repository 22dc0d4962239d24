"""From a corpus to its files of tokens, made once and kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from replastic.data.corpus import Corpus, Part
from replastic.data.token_file import TokenFile, read_tokens, write_tokens
from replastic.data.tokenizer import Tokenizer, tokenizer
from replastic.disk import cache_folder
from replastic.errors import UserError


@dataclass(frozen=True)
class Tokens:
    """A corpus in tokens."""

    train: TokenFile
    validation: TokenFile


def tokenise(corpus: Corpus, by: Tokenizer) -> Tokens:
    """The files of tokens of a corpus, from the cache or made now.

    Raises:
        UserError: The corpus cannot be read, has no text, the cache cannot be written, or holds a file under this
            corpus's name that another tokenizer made.
        MissingExtraError: `datasets` is not installed.
    """
    return Tokens(_part(corpus, by, "train"), _part(corpus, by, "validation"))


def tokenizer_for(spec: str, corpus: Corpus) -> Tokenizer:
    """The tokenizer of a spec; one that is trained is trained on the corpus's training documents.

    Raises:
        UserError: As `tokenizer`; the corpus cannot be read.
    """
    return tokenizer(spec, lambda: _training_texts(corpus), corpus.key())


def _training_texts(corpus: Corpus) -> Iterator[str]:
    with corpus.documents("train") as documents:
        yield from documents


def _part(corpus: Corpus, by: Tokenizer, part: Part) -> TokenFile:
    key = repr([corpus.key(), by.digest, part])
    words = re.sub(r"[^a-z0-9_]+", "-", f"{corpus.name}-{part}")
    path = cache_folder() / f"{words}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.tokens"
    if path.is_file():
        try:
            found = read_tokens(path)
        except UserError:
            path.unlink(missing_ok=True)  # damaged: it is made again
        else:
            if (found.facts.tokenizer, found.facts.vocabulary) != (by.digest, by.size):
                raise UserError(f"{path} was made with another tokenizer: remove it, so that it is made again")
            return found
    with corpus.documents(part) as documents:
        write_tokens(path, documents, by)
    return read_tokens(path)
