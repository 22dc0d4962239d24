"""WikiText-2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.data.corpus import register
from replastic.data.wikitext import WikiText


@register("wikitext2", reference="https://arxiv.org/abs/1609.07843")
@dataclass(kw_only=True, frozen=True)
class WikiText2(WikiText):
    """Verified articles of Wikipedia, 2 million words; rare words are ``<unk>``."""

    config: ClassVar[str] = "wikitext-2-v1"
