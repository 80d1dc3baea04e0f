"""An open repository: sealed objects in and out of a store, and the snapshots that are there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from holdfast.clock import Clock
from holdfast.errors import Damaged, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.ids import new_object_id
from holdfast.repository.keys import Keys
from holdfast.repository.objects import Kind, ObjectRef, Ref, StreamRef, parse_name, parse_stream_name
from holdfast.repository.removal import Removal, decode_removals
from holdfast.repository.sealing import MasterKey, ObjectCipher, seal_object, unseal_object
from holdfast.repository.seen import Seen, place, remember, remembered
from holdfast.repository.snapshots import MAX_RECORD_BYTES, Snapshot, decode_snapshot, encode_snapshot, heads, missing
from holdfast.store.port import Listed, Store

DEFAULT_WORKERS = 4
MAX_OBJECT_BYTES = 300 * 2**20
"""Of objects of one part; more is none of ours, and not read."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was written: an object's name, and what is wrong with it."""

    name: str
    what: str


@dataclass(frozen=True, slots=True)
class Records:
    """All snapshot records: those that can be read, oldest first, and what is wrong with the others."""

    snapshots: tuple[Snapshot, ...]
    problems: tuple[Problem, ...]
    """Records that cannot be read."""
    missing: tuple[Problem, ...] = ()
    """Records that other records, or this machine, know of, that are gone, and that nobody removed; or that changed."""
    removals: tuple[Removal, ...] = ()


@lru_cache(maxsize=256)
def _cipher(master: MasterKey, ref: ObjectRef) -> ObjectCipher:
    """Kept a while: the parts of a pack are read one after the other."""
    return ObjectCipher(master, ref)


