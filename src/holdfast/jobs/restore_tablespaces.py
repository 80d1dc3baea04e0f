"""Where tablespaces go in a restore, and those that replay would make where their source had them.

Nothing can send a tablespace elsewhere that the replayed WAL creates: PostgreSQL writes to the literal path, which on
the source's own host is a live server's. It is refused, unless the operator names that very folder, and it is empty.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import Refused, UsageError
from holdfast.messages import _
from holdfast.policy.recovery import RecoveryPlan
from holdfast.postgres.datadir import TablespaceLink
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import Lsn, Segment
from holdfast.postgres.walfacts import EventKind
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import Content, load_content


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    link: TablespaceLink
    lsn: Lsn
    """Where its record begins."""


def created_by(recovery: RecoveryPlan | None) -> tuple[Created, ...]:
    """The tablespaces outside the data directory that replay would create."""
    found = []
    for event in recovery.created_tablespaces if recovery else ():
        oid, _blank, location = event.detail.partition(" ")
        if location.startswith("/"):
            found.append(Created(link=TablespaceLink(oid=int(oid), location=location), lsn=event.lsn))
    return tuple(found)


def _mapped(link: TablespaceLink, mapping: Mapping[str, Path]) -> Path | None:
    return next((mapping[key] for key in (str(link.oid), link.location) if key in mapping), None)


def literal_folders(made: Iterable[Created], mapping: Mapping[str, Path]) -> dict[int, Path]:
    """The folders of tablespaces that replay creates, each named by the operator as the source had it.

    Raises ``Refused`` for any other: nothing can send it elsewhere.
    """
    found = {}
    for one in made:
        link, chosen = one.link, _mapped(one.link, mapping)
        if chosen is None or os.path.abspath(chosen) != os.path.normpath(link.location):  # noqa: PTH100  as it is
            raise Refused(
                _("tablespace {oid} is created in the WAL to be replayed: recovery would write to {folder}").format(
                    oid=link.oid, folder=link.location
                ),
                hint=_(
                    "Recover to just before it: --at lsn:{lsn} --exclusive; or from a snapshot taken after it. Where "
                    "no server uses that folder, as on another machine, let it be written: --tablespace {oid}={folder}"
                ).format(lsn=one.lsn, oid=link.oid, folder=link.location),
            )
        found[link.oid] = Path(link.location)
    return found


def place_tablespaces(
    facts: BackupFacts, target: Path, mapping: Mapping[str, Path], made: Iterable[Created] = ()
) -> dict[int, Path]:
    """Each tablespace's new folder: what the operator mapped, else one of our own beside the target."""
    left = dict(mapping)
    for one in made:
        for key in (str(one.link.oid), one.link.location):
            left.pop(key, None)
    placed: dict[int, Path] = {}
    for tablespace in facts.tablespaces:
        named = next((key for key in (str(tablespace.oid), tablespace.name, tablespace.location) if key in left), None)
        chosen = left.pop(named) if named is not None else target.with_name(f"{target.name}_tablespaces")
        placed[tablespace.oid] = (
            Path(os.path.abspath(chosen))  # noqa: PTH100  keeps symbolic links as the operator wrote them
            if named is not None
            else chosen / str(tablespace.oid)
        )
    if left:
        known = ", ".join(f"{tablespace.oid} ({tablespace.location})" for tablespace in facts.tablespaces)
        raise UsageError(
            _("the snapshot has no tablespace {names}").format(names=", ".join(left)),
            hint=_("It has: {known}.").format(known=known or _("none")),
        )
    folders = [target, *placed.values()]
    if any(one == other or one in other.parents for one in folders for other in folders if one is not other):
        raise UsageError(
            _("the target and the tablespaces must be different folders, none inside another"),
            hint=_("Map each tablespace to a folder of its own: --tablespace OID=FOLDER."),
        )
    return placed


def refuse_created(snapshot: Snapshot, created: Iterable[tuple[int, str]], allowed: Container[int]) -> None:
    """Replaying CREATE TABLESPACE writes to the path that the source named, which may be a live server's."""
    found = [location for oid, location in created if oid not in allowed]
    if found:
        raise Refused(
            _("tablespace {places} was created while snapshot {label} was taken: recovery would write there").format(
                places=", ".join(found), label=snapshot.label
            ),
            hint=_("Restore another snapshot: `holdfast list`. Nothing was changed."),
        )


def created_in(
    reader: SnapshotReader, segments: Mapping[str, Content], facts: BackupFacts
) -> Iterator[tuple[int, str]]:
    """OID and folder of the tablespaces outside the data directory that replaying these segments creates.

    Replay begins with the backup, which of a standby begins amid a segment.
    """
    from holdfast.postgres.walscan import WalScanner

    scanner, awaited = None, None
    for name in sorted(segments):
        segment = Segment.parse(name, facts.wal_segment_size)
        if scanner is None or segment != awaited:
            scanner = WalScanner(timeline=segment.timeline, segment_size=segment.size, start=segment.start)
        awaited = segment.following()
        for block in reader.load(list(load_content(segments[name], reader.load))):
            for event in scanner.feed(block).events:
                oid, _blank, location = event.detail.partition(" ")
                is_replayed = event.kind is EventKind.TABLESPACE and event.lsn >= facts.start_lsn
                if is_replayed and location.startswith("/"):
                    yield int(oid), location
