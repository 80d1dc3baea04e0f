"""Places in the write-ahead log: positions (LSN), the segments that hold them, and the segments' file names.

Pure arithmetic. The segment size is never assumed: 16 MiB is the default, 1 MiB to 1 GiB are allowed.
Source: ``src/include/access/xlog_internal.h`` (``XLogFileName``, ``XLByteToSeg``, ``XLByteToPrevSeg``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from holdfast.errors import UsageError
from holdfast.messages import _

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_SEGMENT = re.compile(r"[0-9A-F]{24}")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
_MINIMUM, _MAXIMUM = 1 << 20, 1 << 30
_LOG_FILE = 1 << 32  # bytes for which the middle part of a segment's name stays the same


class Lsn(int):
    """A position in the write-ahead log: bytes from its beginning, 64 bits. 0 is no position.

    Shown as PostgreSQL up to 18 shows it, ``0/3000060``; 19 pads the second half (``0/03000060``): both are read.
    """

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises :class:`~holdfast.errors.UsageError` for anything but ``XXXXXXXX/XXXXXXXX``."""
        match = _LSN.fullmatch(text)
        if match is None:
            raise UsageError(
                _("{text!r} is not a WAL position").format(text=text),
                hint=_("Write it as PostgreSQL shows it, for example 0/3000060."),
            )
        return cls((int(match[1], 16) << 32) | int(match[2], 16))

    def __str__(self) -> str:
        return f"{self >> 32:X}/{self & 0xFFFFFFFF:X}"

    def __repr__(self) -> str:
        return f"Lsn({str(self)!r})"

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Segment:
    """One WAL file. Ordered by timeline, then place."""

    timeline: int
    number: int
    """Counts from the beginning of the log, in segments of ``size``: what lies before it is ``number * size`` bytes."""
    size: int
    """Bytes: the cluster's ``wal_segment_size``."""

    def __post_init__(self) -> None:
        if not is_segment_size(self.size):
            raise UsageError(_("{size} is not a WAL segment size").format(size=self.size))

    @classmethod
    def parse(cls, name: str, size: int) -> Self:
        """Read 24 hexadecimal digits: timeline, log file, segment of the log file.

        Raises :class:`~holdfast.errors.UsageError` when it is no such name, or cannot be one at this ``size``.
        """
        if not is_segment_name(name):
            raise UsageError(_("{name!r} is not the name of a WAL segment").format(name=name))
        per_log_file = _segments_per_log_file(size)
        low = int(name[16:], 16)
        if low >= per_log_file:
            raise UsageError(
                _("{name!r} cannot be the name of a WAL segment of {size} bytes").format(name=name, size=size)
            )
        return cls(timeline=int(name[:8], 16), number=int(name[8:16], 16) * per_log_file + low, size=size)

    @classmethod
    def holding(cls, lsn: int, *, timeline: int, size: int) -> Self:
        """The segment in which the byte at ``lsn`` lies."""
        return cls(timeline=timeline, number=lsn // size, size=size)

    @classmethod
    def ending(cls, lsn: int, *, timeline: int, size: int) -> Self:
        """The segment in which the last byte *before* ``lsn`` lies: the one needed to recover up to an end."""
        return cls(timeline=timeline, number=max(lsn - 1, 0) // size, size=size)

    @property
    def name(self) -> str:
        high, low = divmod(self.number, _segments_per_log_file(self.size))
        return f"{self.timeline:08X}{high:08X}{low:08X}"

    @property
    def start(self) -> Lsn:
        return Lsn(self.number * self.size)

    @property
    def end(self) -> Lsn:
        """One past its last byte: the start of the next."""
        return Lsn((self.number + 1) * self.size)

    def following(self) -> Segment:
        return Segment(timeline=self.timeline, number=self.number + 1, size=self.size)


def segments_between(start: int, stop: int, *, timeline: int, size: int) -> Iterator[Segment]:
    """All segments that hold bytes of ``[start, stop)`` on one timeline, oldest first; at least ``start``'s."""
    first = Segment.holding(start, timeline=timeline, size=size)
    last = Segment.ending(stop, timeline=timeline, size=size)
    for number in range(first.number, max(first.number, last.number) + 1):
        yield Segment(timeline=timeline, number=number, size=size)


def is_segment_name(name: str) -> bool:
    return _SEGMENT.fullmatch(name) is not None


def is_segment_size(size: int) -> bool:
    """A power of two from 1 MiB to 1 GiB."""
    return _MINIMUM <= size <= _MAXIMUM and size & (size - 1) == 0


def history_name(timeline: int) -> str:
    """The file that says where ``timeline`` and its ancestors branched off. Timeline 1 has none."""
    return f"{timeline:08X}.history"


def history_timeline(name: str) -> int | None:
    """The timeline that a history file's name speaks of; None for any other name."""
    match = _HISTORY.fullmatch(name)
    return int(match[1], 16) if match else None


def _segments_per_log_file(size: int) -> int:
    if not is_segment_size(size):
        raise UsageError(_("{size} is not a WAL segment size").format(size=size))
    return _LOG_FILE // size
