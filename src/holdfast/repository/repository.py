"""An open repository: sealed objects in and out of a store, and the snapshots that are there."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.clock import Clock
from holdfast.errors import Damaged, ObjectMissing
from holdfast.messages import _
from holdfast.repository.crew import each
from holdfast.repository.ids import new_object_id
from holdfast.repository.keys import Keys
from holdfast.repository.objects import Kind, ObjectRef, parse_name
from holdfast.repository.sealing import ObjectCipher, seal_object, unseal_object
from holdfast.repository.snapshots import MAX_RECORD_BYTES, Snapshot, decode_snapshot
from holdfast.store.port import Store

DEFAULT_WORKERS = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was written: an object's name, and what is wrong with it."""

    name: str
    what: str


@dataclass(frozen=True, slots=True)
class Records:
    """All snapshot records: those that can be read, oldest first, and those that cannot."""

    snapshots: tuple[Snapshot, ...]
    problems: tuple[Problem, ...]


class Repository:
    def __init__(self, store: Store, keys: Keys, *, clock: Clock, damaged_keys: tuple[str, ...] = ()) -> None:
        self.store = store
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

    def get_object(self, ref: ObjectRef) -> bytes:
        return unseal_object(self.master, ref, self.store.get(ref.name))

    def cipher(self, ref: ObjectRef) -> ObjectCipher:
        return ObjectCipher(self.master, ref)

    def records(self) -> Records:
        snapshots: list[Snapshot] = []
        problems: list[Problem] = []

        def read(name: str) -> None:
            ref = parse_name(name)
            try:
                if ref is None:
                    raise Damaged(_("{name} has a name that Holdfast does not write").format(name=name))
                snapshots.append(decode_snapshot(ref.id.hex(), self.get_object(ref)))
            except ObjectMissing:
                pass  # removed since it was listed
            except Damaged as error:
                problems.append(Problem(name, str(error)))

        names = []
        for listed in self.store.list(Kind.SNAPSHOT.prefix):
            if listed.size <= MAX_RECORD_BYTES:
                names.append(listed.name)
            else:
                problems.append(Problem(listed.name, _("{name} is too large for a record").format(name=listed.name)))
        each(read, names, workers=DEFAULT_WORKERS)
        return Records(
            tuple(sorted(snapshots, key=lambda snapshot: (snapshot.started, snapshot.ended, snapshot.id))),
            tuple(sorted(problems, key=lambda problem: problem.name)),
        )
