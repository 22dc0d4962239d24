"""What the scripts of this folder share: arguments, rounds in turn, tables with the goal beside the value."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Row:
    """One measured value, and what it should be."""

    what: str
    variant: str
    value: float
    unit: str
    goal: float | None = None
    better: str = "higher"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal


def command_line(summary: str) -> argparse.ArgumentParser:
    """What every script understands: --json and --repeats."""
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--json", type=Path, help="also write the values to this file")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; every variant runs once per round")
    return parser


def arguments(summary: str, **choices: Sequence[str]) -> argparse.Namespace:
    """`command_line` with one multiple-choice option per keyword, read."""
    parser = command_line(summary)
    for name, known in choices.items():
        parser.add_argument(f"--{name}", nargs="+", choices=known, default=list(known))
    return parser.parse_args()


def in_turn(
    variants: Mapping[str, Callable[[], object]],
    repeats: int,
    prepare: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every variant, one round after the other, so that whatever slows the machine slows all of them.

    `prepare` runs before each measurement, untimed. A first round warms up and is dropped.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for k in range(repeats + 1):
        for name, work in variants.items():
            prepare()
            start = clock()
            work()
            if k > 0:
                seconds[name].append(clock() - start)
    return seconds


def ratio(base: Sequence[float], other: Sequence[float]) -> float:
    """Median over the rounds of base / other: how many times faster `other` is."""
    return statistics.median(b / o for b, o in zip(base, other, strict=True))


def publish(title: str, rows: Sequence[Row], file: Path | None, **settings: object) -> None:
    """Print a Markdown table, and write the same as JSON where asked."""
    settings = {"processor": _processor(), "threads": torch.get_num_threads(), "torch": torch.__version__, **settings}
    print(f"\n## {title}\n\n{', '.join(f'{k} {v}' for k, v in settings.items())}\n")
    print("| what | variant | value | goal | met | note |\n|---|---|---|---|---|---|")
    for row in rows:
        sign = ">=" if row.better == "higher" else "<="
        goal = "" if row.goal is None else f"{sign} {row.goal:g} {row.unit}"
        met = {None: "", True: "yes", False: "NO"}[row.met]
        print(f"| {row.what} | {row.variant} | {row.value:.3g} {row.unit} | {goal} | {met} | {row.note} |", flush=True)
    if file is not None:
        content = {"title": title, "settings": settings, "rows": [asdict(r) | {"met": r.met} for r in rows]}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    fields = dict(line.split("\t:", 1) if "\t:" in line else (line, "") for line in lines[:10])
    facts = (fields.get(k, "").strip() for k in ("model name", "cpu family\t", "cpu family", "model\t"))
    return " ".join(f for f in facts if f)
