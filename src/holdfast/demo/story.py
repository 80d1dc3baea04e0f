"""The demo from beginning to end: a database is made, backed up twice, lost, restored, and compared with its log.

It lives in one temporary folder (and the sockets' folders), which is removed at the end, as are its servers, however it
ends. What it did is the :class:`Outcome`; what it does meanwhile it tells a :class:`Stage`.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

from holdfast.clock import Clock
from holdfast.demo import servers, tables
from holdfast.demo.commands import Commands
from holdfast.demo.embedded import MAJOR, embedded_binaries
from holdfast.demo.load import TRANSACTIONS_A_SECOND, Log, Writer, expected_after
from holdfast.errors import HoldfastError, NoSpace
from holdfast.messages import _
from holdfast.postgres.accounts import Account, server_account
from holdfast.postgres.connection import connect
from holdfast.postgres.instance import Instance
from holdfast.postgres.lsn import Lsn

SOURCE = "tracker"
BEFORE_SECOND = 500
"""Transactions that the load commits between the two snapshots."""

AFTER_SECOND = 100
"""… and after the second, before the server is lost."""

_LOAD_LIMIT = 60.0
_ROOM = 3.5
"""How often the database must fit on the disk: itself and its WAL, the repository, the restored copy."""


class Stage(Protocol):
    def chapter(self, title: str) -> None: ...
    def say(self, text: str) -> None: ...
    def command(self, line: str) -> None:
        """A command line that is about to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    megabytes: int
    """Of the database, in 10^6 bytes."""
    keep: bool
    """Whether the folder stays."""
    quiet: bool
    """Standard output belongs to somebody else: what the commands print goes to standard error."""
    language: str | None
    spoil: str | None
    """SQL that is run in the restored copy before it is compared: to see that the comparison notices."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One snapshot; sizes in bytes."""

    label: str
    content: int
    added_content: int
    """What the repository did not hold yet, before compression."""
    added_stored: int
    """The same, compressed and encrypted."""
    took: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    database_size: int
    """Bytes."""
    first: Taken
    second: Taken
    restore_took: timedelta
    """From the command to its end: planned, restored, started."""
    start_took: timedelta
    """Of that, from the server's start until it took connections."""
    end_lsn: Lsn
    committed: int
    """Transactions that the lost server had acknowledged."""
    expected: int
    """Of these, those that the snapshot must hold."""
    found: int
    """Those that the copy says it holds: ``expected``, or one more, whose acknowledgement was on its way."""
    tables: Sequence[tables.Compared]
    folder: Path | None
    """What is left, with ``keep``."""

    @property
    def same(self) -> bool:
        return self.found in (self.expected, self.expected + 1) and all(table.same for table in self.tables)

    @property
    def deduplicated(self) -> int:
        """Bytes that the two snapshots have in common with each other or within themselves, and are stored once."""
        both = (self.first, self.second)
        return sum(taken.content for taken in both) - sum(taken.added_content for taken in both)


def run(plan: Plan, stage: Stage, *, clock: Clock) -> Outcome:
    """Raises :class:`~holdfast.errors.HoldfastError` if a step fails; a copy that differs is an outcome, no error."""
    with ExitStack() as at_end:
        folder = Path(tempfile.mkdtemp(prefix="hfdemo-"))
        if not plan.keep:
            at_end.callback(_remove, folder)
        folder.chmod(0o711)  # the server's account passes through
        _refuse_unless_room(folder, plan.megabytes)
        return _Story(plan, stage, folder, clock=clock, at_end=at_end).tell()


