"""Networks in plain torch with stable block names, one file each; the file's name is the network's public name."""

from replastic.networks._network import Network, build, entry, get, names, register

__all__ = ["Network", "build", "entry", "get", "names", "register"]
