"""Writes ``docs/format/vectors.json``: ``python -m tests.golden.vectors``. Bytes are in hexadecimal.

The keys, ids, salts and nonces are fixed here and nowhere else. Like the golden repositories: once the format is called
stable, vectors are only added.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.clock import SystemClock
from holdfast.entry import Entry, EntryKind
from holdfast.repository import keys as keys_module
from holdfast.repository.compression import decompress
from holdfast.repository.damage import encode_damage
from holdfast.repository.hints import Places, attach
from holdfast.repository.ids import ObjectId
from holdfast.repository.index import encode_index
from holdfast.repository.keyring import Change, encode_change
from holdfast.repository.keys import Keys, Origin, SecretKind, wrap
from holdfast.repository.leases import Renewal, encode_renewal
from holdfast.repository.marks import encode_mark
from holdfast.repository.objects import Kind, ObjectRef, StreamRef
from holdfast.repository.packing import Directory, Location, PackBuilder, Part, padded_size
from holdfast.repository.removal import Removal, encode_removals
from holdfast.repository.repository import Repository
from holdfast.repository.sealing import MasterKey, ObjectCipher, seal_object
from holdfast.repository.snapshots import Snapshot, Totals, encode_snapshot
from holdfast.repository.trees import Row, StoredEntry, encode_entry, store_content
from holdfast.repository.versions import encode_writer
from holdfast.repository.wal.envelope import open_info
from holdfast.repository.wal.files import name_file, seal_file
from holdfast.repository.wal.held import Begin
from holdfast.repository.wal.looking import held_piece
from holdfast.repository.wal.pieces import Piece, Running, Stream, name_stream, seal_piece
from holdfast.repository.wal.spans import Span, encode_spans
from holdfast.repository.wal.streams import encode_begin
from holdfast.store.memory import MemoryStore
from tests.golden.make import WARNING, write
from tests.golden.whole import chance

PATH = Path(__file__).parents[2] / "docs/format/vectors.json"
MADE = "hfpass-fgtkl-y6dtb-rhm3j-aavly-st2c7-yfp5u-csxou-6axhk"
CHOSEN = "正确 horse battery"
MOMENT = datetime(2026, 11, 22, 14, 3, 22, 123_456, tzinfo=UTC)
KEYS = Keys(MasterKey(bytes(range(32)), bytes(range(16))), bytes(range(32, 64)))

Vector = dict[str, Any]


def object_id(number: int) -> ObjectId:
    return ObjectId(bytes([number]) * 32)


def vectors() -> Vector:
    small, large = b"daily_blueprints\n", b"line of text\n" * 100
    with chance("vectors"):
        builder = PackBuilder(KEYS.master, Kind.DATA)
    places = [builder.add(KEYS.ids.chunk_id(content), content) for content in (small, large)]
    data, directory = builder.finish()
    node, row = _node(places)
    leaf, entries = _leaf(places)
    return {
        "about": "test vectors of docs/format/repository.md; bytes in hexadecimal",
        "secrets_are": WARNING,
        "keys": _keys(),
        "sealed_object": _one_part(),
        "chunk_ids": [_chunk_id(content) for content in (b"", small, large)],
        "padded_sizes": [[size, padded_size(size)] for size in (48, 240, 1_000, 65_537, 999_999, 16_777_217)],
        "leaf_cuts": [_leaf_cut(path) for path in ("base", "base/一", "base/odd")],
        "pack": _pack(bytes(data), directory, (small, large)),
        "index": _index([directory]),
        "node": node,
        "leaf": leaf | {"entries": entries},
        "snapshot": _snapshot(row),
        "key_objects": _key_objects(),
        "mark": _sealed(Kind.MARK, 6, encode_mark([builder.ref])),
        "lease": _sealed(Kind.LEASE, 7, encode_renewal(RENEWAL)),
        "removal": _sealed(Kind.REMOVAL, 8, encode_removals([REMOVAL])),
        "writers": _sealed(Kind.WRITERS, 9, encode_writer("0.1.0")),
        "keyring": _sealed(Kind.KEYRING, 10, encode_change(CHANGE)),
        "damage": _sealed(Kind.DAMAGE, 5, encode_damage([(builder.ref, 1)])),
        "wal": _wal(),
    }


def _wal() -> Vector:
    """A stretch of a segment, a sign of the clock behind it, a whole segment, a file, a beginning, a summary."""
    with chance("wal"):
        repository = Repository(MemoryStore(clock=SystemClock()), KEYS, clock=SystemClock())
        content, whole = b"bytes of a segment\n", b"0123456789abcdef" * 2**16
        tail = _piece(content, start=6, stop=19)
        clock = _piece(content, start=19, stop=19)
        made = [seal_piece(repository, piece, content[piece.start :], tail=True) for piece in (tail, clock)]
        segment = _piece(whole, start=0, stop=len(whole))
        made.append(seal_piece(repository, segment, whole, tail=False))
        file = name_file(repository, STREAM, "00000002.history", HISTORY)
        made.append((file.name, seal_file(repository, STREAM, file, HISTORY)))
    name = name_stream(KEYS.ids, STREAM)
    held = held_piece(made[2][0], segment)
    span = Span(timeline=1, span=2, segment_size=2**20, pieces=((513, held),))
    return {
        "source": STREAM.source,
        "system_identifier": str(STREAM.system_identifier),
        "stream": name,
        "begins_with": content.hex(),
        "pieces": [_object(repository, *one) for one in made[:3]],
        "file": _object(repository, *made[3]) | {"content": HISTORY.hex()},
        "begin": _of_stream(Kind.STREAM, 14, encode_begin(BEGIN)),
        "span": _of_stream(Kind.SPAN, 15, encode_spans(name, [span])),
    }


def _piece(content: bytes, *, start: int, stop: int) -> Piece:
    running = Running(KEYS.ids)
    running.feed(content[:start])
    before = running.digest()
    running.feed(content[start:stop])
    return Piece(
        stream=STREAM,
        timeline=1,
        number=513,
        segment_size=2**20,
        start=start,
        stop=stop,
        before=before,
        after=running.digest(),
        clock=MOMENT,
        facts={"any": ["thing", 1, None]},
    )


def _object(repository: Repository, name: str, sealed: bytes) -> Vector:
    kind = Kind.WAL_FILE if name.startswith(Kind.WAL_FILE.prefix) else Kind.TAIL
    kind = Kind.WAL if name.startswith(Kind.WAL.prefix) else kind
    info = open_info(repository.master, kind, name, sealed).info
    return {"name": name, "info": json.dumps(info, sort_keys=True), "sealed": sealed.hex()}


def _of_stream(kind: Kind, number: int, plain: bytes) -> Vector:
    ref = StreamRef(kind, object_id(number), name_stream(KEYS.ids, STREAM))
    return {"name": ref.name, "plain": plain.hex(), "sealed": seal_object(KEYS.master, ref, plain).hex()}


STREAM = Stream(source="tracker", system_identifier=7_398_214_999_999_999_999)
HISTORY = b"1\t0/3000060\tno recovery target specified\n"
BEGIN = Begin(
    stream=STREAM,
    segment_size=2**20,
    timeline=1,
    lsn=513 * 2**20,
    when=MOMENT,
    host="db1",
    why="gap",
    after=500 * 2**20 + 19,
    after_timeline=1,
)
RENEWAL = Renewal(lease="0123456789abcdef" * 2, work="backup", host="db1", began=MOMENT)
REMOVAL = Removal(
    id=object_id(4).hex(), predecessors=(object_id(44).hex(),), when=MOMENT, host="db1", why="expired: 保留 7 天"
)
CHANGE = Change(added={"keys/" + "1" * 32: "2" * 64}, removed=("keys/" + "3" * 32,), when=MOMENT, host="db1")


def _keys() -> Vector:
    return {
        "repository": KEYS.master.repository_id.hex(),
        "master_key": KEYS.master.secret.hex(),
        "key": KEYS.master.id.hex(),
        "id_key": KEYS.id_secret.hex(),
    }


def _one_part() -> Vector:
    ref = ObjectRef(Kind.WRITERS, object_id(1))
    named = KEYS.master.repository_id + KEYS.master.id + bytes([ref.kind]) + ref.id
    return _sealed(Kind.WRITERS, 1, b"any bytes") | {
        "object_key": HKDF(SHA256(), 32, salt=ref.id, info=b"holdfast object").derive(KEYS.master.secret).hex(),
        "nonce": bytes(12).hex(),
        "authenticated": (b"\x01" + named + bytes(8) + b"\x01").hex(),
    }


def _leaf_cut(path: str) -> Vector:
    """``first``: the first 8 bytes of the path's keyed hash. Entries of that length, and longer, end a leaf."""
    fraction = KEYS.ids.fraction(path.encode())
    return {"path": path, "first": KEYS.ids.chunk_id(path.encode())[:8].hex(), "length": int(fraction * 16384) + 1}


