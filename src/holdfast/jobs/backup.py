"""Taking a snapshot: postgres → entry → split → seal → pack → put → store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, tzinfo

from holdfast import __version__
from holdfast.clock import Clock
from holdfast.entry import Block
from holdfast.errors import Interrupted
from holdfast.jobs.progress import Progress
from holdfast.jobs.records import doubts, from_the_future, future_text, strangers
from holdfast.messages import _
from holdfast.postgres.basebackup import base_backup
from holdfast.postgres.facts import BackupFacts
from holdfast.repository.repository import Records, Repository
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.writer import About, SnapshotWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSource:
    name: str
    connection: str
    """A libpq connection string or URL; holds secrets, so it is never shown."""


def take_snapshot(
    source: PostgresSource,
    repository: Repository,
    *,
    clock: Clock,
    zone: tzinfo,
    host: str,
    progress: Progress,
    stopped: Callable[[], bool],
) -> Snapshot:
    """Reads the whole cluster; returns the record once everything that it needs is durable in the repository.

    An interruption or a failure publishes nothing and harms no other snapshot.
    """
    started = clock.now()
    label = f"{source.name}_{started.astimezone(zone):%Y%m%d_%H%M%S}"
    records = repository.records()
    concerns = _concerns(records, started.astimezone(zone))
    progress.begin(_("reading the index of {url}").format(url=repository.url))
    with SnapshotWriter(repository, host=host) as writer:
        try:
            progress.begin(_("connecting to {source}").format(source=source.name))
            with base_backup(source.connection, label=f"holdfast {label}", stopped=stopped) as backup:
                progress.begin(_("backing up {source}").format(source=source.name), backup.estimated_bytes)
                for entry, blocks in backup.entries():
                    writer.add(entry, _counted(blocks, progress))
                progress.begin(_("writing the snapshot"))
                about = About(
                    label=label,
                    source=source.name,
                    source_type="postgres",
                    started=started,
                    host=host,
                    holdfast_version=__version__,
                    warnings=(*_warnings(backup.facts), *strangers(source.name, backup.facts, records), *concerns),
                    facts=backup.facts.to_json(),
                )
            return writer.publish(about)
        except (KeyboardInterrupt, Interrupted):
            if writer.published:
                raise Interrupted(
                    _("stopped at the very end: snapshot {label} may have been made").format(label=label),
                    hint=_("`holdfast list` shows whether it was; it is complete then."),
                ) from None
            raise Interrupted(
                _("stopped; no snapshot was made, {size} MB are in the repository already").format(
                    size=writer.uploaded // 10**6
                ),
                hint=_("The next backup reuses them. Older snapshots are untouched."),
            ) from None


def _concerns(records: Records, now: datetime) -> tuple[str, ...]:
    """What was wrong with the repository's other snapshots when this one was begun."""
    future = (future_text(snapshot, now) for snapshot in from_the_future(records, now))
    return (*doubts(records), *future)


def _warnings(facts: BackupFacts) -> tuple[str, ...]:
    """What an operator must hear of a snapshot that is complete all the same."""
    absent = (
        _("{file} is not in the snapshot: {why}").format(file=file.origin or file.path, why=file.note)
        for file in facts.configuration
        if file.how == "impossible"
    )
    return tuple(dict.fromkeys((*facts.bad_pages, *facts.warnings, *absent)))


def _counted(blocks: Iterable[Block], progress: Progress) -> Iterator[Block]:
    for block in blocks:
        yield block
        progress.advance(len(block))
