"""Processes that hold a GPT in shards (FSDP2): `python -m support.sharded_ranks RANK PROCESSES MEET CASE...`.

Each case compares the sharded model with a whole one in the same process. Prints one JSON object: by case the error.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, init_device_mesh

import replastic
from replastic.errors import UserError
from replastic.methods.fire import Fire
from replastic.weights import staging
from replastic.weights.entries import MatrixInfo
from support.sharded_models import (
    Counted,
    assert_refused,
    gpt,
    loss_fn,
    moments,
    pair,
    same,
    same_outcomes,
    shard,
    step,
    tokens,
    weights,
)

PAGE = Path(__file__).parents[2] / "docs" / "continuing.md"


def continued(bias: bool, recipe: str, solver: str, policy: Any) -> None:
    """The rewrite, and the training after it, are those of the whole model; undo brings all back."""
    options: Any = {"recipe": recipe, "solver": solver, "policy": policy, "layout": "c_attn:split=q+k+v"}
    (whole, optimizer), (model, own) = pair(bias=bias)
    before, memory = weights(model), moments(model, own)
    parameters = list(model.parameters())
    outcome = replastic.fire_(model, own, **options)
    same_outcomes(outcome, replastic.fire_(whole, optimizer, **options))
    assert {"transformer.h.0.attn.c_attn.weight[k]", "transformer.h.1.mlp.c_fc.weight"} <= {
        layer.label for layer in outcome.layers
    }
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    same(weights(model), weights(whole))
    same(moments(model, own), moments(whole, optimizer))
    outcome.undo_()
    same(weights(model), before, 0.0)
    same(moments(model, own), memory, 0.0)
    replastic.fire_(model, own, **options)
    for seed in (7, 8):
        step(model, own, seed)
        step(whole, optimizer, seed)
    same(weights(model), weights(whole))


def every_method(method: str) -> None:
    """Every method that is a function of the weights."""
    whole, model = gpt(bias=True), gpt(bias=True, sharded=True)
    first = {name: value.clone() for name, value in gpt(bias=True, seed=3).state_dict().items()}
    given = {"init": first, "fresh": lambda seed: gpt(bias=True, seed=seed).state_dict(), "seed": 5}
    outcome = replastic.apply_(method, model, **given)
    same_outcomes(outcome, replastic.apply_(method, whole, **given))
    same(weights(model), weights(whole))


def sharded_reference() -> None:
    """Initial values may be sharded like the weights."""
    whole, model = gpt(), gpt(sharded=True)
    first = gpt(seed=3, sharded=True)
    replastic.fire_(model, init=first.state_dict(), scale="init")
    replastic.fire_(whole, init=gpt(seed=3).state_dict(), scale="init")
    same(weights(model), weights(whole))


def after_evaluation() -> None:
    """A pass without gradients leaves the root's weights gathered: the rewrite must reach the shards."""
    whole, model = gpt(), gpt(sharded=True)
    with torch.no_grad():
        loss_fn(model, tokens(0))
    replastic.fire_(model, recipe="paper-gpt", probe=(tokens(0), loss_fn))
    replastic.fire_(whole, recipe="paper-gpt")
    same(weights(model), weights(whole))


def followed() -> None:
    """A sharded average follows, a whole one is refused."""
    model, average = gpt(sharded=True), gpt(sharded=True, seed=3)
    old = weights(model)
    outcome = replastic.fire_(model, followers={"ema": average})
    mine = weights(average)
    for name in outcome.written:
        assert torch.equal(mine[name], weights(model)[name])
    outcome.undo_()
    same(weights(model), old, 0.0)
    assert_refused(lambda: replastic.fire_(model, followers={"ema": gpt()}), "is not sharded over the processes")


def staged_on_disk() -> None:
    """The old shards wait in each process's own file."""
    model = gpt(sharded=True)
    old = weights(model)
    outcome = replastic.fire_(model, recipe="paper-gpt", staging="disk")
    assert any(not torch.equal(value, old[name]) for name, value in weights(model).items())
    outcome.undo_()
    same(weights(model), old, 0.0)


def dry() -> None:
    """A dry run tells the same numbers and writes nothing."""
    model = gpt(sharded=True)
    old = weights(model)
    same_outcomes(replastic.fire_(model, dry_run=True), replastic.fire_(gpt(), dry_run=True))
    same(weights(model), old, 0.0)


