"""An output that appears whole or not at all: it is built under a hidden name and put in its place by one rename."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from replastic.disk import abandoned, clear, given_up, journal_of, remove, sync, temporary
from replastic.errors import CheckpointError
from replastic.text import printable
from replastic.weights.journal import Journal, Work, work_of
from replastic.weights.renames import exchange, rename_new


class Draft:
    """A file or folder that will become `destination`.

    The user's files are never deleted. An existing output is replaced only if `overwrite` is True; for a folder, each
    file in it must also have a successor in the new one. Nothing can come between looking at the place and taking it:
    `renames` says what each system gives. Where two folders cannot be exchanged, the old one is renamed first, so a
    kill between the two renames leaves both under hidden names.

    A killed process leaves its draft behind. If a journal says how far it had come, the next process with the same work
    takes it over; else, the next one that writes to the same folder removes it (`disk.clear`).

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
        self.path = temporary(parent)
        self.journal: Journal | None = None
        """How far the draft has come; None where nobody can go on with it."""

    def begin(self, size: int, facts: str = "") -> None:
        """Take over what a killed process left, remove what others left in the folder, and check that the rest fits.

        Args:
            size: Bytes of the output.
            facts: What makes two calls do the same work (`Work.facts`); empty if a later call could not go on.

        Raises:
            CheckpointError: The disk has less room.
        """
        work = Work(str(self.destination.absolute()), facts)
        for left in abandoned(self.path.parent):
            found = work_of(journal_of(left))
            if found == work and facts and not self.path.exists():
                self._take_over(left)
            elif found is None or found.destination == work.destination:  # nobody else will go on with it
                remove(left)
                remove(journal_of(left))
        clear(self.path.parent)
        needed = size - _occupied(self.path)
        free = shutil.disk_usage(self.path.parent).free
        if free < needed:
            raise CheckpointError(
                f"{self.destination} needs {needed / 1e6:,.1f} MB, but only {free / 1e6:,.1f} MB are free there"
            )
        if facts:
            self.journal = Journal(journal_of(self.path), work)

    def _take_over(self, left: Path) -> None:
        """Make the draft of a killed process that of this one, unless another process was faster."""
        try:
            os.rename(journal_of(left), journal_of(self.path))
            os.rename(left, self.path)
        except FileNotFoundError:
            remove(journal_of(self.path))

    def publish(self) -> Callable[[], None]:
        """Put the draft in its place and return a function that removes it again.

        Raises:
            CheckpointError: Something else has appeared in its place, or the place holds files that the draft would
                not replace.
        """
        with writing(self.destination):
            if self.journal is not None:
                self.journal.remove()  # first: what lies under the draft's name afterwards may be the old output
            replaced = self._take_place()
            sync(self.destination.absolute().parent)
        return _cannot_undo(self.destination) if replaced else _undo(self.destination)

    def _take_place(self) -> bool:
        """Rename the draft. Returns whether it replaced something."""
        try:
            rename_new(self.path, self.destination)
        except FileExistsError:
            if not self.overwrite:
                raise CheckpointError(
                    f"{self.destination} was made by someone else meanwhile; nothing was written"
                ) from None
            if self.path.is_dir():
                self._replace_folder()
            else:
                os.replace(self.path, self.destination)
            return True
        return False

    def discard(self) -> None:
        """Remove the unfinished output."""
        if self.journal is not None:
            self.journal.remove()
        _remove(self.path)

    def keep(self) -> Path:
        """Leave the unfinished output to a later call that goes on with it, also of this process; its place."""
        assert self.journal is not None
        self.journal.close()
        place = given_up(self.path)
        os.rename(self.path, place)
        os.rename(self.journal.path, journal_of(place))
        return place

    def check_replaceable(self, names: set[str]) -> None:
        """Check that every file of an existing folder has a successor among `names` (paths relative to the folder).

        Raises:
            CheckpointError: The folder holds other files, or the path is no folder.
        """
        if os.path.lexists(self.destination):
            self._check_successors(self.destination, names)

    def _check_successors(self, old: Path, names: set[str]) -> None:
        if not old.is_dir() or old.is_symlink():
            raise CheckpointError(f"{self.destination} is not a folder; give another destination")
        strangers = sorted(tree(old) - names)
        if strangers:
            named = printable(", ".join(strangers[:3])) + " and more" * (len(strangers) > 3)
            raise CheckpointError(
                f"{self.destination} holds {named}, which the new output would not replace; give another destination, "
                "or move them away"
            )

    def _replace_folder(self) -> None:
        """Exchange the folders and then look into the old one, where nobody can add files any more."""
        names = tree(self.path)
        self.check_replaceable(names)
        exchanged = exchange(self.path, self.destination)
        old = self.path if exchanged else temporary(self.path.parent)
        if not exchanged:
            os.rename(self.destination, old)
        try:
            self._check_successors(old, names)
            if not exchanged:
                rename_new(self.path, self.destination)
        except BaseException:
            if exchanged:
                exchange(old, self.destination)
            else:
                os.rename(old, self.destination)
            raise
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


def tree(folder: Path) -> set[str]:
    """Paths of all files below a folder, relative to it.

    Raises:
        CheckpointError: A folder in it cannot be listed.
    """

    def refuse(error: OSError) -> None:
        raise CheckpointError(f"cannot list {error.filename}: {error.strerror}")

    found = set()
    for path, folders, files in os.walk(folder, onerror=refuse):
        links = [name for name in folders if os.path.islink(os.path.join(path, name))]
        found |= {os.path.relpath(os.path.join(path, name), folder) for name in (*files, *links)}
    return found


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _occupied(path: Path) -> int:
    """Bytes that a file, or a folder with all below it, takes on the disk already; holes in files take none."""
    files = [path / name for name in tree(path)] if path.is_dir() else [path] if path.exists() else []
    facts = [file.lstat() for file in files]
    return sum(512 * fact.st_blocks if hasattr(fact, "st_blocks") else fact.st_size for fact in facts)


def _undo(destination: Path) -> Callable[[], None]:
    written = _changes(destination)

    def undo() -> None:
        if _changes(destination) != written:
            raise CheckpointError(f"{destination} was changed since it was written, so it is left as it is")
        _remove(destination)

    return undo


def _changes(path: Path) -> dict[str, int]:
    """When each file was last written to."""
    return {name: (path / name).lstat().st_mtime_ns for name in (tree(path) if path.is_dir() else {""})}


def _cannot_undo(destination: Path) -> Callable[[], None]:
    def undo() -> None:
        raise CheckpointError(f"{destination} replaced an older output, which cannot be brought back")

    return undo
