"""The tables of a report beside the final one."""

from __future__ import annotations

from replastic.report.regain import regain
from replastic.report.sheets import Sheet, around, just_after
from replastic.report.tables import Table


def all_sheets(table: Table) -> list[Sheet]:
    """The tables for which these runs have records."""
    return [sheet for sheet in (around(table), just_after(table), regain(table)) if sheet.rows]
