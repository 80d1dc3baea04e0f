"""What the snapshot records of a repository say that an operator must hear. Pure."""

from __future__ import annotations

from datetime import datetime

from holdfast.messages import _
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
