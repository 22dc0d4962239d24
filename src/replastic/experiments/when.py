"""A method with a trigger of its own in one text: ``fire@plateau:patience=3``."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import Any

from replastic import methods, triggers
from replastic.errors import UserError
from replastic.methods import Method
from replastic.training import Protocol

_AT = re.compile(r"@(?=\s*[A-Za-z_])")


def split(spec: str) -> tuple[str, str]:
    """The method's spec and the trigger's, which is empty where the protocol decides when the method acts.

    Raises:
        UserError: There are two triggers, or no method.
    """
    method, *rest = (part.strip() for part in _AT.split(spec))
    if len(rest) > 1:
        raise UserError(f"one method takes one trigger, got {spec!r}")
    return method, rest[0] if rest else ""


def method_of(spec: str) -> Method:
    """The method that a text describes, whatever its trigger.

    Raises:
        UserError: See `methods.from_spec`.
    """
    return methods.from_spec(split(spec)[0])


def canonical(spec: str) -> str:
    """The shortest text of the same meaning.

    Raises:
        UserError: There is no such method or trigger, a value is not allowed, or the method acts between no phases.
    """
    text, when = split(spec)
    method = methods.from_spec(text)
    if not when:
        return methods.spec_of(method)
    if not method.acts_between_phases:
        raise UserError(f"{text} does not act between phases: the trigger {when!r} has no effect on it, leave it out")
    return f"{methods.spec_of(method)}@{triggers.spec_of(triggers.from_spec(when))}"


def protocol_of(protocol: Protocol, spec: str) -> Protocol:
    """The protocol that the method runs under: with its own trigger, if it has one."""
    when = split(spec)[1]
    return replace(protocol, trigger=when) if when else protocol


def settings(spec: str) -> dict[str, Any]:
    """Name and every field of the method, and of its own trigger if it has one, as they go into run.json."""
    found, when = methods.settings(method_of(spec)), split(spec)[1]
    if not when:
        return found
    trigger = triggers.from_spec(when)
    return {**found, "trigger": {"name": trigger.name, **asdict(trigger)}}
