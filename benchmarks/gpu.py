"""All that needs a GPU, in order of worth and within a number of minutes: `./run gpu --minutes N`.

Killed and started again with the same --out it goes on where it was. Each part is a process of its own, with a record
of its own that is written at once; one that fails does not stop the others. docs/gpu.md says what to expect.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import gpu_machine
import gpu_pack
from gpu_needs import missing
from gpu_parts import Part, Place, chosen
from gpu_records import Log

MARGIN = 15.0
"""Seconds kept for the summary and for what ends with the command."""


def main(arguments: list[str] | None = None) -> int:
    """Run what is asked for; 1 if a part failed, 2 if nothing could begin."""
    options = command_line().parse_args(arguments)
    if options.pack is not None:
        return gpu_pack.pack(options.data, options.pack)
    if options.unpack is not None and not gpu_pack.unpack(options.unpack, options.data):
        return 2
    if options.restore is not None:
        gpu_pack.restore(options.restore, options.out)
    return run(options)


def run(options: argparse.Namespace) -> int:
    """Carry out the parts."""
    began = time.monotonic()
    machine = gpu_machine.facts()
    if machine["gpu"] is None and not options.dry_run:
        print("gpu: torch sees no CUDA device here. --dry-run does everything at smoke size on the CPU.")
        return 2
    here = Place(options.out.resolve(), options.data.resolve() if options.data else None, options.dry_run)
    log = Log(here.out, machine, options.export)
    failed = False
    for part in chosen(options.only):
        left = options.minutes * 60 - (time.monotonic() - began) - MARGIN
        failed |= one(part, here, log, left, again=options.only is not None)
    print(f"gpu: {log.summary()}")
    return int(failed)


def one(part: Part, here: Place, log: Log, left: float, *, again: bool) -> bool:
    """Carry out a part, or say why not; True if it failed."""
    if log.status(part.name) == "done" or (log.status(part.name) == "failed" and not again):
        return False
    reason = why_not(part, here, left)
    if reason:
        log.skip(part, reason)
        print(f"gpu: {part.name} skipped: {reason}", flush=True)
        return False
    print(f"gpu: {part.name}: {part.what} (about {part.expected(here):.0f} s, {left:.0f} s left)", flush=True)
    return log.carry_out(part, here, left) == "failed"


def why_not(part: Part, here: Place, left: float) -> str:
    """Why a part cannot begin now, in a sentence; empty if it can."""
    lacking = missing(part.needs)
    if lacking:
        return f"it needs {', '.join(lacking)}, which {sys.executable} lacks: install them, or bring wheels."
    if part.images and not here.dry and not here.has(part.images):
        return f"it needs {part.images} in --data, and {here.data or 'no folder'} has none (see --unpack)."
    if part.expected(here) > left:
        return f"it takes about {part.expected(here):.0f} s, and {max(0, left):.0f} s are left."
    return ""


def command_line() -> argparse.ArgumentParser:
    """Its flags."""
    parser = argparse.ArgumentParser(prog="./run gpu", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, metavar="N", help="time it may take in all")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="holds cifar10/ and other sets as Parquet files")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), metavar="FOLDER", help="records, runs to resume")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts, those that failed once more")
    parser.add_argument("--dry-run", action="store_true", help="everything at smoke size on the CPU")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="after each part: summary.md and records.tar.gz")
    parser.add_argument("--restore", type=Path, metavar="FILE", help="a records.tar.gz to go on from")
    parser.add_argument("--pack", type=Path, metavar="FOLDER", help="cut --data into pieces there, and end")
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="first put the pieces found there into --data")
    return parser


if __name__ == "__main__":
    sys.exit(main())
