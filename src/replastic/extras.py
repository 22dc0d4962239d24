"""Optional dependencies. They are imported where they are needed; if one is missing, the message names its extra."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from typing import Any, Final

from replastic.errors import MissingExtraError

PACKAGES: Final[Mapping[str, Mapping[str, str]]] = {
    "report": {"matplotlib": "matplotlib", "jinja2": "jinja2", "scipy": "scipy"},
    "digits": {"sklearn": "scikit-learn"},
    "vision": {"datasets": "datasets", "PIL": "pillow"},
    "language": {"datasets": "datasets", "tokenizers": "tokenizers"},
    "hf": {"transformers": "transformers"},
    "sweep": {"ray": "ray"},
    "rl": {"gymnasium": "gymnasium", "ale_py": "ale-py", "minatar": "minatar", "PIL": "pillow"},
    "mujoco": {
        "gymnasium": "gymnasium",
        "mujoco": "mujoco",
        "dm_control": "dm_control",
        "imageio": "imageio",
        "PIL": "pillow",
    },
    "humanoidbench": {
        "gymnasium": "gymnasium",
        "mujoco": "mujoco",
        "dm_control": "dm_control",
        "imageio": "imageio",
        "PIL": "pillow",
    },
    "video": {"imageio": "imageio", "imageio_ffmpeg": "imageio-ffmpeg"},
}
"""For each extra the modules that are imported, with the names of their distributions."""


def require(module: str, extra: str, purpose: str) -> Any:
    """Import `module`, or raise an error that names the extra to install and the purpose.

    Args:
        module: Dotted module name, such as ``"matplotlib.pyplot"``.
        extra: Extra of this package that installs it, such as ``"report"``; empty if none does.
        purpose: The task that needs the module. The message begins with it ("drawing curves").

    Raises:
        MissingExtraError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        package = module.split(".")[0]
        wanted = f"'replastic[{extra}]'" if extra else package
        raise MissingExtraError(f"{purpose} needs {package}, which is not installed: pip install {wanted}") from error


def require_all(purposes: Mapping[str, str]) -> None:
    """See that extras are installed, before anything long begins; nothing is imported for it.

    Args:
        purposes: Names of extras of `PACKAGES`, each with the task that needs it ("the report").

    Raises:
        MissingExtraError: One sentence names every package that is missing, and the line that installs them all.
    """
    missing = {extra: [name for module, name in PACKAGES[extra].items() if not _is_there(module)] for extra in purposes}
    missing = {extra: names for extra, names in missing.items() if names}
    if missing:
        needs = " and ".join(f"{purposes[extra]} needs {', '.join(names)}" for extra, names in missing.items())
        line = f"pip install 'replastic[{','.join(missing)}]'"
        raise MissingExtraError(f"{needs}, not installed here: {line}")


def _is_there(module: str) -> bool:
    """Whether a module is loaded or could be."""
    if module in sys.modules:
        return sys.modules[module] is not None
    return importlib.util.find_spec(module) is not None
