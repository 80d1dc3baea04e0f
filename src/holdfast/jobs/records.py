"""What the snapshot records of a repository say that an operator must hear. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.facts import BackupFacts
from holdfast.repository.repository import Records
from holdfast.repository.snapshots import Snapshot


def doubts(records: Records) -> tuple[str, ...]:
    """A text for each record that cannot be read, or is gone and was not removed: nobody knows how new it was."""
    unreadable = (
        _("the record {name} cannot be read: {what}").format(name=problem.name, what=problem.what)
        for problem in records.problems
    )
    return (*unreadable, *(problem.what for problem in records.missing))


def from_the_future(records: Records, now: datetime) -> tuple[Snapshot, ...]:
    """Snapshots that started after ``now``: the clock that they were taken by, or this machine's, is wrong."""
    return tuple(snapshot for snapshot in records.snapshots if snapshot.started > now)


def future_text(snapshot: Snapshot, now: datetime) -> str:
    """``now`` and the start are told in one time zone, that of ``now``."""
    return _("snapshot {label} says that {host} took it at {started}, and here it is only {now}").format(
        label=snapshot.label,
        host=snapshot.host,
        started=snapshot.started.astimezone(now.tzinfo).isoformat(" ", "seconds"),
        now=now.isoformat(" ", "seconds"),
    )


def strangers(source: str, facts: BackupFacts, records: Records) -> Iterator[str]:
    """How a cluster differs from the one whose snapshots stand under the same source's name already."""
    known = []
    for snapshot in records.snapshots:
        if snapshot.source == source and snapshot.source_type == "postgres":
            with suppress(Damaged):
                known.append((snapshot, BackupFacts.from_json(snapshot.facts)))
    if not known:
        return
    before, seen = known[-1]
    if seen.system_identifier != facts.system_identifier:
        yield _(
            "this is another cluster than before: system identifier {now}, and snapshot {label} is of {before}"
        ).format(now=facts.system_identifier, label=before.label, before=seen.system_identifier)
        return
    ahead = max(known, key=lambda one: (one[1].system_identifier == facts.system_identifier, one[1].timeline))
    if ahead[1].timeline > facts.timeline:
        yield _(
            "this server is on timeline {now}, and snapshot {label} is of timeline {newer}: it was left behind by a "
            "failover, or set back"
        ).format(now=facts.timeline, label=ahead[0].label, newer=ahead[1].timeline)
