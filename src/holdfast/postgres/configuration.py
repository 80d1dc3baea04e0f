"""Configuration that lies outside the data directory, as on Debian: without it a restored copy does not start.

Files are taken as they are where this process can read them *and* they are the server's: over a socket or loopback, and
every line that the server says it read from a file stands there. Else they are rebuilt from what the server reports;
what cannot be had either way is named. They travel under ``holdfast-etc/``, an absolute ``include`` pointing into
``holdfast-etc/outside/``. Source: "Setting Parameters", pg_file_settings, pg_settings, pg_hba_file_rules and
pg_ident_file_mappings in PostgreSQL's manual.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import psycopg

from holdfast.clock import Clock
from holdfast.entry import Entry, EntryKind, Reading
from holdfast.messages import _
from holdfast.postgres.connection import Connection, Server
from holdfast.postgres.facts import ConfigurationFile
from holdfast.postgres.rebuild import Line, rebuild_hba, rebuild_ident, rebuild_settings
from holdfast.postgres.recovery import RECOVERY_DIR

FOLDER = "holdfast-etc"
_OUTSIDE = f"{FOLDER}/outside"
_SETTINGS = {"config_file": "postgresql.conf", "hba_file": "pg_hba.conf", "ident_file": "pg_ident.conf"}
_INCLUDE = re.compile(
    r"^\s*(include_if_exists|include_dir|include)\b\s*=?\s*(?:'((?:[^']|'')*)'|\"([^\"]*)\"|([^\s#'\"]+))"
)
_DEPTH = 10  # PostgreSQL's own limit on nested includes


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    file: ConfigurationFile
    inside: str
    """Where the file lies relative to the data directory: not taken if that came with the backup. Empty: outside."""
    content: bytes | None


class Configuration:
    """What was found; :meth:`readings` leaves out what the data directory's own files already brought."""

    def __init__(self, taken: tuple[Taken, ...], *, lies_in_folder: bool, mtime_ns: int) -> None:
        self._taken = taken
        self.named = frozenset(path for item in taken for path in (item.inside, item.file.path) if path)
        """Paths in the backup that this must know of: whether they came decides what is still needed."""
        self.replaced = frozenset(item.file.path for item in taken if not item.inside and item.content is not None)
        """Paths that it brings itself: the data directory's own file there, of an earlier restore, is not in force."""
        self._mtime_ns = mtime_ns
        self.lies_in_folder = lies_in_folder
        """The server's configuration itself, or what it includes, lies in its data directory's ``holdfast-etc/``."""

    def files(self, received: Container[str]) -> tuple[ConfigurationFile, ...]:
        return tuple(taken.file for taken in self._needed(received))

    def readings(self, received: Container[str]) -> Iterator[Reading]:
        """``received``: which of the :attr:`named` files came with the data directory."""
        folders: set[str] = set()
        for taken in self._needed(received):
            if taken.content is None:
                continue
            for parent in reversed(PurePosixPath(taken.file.path).parents[:-1]):
                if str(parent) not in folders:
                    folders.add(str(parent))
                    yield self._entry(str(parent), EntryKind.DIRECTORY, 0o700, 0), ()
            yield self._entry(taken.file.path, EntryKind.FILE, 0o600, len(taken.content)), (taken.content,)

    def _needed(self, received: Container[str]) -> Iterator[Taken]:
        for taken in self._taken:
            if taken.inside not in received and taken.file.path not in received:
                yield taken

    def _entry(self, path: str, kind: EntryKind, mode: int, size: int) -> Entry:
        return Entry(path=path, kind=kind, mode=mode, mtime_ns=self._mtime_ns, size=size)


