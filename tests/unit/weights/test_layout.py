"""Layouts of bare files: what shapes and neighbours prove, and what is asked of the user where they do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from replastic.errors import UserError
from replastic.weights.entries import MatrixInfo, WeightEntry
from replastic.weights.layout import entries_from_shapes
from replastic.weights.module_store import ModuleStore


def entries(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float32) -> dict[str, WeightEntry]:
    return {e.name: e for e in entries_from_shapes(shapes, dict.fromkeys(shapes, dtype))}


def infos(shapes: dict[str, tuple[int, ...]], name: str) -> list[tuple[str, str, int, int, int]]:
    entry = entries(shapes)[name]
    assert entry.view is not None
    found: tuple[MatrixInfo, ...] = entry.view.infos(name, entry.shape)
    return [(i.kind, i.block, i.batch, i.d_out, i.d_in) for i in found]


def test_axes_decide() -> None:
    shapes = {
        "a.weight": (6, 4),
        "conv.weight": (6, 3, 2, 2),
        "vol.weight": (6, 4, 2, 2, 2),
        "conv1d.weight": (6, 4, 5),
        "b.weight": (5,),
        "a.bias": (6,),
        "x": (6, 4),
    }
    assert infos(shapes, "a.weight") == [("linear", "", 1, 6, 4)]
    assert infos(shapes, "conv.weight") == [("conv", "", 4, 6, 3)]
    assert infos(shapes, "vol.weight") == [("conv", "", 8, 6, 4)]
    assert infos(shapes, "conv1d.weight") == [("conv", "", 5, 6, 4)]
    roles = {n: e.role for n, e in entries(shapes).items()}
    assert (roles["b.weight"], roles["a.bias"], roles["x"]) == ("norm", "bias", "other")
    assert entries(shapes)["x"].view is None


def test_bias_tells_which_axis_is_the_fan_out() -> None:
    shapes = {
        "h.0.attn.c_attn.weight": (8, 24),
        "h.0.attn.c_attn.bias": (24,),
        "h.0.attn.c_proj.weight": (8, 8),
        "h.0.attn.c_proj.bias": (8,),
        "h.0.mlp.c_proj.weight": (32, 8),
        "h.0.mlp.c_proj.bias": (8,),
        "plain.weight": (8, 8),
        "up.weight": (16, 4, 2, 2),
        "up.bias": (4,),
    }
    assert infos(shapes, "h.0.attn.c_attn.weight") == [("linear", b, 1, 8, 8) for b in "qkv"]
    assert infos(shapes, "h.0.mlp.c_proj.weight") == [("linear", "", 1, 8, 32)]
    square = entries(shapes)["h.0.attn.c_proj.weight"].view
    assert square is not None
    assert square.layout["transposed"], "a square weight goes by its namesake"
    plain = entries(shapes)["plain.weight"].view
    assert plain is not None
    assert not plain.layout.get("transposed")
    assert infos(shapes, "up.weight") == [("conv_transpose", "", 4, 4, 16)]


def test_namesakes_that_contradict_each_other_prove_nothing() -> None:
    shapes = {"a.p.weight": (4, 8), "a.p.bias": (8,), "b.p.weight": (4, 8), "b.p.bias": (4,), "c.p.weight": (8, 8)}
    view = entries(shapes)["c.p.weight"].view
    assert view is not None
    assert not view.layout.get("transposed")


@pytest.mark.parametrize("name", ["attn.qkv.weight", "attn.c_attn.weight", "self_attn.in_proj_weight"])
def test_fused_qkv_is_equal_thirds(name: str) -> None:
    assert infos({name: (24, 8)}, name) == [("linear", b, 1, 8, 8) for b in "qkv"]


def unclear(shapes: dict[str, tuple[int, ...]], name: str) -> str:
    entry = entries(shapes)[name]
    assert entry.view is not None
    with pytest.raises(UserError) as caught:
        entry.view.infos(name, entry.shape)
    return str(caught.value)


def test_what_shapes_cannot_tell_names_the_layout_to_give() -> None:
    assert "kv_heads" in unclear({"qkv_proj.weight": (16, 8)}, "qkv_proj.weight")
    assert "interleaved = true" in unclear({"a.query_key_value.weight": (24, 8)}, "a.query_key_value.weight")
    assert "groups = 1" in unclear({"0.weight": (6, 4, 5)}, "0.weight")
    grey = {"0.weight": (8, 1, 3, 3), "3.weight": (8, 1, 3, 3), "4.weight": (16, 8, 1, 1)}
    assert "groups = 8" in unclear(grey, "3.weight")
    experts = {"experts.gate_up_proj": (4, 8, 32), "experts.down_proj": (4, 16, 8)}
    assert "interleaved" in unclear(experts, "experts.gate_up_proj")


def test_grouped_kernels_ask_for_their_groups() -> None:
    resnext = {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.conv1.weight": (128, 64, 1, 1),
        "layer1.0.conv2.weight": (128, 4, 3, 3),
        "layer1.1.conv2.weight": (128, 4, 3, 3),
        "layer1.0.conv3.weight": (256, 128, 1, 1),
    }
    assert "grouped" in unclear(resnext, "layer1.0.conv2.weight")
    assert infos(resnext, "conv1.weight") == [("conv", "", 49, 64, 3)]
    assert infos(resnext, "layer1.0.conv3.weight") == [("conv", "", 1, 256, 128)]


def test_depthwise_kernels_are_told_by_the_coloured_stem() -> None:
    mobile = {
        "0.weight": (8, 3, 3, 3),
        "1.weight": (8, 1, 3, 3),
        "2.weight": (16, 8, 1, 1),
        "3.weight": (16, 1, 3, 3),
    }
    assert infos(mobile, "1.weight") == [("conv", "", 72, 1, 1)]
    assert infos(mobile, "0.weight") == [("conv", "", 9, 8, 3)]
    grey = {"conv1.weight": (8, 1, 3, 3), "conv2.weight": (16, 8, 3, 3)}
    assert infos(grey, "conv1.weight") == [("conv", "", 9, 8, 1)]


def test_dense_connections_are_no_groups() -> None:
    """DenseNet: the fan-in is a sum of fan-outs, which no single layer puts out."""
    dense = {"stem.weight": (64, 3, 7, 7)} | {f"block.{i}.weight": (32, 64 + 32 * i, 3, 3) for i in range(4)}
    for i in range(4):
        assert infos(dense, f"block.{i}.weight") == [("conv", "", 9, 32, 64 + 32 * i)]


def test_expert_stacks() -> None:
    shapes = {"experts.gate_up_proj": (4, 32, 8), "experts.down_proj": (4, 8, 16)}
    assert infos(shapes, "experts.gate_up_proj") == [("experts", b, 4, 16, 8) for b in ("gate", "up")]
    assert infos(shapes, "experts.down_proj") == [("experts", "", 4, 8, 16)]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_packed_weights_are_refused(dtype: torch.dtype) -> None:
    entry = entries({"q_proj.weight": (8, 8)}, dtype)["q_proj.weight"]
    assert "dequantise" in entry.refusal


def test_counters_and_masks_are_buffers() -> None:
    assert entries({"bn.num_batches_tracked": ()}, torch.int64)["bn.num_batches_tracked"].role == "buffer"
    assert entries({"attn.bias": (1, 1, 4, 4)})["attn.bias"].role == "buffer"


@pytest.mark.parametrize(
    "wrap",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
    ],
)
def test_parts_of_a_parametrization_are_no_matrices(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(wrap(nn.Linear(6, 4)))
    state = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    live = {e.name: e.role for e in ModuleStore(model).entries() if not e.derived}
    found = entries(state)
    assert all(e.view is None for e in found.values())
    assert {n: found[n].role for n in state if "original" in n} == {n: live[n] for n in state if "original" in n}


def test_weight_norm_of_old_is_no_matrix_either() -> None:
    shapes = {"a.weight_g": (4, 1), "a.weight_v": (4, 6), "b.weight_v": (4, 6)}
    found = entries(shapes)
    assert found["a.weight_v"].view is None
    assert found["a.weight_g"].role == "other"
    assert found["b.weight_v"].role == "matrix", "without its partner it is just a name"
