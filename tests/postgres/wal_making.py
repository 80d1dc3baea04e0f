"""WAL made by hand, as PostgreSQL would lay it out: for what a real server writes rarely, or never."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from holdfast.postgres.crc32c import crc32c
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.walpages import Layout

SYSTEM = 7_398_214_999_999_999_999
SEGMENT = 1 << 20
MAGIC = {15: 0xD110, 16: 0xD113, 17: 0xD116, 18: 0xD118, 19: 0xD122}
_FILLER = 21
"""LogicalMessage: nobody here reads it, so that its checksum, slow to compute, may be wrong."""
TIME = 845_000_000_000_000
"""Microseconds since 2000."""


@dataclass(kw_only=True)
class Making:
    """Records are appended; :meth:`wal` gives whole pages from the first segment on."""

    major: int = 15
    timeline: int = 1
    number: int = 3
    """Of the first segment."""
    segment_size: int = SEGMENT
    page_size: int = 8192
    records: list[tuple[int, bytes]] = field(default_factory=list)
    """Place and bytes."""
    overwritten: set[int] = field(default_factory=set)
    """Pages (their positions) that begin anew what was left unfinished."""

    def __post_init__(self) -> None:
        self.layout = Layout(self.segment_size, self.page_size)
        self.place = self.layout.place(self.start)
        self.zeros: list[tuple[int, int]] = []

    @property
    def start(self) -> Lsn:
        return Lsn(self.number * self.segment_size)

    @property
    def end(self) -> Lsn:
        return self.layout.end_lsn(self.place)

    def append(self, manager: int, info: int, body: bytes = b"", *, xid: int = 0, prev: int | None = None) -> Lsn:
        """``body``: what follows the record's head. The position of the record."""
        if prev is None:
            prev = self.layout.lsn(self.records[-1][0]) if self.records else int(self.start) - 64
        raw = record(manager, info, body, xid=xid, prev=prev, is_sound=manager != _FILLER)
        at = self.place
        self.records.append((at, raw))
        self.place += len(raw) + 7 & ~7
        return self.layout.lsn(at)

    def commit(self, xid: int, *, time: int = TIME, abort: bool = False, more: bytes = b"") -> Lsn:
        data = struct.pack("<q", time) + more
        return self.append(1, 0x20 if abort else 0x00, main(data), xid=xid)

    def filler(self, content: bytes) -> Lsn:
        return self.append(_FILLER, 0, main(content))

    def switch(self) -> None:
        """To the next segment."""
        self.append(0, 0x40)
        end = -(-int(self.end) // self.segment_size) * self.segment_size
        self.zeros.append((-(-int(self.end) // self.page_size) * self.page_size, end))
        self.place = self.layout.place(end)

    def payload(self) -> bytes:
        first = self.layout.place(self.start)
        made = bytearray(self.place - first)
        for at, raw in self.records:
            made[at - first : at - first + len(raw)] = raw
        return bytes(made)

    def wal(self) -> bytes:
        payload, first = self.payload(), self.layout.place(self.start)
        made = bytearray()
        page = int(self.start)
        spans = [(at, at + len(raw)) for at, raw in self.records]
        while page < self.end:
            if any(begin <= page < end for begin, end in self.zeros):
                made += bytes(self.page_size)
                page += self.page_size
                continue
            place = self.layout.place(page)
            remaining = next((end - place for begin, end in spans if begin < place < end), 0)
            info = (1 if remaining else 0) | (0 if page % self.segment_size else 2)
            if page in self.overwritten:
                info, remaining = info & ~1 | (4 if self.major >= 19 else 8), 0
            made += struct.pack("<HHIQI4x", MAGIC[self.major], info, self.timeline, page, remaining)
            if info & 2:
                made += struct.pack("<QII", SYSTEM, self.segment_size, self.page_size)
            room = self.page_size - self.layout.header(page)
            made += payload[place - first : place - first + room].ljust(room, b"\0")
            page += self.page_size
        return bytes(made)


def record(manager: int, info: int, body: bytes = b"", *, xid: int = 0, prev: int, is_sound: bool = True) -> bytes:
    head = struct.pack("<IIQBBxx", 24 + len(body), xid, prev, info, manager)
    return head + struct.pack("<I", crc32c(head, crc32c(body)) if is_sound else 0) + body


def main(data: bytes) -> bytes:
    """As the main data of a record without blocks."""
    if not data:
        return b""
    return (bytes([255, len(data)]) if len(data) < 256 else b"\xfe" + struct.pack("<I", len(data))) + data


def block(number: int, relation: tuple[int, int, int], data: bytes = b"", *, fork: int = 0) -> bytes:
    """The header of a block without an image."""
    return struct.pack("<BBH", number, fork, len(data)) + struct.pack("<3I", *relation) + struct.pack("<I", 7)
