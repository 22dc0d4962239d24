"""Optional dependencies. They are imported where they are needed; if one is missing, the message names its extra."""

from __future__ import annotations

import importlib
from typing import Any

from replastic.errors import MissingExtraError


def require(module: str, extra: str, purpose: str) -> Any:
    """Import `module`, or raise an error that names the extra to install and the purpose.

    Args:
        module: Dotted module name, such as ``"matplotlib.pyplot"``.
        extra: Extra of this package that installs it, such as ``"report"``.
        purpose: The task that needs the module. The message begins with it ("drawing curves").

    Raises:
        MissingExtraError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]}, which is not installed: pip install 'replastic[{extra}]'"
        ) from error