class _Story:
    """The steps, in the order in which ``tell`` calls them."""

    def __init__(self, plan: Plan, stage: Stage, folder: Path, *, clock: Clock, at_end: ExitStack) -> None:
        self._plan = plan
        self._stage = stage
        self._folder = folder
        self._clock = clock
        self._at_end = at_end
        self._account: Account = server_account()
        self._binaries = embedded_binaries(self._account, folder / "postgresql")
        self._restored = folder / "restored"
        self._holdfast = Commands(
            folder, programs=self._binaries, show=stage.command, quiet=plan.quiet, language=plan.language
        )

    def tell(self) -> Outcome:
        server, shape, base = self._make_database()
        size = servers.database_size(server)
        self._set_up(server)
        first = self._first_snapshot()
        writer, second = self._second_snapshot(server, shape)
        committed = self._lose(server, writer)
        started, took = self._restore()
        end = _position(started["end_lsn"])
        held = committed.held_at(end)
        found, compared = self._compare(started, shape, base)
        return Outcome(
            database_size=size,
            first=first,
            second=second,
            restore_took=took,
            start_took=timedelta(seconds=float(started["seconds"])),
            end_lsn=end,
            committed=len(committed.positions),
            expected=held,
            found=found,
            tables=compared,
            folder=self._folder if self._plan.keep else None,
        )

    def _make_database(self) -> tuple[Instance, tables.Shape, tables.Contents]:
        self._stage.chapter(_("1. A PostgreSQL {major} with {size} MB").format(major=MAJOR, size=self._plan.megabytes))
        self._stage.say(_("Everything happens in {folder}").format(folder=self._folder))
        server = servers.start_server(
            self._folder / "server", binaries=self._binaries, account=self._account, clock=self._clock
        )
        self._at_end.callback(server.stop, fast=False)
        shape = servers.fill(server, binaries=self._binaries, account=self._account, megabytes=self._plan.megabytes)
        with closing(connect(server.connection_string(database=tables.DATABASE))) as sql:
            base = tables.measure(sql)
        self._stage.say(
            _("Database {name}: {days} daily_blueprints, {trades} trades, {accounts} accounts of pgbench.").format(
                name=tables.DATABASE,
                days=shape.days,
                trades=shape.trades,
                accounts=shape.branches * tables.ACCOUNTS_PER_BRANCH,
            )
        )
        self._stage.say(_("Of every table the number of rows and a checksum of their content are noted."))
        return server, shape, base

    def _set_up(self, server: Instance) -> None:
        self._stage.chapter(_("2. Holdfast is set up"))
        own, admin = (_connection(server.socket_dir, server.port, role) for role in ("holdfast", "postgres"))
        self._holdfast.run(
            *("init", "--yes", "--source", SOURCE, "--connection", own, "--admin", admin),
            *("--repository-url", (self._folder / "repository").as_uri()),
            *("--passphrase-file", str(self._folder / "passphrase")),
        )
        self._holdfast.run("check")
        self._stage.say(_("(Here the repository lies on the server's own disk. Yours should not.)"))

    def _first_snapshot(self) -> Taken:
        self._stage.chapter(_("3. A first snapshot"))
        began = self._clock.monotonic()
        self._holdfast.run("backup")
        return self._taken(0, began)

    def _second_snapshot(self, server: Instance, shape: tables.Shape) -> tuple[Writer, Taken]:
        self._stage.chapter(_("4. A second snapshot, while the database is written to"))
        log = self._folder / "load.log"
        writer = Writer(server.connection_string(database=tables.DATABASE), shape, log=log, clock=self._clock)
        self._at_end.callback(writer.stop)
        writer.start()
        self._stage.say(
            _("One writer enters trades, moves money and revises plans, up to {rate} times a second.").format(
                rate=f"{TRANSACTIONS_A_SECOND:.0f}"
            )
        )
        self._stage.say(_("After each commit it notes how far the WAL was: {log}").format(log=log))
        writer.wait_for(BEFORE_SECOND, limit=_LOAD_LIMIT)
        began, before = self._clock.monotonic(), writer.committed
        self._holdfast.run("backup")
        taken, during = self._taken(1, began), writer.committed - before
        self._stage.say(_("{number} transactions were committed while it was taken.").format(number=during))
        self._holdfast.run("list")
        self._holdfast.run("verify")
        writer.wait_for(before + during + AFTER_SECOND, limit=_LOAD_LIMIT)
        return writer, taken

    def _lose(self, server: Instance, writer: Writer) -> Log:
        self._stage.chapter(_("5. The disaster"))
        self._stage.say(_("SIGKILL to the server in the middle of its work, and its data directory is deleted:"))
        self._stage.say(f"$ kill -9 {server.pid}; rm -rf {server.data_dir}")
        servers.lose(server, clock=self._clock)
        log = writer.stop()
        self._stage.say(_("{number} transactions had been committed.").format(number=len(log.positions)))
        return log

    def _restore(self) -> tuple[Any, timedelta]:
        self._stage.chapter(_("6. Restored, and started"))
        began = self._clock.monotonic()
        self._at_end.callback(self._stop_restored)
        started = self._holdfast.ask(
            *("restore", SOURCE, "--to", str(self._restored), "--start"),
        )["started"]
        self._stage.say(
            _("It recovered to {end} by itself and runs: psql {connection}").format(
                end=_position(started["end_lsn"]), connection=shlex.quote(started["connection"])
            )
        )
        return started, timedelta(seconds=self._clock.monotonic() - began)

    def _compare(self, started: Any, shape: tables.Shape, base: tables.Contents) -> tuple[int, list[tables.Compared]]:
        self._stage.chapter(_("7. Is it all there?"))
        connection = _connection(started["socket_dir"], started["port"], "postgres")
        with closing(connect(connection)) as sql:
            if self._plan.spoil:
                sql.execute(self._plan.spoil.encode())
            found = tables.transactions_in(sql)
            contents = tables.measure(sql)
        servers.stop_restored(self._restored, binaries=self._binaries, account=self._account)
        servers.check_pages(self._restored, binaries=self._binaries, account=self._account)
        self._stage.say(_("Every page has the checksum that PostgreSQL gave it."))
        return found, tables.compare(expected_after(found, base, shape), contents)

    def _taken(self, number: int, began: float) -> Taken:
        took = timedelta(seconds=self._clock.monotonic() - began)
        snapshot = self._holdfast.ask("list", shown=False)["snapshots"][number]
        totals = snapshot["totals"]
        return Taken(
            label=snapshot["label"],
            content=totals["content"],
            added_content=totals["added_content"],
            added_stored=totals["added_stored"],
            took=took,
        )

    def _stop_restored(self) -> None:
        with suppress(HoldfastError):
            servers.stop_restored(self._restored, binaries=self._binaries, account=self._account)


def _connection(socket_dir: str | Path, port: int, role: str) -> str:
    return f"host={socket_dir} port={port} user={role} dbname={tables.DATABASE}"


def _position(value: str | int) -> Lsn:
    """As JSON has it: in PostgreSQL's writing, or as a number of bytes."""
    return Lsn(value) if isinstance(value, int) else Lsn.parse(value)


def _refuse_unless_room(folder: Path, megabytes: int) -> None:
    free, needed = shutil.disk_usage(folder).free, round((megabytes + 100) * 10**6 * _ROOM)
    if free < needed:
        raise NoSpace(
            _("the demo needs {needed} MB in {folder}, where {free} MB are free").format(
                needed=needed // 10**6, folder=folder.parent, free=free // 10**6
            ),
            hint=_("Free space there, or set TMPDIR to a folder on another disk."),
        )


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
