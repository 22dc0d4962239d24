"""The probe of float32 products: what is inaccurate or slow is refused, the answer is kept, the setting comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from replastic import fire_
from replastic.linalg import matmul
from replastic.linalg.matmul import SWITCH, fastest_products, seconds_in_turn

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path))
    monkeypatch.delenv(SWITCH, raising=False)
    matmul._one_dnn_is_better.cache_clear()
    yield
    matmul._one_dnn_is_better.cache_clear()


def pretend(monkeypatch: pytest.MonkeyPatch, *, usual: float, other: float, accurate: bool = True) -> None:
    monkeypatch.setattr(matmul, "ACCURATE", 1.0 if accurate else 0.0)
    monkeypatch.setattr(matmul, "seconds_in_turn", lambda *works: [usual, other])


@pytest.mark.parametrize(
    ("usual", "other", "accurate", "chosen"),
    [(1.0, 0.5, True, "oneDNN"), (1.0, 0.95, True, ""), (1.0, 0.1, False, "")],
)
def test_only_what_is_accurate_and_faster_is_taken(
    usual: float, other: float, accurate: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, usual=usual, other=other, accurate=accurate)
    with fastest_products(CPU) as products:
        assert products == chosen
        assert torch.get_float32_matmul_precision() == ("medium" if chosen else "highest")
    assert torch.get_float32_matmul_precision() == "highest"


def test_the_answer_is_kept_on_disk_with_the_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, usual=1.0, other=0.5)
    with fastest_products(CPU):
        pass
    (file,) = tmp_path.glob("products-*.txt")
    assert torch.__version__ in file.read_text()
    assert file.read_text().endswith(": oneDNN\n")
    matmul._one_dnn_is_better.cache_clear()
    monkeypatch.delattr(matmul, "_measured")  # it is not measured again
    with fastest_products(CPU) as products:
        assert products == "oneDNN"
    file.write_text("torn")
    matmul._one_dnn_is_better.cache_clear()
    with pytest.raises(NameError):
        fastest_products(CPU).__enter__()


def test_a_folder_that_cannot_be_written_does_no_harm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pretend(monkeypatch, usual=1.0, other=0.5)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path / "file"))
    with fastest_products(CPU) as products:
        assert products == "oneDNN"


def test_the_flag_turns_it_off_and_the_outcome_says_what_was_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, usual=1.0, other=0.5)
    told = [layer.facts.get("products") for layer in fire_(torch.nn.Linear(8, 8), target_modules="all-linear").layers]
    assert told == ["oneDNN"]
    monkeypatch.setenv(SWITCH, "default")
    told = [layer.facts.get("products") for layer in fire_(torch.nn.Linear(8, 8), target_modules="all-linear").layers]
    assert told == [None]


def test_a_gpu_has_products_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, usual=1.0, other=0.5)
    with fastest_products(torch.device("cuda")) as products:
        assert products == ""


def test_times_are_the_least_of_several_rounds_in_turn() -> None:
    order: list[int] = []
    least = seconds_in_turn(lambda: order.append(0), lambda: order.append(1))
    assert order == [0, 1] * (len(order) // 2)
    assert len(order) > 2
    assert all(0 < seconds < 1 for seconds in least)