def read_configuration(connection: Connection, *, server: Server, clock: Clock) -> Configuration:
    """Everything the server's configuration consists of. psycopg's errors pass through."""
    named: dict[str, str] = dict(
        connection.execute(
            "select name, setting from pg_settings where name = any(%s)", [[*_SETTINGS, "data_directory"]]
        ).fetchall()
    )
    data_directory = named.get("data_directory") or ""
    lines = _Reported(connection)
    outside_lines = {line.file for line in lines.settings or () if not _inside(line.file, data_directory)}
    taken: list[Taken] = []
    for setting, name in _SETTINGS.items():
        origin = named.get(setting) or ""
        inside = _inside(origin, data_directory)
        if setting == "config_file" and outside_lines:
            inside = ""  # the file in the data directory includes what lies elsewhere: alone it is of no use
        taken += _take(name, origin, inside or ("" if origin else name), lines, is_local=server.is_local)
    origins = {*named.values(), *(line.file for line in lines.settings or ())}
    return Configuration(
        tuple(taken),
        lies_in_folder=any(_inside(origin, data_directory).startswith(FOLDER + "/") for origin in origins),
        mtime_ns=int(clock.now().timestamp()) * 1_000_000_000,
    )


def _take(name: str, origin: str, inside: str, reported: _Reported, *, is_local: bool) -> list[Taken]:
    """One of the three files, with what it includes. ``inside`` without ``origin``: where it lies by default."""
    expected = reported.lines_of(name)
    path = f"{FOLDER}/{name}"
    note = ""
    if inside.startswith(f"{RECOVERY_DIR}/"):
        # A copy that was started beside its source lets everybody in who reaches its socket: good there, nowhere else.
        note = _("the server is a started copy, and runs with a file made for that: write one")
        return [
            Taken(
                file=ConfigurationFile(path=path, origin=origin, how="impossible", note=note), inside=name, content=None
            )
        ]
    if not origin:
        note = _("the role may not see where the file lies: GRANT pg_monitor")
    elif not is_local:
        note = _("the server is on another machine")
    else:
        try:
            return [
                Taken(file=ConfigurationFile(path=copy, origin=str(source), how="read"), inside=inside, content=content)
                for copy, source, content in _read_with_includes(Path(origin), expected)
            ]
        except OSError as error:
            note = _("cannot be read here: {reason}").format(reason=error.strerror or type(error).__name__)
        except _NotTheServersError:
            note = _("the file of that name on this machine is not what the server has loaded")
    content = reported.rebuild(name)
    if content is None:
        note = _("{note}; and the role may not read {view}").format(note=note, view=_VIEWS[name])
    return [
        Taken(
            file=ConfigurationFile(
                path=path, origin=origin, how="impossible" if content is None else "rebuilt", note=note
            ),
            inside=inside,
            content=content,
        )
    ]


_VIEWS = {
    "postgresql.conf": "pg_settings",
    "pg_hba.conf": "pg_hba_file_rules",
    "pg_ident.conf": "pg_ident_file_mappings",
}


class _NotTheServersError(Exception):
    """A local file of the right name that belongs to another server."""


