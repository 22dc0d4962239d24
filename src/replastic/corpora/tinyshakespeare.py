"""Tiny Shakespeare: 40,000 lines of his plays, unlike encyclopaedias and unlike novels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from replastic.data.corpus import StoredCorpus, register
from replastic.options import option


@register("tinyshakespeare", reference="https://github.com/karpathy/char-rnn")
@dataclass(kw_only=True, frozen=True)
class TinyShakespeare(StoredCorpus):
    """A document a speech; the last tenth of the text is held out. Needs a folder with its text file as ``source``.

    Speeches are not held out at random, as its plays have no borders in the file and neighbours tell of each other.
    """

    held_out: float = option(0.1, help="share of the text that is held out, at its end", above=0, below=1)

    def rows(self, rows: Iterable[str]) -> Iterator[str]:
        """Speeches, which blank lines divide."""
        return (speech for row in rows for speech in re.split(r"\n\s*\n", row) if speech)

    def side(self, documents: Iterable[str], *, held_out: bool) -> Iterator[str]:
        """Speeches that end within the first part, or those after it."""
        speeches, seen = list(documents), 0
        edge = (1.0 - self.held_out) * sum(map(len, speeches))
        for speech in speeches:
            seen += len(speech)
            if (seen > edge) == held_out:
                yield speech
