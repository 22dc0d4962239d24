"""Let language models write on from a prompt: read what a model says before and after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from replastic.api.sampling import writer
from replastic.cli._arguments import parse
from replastic.text import printable_lines

DESCRIPTION = """\
Let language models write on from a prompt, each from the same one and with the same draws. Changes nothing.

PATH is a folder of Hugging Face's GPT-2, a run of `replastic run language_warm_start` that kept checkpoints (its last
one is taken), or one checkpoint of it. Give several to compare them: before and after.

examples:
  replastic sample model/ --prompt "The river"                       a GPT-2
  replastic sample model/ rewritten/ --prompt "The river"            before and after `replastic rewrite`
  replastic sample runs/mine/fire/seed-0 runs/mine/base/seed-0       the ends of two runs
  replastic sample runs/mine/.shared/seed-0/checkpoints/phase-0-step-1500.safetensors
  replastic sample new.safetensors --run runs/mine/.shared/seed-0    a checkpoint of that run, rewritten
  replastic sample model/ --tokenizer gpt2:source=FOLDER --temperature 0 --length 40
"""


@dataclass(kw_only=True)
class Arguments:
    """Arguments of `replastic sample`."""

    paths: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="PATH ...")]
    """Models."""
    prompt: str = ""
    """The text to go on from; empty begins a document."""
    length: int = 100
    """Most tokens to write."""
    temperature: float = 0.8
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = 200
    """Draw among so many likeliest tokens; 0: among all."""
    seed: int = 0
    """Seed of the draws."""
    tokenizer: str = ""
    """gpt2, gpt2:source=FOLDER, file:source=FILE.json or bpe:size=N; by default the run's, or GPT-2's."""
    corpus: str = ""
    """Corpus on which a tokenizer bpe was trained; by default the run's first one."""
    run: str = ""
    """Folder of the run that checkpoints elsewhere are of."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON."""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, read the models one by one, print what they write."""
    options = parse(Arguments, prog="replastic sample", description=DESCRIPTION, args=arguments)
    drawn = {"temperature": options.temperature, "top_k": options.top_k, "seed": options.seed}
    written = {}
    for path in options.paths:
        model = writer(path, spec=options.tokenizer, text=options.corpus, run=options.run)
        written[path] = model.write(options.prompt, options.length, **drawn)
    if options.json:
        print(json.dumps(written, indent=2))
    else:
        print("\n\n".join(f"{path}:\n{text}" for path, text in ((p, printable_lines(t)) for p, t in written.items())))
    return 0
