"""Networks in plain torch with stable block names, one file each; the file's name is the network's public name."""

from replastic.networks._network import Inputs, Network, build, entry, get, names, register

__all__ = ["Inputs", "Network", "build", "entry", "get", "names", "register"]
