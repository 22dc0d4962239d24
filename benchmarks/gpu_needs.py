"""Whether an interpreter can run `./run gpu`: needs nothing but Python. Prints what it lacks, in one sentence."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

NEEDED = ("torch", "numpy", "safetensors", "tyro", "tqdm", "filelock")
"""What the package itself imports."""


def missing(modules: Sequence[str]) -> list[str]:
    """Which of some modules cannot be imported."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def main() -> int:
    """0 if all is there, 1 if packages are missing, 2 if torch itself is."""
    lacking = missing(NEEDED)
    if lacking:
        print(f"{sys.executable} lacks {', '.join(lacking)}: install them, or bring them as wheels (docs/gpu.md).")
    return 2 if "torch" in lacking else int(bool(lacking))


if __name__ == "__main__":
    sys.exit(main())
