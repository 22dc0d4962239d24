"""Tables, curves and one self-contained page from records, and comparisons with intervals."""

from replastic.report.comparison import FINAL, SCORES, Comparison, compare
from replastic.report.contest import contest
from replastic.report.contest_plot import write_contest
from replastic.report.every_sheet import all_sheets
from replastic.report.experiment import Experiment, load
from replastic.report.folder import build, load_games, text_table, write, write_games
from replastic.report.games import Games
from replastic.report.overview import sheets as overview_sheets
from replastic.report.sheets import Sheet
from replastic.report.tables import Table, final_table
from replastic.report.words import plain

__all__ = [
    "FINAL",
    "SCORES",
    "Comparison",
    "Experiment",
    "Games",
    "Sheet",
    "Table",
    "all_sheets",
    "build",
    "compare",
    "contest",
    "final_table",
    "load",
    "load_games",
    "overview_sheets",
    "plain",
    "text_table",
    "write",
    "write_contest",
    "write_games",
]
