"""Checking the prerequisites that are neither the server's nor the configuration's: stores, disks, programs.

Every finding that is not well says what mends it. Nothing is changed but probe objects, which are removed again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from holdfast.errors import HoldfastError, NotReachable
from holdfast.filesystem.write import free_bytes
from holdfast.jobs.check_store import check_store
from holdfast.jobs.records import doubts, from_the_future, future_text
from holdfast.jobs.wal_settings import WalSettings
from holdfast.messages import _
from holdfast.postgres.binaries import find_binaries
from holdfast.postgres.connection import Server, connect, sql_errors
from holdfast.postgres.finding import Finding, Status
from holdfast.postgres.requirements import check_server
from holdfast.postgres.requirements_wal import WantedWal
from holdfast.repository.keyring import key_problems
from holdfast.repository.objects import KEYS
from holdfast.repository.repository import Repository
from holdfast.repository.snapshots import select

LOW_SHARE = 0.05
LOW_BYTES = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a source's server told beside its findings; empty where it could not be asked."""

    findings: tuple[Finding, ...]
    unreachable: bool = False
    data_directory: Path | None = None
    """Only if the server is on this machine and the role may know."""


def failed(name: str, error: HoldfastError) -> Finding:
    return Finding(name=name, status=Status.FAILED, what=str(error), remedy=error.hint)


def wanted_wal(settings: WalSettings) -> WantedWal:
    """What the server of a source must allow."""
    return WantedWal(
        source=settings.source,
        via=settings.via,
        slot=settings.slot,
        retain=settings.retain,
        synchronous=settings.synchronous,
    )


def check_source(connection: str, folders: Sequence[Path], wal: WantedWal | None = None) -> Seen:
    """``folders`` are looked in first for the programs of the server's version."""
    findings = check_server(connection, wal)
    try:
        with closing(connect(connection)) as sql:
            server = Server.of(sql.pgconn)
            with sql_errors(server):
                (row,) = sql.execute(
                    "select setting, current_setting('server_version_num')::int / 10000 from"
                    " (select max(setting) as setting from pg_settings where name = 'data_directory') s"
                ).fetchall()
    except HoldfastError as error:
        return Seen(findings=tuple(findings), unreachable=isinstance(error, NotReachable))
    folder, major = row
    return Seen(
        findings=(*findings, _programs(major, folders)),
        data_directory=Path(folder) if folder and server.is_local else None,
    )


def _programs(major: int, folders: Sequence[Path]) -> Finding:
    try:
        found = find_binaries(major, folders)
    except HoldfastError as error:
        what = _("this machine cannot start what it restores: {reason}").format(reason=error)
        return Finding(name="programs", status=Status.WARNING, what=what, remedy=error.hint)
    what = _("the programs of PostgreSQL {major} are in {folder}").format(major=major, folder=found)
    if folders and found not in folders:
        what = _("{folders} does not hold PostgreSQL {major}; its programs are in {found}").format(
            folders=", ".join(map(str, folders)), major=major, found=found
        )
        remedy = _("Mend the source's bin in holdfast.toml, or leave it out.")
        return Finding(name="programs", status=Status.WARNING, what=what, remedy=remedy)
    return Finding(name="programs", status=Status.OK, what=what)


def check_repository(repository: Repository) -> list[Finding]:
    """Of one that opened: probes what its store can do, and looks at what the records say."""
    found = [Finding(name="opens", status=Status.OK, what=_("{url} opens").format(url=repository.url))]
    try:
        found += check_store(repository.store, clock=repository.clock)
        found += _records(repository)
        found += _keys(repository)
    except HoldfastError as error:
        found.append(failed("store", error))
    return found


