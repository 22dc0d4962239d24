"""Tokens a second of the training of a language model beside a plain loop, in turn in one process.

The plain loop is nanoGPT's, in float32 and without fused operations; a second one leaves attention to torch's kernel.
The library's runs with each of the settings asked for. On a GPU with a known peak the share of it that the model's
arithmetic uses is told as well (model-FLOP utilisation): 6 operations for each weight and token, and 12 depth x width x
block for the attention (Chowdhery et al. 2022, appendix B), position embeddings not counted.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from measure import Row, command_line, in_turn, publish, ratio
from plain_gpt import PlainGpt
from torch import Tensor

from replastic import benchmarks, methods
from replastic.learners._texts import Texts
from replastic.learners.language import Language, LanguageModel
from replastic.networks.gpt import Gpt
from replastic.training import Protocol
from replastic.training.session import Session

GOAL = 1.5
"""Least speed of the library's best setting, as a multiple of the plain loop's."""
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0, "B200": 2250.0}
"""TFLOP/s of dense bfloat16 products, by a part of the device's name: the makers' figures."""
UTILISATION = 0.4
"""Goal on a GPU."""
SETTINGS = ("float32", "bfloat16")


class Library:
    """The library's own updates."""

    def __init__(self, protocol: Protocol, texts: Texts, setting: str, updates: int, device: str) -> None:
        trainer = replace(protocol.trainer, **words(setting))
        self.session = Session(replace(protocol, trainer=trainer), texts, methods.from_spec("base"), 0, device)
        self.session.learner.begin(0, 0)
        self.updates, self.done = updates, 0

    def advance(self, updates: int) -> Tensor:
        """Train on; the losses (updates,), on the CPU."""
        self.session.model.train()
        losses = [self.session.update(step, self.updates) for step in range(self.done, self.done + updates)]
        self.done += updates
        return torch.stack(losses).cpu()


def words(setting: str) -> dict[str, object]:
    """The trainer's fields for a setting such as ``bfloat16+compiled``."""
    given = set(setting.split("+"))
    unknown = given - {"float32", "bfloat16", "compiled"}
    if unknown:
        raise SystemExit(f"unknown setting {', '.join(unknown)}: join float32, bfloat16, compiled by +")
    return {"precision": "bfloat16" if "bfloat16" in given else "float32", "compiled": "compiled" in given}


def operations(model: torch.nn.Module, network: Gpt, block: int) -> float:
    """Floating-point operations of the model for one token of training, forward and backward."""
    counted = sum(p.numel() for n, p in model.named_parameters() if not n.endswith("wpe.weight"))
    return 6.0 * counted + 12.0 * network.depth * network.dim * block


def peak_of(device: str) -> float | None:
    """FLOP/s of bfloat16 products of this device, where its name is known."""
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((1e12 * peak for part, peak in PEAKS.items() if part in name), None)


def contestants(
    protocol: Protocol, texts: Texts, settings: Sequence[str], total: int, device: str
) -> tuple[dict[str, PlainGpt], dict[str, Library]]:
    """The plain loops, and the library's with each of its settings; all begin with the same weights."""
    task = protocol.task
    assert isinstance(task, Language)
    library = {f"library, {s}": Library(protocol, texts, s, total, device) for s in settings}
    learner = next(iter(library.values())).session.learner
    assert isinstance(learner, LanguageModel)
    vocabulary, ids = learner.model.vocabulary, texts.first.train.ids
    plain = {
        name: PlainGpt(task.network, vocabulary, task.block, protocol.trainer, ids, 0, total, device, fused=fused)  # type: ignore[arg-type]
        for name, fused in (("plain", False), ("plain, fused attention", True))
    }
    return plain, library


def throughput(
    protocol: Protocol, texts: Texts, *, settings: Sequence[str], updates: int, repeats: int, device: str
) -> list[Row]:
    """Tokens a second of every contestant, and the library's as multiples of the plain loops'."""
    task = protocol.task
    assert isinstance(task, Language)
    plain, library = contestants(protocol, texts, settings, updates * (repeats + 1), device)
    work = {n: (lambda loop=loop: loop.advance(updates)) for n, loop in {**plain, **library}.items()}
    seconds = in_turn(work, repeats, lambda: None)
    tokens = updates * protocol.trainer.batch_size * task.block
    rows = [
        Row("tokens a second", n, tokens / statistics.median(s), "/s", note=spread(s, tokens))
        for n, s in seconds.items()
    ]
    for base in plain:
        ratios = {n: ratio(seconds[base], seconds[n]) for n in library}
        best = max(ratios, key=lambda n: ratios[n])
        rows += [
            Row(f"speed / {base}", n, r, "x", GOAL if n == best and base == "plain" else None)
            for n, r in ratios.items()
        ]
    peak = peak_of(device)
    if peak is not None and isinstance(task.network, Gpt):
        each = operations(next(iter(library.values())).session.model, task.network, task.block)
        rows += utilisation({n: tokens / statistics.median(seconds[n]) for n in library}, each, peak)
    return rows


def utilisation(speeds: Mapping[str, float], each: float, peak: float) -> list[Row]:
    """Share of the device's peak that the model's arithmetic uses, by contestant; the best has the goal."""
    shares = {name: speed * each / peak for name, speed in speeds.items()}
    best = max(shares, key=lambda n: shares[n])
    return [Row("model-FLOP utilisation", n, s, "", UTILISATION if n == best else None) for n, s in shares.items()]


def spread(seconds: Sequence[float], tokens: int) -> str:
    """The slowest and the fastest round."""
    return f"rounds from {tokens / max(seconds):.4g} to {tokens / min(seconds):.4g}"


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--preset", choices=("small", "paper", "smoke"), default="small", help="network and batch")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), help="words joined by +, also compiled")
    parser.add_argument("--first", help="corpus to train on, in place of the preset's")
    parser.add_argument("--batch-size", type=int, help="sequences of an update, in place of the preset's")
    parser.add_argument("--accumulate", type=int, help="parts of a batch, in place of the preset's")
    parser.add_argument("--updates", type=int, default=10, help="updates of each contestant in a round")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    protocol = benchmarks.get("language_warm_start")().presets[options.preset].protocol
    task, trainer = protocol.task, protocol.trainer
    assert isinstance(task, Language)
    corpus = options.first or task.first
    task = replace(task, first=corpus, second=corpus, shares=(), plasticity_corpus="")
    size, parts = options.batch_size or trainer.batch_size, options.accumulate or trainer.accumulate
    protocol = replace(protocol, task=task, trainer=replace(trainer, batch_size=size, accumulate=parts))
    rows = throughput(
        protocol,
        task.open(options.device),
        settings=options.settings,
        updates=options.updates,
        repeats=options.repeats,
        device=options.device,
    )
    cuda = torch.device(options.device).type == "cuda"
    publish(
        "Training throughput of a language model",
        rows,
        options.json,
        device=torch.cuda.get_device_name() if cuda else "cpu",
        network=task.in_words(),
        batch=f"{size} x {task.block} tokens in {parts} parts",
    )


if __name__ == "__main__":
    main()
