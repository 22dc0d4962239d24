"""One file of a checkpoint, opened once: whatever happens to its path afterwards, nothing of another file is read."""

from __future__ import annotations

import io
import os
import stat
import weakref
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from replastic.errors import CheckpointError

PIECE = 1 << 22
"""Bytes that are copied at once."""

Stamp = tuple[int, int, int, int]
"""Device, inode, size and time of the last change of a file's content."""


class InputFile:
    """A regular file, held open for as long as the object lives.

    Args:
        path: Its path, or that of a link to it.
        stamp: What the file was when it was first seen; None if this is the first look.

    Raises:
        CheckpointError: There is no such file, it cannot be read, is a pipe, a device or a folder, or is another one
            than `stamp` says.
    """

    def __init__(self, path: Path, stamp: Stamp | None = None) -> None:
        self.path = path
        self._reading = Lock()  # two threads may read, and a file has one position
        try:
            _refuse_others(path, os.stat(path).st_mode)
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
            self._file = open(handle, "rb", buffering=0)  # noqa: SIM115  closed when this object goes
            weakref.finalize(self, self._file.close)
            facts = os.fstat(handle)
        except (OSError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise _unreadable(path, error) from None
        _refuse_others(path, facts.st_mode)
        self.size = facts.st_size
        self.stamp = stamp_of(facts)
        if stamp not in (None, self.stamp):
            raise changed(path)

    def read(self, start: int, count: int) -> bytearray:
        """`count` bytes from `start` on.

        Raises:
            CheckpointError: The file ends before, cannot be read, or was changed since it was opened.
        """
        if start + count > self.size:  # before memory is taken
            raise _cut_short(self.path)
        content = bytearray(count)
        self.read_into(start, memoryview(content))
        return content

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer from the bytes from `start` on; errors as in `read`."""
        try:
            with self._reading:
                self._file.seek(start)
                while buffer:
                    count = self._file.readinto(buffer)
                    if not count:
                        raise _cut_short(self.path)
                    buffer = buffer[count:]
            now = stamp_of(os.fstat(self._file.fileno()))
        except OSError as error:
            raise _unreadable(self.path, error) from None
        if now != self.stamp:
            raise changed(self.path)

    def copy_to(self, target: BinaryIO, start: int = 0, end: int | None = None) -> None:
        """Write the content, or the bytes from `start` to `end`, into another file where that stands, in pieces.

        Raises:
            CheckpointError: As in `read`.
            OSError: The target cannot be written.
        """
        end = self.size if end is None else end
        for position in range(start, end, PIECE):
            target.write(self.read(position, min(PIECE, end - position)))

    def stream(self) -> io.BufferedReader:
        """The content as a file object of Python, for readers that need one."""
        return _Reader(self)

    def check(self) -> None:
        """Check that the path still leads to this file, with the content that was read.

        Raises:
            CheckpointError: It was moved away, replaced or written to.
        """
        check_stamp(self.path, self.stamp)


class _Reader(io.BufferedReader):
    """A file object that takes memory for what is there, however much is asked for."""

    def __init__(self, file: InputFile) -> None:
        super().__init__(_Stream(file))
        self._size = file.size

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


class _Stream(io.RawIOBase):
    def __init__(self, file: InputFile) -> None:
        self._input = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._input.size}[whence]
        if self._position < 0:
            raise ValueError(f"position {self._position} lies before the beginning of the file")
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view = memoryview(buffer)
        count = max(0, min(len(view), self._input.size - self._position))
        self._input.read_into(self._position, view[:count])
        self._position += count
        return count


def stamp_of(facts: os.stat_result) -> Stamp:
    """The stamp of a file: it tells one file and its content from others."""
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def check_stamp(path: Path, stamp: Stamp) -> None:
    """Check that a path leads to the same file with the same content as before.

    Raises:
        CheckpointError: It does not.
    """
    try:
        now = stamp_of(os.stat(path))
    except OSError:
        raise changed(path) from None
    if now != stamp:
        raise changed(path)


def changed(path: Path) -> CheckpointError:
    """The sentence for a file that is no longer the one that was opened."""
    return CheckpointError(
        f"{path} was replaced or written to while it was being read; nothing was written: try again when it rests"
    )


def _cut_short(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is cut short")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}")


def _refuse_others(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise CheckpointError(f"cannot read {path}: it is a folder")
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"cannot read {path}: it is a pipe or a device, not a file")
