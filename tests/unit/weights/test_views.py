"""Which view a module's weight gets, and what a recipe's layout makes of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from replastic.errors import UserError
from replastic.weights.entries import MatrixInfo, View
from replastic.weights.geometry import ConvTransposeView, ConvView, ExpertsView, FusedView, InterleavedView, LinearView
from replastic.weights.views import fused_layout, view_from_layout, view_of, view_with


def infos_of(view: View | None, shape: tuple[int, ...]) -> list[tuple[str, int, int, int, int]]:
    assert view is not None
    return [(i.block, i.batch, i.d_out, i.d_in, i.taps) for i in view.infos("w", shape)]


class Around(nn.Module):
    """A module with attributes that tell its heads."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        for key, value in attributes.items():
            setattr(self, key, value)


class Conv1D(nn.Module):
    """Stored as (in, out), like the layer of that name in transformers."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))


@pytest.mark.parametrize(
    ("module", "view", "info"),
    [
        (nn.Linear(3, 5), LinearView(), ("", 1, 5, 3, 1)),
        (nn.Embedding(7, 3), LinearView(), ("", 1, 7, 3, 1)),
        (nn.Conv1d(4, 6, 3), ConvView(), ("", 3, 6, 4, 3)),
        (nn.Conv2d(4, 6, (3, 2), groups=2), ConvView(2), ("", 12, 3, 2, 6)),
        (nn.Conv2d(4, 4, 3, groups=4), ConvView(4), ("", 36, 1, 1, 9)),
        (nn.Conv3d(2, 5, 2), ConvView(), ("", 8, 5, 2, 8)),
        (nn.ConvTranspose1d(4, 6, 3), ConvTransposeView(), ("", 3, 6, 4, 3)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), ConvTransposeView(2), ("", 18, 3, 2, 9)),
        (nn.ConvTranspose3d(2, 5, 2), ConvTransposeView(), ("", 8, 5, 2, 8)),
        (Conv1D(6, 4), LinearView(transposed=True), ("", 1, 6, 4, 1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_modules_of_torch(module: nn.Module, view: View, info: tuple[str, int, int, int, int]) -> None:
    found = view_of(module, "weight")
    assert found == view
    assert infos_of(found, tuple(module.weight.shape)) == [info]


def test_vectors_are_no_matrices() -> None:
    assert view_of(nn.Linear(3, 5), "bias") is None
    assert view_of(nn.Conv2d(3, 5, 3), "bias") is None
    assert view_of(nn.LayerNorm(5), "weight") is None


def test_multihead_attention_fused_and_separate() -> None:
    fused = nn.MultiheadAttention(6, 2)
    found = infos_of(view_of(fused, "in_proj_weight"), (18, 6))
    assert found == [("q", 1, 6, 6, 1), ("k", 1, 6, 6, 1), ("v", 1, 6, 6, 1)]
    assert infos_of(view_of(fused.out_proj, "weight", name="out_proj.weight", parent=fused), (6, 6))[0][0] == ""
    separate = nn.MultiheadAttention(6, 2, kdim=4, vdim=5)
    assert infos_of(view_of(separate, "k_proj_weight"), (6, 4)) == [("", 1, 6, 4, 1)]


@pytest.mark.parametrize("leaf", ["qkv", "c_attn", "Wqkv", "qkv_proj", "to_qkv"])
def test_fused_qkv_by_its_name_in_equal_thirds(leaf: str) -> None:
    view = view_of(nn.Linear(4, 12), "weight", name=f"blocks.0.attn.{leaf}.weight", parent=Around())
    assert infos_of(view, (12, 4)) == [("q", 1, 4, 4, 1), ("k", 1, 4, 4, 1), ("v", 1, 4, 4, 1)]


@pytest.mark.parametrize(
    "parent",
    [
        Around(num_heads=4, num_kv_heads=2),
        Around(num_attention_heads=4, num_key_value_groups=2),
        Around(config=SimpleNamespace(num_attention_heads=4, num_key_value_heads=2)),
        Around(n_head=4, config=SimpleNamespace(n_kv_heads=2, num_heads=99)),
    ],
)
def test_fewer_key_value_heads_come_from_the_module_around(parent: nn.Module) -> None:
    view = view_of(nn.Linear(5, 24), "weight", name="attn.qkv_proj.weight", parent=parent)
    assert infos_of(view, (24, 5)) == [("q", 1, 12, 5, 1), ("k", 1, 6, 5, 1), ("v", 1, 6, 5, 1)]
    per_head = view_of(nn.Linear(5, 24), "weight", {"per_head": True}, name="attn.qkv_proj.weight", parent=parent)
    assert infos_of(per_head, (24, 5)) == [("q", 4, 3, 5, 1), ("k", 2, 3, 5, 1), ("v", 2, 3, 5, 1)]


def test_stored_as_in_out_is_split_on_the_other_axis() -> None:
    module = Conv1D(12, 4)
    view = view_of(module, "weight", name="h.0.attn.c_attn.weight", parent=Around(num_heads=2))
    assert isinstance(view, FusedView)
    q, k, v = view.split(module.weight)
    for start, part in ((0, q), (4, k), (8, v)):
        assert torch.equal(part[0], module.weight[:, start : start + 4].T)


def test_in_proj_is_a_qkv_only_beside_heads() -> None:
    linear = nn.Linear(4, 12)
    assert view_of(linear, "weight", name="mixer.in_proj.weight", parent=Around()) == LinearView()
    assert isinstance(view_of(linear, "weight", name="a.in_proj.weight", parent=Around(num_heads=2)), FusedView)


def test_query_key_value_keeps_the_order_of_megatron() -> None:
    view = view_of(nn.Linear(4, 12), "weight", name="a.query_key_value.weight", parent=Around(num_heads=2))
    assert view == InterleavedView(2, 2)


def test_gate_up_of_a_linear() -> None:
    view = view_of(nn.Linear(4, 10), "weight", name="mlp.gate_up_proj.weight")
    assert infos_of(view, (10, 4)) == [("gate", 1, 5, 4, 1), ("up", 1, 5, 4, 1)]


def test_rows_that_do_not_divide_are_settled_by_a_layout() -> None:
    name = "blocks.0.qkv.weight"
    unclear = view_of(nn.Linear(4, 16), "weight", name=name)
    assert unclear is not None
    with pytest.raises(UserError, match=r"blocks\.0\.qkv\.weight has 16 rows, .* layout = \{split = "):
        unclear.infos(name, (16, 4))
    settled = view_with(unclear, (16, 4), {"sizes": [8, 4, 4]}, name=name)
    assert [i.d_out for i in settled.infos(name, (16, 4))] == [8, 4, 4]
    by_heads = view_with(unclear, (16, 4), {"heads": 4, "kv_heads": 2}, name=name)
    assert by_heads.infos(name, (16, 4)) == settled.infos(name, (16, 4))


def test_saying_what_is_known_changes_nothing() -> None:
    """A recipe that splits every fused qkv must not turn interleaved rows into consecutive ones."""
    interleaved = InterleavedView(4, 2)
    assert view_with(interleaved, (24, 5), {"split": ["q", "k", "v"]}) == interleaved
    unequal = view_from_layout("linear", (24, 5), {"split": ["q", "k", "v"], "sizes": [12, 6, 6]})
    assert view_with(unequal, (24, 5), {"split": ["q", "k", "v"]}) == unequal


def test_other_blocks_than_known_replace_them() -> None:
    view = view_with(InterleavedView(4, 2), (24, 5), {"split": ["a", "b"]})
    assert infos_of(view, (24, 5)) == [("a", 1, 12, 5, 1), ("b", 1, 12, 5, 1)]
    consecutive = view_with(InterleavedView(4, 2), (24, 5), {"interleaved": False})
    assert infos_of(consecutive, (24, 5)) == [("q", 1, 12, 5, 1), ("k", 1, 6, 5, 1), ("v", 1, 6, 5, 1)]


def test_a_layout_keeps_what_the_module_tells() -> None:
    conv = view_of(nn.Conv2d(4, 4, 3, groups=2), "weight", {"groups": 4})
    assert conv == ConvView(4)
    turned = view_of(Conv1D(6, 4), "weight", {"split": ["a", "b"]})
    assert turned is not None
    assert turned.infos("w", (4, 6)) == tuple(MatrixInfo("w", "linear", 1, 3, 4, block=b) for b in "ab")


def test_per_head_of_a_plain_linear() -> None:
    view = view_from_layout("linear", (6, 5), {"per_head": True, "heads": 3})
    assert infos_of(view, (6, 5)) == [("", 3, 2, 5, 1)]


class Experts(nn.Module):
    """The raw stacks of a mixture of experts."""

    def __init__(self, *, turned: bool = False) -> None:
        super().__init__()
        self.is_transposed, self.is_concatenated = turned, not turned
        self.gate_up_proj = nn.Parameter(torch.randn(3, 4, 10) if turned else torch.randn(3, 10, 4))
        self.down_proj = nn.Parameter(torch.randn(3, 5, 4) if turned else torch.randn(3, 4, 5))


@pytest.mark.parametrize("turned", [False, True])
def test_stacks_of_experts(turned: bool) -> None:
    module = Experts(turned=turned)
    both = view_of(module, "gate_up_proj", name="mlp.experts.gate_up_proj")
    assert infos_of(both, tuple(module.gate_up_proj.shape)) == [("gate", 3, 5, 4, 1), ("up", 3, 5, 4, 1)]
    assert isinstance(both, ExpertsView)
    assert both.interleaved is turned
    down = view_of(module, "down_proj", name="mlp.experts.down_proj")
    assert infos_of(down, tuple(module.down_proj.shape)) == [("", 3, 4, 5, 1)]


def test_three_axes_without_experts_are_no_matrices() -> None:
    assert view_of(Around(pos=nn.Parameter(torch.zeros(1, 5, 4))), "pos", name="encoder.pos") is None


@pytest.mark.parametrize(
    ("kind", "shape", "layout", "words"),
    [
        ("dense", (4, 5), {}, "kind must be one of"),
        ("linear", (4, 5), {"spilt": ["a"]}, "unknown layout key 'spilt'; allowed: split"),
        ("linear", (4, 5), {"groups": 2}, "'groups' has no meaning for a weight of kind linear"),
        ("conv", (4, 5, 3), {"heads": 2}, "'heads' has no meaning for a weight of kind conv"),
        ("linear", (4, 5), {"split": ["a", "b"], "sizes": [4]}, "1 sizes for 2 blocks"),
        ("linear", (4, 5), {"split": ["a", "b"], "sizes": [2, 1]}, "4 rows, but its blocks .* have 3"),
        ("linear", (12, 5), {"interleaved": True}, "needs the number of heads"),
        ("linear", (12, 5), {"interleaved": True, "heads": 2, "split": ["k", "q", "v"]}, "only be split into q, k, v"),
        ("linear", (10, 5), {"split": ["q", "k", "v"], "heads": 3, "kv_heads": 2}, "10 rows, which 3 heads with 2"),
    ],
)
def test_a_layout_that_does_not_fit_is_an_error(
    kind: str, shape: tuple[int, ...], layout: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        view_from_layout(kind, shape, layout, name="a.weight")


def test_names_alone_tell_fused_weights_of_files() -> None:
    assert fused_layout("c_attn", 12, 4) == {"split": ("q", "k", "v")}
    assert fused_layout("c_attn", 24, 5, heads=4, kv_heads=2)["kv_heads"] == 2
    assert fused_layout("in_proj", 12, 4) == {}
    assert fused_layout("fc1", 12, 4) == {}


def _tiny(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    common = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    common |= {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    wide = {**common, "intermediate_size": 24}
    configs = {
        "GPT2LMHeadModel": lambda t: t.GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=4, n_positions=8),
        "Phi3ForCausalLM": lambda t: t.Phi3Config(**wide, num_key_value_heads=2),
        "GPTNeoXForCausalLM": lambda t: t.GPTNeoXConfig(**wide),
        "BloomForCausalLM": lambda t: t.BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=4),
        "FalconForCausalLM": lambda t: t.FalconConfig(**common, num_kv_heads=2, new_decoder_architecture=True),
        "LlamaForCausalLM": lambda t: t.LlamaConfig(**wide, num_key_value_heads=2),
        "MixtralForCausalLM": lambda t: t.MixtralConfig(**wide, num_key_value_heads=2, num_local_experts=3),
        "GptOssForCausalLM": lambda t: t.GptOssConfig(
            **wide, num_key_value_heads=2, num_local_experts=3, head_dim=4, layer_types=["full_attention"]
        ),
    }
    torch.manual_seed(0)
    return getattr(transformers, name)(configs[name](transformers)).eval()


def _fused(model: nn.Module) -> tuple[str, nn.Module, nn.Module, View]:
    """Name, layer, module around it and view of the first fused qkv."""
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if hasattr(module, "weight") and module.weight is not None and module.weight.ndim == 2:
            parent = modules.get(name.rpartition(".")[0])
            view = view_of(module, "weight", name=f"{name}.weight", parent=parent)
            if view is not None and [i.block for i in view.infos(name, module.weight.shape)] == ["q", "k", "v"]:
                assert parent is not None
                return name, module, parent, view
    raise AssertionError("no fused qkv found")


@pytest.mark.integration
@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", "Phi3ForCausalLM", "GPTNeoXForCausalLM", "BloomForCausalLM", "FalconForCausalLM"]
)
def test_blocks_are_what_the_attention_takes_them_for(name: str) -> None:
    """Without v nothing comes out of attention; without q it is the same average as without k, and not zero."""
    model = _tiny(name)
    _, layer, attention, view = _fused(model)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    original = layer.weight.detach().clone()
    outputs: list[torch.Tensor] = []
    dense = next(m for m in attention.children() if m is not layer and hasattr(m, "weight"))
    dense.register_forward_pre_hook(lambda module, inputs: outputs.append(inputs[0].detach()))
    for dropped in (None, 0, 1, 2):
        parts = [p.clone() for p in view.split(original)]
        if dropped is not None:
            parts[dropped].zero_()
        with torch.no_grad():
            layer.weight.copy_(view.merge(parts, original.shape))
            model(torch.tensor([[3, 1, 4, 1, 5]]))
    full, no_q, no_k, no_v = outputs
    assert no_v.abs().max() < 1e-7
    assert no_q.abs().max() > 1e-4
    torch.testing.assert_close(no_q, no_k)
    assert not torch.allclose(full, no_q, rtol=1e-3, atol=0)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["MixtralForCausalLM", "GptOssForCausalLM"])
def test_experts_of_transformers(name: str) -> None:
    model = _tiny(name)
    path, experts = next((n, m) for n, m in model.named_modules() if hasattr(m, "gate_up_proj"))
    both = view_of(experts, "gate_up_proj", name=f"{path}.gate_up_proj")
    down = view_of(experts, "down_proj", name=f"{path}.down_proj")
    assert infos_of(both, tuple(experts.gate_up_proj.shape)) == [("gate", 3, 24, 16, 1), ("up", 3, 24, 16, 1)]
    assert infos_of(down, tuple(experts.down_proj.shape)) == [("", 3, 16, 24, 1)]
    if name == "GptOssForCausalLM":
        assert both is not None
        gate, up = both.split(experts.gate_up_proj.detach())
        assert torch.equal(gate[1], experts.gate_up_proj[1, :, ::2].T)
        assert torch.equal(up[1], experts.gate_up_proj[1, :, 1::2].T)


@pytest.mark.integration
def test_llama_has_no_fused_weights() -> None:
    model = _tiny("LlamaForCausalLM")
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Linear):
            view = view_of(module, "weight", name=f"{name}.weight", parent=modules[name.rpartition(".")[0]])
            assert view == LinearView(), name
