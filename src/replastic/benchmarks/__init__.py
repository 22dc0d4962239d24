"""Experiments anyone can run, one file each; the file's name is the benchmark's public name."""

from replastic.experiments.spec import BenchmarkSpec, Preset, entry, get, names, register

__all__ = ["BenchmarkSpec", "Preset", "entry", "get", "names", "register"]
