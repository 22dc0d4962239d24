"""Damaged, dangerous or impossible: each ends in one sentence, with nothing lost and nothing run."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from replastic.errors import CheckpointError, UserError
from replastic.weights import draft as draft_module
from replastic.weights import safetensors_archive as archive_module
from replastic.weights.checkpoint import CheckpointStore


def make(folder: Path) -> Path:
    """A folder of two shards with one tensor each."""
    folder.mkdir(parents=True)
    for i in range(2):
        save_file({f"l{i}.weight": torch.full((8, 8), float(i))}, folder / f"model-{i}.safetensors")
    index = {"weight_map": {f"l{i}.weight": f"model-{i}.safetensors" for i in range(2)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def one_line(error: pytest.ExceptionInfo[Any]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert isinstance(error.value, UserError)
    return text


def write(store: CheckpointStore) -> None:
    with store.transaction() as transaction:
        transaction.stage("l0.weight", torch.ones(8, 8))
        transaction.commit()


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut in the middle of the tensors": (lambda p: cut(p, p.stat().st_size - 20), "is cut short: its header promises"),
    "cut inside the header": (lambda p: cut(p, 30), "ends inside its header"),
    "empty": (lambda p: p.write_bytes(b""), "is not a safetensors file"),
    "wrong magic": (lambda p: p.write_bytes(b"PK\x03\x04" * 50), "is not a safetensors file"),
    "header no JSON": (lambda p: p.write_bytes((5).to_bytes(8, "little") + b"hello"), "its header is not JSON"),
    "header no table": (lambda p: p.write_bytes((2).to_bytes(8, "little") + b"[]"), "its header is not a table"),
    "LFS pointer": (
        lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n"),
        "is a Git LFS pointer.*git lfs pull",
    ),
    "trailing bytes": (lambda p: p.write_bytes(p.read_bytes() + b"x"), "1 bytes more than its header describes"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("sharded", [False, True])
def test_damaged_safetensors(damage: str, sharded: bool, tmp_path: Path) -> None:
    folder = make(tmp_path / "in")
    shard = folder / "model-1.safetensors"
    spoil, message = DAMAGES[damage]
    spoil(shard)
    with pytest.raises(CheckpointError, match=message) as caught:
        CheckpointStore(folder if sharded else shard)
    assert str(shard) in one_line(caught)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 4]}, "contradicts its shape"),
        ({"dtype": "F3", "shape": [1], "data_offsets": [0, 4]}, "dtype F3"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}, "does not begin where"),
        ({"dtype": "F32", "shape": [1]}, "entry for x is damaged"),
        ("F32", "entry for x is damaged"),
        ({"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}, "entry for x is damaged"),
        ({"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}, "entry for x is damaged"),
        ({"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}, "entry for x is damaged"),
        ({"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}, "entry for x is damaged"),
        ({"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}, "entry for x is damaged"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [0.0, 4.0]}, "entry for x is damaged"),
        ({"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}, "entry for x is damaged"),
    ],
)
def test_header_that_contradicts_itself(fields: object, message: str, tmp_path: Path) -> None:
    header = json.dumps({"x": fields}).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match=message):
        CheckpointStore(path)


@pytest.mark.parametrize("header", [b'{"__metadata__": [1]}', b'{"__metadata__": "x"}', b"[" * 10**5, b'{"\xff": 3}'])
def test_header_that_cannot_be_read(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="is not a safetensors file") as caught:
        CheckpointStore(tmp_path / "a.safetensors")
    one_line(caught)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "the index .* is damaged"),
        ("[]", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": "../../etc/passwd"}}', "not in a file beside it"),
        ('{"weight_map": {"a": ""}}', "not in a file beside it"),
        ("[" * 10**5, "the index .* is damaged"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "1 of 1 shards are missing, such as gone.safetensors"),
        ('{"weight_map": {"gone.weight": "model-0.safetensors"}}', "puts gone.weight into model-0.safetensors"),
    ],
)
def test_damaged_index(content: str, message: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "in")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        CheckpointStore(folder)
    one_line(caught)


def test_wrong_paths(tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*modle; did you mean .*model\?"):
        CheckpointStore(tmp_path / "modle")
    with pytest.raises(CheckpointError, match="is an index, not weights: give its folder"):
        CheckpointStore(folder / "model.safetensors.index.json")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match="2 safetensors files but no index"):
        CheckpointStore(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no safetensors file"):
        CheckpointStore(tmp_path / "empty")
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "empty" / "w.pt")
    with pytest.raises(CheckpointError, match=r"give the file itself, such as .*w\.pt"):
        CheckpointStore(tmp_path / "empty")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="not a checkpoint that can be read"):
        CheckpointStore(tmp_path / "notes.txt")


class Evil:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("old_format", [False, True])
def test_pickle_with_code_is_refused_and_not_run(old_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save(
        {"state_dict": {"a.weight": torch.ones(2, 2)}, "x": Evil(f"touch {tmp_path / 'ran'}")},
        path,
        _use_new_zipfile_serialization=not old_format,
    )
    with pytest.raises(CheckpointError, match=r"is refused: .*(posix|os)\.system.* could run code") as caught:
        CheckpointStore(path)
    one_line(caught)
    assert not (tmp_path / "ran").exists()


def test_bare_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.bin"
    path.write_bytes(pickle.dumps({"a": Evil(f"touch {tmp_path / 'ran'}")}))
    with pytest.raises(CheckpointError) as caught:
        CheckpointStore(path)
    one_line(caught)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged or not a PyTorch checkpoint"),
        (b"PK\x03\x04" + bytes(50), "damaged or not a PyTorch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (bytes(range(256)), "damaged or not a PyTorch checkpoint"),
    ],
)
def test_damaged_pickle(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        CheckpointStore(tmp_path / "a.pt")
    one_line(caught)


def test_pickle_cut_short(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(50, 50)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for size in (1, 30, 4000, len(whole) - 10):
        (tmp_path / "a.pt").write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="damaged or not a PyTorch checkpoint") as caught:
            CheckpointStore(tmp_path / "a.pt")
        assert not any(word in one_line(caught) for word in ("miniz", "Invalid argument", "StreamReader"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_says_how_to_get_its_weights(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="is a TorchScript archive: save its state dict") as caught:
        CheckpointStore(tmp_path / "a.pt")
    one_line(caught)


def test_links_to_nowhere_and_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="is a link to a file or folder that does not exist"):
        CheckpointStore(tmp_path / "a.safetensors")
    (tmp_path / "b.py").touch()
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*b\.pt$"):
        CheckpointStore(tmp_path / "b.pt")


def test_pickle_without_or_with_too_many_state_dicts(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "loss": [1.0]}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        CheckpointStore(tmp_path / "a.pt")
    torch.save({"actor": {"w": torch.ones(2)}, "critic": {"w": torch.ones(2)}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"several state dicts \(actor, critic\)"):
        CheckpointStore(tmp_path / "a.pt")


def test_destination_never_touches_the_input(tmp_path: Path) -> None:
    folder = make(tmp_path / "in")
    (tmp_path / "link").symlink_to(folder)
    for destination in (folder, folder / "sub", tmp_path, tmp_path / "link", tmp_path / "in" / ".." / "in"):
        with pytest.raises(CheckpointError, match="never altered"):
            CheckpointStore(folder, destination=destination, overwrite=True)
    file = folder / "model-0.safetensors"
    with pytest.raises(CheckpointError, match="never altered"):
        CheckpointStore(file, destination=file, overwrite=True)
    with pytest.raises(CheckpointError, match="never altered"):
        CheckpointStore(file, destination=folder, overwrite=True)
    with pytest.raises(CheckpointError, match=r"must end in \.safetensors"):
        CheckpointStore(file, destination=tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="does not exist; make it first"):
        CheckpointStore(file, destination=tmp_path / "gone" / "a.safetensors")


def test_existing_output_is_replaced_only_when_asked(tmp_path: Path) -> None:
    folder, out = make(tmp_path / "in"), make(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"exists already.*--overwrite"):
        CheckpointStore(folder, destination=out)
    write(CheckpointStore(folder, destination=out, overwrite=True))
    assert torch.equal(load_file(out / "model-0.safetensors")["l0.weight"], torch.ones(8, 8))
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    file = tmp_path / "out.safetensors"
    file.write_text("old")
    write(CheckpointStore(folder / "model-0.safetensors", destination=file, overwrite=True))
    assert torch.equal(load_file(file)["l0.weight"], torch.ones(8, 8))


def test_overwriting_never_deletes_other_files(tmp_path: Path) -> None:
    folder, out = make(tmp_path / "in"), make(tmp_path / "out")
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"holds thesis\.txt, which the new output would not replace"):
        CheckpointStore(folder, destination=out, overwrite=True)
    (out / "thesis.txt").unlink()
    store = CheckpointStore(folder, destination=out, overwrite=True)
    with store.transaction() as transaction:
        transaction.stage("l0.weight", torch.ones(8, 8))
        (out / "late.txt").write_text("saved during the rewrite")
        with pytest.raises(CheckpointError, match=r"late\.txt"):
            transaction.commit()
    assert (out / "late.txt").read_text() == "saved during the rewrite"
    assert torch.equal(load_file(out / "model-0.safetensors")["l0.weight"], torch.zeros(8, 8))
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_folder_is_replaced_without_exchange_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_module, "_exchange", lambda a, b: False)
    folder, out = make(tmp_path / "in"), make(tmp_path / "out")
    write(CheckpointStore(folder, destination=out, overwrite=True))
    assert torch.equal(load_file(out / "model-0.safetensors")["l0.weight"], torch.ones(8, 8))
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_output_made_by_someone_else_meanwhile_is_kept(tmp_path: Path) -> None:
    folder = make(tmp_path / "in")
    store = CheckpointStore(folder, destination=tmp_path / "out")
    with store.transaction() as transaction:
        transaction.stage("l0.weight", torch.ones(8, 8))
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "theirs").write_text("theirs")
        with pytest.raises(CheckpointError, match="made by someone else"):
            transaction.commit()
    assert bytes((tmp_path / "out" / "theirs").read_bytes()) == b"theirs"
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_no_room_is_said_before_anything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "in")
    usage = draft_module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(draft_module.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(CheckpointError, match=r"needs 0\.0 MB, but only 0\.0 MB are free"):
        write(CheckpointStore(folder, destination=tmp_path / "out"))
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.parametrize("suffix", ["", ".pt"])
def test_disk_that_fills_up_leaves_nothing(suffix: str, tmp_path: Path) -> None:
    """The limit on the size of a file is the kernel's own refusal to write more."""
    source = make(tmp_path / "in")
    if suffix:
        source = tmp_path / "in.pt"
        torch.save({"l0.weight": torch.zeros(8, 8), "big": torch.zeros(50_000)}, source)
    else:
        save_file({"l0.weight": torch.zeros(8, 8), "z": torch.zeros(50_000)}, source / "model-0.safetensors")
        index = {"weight_map": {"l0.weight": "model-0.safetensors", "z": "model-0.safetensors"}}
        (source / "model.safetensors.index.json").write_text(json.dumps(index))
    before = sorted(os.listdir(tmp_path))
    store = CheckpointStore(source, destination=tmp_path / f"out{suffix}")
    store.entries()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*out.*nothing was changed or left behind") as caught:
            write(store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(caught)
    assert sorted(os.listdir(tmp_path)) == before


def test_error_of_the_disk_while_publishing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "in")

    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(draft_module.os, "rename", refuse)
    with pytest.raises(CheckpointError, match="Read-only file system"):
        write(CheckpointStore(folder, destination=tmp_path / "out"))
    assert os.listdir(tmp_path) == ["in"]


