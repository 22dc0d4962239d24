"""The page: the whole report in one file, which loads nothing from the network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replastic.extras import require
from replastic.report import axes, measures, style, summary, words
from replastic.report.experiment import Experiment, flatten
from replastic.report.plot import Plot
from replastic.report.safe import stem
from replastic.report.sheets import Sheet
from replastic.report.statistics import INTERVAL, PERCENT
from replastic.report.tables import Row, Table

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = {
    axes.INK: "ink",
    axes.SOFT: "soft",
    axes.RULE: "rule",
    style.MUTED: "muted",
    **{colour: f"m-{name.replace('_', '-')}" for name, colour in style.MAIN.items()},
    **{colour: f"m-{i}" for i, colour in enumerate(style.FURTHER)},
}
"""Colours of the plots, with the page's name for each, so that dark mode can change them."""

UNFINISHED = ' <span class="unfinished">unfinished</span>'


@dataclass(frozen=True)
class LayerTable:
    """One measure by layer (columns) and method (rows) at the end of the last phase."""

    measure: words.Measure
    layers: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


def page(table: Table, plots: Sequence[Plot], sheets: Sequence[Sheet] = ()) -> str:
    """The page as text, with the given plots and sheets; needs jinja2."""
    experiment = table.experiment
    beside = with_sheets(plots, sheets)
    scores, diagnostics = _split([p for p in plots if not any(p in of for of in beside.values())], experiment)
    told = {column.name for sheet in sheets for column in sheet.columns}
    return render(
        "report.html",
        table,
        plots,
        sheets,
        unfinished=require("markupsafe", "report", "writing the page").Markup(UNFINISHED),
        beside=beside,
        scores=scores,
        diagnostics=diagnostics,
        sentences=summary.sentences(table),
        layers=layer_tables(table),
        defined=[words.measure(key) for key in experiment.shown.curves if words.measure(key).name not in told],
        commands=commands([table]),
        settings=flatten(experiment.settings),
        methods={method: _options(experiment, method) for method in experiment.methods},
        versions=_versions(run.info.environment for run in experiment),
    )


def render(template: str, table: Table, plots: Sequence[Plot], sheets: Sequence[Sheet], **content: Any) -> str:
    """A page from a template, with what every page has; `table` gives colours, order and words."""
    jinja = require("jinja2", "report", "writing the page")
    environment = jinja.Environment(
        loader=jinja.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja.StrictUndefined,
    )
    markup = require("markupsafe", "report", "writing the page").Markup
    environment.globals.update(percent=PERCENT, interval=INTERVAL)
    environment.filters.update(number=words.number, interval=words.interval, ratio=words.ratio)
    experiment = table.experiment
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    meanings = {column.head: column for sheet in sheets for column in sheet.columns}
    return str(
        environment.get_template(template).render(
            table=table,
            experiment=experiment,
            shown=experiment.shown,
            groups=[rows for rows in _groups(table) if rows],
            intervals=words.intervals(experiment.shown.bounds),
            further={key: experiment.shown.label(key) for key in experiment.further_scores},
            styles={method: f"var(--{COLOURS[line.colour]})" for method, line in style.lines(table).items()},
            wbr=markup("_<wbr>"),
            script=markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            sheets=sheets,
            meanings=list(meanings.values()),
            inline={plot.name: markup(inline(plot, plot.svg)) for plot in plots},
            inline_narrow={plot.name: markup(inline(plot, plot.narrow, "narrow-")) for plot in plots if plot.narrow},
            **content,
        )
    )


def with_sheets(plots: Sequence[Plot], sheets: Sequence[Sheet]) -> dict[str, list[Plot]]:
    """The plots below each sheet, by its name. A plot of several sheets is below the last."""
    last = {sheet.beside or sheet.name: sheet.name for sheet in sheets}
    return {sheet.name: [plot for plot in plots if last.get(plot.name) == sheet.name] for sheet in sheets}


def commands(tables: Iterable[Table]) -> list[str]:
    """The command lines that began the runs."""
    return sorted({run.info.command for table in tables for run in table.experiment if run.info.command})


def inline(plot: Plot, svg: str, prefix: str = "") -> str:
    """An SVG of the plot as part of a page, with ids of its own, the page's colours and font, and alternative text.

    Only tags are changed: a label keeps its text.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<title>.*?</title>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]*>", lambda tag: _adapted(tag[0], f"{prefix}{plot.name}-"), svg)
    opening = svg.index(">")
    head = re.sub(r'\s(width|height|version)="[^"]*"|\sxmlns(:\w+)?="[^"]*"', "", svg[:opening])
    label = require("markupsafe", "report", "writing the page").escape(plot.alt)
    return f'{head} role="img" aria-label="{label}">{svg[opening + 1 :]}'


def _adapted(tag: str, prefix: str) -> str:
    """A tag of a plot with ids of its own, the page's colours and the page's font."""
    tag = tag.replace("xlink:href", "href")
    tag = re.sub(r'\bid="', f'id="{prefix}', tag)
    tag = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", tag)
    tag = re.sub(r"#[0-9a-f]{6}", lambda m: f"var(--{COLOURS[m[0]]})" if m[0] in COLOURS else m[0], tag)
    tag = tag.replace("fill: #ffffff", "fill: none")
    return re.sub(r"font-family: [^;\"]*|'DejaVu Sans'[^;\"]*", "inherit", tag)


def layer_tables(table: Table) -> list[LayerTable]:
    """One table per measure that was recorded by layer."""
    experiment = table.experiment
    keys = [key for key in experiment.keys(experiment.shown.event) if key.count("/") > 1]
    found = []
    for of in dict.fromkeys("/".join(key.split("/")[:2]) for key in keys):
        by_method = {row.label: measures.layers(experiment, row.method, of) for row in table.rows}
        names = tuple(dict.fromkeys(name for values in by_method.values() for name in values))
        rows = tuple((label, tuple(values.get(name) for name in names)) for label, values in by_method.items())
        found.append(LayerTable(words.measure(of), names, rows))
    return found


def _groups(table: Table) -> tuple[list[Row], list[Row]]:
    """Methods, then controls."""
    return [row for row in table.rows if not row.control], [row for row in table.rows if row.control]


def _split(plots: Sequence[Plot], experiment: Experiment) -> tuple[list[Plot], list[Plot]]:
    further = experiment.further_scores
    diagnostic = {stem(words.measure(key).name) for key in experiment.shown.curves if key not in further}
    return [p for p in plots if p.name not in diagnostic], [p for p in plots if p.name in diagnostic]


def _options(experiment: Experiment, method: str) -> str:
    """Every resolved option of a method in one line."""
    run = next(iter(experiment.runs[method].values()))
    options = run.info.config.get("method", {})
    if not isinstance(options, Mapping):
        return str(options)
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in flatten(options).items())


def _versions(environments: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Versions and hardware, with several values if the runs differ."""
    found: dict[str, list[str]] = {}
    for environment in environments:
        for name, value in flatten(environment).items():
            values = found.setdefault(name.removeprefix("packages."), [])
            if str(value) not in values:
                values.append(str(value))
    return {name: "; ".join(values) for name, values in found.items()}
