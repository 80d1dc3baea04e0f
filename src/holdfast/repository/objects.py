"""What the store holds and under which names: nothing else in the repository writes a name out.

==============  =====================  =====================================
kind            name                   holds
==============  =====================  =====================================
(plain)         ``repository.json``    which repository and key this is
(plain)         ``keys/<id>``          a wrapped master key
``DATA``        ``data/ab/ab…``        a pack of file content
``META``        ``meta/ab…``           a pack of trees and chunk lists
``INDEX``       ``index/ab…``          directories of many packs
``SNAPSHOT``    ``snapshots/ab…``      a snapshot record
``DAMAGE``      ``damage/ab…``         what a verification found damaged
``MARK``        ``marks/ab…``          packs that prune means to delete
``LEASE``       ``leases/ab…``         who is at work, and since when
``REMOVAL``     ``removed/ab…``        which snapshots were removed on purpose
``WRITERS``     ``writers/ab…``        the oldest version that may write
``KEYRING``     ``keyring/ab…``        which key objects were added or removed on purpose
==============  =====================  =====================================
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from holdfast.repository.ids import ID_BYTES, ObjectId

REPOSITORY_OBJECT = "repository.json"
KEYS = "keys/"


class Kind(IntEnum):
    DATA = 1
    META = 2
    INDEX = 3
    SNAPSHOT = 4
    DAMAGE = 5
    MARK = 6
    LEASE = 7
    REMOVAL = 8
    WRITERS = 9
    KEYRING = 10

    @property
    def prefix(self) -> str:
        return _PREFIXES[self]


_PREFIXES = {
    Kind.DATA: "data/",
    Kind.META: "meta/",
    Kind.INDEX: "index/",
    Kind.SNAPSHOT: "snapshots/",
    Kind.DAMAGE: "damage/",
    Kind.MARK: "marks/",
    Kind.LEASE: "leases/",
    Kind.REMOVAL: "removed/",
    Kind.WRITERS: "writers/",
    Kind.KEYRING: "keyring/",
}


PACK_KINDS = (Kind.DATA, Kind.META)


class ObjectRef(NamedTuple):
    """One sealed object: its kind and id, and so its name in the store. A tuple: made for every look-up."""

    kind: Kind
    id: ObjectId

    @property
    def name(self) -> str:
        digits = self.id.hex()
        return f"{self.kind.prefix}{digits[:2]}/{digits}" if self.kind is Kind.DATA else f"{self.kind.prefix}{digits}"


def parse_name(name: str) -> ObjectRef | None:
    """The object that ``name`` names; ``None`` for a name that Holdfast would not have written."""
    for kind in Kind:
        if name.startswith(kind.prefix):
            try:
                raw = bytes.fromhex(name.rpartition("/")[2])
            except ValueError:
                return None
            ref = ObjectRef(kind, ObjectId(raw))
            return ref if len(raw) == ID_BYTES and ref.name == name else None
    return None
