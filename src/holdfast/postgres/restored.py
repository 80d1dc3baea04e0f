"""Starting a restored copy: under the overrides, until its recovery is over, and with proof that it is.

The folder is as :mod:`holdfast.postgres.recovery` describes it. What was started is told from its source by a name
made for this one start, and success is what a session on it says: recovery has ended. A copy that cannot be started is
stopped, and its folder is left as it is, so that the start can be tried again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from holdfast.clock import Clock
from holdfast.errors import AlreadyRunning, HoldfastError
from holdfast.messages import _
from holdfast.postgres.accounts import Account, check_data_directory, server_account
from holdfast.postgres.connection import Server, connect, sql_errors
from holdfast.postgres.datadir import read_control_file, read_major_version
from holdfast.postgres.facts import RecoveryLimits
from holdfast.postgres.instance import Instance, free_port, launch, new_name, new_socket_dir, run_program
from holdfast.postgres.lsn import Lsn, history_name
from holdfast.postgres.overrides import Place, command_line, overrides
from holdfast.postgres.owned import read_as, write_as
from holdfast.postgres.recovery import (
    AUTO_CONF,
    RECOVERY_DIR,
    RECOVERY_SIGNAL,
    STANDBY_SIGNAL,
    quoted,
    without_recovery_settings,
)

RECOVERY_LIMIT = 24 * 3600.0
"""Seconds."""

_ATTEMPTS = 3
_LOOK_SECONDS = 0.5
_RECOVERING = re.compile(rb"startup (?:recovering|waiting for) ([0-9A-F]{24})")
_LIMITS = tuple(field.name for field in fields(RecoveryLimits))
_LOCALES = ("lc_messages", "lc_monetary", "lc_numeric", "lc_time")
_HBA = """\
# Who may enter this restored copy: whoever may enter the socket's folder; over TCP, with the roles' own passwords.
local all all trust
host all all 127.0.0.1/32 scram-sha-256
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What a recovery that is over has reached."""

    end_lsn: Lsn
    """Up to where WAL was replayed: where the new timeline branches off."""
    timeline: int
    """The new one."""
    system_identifier: int
    last_transaction: datetime | None
    """When the last transaction that was replayed was committed or aborted, by its server's clock; None: none was. For
    an inclusive target that is an LSN, the one before: PostgreSQL stops before it counts (``recoveryStopsAfter``)."""
    config_file: Path
    """What it was started with."""
    seconds: float
    """From the start until it was open for writing."""


def start_restored(
    data_dir: Path,
    *,
    binaries: Path,
    clock: Clock,
    account: Account | None = None,
    role: str = "postgres",
    database: str = "postgres",
    listen: bool = True,
    limits: RecoveryLimits | None = None,
    shared_buffers: str = "128MB",
    settings: Mapping[str, str] | None = None,
    limit: float = RECOVERY_LIMIT,
    stopped: Callable[[], bool] = lambda: False,
    replaying: Callable[[str], None] = lambda _segment: None,
) -> tuple[Instance, Recovered]:
    """Start the copy in ``data_dir``, wait until its recovery has ended, and say where it ended.

    ``binaries`` are those of its major version. ``role`` and ``database`` must exist in the copy. ``limits`` come from
    the backup's facts, or better from the WAL's last parameter change; the copy's own configuration and pg_control
    are looked at as well. ``settings`` win over the overrides. ``limit`` is in seconds. The server's log, and its
    ``pg_hba.conf``, lie in ``holdfast-recovery/run/``. ``replaying`` hears the name of each WAL segment that is being
    replayed, as far as the system shows it. Raises :class:`~holdfast.errors.HoldfastError` with the end
    of that log; by then the server is stopped.
    """
    account = account or server_account(data_dir)
    data_dir = data_dir.absolute()
    check_data_directory(data_dir, account)
    _check_signals(data_dir)
    began = clock.monotonic()
    for attempt in range(1, _ATTEMPTS + 1):
        starting = _prepare(data_dir, binaries=binaries, account=account, listen=listen)
        arguments = _arguments(starting, limits, shared_buffers=shared_buffers, settings=settings or {})
        with ExitStack() as unfinished:
            instance = _launch(starting, arguments, clock=clock, unfinished=unfinished)
            try:
                watched = _Watched(instance, stopped, replaying, clock)
                instance.wait_until_ready(limit=limit, stopped=watched)
                reached = _reached(instance, starting.place, role, database, seconds=clock.monotonic() - began)
                _forget_recovery(data_dir, account)
                unfinished.pop_all()
                return instance, reached
            except HoldfastError:
                if attempt == _ATTEMPTS or not _lost_its_port(instance):
                    raise
    raise AssertionError("the last attempt returns or raises")


class _Watched:
    """``stopped``, which is asked all the time, and on the way a look at how far recovery has come."""

    def __init__(
        self, instance: Instance, stopped: Callable[[], bool], replaying: Callable[[str], None], clock: Clock
    ) -> None:
        self._instance, self._stopped, self._replaying, self._clock = instance, stopped, replaying, clock
        self._next = clock.monotonic()
        self._last = ""

    def __call__(self) -> bool:
        if self._clock.monotonic() >= self._next:
            self._next = self._clock.monotonic() + _LOOK_SECONDS
            segment = _replayed_segment(self._instance.pid)
            if segment and segment != self._last:
                self._last = segment
                self._replaying(segment)
        return self._stopped()


def _replayed_segment(postmaster: int) -> str:
    """The segment in the title of the startup process (``set_ps_display`` in ``xlogrecovery.c``); empty: not shown."""
    with suppress(OSError):
        for child in Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split():
            with suppress(OSError):
                match = _RECOVERING.search(Path(f"/proc/{child}/cmdline").read_bytes())
                if match:
                    return match[1].decode()
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Starting:
    place: Place
    binaries: Path
    account: Account
    log: Path


def _check_signals(data_dir: Path) -> None:
    if not (data_dir / RECOVERY_SIGNAL).exists() or (data_dir / STANDBY_SIGNAL).exists():
        raise HoldfastError(
            _("{directory} is not prepared for recovery: it must have {wanted} and no {unwanted}").format(
                directory=data_dir, wanted=RECOVERY_SIGNAL, unwanted=STANDBY_SIGNAL
            ),
            hint=_("Restore again into an empty folder; a copy that has recovered is started with pg_ctl."),
        )
    if (data_dir / "postmaster.pid").exists():
        raise AlreadyRunning(
            _("{directory} has a postmaster.pid: a server may be running on it").format(directory=data_dir),
            hint=_("Stop it with pg_ctl stop -D {directory}; if none runs, remove that file.").format(
                directory=data_dir
            ),
        )


def _prepare(data_dir: Path, *, binaries: Path, account: Account, listen: bool) -> _Starting:
    folder = data_dir / RECOVERY_DIR / "run"
    hba, ident, own = folder / "pg_hba.conf", folder / "pg_ident.conf", folder / "postgresql.conf"
    for path, text in ((hba, _HBA), (ident, ""), (own, "")):
        write_as(account, path, text.encode())
    # A configuration that lay outside the data directory is the one that was in force, whatever lies inside.
    candidates = (data_dir / "holdfast-etc" / "postgresql.conf", data_dir / "postgresql.conf", own)
    config_file = next(path for path in candidates if path.exists())
    if config_file != own and _names_a_missing_locale(config_file, data_dir, binaries=binaries, account=account):
        write_as(account, own, _with_locale_c(config_file).encode("utf-8", "surrogateescape"))
        config_file = own
    place = Place(
        data_dir=data_dir,
        config_file=config_file,
        hba_file=hba,
        ident_file=ident,
        socket_dir=new_socket_dir(account),
        port=free_port(),
        name=new_name(),
        listen=listen,
    )
    return _Starting(place=place, binaries=binaries, account=account, log=folder / "server.log")


def _names_a_missing_locale(config_file: Path, data_dir: Path, *, binaries: Path, account: Account) -> bool:
    try:
        _configured("lc_messages", config_file, data_dir, binaries=binaries, account=account)
    except HoldfastError as error:
        return 'invalid value for parameter "lc_' in str(error)
    return False


def _with_locale_c(config_file: Path) -> str:
    """The same configuration with a locale that exists everywhere.

    The command line would not do: a value in a file is checked all the same, unless a later line there replaces it
    (``ProcessConfigFileInternal`` in ``guc.c``).
    """
    lines = [f"include {quoted(str(config_file))}", *(f"{name} = 'C'" for name in _LOCALES)]
    return "\n".join(lines) + "\n"


def _arguments(
    starting: _Starting, limits: RecoveryLimits | None, *, shared_buffers: str, settings: Mapping[str, str]
) -> list[str]:
    try:
        place, data_dir = starting.place, starting.place.data_dir

        def configured(name: str) -> str:
            return _configured(
                *(name, place.config_file, data_dir), binaries=starting.binaries, account=starting.account
            )

        control = read_control_file(data_dir)
        needed = RecoveryLimits(**{name: getattr(control, name) for name in _LIMITS})
        needed = needed.at_least(RecoveryLimits(**{name: int(configured(name)) for name in _LIMITS}))
        preload = configured("shared_preload_libraries").strip()
        chosen = overrides(
            starting.place,
            major=read_major_version(data_dir),
            limits=needed.at_least(limits) if limits else needed,
            preload=tuple(library.strip().strip('"') for library in preload.split(",") if library.strip()),
            shared_buffers=shared_buffers,
        )
        return command_line(chosen, settings)
    except BaseException:
        shutil.rmtree(starting.place.socket_dir, ignore_errors=True)
        raise


def _configured(name: str, config_file: Path, data_dir: Path, *, binaries: Path, account: Account) -> str:
    """What the copy's own configuration files say, as the server reads them (``postgres -C``)."""
    return run_program(
        [
            *(binaries / "postgres", "-D", data_dir, "-C", name),
            *("-c", f"config_file={config_file}", "-c", f"data_directory={data_dir}"),
        ],
        account=account,
        what=_("cannot read the configuration {file} of the restored copy").format(file=config_file),
    ).strip()


