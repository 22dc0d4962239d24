"""Writes a report: the page, its tables and its curves, beside the runs or to a folder that the caller names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from replastic.disk import make_folder, write_bytes, write_text
from replastic.errors import UserError
from replastic.report import curves, html, overview, sheets, tables, words
from replastic.report.every_sheet import all_sheets
from replastic.report.experiment import Experiment, Paths, load
from replastic.report.experiment import load_games as load_by_game
from replastic.report.games import Games
from replastic.report.plot import Plot
from replastic.report.safe import stem
from replastic.report.tables import Table, final_table

FINAL = "final"
"""Name of the final table."""
PAGE, GAMES = "report.html", "games"
"""The page, and the folder of the pages of single games."""


def build(paths: Paths, out: str | Path | None = None, *, reference: str | None = None) -> Path:
    """Write the report of runs: see `write` for the files.

    Args:
        paths: Folder of runs, or several folders that together are one experiment.
        out: Folder to write, made if missing. None means beside the runs, in the first of `paths`.
        reference: Method that the others are compared with.

    Returns:
        The path of ``report.html``.

    Raises:
        UserError: See `experiment.load`; or the folder cannot be written.
        MissingExtraError: matplotlib, jinja2 or scipy is not installed.
    """
    return write_games(load_games(paths, reference), out if out is not None else first_of(paths))


def load_games(paths: Paths, reference: str | None = None, *, several_networks: bool = False) -> Games:
    """The final tables of runs, one for each game; see `experiment.load_games`."""
    found = load_by_game(paths, several_networks=several_networks)
    return Games({game: final_table(experiment, reference) for game, experiment in found.items()})


def first_of(paths: Paths) -> Path:
    """The folder beside which a report of these is written."""
    return Path(paths if isinstance(paths, (str, Path)) else paths[0])


def write_games(games: Games, folder: str | Path) -> Path:
    """Write the report of one game as `write` does; of several the overview, and one of each game in ``games/``.

    Returns:
        The path of the page of all of them.
    """
    if len(games.tables) == 1:
        return write(games.first, folder)
    folder = Path(folder)
    own = {game: f"{GAMES}/{stem(game.replace('/', '_'))}" for game in games.tables}
    more, figures = overview.sheets(games), overview.plots(games)
    page = overview.page(games, figures, more, {game: f"{at}/{PAGE}" for game, at in own.items()})
    for game, table in games.tables.items():
        write(table, folder / own[game])
    _write(folder, page, figures, more)
    return folder / PAGE


def write(table: Table, folder: str | Path) -> Path:
    """Write ``report.html``, ``tables/*.{md,csv}`` and ``curves/*.{svg,png}`` into a folder, made if missing.

    A second call writes the same bytes. Every file appears whole or not at all.

    Returns:
        The path of ``report.html``.
    """
    folder = Path(folder)
    more = all_sheets(table)
    figures = curves.draw(table, more)
    page = html.page(table, figures, more)
    make_folder(folder / "tables")
    write_text(folder / "tables" / f"{FINAL}.md", tables.to_markdown(table))
    write_text(folder / "tables" / f"{FINAL}.csv", tables.to_csv(table))
    _write(folder, page, figures, more)
    return folder / PAGE


def _write(folder: Path, page: str, figures: Sequence[Plot], more: Sequence[sheets.Sheet]) -> None:
    for child in (folder / "tables", folder / "curves"):
        make_folder(child)
    for sheet in more:
        write_text(folder / "tables" / f"{sheet.name}.md", sheet.to_markdown())
        write_text(folder / "tables" / f"{sheet.name}.csv", sheet.to_csv())
    for figure in figures:
        write_text(folder / "curves" / f"{figure.name}.svg", figure.svg)
        write_bytes(folder / "curves" / f"{figure.name}.png", figure.png)
    write_text(folder / PAGE, page)


def text_table(source: Paths | Experiment | Table, *, reference: str | None = None, name: str = FINAL) -> str:
    """One of the tables in plain ASCII, below a title line.

    Args:
        source: The runs, or their final table.
        reference: Method that the others are compared with.
        name: The final table, or the name of a sheet (see `all_sheets`).

    Raises:
        UserError: The records hold nothing for that table; the message lists the tables of these runs.
    """
    if not isinstance(source, Table):
        source = final_table(source if isinstance(source, Experiment) else load(source), reference)
    experiment = source.experiment
    shown = experiment.shown
    if name == FINAL:
        title, body = f"{shown.score_label} after {shown.phase_label} {experiment.phases}", tables.to_text(source)
    else:
        sheet = _sheet(source, name)
        title, body = f"{sheet.title[:1].lower()}{sheet.title[1:]}", f"{sheet.to_text()}\n\n{sheet.note}"
    if experiment.unfinished:
        runs = words.count(len(experiment.unfinished), "run")
        title += f" (unfinished: {runs} still to be completed)"
    return f"{experiment.benchmark}: {title}\n\n{body}"


def _sheet(table: Table, name: str) -> sheets.Sheet:
    there = {sheet.name: sheet for sheet in all_sheets(table)}
    if name not in there:
        known = words.listing([FINAL, *there])
        raise UserError(f"these runs have no table {name!r}; they have {known}")
    return there[name]
