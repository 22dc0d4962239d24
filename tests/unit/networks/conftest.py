"""A tiny protocol and its data."""

from support.small_runs import protocol, splits

__all__ = ["protocol", "splits"]
