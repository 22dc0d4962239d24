"""Text that a language model writes: read from a folder of Hugging Face or from a checkpoint of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from replastic.api.on_data import fill, network_of
from replastic.data import corpus
from replastic.data.tokenizer import Tokenizer, tokenizer
from replastic.data.tokens import tokenizer_for
from replastic.disk import user_path
from replastic.errors import UserError
from replastic.networks._gpt_files import load_gpt
from replastic.records import CHECKPOINTS, RUN, read_object
from replastic.weights.checkpoint import CheckpointStore

SHARED: Final = "shared.json"
"""Settings of first phases that runs share, in place of run.json."""
_TABLE: Final = "transformer.wte.weight"


@dataclass(frozen=True)
class Writer:
    """A language model and its tokenizer."""

    model: nn.Module
    tokenizer: Tokenizer
    block: int
    """Most tokens that the model reads at once."""

    def write(self, prompt: str, count: int, *, temperature: float = 1.0, top_k: int = 0, seed: int = 0) -> str:
        """The prompt and what the model writes after it, up to the end of the document.

        Args:
            prompt: A text; empty begins a document.
            count: Most tokens to write.
            temperature: Divides the logits; 0 always takes the likeliest token.
            top_k: Draw among so many likeliest tokens; 0: among all.
            seed: Of the draws.

        Raises:
            UserError: A number is out of range, or the model's outputs are not finite.
        """
        if count < 1 or temperature < 0 or top_k < 0 or temperature != temperature:
            raise UserError(
                f"length must be 1 or more, temperature and top_k 0 or more, got {count}, {temperature} and {top_k}"
            )
        ids = self.tokenizer.encode([prompt])[0] if prompt else []
        draw, read = torch.Generator().manual_seed(seed), [*(ids or [self.tokenizer.end])]
        for _ in range(count):
            following = self._next(read[-self.block :], temperature, top_k, draw)
            if following == self.tokenizer.end:
                break
            read.append(following)
        return self.tokenizer.decode(read if ids else read[1:])

    @torch.no_grad()
    def _next(self, read: Sequence[int], temperature: float, top_k: int, draw: torch.Generator) -> int:
        logits: Tensor = self.model(torch.tensor([read]))[0, -1].double()
        if not logits[: self.tokenizer.size].isfinite().all():
            raise UserError(
                "the model's outputs are not finite: its weights are broken, or trained until they diverged"
            )
        logits = logits[: self.tokenizer.size]  # the vocabulary is padded
        if not temperature:
            return int(logits.argmax())
        if top_k:
            logits = logits.masked_fill(logits < logits.topk(min(top_k, len(logits))).values[-1], -torch.inf)
        return int(torch.multinomial((logits / temperature).softmax(0), 1, generator=draw))


def writer(path: str | Path, *, spec: str = "", text: str = "", run: str | Path = "") -> Writer:
    """A model that can write.

    Args:
        path: A folder of Hugging Face's GPT-2, the folder of a run that kept checkpoints (its last one is taken), or a
            checkpoint's file in it.
        spec: The tokenizer (``gpt2``, ``file:source=FILE.json``, ``bpe:size=N``); empty: that of the run, or GPT-2's.
        text: Corpus on which a tokenizer ``bpe`` was trained; empty: the run's first one.
        run: Folder of the run that a checkpoint elsewhere, such as a rewritten one, is of.

    Raises:
        UserError: It is none of these, or tokenizer and model do not belong together.
        MissingExtraError: `tokenizers` is not installed.
    """
    place = user_path(path)
    if place.is_dir() and (place / "config.json").is_file():
        gpt = load_gpt(place)
        found = _tokenizer(spec or "gpt2", text, path)
        return _fitting(gpt, found, gpt.block, gpt.vocabulary, path)
    file = _checkpoint(place)
    settings_at, settings = _settings(user_path(run) if run else file.parent.parent, path)
    if settings.get("learner") != "language":
        raise UserError(f"{settings_at} is not of a language model, so {path} writes no text")
    held = {entry.name: entry for entry in CheckpointStore(file).entries()}
    if _TABLE not in held:
        raise UserError(f"{file} has no {_TABLE}: it holds no language model")
    block, vocabulary = int(settings["block"]), held[_TABLE].shape[0]
    model = network_of(settings_at, settings, (block,), vocabulary)
    fill(model, file)
    found = _tokenizer(spec or str(settings["tokenizer"]), text or str(settings["first"]), path)
    return _fitting(model, found, block, vocabulary, path)


def _fitting(model: nn.Module, found: Tokenizer, block: int, vocabulary: int, path: object) -> Writer:
    if found.size > vocabulary:
        raise UserError(
            f"{path} knows {vocabulary:,} tokens and the tokenizer has {found.size:,}: it was trained with another one"
        )
    return Writer(model.eval(), found, block)


def _tokenizer(spec: str, text: str, path: object) -> Tokenizer:
    if not spec.startswith("bpe"):
        return tokenizer(spec, lambda: ())
    if not text:
        raise UserError(
            f"{path}: a tokenizer {spec} is trained on a corpus: give --corpus, or --tokenizer file:source="
        )
    return tokenizer_for(spec, corpus.from_spec(text))


def _checkpoint(place: Path) -> Path:
    """The file itself, or the last checkpoint of a run's folder."""
    if place.is_file():
        return place
    kept = sorted((place / CHECKPOINTS).glob("phase-*.safetensors"), key=lambda f: [*map(_number, f.stem.split("-"))])
    if not kept:
        raise UserError(
            f"{place} is no folder of a GPT-2 (config.json is missing) and no run with checkpoints: give a file, or "
            "run with --checkpoints"
        )
    return kept[-1]


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _settings(folder: Path, path: object) -> tuple[Path, Mapping[str, Any]]:
    """The file with the settings of a run, or of shared first phases, and the settings."""
    for name in (RUN, SHARED):
        if (folder / name).is_file():
            content = read_object(folder / name)
            settings = content.get("config", content)
            return folder / name, settings if isinstance(settings, Mapping) else {}
    raise UserError(f"{path} lies in no run's folder, so that nothing says which model it is: give --run FOLDER")
