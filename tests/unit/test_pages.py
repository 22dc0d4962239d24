"""The pages: lines that fit, links that lead somewhere, method specs that can be typed, verdicts their numbers give."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from replastic import methods
from replastic.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 120
COLUMNS = ["claim", "published", "ours", "verdict", "link"]
VERDICTS = {"reproduced", "not reproduced", "not settled"}
ROWS = 25
NONE = 0.01
"""A published difference below this counts as none: the values are read off figures."""
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
DIFFERENCE = re.compile(r"[+−]\.\d+")
ESTIMATE = re.compile(r"([+−]\.\d+) \(([+−]\.\d+) to ([+−]\.\d+)\)")


def tracked() -> list[Path]:
    """Every Markdown file of the repository, also where there is no git to ask."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "*.md"]
    try:
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    return sorted(path for path in (ROOT / name for name in names if name) if path.exists())


PAGES = tracked()
LINKED = [p for p in PAGES if p.parent == ROOT or p.is_relative_to(ROOT / "docs")]
REPRODUCTION = ROOT / "docs" / "reproduction.md"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """Number, text and whether it is code (fenced or indented by four) of each line."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = line.lstrip()[:3]
        if fence or mark in ("```", "~~~"):
            fence = "" if mark == fence else fence or mark
            yield number, line, True
        else:
            yield number, line, line.startswith("    ")


def too_long(text: str) -> list[int]:
    """Lines of prose over the width; tables, code and lines with an address may be longer."""
    prose = ((n, line) for n, line, code in lines(text) if not code and not line.lstrip().startswith("|"))
    return [n for n, line in prose if len(line) > WIDTH and "://" not in line]


def anchors(text: str) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    found: dict[str, int] = {}
    result = set()
    for _, line, code in lines(text):
        if code or not (heading := re.match(r"#{1,6} +(.*)", line)):
            continue
        words = re.sub(r"[^\w\- ]", "", LINK.sub("", heading[1]).lower()).strip().replace(" ", "-")
        again = found.get(words, 0)
        found[words] = again + 1
        result.add(f"{words}-{again}" if again else words)
    return result


def broken(page: Path, target: str) -> str:
    """Why a link of a page leads nowhere, or nothing."""
    if re.match(r"[a-z]+:", target):
        return ""
    file, _, anchor = target.partition("#")
    path = (page.parent / file).resolve() if file else page
    if not path.exists():
        return f"{target}: no such file"
    if anchor and anchor not in anchors(path.read_text(encoding="utf-8")):
        return f"{target}: no such heading"
    return ""


def specs(text: str) -> Iterator[str]:
    """What looks like a method with options, `name:field=value`, or like a combination, in code and in tables."""
    known = "|".join(methods.names())
    start = re.compile(rf"\b(?:{known})(?::\w+=|\+(?:{known})\b)")
    for _, line, code in lines(text):
        for piece in line.split() if code else spans(line):
            # A span that begins as a spec is read whole, so that a blank in it shows; of others each word is.
            for word in [piece] if start.match(piece) else piece.split():
                if found := start.search(word):
                    yield word[found.start() :].strip("'\"()[],;.")


def spans(line: str) -> list[str]:
    """The inline code of a line; of a row of a table also the cells without any."""
    if not line.lstrip().startswith("|"):
        return re.findall(r"`([^`]+)`", line)
    cells = [cell.replace(r"\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)]
    return [span for cell in cells for span in (re.findall(r"`([^`]+)`", cell) if "`" in cell else [cell])]


def verdict_table() -> list[list[str]]:
    """The cells of the first table of the page, its head first."""
    rows: list[str] = []
    for line in REPRODUCTION.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            rows.append(line)
        elif rows:
            break
    return [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in rows if not row.startswith("|--")]


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def verdict(published: float, mean: float, low: float, high: float) -> str:
    """The rule that the page states."""
    if abs(published) < NONE:
        return "reproduced" if low <= 0 <= high else "not reproduced"
    if min(low * published, high * published) > 0:
        return "reproduced"
    return "not settled" if mean * published > 0 and low <= published <= high and low <= 0 <= high else "not reproduced"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_of_prose_fit(page: Path) -> None:
    long = too_long(page.read_text(encoding="utf-8"))
    assert not long, f"{name_of(page)}: lines over {WIDTH} characters: {', '.join(map(str, long))}"


def test_tables_code_and_addresses_may_be_longer() -> None:
    wide = "x" * (WIDTH + 1)
    allowed = f"| {wide} |\n\n    {wide}\n\n```bash\n{wide}\n```\n\nsee https://example.org/{wide}\n"
    assert too_long(allowed) == []
    assert too_long(f"{allowed}{wide}\n* {wide}\n") == [10, 11]


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_relative_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    text = "\n".join(line for _, line, code in lines(page.read_text(encoding="utf-8")) if not code)
    wrong = [why for target in LINK.findall(text) if (why := broken(page, target))]
    assert not wrong, f"{name_of(page)}: {'; '.join(wrong)}"


def test_a_link_to_nowhere_is_seen() -> None:
    assert broken(REPRODUCTION, "results/nothing.md") == "results/nothing.md: no such file"
    assert broken(REPRODUCTION, "#nothing") == "#nothing: no such heading"
    assert broken(REPRODUCTION, "#reproduction") == ""
    assert broken(REPRODUCTION, "https://example.org/nothing") == ""


def test_anchors_are_those_of_github() -> None:
    text = "# What *is* it?\n## CIFAR-10\n## CIFAR-10\n## `fire`, and more\n\n    # code\n"
    assert anchors(text) == {"what-is-it", "cifar-10", "cifar-10-1", "fire-and-more"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_method_specs_can_be_typed(page: Path) -> None:
    for spec in specs(page.read_text(encoding="utf-8")):
        try:
            methods.from_spec(spec)
        except UserError as error:
            pytest.fail(f"{name_of(page)} prints {spec!r}: {error}")


def test_specs_are_found_in_spans_tables_and_commands() -> None:
    text = """
