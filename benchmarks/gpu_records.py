"""One folder of records: a JSON file and a log for each part, and a summary in Markdown, written anew after each."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gpu_machine
import gpu_pack
from gpu_parts import ORDER, Part, Place

from replastic.disk import write_text

GRACE = 20.0
"""Seconds that a part gets to end when its time is over."""
TAIL = 2000
"""Characters of a failed part's output in its record."""


class Log:
    """The records of a folder."""

    def __init__(self, folder: Path, machine: Mapping[str, Any], export: Path | None = None) -> None:
        self.folder, self.machine, self.export = folder, dict(machine), export
        folder.mkdir(parents=True, exist_ok=True)
        self._write()

    def status(self, name: str) -> str:
        """``done``, ``failed``, ``stopped``, ``skipped``, or empty for a part that was never tried."""
        return str(self.record(name).get("status", ""))

    def record(self, name: str) -> dict[str, Any]:
        """What is known of a part."""
        file = self.folder / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def skip(self, part: Part, reason: str) -> None:
        """Note why a part was not begun; what an earlier try left is kept."""
        if self.status(part.name) != "stopped":
            self._keep(part.name, {"part": part.name, "status": "skipped", "reason": reason})

    def carry_out(self, part: Part, here: Place, left: float) -> str:
        """Run the commands of a part one after the other, at most so many seconds; its status."""
        before = self.record(part.name).get("seconds", 0.0)
        known = {"part": part.name, "what": part.what, "machine": {**self.machine, "load": gpu_machine.load()}}
        self._keep(part.name, {**known, "status": "stopped", "seconds": before})
        began = time.monotonic()
        status, told = "done", ""
        with (self.folder / f"{part.name}.log").open("a", encoding="utf-8") as log:
            for command in part.commands(here):
                code = run(command, here, log, left - (time.monotonic() - began))
                if code is None or code:
                    status = "stopped" if code is None else "failed"
                    break
        if status == "failed":
            told = (self.folder / f"{part.name}.log").read_text(encoding="utf-8", errors="replace")[-TAIL:]
        took = round(before + time.monotonic() - began, 1)
        self._keep(
            part.name,
            {**known, "status": status, "seconds": took, "dry": here.dry, "found": part.found(here), "output": told},
        )
        return status

    def summary(self) -> str:
        """How many parts ended how, in a sentence."""
        ended = [self.status(name) or "not tried" for name in ORDER]
        counts = ", ".join(f"{ended.count(kind)} {kind}" for kind in dict.fromkeys(ended))
        return f"{counts}; {self.folder / 'summary.md'}"

    def _keep(self, name: str, record: Mapping[str, Any]) -> None:
        write_text(self.folder / f"{name}.json", json.dumps(record, indent=2) + "\n")
        self._write()

    def _write(self) -> None:
        write_text(self.folder / "summary.md", in_markdown([self.record(name) for name in ORDER], self.machine))
        if self.export is not None:
            gpu_pack.export(self.folder, self.export)


def run(command: Sequence[str], here: Place, log: Any, seconds: float) -> int | None:
    """Exit code of a command, with all that it started; None if its time was over, and it was ended."""
    print(f"$ {' '.join(command)}", file=log, flush=True)
    work = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=here.environment(), start_new_session=True
    )
    try:
        return work.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        return None
    finally:
        end(work)


def end(work: subprocess.Popen[bytes]) -> None:
    """See that a process and those it started are gone."""
    for sign, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        try:
            os.killpg(work.pid, sign)
            work.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def in_markdown(records: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> str:
    """The page that a person reads."""
    head = "\n".join(f"* {name}: {value if value not in (None, '') else 'none'}" for name, value in machine.items())
    rows = [
        f"| {r['part']} | {r['status']} | {r.get('seconds', 0):.0f} | {r.get('reason', r.get('what', ''))} |"
        for r in records
        if r
    ]
    found = "\n".join(
        f"\n## {r['part']}{' (dry run: these numbers mean nothing)' if r.get('dry') else ''}\n\n{r['found']}\n"
        for r in records
        if r.get("found")
    )
    failures = "\n".join(
        f"\n## {r['part']} failed\n\n```\n{r['output']}\n```\n" for r in records if r.get("status") == "failed"
    )
    table = "\n".join(["| part | status | s | |", "|---|---|--:|---|", *rows])
    return f"# What ran on a GPU\n\n{head}\n\n{table}\n{found}{failures}"
