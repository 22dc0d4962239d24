"""Time to import the package, beside that of torch alone, in fresh processes in turn."""

from __future__ import annotations

import statistics
import subprocess
import sys

from measure import Row, arguments, in_turn, publish, ratio

GOAL = 1.3


def main() -> None:
    """Print the table."""
    options = arguments(__doc__)
    work = {
        name: (lambda name=name: subprocess.run([sys.executable, "-c", f"import {name}"], check=True))
        for name in ("torch", "replastic")
    }
    seconds = in_turn(work, max(5, options.repeats), lambda: None)
    rows = [
        Row("import torch", "", statistics.median(seconds["torch"]), "s"),
        Row("import replastic", "", statistics.median(seconds["replastic"]), "s"),
        Row("import replastic", "over torch", ratio(seconds["replastic"], seconds["torch"]), "x", GOAL, "lower"),
    ]
    publish("Time to import", rows, options.json)


if __name__ == "__main__":
    main()