Wrong: `fire:steps=1`, blank: `fire:targets=q, k`, both: `ewc:strength=1e+4+fire`, in a call: `use("fire:scale=init")`.
None: fire:steps=2, `fire`, `name:field=value`.

| fire:scale=unit | `fire:targets=mlp.fc1\\|mlp.fc2` |

    ./run run digits --methods base fire:num_iters=3,solver=newton_schulz 'dash:alpha=0.3'
"""
    assert set(specs(text)) == {
        "fire:steps=1",
        "fire:targets=q, k",
        "ewc:strength=1e+4+fire",
        "fire:scale=init",
        "fire:scale=unit",
        "fire:targets=mlp.fc1|mlp.fc2",
        "fire:num_iters=3,solver=newton_schulz",
        "dash:alpha=0.3",
    }


def test_the_verdict_table_fits_one_screen_and_its_links_lead_somewhere() -> None:
    head, *rows = verdict_table()
    assert head == COLUMNS
    assert 10 <= len(rows) <= ROWS
    for row in rows:
        assert len(row) == len(COLUMNS), row
        assert row[3] in VERDICTS, row
        (target,) = LINK.findall(row[4])
        assert target.startswith("results/"), row
        assert not broken(REPRODUCTION, target), row


def test_verdicts_follow_from_their_numbers() -> None:
    checked = 0
    for claim, published, ours, said, _ in verdict_table()[1:]:
        estimate = ESTIMATE.fullmatch(ours)
        if DIFFERENCE.fullmatch(published) and estimate:
            assert said == verdict(number(published), *map(number, estimate.groups())), claim
            checked += 1
    assert checked >= 10


@pytest.mark.parametrize(
    ("published", "mean", "low", "high", "said"),
    [
        (0.05, 0.06, 0.04, 0.08, "reproduced"),
        (-0.03, -0.04, -0.06, -0.02, "reproduced"),
        (0.05, 0.04, -0.01, 0.09, "not settled"),
        (0.05, 0.01, -0.02, 0.04, "not reproduced"),  # too narrow for the published difference
        (0.05, -0.01, -0.09, 0.07, "not reproduced"),  # the mean points the other way
        (0.05, -0.04, -0.06, -0.02, "not reproduced"),
        (0.003, 0.001, -0.01, 0.01, "reproduced"),
        (0.003, 0.07, 0.05, 0.08, "not reproduced"),
    ],
)
def test_the_rule_of_the_verdicts(published: float, mean: float, low: float, high: float, said: str) -> None:
    assert verdict(published, mean, low, high) == said
