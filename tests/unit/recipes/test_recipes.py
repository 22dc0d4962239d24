"""Recipes: what the built-in ones choose, and what is said of a recipe that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from replastic import fire_, networks, recipes
from replastic.errors import UserError
from replastic.weights.module_store import ModuleStore
from replastic.weights.recipe import LEAVE
from replastic.weights.targets import Selection, select

NAMES = ("all", "attention", "blocks", "default", "paper-cnn", "paper-dqn", "paper-gpt", "paper-sac", "paper-vit")


class Small(nn.Module):
    """Has one of everything a recipe tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(9, 8)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.c_attn = nn.Linear(8, 24)
        self.mlp = nn.Linear(8, 8)
        self.lm_head = nn.Linear(8, 9, bias=False)


def chosen(recipe: str, model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Modules with the blocks of their weights that are touched."""
    selection: Selection = select(ModuleStore(model).entries(), recipes.load(recipe))
    weights = (t for t in selection.targets if t.entry.name.endswith(".weight"))
    return {t.entry.name.removesuffix(".weight"): tuple(i.block for i in t.infos) for t in weights}


def test_names_are_these() -> None:
    assert recipes.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_built_in_recipe_says_what_it_is(name: str) -> None:
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipe.summary
    assert recipe.rules
    assert bool(recipe.reference) == name.startswith("paper-")


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("all", {"conv", "q_proj", "k_proj", "v_proj", "mlp", "lm_head"}),
        ("default", {"conv", "q_proj", "k_proj", "v_proj", "mlp"}),
        ("paper-cnn", {"conv", "q_proj", "k_proj", "v_proj", "mlp", "lm_head"}),
        ("attention", {"q_proj", "k_proj"}),
        ("blocks", {"q_proj", "k_proj", "v_proj", "mlp"}),
        ("paper-vit", {"q_proj", "k_proj", "c_attn"}),
        ("paper-gpt", {"q_proj", "k_proj", "v_proj", "c_attn", "mlp", "lm_head"}),
        ("paper-dqn", {"conv", "q_proj", "k_proj", "v_proj", "mlp", "lm_head"}),
        ("paper-sac", {"q_proj", "k_proj", "v_proj", "mlp", "lm_head"}),
    ],
)
def test_what_each_recipe_touches(recipe: str, expected: set[str]) -> None:
    assert set(chosen(recipe, Small())) == expected


@pytest.mark.parametrize(
    ("widths", "expected"),
    [
        ({"kdim": 6, "vdim": 5}, {"q_proj_weight": [""], "k_proj_weight": [""]}),
        ({"kdim": 6}, {"q_proj_weight": [""], "k_proj_weight": [""]}),
        ({}, {"in_proj_weight": ["q", "k"]}),
    ],
)
def test_paper_vit_takes_query_and_key_of_torchs_attention(
    widths: dict[str, int], expected: dict[str, list[str]]
) -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2, **widths), "head": nn.Linear(8, 3)})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    selection = select(ModuleStore(model).entries(), recipes.load("paper-vit"))
    assert {t.entry.name: [i.block for i in t.infos] for t in selection.targets} == {
        f"attention.{name}": blocks for name, blocks in expected.items()
    }
    fire_(model, recipe="paper-vit")
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {f"attention.{name}" for name in expected}
    if not widths:
        fused = model.get_parameter("attention.in_proj_weight")
        assert torch.equal(fused[16:], before["attention.in_proj_weight"][16:])


RESNET_WEIGHTS = {
    "stem.conv",
    *(f"stage{s}.block{b}.conv{c}" for s in (1, 2, 3, 4) for b in (1, 2) for c in (1, 2)),
    *(f"stage{s}.block1.shortcut.conv" for s in (2, 3, 4)),
    *("hidden1.linear", "head"),
}
VGG_WEIGHTS = {
    *(f"stage{s}.block{b}.conv" for s, blocks in enumerate((2, 2, 3, 3, 3), 1) for b in range(1, blocks + 1)),
    *("hidden1.linear", "hidden2.linear", "head"),
}
VIT_LAYERS = ("attention.q", "attention.k", "attention.v", "attention.out", "mlp.fc1", "mlp.fc2")
VIT_WEIGHTS = {"patches", *(f"block{b}.{layer}" for b in range(1, 13) for layer in VIT_LAYERS), "head"}
QUERIES_AND_KEYS = {f"block{b}.attention.{p}" for b in range(1, 13) for p in "qk"}


@pytest.mark.parametrize(
    ("recipe", "network", "side", "expected"),
    [
        ("paper-cnn", "resnet18", 32, RESNET_WEIGHTS),
        ("paper-cnn", "vgg16", 64, VGG_WEIGHTS),
        ("paper-vit", "vit_tiny", 32, QUERIES_AND_KEYS),
        ("all", "resnet18", 32, RESNET_WEIGHTS),
        ("all", "vgg16", 64, VGG_WEIGHTS),
        ("all", "vit_tiny", 32, VIT_WEIGHTS),
        ("default", "resnet18", 32, RESNET_WEIGHTS - {"head"}),
        ("default", "vit_tiny", 32, VIT_WEIGHTS - {"head"}),
    ],
)
def test_what_recipes_touch_in_the_papers_networks(recipe: str, network: str, side: int, expected: set[str]) -> None:
    model = networks.build(networks.get(network)(), (3, side, side), 10, seed=0)
    selection = select(ModuleStore(model).entries(), recipes.load(recipe))
    assert {t.entry.name for t in selection.targets} == {f"{name}.weight" for name in expected}


@pytest.mark.parametrize(
    ("patterns", "layers"),
    [
        (("q", "k"), VIT_LAYERS[:2]),
        (("q", "k", "v"), VIT_LAYERS[:3]),
        (("mlp.*",), VIT_LAYERS[4:]),
    ],
)
def test_the_ablations_targets_on_the_vit_are_patterns(patterns: tuple[str, ...], layers: tuple[str, ...]) -> None:
    model = networks.build(networks.get("vit_tiny").reduced(), (3, 32, 32), 10, seed=0)
    selection = select(ModuleStore(model).entries(), recipes.load("paper-vit"), target_modules=patterns)
    expected = {f"block{b}.{layer}.weight" for b in range(1, 5) for layer in layers}
    assert {t.entry.name for t in selection.targets} == expected


def test_fused_attention_is_split_and_vit_leaves_v() -> None:
    assert chosen("paper-gpt", Small())["c_attn"] == ("q", "k", "v")
    assert chosen("paper-vit", Small())["c_attn"] == ("q", "k")


GPT_BLOCK = {"attn.c_attn": ("q", "k", "v"), "attn.c_proj": ("",), "mlp.c_fc": ("",), "mlp.c_proj": ("",)}


@pytest.mark.parametrize(
    ("recipe", "block", "embedding"),
    [
        ("paper-gpt", GPT_BLOCK, True),
        ("blocks", GPT_BLOCK, False),
        ("attention", {"attn.c_attn": ("q", "k")}, False),
        ("default", GPT_BLOCK, False),
    ],
)
def test_what_recipes_touch_in_our_gpt(recipe: str, block: dict[str, tuple[str, ...]], embedding: bool) -> None:
    model = networks.build(networks.get("gpt").reduced(), (8,), 64, seed=0)
    wanted = {f"transformer.h.{i}.{name}": parts for i in range(4) for name, parts in block.items()}
    assert chosen(recipe, model) == wanted | ({"transformer.wte": ("",)} if embedding else {})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fire_(model, recipe=recipe, solver="exact", scale="modular")
    for name, after in model.named_parameters():
        parts = wanted.get(name.removesuffix(".weight"))
        rows = after.chunk(3) if len(parts or ()) > 1 else [after]
        for row, old, part in zip(rows, before[name].chunk(len(rows)), "qkv", strict=False):
            if (parts is None or (len(rows) > 1 and part not in parts)) and not (embedding and "wte" in name):
                assert torch.equal(row, old), f"{name} {part} stays"
                continue
            u, _, vh = torch.linalg.svd(old.double(), full_matrices=False)
            torch.testing.assert_close(row.double(), (old.shape[0] / old.shape[1]) ** 0.5 * u @ vh, atol=2e-4, rtol=0)


def test_paper_gpt_takes_the_embedding_only_when_it_is_tied_to_the_head() -> None:
    model = Small()
    assert "wte" not in chosen("paper-gpt", model)
    model.wte.weight = model.lm_head.weight
    assert "wte" in chosen("paper-gpt", model)
    assert "wte" not in chosen("default", model)


@pytest.mark.parametrize(
    ("recipe", "steps"), [("paper-cnn", 10), ("paper-vit", 10), ("paper-gpt", 5), ("paper-sac", 10)]
)
def test_paper_recipes_use_the_authors_iteration(recipe: str, steps: int) -> None:
    rules = [r for r in recipes.load(recipe).rules if r.action != LEAVE]
    wanted = {"solver": "newton_schulz", "num_iters": steps, "coefficients": "cubic", "scale": "modular"}
    assert rules
    assert all(r.options == wanted for r in rules)


def test_dqn_resets_linear_layers_and_projects_convolutions() -> None:
    selection = select(ModuleStore(Small()).entries(), recipes.load("paper-dqn"))
    actions = {t.entry.name: t.rule.action for t in selection.targets}
    assert actions["conv.weight"] == "apply"
    assert actions["mlp.weight"] == actions["mlp.bias"] == "full_reset"
    assert "conv.bias" not in actions


def test_default_lists_head_and_embedding_with_the_flag() -> None:
    reasons = {s.weight: s.reason for s in select(ModuleStore(Small()).entries(), recipes.load("default")).skipped}
    assert "--include head" in reasons["lm_head.weight"]
    assert "--include embedding" in reasons["wte.weight"]


def test_own_recipe_by_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('summary = "mine"\n[[rule]]\nmatch = ["mlp"]\noptions = { solver = "exact" }\n')
    recipe = recipes.load(file)
    assert (recipe.name, recipe.summary, recipe.rules[0].match) == ("mine", "mine", ("mlp",))
    assert recipe.rules[0].options == {"solver": "exact"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no \\[\\[rule\\]\\]"),
        ("rule = 3", "rule must be a list"),
        ("rule = [3]", "a rule must be a table"),
        ("[[rules]]\nmatch = ['*']", "unknown key 'rules'; did you mean 'rule'"),
        ("[[rule]]\nmatches = ['*']", "rule 1: unknown key 'matches'; did you mean 'match'"),
        ("[[rule]]\nmatch = []", "`match` is missing"),
        ("[[rule]]\nmatch = [3]", "match must be a list of texts"),
        ("[[rule]]\nmatch = 'a'", "match must be a list, got 'a'"),
        ("[[rule]]\nmatch = ['role:heads']", "no role is called 'heads'"),
        ("[[rule]]\nmatch = ['kind:dense']", "no kind is called 'dense'"),
        ("[[rule]]\nmatch = ['typ:x']", "must begin with one of 'role:', 'kind:', 'layer:'"),
        ("[[rule]]\nmatch = ['*']\nlayout = { head = 2 }", "layout: unknown key 'head'; did you mean 'heads'"),
        ("[[rule]]\nmatch = ['*']\nlayout = { heads = true }", "heads must be a whole number, got True"),
        ("[[rule", "not valid TOML"),
    ],
)
def test_recipe_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        recipes.load(file)


def test_unknown_recipe_and_missing_file() -> None:
    with pytest.raises(UserError, match="did you mean 'paper-gpt'"):
        recipes.load("paper-gtp")
    with pytest.raises(UserError, match=r"cannot read the recipe 'nowhere\.toml': No such file"):
        recipes.load("nowhere.toml")


def test_loading_draws_nothing() -> None:
    before = torch.random.get_rng_state()
    recipes.load("default")
    assert torch.equal(before, torch.random.get_rng_state())
