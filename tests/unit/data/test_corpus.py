"""Corpora: documents of files and tables, and what is held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from replastic.data import corpus
from replastic.data.corpus import Corpus
from replastic.data.tokens import tokenise, tokenizer_for
from replastic.data.wikitext import WikiText
from replastic.errors import UserError


def all_of(found: Corpus, part: corpus.Part) -> list[str]:
    with found.documents(part) as documents:
        return list(documents)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("REPLASTIC_DATA", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "texts"
    place.mkdir()
    for number in range(300):
        (place / f"{number:03}.txt").write_text(f"text {number}\n\nsecond part {number}", encoding="utf-8")
    return place


def test_a_document_is_on_one_side_whole_and_in_any_order(folder: Path, tmp_path: Path) -> None:
    found = corpus.from_spec(f"text:source={folder},held_out=0.1")
    train, held = all_of(found, "train"), all_of(found, "validation")
    assert sorted(train + held) == sorted(f.read_text() for f in folder.iterdir())
    assert 10 <= len(held) <= 60
    other = tmp_path / "turned"
    other.mkdir()
    for number, file in enumerate(sorted(folder.iterdir(), reverse=True)):
        (other / f"{number:03}.txt").write_text(file.read_text())
    assert set(all_of(corpus.from_spec(f"text:source={other},held_out=0.1"), "validation")) == set(held)


def test_a_split_of_its_own_is_used(folder: Path) -> None:
    (folder / "valid_a.txt").write_text("held")
    found = corpus.from_spec(f"text:source={folder}")
    assert all_of(found, "validation") == ["held"]
    assert len(all_of(found, "train")) == 300


def test_paragraphs_and_the_first_characters(folder: Path) -> None:
    found = corpus.from_spec(f"text:source={folder},documents_are=paragraphs,held_out=0.1,characters=30")
    train = all_of(found, "train")
    assert all("\n\n" not in text for text in train)
    assert 30 <= sum(map(len, train)) < 50


def test_articles_are_put_together_at_their_titles() -> None:
    rows = ["", " = One = \n", "", " text \n", " = = Part = = \n", "", " = Two = \n", "more\n", " = no title = \n"]
    assert list(WikiText().rows(rows)) == [
        "\n",
        " = One = \n\n text \n = = Part = = \n\n",
        " = Two = \nmore\n = no title = \n",
    ]


def test_tokens_are_made_once_and_again_after_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = corpus.from_spec(f"text:source={folder},held_out=0.1")
    by = tokenizer_for("bpe:size=300", found)
    first = tokenise(found, by)
    text = by.decode(first.train.slice(0, first.train.facts.tokens).tolist())
    assert text == "".join(f"{t}<|endoftext|>" for t in all_of(found, "train"))
    stamps = [f.path.stat().st_mtime_ns for f in (first.train, first.validation)]
    first.validation.path.write_bytes(b"broken")
    again = tokenise(found, tokenizer_for("bpe:size=300", found))
    assert again.train.path.stat().st_mtime_ns == stamps[0]
    assert again.validation.facts == first.validation.facts
    monkeypatch.setattr("replastic.data.tokens.write_tokens", None)
    tokenise(found, by)


def test_identity_says_what_the_text_is(folder: Path) -> None:
    assert corpus.from_spec("wikitext2:source=here,characters=5").identity() == "wikitext2:characters=5"
    assert corpus.from_spec(f"text:source={folder}").identity() == f"text:source={folder}"


def test_wrong_sources_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    for spec, words in (
        ("text", "text:source=FOLDER"),
        (f"text:source={tmp_path}/none", "is not a folder"),
        ("english_novels", "needs a source"),
        (f"text:source={folder},held_out=0.000001", "no document to hold out"),
    ):
        with pytest.raises(UserError, match=words):
            all_of(corpus.from_spec(spec), "validation")
    (folder / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bad\.txt as UTF-8"):
        all_of(corpus.from_spec(f"text:source={folder}"), "train")


def test_the_end_of_shakespeare_is_held_out_in_whole_speeches(tmp_path: Path) -> None:
    speeches = [f"NAME {number}:\n{'word ' * 10}" for number in range(20)]
    (tmp_path / "input.txt").write_text("\n\n".join(speeches), encoding="utf-8")
    found = corpus.from_spec(f"tinyshakespeare:source={tmp_path}")
    assert all_of(found, "train") == speeches[:18]
    assert all_of(found, "validation") == speeches[18:]
    half = corpus.from_spec(f"tinyshakespeare:source={tmp_path},held_out=0.5,characters=100")
    assert all_of(half, "train") == speeches[:2]
    assert all_of(half, "validation") == speeches[10:]


def test_a_file_of_tokens_that_another_tokenizer_made_is_refused_and_left(folder: Path) -> None:
    found = corpus.from_spec(f"text:source={folder},held_out=0.1")
    one, other = (tokenizer_for(f"bpe:size={size}", found) for size in (300, 290))
    mine, theirs = tokenise(found, one).train.path, tokenise(found, other).train.path
    mine.write_bytes(theirs.read_bytes())
    with pytest.raises(UserError, match="made with another tokenizer: remove it"):
        tokenise(found, one)
    assert mine.read_bytes() == theirs.read_bytes()
