"""The list of networks: the files of this folder, entry points and plug-ins."""

from replastic.networks._network import Network
from replastic.registry import Registry

REGISTRY: Registry[type[Network]] = Registry("network", "replastic.networks")
register = REGISTRY.register
names = REGISTRY.names
get = REGISTRY.get
entry = REGISTRY.entry
