"""The demo's server: made, filled, lost as in a disaster; and the restored one, stopped. Nothing of either stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from holdfast.clock import Clock
from holdfast.demo import tables
from holdfast.demo.embedded import INITDB_OPTIONS
from holdfast.errors import HoldfastError
from holdfast.messages import _
from holdfast.postgres.accounts import Account
from holdfast.postgres.connection import connect
from holdfast.postgres.instance import Instance, initdb, run_program, start, stop_by_data_dir

_SETTINGS = (
    ("shared_buffers", "128MB"),
    ("max_wal_size", "2GB"),
    ("checkpoint_timeout", "30min"),
    ("dynamic_shared_memory_type", "mmap"),  # in the data directory: what is killed leaves nothing in /dev/shm
)
_BANK_SHARE = 0.4
"""Of the database's size, what pgbench's tables take, about; the trades fill the rest."""

_BYTES_A_BRANCH = 15 * 10**6
_DAYS = 1200
_REMOVAL_LIMIT = 20.0
"""Seconds."""


def start_server(folder: Path, *, binaries: Path, account: Account, clock: Clock) -> Instance:
    """A new cluster in ``folder/data``, reached only through a socket in a folder of its own: nobody else can enter."""
    folder.mkdir(mode=0o700)
    account.give(folder)
    initdb(folder / "data", binaries=binaries, account=account, options=INITDB_OPTIONS)
    return start(
        folder / "data",
        binaries=binaries,
        account=account,
        clock=clock,
        log=folder / "server.log",
        listen=False,
        settings=_SETTINGS,
    )


def fill(server: Instance, *, binaries: Path, account: Account, megabytes: int) -> tables.Shape:
    """The mission's tables and pgbench's, ``megabytes`` (10^6 bytes) or a little more in all."""
    with closing(connect(server.connection_string())) as sql:
        sql.execute(f"create database {tables.DATABASE}".encode())
    branches = max(1, round(megabytes * 10**6 * _BANK_SHARE / _BYTES_A_BRANCH))
    run_program(
        [
            *(binaries / "pgbench", "--initialize", "--init-steps=dtGvp", "--quiet", f"--scale={branches}"),
            *("-h", server.socket_dir, "-p", str(server.port), "-U", "postgres", tables.DATABASE),
        ],
        account=account,
        what=_("cannot make pgbench's tables"),
    )
    trades = 0
    with closing(connect(server.connection_string(database=tables.DATABASE))) as sql:
        sql.execute(b"set synchronous_commit = off")
        tables.create_tables(sql, days=_DAYS)
        while database_size(server) + trades * tables.KEY_BYTES_A_TRADE < megabytes * 10**6:
            trades = tables.add_trades(sql, start=trades + 1, days=_DAYS)
        tables.add_keys(sql)
        sql.execute(b"vacuum analyze")
        sql.execute(b"checkpoint")
    return tables.Shape(branches=branches, days=_DAYS, trades=trades)


def database_size(server: Instance) -> int:
    """Bytes."""
    with closing(connect(server.connection_string(database=tables.DATABASE))) as sql:
        row = sql.execute(b"select pg_database_size(current_database())").fetchone()
    assert row is not None
    return int(row[0])


def lose(server: Instance, *, clock: Clock) -> None:
    """SIGKILL to every one of the server's processes, and its data directory deleted: nothing was shut down."""
    with closing(connect(server.connection_string())) as sql:
        processes = [int(pid) for (pid,) in sql.execute(b"select pid from pg_stat_activity").fetchall()]
    memory = _shared_memory(server.data_dir)
    for pid in (server.pid, *processes):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _wait(lambda: not server.is_running(), _("the server did not die"), clock=clock)
    _wait(
        lambda: _removed(server.data_dir),
        _("cannot remove {folder}").format(folder=server.data_dir),
        clock=clock,
    )
    if memory is not None and (ipcrm := shutil.which("ipcrm")):  # what a killed server leaves in the kernel
        subprocess.run([ipcrm, "-m", memory], check=False, capture_output=True, stdin=subprocess.DEVNULL)


def stop_restored(data_dir: Path, *, binaries: Path, account: Account) -> None:
    """Stops the copy that ``holdfast restore --start`` left running, if one runs."""
    sockets = _line(data_dir, 5)
    stop_by_data_dir(data_dir, binaries=binaries, account=account)
    if sockets is not None:
        with suppress(OSError):
            Path(sockets).rmdir()  # made for this one server; only if it is empty


def check_pages(data_dir: Path, *, binaries: Path, account: Account) -> None:
    """Every page's checksum, by PostgreSQL's own program, on a server that is stopped."""
    run_program(
        [binaries / "pg_checksums", "--check", "-D", data_dir],
        account=account,
        what=_("the restored pages do not all match their checksums"),
    )


def _removed(folder: Path) -> bool:
    """A dying process may still be writing into it: then it is tried again."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _wait(done: Callable[[], bool], otherwise: str, *, clock: Clock) -> None:
    end = clock.monotonic() + _REMOVAL_LIMIT
    while not done():
        if clock.monotonic() > end:
            raise HoldfastError(otherwise)
        clock.sleep(0.05)


def _shared_memory(data_dir: Path) -> str | None:
    """The id of the server's System V segment: the second word of line 7 (``src/include/utils/pidfile.h``)."""
    words = (_line(data_dir, 7) or "").split()
    return words[1] if len(words) == 2 and words[1].isdecimal() else None


def _line(data_dir: Path, number: int) -> str | None:
    """That line of ``postmaster.pid``."""
    try:
        return (data_dir / "postmaster.pid").read_text("utf-8", "replace").splitlines()[number - 1] or None
    except (OSError, IndexError):
        return None
