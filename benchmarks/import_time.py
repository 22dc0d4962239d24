"""Time to import the package, alone and with its first call, beside that of torch, in fresh processes in turn."""

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
        code: (lambda code=code: subprocess.run([sys.executable, "-c", code], check=True))
        for code in ("import torch", "import replastic", "import replastic; replastic.fire_")
    }
    seconds = in_turn(work, max(5, options.repeats), lambda: None)
    rows = [Row(code, "", statistics.median(seconds[code]), "s") for code in work]
    first, *others = work
    rows += [Row(code, "over torch", ratio(seconds[code], seconds[first]), "x", GOAL, "lower") for code in others]
    publish("Time to import", rows, options.json)


if __name__ == "__main__":
    main()
