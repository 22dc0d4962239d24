"""A real run's page in a real browser: nothing on its console, the plots drawn, the table sortable."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from replastic.cli import main

pytestmark = [pytest.mark.integration, pytest.mark.slow]

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr"),
    *("--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=3000"),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a tiny run of the first experiment."""
    out = tmp_path_factory.mktemp("experiment") / "runs"
    assert main(["run", "digits_random_labels", "--preset", "smoke", "--out", str(out), "--jobs", "1"]) == 0
    return out / "report.html"


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """The page's elements after its script ran, and what it wrote to the console."""
    if BROWSER is None:
        pytest.skip("no chromium or chrome here")
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={profile}", *flags, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_page_has_its_table_and_plots_and_a_silent_console(page: Path, tmp_path: Path) -> None:
    dom, console = browse(page, tmp_path / "profile")
    assert console == []
    assert re.findall(r'<tr data-method="([^"]+)"', dom) == ["base", "fire"]
    drawn = re.findall(r'<figure class="plot[^"]*" id="plot-([^"]+)"', dom)
    assert drawn[:4] == ["final", "score", "boundary", "dfi"]
    assert dom.count("<svg") >= len(drawn)
    assert '<button type="button">final</button>' in dom


def test_the_test_would_hear_an_error(page: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        page.read_text(encoding="utf-8").replace("</body>", '<img src="https://example.org/x.png"></body>')
    )
    _, console = browse(broken, tmp_path / "profile")
    assert any("Content Security Policy" in line for line in console)


def test_a_click_on_a_head_sorts_the_table(page: Path, tmp_path: Path) -> None:
    clicked = tmp_path / "clicked.html"
    click = '<script>document.querySelector("th:nth-child(2) button").click();</script></body>'
    clicked.write_text(page.read_text(encoding="utf-8").replace("</body>", click), encoding="utf-8")
    dom, console = browse(clicked, tmp_path / "profile")
    assert console == []
    assert 'aria-sort="descending"' in dom
    rows = re.findall(r'<tr data-method="[^"]+".*?</tr>', dom, flags=re.DOTALL)
    finals = [float(re.findall(r'data-value="([^"]*)"', row)[1]) for row in rows]
    assert finals == sorted(finals, reverse=True)


@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_reaches_past_the_screen(page: Path, tmp_path: Path, width: int) -> None:
    """The page itself never scrolls sideways; only its tables do, inside their own frames."""
    framed = tmp_path / "framed.html"
    content = page.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    script = (
        "<script>onload = () => { const d = document.querySelector('iframe').contentDocument.documentElement;"
        "document.title = d.scrollWidth + ' of ' + d.clientWidth; };</script>"
    )
    framed.write_text(
        f'<!doctype html><iframe style="border:0;width:{width}px;height:800px" srcdoc="{content}"></iframe>{script}',
        encoding="utf-8",
    )
    dom, _ = browse(framed, tmp_path / "profile", "--window-size=1400,900", "--hide-scrollbars")
    assert f"<title>{width} of {width}</title>" in dom
