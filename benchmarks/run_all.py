"""Run every benchmark of this folder in turn; arguments are handed on, --json FOLDER keeps one file of each."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = (
    "import_time",
    "polar_memory",
    "polar_speed",
    "boundary_cost",
    "vision_throughput",
    "page_faults",
    "optimizer_overhead",
    "denormals",
    "stacked_runs",
    "acting",
    "language_throughput",
    "language_boundary",
    "rewrite_7b",
)


def main() -> int:
    """Run them; 1 if one of them failed to run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write <script>.json files here")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.json is not None:
        options.json.mkdir(parents=True, exist_ok=True)
    failed = 0
    for name in SCRIPTS:
        command = [sys.executable, str(HERE / f"{name}.py"), "--repeats", str(options.repeats)]
        if options.json is not None:
            command += ["--json", str(options.json / f"{name}.json")]
        failed |= subprocess.run(command, check=False).returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