class _Reported:
    """What the server says its files hold; None where the role may not ask."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._version = connection.info.server_version
        file_settings = self._ask(
            "select name, setting, sourcefile, sourceline, applied from pg_file_settings where name is not null"
            " order by seqno"
        )
        loaded = self._ask(
            "select name, setting, sourcefile, sourceline, source <> 'session' from pg_settings"
            " where source in ('configuration file', 'command line') order by name"
        )
        rows = file_settings if file_settings is not None else loaded
        self.settings = None if rows is None else [_line(row) for row in rows if not _is_auto(row[2])]
        self._loaded = [_line(row) for row in loaded or () if not _is_auto(row[2])]
        # The rows come as PostgreSQL reads the files, and that order counts. A line that cannot match on this server
        # (hostssl without SSL) has an error and no rule_number, but all its fields.
        file = "file_name" if self._version >= 160000 else "null"
        self._hba = self._ask(
            f"select {file}, line_number, type, database, user_name, address, netmask, auth_method, options"  # noqa: S608
            " from pg_hba_file_rules where type is not null"
        )
        self._ident = self._ask(
            f"select {file}, line_number, map_name, sys_name, pg_username"  # noqa: S608  constants
            " from pg_ident_file_mappings where map_name is not null"
        )

    def lines_of(self, name: str) -> list[Line] | None:
        """The lines that must stand in the file and in what it includes; None if nothing is known about it."""
        if name == "postgresql.conf":
            return None if self.settings is None else [line for line in self.settings if line.file]
        rows = self._hba if name == "pg_hba.conf" else self._ident
        if rows is None:
            return None
        return [Line(file=row[0] or "", number=row[1], word=row[2], value="") for row in rows]

    def rebuild(self, name: str) -> bytes | None:
        if name == "postgresql.conf":
            # The command line wins over every file; its settings are in no file.
            from_command_line = [line for line in self._loaded if not line.file]
            return None if self.settings is None else rebuild_settings([*self.settings, *from_command_line])
        if name == "pg_hba.conf":
            return None if self._hba is None else rebuild_hba(self._hba)
        return None if self._ident is None else rebuild_ident(self._ident)

    def _ask(self, sql: str) -> list[tuple[Any, ...]] | None:
        try:
            return self._connection.execute(sql.encode()).fetchall()
        except psycopg.errors.InsufficientPrivilege:
            return None


def _line(row: tuple[Any, ...]) -> Line:
    name, setting, file, number, applied = row
    return Line(file=file or "", number=number or 0, word=name, value=setting or "", applied=bool(applied))


def _is_auto(file: str | None) -> bool:
    """postgresql.auto.conf always lies in the data directory."""
    return file is not None and file.endswith("/postgresql.auto.conf")


def _inside(origin: str, data_directory: str) -> str:
    """The path relative to the data directory; empty if it is elsewhere, or unknown."""
    if not origin or not data_directory or not origin.startswith(data_directory.rstrip("/") + "/"):
        return ""
    return origin[len(data_directory.rstrip("/")) + 1 :]


def _read_with_includes(main: Path, expected: list[Line] | None) -> Iterator[tuple[str, Path, bytes]]:
    """Path in the backup, path on the server and content, of the file and of all that it includes, checked."""
    contents: dict[Path, bytes] = {}
    _collect(main, contents, depth=0)
    lines = {str(path): content.decode("utf-8", "surrogateescape").split("\n") for path, content in contents.items()}
    for line in expected or ():
        if not line.stands_in(lines.get(line.file or str(main), [])):
            raise _NotTheServersError
    for path, content in contents.items():
        yield _place(path, main.parent), path, _relocated(path, content, main.parent)


def _collect(path: Path, contents: dict[Path, bytes], *, depth: int) -> None:
    if path in contents or depth > _DEPTH:
        return
    content = path.read_bytes()
    contents[path] = content
    for text in content.decode("utf-8", "surrogateescape").split("\n"):
        if (match := _INCLUDE.match(text)) is None:
            continue
        target = _target(path, match)
        if match[1] == "include_dir":
            for file in sorted(target.iterdir()):
                if file.name.endswith(".conf") and not file.name.startswith("."):
                    _collect(file, contents, depth=depth + 1)
        elif match[1] == "include" or target.exists():
            _collect(target, contents, depth=depth + 1)


def _target(path: Path, match: re.Match[str]) -> Path:
    """Relative ones count from the including file's folder."""
    return Path(os.path.normpath(path.parent / _included(match)))


def _included(match: re.Match[str]) -> str:
    return match[2].replace("''", "'") if match[2] is not None else match[3] or match[4]


def _place(path: Path, home: Path) -> str:
    """Where a file goes: beside the main one what lies under its folder, else under ``outside/`` with its full path."""
    if path.is_relative_to(home):
        return f"{FOLDER}/{path.relative_to(home)}"
    return f"{_OUTSIDE}{path}"


def _relocated(path: Path, content: bytes, home: Path) -> bytes:
    """The same text with includes pointing to their copies; a changed line keeps the old one as a comment."""
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    for number, text in enumerate(lines):
        if (match := _INCLUDE.match(text)) is None:
            continue
        copy = os.path.relpath(_place(_target(path, match), home), PurePosixPath(_place(path, home)).parent)
        if copy != os.path.normpath(_included(match)):
            lines[number] = f"{match[1]} '{copy.replace(chr(39), chr(39) * 2)}'  # {text.strip()}"
    return "\n".join(lines).encode("utf-8", "surrogateescape")
