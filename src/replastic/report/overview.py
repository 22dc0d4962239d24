"""The page of runs of several games: the result of each with a link to its own page, panels, tables over all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from replastic.report import html, learning, over_seeds, summary, words
from replastic.report.games import Games
from replastic.report.plot import Plot
from replastic.report.sheets import Column, Sheet
from replastic.report.statistics import INTERVAL

NAME = "games"
"""Name of the table of final scores by game."""


def sheets(games: Games) -> list[Sheet]:
    """Final scores by game, and the statistics over all of them."""
    return [sheet for sheet in (by_game(games), over_seeds.sheet(games)) if sheet.rows]


def plots(games: Games) -> list[Plot]:
    """Panels of learning curves, and performance profiles."""
    return [*learning.curves(games), *over_seeds.profiles(games)]


def by_game(games: Games) -> Sheet:
    """The final score of every method in every game that it was run on."""
    shown = games.first.experiment.shown
    found = {game: {row.method: row.final for row in table.rows} for game, table in games.tables.items()}
    rows = {
        method: {game: finals[method] for game, finals in found.items() if method in finals} for method in games.methods
    }
    columns = tuple(Column(game, game, f"{shown.score_label}, at the end of the runs on {game}") for game in found)
    note = f"Mean over seeds with its {INTERVAL}, at the end."
    return Sheet(NAME, "Game by game", note, columns, rows, words.labels(games.methods))


def page(games: Games, drawn: Sequence[Plot], made: Sequence[Sheet], links: Mapping[str, str]) -> str:
    """The page as text.

    Args:
        games: The final tables.
        drawn: What `plots` gave.
        made: What `sheets` gave.
        links: Address of the page of each game.
    """
    beside = html.with_sheets(drawn, made)
    return html.render(
        "overview.html",
        games.first,
        drawn,
        made,
        beside=beside,
        scores=[one for one in drawn if not any(one in of for of in beside.values())],
        methods=games.methods,
        parts=[
            {"game": game, "link": links[game], "sentences": summary.sentences(table)}
            for game, table in games.tables.items()
        ],
        defined=[],
        commands=html.commands(games.tables.values()),
    )
