"""Planning a restore: from the repository alone, refusing what cannot go well before anything is touched.

Nothing is ever placed anywhere because the source names it: tablespaces go beside the target, or where the operator
maps them.
"""

from __future__ import annotations

import os
import pwd
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, Refused, UsageError
from holdfast.filesystem.root import Owner, refuse_unless_empty
from holdfast.filesystem.write import Placement, refuse_unless_room
from holdfast.messages import _
from holdfast.postgres.accounts import Account, database_account
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import history_timeline, is_segment_name
from holdfast.postgres.manifest import MANIFEST
from holdfast.postgres.recovery import RECOVERY_DIR, WAL_DIR
from holdfast.postgres.wal import created_tablespaces
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.snapshots import Snapshot
from holdfast.repository.trees import Content, load_content

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
    where = placement(target, placed)
    needed: dict[Path, int] = defaultdict(int)
    files, wal = 0, dict[str, Content]()
    for stored in reader.entries(snapshot):
        entry = stored.entry
        _refuse_link(entry, snapshot)
        files += entry.kind is EntryKind.FILE
        needed[where(entry.path)[0]] += entry.size
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
    rows = (list(load_content(content, reader.load)) for content in segments)
    found = list(created_tablespaces(chain.from_iterable(map(reader.load, rows))))
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
