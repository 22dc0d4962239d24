"""Continued fine-tuning: a language model of two corpora learns a third, small one; what does it forget?"""

from __future__ import annotations

from dataclasses import replace

from replastic.benchmarks.language_warm_start import language_warm_start
from replastic.experiments.spec import BenchmarkSpec, Preset, every_method, register
from replastic.learners.language import Language
from replastic.training import Protocol

ATTENTION = "fire:targets=*attn.c_attn"
"""FIRE on queries, keys and values alone; the preset `attention` leaves the values out, too."""
METHODS = ("base", "fire", ATTENTION, "lora", "fire+lora", f"{ATTENTION}+lora", "rescale", "shrink_perturb", "replay")


def fine_tuned(pretrained: Protocol, third: str, updates: int, **task: object) -> Protocol:
    """The protocol of a warm start with a third phase, at whose beginning the methods act."""
    assert isinstance(pretrained.task, Language)
    changed = replace(pretrained.task, third=third, third_updates=updates, plasticity_corpus="", **task)  # type: ignore[arg-type]
    trainer = replace(pretrained.trainer, checkpoints=False)
    return replace(pretrained, task=changed, trainer=trainer, recipe="blocks", methods_from=2)


@register("language_fine_tuning", reference="https://arxiv.org/abs/2602.08040")
def language_fine_tuning() -> BenchmarkSpec:
    """A language model fine-tuned on a third, small corpus; score: its validation loss, beside that of the first."""
    presets = language_warm_start().presets
    small = fine_tuned(presets["small"].protocol, "tinyshakespeare:characters=300000", 300, first_updates=1500)
    paper = fine_tuned(presets["paper"].protocol, "tinyshakespeare", 1000)
    tiny = fine_tuned(presets["smoke"].protocol, "grammar:count=20,dialect=2", 6)
    return BenchmarkSpec(
        name="language_fine_tuning",
        presets={
            "small": Preset(
                protocol=small,
                methods=METHODS,
                seeds=3,
                help="a GPT of a million weights on speeches of Shakespeare; half an hour on two cores",
            ),
            "attention": Preset(
                protocol=replace(small, recipe="attention"),
                methods=("base", "fire", "lora", "fire+lora"),
                seeds=3,
                help="as small, with queries and keys alone as the weights that are rewritten or adapted",
            ),
            "full": Preset(
                protocol=small,
                methods=every_method(interpolation="interpolation:strength=0.5", replay="replay"),
                seeds=3,
                help="as small, with every method and control",
                folder="small",
            ),
            "paper": Preset(protocol=paper, methods=METHODS, seeds=3, help="GPT-2 124M; needs GPUs"),
            "smoke": Preset(
                protocol=tiny,
                methods=("base", "fire", "lora:rank=2", "fire+lora:rank=2"),
                seeds=2,
                help="made-up text: does it run? seconds",
            ),
        },
        summary={"phase_label": "phase", "curves": ["metric/loss_new", "metric/loss_old"]},
    )
