"""Tokenizers: GPT-2's known ids, training, files, and specs that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replastic.data.tokenizer import END, Tokenizer, tokenizer
from replastic.errors import UserError

GPT2 = Path(os.environ.get("REPLASTIC_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "gpt2_bpe"
TEXTS = ["the cat sat on the mat", "the hat of the cat", "ünïcode\n"] * 5


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path / "cache"))


def never() -> list[str]:
    raise AssertionError("nothing is trained")


def same(by: Tokenizer, text: str) -> None:
    assert by.decode(by.encode([text])[0]) == text


@pytest.mark.skipif(not GPT2.is_dir(), reason="GPT-2's vocabulary is not here")
def test_gpt2_gives_the_known_ids() -> None:
    by = tokenizer(f"gpt2:source={GPT2}", never)
    assert (by.size, by.end, by.digest) == (50257, 50256, "gpt2")
    assert by.encode(["Hello world", " a b"]) == [[15496, 995], [257, 275]]
    same(by, "naïve ☃\n")


def test_a_trained_tokenizer_is_kept_and_reads_back() -> None:
    by = tokenizer("bpe:size=270", lambda: TEXTS, ["key"])
    assert 257 < by.size <= 270
    assert max(max(ids) for ids in by.encode(TEXTS)) < by.size
    same(by, "the ünï ☃")
    assert by.decode([by.end]) == END
    assert tokenizer("bpe:size=270", never, ["key"]).digest == by.digest
    assert tokenizer("bpe:size=270", lambda: ["other text"] * 9, ["other"]).digest != by.digest


def test_the_end_of_a_document_in_a_text_is_text() -> None:
    by = tokenizer("bpe:size=260", lambda: TEXTS)
    ids = by.encode([f"a {END} b"])[0]
    assert by.end not in ids
    assert by.decode(ids) == f"a {END} b"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("bert", "no tokenizer 'bert'"),
        ("bpe", "no tokenizer 'bpe'"),
        ("bpe:size=10", "257 or more, got '10'"),
        ("bpe:size=x", "257 or more, got 'x'"),
        ("file:source=missing.json", "there is no tokenizer"),
        ("gpt2:source=nowhere", "lacks encoder.json"),
    ],
)
def test_wrong_specs_say_what_to_do(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        tokenizer(spec, never)


def test_a_file_that_is_no_tokenizer_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="no file of the library tokenizers"):
        tokenizer(f"file:source={tmp_path / 'x.json'}", never)
