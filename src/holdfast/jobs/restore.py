"""Restoring a snapshot into an empty folder: postgres ← entry ← join ← unseal ← unpack ← get ← store.

The plan is made first, from the repository alone, and refuses what cannot go well before anything is touched. What
makes PostgreSQL accept the folder, ``global/pg_control``, is written last; until then a marker file says that the
folder is incomplete. Nothing is ever written to a path because the source names it: tablespaces go beside the target,
or where the operator maps them.
"""

from __future__ import annotations

import os
import pwd
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, HoldfastError, Interrupted, Refused, UsageError
from holdfast.filesystem.root import MARKER, Owner, refuse_unless_empty, removal
from holdfast.filesystem.write import FileSink, FolderWriter, Placement, refuse_unless_room
from holdfast.jobs.progress import Progress
from holdfast.messages import _
from holdfast.postgres.accounts import Account, database_account
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import history_timeline, is_segment_name
from holdfast.postgres.manifest import MANIFEST
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
from holdfast.postgres.wal import created_tablespaces
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import Content, load_content

CONTROL_FILE = "global/pg_control"
_TABLESPACES = "pg_tblspc/"
_WAL = "pg_wal/"
_REPLACED = frozenset({AUTO_CONF, "tablespace_map", "recovery.signal", *LEFT_BEHIND, MARKER})
"""Files of the snapshot that the restore has its own version of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestorePlan:
    snapshot: Snapshot
    facts: BackupFacts
    target: Path
    tablespaces: Mapping[int, Path]
    """Folder for each tablespace, by OID."""
    owner: Owner | None
    """Whom everything is given to; ``None``: whoever runs this."""
    owner_name: str
    files: int
    size: int
    """Bytes that will be written."""
    wal: tuple[str, ...]
    """WAL segments and history files that recovery will find, in order."""


def plan_restore(
    snapshot: Snapshot,
    reader: SnapshotReader,
    target: Path,
    *,
    tablespaces: Mapping[str, Path],
    owner: str | None = None,
) -> RestorePlan:
    """``tablespaces`` maps an OID or the source's folder to a new folder. Refuses before anything is written."""
    if snapshot.source_type != "postgres":
        raise UsageError(_("{label} is not a snapshot of a PostgreSQL cluster").format(label=snapshot.label))
    target = Path(os.path.abspath(target))  # noqa: PTH100  keeps symbolic links as the operator wrote them
    facts = BackupFacts.from_json(snapshot.facts)
    _refuse_in_use(target)
    placed = _place_tablespaces(facts, target, tablespaces)
    for folder in (target, *placed.values()):
        refuse_unless_empty(folder)
    run_as, name = _owner(owner)
    needed: dict[Path, int] = defaultdict(int)
    files, wal = 0, dict[str, Content]()
    for stored in reader.entries(snapshot):
        entry = stored.entry
        _refuse_link(entry, snapshot)
        files += entry.kind is EntryKind.FILE
        needed[_root(entry.path, target, placed)] += entry.size
        if entry.path.startswith(_WAL) and entry.kind is EntryKind.FILE:
            needed[target] += entry.size  # recovery copies it into pg_wal
            wal[entry.path.removeprefix(_WAL)] = stored.content
    planned = tuple(sorted(filter(_is_wal, wal)))
    if not any(map(is_segment_name, planned)):
        raise Refused(
            _("snapshot {label} holds no WAL, so it cannot be made consistent").format(label=snapshot.label),
            hint=_("Choose another snapshot: `holdfast list`."),
        )
    refuse_unless_room(needed.items())
    _refuse_created_tablespaces(snapshot, reader, [wal[name] for name in planned if is_segment_name(name)])
    return RestorePlan(
        snapshot=snapshot,
        facts=facts,
        target=target,
        tablespaces=placed,
        owner=run_as,
        owner_name=name,
        files=files,
        size=sum(needed.values()),
        wal=planned,
    )


def restore(plan: RestorePlan, reader: SnapshotReader, *, progress: Progress) -> None:
    """Carries the plan out. When it returns, the folder is durable, complete, and recovers by itself when started.

    Once it has begun to write, what it raises has :func:`unfinished` in its hint; ``KeyboardInterrupt`` becomes
    ``Interrupted`` then.
    """
    with FolderWriter(plan.target, place=_placement(plan), owner=plan.owner, wrote=progress.advance) as folder:
        folder.begin(*plan.tablespaces.values())
        try:
            _fill(plan, reader, folder, progress)
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
        folder.link(f"{_TABLESPACES}{oid}", place)


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


