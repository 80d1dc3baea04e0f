"""Writing entries as a folder. Until :meth:`FolderWriter.finish` has returned, the folder says that it is incomplete.

Everything is created anew inside folders that were empty; nothing is followed, replaced or written twice. A marker file
stands in the folder from before the first entry until all data, names, owners and times are durable.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from holdfast.entry import Entry, EntryKind
from holdfast.errors import HoldfastError, NoSpace, PermissionRefused, Refused
from holdfast.messages import _

MARKER = "holdfast-restore-incomplete"
_SYNC_WORKERS = 8
_SYNC_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Owner:
    """Numeric user and group that everything written is given to."""

    uid: int
    gid: int


class FileSink:
    """One file being written, piece by piece, in any order, from many threads."""

    __slots__ = ("_place", "_wrote", "path")

    def __init__(self, path: str, place: str, wrote: Callable[[int], None]) -> None:
        self.path = path
        self._place = place
        self._wrote = wrote

    def write(self, offset: int, data: bytes) -> None:
        with _naming(self._place):
            handle = os.open(self._place, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                view = memoryview(data)
                while view:
                    count = os.pwrite(handle, view, offset)
                    offset, view = offset + count, view[count:]
            finally:
                os.close(handle)
        self._wrote(len(data))


class FolderWriter:
    """``place`` maps an entry's path to where it goes: below ``root``, or elsewhere for a tablespace."""

    def __init__(
        self,
        root: Path,
        *,
        place: Callable[[str], Path] | None = None,
        owner: Owner | None = None,
        wrote: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self.root = root
        self._place = place or (lambda path: root / path)
        self._owner = owner
        self._wrote = wrote
        self._roots: list[Path] = []

    def begin(self, *also: Path) -> None:
        """Makes the root, and ``also`` further roots. Each must be absent or empty."""
        for folder in (self.root, *also):
            refuse_unless_empty(folder)
        for folder in (self.root, *also):
            with _naming(folder):
                folder.mkdir(parents=True, exist_ok=True)
                folder.chmod(0o700)
                self._give(folder)
            self._roots.append(folder)
        warning = _("Holdfast has not finished restoring here. Do not start PostgreSQL on it.")
        self.write_bytes(MARKER, warning.encode() + b"\n")

    def directory(self, entry: Entry) -> None:
        place = self._place(entry.path)
        with _naming(place):
            place.mkdir(mode=0o700, exist_ok=place in self._roots)

    def file(self, entry: Entry) -> FileSink:
        place = self._place(entry.path)
        with _naming(place):
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(handle, entry.size)
            finally:
                os.close(handle)
        return FileSink(entry.path, os.fspath(place), self._wrote)

    def symlink(self, entry: Entry) -> None:
        place = self._place(entry.path)
        with _naming(place):
            place.symlink_to(entry.link_target)

    def link(self, place: Path, target: Path) -> None:
        """A symbolic link that is no entry's."""
        with _naming(place):
            place.symlink_to(target)
            self._give(place)
            _sync_directory(place.parent)

    def write_bytes(self, name: str, content: bytes, *, mode: int = 0o600) -> None:
        """A file of our own beside the entries, durable when this returns. Its folder is there already."""
        place = self.root / name
        with _naming(place):
            with place.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            place.chmod(mode)
            self._give(place)

    def settle(self, entries: Iterable[Entry]) -> None:
        """Gives what was written for ``entries`` its owner, mode and time, and makes it durable.

        Folders come last, the deepest first: their times and modes are those they had.
        """
        folders: list[Entry] = []
        waiting = iter(entries)
        with ThreadPoolExecutor(_SYNC_WORKERS) as workers:
            while some := list(islice(waiting, _SYNC_BATCH)):
                folders.extend(entry for entry in some if entry.kind is EntryKind.DIRECTORY)
                files = [entry for entry in some if entry.kind is not EntryKind.DIRECTORY]
                for _done in workers.map(self._settle_one, files):
                    pass
        for folder in reversed(folders):
            self._settle_one(folder)

    def finish(self) -> None:
        """Afterwards the folder no longer says that it is incomplete; all of it was settled."""
        for root in self._roots:
            _sync_directory(root)
            _sync_directory(root.parent)
        (self.root / MARKER).unlink()
        _sync_directory(self.root)

    def _settle_one(self, entry: Entry) -> None:
        place = self._place(entry.path)
        with _naming(place):
            self._give(place)
            if entry.kind is EntryKind.SYMLINK:
                return
            place.chmod(entry.mode)
            os.utime(place, ns=(entry.mtime_ns, entry.mtime_ns))
            if entry.kind is EntryKind.FILE:
                handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
            else:
                _sync_directory(place)

    def _give(self, place: Path) -> None:
        if self._owner is not None:
            os.chown(place, self._owner.uid, self._owner.gid, follow_symlinks=False)


def refuse_unless_empty(folder: Path) -> None:
    """``Refused`` if ``folder`` holds anything, or is no folder."""
    if (folder / MARKER).exists():
        raise Refused(
            _("{path} holds a restore that did not finish").format(path=folder),
            hint=_("Remove it, then run the same command again: rm -r -- {path}").format(path=folder),
        )
    try:
        with os.scandir(folder) as items:
            occupied = any(True for _item in items)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        occupied = True
    except PermissionError:
        raise PermissionRefused(
            _("cannot look into {path}").format(path=folder), hint=_("Run as a user who may write there.")
        ) from None
    if occupied:
        raise Refused(
            _("{path} is not empty").format(path=folder),
            hint=_("Name a folder that does not exist yet, or an empty one. Nothing was changed."),
        )


def free_bytes(folder: Path) -> tuple[int, int]:
    """Device number and free bytes of the file system that ``folder`` lies in, or would lie in."""
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return there.stat().st_dev, shutil.disk_usage(there).free


def refuse_unless_room(needed: Iterable[tuple[Path, int]]) -> None:
    """``NoSpace`` if the file systems cannot hold what each folder needs, in bytes; folders on one disk add up."""
    totals: dict[int, tuple[int, int, Path]] = {}
    for folder, size in needed:
        device, free = free_bytes(folder)
        before = totals.get(device, (0, free, folder))
        totals[device] = (before[0] + size, free, before[2])
    for size, free, folder in totals.values():
        if size > free:
            raise NoSpace(
                _("restoring into {path} takes {size} MB, and {free} MB are free").format(
                    path=folder, size=-(-size // 10**6), free=free // 10**6
                ),
                hint=_("Make room, or name a folder on a larger disk. Nothing was changed."),
            )


@contextmanager
def _naming(place: Path | str) -> Iterator[None]:
    """Operating system errors, in our words."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                _("the disk is full: cannot write {path}").format(path=place),
                hint=_("Make room or choose a larger disk, remove the unfinished folder, and run again."),
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermissionRefused(
                _("cannot write {path}: {why}").format(path=place, why=error.strerror),
                hint=_("Run as a user who may write there, or choose another folder."),
            ) from None
        raise HoldfastError(_("cannot write {path}: {why}").format(path=place, why=error.strerror)) from None


def _sync_directory(place: Path) -> None:
    with _naming(place):
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
