"""Planning a restore: from repositories alone, refusing what cannot go well before anything is touched.

Nothing is ever placed anywhere because the source names it: tablespaces go beside the target, or where the operator
maps them. Only a tablespace that the replayed WAL creates goes where the source had it, and only if told so in so many
words: replay writes to that literal path, which on the source's own host is a live server's.
"""

from __future__ import annotations

import os
import pwd
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, Refused, UsageError
from holdfast.filesystem.root import Owner, refuse_unless_empty
from holdfast.filesystem.write import Placement, refuse_unless_room
from holdfast.jobs.bring_wal import brought, history_files
from holdfast.jobs.restore_tablespaces import (
    created_by,
    created_in,
    literal_folders,
    place_tablespaces,
    refuse_created,
)
from holdfast.messages import _
from holdfast.policy.recovery import RecoveryPlan
from holdfast.postgres.accounts import Account, database_account
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import history_name, history_timeline, is_segment_name
from holdfast.postgres.manifest import MANIFEST
from holdfast.postgres.recovery import CONSISTENT, END_OF_WAL, RECOVERY_DIR, WAL_DIR, Target
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import Content

TABLESPACES = "pg_tblspc/"
_WAL = "pg_wal/"


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
    own_wal: frozenset[str]
    """Those of them that the snapshot brings itself."""
    histories: Mapping[str, bytes] = field(default_factory=dict)
    """History files that it does not bring, by name."""
    timeline: int | None = None
    """The one that recovery follows to; None: the newest of the history files that the snapshot brings."""
    recovery: RecoveryPlan | None = None
    """None: the snapshot alone, to its end."""
    created: Mapping[int, Path] = field(default_factory=dict)
    """Folders that must be there for tablespaces which the replayed WAL creates."""

    @property
    def recovers_on(self) -> bool:
        """Whether recovery goes beyond the snapshot's end."""
        return self.recovery is not None and bool(self.recovery.wal)

    @property
    def recovery_target(self) -> Target:
        """Of a snapshot alone its end: consistency, at once after a primary's own end-of-backup record.

        A standby writes none. Where it was idle, nothing follows its checkpoint, and PostgreSQL takes ``immediate`` for
        a target that was never reached; its end is that of the WAL which the snapshot brings.
        """
        if self.recovery is not None and self.recovery.wal:
            return self.recovery.target
        return END_OF_WAL if self.facts.from_standby else CONSISTENT

    @property
    def wal_size(self) -> int:
        """Bytes of the WAL that is brought from repositories."""
        return sum(planned.segment.size for planned in brought(self.recovery)) if self.recovery else 0

    @property
    def folders(self) -> tuple[Path, ...]:
        """All that are written into, the target first."""
        return (self.target, *self.tablespaces.values(), *self.created.values())


