"""A tiny protocol and its data."""

from support.small_runs import base, digits, dropping, protocol, splits

__all__ = ["base", "digits", "dropping", "protocol", "splits"]
