"""An entry: a path with metadata and bytes, the unit of a backup's journey.

Readers (``postgres``, ``filesystem``) yield :data:`Reading` items; the repository stores them; a restore gives
entries back. Paths are relative, ``/``-separated, without ``.`` or ``..``; a name that is not UTF-8 travels with
surrogate escapes, as :func:`os.fsdecode` makes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class EntryKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    path: str
    kind: EntryKind
    mode: int
    """Permission bits only, ``0o7777`` at most."""
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    """Bytes; 0 unless a file."""
    link_target: str = ""


Block = bytes | bytearray | memoryview
"""A piece of a file's content, valid only until the next one is asked for."""

Reading = tuple[Entry, Iterable[Block]]
"""An entry and its content. The content is read once, before the next entry is asked for, and is exactly
``entry.size`` bytes long: a reader pads or fails, it never yields less. Directories and links yield no content."""


def is_safe_path(path: str) -> bool:
    """Whether ``path`` stays inside the folder that it is relative to: what a restore may write."""
    if not path or path.startswith("/") or "\0" in path:
        return False
    return all(part not in ("", ".", "..") for part in path.split("/"))
