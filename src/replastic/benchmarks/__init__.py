"""Experiments anyone can run, one file each; the file's name is the benchmark's public name."""

from replastic.benchmarks._experiment import Listener, Plan, plan, run
from replastic.benchmarks._registry import entry, get, names, register
from replastic.benchmarks._spec import BenchmarkSpec, Preset

__all__ = ["BenchmarkSpec", "Listener", "Plan", "Preset", "entry", "get", "names", "plan", "register", "run"]
