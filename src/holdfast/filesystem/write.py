"""Writing entries as a folder. Until :meth:`FolderWriter.finish` has returned, the folder says that it is incomplete.

Everything is created anew inside folders that were empty, and in folders that this writer made; nothing is followed,
replaced or written twice. Data, names, owners and times are durable before the marker goes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Self

from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, NoSpace
from holdfast.filesystem.failures import naming
from holdfast.filesystem.root import Owner, Root, marker_text, refuse_unless_empty
from holdfast.messages import _

_SYNC_WORKERS = 8
_SYNC_BATCH = 1000

Placement = Callable[[str], tuple[Path, str]]
"""Where an entry goes: one of the writer's roots, and the path below it, empty for the root itself."""


class FileSink:
    """One file being written, piece by piece, in any order, from many threads."""

    __slots__ = ("_below", "_root", "_wrote", "path")

    def __init__(self, path: str, root: Root, below: str, wrote: Callable[[int], None]) -> None:
        self.path = path
        self._root = root
        self._below = below
        self._wrote = wrote

    def write(self, offset: int, data: bytes) -> None:
        with naming(self._root.path / self._below):
            handle = os.open(self._below, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root.handle)
            try:
                view = memoryview(data)
                while view:
                    count = os.pwrite(handle, view, offset)
                    offset, view = offset + count, view[count:]
            finally:
                os.close(handle)
        self._wrote(len(data))


class FolderWriter:
    """``place`` maps an entry's path to where it goes: below ``root``, or elsewhere for a tablespace.

    A ``with`` scope: left before :meth:`finish`, the folders stay, marked as unfinished.
    """

    def __init__(
        self,
        root: Path,
        *,
        place: Placement | None = None,
        owner: Owner | None = None,
        wrote: Callable[[int], None] = lambda _size: None,
    ) -> None:
        self.root = root
        self._place: Placement = place or (lambda path: (root, path))
        self._owner = owner
        self._wrote = wrote
        self._roots: dict[Path, Root] = {}
        self._entries_of_roots: dict[Path, Entry] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for root in self._roots.values():
            root.unlock()

    def begin(self, *also: Path) -> None:
        """Makes the root, and ``also`` further roots. Each must be absent or empty.

        When it raises, they are as they were before.
        """
        folders = (self.root, *also)
        for folder in folders:
            refuse_unless_empty(folder)
        text = marker_text(folders)
        try:
            for folder in folders:
                root = self._roots[folder] = Root(folder)
                root.mark(text)
                root.take()
        except BaseException:
            for root in self._roots.values():
                root.withdraw()
            self._roots.clear()
            raise

    def directory(self, entry: Entry) -> None:
        root, below = self._new(entry.path)
        if not below:
            return
        with naming(root.path / below):
            os.mkdir(below, 0o700, dir_fd=root.handle)
        root.folders.add(below)

    def file(self, entry: Entry) -> FileSink:
        root, below = self._new(entry.path)
        with naming(root.path / below):
            handle = _create(root, below)
            try:
                os.ftruncate(handle, entry.size)
            finally:
                os.close(handle)
        return FileSink(entry.path, root, below, self._wrote)

    def symlink(self, entry: Entry) -> None:
        root, below = self._new(entry.path)
        with naming(root.path / below):
            os.symlink(entry.link_target, below, dir_fd=root.handle)

    def link(self, name: str, target: Path) -> None:
        """A symbolic link below :attr:`root` that is no entry's. Settling its folder makes it durable."""
        root = self._roots[self.root]
        self._refuse_elsewhere(root, name)
        with naming(root.path / name):
            os.symlink(target, name, dir_fd=root.handle)
            self._give_link(root, name)

    def write_bytes(self, name: str, content: bytes, *, mode: int = 0o600) -> None:
        """A file of our own beside the entries, durable when this returns. Its folder is there already."""
        root = self._roots[self.root]
        self._refuse_elsewhere(root, name)
        with naming(root.path / name), os.fdopen(_create(root, name), "wb") as file:
            file.write(content)
            file.flush()
            self._give(file.fileno())
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())

    def settle(self, entries: Iterable[Entry]) -> None:
        """Gives what was written for ``entries`` its owner, mode and time, and makes it durable.

        Folders come last, the deepest first: their times and modes are those they had. The roots wait for the end.
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
        """Afterwards the folder no longer says that it is incomplete; all of it was settled.

        The first root, without which the others are nothing, says so longest.
        """
        roots = list(self._roots.values())
        for root in roots:
            root.check_place()
        for root in roots:
            root.give(self._owner, self._entries_of_roots.get(root.path))
            _sync_directory(root.path.parent)
        for root in reversed(roots):
            root.unmark()

    def _settle_one(self, entry: Entry) -> None:
        root, below = self._at(entry.path)
        if not below:
            self._entries_of_roots[root.path] = entry
            return
        with naming(root.path / below):
            if entry.kind is EntryKind.SYMLINK:
                self._give_link(root, below)
                return
            kind = os.O_DIRECTORY if entry.kind is EntryKind.DIRECTORY else 0
            handle = os.open(below, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | kind, dir_fd=root.handle)
            try:
                self._give(handle)
                os.fchmod(handle, entry.mode)
                os.utime(handle, ns=(entry.mtime_ns, entry.mtime_ns))
                os.fsync(handle)
            finally:
                os.close(handle)

    def _at(self, path: str) -> tuple[Root, str]:
        folder, below = self._place(path)
        return self._roots[folder], below

    def _new(self, path: str) -> tuple[Root, str]:
        root, below = self._at(path)
        self._refuse_elsewhere(root, below)
        return root, below

    def _refuse_elsewhere(self, root: Root, below: str) -> None:
        """A path below a link would lead to where the link does."""
        if below.rpartition("/")[0] not in root.folders:
            raise Damaged(_("{path} does not lie in a folder of the snapshot").format(path=root.path / below))

    def _give(self, handle: int) -> None:
        if self._owner is not None:
            os.fchown(handle, self._owner.uid, self._owner.gid)

    def _give_link(self, root: Root, below: str) -> None:
        if self._owner is not None:
            os.chown(below, self._owner.uid, self._owner.gid, dir_fd=root.handle, follow_symlinks=False)


def free_bytes(folder: Path) -> tuple[int, int]:
    """Device number and free bytes of the file system that ``folder`` lies in, or would lie in."""
    there = folder.absolute()
    while True:
        try:
            return there.stat().st_dev, shutil.disk_usage(there).free
        except OSError:  # not there, or not to be looked at
            if there == there.parent:
                raise
            there = there.parent


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


def _create(root: Root, below: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(below, flags, 0o600, dir_fd=root.handle)


def _sync_directory(place: Path) -> None:
    with naming(place):
        handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
