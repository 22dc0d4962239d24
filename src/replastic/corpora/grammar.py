"""Made-up text, so that a language model can be tried without any download: sentences of a small random grammar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from replastic.data.corpus import Corpus, Part, register
from replastic.options import option
from replastic.seeds import generator

_SOUNDS = ("ba", "do", "ke", "li", "mu", "na", "po", "ra", "si", "tu", "ve", "zo")


@register("grammar")
@dataclass(kw_only=True, frozen=True)
class Grammar(Corpus):
    """Documents of sentences: article, adjectives, noun, verb, and the same again.

    Words are drawn with probabilities proportional to 1 / rank. After a noun the verb is one of three that belong to
    it, and each document has five nouns of its own. So there is something to learn at every distance.
    """

    dialect: int = option(0, help="which words and which verbs after which nouns; another number, another language")
    count: int = option(200, help="training documents", low=1)
    sentences: int = option(40, help="sentences of a document", low=1)

    @contextmanager
    def documents(self, part: Part) -> Iterator[Iterator[str]]:
        """`count` documents to train on, a tenth as many to validate on; each is drawn by its number."""
        numbers = range(self.count) if part == "train" else range(self.count, self.count + max(1, self.count // 10))
        words = {kind: self._words(kind, size) for kind, size in (("article", 3), ("adjective", 30), ("noun", 60))}
        verbs = self._words("verb", 40)
        belong = torch.randint(len(verbs), (60, 3), generator=generator(self.dialect, "belong"))
        yield (self._document(number, words, verbs, belong) for number in numbers)

    def _words(self, kind: str, count: int) -> list[str]:
        draw = generator(self.dialect, "words", kind)
        syllables = torch.randint(len(_SOUNDS), (count, 3), generator=draw)
        return ["".join(_SOUNDS[i] for i in row[: 1 if kind == "article" else 3]) for row in syllables.tolist()]

    def _document(self, number: int, words: dict[str, list[str]], verbs: list[str], belong: torch.Tensor) -> str:
        draw = generator(self.dialect, "document", number)

        def one(count: int) -> int:
            return int(torch.multinomial(1 / torch.arange(1.0, count + 1), 1, generator=draw))

        own = torch.randint(len(words["noun"]), (5,), generator=draw).tolist()
        lines = []
        for _ in range(self.sentences):
            noun, other = own[one(5)], own[one(5)]
            verb = verbs[int(belong[noun][one(3)])]
            parts = [
                words["article"][one(3)],
                *(words["adjective"][one(30)] for _ in range(one(3))),
                words["noun"][noun],
            ]
            lines.append(" ".join([*parts, verb, words["article"][one(3)], words["noun"][other]]) + ".")
        return "\n".join(lines) + "\n"
