"""Starting what was restored: what must be there is looked at before the restore, and success is proven after it.

A data directory runs only with its own major version, on its own architecture, under an account that can reach it.
"""

from __future__ import annotations

import locale
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from holdfast.clock import Clock
from holdfast.errors import Damaged, Refused
from holdfast.jobs.progress import Progress
from holdfast.jobs.restore_plan import RestorePlan
from holdfast.messages import _
from holdfast.policy.records import border
from holdfast.policy.recovery import RecoveryPlan
from holdfast.postgres.accounts import Account, closed_folder, server_account
from holdfast.postgres.binaries import find_binaries
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.instance import Instance
from holdfast.postgres.lsn import Lsn, is_segment_name
from holdfast.postgres.recovery import RECOVERY_DIR
from holdfast.postgres.restored import Recovered, start_restored

_ETC = "holdfast-etc"
_CONFIGURED_BY = {"config_file": "postgresql.conf", "hba_file": "pg_hba.conf", "ident_file": "pg_ident.conf"}
_SAME_MACHINE = {"amd64": "x86_64", "arm64": "aarch64", "arm": "aarch64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StartPlan:
    binaries: Path
    account: Account


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    instance: Instance
    recovered: Recovered
    last_transaction: datetime | None
    """When the last transaction that is kept was committed or aborted; None: none was replayed."""
    connection: str
    """For psql; without a secret: who may enter the socket's folder is trusted."""
    stop_command: tuple[str, ...]


def plan_start(plan: RestorePlan, folders: Sequence[Path]) -> StartPlan:
    """What a start will need. Raises before anything is restored: another architecture, no programs, a closed folder.

    ``folders`` are looked in first for the programs of the snapshot's major version.
    """
    account = account_of(plan)
    machine = os.uname().machine
    if not is_same_machine(plan.facts.platform, machine):
        raise Refused(
            _("the snapshot comes from {platform} and cannot be started on {machine}").format(
                platform=plan.facts.platform, machine=machine
            ),
            hint=_("Restore it on a machine of that architecture, or leave out --start to get the files alone."),
        )
    for folder in (plan.target, *plan.tablespaces.values()):
        if closed := closed_folder(folder, account):
            raise Refused(
                _("{account}, who is to run PostgreSQL, cannot enter {folder}").format(
                    account=account.name, folder=closed
                ),
                hint=_("Restore to a folder that {account} can reach, for example under /var/lib.").format(
                    account=account.name
                ),
            )
    binaries = find_binaries(major(plan.facts), folders)
    if closed := closed_folder(binaries, account):
        raise Refused(
            _("{account}, who is to run PostgreSQL, cannot enter {folder}, where its programs are").format(
                account=account.name, folder=closed
            ),
            hint=_("Name programs that {account} can reach with --bin.").format(account=account.name),
        )
    return StartPlan(binaries=binaries, account=account)


def start(
    plan: RestorePlan,
    start_plan: StartPlan,
    *,
    clock: Clock,
    stopped: Callable[[], bool],
    progress: Progress | None = None,
) -> Started:
    """Starts the restored copy, waits until its recovery has ended, and leaves it running.

    ``progress`` hears how many bytes of WAL are replayed. Raises ``Damaged`` where recovery ended elsewhere than
    planned; the server is stopped by then.
    """
    recovery = plan.recovery
    limits = plan.facts.limits.at_least(recovery.limits) if recovery else plan.facts.limits
    instance, recovered = start_restored(
        plan.target,
        binaries=start_plan.binaries,
        clock=clock,
        account=start_plan.account,
        role=plan.facts.superuser,
        database=_database(plan.facts),
        limits=limits,
        stopped=stopped,
        replaying=_Replayed(plan, progress) if progress else lambda _segment: None,
    )
    with instance:
        _check_end(plan, recovered, instance)
        connection = instance.for_psql(role=plan.facts.superuser, database=_database(plan.facts))
        instance.leave_running()
    last_kept = recovery.last_kept if recovery and recovery.wal else None  # exact, since the end is as planned
    return Started(
        instance=instance,
        recovered=recovered,
        last_transaction=last_kept.time if last_kept else recovered.last_transaction,
        connection=connection,
        stop_command=stop_command(plan.target, start_plan.binaries, start_plan.account),
    )


class _Replayed:
    """Names of segments as they are replayed become bytes of progress."""

    def __init__(self, plan: RestorePlan, progress: Progress) -> None:
        self._size = plan.facts.wal_segment_size
        self._names = [name for name in plan.wal if is_segment_name(name)]
        if plan.recovery and plan.recovery.wal:
            self._names = [planned.segment.name for planned in plan.recovery.wal]
        self._done = -1
        self._progress = progress

    def __call__(self, segment: str) -> None:
        if self._done < 0:
            self._done = 0
            self._progress.begin(_("replaying WAL"), len(self._names) * self._size)
        if segment in self._names:
            position = self._names.index(segment)
            self._progress.advance(max(0, position - self._done) * self._size)
            self._done = max(position, self._done)


def _check_end(plan: RestorePlan, recovered: Recovered, instance: Instance) -> None:
    """Recovery ends exactly where it was planned to: before, rows are missing; behind, there are some too many."""
    recovery = plan.recovery
    if recovery is None or recovery.end is None:
        if recovered.end_lsn >= plan.facts.stop_lsn:
            return
        what = _("recovery ended at {end}, before the snapshot's end {stop}: rows are missing").format(
            end=recovered.end_lsn, stop=plan.facts.stop_lsn
        )
    else:
        assert recovery.end_at_most is not None
        end = border(recovered.end_lsn, plan.facts.wal_segment_size)
        if recovery.end <= end <= recovery.end_at_most or _is_end_of_switch(recovery, recovered.end_lsn):
            return
        what = _("recovery ended at {end}, and not at {planned} as planned").format(
            end=recovered.end_lsn, planned=recovery.end
        )
    raise Damaged(
        what,
        hint=_("Do not use this copy. Look into {log}, and restore another snapshot.").format(log=instance.log),
    )


def _is_end_of_switch(recovery: RecoveryPlan, end: Lsn) -> bool:
    """Whether the last record switches segments, and what follows in its own was not held: to PostgreSQL it ends with
    the segment (``DecodeXLogRecord``'s caller in ``xlogreader.c``). Through zeros no other record leads there."""
    last = recovery.wal[-1]
    is_last = recovery.end is not None and last.segment.start < recovery.end <= last.segment.start + last.stop
    return not recovery.target.setting and last.is_padded and is_last and end == last.segment.following().start


def account_of(plan: RestorePlan) -> Account:
    """Whom the restored files belong to, and who therefore runs PostgreSQL on them."""
    if plan.owner is None:
        return server_account()
    return Account(name=plan.owner_name, uid=plan.owner.uid, gid=plan.owner.gid)


def has_locale(name: str) -> bool:
    """Whether the C library of this machine knows it. From the main thread only."""
    before = locale.setlocale(locale.LC_COLLATE)
    try:
        locale.setlocale(locale.LC_COLLATE, name)
    except locale.Error:
        return False
    finally:
        locale.setlocale(locale.LC_COLLATE, before)
    return True


def concerns(
    plan: RestorePlan, *, machine: str, libc: str | None, has_locale: Callable[[str], bool] = has_locale
) -> tuple[str, ...]:
    """What differs between the snapshot's machine and this one. ``libc`` is this machine's version of glibc."""
    found = []
    facts = plan.facts
    if not is_same_machine(facts.platform, machine):
        found.append(
            _("the snapshot comes from {platform}: it cannot be started on this machine ({machine})").format(
                platform=facts.platform, machine=machine
            )
        )
    found += _missing_locales(facts, has_locale)
    sorted_by_libc = [
        database.name
        for database in facts.databases
        if database.locale_provider == "c" and database.collation_version_now is not None
    ]
    if facts.libc_version and libc and facts.libc_version != libc and sorted_by_libc:
        found.append(
            _(
                "texts were sorted by glibc {there}, and this machine has {here}: once it runs, "
                "REINDEX DATABASE and ALTER DATABASE … REFRESH COLLATION VERSION in: {databases}"
            ).format(there=facts.libc_version, here=libc, databases=", ".join(sorted_by_libc))
        )
    return tuple(found)


def _missing_locales(facts: BackupFacts, has_locale: Callable[[str], bool]) -> Iterator[str]:
    """PostgreSQL sets both of a database's for each session, whatever provider sorts (``CheckMyDatabase``)."""
    needing: dict[str, list[str]] = {}
    for database in facts.databases:
        for name in {database.collate: None, database.ctype: None}:
            needing.setdefault(name, []).append(database.name)
    for name, databases in needing.items():
        if not has_locale(name):
            yield _(
                "this machine lacks the locale {name}: install it before you start PostgreSQL (localedef, locale-gen "
                "or the package of that language), or nobody can connect to: {databases}"
            ).format(name=name, databases=", ".join(databases))


def is_same_machine(platform: str, machine: str) -> bool:
    """Whether a PostgreSQL built for the triplet ``platform`` has data that this ``machine`` can run; unknown: yes."""
    first = platform.partition("-")[0].lower()
    return not first or _SAME_MACHINE.get(first, first) == _SAME_MACHINE.get(machine.lower(), machine.lower())


def major(facts: BackupFacts) -> int:
    return facts.server_version_num // 10000


def start_command(plan: RestorePlan, binaries: Path) -> tuple[str, ...]:
    """How the account starts the copy as its source was started: with the source's own configuration and port.

    What has been restored is looked at: the configuration of a copy's copy came with its data directory.
    """
    options: list[tuple[str, str]] = []
    for setting, name in _CONFIGURED_BY.items():
        if (plan.target / _ETC / name).exists():
            options.append((setting, str(plan.target / _ETC / name)))
    if options:  # the configuration was written for the source's folders
        options += [("data_directory", str(plan.target)), ("external_pid_file", "")]
    log = plan.target / RECOVERY_DIR / "server.log"
    words = [str(binaries / "pg_ctl"), "start", "-w", "-D", str(plan.target), "-l", str(log)]
    if options:
        words += ["-o", " ".join(f"-c {name}={shlex.quote(value)}" for name, value in options)]
    return tuple(words)


def stop_command(target: Path, binaries: Path, account: Account) -> tuple[str, ...]:
    return as_account(account, (str(binaries / "pg_ctl"), "stop", "-m", "fast", "-D", str(target)))


def as_account(account: Account, command: Sequence[str]) -> tuple[str, ...]:
    """``command``, run by ``account`` from this process's own."""
    if account.uid == os.geteuid():
        return tuple(command)
    runuser = shutil.which("runuser", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    become = (runuser, "-u", account.name, "--") if runuser else ("sudo", "-u", account.name)
    return (*become, *command)


def _database(facts: BackupFacts) -> str:
    """One that everybody has: postgres can be dropped, template1 cannot."""
    return "postgres" if any(database.name == "postgres" for database in facts.databases) else "template1"
