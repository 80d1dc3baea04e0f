"""What the store holds and under which names: nothing else in the repository writes a name out.

==============  ============================  =====================================
kind            name                          holds
==============  ============================  =====================================
(plain)         ``repository.json``           which repository and key this is
(plain)         ``keys/<id>``                 a wrapped master key
``DATA``        ``data/ab/ab…``               a pack of file content
``META``        ``meta/ab…``                  a pack of trees and chunk lists
``INDEX``       ``index/ab…``                 directories of many packs
``SNAPSHOT``    ``snapshots/ab…``             a snapshot record
``DAMAGE``      ``damage/ab…``                what a verification found damaged
``MARK``        ``marks/ab…``                 packs that prune means to delete
``LEASE``       ``leases/ab…``                who is at work, and since when
``REMOVAL``     ``removed/ab…``               which snapshots were removed on purpose
``WRITERS``     ``writers/ab…``               the oldest version that may write
``KEYRING``     ``keyring/ab…``               which key objects were added or removed on purpose
``WAL``         ``wal/<stream>/…``            a WAL segment, or a piece of a large one: :class:`PieceName`
``TAIL``        ``tails/<stream>/…``          the newest bytes of a segment: :class:`PieceName`
``WAL_FILE``    ``walfiles/<stream>/…``       a history file, and the like: :class:`FileName`
``STREAM``      ``streams/<stream>/ab…``      where the WAL of a stream begins
``SPAN``        ``spans/<stream>/ab…``        what 256 segments hold, summarised
==============  ============================  =====================================

Most are named by their id. WAL is named by what it holds, because two machines may put the same: a name then says which
bytes these are, by their keyed digest.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import NamedTuple

from holdfast.repository.ids import ID_BYTES, ObjectId

REPOSITORY_OBJECT = "repository.json"
KEYS = "keys/"
SPAN_BITS = 8
"""A span is 256 segments: their numbers without the last byte."""


class Kind(IntEnum):
    DATA = 1
    META = 2
    INDEX = 3
    SNAPSHOT = 4
    DAMAGE = 5
    MARK = 6
    LEASE = 7
    REMOVAL = 8
    WRITERS = 9
    KEYRING = 10
    WAL = 11
    TAIL = 12
    WAL_FILE = 13
    STREAM = 14
    SPAN = 15

    @property
    def prefix(self) -> str:
        return _PREFIXES[self]


_PREFIXES = {
    Kind.DATA: "data/",
    Kind.META: "meta/",
    Kind.INDEX: "index/",
    Kind.SNAPSHOT: "snapshots/",
    Kind.DAMAGE: "damage/",
    Kind.MARK: "marks/",
    Kind.LEASE: "leases/",
    Kind.REMOVAL: "removed/",
    Kind.WRITERS: "writers/",
    Kind.KEYRING: "keyring/",
    Kind.WAL: "wal/",
    Kind.TAIL: "tails/",
    Kind.WAL_FILE: "walfiles/",
    Kind.STREAM: "streams/",
    Kind.SPAN: "spans/",
}


PACK_KINDS = (Kind.DATA, Kind.META)
NAMED_BY_CONTENT = (Kind.WAL, Kind.TAIL, Kind.WAL_FILE)
OF_A_STREAM = (Kind.STREAM, Kind.SPAN)
"""Named by their id, in a folder for each stream."""
NAMED_BY_ID = tuple(kind for kind in Kind if kind not in NAMED_BY_CONTENT + OF_A_STREAM)


class ObjectRef(NamedTuple):
    """One sealed object: its kind and id, and so its name in the store. A tuple: made for every look-up."""

    kind: Kind
    id: ObjectId

    @property
    def name(self) -> str:
        digits = self.id.hex()
        return f"{self.kind.prefix}{digits[:2]}/{digits}" if self.kind is Kind.DATA else f"{self.kind.prefix}{digits}"


class StreamRef(NamedTuple):
    """One sealed object of a kind that has a folder for each stream."""

    kind: Kind
    id: ObjectId
    stream: str
    """32 hexadecimal digits."""

    @property
    def name(self) -> str:
        return f"{self.kind.prefix}{self.stream}/{self.id.hex()}"


class ContentRef(NamedTuple):
    """One sealed object of a kind whose names follow from content."""

    kind: Kind
    id: ObjectId
    name: str


Ref = ObjectRef | StreamRef | ContentRef


class PieceName(NamedTuple):
    """The name of a piece of WAL."""

    kind: Kind
    """``WAL`` or ``TAIL``."""
    stream: str
    """32 hexadecimal digits."""
    timeline: int
    number: int
    """Of the segment."""
    start: int
    stop: int
    mark: str
    """32 hexadecimal digits: half of the digest of the segment's bytes up to ``stop``; of a piece without bytes, a
    digest that the server's clock is part of."""

    @property
    def folder(self) -> str:
        return span_folder(self.kind, self.stream, self.timeline, self.number >> SPAN_BITS)

    @property
    def name(self) -> str:
        return f"{self.folder}{self.number:016x}-{self.start:08x}-{self.stop:08x}-{self.mark}"


