"""Write a copy of a checkpoint whose weights a method has rewritten; the input is never altered."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal

import tyro

from replastic import methods
from replastic.api._shared import method_class
from replastic.api.checkpoints import rewrite
from replastic.cli._arguments import Parser, parse
from replastic.cli._fields import flags_of, with_flags
from replastic.cli._tensors import watched
from replastic.cli._weights import Choice
from replastic.disk import user_path
from replastic.registry import load_plugin
from replastic.text import printable, printable_lines

DESCRIPTION = """\
Write a copy of a checkpoint whose weights a method has rewritten. The input is never altered; the copy appears whole or
not at all, with every other file of the folder beside it. Further training is meant to follow: right after a rewrite
the loss is higher.

SOURCE is a .safetensors file, a folder with model.safetensors or shards and their index, or a .pt/.pth/.bin file (read
without running code in it).

examples:
  replastic rewrite model/ out/ --dry-run                   what would change, and what is left alone and why
  replastic rewrite model/ out/ --only-collapsed            only what `replastic inspect` calls collapsed
  replastic rewrite model/ out/ --recipe paper-gpt          as the authors of FIRE do it for GPT-2
  replastic rewrite net.pt new.pt --method interpolation --strength 0.8 --init net_at_start.pt
  replastic rewrite net.pt new.pt --method fire:solver=newton_schulz,num_iters=5
"""


@dataclass(kw_only=True)
class Arguments(Choice):
    """Arguments of `replastic rewrite`, whatever the method."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """The checkpoint."""
    destination: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[DESTINATION]")] = None
    """The new file or folder; may be left out with --dry-run."""
    method: str = "fire"
    """A method (`replastic list methods`), with options if you like: name:field=value,field=value."""
    only_collapsed: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Touch only layers that `replastic inspect` calls collapsed."""
    init: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    """The checkpoint from before training, for methods that need the initial weights."""
    seed: int = 0
    """Seed of everything the method draws."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Compute and report everything, write nothing."""
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Replace an output that is there; a folder only if nothing else is in it."""
    optimizer: Literal["drop", "keep"] = "drop"
    """Moments that a trainer saved beside the weights (optimizer.pt) or in the same file: empty them in the copy, so
    that a resumed run begins with new ones, or keep those of the old weights."""
    plugin: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="FILE")] = ()
    """Load a Python file first, with a method of your own."""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, rewrite, print."""
    first, _ = _first_look().parse_known_args([a for a in arguments if a not in ("-h", "--help")])
    for plugin in first.plugin:
        load_plugin(plugin)
    kind = method_class(first.method)
    options = parse(
        with_flags(Arguments, flags_of(kind, f"Of {kind.name}: ")),
        prog="replastic rewrite",
        description=DESCRIPTION,
        args=arguments,
    )
    given = _given(arguments, kind)
    outcome = rewrite(
        options.source,
        options.destination,
        options.method,
        **options.arguments(),
        only_collapsed=options.only_collapsed,
        init=options.init,
        seed=options.seed,
        dry_run=options.dry_run,
        overwrite=options.overwrite,
        optimizer=options.optimizer,
        progress=watched,
        **{name: getattr(options, name) for name in given},
    )
    if options.json:
        print(json.dumps({"source": options.source, "destination": options.destination} | outcome.to_dict(), indent=2))
    else:
        print(printable_lines(str(outcome)))
        if not options.dry_run:
            print(f"written to {printable(str(user_path(options.destination)))}")
    return 0


def _first_look() -> argparse.ArgumentParser:
    """Reads just what decides which further flags there are."""
    parser = Parser("replastic rewrite", add_help=False, allow_abbrev=False)
    parser.add_argument("--method", default="fire")
    parser.add_argument("--plugin", action="append", default=[])
    return parser


def _given(arguments: Sequence[str], kind: type[methods.Method]) -> list[str]:
    """Fields of the method that were set by hand, which a recipe does not override."""
    flags = {a.partition("=")[0].lstrip("-").replace("-", "_") for a in arguments if a.startswith("--")}
    return [f.name for f in fields(kind) if {f.name, f"no_{f.name}"} & flags]
