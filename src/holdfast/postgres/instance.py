"""Running a PostgreSQL server that is ours to start and to stop: a demo's, a drill's, a restored copy.

The postmaster is a child of this process, so that its end is noticed at once and is never mistaken for another's. It is
ready when it says so itself, in ``postmaster.pid`` (``src/include/utils/pidfile.h``); nothing is taken from ``pg_ctl``,
which reports success for a server whose recovery is paused.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from psycopg.conninfo import make_conninfo

from holdfast.clock import Clock
from holdfast.errors import HoldfastError, Interrupted
from holdfast.messages import _
from holdfast.postgres.accounts import Account, check_data_directory
from holdfast.postgres.owned import appending, environment, make_sure_of_log
from holdfast.postgres.signals import signals_deferred

START_LIMIT = 60.0
STOP_LIMIT = 120.0
"""Seconds; a fast shutdown writes a checkpoint."""

_POLL = 0.05
_TAIL_LINES = 15
_PREFIX = re.compile(r"^.*?\b(?:LOG|WARNING|ERROR|FATAL|PANIC): +")
_left_running: list[subprocess.Popen[bytes]] = []  # kept: a Popen that is dropped complains about its running child


@dataclass(frozen=True, slots=True, kw_only=True)
class PostmasterFile:
    """The lines of ``postmaster.pid`` that matter here."""

    pid: int
    port: int
    status: str
    """``starting``, ``stopping``, ``ready``, ``standby``; empty while the server has not got so far."""


def read_postmaster_file(data_dir: Path) -> PostmasterFile | None:
    """None if there is none, or it is half written."""
    try:
        lines = (data_dir / "postmaster.pid").read_text("utf-8", "replace").splitlines()
        return PostmasterFile(
            pid=abs(int(lines[0])),
            port=int(lines[3]) if len(lines) > 3 else 0,
            status=lines[7].strip() if len(lines) > 7 else "",
        )
    except (OSError, ValueError, IndexError):
        return None


def is_running_on(data_dir: Path) -> bool:
    """Whether ``postmaster.pid`` names a process that lives."""
    found = read_postmaster_file(data_dir)
    if found is None:
        return False
    try:
        os.kill(found.pid, 0)
    except PermissionError:
        return True  # somebody else's process
    except (ProcessLookupError, OverflowError):
        return False
    return True


class Instance:
    """A server that this process started. As a context manager it is stopped at the end of the scope."""

    def __init__(
        self, *, process: subprocess.Popen[bytes], data_dir: Path, port: int, socket_dir: Path, log: Path, clock: Clock
    ) -> None:
        self._process = process
        self._clock = clock
        self._log_start = 0
        self.data_dir = data_dir
        self.port = port
        self.socket_dir = socket_dir
        """A folder of its own, 0700: removed when the server is stopped."""
        self.log = log
        """What the server wrote to stderr."""

    def connection_string(self, *, role: str = "postgres", database: str = "postgres") -> str:
        """Over the socket; nothing of it is left to the environment's PG… variables."""
        return make_conninfo(
            host=str(self.socket_dir),
            hostaddr="",
            port=str(self.port),
            user=role,
            dbname=database,
            sslmode="disable",
            target_session_attrs="any",
        )

    def for_psql(self, *, role: str, database: str) -> str:
        """The same, short: what a person types."""
        return make_conninfo(host=str(self.socket_dir), port=str(self.port), user=role, dbname=database)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, *, limit: float = START_LIMIT, stopped: Callable[[], bool] = lambda: False) -> None:
        """Until it takes connections for reading and writing, ``limit`` seconds at most.

        Raises :class:`~holdfast.errors.HoldfastError` with the end of the server's log when it ends or takes too
        long, :class:`~holdfast.errors.Interrupted` within a fraction of a second after ``stopped`` says so.
        """
        end = self._clock.monotonic() + limit
        while not self._is_ready():
            if not self.is_running():
                raise self.failure(
                    _("PostgreSQL on {directory} ended instead of starting").format(directory=self.data_dir)
                )
            if stopped():
                raise Interrupted(
                    _("interrupted while PostgreSQL on {directory} was starting").format(directory=self.data_dir)
                )
            if self._clock.monotonic() > end:
                raise self.failure(
                    _("PostgreSQL on {directory} was not ready after {seconds:.0f} s").format(
                        directory=self.data_dir, seconds=limit
                    )
                )
            self._clock.sleep(_POLL)

    def _is_ready(self) -> bool:
        found = read_postmaster_file(self.data_dir)
        return found is not None and found.pid == self.pid and found.status == "ready" and self.is_running()

    def failure(self, what: str) -> HoldfastError:
        """``what`` with the reason that the server gave, if it gave one, and the end of its log as the hint."""
        tail = self.log_tail()
        reasons = [line for line in tail if "FATAL:" in line or "PANIC:" in line]
        reason = reasons[-1].partition("FATAL:")[2] or reasons[-1].partition("PANIC:")[2] if reasons else ""
        return HoldfastError(
            f"{what}: {reason.strip()}" if reason else what,
            hint=_("The end of its log, {log}:\n{lines}").format(log=self.log, lines="\n".join(tail)),
        )

    def log_tail(self) -> list[str]:
        """The last lines that this server, and not one before it, wrote."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._log_start, file.seek(0, os.SEEK_END) - 64 * 1024))
                return file.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            return []

    def stop(self, *, fast: bool = True, limit: float = STOP_LIMIT) -> None:
        """Shut down, as ``pg_ctl stop -m fast`` or ``-m immediate`` does; what does not end in time is killed."""
        attempts = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL) if fast else (signal.SIGQUIT, signal.SIGKILL)
        for number in attempts:
            if not self.is_running():
                break
            self._process.send_signal(number)
            end = self._clock.monotonic() + limit
            while self.is_running() and self._clock.monotonic() < end:
                self._clock.sleep(_POLL)
        shutil.rmtree(self.socket_dir, ignore_errors=True)

    def leave_running(self) -> None:
        """It goes on when this process ends; the end of the scope does not stop it."""
        _left_running.append(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process not in _left_running:
            self.stop()


def launch(
    data_dir: Path,
    arguments: Sequence[str],
    *,
    binaries: Path,
    account: Account,
    port: int,
    socket_dir: Path,
    log: Path,
    clock: Clock,
    unfinished: ExitStack,
) -> Instance:
    """Run ``postgres -D data_dir`` with ``arguments``, detached from the terminal; it is not ready yet.

    ``log`` is an absolute path that ``account`` can write to. From its first moment the server is in ``unfinished``,
    which stops it, unless the caller takes it out: an interrupt at any point leaves none that nobody knows of.
    """
    check_data_directory(data_dir, account)
    make_sure_of_log(account, log)
    written = log.lstat().st_size
    with signals_deferred():
        process = subprocess.Popen(
            appending(log, [str(binaries / "postgres"), "-D", str(data_dir), *arguments]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment(),
            start_new_session=True,
            umask=0o077,
            **account.identity,
        )
        instance = Instance(process=process, data_dir=data_dir, port=port, socket_dir=socket_dir, log=log, clock=clock)
        instance._log_start = written
        unfinished.callback(instance.stop, fast=False)
    return instance


def start(
    data_dir: Path,
    *,
    binaries: Path,
    account: Account,
    clock: Clock,
    log: Path,
    listen: bool = True,
    settings: Sequence[tuple[str, str]] = (),
    limit: float = START_LIMIT,
    stopped: Callable[[], bool] = lambda: False,
) -> Instance:
    """Start a cluster with its own configuration, on a free port of 127.0.0.1 and a socket of its own."""
    socket_dir = new_socket_dir(account)
    port = free_port()
    own = [
        ("port", str(port)),
        ("listen_addresses", "127.0.0.1" if listen else ""),
        ("unix_socket_directories", str(socket_dir)),
        ("logging_collector", "off"),
        *settings,
    ]
    arguments = [argument for name, value in own for argument in ("-c", f"{name}={value}")]
    with ExitStack() as unfinished:
        unfinished.callback(shutil.rmtree, socket_dir, ignore_errors=True)
        instance = launch(
            *(data_dir, arguments),
            binaries=binaries,
            account=account,
            port=port,
            socket_dir=socket_dir,
            log=log,
            clock=clock,
            unfinished=unfinished,
        )
        instance.wait_until_ready(limit=limit, stopped=stopped)
        unfinished.pop_all()
    return instance


def initdb(
    data_dir: Path, *, binaries: Path, account: Account, superuser: str = "postgres", options: Sequence[str] = ()
) -> None:
    """Make a new, empty cluster in ``data_dir``, whose parent ``account`` must be able to enter."""
    data_dir.mkdir(mode=0o700, exist_ok=True)
    account.give(data_dir)
    check_data_directory(data_dir, account)
    run_program(
        [binaries / "initdb", "-D", data_dir, "-U", superuser, *options],
        account=account,
        what=_("cannot create a cluster in {directory}").format(directory=data_dir),
    )


def stop_by_data_dir(data_dir: Path, *, binaries: Path, account: Account, limit: float = STOP_LIMIT) -> None:
    """End the server on ``data_dir``, whoever started it: ``pg_ctl stop -m fast``. Nothing happens if none runs."""
    if read_postmaster_file(data_dir) is None:
        return
    run_program(
        [binaries / "pg_ctl", "stop", "-m", "fast", "-w", "-t", f"{limit:.0f}", "-D", data_dir],
        account=account,
        what=_("cannot stop PostgreSQL on {directory}").format(directory=data_dir),
    )


def run_program(command: Sequence[str | Path], *, account: Account, what: str) -> str:
    """What it prints. Raises :class:`~holdfast.errors.HoldfastError`, ``what`` with its words, if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        cwd="/",
        env=environment(),
        **account.identity,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip() or _("exit code {code}").format(code=done.returncode)
        reason = _PREFIX.sub("", said.splitlines()[0])
        raise HoldfastError(f"{what}: {reason}", hint=_("What it said:\n{words}").format(words=said))
    return done.stdout


def new_socket_dir(account: Account) -> Path:
    """A fresh folder, 0700. Under /tmp whatever TMPDIR says: a socket's path has 107 bytes at most."""
    folder = Path(tempfile.mkdtemp(prefix="hf", dir="/tmp"))
    account.give(folder)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_name() -> str:
    """A ``cluster_name`` that no other server has."""
    return f"holdfast_{secrets.token_hex(6)}"
