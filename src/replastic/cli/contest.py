"""Hold diagnostics against what followed: how well each measure at the start of a task predicts how it goes."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from replastic import report
from replastic.cli._arguments import Parser
from replastic.disk import user_path
from replastic.text import printable

EXAMPLES = """\
Nothing is trained: the runs must have recorded measures at the starts of their tasks, as `replastic run` does with
--start-metrics. Rank correlations are computed for each seed and shown as their mean with an interval: over all
tasks and methods, over the methods within a task, and for each method over its tasks. Outcomes are the score at the end
of the task, its failure, and measured plasticity where it was recorded. Thresholds were fixed before any result.

examples:
  replastic contest runs/mnist_random_labels-small            prints the tables; writes tables/ and curves/ there
  replastic contest runs/a runs/b --out contest               two folders that are one experiment, elsewhere
  replastic contest runs/mnist_random_labels-small --json     numbers for a script
  replastic run mnist_random_labels --start-metrics dfi hessian_rank readiness plasticity
"""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, judge the diagnostics, print the tables."""
    parser = Parser(
        "replastic contest", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folder that `replastic run` wrote")
    parser.add_argument("--out", metavar="DIR", help="where to write; beside the runs when left out")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(list(arguments))
    experiment = report.load([user_path(folder) for folder in options.runs])
    folder = user_path(options.out or options.runs[0])
    found = report.write_contest(experiment, folder)
    if options.json:
        print(json.dumps({"benchmark": experiment.benchmark, **{s.name: s.to_dict() for s in found}}, indent=2))
        return 0
    for sheet in found:
        print(f"{experiment.benchmark}: {sheet.title}\n\n{sheet.to_text()}\n\n{report.plain(sheet.note)}\n")
    print(f"tables and a plot: {printable(str(folder))}")
    return 0
