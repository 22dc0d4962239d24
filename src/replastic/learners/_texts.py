"""The texts of a language model, in tokens."""

from __future__ import annotations

from dataclasses import dataclass

from replastic.data.tokenizer import Tokenizer
from replastic.data.tokens import Tokens


@dataclass(frozen=True)
class Texts:
    """The tokens of all corpora of a task."""

    tokenizer: Tokenizer
    first: Tokens
    second: tuple[Tokens, ...]
    held_out: Tokens | None = None
    """A corpus that no phase trains on, for the measure of plasticity."""
    third: Tokens | None = None
    """The corpus of fine-tuning."""

    def facts(self) -> dict[str, str]:
        """Tokens and checksum of each file."""
        named = {"first": self.first, **{f"second {i}": t for i, t in enumerate(self.second)}}
        named |= {name: t for name, t in (("held out", self.held_out), ("third", self.third)) if t is not None}
        return {
            f"{name}, {part}": f"{file.facts.tokens} tokens, sha256 {file.facts.checksum[:16]}"
            for name, tokens in named.items()
            for part, file in (("train", tokens.train), ("validation", tokens.validation))
        }
