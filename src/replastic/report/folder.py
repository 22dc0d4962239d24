"""What a report leaves on disk: the page, its tables and its curves, beside the runs or where the caller says."""

from __future__ import annotations

from pathlib import Path

from replastic.errors import UserError
from replastic.records import write_bytes, write_text
from replastic.report import curves, html, tables, words
from replastic.report.experiment import Experiment, Paths, load
from replastic.report.tables import Table, final_table


def build(paths: Paths, out: str | Path | None = None, *, reference: str | None = None) -> Path:
    """Write the report of runs: see `write` for the files.

    Args:
        paths: Folder of runs, or several folders that together are one experiment.
        out: Where to write, made if missing; beside the runs, in the first of `paths`, when None.
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
    """Write ``report.html``, ``tables/final.{md,csv}`` and ``curves/*.{svg,png}`` into a folder, made if missing.

    Writing twice gives the same bytes; every file appears whole or not at all.

    Returns:
        The path of ``report.html``.
    """
    folder = Path(folder)
    figures = curves.draw(table)
    page = html.page(table, figures)
    for child in (folder / "tables", folder / "curves"):
        _make(child)
    write_text(folder / "tables" / "final.md", tables.to_markdown(table))
    write_text(folder / "tables" / "final.csv", tables.to_csv(table))
    for figure in figures:
        write_text(folder / "curves" / f"{figure.name}.svg", figure.svg)
        write_bytes(folder / "curves" / f"{figure.name}.png", figure.png)
    write_text(folder / "report.html", page)
    return folder / "report.html"


def text_table(source: Paths | Experiment | Table, *, reference: str | None = None) -> str:
    """The final table in plain ASCII, with a line that says what it shows."""
    if not isinstance(source, Table):
        source = final_table(source if isinstance(source, Experiment) else load(source), reference)
    experiment = source.experiment
    shown = experiment.shown
    title = f"{experiment.benchmark}: {shown.score_label} after {shown.phase_label} {experiment.phases}"
    if experiment.unfinished:
        runs = words.count(len(experiment.unfinished), "run")
        title += f" (unfinished: {runs} still to be completed)"
    return f"{title}\n\n{tables.to_text(source)}"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror or error}") from error
