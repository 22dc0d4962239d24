"""Make the page, tables and curves of an experiment from its records."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from replastic import report
from replastic.cli._arguments import Parser
from replastic.disk import user_path
from replastic.text import printable

EXAMPLES = """\
Nothing is trained: everything comes from the run.json and metrics.jsonl files, so it can be repeated at any time,
also while runs are still going (the report then stops at the last phase that all of them have reached).

examples:
  replastic report runs/digits_random_labels             writes report.html, tables/ and curves/ beside the runs
  replastic report runs/digits --out site/digits         the same, elsewhere
  replastic report runs/a runs/b --out both              two folders that are one experiment (equal settings)
  replastic report runs/small runs/layernorm --networks  the same methods on several networks, side by side
  replastic report runs/breakout runs/asterix --out rl   two games: panels, tables over both, a page for each
  replastic report runs/digits --table statistics        interquartile mean and probability of improvement, for agents
  replastic report runs/digits --reference full_reset    differences to another method than base
  replastic report runs/digits --table boundary          print what was measured just after the boundary instead
  replastic report runs/digits --json                    paths and numbers for a script
"""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, build the report, print where it is and what it says."""
    parser = Parser(
        "replastic report", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folder that `replastic run` wrote")
    parser.add_argument("--out", metavar="DIR", help="where to write; beside the runs when left out")
    parser.add_argument("--reference", metavar="METHOD", help="compare with it (default: base)")
    parser.add_argument(
        "--table",
        default="final",
        metavar="NAME",
        help="which table to print: final (default), statistics, around or boundary, of several games also games; "
        "tables/ gets all that the records allow",
    )
    parser.add_argument("--networks", action="store_true", help="runs may differ in their network; rows then name it")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(list(arguments))
    folders = [user_path(folder) for folder in options.runs]
    games = report.load_games(folders, options.reference, several_networks=options.networks)
    printed = "\n\n".join(_printed(games, options.table))
    page = report.write_games(games, user_path(options.out or options.runs[0]))
    if options.json:
        print(json.dumps({"report": str(page), **_numbers(games)}, indent=2))
    else:
        print(f"{printed}\n\nreport: {printable(str(page))}")
    return 0


def _printed(games: report.Games, name: str) -> list[str]:
    """The table of that name, of each game or over all of them."""
    if len(games.tables) > 1:
        over = [sheet for sheet in report.overview_sheets(games) if sheet.name == name]
        if over:
            return [f"{over[0].title}\n\n{over[0].to_text()}\n\n{report.plain(over[0].note)}"]
    return [
        f"{printable(game)}\n{report.text_table(table, name=name)}" if game else report.text_table(table, name=name)
        for game, table in games.tables.items()
    ]


def _numbers(games: report.Games) -> dict[str, Any]:
    """All tables; those of several games by game, beside the ones over all of them."""
    by_game = {
        game: {**table.to_dict(), "tables": {sheet.name: sheet.to_dict() for sheet in report.all_sheets(table)}}
        for game, table in games.tables.items()
    }
    if len(by_game) == 1:
        return by_game.popitem()[1]
    return {"games": by_game, "tables": {sheet.name: sheet.to_dict() for sheet in report.overview_sheets(games)}}
