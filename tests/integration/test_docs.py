"""What the documentation says runs, and its tables name everything there is."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic import methods, metrics

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_readmes_python_runs(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.query(x) * self.key(x))

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1])

    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), Attention(), nn.Linear(8, 3))
    names: dict[str, object] = {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "batch": (torch.randn(16, 8), torch.randint(3, (16,))),
        "loss_fn": loss_fn,
        "initial_state": copy.deepcopy(model.state_dict()),
    }
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert "0.weight" in capsys.readouterr().out


def test_the_two_commands_come_first() -> None:
    assert README.index("./run demo") < README.index("./run test") < README.index("```python")


@pytest.mark.parametrize(("heading", "room"), [("Methods", methods), ("Measures", metrics)])
def test_the_tables_name_everything(heading: str, room: object) -> None:
    section = README.split(f"## {heading}\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)`", section, re.MULTILINE)
    assert sorted(listed) == sorted(n for n in room.names() if room.entry(n).module.startswith("replastic."))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_the_docs_exist(page: Path) -> None:
    from replastic.cli import commands

    known = {*commands(), "demo", "test", "test-all", "bench", "lint", "COMMAND"}
    for command in re.findall(r"\./run ([a-zA-Z-]+)", page.read_text(encoding="utf-8")):
        assert command in known, f"{page.name} shows ./run {command}"