def _chunk_id(content: bytes) -> Vector:
    return {
        "content": content.hex(),
        "of_a_file": KEYS.ids.chunk_id(content).hex(),
        "of_a_list": KEYS.ids.list_id(content).hex(),
    }


def _sealed(kind: Kind, number: int, plain: bytes) -> Vector:
    ref = ObjectRef(kind, object_id(number))
    return {"name": ref.name, "plain": plain.hex(), "sealed": seal_object(KEYS.master, ref, plain).hex()}


def _pack(data: bytes, directory: Directory, contents: Iterable[bytes]) -> Vector:
    cipher, parts = ObjectCipher(KEYS.master, directory.pack), []
    for ordinal, (part, content) in enumerate(zip(directory.parts, contents, strict=True)):
        sealed = data[part.offset :][: part.sealed_length]
        stored = cipher.unseal(ordinal, sealed, last=False)
        parts.append({"id": part.id.hex(), "content": content.hex(), "stored": stored.hex(), "sealed": sealed.hex()})
    length = int.from_bytes(data[-4:], "big")
    plain = cipher.unseal(2**32 - 1, data[-4 - length : -4], last=True)
    return {"name": directory.pack.name, "parts": parts, "directory": plain.hex(), "bytes": data.hex()}


def _index(directories: Iterable[Directory]) -> Vector:
    named = list(directories)
    packs = [{"name": one.pack.name, "size": one.size, "rows": one.rows.hex()} for one in named]
    return _sealed(Kind.INDEX, 3, encode_index(named)) | {"packs": packs}


