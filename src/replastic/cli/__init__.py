"""The command line: one file per command, imported when it is called."""

from __future__ import annotations

import ast
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from replastic._version import __version__
from replastic.errors import ReplasticError, UnknownNameError, UserError


def commands() -> dict[str, str]:
    """Every command with the first line of its file, without importing it."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            spec = find_spec(f"{__name__}.{module.name}")
            assert spec is not None
            assert spec.origin is not None
            text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
            found[module.name] = text.splitlines()[0]
    return found


def usage() -> str:
    """The text of `replastic --help`."""
    lines = [f"  {name:<9} {summary}" for name, summary in commands().items()]
    return "\n".join(
        [
            f"replastic {__version__}: restore the plasticity of a PyTorch network.",
            "",
            "usage: replastic COMMAND [OPTIONS]",
            "",
            *lines,
            "",
            "`replastic COMMAND --help` explains one command, with examples.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 done with a negative result, 2 wrong input, 130 stopped by Ctrl-C.
    """
    args = [*(sys.argv[1:] if arguments is None else arguments)]
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] == "--version":
        print(f"replastic {__version__}")
        return 0
    try:
        if args[0] not in commands():
            raise UnknownNameError("command", args[0], commands())
        return int(import_module(f"{__name__}.{args[0]}").main(args[1:]) or 0)
    except ReplasticError as error:
        print(f"replastic: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("\nreplastic: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