def _keys(repository: Repository) -> list[Finding]:
    """A repository that opens with one secret may have lost the others: nobody would notice before they are needed."""
    recorded = [snapshot.keys for snapshot in repository.records().snapshots]
    problems = key_problems(repository, recorded)
    known = {problem.name for problem in problems}
    lost = _(
        "See with `holdfast key list` which secrets still open; make another in its place with `holdfast key add`, "
        "then remove it: holdfast key remove ID"
    )
    record = _("See with `holdfast key list` whether every secret that you count on still opens.")
    strange = _("See with `holdfast key list` whether you need it; if not: holdfast key remove ID")
    found = [
        Finding(
            name="keys",
            status=Status.FAILED,
            what=problem.what,
            remedy=lost if problem.name.startswith(KEYS) else record,
        )
        for problem in problems
    ]
    for name in repository.damaged_keys:
        if name not in known:
            what = _("key object {name} is damaged; another one opened the repository").format(name=name)
            found.append(Finding(name="keys", status=Status.WARNING, what=what, remedy=strange))
    return found


def _records(repository: Repository) -> list[Finding]:
    records, now = repository.records(), repository.clock.now()
    found = [
        Finding(
            name="clock",
            status=Status.WARNING,
            what=future_text(snapshot, now),
            remedy=_("Compare the clocks of both machines: timedatectl"),
        )
        for snapshot in from_the_future(records, now)
    ]
    in_doubt = doubts(records)
    if in_doubt:
        remedy = _("Run: holdfast verify")
        found += [Finding(name="snapshots", status=Status.FAILED, what=what, remedy=remedy) for what in in_doubt]
    elif not records.snapshots:
        found.append(Finding(name="snapshots", status=Status.OK, what=_("no snapshot yet")))
    else:
        what = _("the newest snapshot is {label}").format(
            label=select(records.snapshots, "latest", removals=records.removals).label
        )
        found.append(Finding(name="snapshots", status=Status.OK, what=what))
    return found


def check_disk(url: str, data_directories: Sequence[Path], wal_only: Sequence[Path] = ()) -> list[Finding]:
    """Of a repository in a folder: room, and whether one disk holds both it and what it protects.

    ``wal_only``: data directories whose WAL is kept there, and nowhere but on their own disk.
    """
    if not url.startswith("file:"):
        return []
    folder = Path(unquote(urlsplit(url).path))
    try:
        device, free = free_bytes(folder)
        figures = os.statvfs(folder)
    except OSError:
        return []  # opening the store has said it already
    whole = figures.f_blocks * figures.f_frsize
    what = _("{free} GB of {whole} GB are free for {folder}").format(
        free=round(free / 1e9, 1), whole=round(whole / 1e9, 1), folder=folder
    )
    low = free < max(LOW_BYTES, LOW_SHARE * whole)
    remedy = _("Make room on that disk, or move the repository to a larger one.") if low else ""
    found = [Finding(name="room", status=Status.WARNING if low else Status.OK, what=what, remedy=remedy)]
    shared = [directory for directory in data_directories if _device(directory) == device]
    inside = [directory for directory in data_directories if directory in (folder, *folder.parents)]
    return found + [
        _inside(folder, directory)
        if directory in inside
        else _same_disk(folder, directory, has_wal=directory in wal_only)
        for directory in shared
    ]


def _inside(folder: Path, directory: Path) -> Finding:
    return Finding(
        name="inside",
        status=Status.FAILED,
        what=_(
            "{folder} lies inside the cluster's data directory {directory}: each backup would hold all others"
        ).format(folder=folder, directory=directory),
        remedy=_("Move the folder elsewhere and mend the repository's url."),
    )


def shares_disk(url: str, directory: Path) -> bool:
    """Whether the repository at ``url`` is a folder on the disk of ``directory``, on this machine."""
    if not url.startswith("file:"):
        return False
    device = _device(Path(unquote(urlsplit(url).path)))
    return device is not None and device == _device(directory)


def _same_disk(folder: Path, directory: Path, *, has_wal: bool) -> Finding:
    what = _("{folder} and the cluster in {directory} are on one disk, and would be lost together")
    if has_wal:
        what = _(
            "{folder} and the cluster in {directory} are on one disk, and would be lost together: "
            "WAL is kept nowhere else, so that every commit would be lost"
        )
    return Finding(
        name="same_disk",
        status=Status.WARNING,
        what=what.format(folder=folder, directory=directory),
        remedy=_("Add a repository on another disk, or better on another machine or object store."),
    )


def _device(folder: Path) -> int | None:
    try:
        return folder.stat().st_dev
    except OSError:
        return None
