"""Tables, curves and one self-contained page from records, and comparisons with intervals."""

from replastic.report.comparison import Comparison, compare
from replastic.report.contest import contest
from replastic.report.contest_plot import write_contest
from replastic.report.every_sheet import all_sheets
from replastic.report.experiment import Experiment, load
from replastic.report.folder import build, text_table, write
from replastic.report.sheets import Sheet
from replastic.report.tables import Table, final_table
from replastic.report.words import plain

__all__ = [
    "Comparison",
    "Experiment",
    "Sheet",
    "Table",
    "all_sheets",
    "build",
    "compare",
    "contest",
    "final_table",
    "load",
    "plain",
    "text_table",
    "write",
    "write_contest",
]