def _launch(starting: _Starting, arguments: list[str], *, clock: Clock, unfinished: ExitStack) -> Instance:
    place = starting.place
    unfinished.callback(shutil.rmtree, place.socket_dir, ignore_errors=True)
    return launch(
        *(place.data_dir, arguments),
        binaries=starting.binaries,
        account=starting.account,
        port=place.port,
        socket_dir=place.socket_dir,
        log=starting.log,
        clock=clock,
        unfinished=unfinished,
    )


def _lost_its_port(instance: Instance) -> bool:
    return any("could not bind" in line or "Address already in use" in line for line in instance.log_tail())


def _reached(instance: Instance, place: Place, role: str, database: str, *, seconds: float) -> Recovered:
    with (
        connect(instance.connection_string(role=role, database=database)) as connection,
        sql_errors(Server.of(connection.pgconn)),
    ):
        row = connection.execute(
            "select current_setting('cluster_name'), pg_is_in_recovery(),"
            " case when not pg_is_in_recovery() then pg_walfile_name(pg_current_wal_lsn()) end,"
            " pg_last_xact_replay_timestamp()"
        ).fetchone()
    assert row is not None
    name, in_recovery, segment, last_transaction = row
    if name != place.name:
        raise HoldfastError(
            _("reached another server than the one started on {directory}").format(directory=place.data_dir)
        )
    if in_recovery:
        raise instance.failure(_("recovery in {directory} has not ended").format(directory=place.data_dir))
    timeline = int(segment[:8], 16)
    control = read_control_file(place.data_dir)
    return Recovered(
        end_lsn=_branch_point(place.data_dir, timeline),
        timeline=timeline,
        system_identifier=control.system_identifier,
        last_transaction=last_transaction and last_transaction.astimezone(UTC),
        config_file=place.config_file,
        seconds=seconds,
    )


def _forget_recovery(data_dir: Path, account: Account) -> None:
    """Takes the settings of a recovery that is over out of the copy, so that no later standby looks for its WAL."""
    path = data_dir / AUTO_CONF
    write_as(account, path, without_recovery_settings(read_as(account, path)))


def _branch_point(data_dir: Path, timeline: int) -> Lsn:
    """The last line of the new timeline's history: parent, LSN, reason (``writeTimeLineHistory`` in ``timeline.c``)."""
    path = data_dir / "pg_wal" / history_name(timeline)
    try:
        lines = [line for line in path.read_text("ascii", "replace").splitlines() if line.strip()]
        return Lsn.parse(lines[-1].split("\t")[1])
    except (OSError, IndexError) as error:
        raise HoldfastError(
            _("cannot read where recovery ended from {file}").format(file=path),
            hint=_("Without a new timeline the copy was not recovered by its plan: restore it again."),
        ) from error
