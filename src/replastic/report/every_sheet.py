"""The tables of a report beside the final one."""

from __future__ import annotations

from replastic.report import over_seeds
from replastic.report.contest import recorded
from replastic.report.games import Games
from replastic.report.regain import regain
from replastic.report.sheets import Sheet, around, just_after
from replastic.report.tables import Table


def all_sheets(table: Table) -> list[Sheet]:
    """The tables for which these runs have records."""
    found = [over_seeds.sheet(Games.of(table)), around(table), just_after(table), regain(table)]
    return [sheet for sheet in (*found, *recorded(table.experiment)) if sheet.rows]
