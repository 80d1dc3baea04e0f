"""Reading a folder as entries, parents before what is in them, names in order.

Files, directories and symbolic links; sockets, pipes and devices are passed over. A file whose size changes while it is
read fails the reading: half of one state and half of another is not a backup.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from holdfast.entry import Entry, EntryKind, Reading
from holdfast.errors import HoldfastError, PermissionRefused, UsageError
from holdfast.messages import _

BLOCK_BYTES = 1024 * 1024


def scan(folder: Path, *, include: Callable[[str], bool] = lambda _path: True) -> Iterator[Reading]:
    """Everything below ``folder`` that ``include`` wants, asked with each relative path of a file or link."""
    try:
        found = folder.is_dir()
    except PermissionError:
        raise _may_not_read(folder) from None
    if not found:
        raise UsageError(
            _("there is no folder {path}").format(path=folder),
            hint=_("Check the path, and whether the disk that holds it is mounted."),
        )
    yield from _below(os.fspath(folder), "", include)


def _below(folder: str, prefix: str, include: Callable[[str], bool]) -> Iterator[Reading]:
    for item in sorted(_listing(folder), key=lambda item: item.name):
        path = prefix + item.name
        try:
            status = item.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                yield _entry(path, EntryKind.DIRECTORY, status), ()
                yield from _below(item.path, path + "/", include)
            elif stat.S_ISLNK(status.st_mode) and include(path):
                target = os.readlink(item.path)  # noqa: PTH115  keeps the name as it is
                yield _entry(path, EntryKind.SYMLINK, status, link_target=target), ()
            elif stat.S_ISREG(status.st_mode) and include(path):
                yield _entry(path, EntryKind.FILE, status, size=status.st_size), _content(item.path, status.st_size)
        except FileNotFoundError:
            continue  # removed since it was listed


def _listing(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return list(items)
    except PermissionError:
        raise _may_not_read(folder) from None


def _content(path: str, size: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(BLOCK_BYTES, max(size, 1))))
    left = size
    try:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  unbuffered, into our own memory
            while left and (count := file.readinto(buffer[: min(left, len(buffer))])):
                yield buffer[:count]
                left -= count
            grown = file.read(1)
    except PermissionError:
        raise _may_not_read(path) from None
    if left or grown:
        raise HoldfastError(
            _("{path} changed its size while it was read").format(path=path),
            hint=_("Run the backup again when nothing writes to it."),
        )


def _entry(path: str, kind: EntryKind, status: os.stat_result, *, size: int = 0, link_target: str = "") -> Entry:
    return Entry(
        path=path,
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=size,
        link_target=link_target,
    )


def _may_not_read(path: Path | str) -> PermissionRefused:
    return PermissionRefused(_("cannot read {path}").format(path=path), hint=_("Run as a user who may read it."))
