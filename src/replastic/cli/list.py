"""Show what there is: methods, metrics, benchmarks, data, corpora, networks, streams, recipes, layouts and more."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from replastic import linalg, recipes
from replastic.cli._arguments import Parser
from replastic.cli._fields import described
from replastic.cli._markdown import plain, tables
from replastic.errors import UnknownNameError
from replastic.interventions.polar import AUTO, PolarMethod
from replastic.registry import load_plugin
from replastic.weights.known import table

REGISTRIES = ("methods", "metrics", "benchmarks", "data", "corpora", "networks", "streams", "triggers", "envs")
EXAMPLES = """\
examples:
  replastic list                                  everything
  replastic list methods                          one kind, with every setting of each
  replastic list streams networks data            what `replastic run` can train, on what, in which phases
  replastic list methods --plugin my_method.py    with a method of your own
  replastic list methods --markdown               the tables of docs/methods.md
"""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, print the lists."""
    parser = Parser(
        "replastic list", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"any of: {', '.join(_kinds())}; all when left out")
    parser.add_argument("--plugin", action="append", default=[], metavar="FILE", help="load a plug-in file first")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON instead of a table")
    form.add_argument("--markdown", action="store_true", help="print Markdown tables, grouped, with every setting")
    options = parser.parse_args(list(arguments))
    for kind in options.kinds:
        if kind not in _kinds():
            raise UnknownNameError("kind", kind, _kinds())
    for plugin in options.plugin:
        load_plugin(plugin)
    found = {kind: _rows(kind) for kind in options.kinds or _kinds()}
    if options.json:
        print(json.dumps(found, indent=2))
    elif options.markdown:
        print("\n\n".join(tables(kind, rows) for kind, rows in found.items()))
    else:
        print("\n\n".join(_table(kind, rows, settings=bool(options.kinds)) for kind, rows in found.items()))
    return 0


def _kinds() -> tuple[str, ...]:
    return (*REGISTRIES, "recipes", "solvers", "scales", "layouts")


def _rows(kind: str) -> list[dict[str, Any]]:
    if kind in REGISTRIES:
        room = import_module(f"replastic.{kind}")
        entries = [room.entry(name) for name in room.names()]
        return [
            {"name": e.name, "summary": e.summary, "reference": e.reference, "settings": described(e.target)}
            for e in entries
        ]
    if kind == "recipes":
        loaded = [recipes.load(name) for name in recipes.names()]
        return [{"name": r.name, "summary": r.summary, "reference": r.reference} for r in loaded]
    if kind == "layouts":
        return [{"name": f"{row.family}: {row.weight}", "summary": row.cut, "reference": ""} for row in table()]
    listed = linalg.SOLVERS if kind == "solvers" else {**linalg.SCALES, AUTO: PolarMethod.fitted}
    return [{"name": name, "summary": _first_line(what), "reference": ""} for name, what in listed.items()]


def _first_line(what: object) -> str:
    return (getattr(what, "__doc__", None) or "").strip().split("\n")[0]


def _table(kind: str, rows: list[dict[str, Any]], *, settings: bool) -> str:
    width = max((len(row["name"]) for row in rows), default=0)
    lines = []
    for row in rows:
        reference = f"  [{row['reference']}]" if row["reference"] else ""
        lines.append(f"  {row['name']:<{width}}  {row['summary']}{reference}")
        for field in row.get("settings", ()) if settings else ():
            lines.append(f"  {'':<{width}}    {field['name']}={plain(field['default'])}  {field['help']}")
    return "\n".join([f"{kind}:", *lines])
