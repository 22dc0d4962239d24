"""Does AdamO revive dead ReLU units? Planted dead units, trained on with and without the isometry step.

A quarter of the units of the second and third hidden layer are made dead before training: no training sample activates
them. Three kinds: by a bias that is just below what activates them, by one far below, or by weights that are all
negative behind a ReLU. Then the network is trained on the digits. Counted are planted units that are active on at least
one training sample in the end. Adam is the control: layers before a dead unit move, and may wake it by themselves.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path

import torch
from measure import command_line
from torch import Tensor, nn
from torch.nn import functional

import replastic
from replastic import data
from replastic.report.statistics import mean_interval

KINDS: Mapping[str, float | None] = {"bias, just below": 0.1, "bias, far below": 2.0, "weights": None}
"""How units are made dead: how far the largest pre-activation lies below zero, in its standard deviations."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
SPECS = (
    "base",
    *(f"adamo:strength={strength:g}" for strength in STRENGTHS),
    "adamo:strength=0.1,isometry_lr=0.01",
    "adamo:strength=1,isometry_lr=0.01",
    *(f"isometry:strength={strength:g}" for strength in STRENGTHS),
    "redo:every=100,dormancy_threshold=0",
)
WIDTH, LAYERS, SHARE = 64, 3, 0.25
BATCH, RATE = 64, 1e-3
Batch = tuple[Tensor, Tensor]
Results = dict[tuple[str, str], list[tuple[float, float]]]
"""By method and kind: of each seed the share that is active, and the accuracy."""


def network(seed: int) -> nn.Sequential:
    """Three hidden layers of ReLU units with torch's own initialisation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [(nn.Linear(64 if k == 0 else WIDTH, WIDTH), nn.ReLU()) for k in range(LAYERS)]
        return nn.Sequential(nn.Flatten(), *(part for pair in hidden for part in pair), nn.Linear(WIDTH, 10))


def hidden_layers(model: nn.Sequential) -> list[int]:
    """Places of the layers that get dead units: behind a ReLU."""
    return [k for k, part in enumerate(model) if isinstance(part, nn.Linear) and k > 1][:-1]


@torch.no_grad()
def plant(model: nn.Sequential, inputs: Tensor, kind: str, seed: int) -> dict[int, Tensor]:
    """Make units dead, layer after layer; gives the units by the layer's place."""
    draw, planted, depth = torch.Generator().manual_seed(seed), {}, KINDS[kind]
    for k in hidden_layers(model):
        layer, before = model[k], model[:k](inputs)
        assert isinstance(layer, nn.Linear)
        units = torch.randperm(WIDTH, generator=draw)[: int(SHARE * WIDTH)].sort().values
        if depth is None:
            layer.weight[units] = -layer.weight[units].abs()
            layer.bias[units] = 0.0
        else:
            reached = layer(before)[:, units]
            layer.bias[units] -= reached.amax(0) + depth * reached.std(0)
        planted[k] = units
        assert not active(model, inputs, k)[units].any()
    return planted


@torch.no_grad()
def active(model: nn.Sequential, inputs: Tensor, place: int) -> Tensor:
    """Which units of a layer some sample activates, (units,)."""
    found: Tensor = (model[: place + 1](inputs) > 0).any(0)
    return found


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy."""
    return functional.cross_entropy(model(batch[0]), batch[1])


def trained(spec: str, kind: str, seed: int, updates: int) -> tuple[float, float]:
    """Share of the planted units that are active in the end, and accuracy on the test set."""
    splits = data.load("digits")
    whole = splits.train.batch(slice(None))
    inputs, targets = whole
    model = network(seed)
    planted = plant(model, inputs, kind, seed)
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    with replastic.during(spec, model, optimizer, batches=[whole], loss_fn=loss_fn, seed=seed) as method:
        for _ in range(updates):
            index = torch.randint(len(targets), (BATCH,), generator=order)
            loss, penalty = loss_fn(model, (inputs[index], targets[index])), method.penalty()
            method.optimizer.zero_grad()
            (loss if penalty is None else loss + penalty).backward()
            method.optimizer.step()
            method.after_update()
    alive = torch.cat([active(model, inputs, place)[units] for place, units in planted.items()])
    with torch.no_grad():
        held_out, labels = splits.test.batch(slice(None))
        accuracy = (model(held_out).argmax(1) == labels).float().mean()
    return float(alive.float().mean()), float(accuracy)


def shown(values: list[float]) -> str:
    """Mean and 95% interval."""
    found = mean_interval(values, bounds=(0.0, 1.0))
    if found.low is None or found.high is None or found.low == found.high:
        return f"{found.mean:.3f}"
    return f"{found.mean:.3f} ({found.low:.3f} to {found.high:.3f})"


def table(results: Results, what: Callable[[tuple[float, float]], float]) -> str:
    """Markdown: one row for each method, one column for each kind."""
    specs = dict.fromkeys(spec for spec, _ in results)
    kinds = dict.fromkeys(kind for _, kind in results)
    lines = [f"| method | {' | '.join(kinds)} |", f"|---|{'---|' * len(kinds)}"]
    for spec in specs:
        cells = (shown([what(one) for one in results[spec, kind]]) for kind in kinds)
        lines.append(f"| `{spec}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _known(file: Path | None, setting: str) -> Results:
    """The results of an earlier call with these settings, so that one that was stopped goes on."""
    if file is None or not file.is_file():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["settings"] != setting:
        raise SystemExit(f"{file} holds results of {content['settings']}, not of {setting}")
    return {(row["spec"], row["kind"]): [(a, b) for a, b in row["alive and accuracy"]] for row in content["results"]}


def _keep(file: Path | None, setting: str, results: Results) -> None:
    if file is not None:
        rows = [{"spec": s, "kind": k, "alive and accuracy": v} for (s, k), v in results.items()]
        file.write_text(json.dumps({"settings": setting, "results": rows}, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Print both tables."""
    parser: argparse.ArgumentParser = command_line(__doc__ or "")
    parser.set_defaults(repeats=5)
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--specs", nargs="+", default=list(SPECS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    setting = f"{options.updates} updates, {options.repeats} seeds, torch {torch.__version__}"
    results = _known(options.json, setting)
    for spec, kind in product(options.specs, KINDS):
        if (spec, kind) not in results:
            results[spec, kind] = [trained(spec, kind, seed, options.updates) for seed in range(options.repeats)]
            _keep(options.json, setting, results)
        print(f"{spec}, {kind}: {shown([alive for alive, _ in results[spec, kind]])}", file=sys.stderr, flush=True)
    print(f"\n{setting}\n\nShare of the planted units that are active in the end:\n\n{table(results, lambda r: r[0])}")
    print(f"\nTest accuracy:\n\n{table(results, lambda r: r[1])}")


if __name__ == "__main__":
    main()
