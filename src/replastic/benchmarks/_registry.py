"""The list of benchmarks: the files of this folder, entry points and plug-ins."""

from collections.abc import Callable

from replastic.benchmarks._spec import BenchmarkSpec
from replastic.registry import Registry

REGISTRY: Registry[Callable[[], BenchmarkSpec]] = Registry("benchmark", "replastic.benchmarks")
register = REGISTRY.register
names = REGISTRY.names
get = REGISTRY.get
entry = REGISTRY.entry