def _placement(plan: RestorePlan) -> Placement:
    """Where an entry goes: tablespaces to their folders, WAL to where recovery takes it from."""

    def place(path: str) -> tuple[Path, str]:
        if path.startswith(_TABLESPACES):
            oid, _slash, below = path.removeprefix(_TABLESPACES).partition("/")
            root = plan.tablespaces.get(int(oid)) if oid.isdecimal() else None
            return (plan.target, path) if root is None else (root, below)
        if path.startswith(_WAL) and _is_wal(path.removeprefix(_WAL)):
            return plan.target, f"{WAL_DIR}/{path.removeprefix(_WAL)}"
        if path == MANIFEST:
            return plan.target, f"{RECOVERY_DIR}/{MANIFEST}"
        return plan.target, path

    return place


def _is_wal(name: str) -> bool:
    return is_segment_name(name) or history_timeline(name) is not None


def _root(path: str, target: Path, placed: Mapping[int, Path]) -> Path:
    """The folder whose disk an entry's bytes go to."""
    if path.startswith(_TABLESPACES):
        oid = path.removeprefix(_TABLESPACES).partition("/")[0]
        return placed.get(int(oid), target) if oid.isdecimal() else target
    return target


def _refuse_in_use(target: Path) -> None:
    """The root of all folders; or one where a server was started on what an earlier restore left unfinished."""
    if not target.name:
        raise UsageError(
            _("{path} cannot be restored into").format(path=target),
            hint=_("Name a folder that does not exist yet, or an empty one: --to DIR."),
        )
    if os.path.lexists(target / "postmaster.pid"):
        raise Refused(
            _("a PostgreSQL server runs on {path}, or ran there until it crashed").format(path=target),
            hint=_("Name another folder. Nothing was changed."),
        )


def _refuse_link(entry: Entry, snapshot: Snapshot) -> None:
    """A base backup has none: the links of tablespaces are made anew."""
    if entry.kind is EntryKind.SYMLINK:
        raise Damaged(
            _("snapshot {label} holds a symbolic link, {path}, where no cluster has one").format(
                label=snapshot.label, path=entry.path
            ),
            hint=_("Restore another snapshot: `holdfast list`. Nothing was changed."),
        )


def _place_tablespaces(facts: BackupFacts, target: Path, mapping: Mapping[str, Path]) -> dict[int, Path]:
    """Each tablespace's new folder: what the operator mapped, else one of our own beside the target."""
    left = dict(mapping)
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


def _refuse_created_tablespaces(snapshot: Snapshot, reader: SnapshotReader, segments: Iterable[Content]) -> None:
    """Replaying CREATE TABLESPACE writes to the path that the source named, which may be a live server's."""
    blocks = (reader.load(row.id) for content in segments for row in load_content(content, reader.load))
    found = list(created_tablespaces(blocks))
    if found:
        raise Refused(
            _("tablespace {places} was created while snapshot {label} was taken: recovery would write there").format(
                places=", ".join(link.location for link in found), label=snapshot.label
            ),
            hint=_("Restore another snapshot: `holdfast list`. Nothing was changed."),
        )


def _owner(name: str | None) -> tuple[Owner | None, str]:
    """Whom the restored files are given to, and that user's name. Only root can give them to somebody else."""
    if name is None:
        account = database_account()
    else:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise UsageError(_("there is no user {name} on this machine").format(name=name)) from None
        account = Account(name=entry.pw_name, uid=entry.pw_uid, gid=entry.pw_gid)
    if account.uid == 0:
        raise UsageError(
            _("root cannot own a PostgreSQL data directory"),
            hint=_("Name the user that will run PostgreSQL: --owner postgres."),
        )
    if account.uid == os.geteuid():
        return None, account.name
    if os.geteuid() != 0:
        raise UsageError(
            _("only root can give the restored files to {name}").format(name=account.name),
            hint=_("Run as root, or as {name}: sudo -u {name} holdfast restore …").format(name=account.name),
        )
    return Owner(account.uid, account.gid), account.name
