"""English novels of 1849 to 1927, out of the corpus of 100 novels of the Computational Stylistics Group."""

from __future__ import annotations

from dataclasses import dataclass

from replastic.data.corpus import StoredCorpus, register


@register("english_novels", reference="https://github.com/computationalstylistics/100_english_novels")
@dataclass(kw_only=True, frozen=True)
class EnglishNovels(StoredCorpus):
    """A document a novel. It is not on the Hub: give a folder of text files or of Parquet files as ``source``."""
