"""Continued fine-tuning: a language model of two corpora learns a third, small one; what does it forget?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from replastic.benchmarks.language_warm_start import language_warm_start
from replastic.experiments.spec import BenchmarkSpec, Preset, every_method, register
from replastic.learners.language import Language
from replastic.training import Protocol

ATTENTION = "fire:targets=*attn.c_attn"
"""FIRE on queries, keys and values alone; the preset `attention` leaves the values out, too."""
METHODS = ("base", "fire", ATTENTION, "rescale", "shrink_perturb", "replay")


def fine_tuned(pretrained: Protocol, **task: Any) -> Protocol:
    """The protocol of a warm start with a third phase, at whose beginning the methods act."""
    assert isinstance(pretrained.task, Language)
    changed = replace(pretrained.task, plasticity_corpus="", **task)
    return replace(pretrained, task=changed, recipe="blocks", methods_from=2)


@register("language_fine_tuning", reference="https://arxiv.org/abs/2602.08040")
def language_fine_tuning() -> BenchmarkSpec:
    """A language model fine-tuned on a third, small corpus; score: its validation loss, beside that of the first."""
    presets = language_warm_start().presets
    speeches = "tinyshakespeare:characters=300000"
    small = fine_tuned(presets["small"].protocol, third=speeches, third_updates=300, first_updates=1500)
    paper = fine_tuned(presets["paper"].protocol, third="tinyshakespeare", third_updates=1000)
    tiny = fine_tuned(presets["smoke"].protocol, third="grammar:count=20,dialect=2", third_updates=6, adapters=2)
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
                methods=("base", "fire"),
                seeds=3,
                help="as small, with queries and keys alone rewritten",
            ),
            "lora": Preset(
                protocol=fine_tuned(small, adapters=8),
                methods=("base", "fire", ATTENTION),
                seeds=3,
                help="as small, but the third phase trains adapters: FIRE rewrites the base, which is then frozen",
            ),
            "full": Preset(
                protocol=small,
                methods=every_method(
                    interpolation="interpolation:strength=0.5",
                    **{name: name for name in ("average", "from_checkpoint", "replay")},
                ),
                seeds=3,
                help="as small, with every method and control",
                folder="small",
            ),
            "paper": Preset(protocol=paper, methods=METHODS, seeds=3, help="GPT-2 124M; needs GPUs"),
            "smoke": Preset(
                protocol=tiny,
                methods=("base", "fire"),
                seeds=2,
                help="made-up text: does it run? seconds",
            ),
        },
        summary={"phase_label": "phase", "curves": ["metric/loss_new", "metric/loss_between", "metric/loss_old"]},
    )
