"""The code that a run belongs to, versions and plug-ins: going on with other code is refused, or noted in run.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replastic.disk import write_text
from replastic.environment import environment
from replastic.errors import UserError
from replastic.records import read_object

ACCEPTED = "accepted_changes"
"""Key in the environment of run.json: the changes of code that were accepted, in order, each with before and now."""

MADE_WITH = "made_with"
"""Key of the environment in the file of a shared phase, which holds settings at its top. Older files have it as
``environment``, which is a setting of agents."""


def noted(content: Mapping[str, Any]) -> str:
    """The key of the environment in a run.json, or in the file of a shared phase."""
    return MADE_WITH if MADE_WITH in content else "environment"


def of(known: Mapping[str, Any]) -> dict[str, Any]:
    """The code of an environment as run.json keeps it: the last that was accepted, else that with which it began."""
    changes = known.get(ACCEPTED)
    if isinstance(changes, list) and changes and isinstance(changes[-1], dict) and isinstance(changes[-1]["now"], dict):
        return dict(changes[-1]["now"])
    packages, plugins = known.get("packages"), known.get("plugins")
    return {
        "replastic": known.get("replastic"),
        "torch": packages.get("torch") if isinstance(packages, dict) else None,
        "plugins": dict(plugins) if isinstance(plugins, dict) else {},
    }


def changes(known: Mapping[str, Any], now: Mapping[str, Any], *, unfinished: bool) -> list[str]:
    """The differences between two codes as `of` gives them, each as ``name: there and now``.

    More plug-ins than before are no difference. Fewer are one for a run that is not finished: it may need them.
    """
    found = [
        f"{name}: {known[name]} and {now[name]}"
        for name in ("replastic", "torch")
        if known.get(name) is not None and known[name] != now[name]
    ]
    for name, sha256 in known.get("plugins", {}).items():
        other = now["plugins"].get(name, "absent")
        if other != sha256 and (unfinished or other != "absent"):
            found.append(f"{name}: {str(sha256)[:12]} and {other[:12]}")
    return found


def check(file: Path, known: Mapping[str, Any], *, unfinished: bool, accept: bool) -> bool:
    """Compare the environment in a run.json with the code of this process.

    Returns:
        Whether it differs and that is accepted.

    Raises:
        UserError: It differs.
    """
    found = changes(of(known), of(environment()), unfinished=unfinished)
    if found and not accept:
        raise UserError(
            f"{file.parent} was begun with other code (there and now): {'; '.join(found)}. Go on with the code it was "
            "begun with, or give another --out, or --accept-changes, which run.json then tells"
        )
    return bool(found)


def accept(file: Path) -> None:
    """Note in a run.json that its run is gone on with by the code of this process."""
    content = read_object(file)
    key = noted(content)
    known = content[key]
    content[key] = {
        **known,
        ACCEPTED: [*known.get(ACCEPTED, []), {"before": of(known), "now": of(environment())}],
    }
    write_text(file, json.dumps(content, indent=2) + "\n")
