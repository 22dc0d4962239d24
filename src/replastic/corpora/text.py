"""Text of your own: a folder of text files or of Parquet files, or a set of the Hub with a column `text`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from replastic.data.corpus import StoredCorpus, register
from replastic.options import option


@register("text")
@dataclass(kw_only=True, frozen=True)
class Text(StoredCorpus):
    """Text files, each a document; or rows with a column ``text``. Needs ``source``."""

    whereabouts: ClassVar[frozenset[str]] = frozenset()

    documents_are: str = option(
        "rows", help="rows: a document a file or row; paragraphs: cut at blank lines", choices=("rows", "paragraphs")
    )

    def rows(self, rows: Iterable[str]) -> Iterator[str]:
        """As `documents_are` says."""
        if self.documents_are == "rows":
            return iter(rows)
        return (piece for row in rows for piece in re.split(r"\n\s*\n", row))
