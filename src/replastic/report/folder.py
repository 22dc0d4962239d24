"""Writes a report: the page, its tables and its curves, beside the runs or to a folder that the caller names."""

from __future__ import annotations

from pathlib import Path

from replastic.disk import make_folder, write_bytes, write_text
from replastic.errors import UserError
from replastic.report import curves, html, sheets, tables, words
from replastic.report.every_sheet import all_sheets
from replastic.report.experiment import Experiment, Paths, load
from replastic.report.tables import Table, final_table

FINAL = "final"
"""Name of the final table."""


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
    table = final_table(load(paths), reference)
    return write(table, out if out is not None else paths if isinstance(paths, (str, Path)) else paths[0])


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
    for child in (folder / "tables", folder / "curves"):
        make_folder(child)
    write_text(folder / "tables" / "final.md", tables.to_markdown(table))
    write_text(folder / "tables" / "final.csv", tables.to_csv(table))
    for sheet in more:
        write_text(folder / "tables" / f"{sheet.name}.md", sheet.to_markdown())
        write_text(folder / "tables" / f"{sheet.name}.csv", sheet.to_csv())
    for figure in figures:
        write_text(folder / "curves" / f"{figure.name}.svg", figure.svg)
        write_bytes(folder / "curves" / f"{figure.name}.png", figure.png)
    write_text(folder / "report.html", page)
    return folder / "report.html"


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