class FileName(NamedTuple):
    """The name of what goes beside segments, whole."""

    stream: str
    file: str
    """As PostgreSQL names it."""
    mark: str
    """32 hexadecimal digits: half of the content's digest."""

    @property
    def name(self) -> str:
        return f"{file_folder(self.stream, self.file)}{self.mark}"


def span_folder(kind: Kind, stream: str, timeline: int, span: int) -> str:
    """Where the segments, or the tails, of one span lie."""
    return f"{kind.prefix}{stream}/{timeline:08x}/{span:014x}/"


def file_folder(stream: str, file: str) -> str:
    """Where the contents of one file lie: one, or several that contradict each other."""
    return f"{Kind.WAL_FILE.prefix}{stream}/{file.lower()}/"


def is_wal_file(file: str) -> bool:
    """Whether PostgreSQL gives that name to something that goes beside segments."""
    return _FILE.fullmatch(file) is not None


def parse_name(name: str) -> ObjectRef | None:
    """The object that ``name`` names; ``None`` for a name that Holdfast would not have written, and for those of
    WAL, which have parsers of their own."""
    for kind in NAMED_BY_ID:
        if name.startswith(kind.prefix):
            raw = _parse_id(name)
            ref = None if raw is None else ObjectRef(kind, raw)
            return ref if ref is not None and ref.name == name else None
    return None


def parse_stream_name(name: str) -> StreamRef | None:
    """``None`` for what Holdfast would not have written as the name of an object in a stream's folder."""
    for kind in OF_A_STREAM:
        stream = name[len(kind.prefix) :].partition("/")[0]
        if name.startswith(kind.prefix) and _STREAM.fullmatch(stream):
            raw = _parse_id(name)
            ref = None if raw is None else StreamRef(kind, raw, stream)
            return ref if ref is not None and ref.name == name else None
    return None


def parse_piece_name(name: str) -> PieceName | None:
    """``None`` for what Holdfast would not have written as the name of a piece of WAL."""
    match = _PIECE.fullmatch(name)
    if match is None:
        return None
    kind = Kind.WAL if match["kind"] == "wal" else Kind.TAIL
    timeline, number, start, stop = (int(match[part], 16) for part in ("timeline", "number", "start", "stop"))
    found = PieceName(kind, match["stream"], timeline, number, start, stop, match["mark"])
    return found if found.name == name and start <= stop else None


def parse_file_name(name: str) -> FileName | None:
    """``None`` for what Holdfast would not have written as the name of a file beside segments."""
    match = _STORED_FILE.fullmatch(name)
    if match is None:
        return None
    stem, dot, ending = match["file"].partition(".")
    found = FileName(match["stream"], stem.upper() + dot + _upper_but_words(ending), match["mark"])
    return found if is_wal_file(found.file) and found.name == name else None


def is_ours(name: str) -> bool:
    """Whether Holdfast writes sealed objects under such a name."""
    return any(parse(name) is not None for parse in (parse_name, parse_stream_name, parse_piece_name, parse_file_name))


def _parse_id(name: str) -> ObjectId | None:
    try:
        raw = bytes.fromhex(name.rpartition("/")[2])
    except ValueError:
        return None
    return ObjectId(raw) if len(raw) == ID_BYTES else None


def _upper_but_words(ending: str) -> str:
    """``00000028.backup`` has digits that PostgreSQL writes in upper case."""
    digits, dot, word = ending.rpartition(".")
    return digits.upper() + dot + word


_STREAM = re.compile(r"[0-9a-f]{32}")
_PIECE = re.compile(
    r"(?P<kind>wal|tails)/(?P<stream>[0-9a-f]{32})/(?P<timeline>[0-9a-f]{8})/[0-9a-f]{14}"
    r"/(?P<number>[0-9a-f]{16})-(?P<start>[0-9a-f]{8})-(?P<stop>[0-9a-f]{8})-(?P<mark>[0-9a-f]{32})"
)
_STORED_FILE = re.compile(r"walfiles/(?P<stream>[0-9a-f]{32})/(?P<file>[0-9a-z.]{1,64})/(?P<mark>[0-9a-f]{32})")
_FILE = re.compile(r"[0-9A-F]{8}\.history|[0-9A-F]{24}\.partial|[0-9A-F]{24}\.[0-9A-F]{8}\.backup")