class Repository:
    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        clock: Clock,
        damaged_keys: tuple[str, ...] = (),
        state: Path | None = None,
    ) -> None:
        """``state``: the folder of this machine's state; what is kept of this repository there can be lost."""
        self.store = store
        self.local = None if state is None else state / "repositories" / keys.master.id.hex()
        self.clock = clock
        self.keys = keys
        self.master = keys.master
        self.ids = keys.ids
        self.damaged_keys = damaged_keys

    @property
    def url(self) -> str:
        return self.store.url

    @property
    def id(self) -> str:
        return self.master.repository_id.hex()

    @property
    def key_id(self) -> str:
        return self.master.id.hex()

    def put_object(self, kind: Kind, plain: bytes) -> ObjectRef:
        ref = ObjectRef(kind, new_object_id())
        self.store.put(ref.name, seal_object(self.master, ref, plain))
        return ref

    def put_stream_object(self, kind: Kind, stream: str, plain: bytes) -> StreamRef:
        ref = StreamRef(kind, new_object_id(), stream)
        self.store.put(ref.name, seal_object(self.master, ref, plain))
        return ref

    def put_record(self, snapshot: Snapshot) -> Snapshot:
        """Publishes a snapshot; returns it with the id and digest of its record, which this machine remembers."""
        ref = ObjectRef(Kind.SNAPSHOT, new_object_id())
        sealed = seal_object(self.master, ref, encode_snapshot(snapshot))
        self.store.put(ref.name, sealed)
        made = replace(snapshot, id=ref.id.hex(), digest=hashlib.sha256(sealed).hexdigest())
        known = {old: seen for old, seen in remembered(self.local).items() if old not in made.predecessors}
        remember(self.local, {**known, made.id: Seen(made.digest, made.label)})
        return made

    def get_object(self, ref: Ref) -> bytes:
        return unseal_object(self.master, ref, self.store.get(ref.name))

    def get_listed(self, listed: Listed) -> bytes:
        """What the object of a listing holds. Raises ``Damaged`` for what Holdfast would not have written, unread."""
        ref = parse_name(listed.name) or parse_stream_name(listed.name)
        if ref is None:
            raise Damaged(_("{name} has a name that Holdfast does not write").format(name=listed.name))
        if listed.size > MAX_OBJECT_BYTES:
            raise Damaged(_("{name} is larger than what Holdfast writes there").format(name=listed.name))
        return self.get_object(ref)

    def cipher(self, ref: ObjectRef) -> ObjectCipher:
        return _cipher(self.master, ref)

    def records(self) -> Records:
        known = remembered(self.local)  # before the listing: what is published meanwhile is not missed in it
        problems: list[Problem] = []
        names = []
        for listed in self.store.list(Kind.SNAPSHOT.prefix):
            if listed.size > MAX_RECORD_BYTES:
                problems.append(Problem(listed.name, _("{name} is too large for a record").format(name=listed.name)))
            else:
                names.append(listed.name)
        read = self._read_records(names, problems)
        # Removals are read after the records: what goes meanwhile has been recorded as removed before it went.
        removals, unreadable = self._removals()
        removed = {removal.id for removal in removals}
        problems = [problem for problem in problems if problem.name.rpartition("/")[2] not in removed] + unreadable
        snapshots = [snapshot for snapshot in read if snapshot.id not in removed]
        gone = list(self._gone(known, snapshots, removals, problems))  # it adds to both lists
        return Records(
            tuple(sorted(snapshots, key=lambda snapshot: (snapshot.started, snapshot.ended, snapshot.id))),
            tuple(sorted(problems, key=lambda problem: problem.name)),
            tuple(sorted(gone, key=lambda problem: problem.name)),
            removals,
        )

    def _removals(self) -> tuple[tuple[Removal, ...], list[Problem]]:
        found: list[Removal] = []
        problems: list[Problem] = []

        def read(listed: Listed) -> None:
            try:
                found.extend(decode_removals(self.get_listed(listed)))
            except (Damaged, ObjectMissing) as error:
                problems.append(Problem(listed.name, str(error)))

        each(read, self.store.list(Kind.REMOVAL.prefix), workers=DEFAULT_WORKERS)
        return tuple(sorted(found, key=lambda removal: (removal.when, removal.id))), problems

    def _read_records(self, names: Iterable[str], problems: list[Problem]) -> list[Snapshot]:
        snapshots: list[Snapshot] = []

        def read(name: str) -> None:
            ref = parse_name(name)
            try:
                if ref is None:
                    raise Damaged(_("{name} has a name that Holdfast does not write").format(name=name))
                sealed = self.store.get(name)
                record = decode_snapshot(ref.id.hex(), unseal_object(self.master, ref, sealed))
                snapshots.append(replace(record, digest=hashlib.sha256(sealed).hexdigest()))
            except ObjectMissing:
                pass  # removed since it was listed, or never there
            except Damaged as error:
                problems.append(Problem(name, str(error)))

        each(read, names, workers=DEFAULT_WORKERS)
        return snapshots

    def _gone(
        self,
        known: Mapping[str, Seen],
        snapshots: list[Snapshot],
        removals: tuple[Removal, ...],
        problems: list[Problem],
    ) -> Iterator[Problem]:
        """What should be in the listing and is not; adds to ``snapshots`` what is there all the same."""
        accounted = {snapshot.id for snapshot in snapshots} | {removal.id for removal in removals}
        accounted |= {problem.name.rpartition("/")[2] for problem in problems}
        absent: set[str] = set()
        unlisted: list[Snapshot] = []
        while new := {*missing(snapshots, removals), *known} - accounted - absent:  # what is found may name others
            absent |= new
            found = self._read_records([f"{Kind.SNAPSHOT.prefix}{snapshot_id}" for snapshot_id in new], problems)
            unlisted += found
            snapshots += found
        for snapshot in unlisted:
            name = f"{Kind.SNAPSHOT.prefix}{snapshot.id}"
            what = _("{url} leaves snapshot {label} out of its listing").format(url=self.url, label=snapshot.label)
            yield Problem(name, what)
        gone = absent - {snapshot.id for snapshot in unlisted}
        for snapshot_id in sorted(gone):
            what = _("snapshot {id} is gone, and nobody removed it").format(id=snapshot_id[:12])
            if snapshot_id in known and self.local is not None:
                what = _(
                    "snapshot {label} ({id}), which this machine saw, is gone, and nobody removed it; {file}"
                ).format(label=known[snapshot_id].label, id=snapshot_id[:12], file=place(self.local))
            yield Problem(f"{Kind.SNAPSHOT.prefix}{snapshot_id}", what)
        for snapshot in snapshots:
            if snapshot.id in known and known[snapshot.id].digest != snapshot.digest:
                what = _("the record of snapshot {label} is another than this machine saw").format(label=snapshot.label)
                yield Problem(f"{Kind.SNAPSHOT.prefix}{snapshot.id}", what)
        there = {snapshot.id: Seen(snapshot.digest, snapshot.label) for snapshot in snapshots}
        newest = {snapshot_id: known.get(snapshot_id, there[snapshot_id]) for snapshot_id in heads(snapshots)}
        latest = remembered(self.local)
        unread = latest.keys() - there.keys() - {removal.id for removal in removals}
        remember(self.local, {**newest, **{snapshot_id: latest[snapshot_id] for snapshot_id in unread}})
