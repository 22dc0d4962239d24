"""The example of the documentation is the file beside it, and works as the page says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from replastic import cli, methods
from replastic.errors import UserError
from replastic.registry import load_plugin

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "examples" / "my_method.py"


@pytest.fixture(autouse=True)
def _loaded(only_what_is_built_in: None) -> None:
    """Load the plug-in for one test; it is forgotten afterwards."""
    load_plugin(FILE)


def test_the_page_shows_the_file() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert f"```python\n{FILE.read_text(encoding='utf-8')}```" in page


def test_it_clips_what_it_says(run_on: Callable[..., methods.Run], proposed: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Conv2d(4, 4, 3))
    new, layers = proposed(methods.from_spec("clip_spectrum:ratio=1.25"), run_on(model))
    for name, layer in layers.items():
        old, clipped = (
            (w.permute(2, 3, 0, 1).flatten(0, 1) if w.dim() == 4 else w[None]).double()
            for w in (model.get_parameter(name).detach(), new[name])
        )
        s = torch.linalg.svdvals(old)
        limit = 1.25 * s.sort(dim=-1).values[:, (s.shape[-1] - 1) // 2, None]
        assert torch.allclose(torch.linalg.svdvals(clipped), s.clamp(max=limit), atol=1e-5)
        assert layer.facts["clipped"] == pytest.approx(float((s > limit).sum(-1).double().mean()))
        assert layer.facts["clipped"] > 0


def test_its_field_is_checked_like_any_other() -> None:
    with pytest.raises(UserError, match=r"clip_spectrum: ratio must be at least 1, got 0\.5"):
        methods.from_spec("clip_spectrum:ratio=0.5")
    with pytest.raises(UserError, match="did you mean 'ratio'"):
        methods.from_spec("clip_spectrum:ration=2")


def test_the_commands_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list", "methods", "--plugin", str(FILE), "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)["methods"]}
    assert listed["clip_spectrum"]["summary"].startswith("Singular values above `ratio`")

    w = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    save_file({"layer.weight": w, "layer.bias": torch.zeros(8)}, tmp_path / "a.safetensors")
    arguments = [str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")]
    assert cli.main(["rewrite", *arguments, "--method", "clip_spectrum", "--ratio", "1.5", "--plugin", str(FILE)]) == 0
    s = torch.linalg.svdvals(load_file(tmp_path / "b.safetensors")["layer.weight"])
    assert float(s[0] / s.median()) == pytest.approx(1.5, rel=1e-4)
