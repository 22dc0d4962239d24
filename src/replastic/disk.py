"""Files that appear whole or not at all, temporaries that no kill leaves for good, and paths as people write them."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from replastic.errors import UserError

_TEMPORARY = re.compile(r"\.replastic-([0-9a-f]{8})-(\d+)-(\d+)-[0-9a-f]{8}\.tmp(?:\.journal)?")
"""Names of temporaries: machine, process, start of the process (see `_start`), and something random. The end is that of
a journal (`journal_of`)."""
_JOURNAL = ".journal"
FORGOTTEN = 86400.0
"""Seconds without a write after which a temporary of another machine, or one with a journal, counts as left behind."""


CACHE = "REPLASTIC_CACHE"
"""Environment variable: the folder of `cache_folder`; ``~/.cache/replastic`` if it is not set."""


def user_path(given: str | Path) -> Path:
    """A path as a person writes it: ``~`` and ``~name`` at its beginning are home folders.

    Raises:
        UserError: There is no such user, or the text cannot be a path.
    """
    if "\0" in str(given):
        raise UserError(f"{str(given)!r} cannot be a path: it holds a null character")
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise UserError(f"{str(given)!r} begins with the home folder of a user who is not known here") from None


def cache_folder() -> Path:
    """The folder of what is made once and kept: decoded images, tokenizers, tokens, what a probe found."""
    return user_path(os.environ.get(CACHE) or "~/.cache/replastic")


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new, never a part of it.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """`write_text` for bytes, such as a picture."""
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise not_written(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file. What the block writes there takes the place of `path`, on the disk for good.

    If the block or the disk fails, `path` is what it was, and the temporary is gone.

    Raises:
        OSError: The disk is full or the folder cannot be written.
    """
    _clear_once(path.parent)
    draft = temporary(path.parent)
    try:
        yield draft
        sync(draft)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a new folder for temporary files, which is removed with all that is in it when the block ends.

    Raises:
        UserError: The folder of the system for temporary files cannot be written.
    """
    clear_scratch()
    folder = temporary(Path(tempfile.gettempdir()))
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise not_written(folder, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear(folder: Path) -> None:
    """Remove the temporaries in a folder that belong to processes which are gone; those of living ones stay.

    Of a process on another machine nobody here can say whether it lives: its temporaries are removed when nothing was
    written to them for a day. A temporary with a journal, with which a later process can go on, stays as long.
    """
    for path in abandoned(folder):
        journal = journal_of(path)
        if not journal.exists() or _idle(journal) >= FORGOTTEN:
            remove(path)
            remove(journal)


def abandoned(folder: Path) -> list[Path]:
    """The temporaries in a folder that belong to processes which are gone. A journal belongs to its temporary."""
    found: list[Path] = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            mark = _TEMPORARY.fullmatch(entry.name)
            if mark and not _is_in_use(Path(entry.path), *mark.groups()):
                found.append(Path(entry.path))
    names = {path.name for path in found}
    return [p for p in found if not (p.name.endswith(_JOURNAL) and p.name.removesuffix(_JOURNAL) in names)]


def given_up(path: Path) -> Path:
    """A name for a temporary of this process under which it counts as abandoned, though the process lives."""
    mark = _TEMPORARY.fullmatch(path.name)
    assert mark is not None
    start, end = mark.span(3)
    return path.with_name(f"{path.name[:start]}1{path.name[end:]}")  # no process began with the machine


def journal_of(temporary: Path) -> Path:
    """The place of the file that says how far the work on a temporary has come."""
    return temporary.with_name(f"{temporary.name}{_JOURNAL}")


def clear_below(folder: Path) -> None:
    """`clear` for a folder and all below it. Links are not followed."""
    for path, _, _ in os.walk(folder):
        clear(Path(path))


def clear_scratch() -> None:
    """`clear` for the system's folder of temporary files, where `scratch` makes its own."""
    clear(Path(tempfile.gettempdir()))


def temporary(folder: Path) -> Path:
    """A path for a temporary file or folder, which `clear` knows by its name when this process is gone."""
    process = os.getpid()
    return folder / f".replastic-{_machine()}-{process}-{_start(process)}-{secrets.token_hex(4)}.tmp"


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it, as far as the system lets us."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless it is there.

    Raises:
        UserError: A file has that name, or the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_written(path, error) from error


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk. Windows cannot do that for a folder."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def not_written(path: Path, error: OSError) -> UserError:
    """The sentence for a path that cannot be written."""
    return UserError(f"cannot write {path}: {error.strerror or error}")


def check_disk(folder: Path, needed: int, thing: str, remedy: str) -> None:
    """See that a file of `needed` bytes can be written to a folder, which need not exist yet.

    Args:
        folder: The folder.
        needed: Bytes.
        thing: The file in words, with which the message begins.
        remedy: The way to need less, in the imperative.

    Raises:
        UserError: There is less room.
    """
    place = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    if needed > free:
        raise UserError(
            f"{thing} needs {needed / 1e9:.3g} GB on the disk of {folder}, and {free / 1e9:.3g} GB are free: {remedy}"
        )


@cache
def _clear_once(folder: Path) -> None:
    """`clear`, when this process writes to the folder for the first time."""
    clear(folder)


@cache
def _machine() -> str:
    """This machine, or the container that has process numbers of its own."""
    try:
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = ""
    return hashlib.sha256(f"{socket.gethostname()} {processes}".encode()).hexdigest()[:8]


def _start(process: int) -> int:
    """When a living process began, in clock ticks since the machine began; 0 where the system does not say.

    Raises:
        ProcessLookupError: The process has ended.
    """
    try:
        facts = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0
    if facts[0] in "ZX":
        raise ProcessLookupError(f"process {process} has ended, though its parent has not noticed")
    return int(facts[19])


def _is_in_use(path: Path, machine: str, process: str, start: str) -> bool:
    """Whether the process that made a temporary may still live; see `clear`."""
    if machine != _machine() or os.name != "posix":
        return _idle(path) < FORGOTTEN
    try:
        os.kill(int(process), 0)
        return _start(int(process)) in (0, int(start))
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True


def _idle(path: Path) -> float:
    """Seconds since something was written to a temporary file or folder."""
    times = [0.0]
    for file in (path, *path.rglob("*")):
        with suppress(OSError):
            times.append(file.lstat().st_mtime)
    return time.time() - max(times)
