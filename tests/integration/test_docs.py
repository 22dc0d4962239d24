"""The commands and the Python of the pages work, and the pages that are made from the registries are up to date."""

from __future__ import annotations

import copy
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic import cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
MADE = {
    kind: ROOT / "docs" / f"{page}.md"
    for kind, page in (
        ("methods", "methods"),
        ("metrics", "measures"),
        ("triggers", "triggers"),
        ("layouts", "layouts"),
    )
}
"""Pages with the tables of a registry, between two comments."""
LENGTH = 120


def listed(kind: str) -> str:
    """What `replastic list KIND --markdown` prints."""
    with redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["list", kind, "--markdown"]) == 0
    return printed.getvalue()


def parts(page: str) -> tuple[str, str, str]:
    """The page up to the tables, the tables, and the rest."""
    found = re.fullmatch(r"(.*?<!-- tables: [^\n]* -->\n)(.*?)(<!-- end of tables -->\n.*)", page, re.DOTALL)
    assert found, "the page has no two comments around its tables"
    return found[1], found[2], found[3]


def with_tables(kind: str) -> str:
    """The page with the tables as they should be."""
    head, _, rest = parts(MADE[kind].read_text(encoding="utf-8"))
    return f"{head}\n{listed(kind)}\n{rest}"


@pytest.mark.parametrize("kind", MADE)
def test_the_tables_are_what_the_command_prints(kind: str) -> None:
    page = MADE[kind]
    assert page.read_text(encoding="utf-8") == with_tables(kind), (
        f"docs/{page.name} is not what `replastic list {kind} --markdown` prints; "
        "write it anew with `python tests/integration/test_docs.py`"
    )


def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    batch = (torch.randn(16, 8), torch.randint(3, (16,)))
    names: dict[str, object] = {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "average": copy.deepcopy(model),
        "phases": [[batch], [batch]],
        "batch": batch,
        "loss_fn": loss_fn,
    }
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert "0.weight" in capsys.readouterr().out


def test_the_readme_is_short_and_begins_with_the_picture_and_the_two_commands() -> None:
    assert len(README.splitlines()) <= LENGTH
    order = ["docs/images/demo.png", "./run demo", "./run test", "```python"]
    assert sorted(order, key=README.index) == order


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_the_docs_exist(page: Path) -> None:
    known = {*cli.commands(), "demo", "test", "test-all", "bench", "gpu", "lint", "COMMAND"}
    text = page.read_text(encoding="utf-8")
    for command in re.findall(r"\./run ([a-zA-Z-]+)|(?:^ +|`)replastic ([a-z]+)", text, re.MULTILINE):
        assert "".join(command) in known, f"{page.name} shows the command {''.join(command)}"


if __name__ == "__main__":
    for kind, page in MADE.items():
        page.write_text(with_tables(kind), encoding="utf-8")
