"""Compare two folders of runs, or two methods of one, seed by seed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from replastic import report
from replastic.cli._arguments import Parser
from replastic.disk import user_path
from replastic.report.statistics import PERCENT

EXAMPLES = f"""\
A difference is always second minus first, on the seeds both have. It is called better or worse only if its {PERCENT} t
interval excludes zero. Benchmarks of agents also get the interquartile mean and the probability of improvement over all
runs and tasks. Runs of several games are compared game by game.

examples:
  replastic compare runs/a runs/b                        every method that both folders have
  replastic compare runs/a runs/b --methods fire         one of them
  replastic compare runs/a --methods base fire rescale   inside one folder: fire and rescale, each minus base
  replastic compare runs/a --methods base fire --score mean   the mean over all tasks instead of the last one's score
  replastic compare runs/a runs/b --json                 numbers for a script
"""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, compare, print."""
    parser = Parser(
        "replastic compare", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", metavar="FIRST", help="folder that `replastic run` wrote")
    parser.add_argument("b", metavar="SECOND", nargs="?", help="second folder; compares inside the first when left out")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="METHOD",
        help="only these; inside one folder the first is what the others are compared with",
    )
    parser.add_argument(
        "--score",
        choices=report.SCORES,
        default=report.FINAL,
        help="what to compare: the score at the end of the last phase (default), or its mean over the ends of all",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of sentences")
    options = parser.parse_args(list(arguments))
    comparison = report.compare(
        user_path(options.a), options.b and user_path(options.b), methods=options.methods, score=options.score
    )
    print(json.dumps(comparison.to_dict(), indent=2) if options.json else comparison)
    return 0
