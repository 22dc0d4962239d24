"""WikiText-103."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.data.corpus import register
from replastic.data.wikitext import WikiText


@register("wikitext103", reference="https://arxiv.org/abs/1609.07843")
@dataclass(kw_only=True, frozen=True)
class WikiText103(WikiText):
    """Verified articles of Wikipedia, 103 million words, raw text: the first corpus of the FIRE paper."""

    config: ClassVar[str] = "wikitext-103-raw-v1"
