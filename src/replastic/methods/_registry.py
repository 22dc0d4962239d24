"""The list of methods: the files of this folder, entry points and plug-ins."""

from replastic.methods._interface import Method
from replastic.registry import Registry

REGISTRY: Registry[type[Method]] = Registry("method", "replastic.methods")
register = REGISTRY.register
names = REGISTRY.names
get = REGISTRY.get
entry = REGISTRY.entry