def test_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path / "in")
    monkeypatch.setattr(draft_module.os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(CheckpointError, match="is not writable"):
        CheckpointStore(folder, destination=tmp_path / "out")


def killed_while_writing(folder: Path, out: Path, owner: object, function: str) -> None:
    """Rewrite in a child process that kills itself when it comes to that function."""
    child = os.fork()
    if not child:
        try:
            store = CheckpointStore(folder, destination=out, overwrite=True)
            with store.transaction() as transaction:
                transaction.stage("l0.weight", torch.ones(8, 8))
                setattr(owner, function, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
                transaction.stage("l1.weight", torch.ones(8, 8))
                transaction.commit()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("owner", "function", "published", "existing"),
    [
        (archive_module.shutil, "copyfile", False, False),
        (archive_module.shutil, "copyfile", False, True),
        (archive_module, "sync", False, False),
        (archive_module, "sync", False, True),
        (draft_module, "_exchange", False, True),
        (draft_module, "sync", True, False),
        (draft_module, "sync", True, True),
    ],
)
def test_kill_leaves_the_old_output_or_the_new_one(
    owner: object, function: str, published: bool, existing: bool, tmp_path: Path
) -> None:
    folder, out = make(tmp_path / "in"), tmp_path / "out"
    if existing:
        make(out)
    killed_while_writing(folder, out, owner, function)
    assert out.exists() == (existing or published)
    if out.exists():
        values = [float(load_file(out / f"model-{i}.safetensors")[f"l{i}.weight"][0, 0]) for i in range(2)]
        assert values == ([1.0, 1.0] if published else [0.0, 1.0])
    assert all(n in ("in", "out") or n.startswith(".out.replastic-") for n in os.listdir(tmp_path))
    write(CheckpointStore(folder, destination=out, overwrite=True))
    assert sorted(os.listdir(tmp_path)) == ["in", "out"], "the next rewrite clears what the killed one left"


def test_draft_of_a_running_process_is_left_alone(tmp_path: Path) -> None:
    folder = make(tmp_path / "in")
    store = CheckpointStore(folder, destination=tmp_path / "out")
    assert store.destination == tmp_path / "out"
    other = tmp_path / f".out.replastic-{draft_module.socket.gethostname()}-{os.getppid()}"
    other.mkdir()
    write(store)
    assert other.exists()
