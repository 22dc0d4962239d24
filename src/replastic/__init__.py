"""replastic: restore the plasticity of a PyTorch network."""

from replastic._version import __version__

__all__ = ["__version__"]