def damaged(place: str) -> None:
    """A NaN in the shard of one process: all refuse, nothing is written anywhere."""
    model = gpt(sharded=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    step(model, optimizer, 0)
    if distributed.get_rank() == 0:
        dict(model.named_parameters())[place].to_local().data[0, 0] = float("nan")
    old, memory = weights(model), moments(model, optimizer)
    assert_refused(lambda: replastic.fire_(model, optimizer, recipe="paper-gpt"), f"{place} holds 1 of")
    for name, value in weights(model).items():
        assert torch.equal(value.nan_to_num(9.0), old[name].nan_to_num(9.0)), name
    same(moments(model, optimizer), memory, 0.0)


def full_disk() -> None:
    """One process cannot stage its shards: none writes, and none waits for ever."""
    model = gpt(sharded=True)
    old = weights(model)

    def fails(*_: object) -> None:
        raise UserError("no space left")

    kept = staging._write
    if distributed.get_rank() == 1:
        staging._write = fails
    try:
        assert_refused(lambda: replastic.fire_(model, staging="disk"), "no space left")
    finally:
        staging._write = kept
    same(weights(model), old, 0.0)


def different_options() -> None:
    """The processes ask for different things: refused before anything is exchanged."""
    model = gpt(sharded=True)
    old = weights(model)
    solver = ("exact", "newton_schulz", "exact")[distributed.get_rank()]
    assert_refused(lambda: replastic.fire_(model, solver=solver), "would rewrite different weights")
    same(weights(model), old, 0.0)


def hybrid() -> None:
    """Copies of a sharded model: here every process is a group of its own."""
    whole, model = gpt(), gpt()
    mesh = init_device_mesh("cpu", (distributed.get_world_size(), 1), mesh_dim_names=("copies", "shards"))
    shard(model, mesh=mesh)
    same_outcomes(replastic.fire_(model, recipe="paper-gpt"), replastic.fire_(whole, recipe="paper-gpt"))
    same(weights(model), weights(whole))


def half() -> None:
    """Weights in bfloat16."""
    whole, model = gpt().bfloat16(), gpt().bfloat16()
    shard(model)
    same_outcomes(replastic.fire_(model), replastic.fire_(whole))
    same(weights(model), weights(whole))


def columns() -> None:
    """Weights that are cut along their columns, as tensor parallelism does, beside biases that are whole."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 2))
    model = copy.deepcopy(whole)
    for layer in model[::2]:
        layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [Shard(1)]))
    for options in ({}, {"target_modules": "all-linear", "solver": "newton_schulz"}):
        same_outcomes(replastic.fire_(model, **options), replastic.fire_(whole, **options))
        same(weights(model), weights(whole))


def two_axes() -> None:
    """A weight that is cut along both axes is refused."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(), 1))
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    model[0].weight = nn.Parameter(distribute_tensor(model[0].weight.detach(), mesh, [Shard(0), Shard(1)]))
    assert_refused(lambda: replastic.fire_(model, target_modules="0"), "not along one axis alone")


def low_rank() -> None:
    """Tall matrices without full rank, or zero: what fills them up needs them whole, as the options say."""
    for solver_options in ({}, {"complete": False}):
        for zero in (False, True):
            whole, model = gpt(), gpt(sharded=True)
            for one in (whole, model):
                weight = one.transformer["h"][0].mlp.c_fc.weight
                with torch.no_grad():
                    part = weight.to_local() if isinstance(weight, DTensor) else weight
                    part[:, 1] = part[:, 0]
                    part.mul_(0.0 if zero else 1.0)
            options = {"on_zero": "skip" if zero else "error", **solver_options}
            same_outcomes(replastic.fire_(model, **options), replastic.fire_(whole, **options))
            same(weights(model), weights(whole))
    assert_refused(lambda: replastic.fire_(model), "transformer.h.0.mlp.c_fc.weight is all zero")


ROUND = {"alltoall_base_": 2, "allgather_": 2}
"""There, back, and what is told of the outcomes: its length and its content."""


def counted(targets: str, expected: dict[str, int], reduced: list[int], **options: Any) -> None:
    """The collectives of a rewrite of some weights: no others than are needed."""
    model = gpt(sharded=True)
    with Counted() as seen:
        replastic.fire_(model, torch.optim.AdamW(model.parameters()), target_modules=targets, **options)
    assert dict(seen.calls) == expected, seen.calls
    assert seen.reduced == reduced


def balanced() -> None:
    """Each process is the owner of a part of the layers, and none is gathered in all of them."""
    names: list[str] = []
    kept = Fire.solve

    def solve(self: Fire, w: Tensor, info: MatrixInfo, *rest: Any) -> Any:
        names.append(info.weight)
        return kept(self, w, info, *rest)

    Fire.solve = solve  # type: ignore[method-assign]
    try:
        outcome = replastic.fire_(gpt(sharded=True), solver="newton_schulz", recipe="paper-gpt")
    finally:
        Fire.solve = kept  # type: ignore[method-assign]
    everywhere: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everywhere, sorted(set(names)))
    assert all(everywhere), everywhere
    assert sum(map(len, everywhere)) < len(outcome.written), "weights of equal shape are solved in one call"
    assert not set(everywhere[0]) & set(everywhere[1])


