"""How a command ends: its exit code, and one sentence for whatever went wrong."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from replastic.errors import ReplasticError, UserError, is_out_of_memory
from replastic.parallel.signals import Terminated, termination
from replastic.registry import plugins_named
from replastic.text import printable


def ended(command: Callable[[], int]) -> int:
    """Run a command and return its exit code. Expected errors are told on the standard error, in a line each."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files and tensors need not be valid text
    try:
        with termination():
            try:
                with plugins_named():
                    return command()
            finally:
                sys.stdout.flush()
    except ReplasticError as error:
        return _told(f"error: {error}", 2 if isinstance(error, UserError) else 1)
    except Terminated as stop:
        return _told(_with_notes("stopped by a request to end", stop), 143, "\n")
    except KeyboardInterrupt as stop:
        return _told(_with_notes("stopped", stop), 130, "\n")
    except BrokenPipeError:
        _drop(sys.stdout)
        return 141
    except OSError as error:
        return _told(f"error: {_reason(error)}", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return _told("error: out of memory: free some, or take a machine with more", 1)


def _told(sentence: str, code: int, start: str = "") -> int:
    """Say why the command ends, after `start`. Where nobody can hear it, the exit code remains."""
    try:
        print(f"{start}replastic: {printable(sentence)}", file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        _drop(sys.stderr)
    return code


def _with_notes(sentence: str, stop: BaseException) -> str:
    """The sentence, and what was noted on the way out, such as how to go on."""
    return "; ".join((sentence, *getattr(stop, "__notes__", ())))


def _reason(error: OSError) -> str:
    """The words of the system. An error without a path is one of writing, mostly to the standard output."""
    with suppress(OSError):
        sys.stdout.flush()
        return f"{os.fsdecode(error.filename) if error.filename else 'cannot write'}: {error.strerror or error}"
    _drop(sys.stdout)
    return f"cannot write: {error.strerror or error}"


def _drop(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, so that the interpreter does not try once more when it ends."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
