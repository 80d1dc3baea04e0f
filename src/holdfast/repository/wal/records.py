"""The small objects of a stream, as a reading finds them: beginnings, summaries, files. Each is opened once.

What cannot be read is a problem, by the object's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from holdfast.errors import Damaged, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.objects import FileName, Kind, parse_file_name, parse_stream_name
from holdfast.repository.repository import Repository
from holdfast.repository.wal.files import fetch_file, open_file
from holdfast.repository.wal.held import Begin, HeldFile
from holdfast.repository.wal.looking import ROUNDS
from holdfast.repository.wal.pieces import name_stream
from holdfast.repository.wal.spans import Span, decode_spans
from holdfast.repository.wal.streams import decode_begin
from holdfast.store.port import Listed

T = TypeVar("T")


@dataclass(slots=True)
class Found(Generic[T]):
    by_name: dict[str, T] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    """Names of objects that cannot be read, and why."""
    gone: set[str] = field(default_factory=set)


class Remembered(Generic[T]):
    """Immutable objects of one folder, opened once."""

    def __init__(self, read: Callable[[Listed], T], *, workers: int) -> None:
        self._read, self._workers = read, workers
        self._known: dict[str, T] = {}

    def of(self, listed: Iterable[Listed], folder: str) -> Found[T]:
        """``listed``: what lies in ``folder``; what is known of it and does not is forgotten."""
        found = Found[T]()

        def read(one: Listed) -> None:
            try:
                known = self._known.get(one.name)
                found.by_name[one.name] = self._read(one) if known is None else known
            except ObjectMissing as error:
                found.gone.add(one.name)
                found.problems[one.name] = str(error)
            except Damaged as error:
                found.problems[one.name] = str(error)

        items = list(listed)
        new = [one for one in items if one.name not in self._known]
        each(read, new, workers=min(self._workers, max(len(new), 1)))
        for one in items:
            if one.name in self._known:
                read(one)
        for name in [one for one in list(self._known) if one.startswith(folder) and one not in found.by_name]:
            self._known.pop(name, None)
        self._known.update(found.by_name)
        return found


class StreamRecords:
    """Thread-safe."""

    def __init__(self, repository: Repository, *, workers: int) -> None:
        self._repository = repository
        self._begins = Remembered(self._begin, workers=workers)
        self._summaries = Remembered(self._summary, workers=workers)
        self._files = Remembered(self._file, workers=workers)

    def begins(self, stream: str = "") -> Found[Begin]:
        """Of one stream, or of all."""
        folder = f"{Kind.STREAM.prefix}{stream}/" if stream else Kind.STREAM.prefix
        return self._begins.of(self._repository.store.list(folder), folder)

    def spans(self, stream: str) -> Found[tuple[Span, ...]]:
        """Summaries of a stream."""
        folder = f"{Kind.SPAN.prefix}{stream}/"
        for _again in range(ROUNDS):
            found = self._summaries.of(self._repository.store.list(folder), folder)
            if not found.gone:  # else merged meanwhile: the union is there
                break
        return found

    def files(self, stream: str) -> Found[tuple[HeldFile, bytes]]:
        """History files with their content, ``.partial`` without."""
        folder = f"{Kind.WAL_FILE.prefix}{stream}/"
        listed = (one for one in self._repository.store.list(folder) if not _is_backup(one.name))
        return self._files.of(listed, folder)

    def _begin(self, listed: Listed) -> Begin:
        begin = decode_begin(self._repository.get_listed(listed))
        ref = parse_stream_name(listed.name)
        if ref is None or ref.stream != name_stream(self._repository.ids, begin.stream):
            raise _elsewhere(listed.name)
        return begin

    def _summary(self, listed: Listed) -> tuple[Span, ...]:
        data = self._repository.get_listed(listed)
        return decode_spans(self._repository.ids, listed.name.split("/")[1], data)

    def _file(self, listed: Listed) -> tuple[HeldFile, bytes]:
        name = parse_file_name(listed.name)
        if name is None:
            raise _elsewhere(listed.name)
        if name.file.endswith(".history"):
            return open_file(self._repository, listed.name, self._repository.store.get(listed.name))
        return fetch_file(self._repository, name), b""


def _is_backup(name: str) -> bool:
    parsed: FileName | None = parse_file_name(name)
    return parsed is not None and parsed.file.endswith(".backup")


def _elsewhere(name: str) -> Damaged:
    return Damaged(_("{name} has a name that Holdfast does not write").format(name=name))
