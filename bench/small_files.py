"""A folder of images as a small team has it, made up: many files of a few hundred bytes, a thousand a folder."""

from __future__ import annotations

from pathlib import Path


def make_small_files(source: Path, entries: int) -> int:
    """Bytes of all of them."""
    size = 0
    for number in range(entries):
        place = source / f"{number // 1000:04}"
        if number % 1000 == 0:
            place.mkdir(parents=True)
        content = f"{number} of a folder of images ".encode() * 12
        (place / f"{number:07}.jpg").write_bytes(content)
        size += len(content)
    return size