def plan_restore(
    snapshot: Snapshot,
    reader: SnapshotReader,
    target: Path,
    *,
    tablespaces: Mapping[str, Path],
    owner: str | None = None,
    recovery: RecoveryPlan | None = None,
    timelines: Iterable[int] = (),
) -> RestorePlan:
    """``tablespaces`` maps an OID or the source's folder to a new folder. Refuses before anything is written.

    ``timelines``: numbers that are known to be taken; recovery ends on a newer one.
    """
    if snapshot.source_type != "postgres":
        raise UsageError(_("{label} is not a snapshot of a PostgreSQL cluster").format(label=snapshot.label))
    target = Path(os.path.abspath(target))  # noqa: PTH100  keeps symbolic links as the operator wrote them
    facts = BackupFacts.from_json(snapshot.facts)
    _refuse_in_use(target)
    made_by_replay = created_by(recovery)
    created = literal_folders(made_by_replay, tablespaces)
    placed = place_tablespaces(facts, target, tablespaces, made_by_replay)
    for folder in (target, *placed.values(), *created.values()):
        refuse_unless_empty(folder)
    run_as, name = _owner(owner)
    where = placement(target, placed)
    needed: dict[Path, int] = defaultdict(int)
    files, wal = 0, dict[str, Content]()
    for stored in reader.entries(snapshot):
        entry = stored.entry
        _refuse_link(entry, snapshot)
        files += entry.kind is EntryKind.FILE
        if entry.path.startswith(_WAL) and entry.kind is EntryKind.FILE and _is_wal(entry.path.removeprefix(_WAL)):
            if not _is_own(entry.path.removeprefix(_WAL), recovery):
                files -= 1
                continue
            needed[target] += entry.size  # recovery copies it into pg_wal
            wal[entry.path.removeprefix(_WAL)] = stored.content
        needed[where(entry.path)[0]] += entry.size
    segments = {name: content for name, content in wal.items() if is_segment_name(name)}
    if not segments and not (recovery and recovery.wal):
        raise Refused(
            _("snapshot {label} holds no WAL, so it cannot be made consistent").format(label=snapshot.label),
            hint=_("Choose another snapshot: `holdfast list`."),
        )
    from_elsewhere = brought(recovery) if recovery else ()
    needed[target] += 2 * sum(planned.segment.size for planned in from_elsewhere)
    refuse_unless_room(needed.items())
    refuse_created(snapshot, created_in(reader, segments, facts), created)
    timeline, histories = _histories(recovery, facts, frozenset(wal), timelines)
    plan = RestorePlan(
        snapshot=snapshot,
        facts=facts,
        target=target,
        tablespaces=placed,
        owner=run_as,
        owner_name=name,
        files=files + len(from_elsewhere),
        size=sum(needed.values()),
        wal=tuple(sorted({*wal, *histories, *(planned.segment.name for planned in from_elsewhere)})),
        own_wal=frozenset(wal),
        histories=histories,
        timeline=timeline,
        recovery=recovery,
        created=created,
    )
    _refuse_incomplete(plan)
    return plan


def _is_own(name: str, recovery: RecoveryPlan | None) -> bool:
    """Whether the snapshot's own file ``name`` is what recovery shall find. What was streamed is preferred to it."""
    if recovery is None or not recovery.wal:
        return True
    timeline = history_timeline(name)
    if timeline is not None:
        return timeline not in recovery.histories
    return any(planned.segment.name == name and planned.held is None for planned in recovery.wal)


def _refuse_incomplete(plan: RestorePlan) -> None:
    """A plan that counts on a segment of the snapshot's own which that does not hold."""
    for planned in plan.recovery.wal if plan.recovery else ():
        if planned.segment.name not in plan.wal:
            raise Damaged(
                _("snapshot {label} does not hold {name}, which recovery needs").format(
                    label=plan.snapshot.label, name=planned.segment.name
                ),
                hint=_("Recover from another snapshot: holdfast list. Nothing was changed."),
            )


def _histories(
    recovery: RecoveryPlan | None, facts: BackupFacts, own: frozenset[str], timelines: Iterable[int]
) -> tuple[int | None, Mapping[str, bytes]]:
    """The timeline to follow, and the history files to lay beside the snapshot's ``own``.

    With histories of other branches beside it, a snapshot must not follow the newest one: it may not lie on its line.
    """
    if recovery is None:
        return None, {}
    timeline = recovery.timeline if recovery.wal else facts.stop_timeline
    files = history_files(recovery.histories, timeline=timeline, taken=timelines)
    files = {name: content for name, content in files.items() if name not in own}
    if not recovery.wal and timeline != 1 and history_name(timeline) not in {*files, *own}:
        return None, {}  # as it was taken: its own WAL needs no history
    return timeline, files


def placement(target: Path, tablespaces: Mapping[int, Path]) -> Placement:
    """Where an entry goes: tablespaces to their folders, WAL to where recovery takes it from."""

    def place(path: str) -> tuple[Path, str]:
        if path.startswith(TABLESPACES):
            oid, _slash, below = path.removeprefix(TABLESPACES).partition("/")
            root = tablespaces.get(int(oid)) if oid.isdecimal() else None
            return (target, path) if root is None else (root, below)
        if path.startswith(_WAL) and _is_wal(path.removeprefix(_WAL)):
            return target, f"{WAL_DIR}/{path.removeprefix(_WAL)}"
        if path == MANIFEST:
            return target, f"{RECOVERY_DIR}/{MANIFEST}"
        return target, path

    return place


def _is_wal(name: str) -> bool:
    return is_segment_name(name) or history_timeline(name) is not None


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