def _node(places: list[Location]) -> tuple[Vector, Row]:
    """Three rows; the place of the last is not known."""
    first, second = (Row(place.part.id, place.part.content_length, place) for place in places)
    rows = [first, second, Row(second.id, second.size)]
    named = b"".join(row.id + row.size.to_bytes(8, "big") for row in rows)
    content = attach(named, [row.place for row in rows])
    place = Location(ObjectRef(Kind.META, object_id(2)), 0, Part(KEYS.ids.list_id(named), 48, 200, len(content)))
    vector = {
        "rows": [[row.id.hex(), row.size] for row in rows],
        "places": [_place(row.place) for row in rows],
        "named_by": named.hex(),
        "id": place.part.id.hex(),
        "content": content.hex(),
    }
    return vector, Row(place.part.id, sum(row.size for row in rows), place)


def _place(place: Location | None) -> list[Any] | None:
    """Name, part, offset, sealed length, content length."""
    if place is None:
        return None
    return [place.pack.name, place.ordinal, *(place.part.offset, place.part.sealed_length, place.part.content_length)]


def _leaf(places: list[Location]) -> tuple[Vector, list[Vector]]:
    rows = [Row(place.part.id, place.part.content_length, place) for place in places]
    fields: list[Mapping[str, Any]] = [
        {"path": "base", "kind": EntryKind.DIRECTORY, "mode": 0o2775, "uid": 1000, "gid": 1000, "mtime_ns": -1},
        {"path": "base/一", "kind": EntryKind.FILE, "mode": 0o600, "mtime_ns": 1_795_312_800_123_456_789},
        {"path": "link", "kind": EntryKind.SYMLINK, "mode": 0o777, "link_target": "base/\udcff"},
    ]
    named, shown = b"", []
    for one in fields:
        content = store_content(rows if one["kind"] is EntryKind.FILE else [], _no_node)
        entry = Entry(size=content.size, **one)
        encoded = encode_entry(StoredEntry(entry, content)).encoded
        named += encoded
        shown.append(dict(one) | {"size": entry.size, "encoded": encoded.hex()})
    vector = {"named_by": named.hex(), "id": KEYS.ids.list_id(named).hex(), "content": attach(named, places).hex()}
    return vector, shown


def _no_node(_named: bytes, _places: Places, _covers: int) -> Row:
    raise AssertionError("a short list has no nodes")


def _snapshot(row: Row) -> Vector:
    snapshot = Snapshot(
        id="",
        label="tracker_20261122_020000",
        source="tracker",
        source_type="files",
        started=MOMENT,
        ended=MOMENT,
        host="db1",
        holdfast_version="0.1.0",
        tree=store_content([row], _no_node),
        totals=Totals(files=1, content=1317, chunks=2, added_content=1317, added_stored=500),
        predecessors=(object_id(44).hex(),),
        warnings=("警告",),
        facts={"any": ["thing", 1, None]},
        keys={"keys/" + "1" * 32: "2" * 64},
    )
    vector = _sealed(Kind.SNAPSHOT, 4, encode_snapshot(snapshot))
    stored = encode_snapshot(snapshot)
    text = decompress(stored[4:], size=int.from_bytes(stored[:4], "big")).decode()
    return vector | {"json": text, "tree": [row.id.hex(), row.size], "place": _place(row.place)}


def _key_objects() -> list[Vector]:
    """With the least work that readers accept."""
    origin = Origin(created=MOMENT, host="db1", user="postgres", note='纸条 "1"')
    made = []
    with (
        chance("key objects"),
        patch.object(keys_module, "ARGON2_MEMORY_KIB", 64 * 1024),
        patch.object(keys_module, "ARGON2_PASSES", 1),
    ):
        for secret in (MADE, CHOSEN):
            text = wrap(KEYS, secret, SecretKind.PASSPHRASE, origin=origin).decode()
            made.append({"secret": secret, "key_object": text, "witness": json.loads(text)["witness"]})
    return made


if __name__ == "__main__":
    write(PATH, vectors())
