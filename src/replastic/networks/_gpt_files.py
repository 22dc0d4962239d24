"""GPT models as folders of Hugging Face's `transformers`: `model.safetensors` and `config.json` of a GPT-2."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from replastic.disk import make_folder, replacing, user_path, write_text
from replastic.errors import UserError
from replastic.networks.gpt import Gpt, GptModule
from replastic.weights.checkpoint import CheckpointStore

TURNED: Final = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
"""Weights that `transformers` keeps as (in, out), in its Conv1D; a Linear's are (out, in)."""
_TABLE, _HEAD = "transformer.wte.weight", "lm_head.weight"
_MASKS: Final = (".attn.bias", ".attn.masked_bias")
"""Buffers of old files: the causal mask."""
_FIXED: Final[Mapping[str, tuple[Any, ...]]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}
"""Settings of GPT-2's config that `Gpt` has no choice of: what they may be."""


def load_gpt(folder: str | Path) -> GptModule:
    """A GPT-2 from a folder that `transformers` or `save_gpt` wrote, on the CPU.

    Args:
        folder: With ``config.json`` and safetensors files, or PyTorch's.

    Raises:
        UserError: It is no GPT-2, has settings that `Gpt` lacks, or its tensors have other shapes than its config says.
        CheckpointError: A file is damaged.
    """
    place = user_path(folder)
    config = _config(place)
    inner = config.get("n_inner")
    if inner not in (None, 4 * config["n_embd"]):
        raise UserError(f"{place}: n_inner must be 4 x n_embd, got {inner}: this package has no other GPT-2")
    with torch.device("meta"):
        sizes = Gpt(depth=config["n_layer"], heads=config["n_head"], dim=config["n_embd"], bias=True)
        model = GptModule(sizes, block=config["n_positions"], vocabulary=config["vocab_size"])
    state = _read(place, model)
    model.load_state_dict(state, strict=True, assign=True)
    model.tie()
    return model


def save_gpt(model: GptModule, folder: str | Path) -> None:
    """Write the folder that `load_gpt` and ``transformers.GPT2LMHeadModel.from_pretrained`` read.

    A model without biases is written with biases of zero, which compute the same.

    Args:
        model: The model; its tied head is written once, as the embedding.
        folder: Made if it is not there; each file appears whole or not at all.

    Raises:
        UserError: The folder cannot be written.
    """
    place = user_path(folder)
    make_folder(place)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items() if name != _HEAD}
    for name in [name for name in state if name.endswith(".weight")]:
        bias = name.removesuffix("weight") + "bias"
        if "wte" not in name and "wpe" not in name and bias not in state:
            state[bias] = state[name].new_zeros(len(state[name]))
    tensors = {name: (v.T if name.endswith(TURNED) else v).contiguous() for name, v in state.items()}
    with replacing(place / "model.safetensors") as draft:
        save_file(tensors, draft, metadata={"format": "pt"})
    dim = state[_TABLE].shape[1]
    config = {
        "architectures": ["GPT2LMHeadModel"],
        **{name: allowed[0] for name, allowed in _FIXED.items()},
        "n_layer": len(model.transformer["h"]),  # type: ignore[arg-type]
        "n_head": model.heads,
        "n_embd": dim,
        "n_inner": None,
        "n_positions": model.block,
        "vocab_size": model.vocabulary,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    write_text(place / "config.json", json.dumps(config, indent=2) + "\n")


def _config(place: Path) -> dict[str, Any]:
    """The settings of a GPT-2, with what `transformers` assumes where they are missing."""
    path = place / "config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{place} is no folder of a GPT-2: cannot read {path.name}: {error}") from error
    if not isinstance(given, dict):
        raise UserError(f"{path} must hold a table, got {type(given).__name__}")
    sizes = {"n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257}
    config = {**sizes, **given}
    for name, allowed in _FIXED.items():
        if config.get(name, allowed[0]) not in allowed:
            raise UserError(f"{path}: {name} must be {' or '.join(map(repr, allowed))}, got {config[name]!r}")
    for name in sizes:
        if isinstance(config[name], bool) or not isinstance(config[name], int) or config[name] < 1:
            raise UserError(f"{path}: {name} must be a whole number of 1 or more, got {config[name]!r}")
    return config


def _read(place: Path, model: GptModule) -> dict[str, Tensor]:
    """The tensors of a folder by the model's names, turned; the head is the embedding's."""
    store = CheckpointStore(place)
    there = {entry.name: entry for entry in store.entries()}
    prefix = "" if _TABLE in there else "transformer."
    names = {f"{prefix}{name}": name for name in there if not name.endswith(_MASKS)}
    wanted = model.state_dict()
    missing = sorted(wanted.keys() - names.keys() - {_HEAD})
    surplus = sorted(names.keys() - wanted.keys())
    if missing or surplus:
        what = f"lacks {missing[0]}" if missing else f"has {surplus[0]}"
        raise UserError(f"{place} {what}, so that its tensors are not those of the GPT-2 in its config.json")
    state = {}
    for name, stored in names.items():
        value = store.read(stored)
        state[name] = value.T if name.endswith(TURNED) else value
        if state[name].shape != wanted[name].shape:
            raise UserError(
                f"{place}: {stored} has the shape {tuple(value.shape)}, its config.json asks for "
                f"{tuple(wanted[name].shape)}"
            )
    if _HEAD in state and not torch.equal(state[_HEAD], state[_TABLE]):
        raise UserError(f"{place}: the head is not that of the embedding; this package ties them")
    return {**state, _HEAD: state[_TABLE]}
