"""Writes a base backup's entries into a folder, plainly, the way a test wants to look at them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from holdfast.entry import Entry, EntryKind, Reading


def write_readings(readings: Iterable[Reading], folder: Path) -> dict[str, Entry]:
    """All entries by path. Fails if a path comes twice, or content is not exactly as long as announced."""
    entries: dict[str, Entry] = {}
    folder.chmod(0o700)
    for entry, content in readings:
        assert entry.path not in entries
        entries[entry.path] = entry
        target = folder / entry.path
        if entry.kind is EntryKind.DIRECTORY:
            target.mkdir(parents=True, exist_ok=True)
            target.chmod(entry.mode)
            assert not list(content)
            continue
        assert entry.kind is EntryKind.FILE
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            for block in content:
                file.write(block)
        target.chmod(entry.mode)
        assert target.stat().st_size == entry.size
    return entries
