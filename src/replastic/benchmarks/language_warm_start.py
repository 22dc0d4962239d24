"""Continued pretraining: a language model is trained on one corpus for long, and then on a mixture with a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from replastic.experiments.spec import BenchmarkSpec, Preset, every_method, register
from replastic.learners import Trainer
from replastic.learners.language import Language
from replastic.networks.gpt import Gpt
from replastic.training import Protocol

SIX = ("base", "interpolation:strength=0.5", "fire", "rescale", "shrink_perturb", "rewarm")
"""Run from every checkpoint."""
OTHERS = (
    "full_reset",
    "fire:solver=exact",
    "average",
    "replay",
    "fire+replay",
    "fire+rewarm",
)
"""Run from the last checkpoint alone; a full reset forgets from which it begins."""
SOLVERS = ("fire:solver=newton_schulz,num_iters=5", "fire:solver=exact", "rescale")
"""FIRE as published and to the end, and what its scale alone does, where the recipe sets no solver."""
PARTS = ("fire:targets=transformer.h.*", "rescale:targets=transformer.h.*", "fire:targets=*attn.c_attn")
"""FIRE without the tied head and embedding, what its scale does there, and FIRE on queries, keys and values alone."""
KEPT = ("keep_optimizer", "keep_optimizer+fire")
"""Without the reset of the optimizer that all others share."""
PRACTICE = tuple(f"rewarm:peak={peak}+replay:share={share}" for peak in (0.3, 1.0, 2.0) for share in (0.05, 0.25))
"""Settings that practitioners tune: the peak of the learning rate and the share of old data."""
AT_WORK = ("average:last=2", "fire+replay+rewarm")
"""Run in the smallest preset to see that they work."""


def from_checkpoint(at: str, specs: Sequence[str]) -> tuple[str, ...]:
    """The same methods from another checkpoint of the first phase than the last."""
    back = f"from_checkpoint:at={at}"
    return tuple(back if spec == "base" else f"{back}+{spec}" for spec in specs)


@register("language_warm_start", reference="https://arxiv.org/abs/2602.08040")
def language_warm_start() -> BenchmarkSpec:
    """A corpus many times over, then a new one with the old mixed in; score: validation loss on the new corpus."""
    paper = Protocol(
        task=Language(
            first="wikitext103",
            second="openwebtext+wikitext103",
            tokenizer="gpt2",
            block=1024,
            first_updates=60_000,
            first_schedule=96_000,
            updates=18_000,
            validation=0,
            network=Gpt(),
        ),
        trainer=Trainer(
            learning_rate=6e-4,
            beta2=0.95,
            weight_decay=0.1,
            batch_size=480,
            accumulate=60,
            warmup=0.1,
            most_warmup=2000,
            schedule="linear",
            final_rate=0.1,
            clip_norm=1.0,
            precision="bfloat16",
            checkpoints=True,
        ),
        recipe="paper-gpt",
        metrics=("dfi",),
        boundary_metrics=("sfe",),
        methods_from=1,
        probe_samples=8,
    )
    text = Language(
        first="wikitext2:characters=450000",
        second="english_novels:characters=8000000+wikitext2",
        shares=(0.9, 0.1),
        block=128,
        first_updates=5000,
        updates=1000,
        evaluations=20,
        plasticity_corpus="tinyshakespeare",
        network=Gpt.reduced(),
    )
    small = replace(
        paper,
        task=text,
        trainer=replace(paper.trainer, learning_rate=1e-3, batch_size=16, accumulate=1),
    )
    tiny = replace(
        small,
        task=Language(
            first="grammar:count=30",
            second="grammar:count=60,dialect=1+grammar:count=30",
            tokenizer="bpe:size=300",
            block=32,
            first_updates=12,
            updates=8,
            evaluations=2,
            validation=4,
            plasticity_corpus="grammar:count=30,dialect=2",
            plasticity_updates=5,
            network=Gpt(depth=2, heads=2, dim=16),
        ),
        trainer=replace(small.trainer, batch_size=4, precision="float32"),
    )
    return BenchmarkSpec(
        name="language_warm_start",
        presets={
            "small": Preset(
                protocol=small,
                methods=(*SIX, *from_checkpoint("best", SIX), *OTHERS),
                seeds=3,
                help="a GPT of a million weights from its best checkpoint and from the last; two hours and a half on "
                "two cores that compute in bfloat16, else give --precision float32",
            ),
            "mid_schedule": Preset(
                protocol=replace(small, task=replace(text, first_schedule=8000)),
                methods=SIX,
                seeds=3,
                help="as small, but the first phase ends while its step size is still high, as in the authors' code",
            ),
            "parts": Preset(
                protocol=small,
                methods=("base", "fire", *PARTS, *KEPT),
                seeds=3,
                help="as small: FIRE without the tied head, on attention alone, and with the optimizer's state kept",
                folder="small",
            ),
            "queries_keys": Preset(
                protocol=replace(small, recipe="attention"),
                methods=("base", *SOLVERS),
                seeds=3,
                help="as small, with queries and keys alone rewritten",
            ),
            "practice": Preset(
                protocol=small,
                methods=("base", "fire", *PRACTICE, *(f"fire+{spec}" for spec in PRACTICE)),
                seeds=3,
                help="as small: peaks of the re-warmed step size times shares of replay, with FIRE and without",
                folder="small",
            ),
            "decayed": Preset(
                protocol=replace(small, task=replace(text, first_weight_decay=0.5)),
                methods=("base", "fire"),
                seeds=3,
                help="as small, with a weight decay of 0.5 in the first phase instead of 0.1",
            ),
            "full": Preset(
                protocol=small,
                methods=every_method(
                    interpolation="interpolation:strength=0.5",
                    **{name: name for name in ("average", "from_checkpoint", "replay")},
                ),
                seeds=3,
                help="every method and control",
                folder="small",
            ),
            "paper": Preset(
                protocol=paper,
                methods=(
                    *SIX,
                    *from_checkpoint("best", SIX),
                    *from_checkpoint("30000", SIX),
                    *OTHERS,
                ),
                seeds=3,
                help="GPT-2 124M as in section 4.2; needs GPUs",
            ),
            "smoke": Preset(
                protocol=tiny,
                methods=("base", "fire", *from_checkpoint("best", ("base", "fire")), *AT_WORK),
                seeds=2,
                help="made-up text: does it run? seconds",
            ),
        },
        summary={"phase_label": "phase", "curves": ["metric/loss_new", "metric/loss_old"]},
    )