def at_work(method: str) -> None:
    """A method while the network trains, and between two phases."""
    trained = []
    for sharded in (False, True):
        model = gpt(sharded=sharded)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3)
        given = {"batches": [tokens(0), tokens(1)], "loss_fn": loss_fn, "ranks": "same"}
        with replastic.during(method, model, optimizer, **given) as attached:
            for seed in range(4):
                attached.backward(partial(closure, model, attached, seed))
                attached.optimizer.step()
                attached.after_update()
                if seed == 1:
                    attached.cross()
        trained.append(weights(model))
    same(*trained)


def closure(model: nn.Module, attached: Any, seed: int) -> Tensor:
    attached.optimizer.zero_grad()
    loss = loss_fn(model, tokens(seed))
    loss.backward()
    return loss


def own_weights() -> None:
    """Initial values that are the model's own shards are no copy from before."""
    model = gpt(sharded=True)
    assert_refused(lambda: replastic.fire_(model, init=model.state_dict(), scale="init"), "of the model itself")


def diagnosed() -> None:
    """Measures are for whole weights."""
    assert_refused(lambda: replastic.diagnose(gpt(sharded=True)), "is sharded over processes")


def alone() -> None:
    """A call in process 0 alone ends with the remedy, and calls in all processes meet again."""
    model, patience = gpt(sharded=True), os.environ["REPLASTIC_PATIENCE"]
    if distributed.get_rank() == 0:
        os.environ["REPLASTIC_PATIENCE"] = "2"
        try:
            assert_refused(lambda: replastic.fire_(model), "only some processes of the group made this call: process")
        finally:
            os.environ["REPLASTIC_PATIENCE"] = patience
    distributed.barrier()
    for _ in range(2):
        replastic.fire_(model)
    whole = gpt()
    for _ in range(2):
        replastic.fire_(whole)
    same(weights(model), weights(whole))


def refused(method: str, words: str) -> None:
    """Methods that need whole weights, or a gradient of their own, say so."""
    model = gpt(sharded=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)

    def attach() -> None:
        given: Any = {"batches": [tokens(0)], "loss_fn": loss_fn, "layout": "c_attn:split=q+k+v"}
        with replastic.during(method, model, optimizer, **given) as attached:
            attached.cross()

    assert_refused(attach, words)


def documented() -> None:
    """The block of docs/continuing.md."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Sharded models (FSDP2)\n")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    model, whole = gpt(), gpt()
    exec(code, {"torch": torch, "replastic": replastic, "fully_shard": fully_shard, "model": model})
    replastic.fire_(whole)
    same(weights(model), weights(whole))


METHODS = ("shrink_perturb", "full_reset", "interpolation", "rescale", "fire:scale=preserve", "singular_clip")
AT_WORK = ("base", "optimizer_reset", "sam", "trac", "hare_tortoise:every=2", "lr_matched", "singular_clip:every=1")
CASES: dict[str, Callable[[], None]] = {
    "exact, default": partial(continued, False, "default", "exact", "reset_touched"),
    "exact, paper-gpt": partial(continued, True, "paper-gpt", "exact", "reset_all"),
    "newton_schulz, default": partial(continued, True, "default", "newton_schulz", "keep"),
    "newton_schulz, paper-gpt": partial(continued, False, "paper-gpt", "newton_schulz", "reset_touched"),
    **{method: partial(every_method, method) for method in METHODS},
    "sharded reference": sharded_reference,
    "after evaluation": after_evaluation,
    "followed": followed,
    "staged on disk": staged_on_disk,
    "dry": dry,
    "damaged square": partial(damaged, "transformer.h.0.attn.c_proj.weight"),
    "damaged tall": partial(damaged, "transformer.h.0.mlp.c_fc.weight"),
    "full disk": full_disk,
    "hybrid": hybrid,
    "half": half,
    "columns": columns,
    "two axes": two_axes,
    "low rank": low_rank,
    "collectives of a tall matrix": partial(counted, "h.0.mlp.c_fc", {"allreduce_": 1}, [6 * 6 + 1]),
    "collectives of a square matrix": partial(counted, "h.0.attn.c_proj", ROUND, []),
    "collectives of a tall matrix, iterated": partial(counted, "h.0.mlp.c_fc", ROUND, [], solver="newton_schulz"),
    "collectives of a whole model": partial(counted, "all-linear", {"allreduce_": 2, **ROUND}, [37, 37]),
    "balanced": balanced,
    "different options": different_options,
    **{method: partial(at_work, method) for method in AT_WORK},
    **{method: partial(refused, method, "is sharded over processes") for method in ("redo", "isometry", "kron")},
    "dash": partial(refused, "dash", "cannot be taken of a model that is sharded"),
    "own weights": own_weights,
    "diagnosed": diagnosed,
    "alone": alone,
    "documented": documented,
}


@contextmanager
def group(rank: int, size: int, meet: str) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=size)
    yield
    distributed.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    told = {}
    with group(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sys.argv[4:] or CASES:
            try:
                CASES[name]()
                told[name] = ""
            except Exception:
                told[name] = traceback.format_exc()
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    os._exit(0)
