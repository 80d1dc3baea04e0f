"""How well each source is protected now: repositories, receiver and server are asked at once, and judged by ``policy``.

What cannot be asked is told, and the rest is judged without it. Nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

from holdfast.clock import Clock
from holdfast.errors import Damaged, HoldfastError
from holdfast.jobs.check import shares_disk
from holdfast.jobs.receiver_client import ask_status
from holdfast.jobs.receiver_status import ReceiverStatus
from holdfast.jobs.records import doubts
from holdfast.jobs.wal_settings import WalSettings
from holdfast.messages import _
from holdfast.policy.facts import RepositoryNow, SourceFacts
from holdfast.policy.health import Health, assess
from holdfast.policy.protection import ReceiverNow
from holdfast.policy.windows import KnownSnapshot, reach
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.slot_watch import Observed, SlotWatch
from holdfast.repository.repository import Records, Repository
from holdfast.repository.wal.held import Held
from holdfast.repository.wal.reading import WalReader

SERVER_SECONDS = 3.0
"""For connecting to a server, and for its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A repository that may be opened."""

    url: str
    open: Callable[[], Repository]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceStatus:
    settings: WalSettings
    facts: SourceFacts
    health: Health
    receiver: ReceiverStatus | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfSource:
    """What one repository holds of one source."""

    snapshots: tuple[KnownSnapshot, ...] = ()
    held: tuple[Held, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Read:
    sources: Mapping[str, _OfSource]
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """What receiver and server say."""

    receiver: ReceiverStatus | None = None
    receiver_error: str = ""
    server: Observed | None = None
    server_error: str = ""
    server_hint: str = ""


def status(
    sources: Sequence[WalSettings],
    repositories: Mapping[str, Access],
    *,
    clock: Clock,
    zone: tzinfo | None = None,
    offline: bool = False,
) -> tuple[SourceStatus, ...]:
    """``repositories``: all that may hold something of a source. ``zone``: that of the texts. ``offline``: neither
    server nor receiver is asked. Raises nothing of what asking raises: it is part of what is told."""
    names = [settings.source for settings in sources]
    with ThreadPoolExecutor(max(1, len(repositories) + len(sources))) as pool:
        reading = {name: pool.submit(_read, name, access, names) for name, access in repositories.items()}
        hearing = {settings.source: pool.submit(_hear, settings, clock, offline=offline) for settings in sources}
        read = {name: future.result() for name, future in reading.items()}
        heard = {name: future.result() for name, future in hearing.items()}
    urls = {name: access.url for name, access in repositories.items()}
    now = clock.now().astimezone(zone)
    return tuple(_judge(settings, read, heard[settings.source], urls, now) for settings in sources)


def _judge(
    settings: WalSettings, read: Mapping[str, _Read], heard: _Heard, urls: Mapping[str, str], now: datetime
) -> SourceStatus:
    of_source = {name: one.sources.get(settings.source, _OfSource()) for name, one in read.items()}
    snapshots = tuple(known for one in of_source.values() for known in one.snapshots)
    facts = SourceFacts(
        source=settings.source,
        via=settings.via,
        every=max(settings.every.values(), default=timedelta(seconds=1)),
        retain=settings.retain,
        synchronous=settings.synchronous,
        now=now,
        reach=reach(snapshots, {name: one.held for name, one in of_source.items() if one.held}),
        snapshots=snapshots,
        repositories=tuple(
            RepositoryNow(
                name=name,
                takes_wal=name in settings.to,
                error=read[name].error,
                doubts=one.doubts,
                newest=max(one.snapshots, key=lambda known: known.facts.ended_at, default=None),
            )
            for name, one in of_source.items()
        ),
        server=heard.server,
        server_error=heard.server_error,
        server_hint=heard.server_hint,
        receiver=_receiver_now(heard.receiver) if heard.receiver else None,
        receiver_error=heard.receiver_error,
        on_server_disk=_on_server_disk(settings, heard.server, urls),
    )
    return SourceStatus(settings=settings, facts=facts, health=assess(facts), receiver=heard.receiver)


def _hear(settings: WalSettings, clock: Clock, *, offline: bool) -> _Heard:
    """The receiver first: what the server has written since counts as not safe."""
    if offline:
        return _Heard()
    receiver, receiver_error = None, ""
    try:
        receiver = ask_status(settings.socket)
    except HoldfastError as error:
        receiver_error = str(error)
    server, server_error, server_hint = None, "", ""
    try:
        with SlotWatch(settings.connection, settings.slot, limit=SERVER_SECONDS, clock=clock) as watch:
            server = watch.look()
    except HoldfastError as error:
        server_error, server_hint = str(error), error.hint
    return _Heard(
        receiver=receiver,
        receiver_error=receiver_error,
        server=server,
        server_error=server_error,
        server_hint=server_hint,
    )


def _read(name: str, access: Access, sources: Sequence[str]) -> _Read:
    try:
        repository = access.open()
        with ThreadPoolExecutor(1 + len(sources)) as pool:
            listed = pool.submit(repository.records)
            reader = WalReader(repository)
            held = {source: pool.submit(_held, reader, source) for source in sources}
            records = listed.result()
            told = (*doubts(records), *_unread(held), *reader.problems())
            return _Read(sources={source: _of_source(name, source, records, held[source], told) for source in sources})
    except HoldfastError as error:
        return _Read(sources={}, error=str(error))


def _held(reader: WalReader, source: str) -> tuple[Held, ...]:
    return tuple(reader.held(stream) for stream in reader.streams(source))


def _unread(held: Mapping[str, Future[tuple[Held, ...]]]) -> list[str]:
    """Why WAL cannot be read where the snapshots can; waits for all. What the store refuses is raised."""
    told = []
    for future in held.values():
        try:
            future.result()
        except Damaged as error:
            told.append(str(error))
    return told


def _of_source(
    name: str, source: str, records: Records, held: Future[tuple[Held, ...]], told: Sequence[str]
) -> _OfSource:
    wal = () if held.exception() else held.result()
    unreadable = [problem for one in wal for problem in one.problems]
    snapshots = []
    for snapshot in records.snapshots:
        if snapshot.source != source:
            continue
        try:
            facts = BackupFacts.from_json(snapshot.facts)
        except Damaged as error:
            unreadable.append(_("snapshot {label}: {error}").format(label=snapshot.label, error=error))
        else:
            snapshots.append(KnownSnapshot(repository=name, snapshot=snapshot, facts=facts))
    return _OfSource(snapshots=tuple(snapshots), held=wal, doubts=(*told, *unreadable))


def _receiver_now(said: ReceiverStatus) -> ReceiverNow:
    return ReceiverNow(
        pid=said.pid,
        phase=said.phase,
        system_identifier=said.system_identifier,
        timeline=said.timeline,
        confirmed=said.confirmed,
        safe_until=said.safe_until,
        sync_state=said.sync_state,
        retained=said.retained,
        errors=tuple((one.repository, one.error, one.since) for one in said.repositories if one.error),
        warnings=said.warnings,
        snapshot=said.snapshot,
    )


def _on_server_disk(settings: WalSettings, server: Observed | None, urls: Mapping[str, str]) -> bool:
    if server is None or not server.server.is_local or not server.data_directory:
        return False
    directory = Path(server.data_directory)
    return all(shares_disk(urls.get(name, ""), directory) for name in settings.to)
