"""Restoring a snapshot into an empty folder: postgres ← entry ← join ← unseal ← unpack ← get ← store.

What makes PostgreSQL accept the folder, ``global/pg_control``, is written last; until then a marker file says that the
folder is incomplete.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, HoldfastError, Interrupted
from holdfast.filesystem.root import MARKER, removal
from holdfast.filesystem.write import FileSink, FolderWriter
from holdfast.jobs.progress import Progress
from holdfast.jobs.restore_plan import TABLESPACES, RestorePlan, placement
from holdfast.messages import _
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.recovery import (
    AUTO_CONF,
    CONSISTENT,
    END_OF_WAL,
    LEFT_BEHIND,
    RECOVERY_DIR,
    WAL_DIR,
    Recovery,
    Target,
    recovery_files,
)
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.trees import Content

CONTROL_FILE = "global/pg_control"
_REPLACED = frozenset({AUTO_CONF, "tablespace_map", "recovery.signal", *LEFT_BEHIND, MARKER})
"""Files of the snapshot that the restore has its own version of."""


def restore(plan: RestorePlan, reader: SnapshotReader, *, progress: Progress, host: str = "") -> None:
    """Carries the plan out. When it returns, the folder is durable, complete, and recovers by itself when started.

    ``host`` is named in the restore's lease. Once it has begun to write, what it raises says in its hint what to do
    with what is there, as :func:`unfinished` does; ``KeyboardInterrupt`` becomes ``Interrupted`` then.
    """
    place = placement(plan.target, plan.tablespaces)
    with (
        reader.leased(work="restore", host=host),
        FolderWriter(plan.target, place=place, owner=plan.owner, wrote=progress.advance) as folder,
    ):
        folder.begin(*plan.tablespaces.values())
        try:
            _fill(plan, reader, folder, progress)
        except Damaged as error:
            error.hint = " ".join(filter(None, (error.hint, _damaged(plan))))
            raise
        except HoldfastError as error:
            error.hint = " ".join(filter(None, (error.hint, unfinished(plan))))
            raise
        except KeyboardInterrupt:
            raise Interrupted(
                _("stopped; {path} is not complete").format(path=plan.target), hint=unfinished(plan)
            ) from None


def unfinished(plan: RestorePlan) -> str:
    """What to do with what a restore that did not end has left."""
    return _("Nothing else was touched. Remove what is unfinished, then run the same command again: {command}").format(
        command=removal((plan.target, *plan.tablespaces.values()))
    )


def _damaged(plan: RestorePlan) -> str:
    """As :func:`unfinished`, where the same snapshot would fail again."""
    return _(
        "Nothing else was touched. Remove what is unfinished: {command}\n"
        "This snapshot would fail again. See what is whole with `holdfast verify --quick` (soon done: what is missing) "
        "or `holdfast verify` (reads everything), and restore another: --at snapshot:ID"
    ).format(command=removal((plan.target, *plan.tablespaces.values())))


def _fill(plan: RestorePlan, reader: SnapshotReader, folder: FolderWriter, progress: Progress) -> None:
    progress.begin(_("restoring {label}").format(label=plan.snapshot.label), plan.snapshot.totals.content)
    own = [Entry(path=name, kind=EntryKind.DIRECTORY, mode=0o700) for name in (RECOVERY_DIR, WAL_DIR)]
    for entry in own:
        folder.directory(entry)
    late: list[tuple[Content, FileSink]] = []
    reader.deliver(_lay_out(plan, reader, folder, late))
    for path, content in _recovery_files(plan, reader).items():
        folder.write_bytes(path, content)
    progress.begin(_("making it durable"))
    folder.settle(chain(own, (entry for entry in _entries(plan, reader) if entry.path != CONTROL_FILE)))
    reader.deliver(late)
    folder.settle(entry for entry in _entries(plan, reader) if entry.path == CONTROL_FILE)
    folder.finish()


def _entries(plan: RestorePlan, reader: SnapshotReader) -> Iterator[Entry]:
    """What is restored from the snapshot as it is."""
    return (stored.entry for stored in reader.entries(plan.snapshot) if stored.entry.path not in _REPLACED)


def _lay_out(
    plan: RestorePlan, reader: SnapshotReader, folder: FolderWriter, late: list[tuple[Content, FileSink]]
) -> Iterator[tuple[Content, FileSink]]:
    """Makes directories, links and files of their size; yields the files to fill, keeps the ``late`` ones."""
    for stored in reader.entries(plan.snapshot):
        entry = stored.entry
        if entry.path in _REPLACED:
            continue
        if entry.kind is EntryKind.DIRECTORY:
            folder.directory(entry)
        elif entry.path == CONTROL_FILE:
            late.append((stored.content, folder.file(entry)))
        else:
            yield stored.content, folder.file(entry)
    for oid, place in plan.tablespaces.items():
        folder.link(f"{TABLESPACES}{oid}", place)


def _recovery_files(plan: RestorePlan, reader: SnapshotReader) -> dict[str, bytes]:
    auto_conf = next((stored for stored in reader.entries(plan.snapshot) if stored.entry.path == AUTO_CONF), None)
    return recovery_files(
        Recovery(
            planned=plan.wal,
            wal_segment_size=plan.facts.wal_segment_size,
            target=_target(plan.facts),
            tablespaces={oid: str(place) for oid, place in plan.tablespaces.items()},
        ),
        auto_conf=reader.read(auto_conf.content) if auto_conf else b"",
    )


def _target(facts: BackupFacts) -> Target:
    """The snapshot's end: consistency, at once after a primary's own end-of-backup record.

    A standby writes none. Where it was idle, nothing follows its checkpoint, and PostgreSQL takes ``immediate`` for a
    target that was never reached; its end is that of the WAL which the snapshot brings.
    """
    return END_OF_WAL if facts.from_standby else CONSISTENT
