"""The list of methods: the files of this folder, entry points and plug-ins."""

from collections.abc import Callable
from typing import TypeVar

from replastic.methods._interface import Method
from replastic.registry import Registry

M = TypeVar("M", bound=type[Method])

REGISTRY: Registry[type[Method]] = Registry("method", "replastic.methods")
names = REGISTRY.names
get = REGISTRY.get
entry = REGISTRY.entry


def register(name: str, *, reference: str = "") -> Callable[[M], M]:
    """Decorate a dataclass to make it known as the method `name`; see `Registry.add`."""

    def decorate(method: M) -> M:
        REGISTRY.add(name, method, described=method, reference=reference)
        method.name = name
        return method

    return decorate
