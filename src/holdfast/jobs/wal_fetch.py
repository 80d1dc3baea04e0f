"""``restore_command``: one WAL file, whole, from the first repository that has it.

What is handed out is a segment that is wholly held, or a history file; never a tail: PostgreSQL would take the zeros
behind it for the end of WAL. What is not held is told apart from what cannot be told: for a server that is to end its
recovery the former means "open now", so it is believed only where nothing that follows is held.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from holdfast.clock import Clock
from holdfast.errors import Damaged, HoldfastError, NoSpace, NotReachable, Refused, UsageError
from holdfast.messages import _
from holdfast.postgres.lsn import Segment, history_timeline, is_segment_name
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import Begin
from holdfast.repository.wal.pieces import Stream
from holdfast.repository.wal.reading import WalReader

PATIENCE_SECONDS = 20.0
"""How long a store that cannot be reached is asked again."""
_PAUSE_SECONDS = 1.0

Open = Callable[[str], Repository]


class WalFetcher:
    """Fetches files of one source. Thread-safe; repositories are opened when they are needed, and stay open."""

    def __init__(self, source: str, names: Sequence[str], open_repository: Open, *, clock: Clock) -> None:
        self._source = source
        self._places = [_Place(name, source, open_repository) for name in names]
        self._clock = clock

    def fetch(self, name: str, to: Path, *, system_identifier: int | None, ending: bool) -> int | None:
        """Writes the file ``name`` to ``to``, which must not be there; its size in bytes, or None if it is not held.

        ``system_identifier``: of the server that asks; None: not known, then the newest that the source had.
        ``ending``: the server opens when it is told that something is not held.

        Nothing is left at ``to`` unless it is whole. Raises ``Damaged`` for what is there and not to be believed (two
        contents, too), ``Refused`` where not being held would be no end, ``NotReachable`` after
        :data:`PATIENCE_SECONDS`, and ``UsageError`` for another name.
        """
        if not is_segment_name(name) and history_timeline(name) is None:
            raise UsageError(
                _("{name!r} is not the name of a WAL segment or a history file").format(name=name),
                hint=_("Set restore_command to: {command}").format(command="holdfast wal fetch %f %p"),
            )
        until = self._clock.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._fetch(name, to, system_identifier, ending=ending)
            except NotReachable:
                if self._clock.monotonic() + _PAUSE_SECONDS > until:
                    raise
                self._clock.sleep(_PAUSE_SECONDS)

    def _fetch(self, name: str, to: Path, system_identifier: int | None, *, ending: bool) -> int | None:
        failures: list[HoldfastError] = []
        for place in self._places:
            try:
                blocks = place.find(name, system_identifier)
                if blocks is not None:
                    return _write(blocks, to)
            except HoldfastError as error:
                failures.append(error)
        if failures:
            raise max(failures, key=lambda error: isinstance(error, Damaged))
        if ending and is_segment_name(name):
            self._demand_end(name, system_identifier)
        return None

    def _demand_end(self, name: str, system_identifier: int | None) -> None:
        """Raises ``Refused`` if there is more where ``name`` is not: recovery would end too early, and say nothing."""
        streams = [stream for place in self._places for stream in place.streams()]
        if not any(system_identifier in (None, stream.system_identifier) for stream in streams):
            known = ", ".join(str(stream.system_identifier) for stream in streams)
            raise Refused(
                _("no WAL of the system {identifier} is held for source {source}; held: {known}").format(
                    identifier=system_identifier, source=self._source, known=known or _("none")
                ),
                hint=_("Name the source that this server is a copy of: holdfast wal fetch --source NAME %f %p"),
            )
        for place in self._places:
            following = place.first_from(name, system_identifier)
            if following is not None:
                raise Refused(
                    _("{name} is not wholly held, and there is WAL of {following} in {repository}").format(
                        name=name, following=following, repository=place.name
                    ),
                    hint=_("Recover with: holdfast restore {source} --to DIR --at latest").format(source=self._source),
                )


class _Place:
    """One repository of those that keep the source's WAL."""

    def __init__(self, name: str, source: str, open_repository: Open) -> None:
        self.name = name
        self._source = source
        self._open = open_repository
        self._reader: WalReader | None = None
        self._begins: tuple[Begin, ...] = ()
        self._lock = threading.Lock()

    def streams(self) -> tuple[Stream, ...]:
        return tuple(dict.fromkeys(begin.stream for begin in self._asked_begins()))

    def find(self, name: str, system_identifier: int | None) -> Iterator[bytes] | None:
        """The content of the file; None: not held."""
        begin = self._begin(system_identifier)
        if begin is None:
            return None
        reader = self._opened()
        try:
            if not is_segment_name(name):
                content = reader.file(begin.stream, name)
                return None if content is None else iter((content,))
            place = Segment.parse(name, begin.segment_size)
            segment = reader.whole(begin.stream, place.timeline, place.number)
        except Refused as error:
            if type(error) is not Refused:
                raise
            raise Damaged(str(error), hint=error.hint) from None  # two contents for one place
        return None if segment is None else reader.content(begin.stream, segment)

    def first_from(self, name: str, system_identifier: int | None) -> str | None:
        """The name of the first segment from ``name`` on, on its timeline, of which anything is held."""
        begin = self._begin(system_identifier)
        if begin is None:
            return None
        wanted = Segment.parse(name, begin.segment_size)
        there = (
            Segment(timeline=held.timeline, number=held.number, size=begin.segment_size)
            for held in self._opened().held(begin.stream).segments
            if held.timeline == wanted.timeline and held.number >= wanted.number and held.stop
        )
        first = min(there, default=None)
        return None if first is None else first.name

    def _begin(self, system_identifier: int | None) -> Begin | None:
        """The newest beginning of the server's stream, which is looked for again until there is one."""
        known = [begin for begin in self._begins if begin.stream.system_identifier == system_identifier]
        if not known:
            known = [
                begin for begin in self._asked_begins() if system_identifier in (None, begin.stream.system_identifier)
            ]
        return max(known, key=lambda begin: begin.when, default=None)

    def _asked_begins(self) -> tuple[Begin, ...]:
        self._begins = self._opened().begins(self._source)
        return self._begins

    def _opened(self) -> WalReader:
        with self._lock:
            if self._reader is None:
                self._reader = WalReader(self._open(self.name))
            return self._reader


def _write(blocks: Iterable[bytes], to: Path) -> int:
    """Writes a new file, readable by nobody else, which goes again when ``blocks`` fail; its size in bytes."""
    try:
        with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            try:
                return sum(map(file.write, blocks))
            except BaseException:
                to.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise (NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else HoldfastError)(
            _("cannot write {path}: {reason}").format(path=to, reason=error.strerror),
            hint=_("Run it as the user that the server runs as, in the data directory, and mind free space."),
        ) from None
