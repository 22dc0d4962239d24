"""WikiText: its lines put together to articles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from replastic.data.corpus import StoredCorpus

_TITLE = re.compile(r"^ = [^=].* = \s*$")
"""The line that begins an article; headings inside one have more than one ``=`` a side."""


@dataclass(kw_only=True, frozen=True)
class WikiText(StoredCorpus):
    """Articles of Wikipedia, a line a row. A document is an article, from its title to the next."""

    hub: ClassVar[str] = "Salesforce/wikitext"

    def rows(self, rows: Iterable[str]) -> Iterator[str]:
        """Articles; a title is a line by itself, as in `` = Valkyria Chronicles III = ``, after an empty one."""
        article: list[str] = []
        empty = True
        for row in rows:
            if empty and _TITLE.match(row) and article:
                yield "".join(article)
                article = []
            empty = not row.strip()
            article.append(row if row.endswith("\n") else row + "\n")
        if article:
            yield "".join(article)
