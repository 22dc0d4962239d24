"""Runs of several networks in one report: each method is told from the same one on another network by its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from replastic.report.run_data import RunData

SETTING = "network"
"""Key of the network in `RunInfo.config`."""
BEGIN, END = " (network: ", ")"


def split(label: str) -> tuple[str, str]:
    """The spec of the method in a label, and the rest that names a network; empty for the first one's."""
    spec, mark, rest = label.partition(BEGIN)
    return spec, mark + rest


def named(runs: Sequence[RunData]) -> list[RunData]:
    """The runs, as if all had the network of the first; those on another one name it after their method.

    `base` becomes ``base (network: norm=layer)``: the settings in which the networks differ, or the kind of network
    where that is another.
    """
    first = runs[0].info.config.get(SETTING)
    return [run if run.info.config.get(SETTING) == first else _renamed(run, first) for run in runs]


def _renamed(run: RunData, first: Any) -> RunData:
    config = {**run.info.config, SETTING: first}
    label = f"{run.info.method}{BEGIN}{_difference(first, run.info.config.get(SETTING))}{END}"
    return replace(run, info=replace(run.info, method=label, config=config))


def _difference(first: Any, other: Any) -> str:
    """The settings of a network that the first one has otherwise."""
    if not isinstance(first, Mapping) or not isinstance(other, Mapping):
        return _text(other)
    kind = other.get("type")
    if kind != first.get("type"):
        return _text(kind)
    return ", ".join(f"{key}={_text(value)}" for key, value in other.items() if first.get(key) != value)


def _text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
