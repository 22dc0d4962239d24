"""The list of streams: the files of this folder, entry points and plug-ins."""

from replastic.registry import Registry
from replastic.streams._stream import Stream

REGISTRY: Registry[type[Stream]] = Registry("stream", "replastic.streams")
register = REGISTRY.register
names = REGISTRY.names
get = REGISTRY.get
entry = REGISTRY.entry
