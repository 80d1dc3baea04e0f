"""What a repository holds of a stream, as a reading of it found: values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from holdfast.repository.wal.pieces import Stream

Json = dict[str, Any]


class HeldPiece(NamedTuple):
    """A piece and the object that holds it. A tuple: there are many."""

    name: str
    """The object's."""
    start: int
    stop: int
    before: bytes
    after: bytes
    clock: datetime | None
    facts: Json


class HeldSegment(NamedTuple):
    """What is held of one segment without a hole, from its first byte: pieces that join."""

    timeline: int
    number: int
    pieces: tuple[HeldPiece, ...]
    """In order; each begins where, and with the digest at which, the one before ended. The last may have no bytes: it
    says how far the server's clock went on."""

    @property
    def stop(self) -> int:
        return self.pieces[-1].stop if self.pieces else 0

    @property
    def digest(self) -> bytes:
        """Of ``[0, stop)``."""
        return self.pieces[-1].after


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Two contents for one place: two servers wrote WAL of the same name."""

    timeline: int
    number: int
    names: tuple[str, ...]
    """Of the objects that stand beside each other."""
    file: str = ""
    """What they are contents of, if it is no segment but a file beside them; ``number`` is 0 then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begin:
    """A record that a receiver leaves where its WAL begins, and why it does not go on from what was held before."""

    stream: Stream
    segment_size: int
    timeline: int
    lsn: int
    """WAL is held from here on, if what is held says so."""
    when: datetime
    host: str
    why: str
    """``first``, ``gap`` (WAL between ``after`` and ``lsn`` is lost), ``timeline``, ``adopted``."""
    after: int | None = None
    """Where what was held before ended, for a gap."""
    after_timeline: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFile:
    """A history file, ``.backup`` or ``.partial``, whole."""

    file: str
    """As PostgreSQL names it: ``00000002.history``."""
    name: str
    """The object's."""
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """All that one repository holds of one stream."""

    stream: Stream
    segment_size: int
    segments: tuple[HeldSegment, ...]
    """By timeline and number; of one not wholly held what joins from its beginning; none where there is a conflict."""
    histories: Mapping[int, bytes]
    """Content of each history file, by timeline; none where there is a conflict."""
    begins: tuple[Begin, ...]
    """Oldest first."""
    files: tuple[HeldFile, ...] = ()
    """History files and ``.partial``; ``.backup`` files tell nothing that is not in a snapshot."""
    conflicts: tuple[Conflict, ...] = ()
    problems: tuple[str, ...] = field(default=())
    """What could not be read, and why, for people."""
