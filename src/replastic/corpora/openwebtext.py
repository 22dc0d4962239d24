"""OpenWebText: web pages linked from Reddit, a rebuilt WebText."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from replastic.data.corpus import StoredCorpus, register


@register("openwebtext", reference="https://huggingface.co/datasets/Skylion007/openwebtext")
@dataclass(kw_only=True, frozen=True)
class OpenWebText(StoredCorpus):
    """About 8 million pages, 9 billion tokens of GPT-2, the second corpus of the FIRE paper; a page is a document."""

    hub: ClassVar[str] = "Skylion007/openwebtext"
