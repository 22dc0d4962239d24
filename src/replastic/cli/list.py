"""Show what there is: methods, metrics, benchmarks, networks, streams, recipes, solvers, scales."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from replastic import linalg, recipes
from replastic.cli._arguments import Parser
from replastic.errors import UnknownNameError
from replastic.registry import load_plugin

REGISTRIES = ("methods", "metrics", "benchmarks", "networks", "streams")
EXAMPLES = """\
examples:
  replastic list                                  everything
  replastic list methods                          one kind, with what each does and where it comes from
  replastic list methods --plugin my_method.py    with a method of your own
"""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, print the lists."""
    parser = Parser(
        "replastic list", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"any of: {', '.join(_kinds())}; all when left out")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load a plug-in file first")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(list(arguments))
    for kind in options.kinds:
        if kind not in _kinds():
            raise UnknownNameError("kind", kind, _kinds())
    for plugin in options.plugin:
        load_plugin(plugin)
    found = {kind: _rows(kind) for kind in options.kinds or _kinds()}
    print(json.dumps(found, indent=2) if options.json else "\n\n".join(_table(k, r) for k, r in found.items()))
    return 0


def _kinds() -> tuple[str, ...]:
    return (*REGISTRIES, "recipes", "solvers", "scales")


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind in REGISTRIES:
        room = import_module(f"replastic.{kind}")
        entries = [room.entry(name) for name in room.names()]
        return [{"name": e.name, "summary": e.summary, "reference": e.reference} for e in entries]
    if kind == "recipes":
        loaded = [recipes.load(name) for name in recipes.names()]
        return [{"name": r.name, "summary": r.summary, "reference": r.reference} for r in loaded]
    listed = linalg.SOLVERS if kind == "solvers" else linalg.SCALES
    return [{"name": name, "summary": _first_line(what), "reference": ""} for name, what in listed.items()]


def _first_line(what: object) -> str:
    return (getattr(what, "__doc__", None) or "").strip().split("\n")[0]


def _table(kind: str, rows: list[dict[str, Any]]) -> str:
    width = max((len(row["name"]) for row in rows), default=0)
    lines = []
    for row in rows:
        reference = f"  [{row['reference']}]" if row["reference"] else ""
        lines.append(f"  {row['name']:<{width}}  {row['summary']}{reference}")
    return "\n".join([f"{kind}:", *lines])
