"""The files that PostgreSQL hands to ``archive_command``: read, and checked to be what their names say.

A whole segment, a ``.partial`` one (the last of a timeline that was left), a ``.backup`` or a ``.history`` file. The
first two say in their own header whose they are and where they belong; of the others ``global/pg_control`` tells it.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import Damaged, HoldfastError, Refused, UsageError
from holdfast.messages import _
from holdfast.postgres.control import CONTROL_FILE
from holdfast.postgres.lsn import Segment, is_segment_name, is_segment_size
from holdfast.postgres.walpages import SegmentIdentity, identify

_OTHER_NAME = re.compile(r"[0-9A-F]{8}\.history|[0-9A-F]{24}\.[0-9A-F]{8}\.backup")
_MAX_OTHER_BYTES = 1 << 20
_HEAD_BYTES = 64
RUN_UP_BYTES = 1 << 20
"""Of the segment before: a record that begins there is understood if it is not longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WalFile:
    """A file that PostgreSQL archives, as it was found to be."""

    name: str
    """As PostgreSQL names it: ``000000010000000000000003``, ``00000002.history``."""
    content: bytes
    system_identifier: int
    """Whose it is."""
    segment: Segment | None = None
    """Its place, if it is a whole segment."""
    previous: bytes = b""
    """The end of the segment before, from a page's beginning on, where it is at hand: a record may begin there."""

    continues: bool = False
    """Whether it begins in the middle of a record."""


def wal_file(name: str, content: bytes, *, system_identifier: int, previous: bytes = b"") -> WalFile:
    """The file, its name and content checked: a segment's own header must name this place, size and system.

    Raises ``UsageError`` for what is no file that PostgreSQL archives, ``Damaged`` for a segment that is not what its
    name says, ``Refused`` for one of another system.
    """
    place = name.removesuffix(".partial")
    if not is_segment_name(place):
        if _OTHER_NAME.fullmatch(name) is None:
            raise UsageError(
                _("{name!r} is not the name of a file that PostgreSQL archives").format(name=name),
                hint=hint_for_path(),
            )
        if not 0 < len(content) <= _MAX_OTHER_BYTES:
            raise Damaged(
                _("{name} has {size} bytes, which cannot be").format(name=name, size=len(content)), hint=hint_for_path()
            )
        return WalFile(name=name, content=content, system_identifier=system_identifier)
    identity = _checked(name, content, system_identifier)
    segment = Segment.parse(place, identity.segment_size)
    if identity.start != segment.start or identity.timeline > segment.timeline:
        there = Segment.holding(identity.start, timeline=identity.timeline, size=segment.size).name
        raise Damaged(
            _("{name} holds the WAL of {other}, as its own header says").format(name=name, other=there),
            hint=_("Name a file of pg_wal, as %p does."),
        )
    if place != name:
        return WalFile(name=name, content=content, system_identifier=system_identifier)
    return WalFile(
        name=name,
        content=content,
        system_identifier=system_identifier,
        segment=segment,
        previous=previous,
        continues=identity.continues,
    )


def _checked(name: str, content: bytes, system_identifier: int) -> SegmentIdentity:
    """What a segment says of itself, if its size and system are right."""
    identity = _own_header(name, content)
    if len(content) != identity.segment_size:
        raise Damaged(
            _("{name} has {size} bytes, and its own header says {wanted}").format(
                name=name, size=len(content), wanted=identity.segment_size
            ),
            hint=_("It is not whole. Name a file of pg_wal, as %p does."),
        )
    if identity.system_identifier != system_identifier:
        raise other_system(name, identity.system_identifier, (system_identifier,))
    return identity


def _own_header(name: str, content: bytes) -> SegmentIdentity:
    try:
        return identify(content[:_HEAD_BYTES])
    except Damaged as error:
        raise Damaged(
            _("{name} does not begin as a WAL segment does: {error}").format(name=name, error=error),
            hint=_("Name a file of pg_wal, as %p does."),
        ) from None


def other_system(name: str, system_identifier: int, known: tuple[int, ...]) -> Refused:
    """The error for WAL of a server that is not the source's."""
    return Refused(
        _("{name} is of the system {other}, and what is held of this source is of {known}").format(
            name=name, other=system_identifier, known=", ".join(map(str, known))
        ),
        hint=_(
            "Another server, or one made anew by initdb or pg_upgrade, writes here. If it is to take the source's "
            "place: holdfast wal receive SOURCE --adopt {identifier}"
        ).format(identifier=system_identifier),
    )


def read_wal_file(path: Path) -> WalFile:
    """The file at ``path``, as ``%p`` names it, checked.

    Raises ``UsageError`` when no such file is there, and what :func:`wal_file` raises.
    """
    content = _content(path)
    data_directory = path.parent.parent  # not what pg_wal may be a link to
    owner = _owner(data_directory)
    if owner is None and is_segment_name(path.name.removesuffix(".partial")):
        owner = _own_header(path.name, content).system_identifier
    file = wal_file(path.name, content, system_identifier=owner or 0, previous=_previous(path, len(content)))
    if owner is None:
        raise UsageError(
            _("nothing tells whose {name} is: there is no {control}").format(
                name=path.name, control=data_directory / CONTROL_FILE
            ),
            hint=hint_for_path(),
        )
    return file


def hint_for_path() -> str:
    return _("Set archive_command to: {command}").format(command="holdfast wal push %p")


def _content(path: Path) -> bytes:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UsageError(_("{path} is not a file").format(path=path), hint=hint_for_path())
            return file.read()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise UsageError(
            _("there is no {path} in {folder}").format(path=path, folder=Path.cwd()), hint=hint_for_path()
        ) from None
    except IsADirectoryError:
        raise UsageError(_("{path} is not a file").format(path=path), hint=hint_for_path()) from None
    except OSError as error:
        raise HoldfastError(
            _("cannot read {path}: {reason}").format(path=path, reason=error.strerror),
            hint=_("Run it as the user that the server runs as."),
        ) from None


def _owner(data_directory: Path) -> int | None:
    """The system identifier in pg_control: its first eight bytes, which never change."""
    try:
        with (data_directory / CONTROL_FILE).open("rb") as file:
            head = file.read(8)
    except OSError:
        return None
    return int.from_bytes(head, sys.byteorder) if len(head) == 8 else None


def _previous(path: Path, size: int) -> bytes:
    """The end of the segment before, if it still lies beside ``path`` and is not used anew."""
    if not is_segment_name(path.name) or not is_segment_size(size):
        return b""
    segment = Segment.parse(path.name, size)
    if not segment.number:
        return b""
    before = Segment(timeline=segment.timeline, number=segment.number - 1, size=size)
    try:
        with path.with_name(before.name).open("rb") as file:
            if identify(file.read(_HEAD_BYTES)).start != before.start:
                return b""
            file.seek(max(size - RUN_UP_BYTES, 0))
            return file.read(RUN_UP_BYTES)
    except (OSError, Damaged):
        return b""
