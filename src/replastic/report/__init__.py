"""Tables, curves and one self-contained page from records, and comparisons with intervals."""

from replastic.report.comparison import Comparison, compare
from replastic.report.experiment import Experiment, load
from replastic.report.folder import build, text_table, write
from replastic.report.sheets import Sheet, all_sheets
from replastic.report.tables import Table, final_table

__all__ = [
    "Comparison",
    "Experiment",
    "Sheet",
    "Table",
    "all_sheets",
    "build",
    "compare",
    "final_table",
    "load",
    "text_table",
    "write",
]
