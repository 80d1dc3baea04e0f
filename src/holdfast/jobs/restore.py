"""Restoring into an empty folder, with what recovery needs: postgres ← entry ← join ← unseal ← unpack ← get ← store.

What makes PostgreSQL accept the folder, ``global/pg_control``, is written last; until then a marker file says that the
folder is incomplete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, HoldfastError, Interrupted
from holdfast.filesystem.root import MARKER, removal
from holdfast.filesystem.write import FileSink, FolderWriter
from holdfast.jobs.bring_wal import bring, brought
from holdfast.jobs.bring_wal import entries as wal_entries
from holdfast.jobs.progress import Progress
from holdfast.jobs.recovery_inputs import RecoveryInputs
from holdfast.jobs.restore_plan import TABLESPACES, RestorePlan, placement
from holdfast.messages import _
from holdfast.postgres.configured import SYNCHRONOUS, configured, settings_to_recover_and_run
from holdfast.postgres.facts import RecoveryLimits
from holdfast.postgres.lsn import history_timeline, is_segment_name
from holdfast.postgres.recovery import (
    AUTO_CONF,
    LEFT_BEHIND,
    RECOVERY_DIR,
    WAL_DIR,
    Recovery,
    recovery_files,
)
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.trees import Content

CONTROL_FILE = "global/pg_control"
_REPLACED = frozenset({AUTO_CONF, "tablespace_map", "recovery.signal", *LEFT_BEHIND, MARKER})
"""Files of the snapshot that the restore has its own version of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    raised: tuple[str, ...] = ()
    """Limits that stand in ``postgresql.auto.conf`` now, because recovery needs more than is configured."""
    synchronous: str = ""
    """What ``synchronous_standby_names`` was, if it is blank now: with it the first write would wait for ever."""


def restore(
    plan: RestorePlan,
    reader: SnapshotReader,
    *,
    inputs: RecoveryInputs | None = None,
    progress: Progress,
    host: str = "",
) -> Restored:
    """Carries the plan out. When it returns, the folder is durable, complete, and recovers by itself when started.

    ``inputs``: where planned WAL comes from. ``host`` is named in the restore's lease. Once it has begun to write, what
    it raises says in its hint what to do with what is there, as :func:`unfinished` does; ``KeyboardInterrupt`` becomes
    ``Interrupted`` then.
    """
    place = placement(plan.target, plan.tablespaces)
    with (
        reader.leased(work="restore", host=host),
        FolderWriter(plan.target, place=place, owner=plan.owner, wrote=progress.advance) as folder,
    ):
        folder.begin(*plan.folders[1:])
        try:
            return _fill(plan, reader, inputs, folder, progress)
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
        command=removal(plan.folders)
    )


def _damaged(plan: RestorePlan) -> str:
    """As :func:`unfinished`, where the same snapshot would fail again."""
    return _(
        "Nothing else was touched. Remove what is unfinished: {command}\n"
        "This snapshot would fail again. See what is whole with `holdfast verify --quick` (soon done: what is missing) "
        "or `holdfast verify` (reads everything), and restore another: --at snapshot:ID"
    ).format(command=removal(plan.folders))


def _fill(
    plan: RestorePlan, reader: SnapshotReader, inputs: RecoveryInputs | None, folder: FolderWriter, progress: Progress
) -> Restored:
    progress.begin(_("restoring {label}").format(label=plan.snapshot.label), plan.snapshot.totals.content)
    own = [Entry(path=name, kind=EntryKind.DIRECTORY, mode=0o700) for name in (RECOVERY_DIR, WAL_DIR)]
    for entry in own:
        folder.directory(entry)
    late: list[tuple[Content, FileSink]] = []
    reader.deliver(_lay_out(plan, reader, folder, late))
    own += _bring_wal(plan, inputs, folder, progress)
    auto_conf = _auto_conf(plan, reader)
    there = configured(plan.target, auto_conf)
    settings = settings_to_recover_and_run(there, _limits(plan))
    for path, content in _recovery_files(plan, auto_conf, settings).items():
        folder.write_bytes(path, content)
    progress.begin(_("making it durable"))
    folder.settle(chain(own, (entry for entry in _entries(plan, reader) if entry.path != CONTROL_FILE)))
    reader.deliver(late)
    folder.settle(entry for entry in _entries(plan, reader) if entry.path == CONTROL_FILE)
    folder.finish()
    return Restored(
        raised=tuple(name for name in settings if name != SYNCHRONOUS),
        synchronous=there[SYNCHRONOUS] if SYNCHRONOUS in settings else "",
    )


def _bring_wal(
    plan: RestorePlan, inputs: RecoveryInputs | None, folder: FolderWriter, progress: Progress
) -> list[Entry]:
    """The entries of what was brought, for settling."""
    if plan.recovery is None or not brought(plan.recovery):
        return []
    assert inputs is not None, "planned WAL comes from somewhere"
    progress.begin(_("bringing the WAL"), plan.wal_size)
    bring(plan.recovery, inputs, folder)
    return list(wal_entries(plan.recovery))


def _limits(plan: RestorePlan) -> RecoveryLimits:
    return plan.facts.limits.at_least(plan.recovery.limits) if plan.recovery else plan.facts.limits


def _entries(plan: RestorePlan, reader: SnapshotReader) -> Iterator[Entry]:
    """What is restored from the snapshot as it is."""
    for stored in reader.entries(plan.snapshot):
        if stored.entry.path not in _REPLACED and not _is_left_out(plan, stored.entry):
            yield stored.entry


def _is_left_out(plan: RestorePlan, entry: Entry) -> bool:
    """WAL of the snapshot's own in whose stead other is brought, or that recovery has no need of."""
    folder, _slash, name = entry.path.partition("/")
    return (
        folder == "pg_wal"
        and (is_segment_name(name) or history_timeline(name) is not None)
        and name not in plan.own_wal
    )


def _lay_out(
    plan: RestorePlan, reader: SnapshotReader, folder: FolderWriter, late: list[tuple[Content, FileSink]]
) -> Iterator[tuple[Content, FileSink]]:
    """Makes directories, links and files of their size; yields the files to fill, keeps the ``late`` ones."""
    for stored in reader.entries(plan.snapshot):
        entry = stored.entry
        if entry.path in _REPLACED or _is_left_out(plan, entry):
            continue
        if entry.kind is EntryKind.DIRECTORY:
            folder.directory(entry)
        elif entry.path == CONTROL_FILE:
            late.append((stored.content, folder.file(entry)))
        else:
            yield stored.content, folder.file(entry)
    for oid, place in plan.tablespaces.items():
        folder.link(f"{TABLESPACES}{oid}", place)


def _auto_conf(plan: RestorePlan, reader: SnapshotReader) -> bytes:
    """The snapshot's ``postgresql.auto.conf``."""
    found = next((stored for stored in reader.entries(plan.snapshot) if stored.entry.path == AUTO_CONF), None)
    return reader.read(found.content) if found else b""


def _recovery_files(plan: RestorePlan, auto_conf: bytes, settings: Mapping[str, str]) -> dict[str, bytes]:
    files = recovery_files(
        Recovery(
            planned=plan.wal,
            wal_segment_size=plan.facts.wal_segment_size,
            target=plan.recovery_target,
            timeline=plan.timeline,
            tablespaces={oid: str(place) for oid, place in plan.tablespaces.items()},
            settings=settings,
        ),
        auto_conf=auto_conf,
    )
    return files | {f"{WAL_DIR}/{name}": content for name, content in plan.histories.items()}
