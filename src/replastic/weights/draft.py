"""An output that appears whole or not at all: it is built under a hidden name and put in its place by one rename."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from replastic.errors import CheckpointError

_MARK = ".replastic-"
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_AT_FDCWD = -100


class Draft:
    """A file or folder that will become `destination`.

    The user's files are never deleted. An existing output is replaced only if `overwrite` is True; for a folder, each
    file in it must also have a successor in the new one. The exchange is a single rename, on Linux also for folders.
    Elsewhere the old folder is renamed first, so a kill between the two renames leaves both under hidden names. A
    killed process leaves its draft behind. The next process with the same destination removes it.

    Args:
        destination: Path of the output.
        overwrite: Whether it may replace an existing file or folder.

    Raises:
        CheckpointError: The path exists and `overwrite` is False, or the folder around it does not exist or is not
            writable.
    """

    def __init__(self, destination: Path, *, overwrite: bool = False) -> None:
        self.destination = destination
        self.overwrite = overwrite
        parent = destination.absolute().parent
        if not parent.is_dir():
            raise CheckpointError(f"the folder {parent} does not exist; make it first")
        if not os.access(parent, os.W_OK):
            raise CheckpointError(f"cannot write {destination}: the folder {parent} is not writable")
        if not overwrite and os.path.lexists(destination):
            raise CheckpointError(
                f"{destination} exists already; give another destination, or pass overwrite=True (--overwrite)"
            )
        self.path = parent / f".{destination.name}{_MARK}{socket.gethostname()}-{os.getpid()}"

    def begin(self, size: int) -> None:
        """Remove drafts of killed processes for the same output, and check that `size` bytes fit.

        Raises:
            CheckpointError: The disk has less room.
        """
        for left in self.path.parent.glob(f".{self.destination.name}{_MARK}{socket.gethostname()}-*"):
            if left == self.path or not _is_running(left.name.rsplit("-", 1)[1]):
                _remove(left)
        free = shutil.disk_usage(self.path.parent).free
        if free < size:
            raise CheckpointError(
                f"{self.destination} needs {size / 1e6:,.1f} MB, but only {free / 1e6:,.1f} MB are free there"
            )

    def publish(self) -> Callable[[], None]:
        """Put the draft in its place and return a function that removes it again.

        Raises:
            CheckpointError: Something else has appeared in its place, or the place holds files that the draft would
                not replace.
        """
        replaced = os.path.lexists(self.destination)
        with writing(self.destination):
            if not replaced:
                os.rename(self.path, self.destination)
            elif not self.overwrite:
                raise CheckpointError(f"{self.destination} was made by someone else meanwhile; nothing was written")
            elif self.path.is_dir():
                self._replace_folder()
            else:
                os.replace(self.path, self.destination)
            sync(self.destination.absolute().parent)
        return _cannot_undo(self.destination) if replaced else _undo(self.destination)

    def discard(self) -> None:
        """Remove the unfinished output."""
        _remove(self.path)

    def check_replaceable(self, names: set[str]) -> None:
        """Check that every file of an existing folder has a successor among `names` (paths relative to the folder).

        Raises:
            CheckpointError: The folder holds other files, or the path is no folder.
        """
        if not os.path.lexists(self.destination):
            return
        if not self.destination.is_dir() or self.destination.is_symlink():
            raise CheckpointError(f"{self.destination} is not a folder; give another destination")
        strangers = sorted(tree(self.destination) - names)
        if strangers:
            named = ", ".join(strangers[:3]) + " and more" * (len(strangers) > 3)
            raise CheckpointError(
                f"{self.destination} holds {named}, which the new output would not replace; give another destination, "
                "or move them away"
            )

    def _replace_folder(self) -> None:
        self.check_replaceable(tree(self.path))
        old = self.path
        if not _exchange(self.path, self.destination):
            old = self.path.with_name(self.path.name + "-old")
            os.rename(self.destination, old)
            os.rename(self.path, self.destination)
        sync(self.path.parent)
        _remove(old)


@contextmanager
def writing(destination: Path) -> Iterator[None]:
    """Turn errors of the operating system into one sentence about `destination`.

    Raises:
        CheckpointError: The disk is full, a quota is reached, or the path cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write {destination}: {error.strerror or error}; nothing was changed or left behind"
        ) from error


def sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def tree(folder: Path) -> set[str]:
    """Paths of all files below a folder, relative to it."""
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}


def _exchange(a: Path, b: Path) -> bool:
    """Swap two paths in one step. Returns False, and does nothing, on a system that cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, TypeError, AttributeError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _EXCHANGE) == 0)


def _is_running(process: str) -> bool:
    if os.name != "posix" or not process.isdigit():
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _undo(destination: Path) -> Callable[[], None]:
    written = {p: (destination / p).stat().st_mtime_ns for p in _files(destination)}

    def undo() -> None:
        if {p: (destination / p).stat().st_mtime_ns for p in _files(destination)} != written:
            raise CheckpointError(f"{destination} was changed since it was written, so it is left as it is")
        _remove(destination)

    return undo


def _cannot_undo(destination: Path) -> Callable[[], None]:
    def undo() -> None:
        raise CheckpointError(f"{destination} replaced an older output, which cannot be brought back")

    return undo


def _files(path: Path) -> set[str]:
    return tree(path) if path.is_dir() else {""}
