"""Each known way of damage to the golden repository, and what must be found then: expected by thought, not by trial.

``T1`` to ``B6`` are the six backups (``tracker``, ``blueprints``) in their order; T1 was removed. What each one's packs
hold follows from :mod:`tests.golden.contents`: a backup stores only what none before it stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.repository.index_loading import load_index
from holdfast.repository.keys import SecretKind, new_keys, wrap
from holdfast.repository.leases import Renewal, encode_renewal
from holdfast.repository.marks import encode_mark
from holdfast.repository.objects import Kind, ObjectRef
from holdfast.repository.opening import create_repository
from holdfast.repository.packing import Location
from holdfast.repository.reader import SnapshotReader
from holdfast.repository.sealing import HEAD
from holdfast.repository.trees import load_content
from holdfast.repository.versions import encode_writer
from holdfast.store.memory import MemoryStore
from tests.golden.changes import Change, copy, cut, delete, flip, put
from tests.golden.contents import CHUNK, GROWN_BYTES, PLAN
from tests.golden.whole import PASSPHRASE, RECOVERY_KEY, Life, chance
from tests.repository.making import noise

T1, B2, T3, B4, T5, B6 = STEPS = ("tracker 1", "blueprints 2", "tracker 3", "blueprints 4", "tracker 5", "blueprints 6")
TRACKERS, BLUEPRINTS = (T3, T5), (B2, B4, B6)

Touched = tuple[str, str]
"""A backup and a path in it; an empty path: all of it."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """Of a verification: objects and the kind of their damage, in any order."""

    problems: Mapping[str, str] = field(default_factory=dict)
    touched: Sequence[Touched] = ()
    mended: bool = True
    """Whether the pack whose damage was mended in the whole repository still counts as mended (not when quick)."""


FINE = Expected()


@dataclass(frozen=True, kw_only=True)
class Damage:
    name: str
    changes: Sequence[Change]
    quick: Expected = FINE
    full: Expected = FINE
    remembered: Mapping[str, str] = field(default_factory=dict)
    """What a machine finds beside that, which saw the repository while it was whole."""
    opens_with: str = PASSPHRASE
    refused: Mapping[str, str] = field(default_factory=dict)
    """What fails, and with which error: opening ``pinned`` or ``unpinned``, or by the ``passphrase``; ``writing``."""


def both(name: str, *changes: Change, problems: Mapping[str, str], touched: Sequence[Touched] = ()) -> Damage:
    """What a listing, or reading the small objects, tells."""
    found = Expected(problems=problems, touched=touched)
    return Damage(name=name, changes=changes, quick=found, full=found)


def touching(steps: Sequence[str], *paths: str) -> list[Touched]:
    return [(step, path) for step in steps for path in paths]


class Ways:
    def __init__(self, life: Life) -> None:
        self._life = life
        self._store = life.store
        with chance("another"):
            self._other_store = MemoryStore(clock=life.clock)
            self._other = create_repository(self._other_store, [(PASSPHRASE, SecretKind.PASSPHRASE)], clock=life.clock)

    def all(self) -> Iterator[Damage]:
        yield from self._packs()
        yield from self._index()
        yield from self._records()
        yield from self._keys()
        yield from self._header()
        with chance("forged"):
            yield from self._signals()
        yield from self._notes()

    def _packs(self) -> Iterator[Damage]:
        life = self._life
        orders, lines, grown, new = (life.one(step, "data/") for step in (T1, T3, T5, B6))
        one_of = "unreadable {} of {}".format
        touched = [*touching(TRACKERS, "base/1/orders"), *touching(BLUEPRINTS, "same as in the cluster")]
        yield self._full("data_part_flipped", self._in_part(life.place(noise(20_000, 1), orders)),
                         {orders: one_of(1, self._parts(orders))}, touched)  # fmt: skip
        second = (b"daily_blueprints " * 17_000 + b"line 2\n" * 5_000)[CHUNK:]
        yield self._full("only_part_of_a_data_pack_flipped", self._in_part(life.place(second, lines)),
                         {lines: one_of(1, 1)}, touching(TRACKERS, "base/1/lines"))  # fmt: skip
        leaf = self._leaf_of(B6)
        yield Damage(
            name="leaf_flipped",
            changes=[self._in_part(leaf)],
            quick=Expected(touched=[(B6, "")]),
            full=Expected(problems={leaf.pack.name: one_of(1, self._parts(leaf.pack.name))}, touched=[(B6, "")]),
        )
        node = self._node_of("long")
        yield Damage(
            name="list_node_flipped",
            changes=[self._in_part(node)],
            quick=Expected(touched=touching(BLUEPRINTS, "long")),
            full=Expected(
                problems={node.pack.name: one_of(1, self._parts(node.pack.name))}, touched=touching(BLUEPRINTS, "long")
            ),
        )
        size = len(self._store.get(grown))
        yield self._full("data_directory_flipped", flip(grown, size - 30), {grown: "unauthentic"})
        yield self._full("data_trailer_flipped", flip(grown, size - 1), {grown: "unauthentic"})
        yield self._full("data_trailer_flipped_beyond_the_pack", flip(grown, size - 4), {grown: "no directory"})
        yield self._full("data_head_flipped", flip(grown, 20), {grown: "another head"})
        meta = life.one(B6, "meta/")
        yield self._full("meta_directory_flipped", flip(meta, len(self._store.get(meta)) - 30), {meta: "unauthentic"})
        left = life.one("killed again", "data/")
        yield both("directory_of_an_unindexed_pack_flipped", flip(left, len(self._store.get(left)) - 30),
                   problems={left: "unauthentic"})  # fmt: skip
        yield both("data_pack_cut", cut(grown, GROWN_BYTES // 2), problems={grown: "another size"},
                   touched=[(T5, "base/1/grown")])  # fmt: skip
        yield both("meta_pack_cut", cut(meta, 400), problems={meta: "another size"}, touched=[(B6, "")])
        yield both("data_pack_missing", delete(grown), problems={grown: "missing"}, touched=[(T5, "base/1/grown")])
        first = life.one(B2, "meta/")
        yield both("meta_pack_missing", delete(first), problems={first: "missing"}, touched=touching(BLUEPRINTS, ""))
        yield self._full("packs_swapped", [copy(grown, new), copy(new, grown)],
                         {grown: one_of(1, 1), new: one_of(1, 1)},
                         [(T5, "base/1/grown"), (B6, "2026/grown.svg")])  # fmt: skip
        yield both("pack_replaced_by_another", copy(lines, grown), problems={grown: "another size"},
                   touched=[(T5, "base/1/grown")])  # fmt: skip
        yield self._full("another_content_under_the_id", self._another_content(life.ref(T5, "data/")),
                         {grown: one_of(1, 1)}, [(T5, "base/1/grown")])  # fmt: skip
        yield self._mended_part_flipped()

    def _another_content(self, pack: ObjectRef) -> Change:
        """The only part of a pack, sealed by somebody who has the key, or by a bug: its id alone tells."""
        cipher, data = self._life.open().cipher(pack), self._store.get(pack.name)
        sealed = cipher.seal(0, b"\0" + noise(GROWN_BYTES, 999), last=False)
        return put(pack.name, data[: HEAD.size] + sealed + data[HEAD.size + len(sealed) :])

    def _mended_part_flipped(self) -> Damage:
        """The drawing lies damaged in one pack, and whole in another, until that one is hit too."""
        old, new = self._life.one(B2, "data/"), self._life.one(B4, "data/")
        return Damage(
            name="mended_part_flipped",
            changes=[self._in_part(self._life.place(noise(9_000, 4), new))],
            full=Expected(
                problems={n: f"unreadable 1 of {self._parts(n)}" for n in (old, new)},
                touched=touching(BLUEPRINTS, PLAN),
                mended=False,
            ),
        )

    def _index(self) -> Iterator[Damage]:
        merged = max((name for name in self._life.made[B4] if name.startswith("index/")), key=self._size)
        newest = self._life.one(B6, "index/")
        yield both("index_flipped", flip(merged, 1000), problems={merged: "unauthentic"})
        yield both("index_head_flipped", flip(merged, 20), problems={merged: "another head"})
        yield Damage(name="index_missing", changes=[delete(merged)])
        yield Damage(
            name="all_of_the_index_missing", changes=[delete(item.name) for item in self._store.list("index/")]
        )
        yield both("index_replaced_by_another", copy(newest, merged), problems={merged: "another head"})
        strange = "index/of-everything"
        yield both("strange_name_in_index", copy(newest, strange), problems={strange: "strange name"})

    def _records(self) -> Iterator[Damage]:
        life = self._life
        middle, newest = life.one(B4, "snapshots/"), life.one(B6, "snapshots/")
        for name, record in (("middle", middle), ("newest", newest)):
            yield both(f"{name}_record_flipped", flip(record, 300), problems={record: "unauthentic"})
        yield both("middle_record_missing", delete(middle), problems={middle: "gone"})
        yield Damage(name="newest_record_missing", changes=[delete(newest)], remembered={newest: "gone"})
        yield both("newest_record_replaced_by_an_older", copy(middle, newest), problems={newest: "another head"})
        strange = "snapshots/latest"
        yield both("strange_name_in_snapshots", copy(newest, strange), problems={strange: "strange name"})
        removal, removed = life.one("removal", "removed/"), life.one(T1, "snapshots/")
        yield Damage(name="removed_record_still_there", changes=[put(removed, life.removed_record)])
        yield both("removal_missing", delete(removal), problems={removed: "gone"})
        yield both("removal_flipped", flip(removal, 100), problems={removal: "unauthentic", removed: "gone"})

    def _keys(self) -> Iterator[Damage]:
        names = [name for name in self._life.made["init"] if name.startswith("keys/")]
        recovery = next(name for name in names if b'"recovery key"' in self._store.get(name))
        main = next(name for name in names if name != recovery)
        at = self._store.get(recovery).index(b'"wrapped"') + 20
        yield both("recovery_key_flipped", flip(recovery, at, 1), problems={recovery: "key damaged"})
        yield both("recovery_key_missing", delete(recovery), problems={recovery: "key missing"})
        at = self._store.get(main).index(b'"host"') + 10
        lost = Expected(problems={main: "key damaged"})
        yield Damage(name="passphrase_key_flipped", changes=[flip(main, at, 1)], quick=lost, full=lost,
                     opens_with=RECOVERY_KEY, refused={"passphrase": "WrongPassphrase"})  # fmt: skip
        planted = "keys/" + "0" * 32
        with chance("planted"):
            foreign = wrap(new_keys(), PASSPHRASE, SecretKind.PASSPHRASE)
        yield Damage(name="foreign_key_planted", changes=[put(planted, foreign)])
        yield both("no_key_planted", put(planted, b"{"), problems={planted: "key damaged"})
        added, taken = self._life.one("chosen", "keyring/"), self._life.one("removed", "keyring/")
        yield both("keyring_record_flipped", flip(added, 100), problems={added: "unauthentic"})
        gone = self._life.one("added", "keys/")
        yield both("keyring_removal_flipped", flip(taken, 100), problems={taken: "unauthentic", gone: "key missing"})
        yield both("keyring_removal_missing", delete(taken), problems={gone: "key missing"})

    def _header(self) -> Iterator[Damage]:
        name = "repository.json"
        yield both("header_missing", delete(name), problems={name: "absent"})
        closed = {"pinned": "Damaged", "unpinned": "Damaged"}
        yield Damage(name="header_damaged", changes=[cut(name, 40)], refused=closed)
        other = put(name, self._other_store.get(name))
        yield Damage(name="header_of_another", changes=[other],
                     refused={"pinned": "Refused", "unpinned": "WrongPassphrase"})  # fmt: skip
        newer = json.loads(self._store.get(name)) | {"holdfast": 2}
        yield Damage(name="header_of_a_newer_format", changes=[put(name, json.dumps(newer).encode())],
                     refused={"pinned": "Refused", "unpinned": "Refused"})  # fmt: skip

    def _signals(self) -> Iterator[Damage]:
        """What nobody with the key wrote means nothing; it is named, because somebody wrote it, or it is damaged."""
        mark, lease = self._life.one("mark", "marks/"), self._life.one("killed again", "leases/")
        writers = self._life.one("init", "writers/")
        packs = [self._life.ref(step, "data/") for step in (T1, B2)]
        forged = self._sealed_by_another(Kind.MARK, encode_mark(packs))
        yield both("mark_forged", forged, problems={forged["put"]: "not ours"})
        yield both("mark_flipped", flip(mark, 100), problems={mark: "not ours"})
        yield both("mark_copied", copy(mark, "marks/" + "7" * 64), problems={"marks/" + "7" * 64: "not ours"})
        yield both("strange_name_in_marks", copy(mark, "marks/all"), problems={"marks/all": "strange name"})
        renewal = Renewal(lease="1" * 32, work="backup", host="nobody", began=None)
        forged = self._sealed_by_another(Kind.LEASE, encode_renewal(renewal))
        yield both("lease_forged", forged, problems={forged["put"]: "not ours"})
        yield both("lease_flipped", flip(lease, 100), problems={lease: "not ours"})
        forged = self._sealed_by_another(Kind.WRITERS, encode_writer("999"))
        yield both("writers_forged", forged, problems={forged["put"]: "not ours"})
        yield both("writers_flipped", flip(writers, 60), problems={writers: "not ours"})
        newer = self._sealed(Kind.WRITERS, encode_writer("999.0.0"))
        yield Damage(name="a_newer_writer_demanded", changes=[newer], refused={"writing": "Refused"})

    def _notes(self) -> Iterator[Damage]:
        note = self._life.one("noted", "damage/")
        yield both("note_of_damage_flipped", flip(note, 60), problems={note: "unauthentic"})
        yield Damage(name="note_of_damage_missing", changes=[delete(note)])

    def _full(
        self,
        name: str,
        changes: Change | Sequence[Change],
        problems: Mapping[str, str],
        touched: Sequence[Touched] = (),
    ) -> Damage:
        """What only reading the packs tells."""
        listed = [changes] if isinstance(changes, Mapping) else changes
        return Damage(name=name, changes=listed, full=Expected(problems=problems, touched=touched))

    def _in_part(self, place: Location) -> Change:
        return flip(place.pack.name, place.part.offset + place.part.sealed_length // 2)

    def _parts(self, name: str) -> int:
        index = load_index(self._life.open()).index
        return next(len(directory) for directory in index.directories() if directory.pack.name == name)

    def _leaf_of(self, step: str) -> Location:
        """A leaf that this backup alone stored."""
        own = self._life.one(step, "meta/")
        places = [row.place for row in self._life.snapshots[step].tree.rows]
        return next(place for place in places if place is not None and place.pack.name == own)

    def _node_of(self, path: str) -> Location:
        reader = SnapshotReader(self._life.open())
        stored = next(one for one in reader.entries(self._life.snapshots[B2]) if one.entry.path == path)
        assert stored.content.levels == 1
        assert len(list(load_content(stored.content, reader.load))) > 64
        place = stored.content.rows[0].place
        assert place is not None
        return place

    def _size(self, name: str) -> int:
        return len(self._store.get(name))

    def _sealed_by_another(self, kind: Kind, plain: bytes) -> Change:
        ref = self._other.put_object(kind, plain)
        return put(ref.name, self._other_store.get(ref.name))

    def _sealed(self, kind: Kind, plain: bytes) -> Change:
        ref = self._life.open().put_object(kind, plain)
        change = put(ref.name, self._store.get(ref.name))
        self._store.delete(ref.name)
        return change
