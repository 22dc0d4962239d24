"""`replastic sample`: what is drawn, from which models, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from replastic import experiments
from replastic.api.sampling import Writer, writer
from replastic.benchmarks import get
from replastic.cli.sample import main
from replastic.data.tokenizer import Tokenizer
from replastic.errors import UserError
from replastic.experiments.runs import execute
from replastic.networks._gpt_files import save_gpt
from replastic.networks.gpt import Gpt, GptModule

LETTERS = Tokenizer(
    "letters",
    5,
    4,
    lambda texts: [["abcd".index(c) for c in t] for t in texts],
    lambda ids: "".join("abcd"[i] for i in ids),
)


class Table(torch.nn.Module):
    """The logits of the next of five tokens, and of three that pad the vocabulary, by the last token alone."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.seen = logits, 0

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.seen = max(self.seen, tokens.shape[1])
        return self.logits[tokens]


def chain() -> Table:
    """After a comes b, then c, d, and the end; a padded token is likeliest of all, but is none."""
    logits = torch.full((5, 8), -9.0)
    for last, following in enumerate((1, 2, 3, 4, 0)):
        logits[last, following] = 9.0
    logits[:, 6] = 99.0
    return Table(logits)


def test_the_likeliest_tokens_up_to_the_end() -> None:
    assert Writer(chain(), LETTERS, 2).write("ab", 50, temperature=0) == "abcd"
    assert Writer(chain(), LETTERS, 2).write("", 2, temperature=0) == "ab"
    model = chain()
    Writer(model, LETTERS, 2).write("abab", 3, temperature=0)
    assert model.seen == 2, "no more is read than the model can"


def test_draws_follow_the_probabilities_and_the_seed() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.2, 1e-9, 1e-9, 1.0, 1.0, 1.0])).expand(5, 8)
    model = Writer(Table(logits), LETTERS, 4)
    text = model.write("a", 3000)[1:]
    shares = [text.count(c) / len(text) for c in "abc"]
    assert shares == pytest.approx([0.5, 0.3, 0.2], abs=0.04)
    assert model.write("a", 50) == model.write("a", 50) != model.write("a", 50, seed=1)
    cold = model.write("a", 3000, temperature=0.5)[1:]
    assert cold.count("a") / len(cold) == pytest.approx(0.25 / 0.38, abs=0.04)
    few = model.write("a", 500, top_k=2)[1:]
    assert set(few) == {"a", "b"}


@pytest.mark.parametrize("given", [{"count": 0}, {"temperature": -1.0}, {"top_k": -1}, {"temperature": float("nan")}])
def test_numbers_out_of_range(given: dict[str, float]) -> None:
    with pytest.raises(UserError, match="length must be 1 or more, temperature and top_k 0 or more"):
        Writer(chain(), LETTERS, 2).write("a", **{"count": 5, **given})  # type: ignore[arg-type]


def test_a_broken_model_says_so() -> None:
    with pytest.raises(UserError, match="not finite"):
        Writer(Table(torch.full((5, 8), torch.nan)), LETTERS, 2).write("a", 5)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smoke experiment of the language benchmark: one shared phase and one run."""
    folder = tmp_path_factory.mktemp("sample")
    spec = get("language_warm_start")()
    planned = experiments.plan(spec, spec.presets["smoke"].protocol, ("base",), (0,), folder)
    for job in (planned.jobs[0].shared(), planned.jobs[0]):
        assert job is not None
        execute(job, lambda phases: None)
    return folder


def test_runs_and_checkpoints_and_rewritten_ones(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, shared = experiment / "base" / "seed-0", experiment / ".shared" / "seed-0"
    early = shared / "checkpoints" / "phase-0-step-6.safetensors"
    elsewhere = experiment / "moved.safetensors"
    save_file({name: 1.5 * value for name, value in load_file(early).items()}, elsewhere)
    asked = [str(run), str(shared), str(early), str(elsewhere)]
    assert main([*asked[:3], "--prompt", "na", "--length", "12", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [*found] == asked[:3]
    assert found[asked[0]] != found[asked[1]]
    name, last = "transformer.h.0.mlp.c_fc.weight", early.with_name("phase-0-step-12.safetensors")
    assert torch.equal(writer(shared).model.state_dict()[name], load_file(last)[name])
    assert not torch.equal(load_file(early)[name], load_file(last)[name])
    assert all(text.startswith("na") for text in found.values())
    assert main([asked[3], "--run", str(shared), "--length", "5"]) == 0
    with pytest.raises(UserError, match=r"lies in no run's folder, .*: give --run FOLDER"):
        writer(elsewhere)
    with pytest.raises(UserError, match="knows 320 tokens and the tokenizer has"):
        writer(run, spec="bpe:size=400", text="grammar:count=300")
    save_gpt(GptModule(Gpt(depth=1, heads=2, dim=8), block=8, vocabulary=320), experiment / "gpt")
    with pytest.raises(UserError, match="trained on a corpus"):
        writer(experiment / "gpt", spec="bpe:size=300")


def test_a_folder_of_hugging_face(experiment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    save_gpt(GptModule(Gpt(depth=1, heads=2, dim=8), block=8, vocabulary=320), experiment / "gpt")
    asked = ["--tokenizer", "bpe:size=300", "--corpus", "grammar:count=30", "--prompt", "na", "--length", "20"]
    assert main([str(experiment / "gpt"), *asked]) == 0
    assert capsys.readouterr().out.startswith(f"{experiment / 'gpt'}:\nna")


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no folder of a GPT-2 .* no run with checkpoints"):
        writer(tmp_path)
