"""FIRE on GPT-2 124M: time and peak memory beside one step of the optimizer, one update, and the whole run.

Everything is measured in a process of its own. An update of the paper, 480 sequences of 1024 tokens, is that many times
the forward and backward pass of some of them, and the step; the whole run is 78,000 of them (60,000 and 18,000). The
paper says that FIRE takes less than 1% of a run's time.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from measure import Row, command_line, publish
from memory import fresh_process, peak

import replastic
from replastic import benchmarks, networks
from replastic.learners import Trainer
from replastic.learners._forward import Forward
from replastic.learners.language import Language

VARIANTS = {
    "fire, five steps": {"recipe": "paper-gpt"},
    "fire, exact": {"recipe": "paper-gpt", "solver": "exact"},
    "fire, exact, blocks alone": {"recipe": "blocks", "solver": "exact"},
}
PIECES = ("step of AdamW", "forward and backward", *VARIANTS)
SHARE = 0.01
"""Of the whole run's time, at most."""


@dataclass
class Cost:
    """What a piece of work took."""

    seconds: float
    mib: float


def measured(piece: str, sequences: int, repeats: int, device: str, preset: str) -> Cost:
    """Medians over `repeats`, after one round that warms up."""
    protocol = benchmarks.get("language_warm_start")().presets[preset].protocol
    task, trainer = protocol.task, protocol.trainer
    assert isinstance(task, Language)
    vocabulary = 50304 if task.tokenizer == "gpt2" else 320
    model = networks.build(task.network, (task.block,), vocabulary, 0).to(device)
    optimizer = trainer.make_optimizer([{"params": list(model.parameters())}])
    tokens = torch.randint(vocabulary, (sequences, task.block + 1), device=device)
    work = pieces(model, optimizer, trainer, tokens, device)[piece]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    seconds, memory = [], []
    for _ in range(repeats + 1):
        memory.append(peak(lambda: seconds.append(timed(work, device)), device))
    return Cost(statistics.median(seconds[1:]), statistics.median(memory[1:]))


def pieces(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, trainer: Trainer, tokens: torch.Tensor, device: str
) -> dict[str, Callable[[], object]]:
    """The work by name."""
    running = Forward(model, trainer, device)

    def passes() -> None:
        model.zero_grad()
        logits = running(tokens[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()  # type: ignore[no-untyped-call]

    fires = {name: (lambda given=given: replastic.fire_(model, optimizer, **given)) for name, given in VARIANTS.items()}
    return {"step of AdamW": optimizer.step, "forward and backward": passes, **fires}


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds, with nothing else under way on the device."""
    start = time.perf_counter()
    work()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def rows_of(costs: dict[str, Cost], sequences: int, preset: str) -> list[Row]:
    """The table: seconds and MiB of each piece, and FIRE beside the rest."""
    protocol = benchmarks.get("language_warm_start")().presets[preset].protocol
    task = protocol.task
    assert isinstance(task, Language)
    step, passes = costs["step of AdamW"], costs["forward and backward"]
    update = step.seconds + passes.seconds * protocol.trainer.batch_size / sequences
    run = update * (task.first_updates + task.updates)
    rows = [Row("time", name, cost.seconds, "s") for name, cost in costs.items()]
    rows += [Row("peak memory", name, cost.mib, "MiB") for name, cost in costs.items()]
    rows.append(Row("time", "one update, computed", update, "s", note=f"{protocol.trainer.batch_size} sequences"))
    for name in VARIANTS:
        rows.append(Row("time / step of AdamW", name, costs[name].seconds / step.seconds, "x"))
        rows.append(Row("time / update", name, costs[name].seconds / update, "x"))
        rows.append(Row("time / whole run", name, costs[name].seconds / run, "", SHARE, "lower"))
    return rows


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--sequences", type=int, default=1, help="sequences of one forward and backward pass")
    parser.add_argument(
        "--preset", choices=("paper", "smoke"), default="paper", help="network and batch of which preset"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", choices=PIECES, help="measure this in this process, print JSON")
    options = parser.parse_args()
    if options.one:
        cost = measured(options.one, options.sequences, options.repeats, options.device, options.preset)
        print(json.dumps(asdict(cost)))
        return
    asked = ["--sequences", str(options.sequences), "--repeats", str(options.repeats), "--device", options.device]
    asked += ["--preset", options.preset]
    costs = {piece: Cost(**json.loads(fresh_process(__file__, *asked, "--one", piece))) for piece in PIECES}
    device = torch.cuda.get_device_name() if torch.device(options.device).type == "cuda" else "cpu"
    publish("FIRE on a language model", rows_of(costs, options.sequences, options.preset), options.json, device=device)


if __name__ == "__main__":
    main()
