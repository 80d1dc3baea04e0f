"""Reads a repository as ``docs/format/repository.md`` describes it, and knows nothing else of Holdfast.

If this cannot read what Holdfast writes, the page is wrong or says too little. It imports no module of Holdfast's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KINDS = {
    "data": 1, "meta": 2, "index": 3, "snapshots": 4, "damage": 5, "marks": 6, "leases": 7, "removed": 8, "writers": 9,
    "keyring": 10, "wal": 11, "tails": 12, "walfiles": 13, "streams": 14, "spans": 15,
}  # fmt: skip
DIRECTORY = 2**32 - 1
UNKNOWN = 65_535


@dataclass(frozen=True)
class Place:
    pack: str
    part: int
    offset: int
    sealed: int
    content: int


@dataclass(frozen=True)
class Row:
    id: bytes
    size: int
    place: Place | None


@dataclass(frozen=True)
class File:
    path: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    link_target: bytes
    content: bytes


def derive(key: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    return HKDF(SHA256(), length, salt=salt, info=info).derive(key)


def canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def random_bytes(secret: str) -> bytes | None:
    """Of a secret that Holdfast made; None for one that a person chose."""
    for prefix in ("hfpass", "hfrec"):
        if secret.startswith(f"{prefix}-"):
            raw = base64.b32decode(secret.removeprefix(prefix).replace("-", "").upper())
            assert raw[20:] == hashlib.sha256(prefix.encode() + raw[:20]).digest()[:5]
            return raw[:20]
    return None


def unwrap(key_object: bytes, secret: str) -> tuple[bytes, bytes] | None:
    """The master key and the id key."""
    fields = json.loads(key_object)
    witness = bytes.fromhex(fields.pop("witness"))
    witnessed = canonical(fields)
    sealed = base64.b64decode(fields.pop("wrapped"))
    derivation, chance = fields["derivation"], random_bytes(secret)
    salt = bytes.fromhex(derivation["salt"])
    if (derivation["kind"] == "hkdf-sha256") != (chance is not None):
        return None
    if chance is not None:
        wrapping = derive(chance, salt, b"holdfast wrap")
    else:
        cost, passes, lanes = derivation["memory_kib"], derivation["passes"], derivation["lanes"]
        wrapping = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=cost).derive(
            secret.encode()
        )
    try:
        both = AESGCM(wrapping).decrypt(bytes.fromhex(fields["nonce"]), sealed, canonical(fields))
    except InvalidTag:
        return None
    repository, master = bytes.fromhex(fields["repository"]), both[:32]
    assert derive(master, repository, b"holdfast key id", 16).hex() == fields["key"]
    assert hmac.digest(derive(master, repository, b"holdfast key object"), witnessed, "sha256") == witness
    return master, both[32:]


def unpacked(stored: bytes, size: int) -> bytes:
    """A stored form's content."""
    form, body = stored[0], stored[1:]
    content = body if form == 0 else zstandard.ZstdDecompressor().decompress(body)
    assert form in (0, 1)
    assert len(content) == size
    return content


def framed(data: bytes) -> bytes:
    """``u32 length ‖ stored form``."""
    return unpacked(data[4:], int.from_bytes(data[:4], "big"))


def stream_name(id_key: bytes, source: str, system_identifier: int) -> str:
    key = blake3(b"holdfast wal names", key=id_key).digest()
    return blake3(system_identifier.to_bytes(8, "big") + source.encode(), key=key).digest(16).hex()


def wal_digest(id_key: bytes, content: bytes) -> bytes:
    return blake3(content, key=blake3(b"holdfast wal", key=id_key).digest()).digest()


def wal_mark(id_key: bytes, info: Mapping[str, Any]) -> str:
    """The last part of a piece's name."""
    if info["start"] < info["stop"]:
        return str(info["after"][:32])
    clock = (datetime.fromisoformat(info["clock"]) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    key = blake3(b"holdfast wal names", key=id_key).digest()
    return blake3(bytes.fromhex(info["after"]) + clock.to_bytes(8, "big", signed=True), key=key).digest(16).hex()


def split_node(content: bytes) -> tuple[bytes, bytes]:
    """What a node or leaf is named by, and its hints."""
    end = 4 + int.from_bytes(content[:4], "big")
    return content[4:end], content[end:]


def name_of(kind: int, raw: bytes) -> str:
    prefix = next(prefix for prefix, number in KINDS.items() if number == kind)
    return f"{prefix}/{raw.hex()[:2]}/{raw.hex()}" if prefix == "data" else f"{prefix}/{raw.hex()}"


def hinted(rows: list[tuple[bytes, int]], hints: bytes) -> list[Row]:
    if not hints:
        return [Row(row_id, size, None) for row_id, size in rows]
    (packs,) = struct.unpack_from(">H", hints)
    names = [name_of(kind, raw) for kind, raw in struct.iter_unpack(">B32s", hints[2 : 2 + 33 * packs])]
    at, count = 2 + 33 * packs, len(rows)
    assert len(hints) == at + 18 * count
    numbers = struct.unpack_from(f">{count}H", hints, at)
    columns = [struct.unpack_from(f">{count}I", hints, at + 2 * count + 4 * count * n) for n in range(4)]
    return [
        Row(row_id, size, None if number == UNKNOWN else Place(names[number], *place))
        for (row_id, size), number, *place in zip(rows, numbers, *columns, strict=True)
    ]


def bare_rows(data: bytes) -> list[tuple[bytes, int]]:
    return list(struct.iter_unpack(">32sQ", data))


def node_rows(content: bytes) -> list[Row]:
    named, hints = split_node(content)
    return hinted(bare_rows(named), hints)


def leaf_entries(content: bytes) -> Iterator[tuple[list[Any], list[Row]]]:
    named, hints = split_node(content)
    unpacker = msgpack.Unpacker(raw=False)
    unpacker.feed(named)
    entries = [list(entry) for entry in unpacker]
    lists = [bare_rows(entry[9]) for entry in entries]
    rows = iter(hinted([row for some in lists for row in some], hints))
    for entry, some in zip(entries, lists, strict=True):
        yield entry, [next(rows) for _row in some]


def pack_rows(data: bytes) -> list[tuple[bytes, int, int]]:
    """Chunk id, sealed length, content length of each part; what follows the rows is padding."""
    (count,) = struct.unpack_from(">I", data)
    return list(struct.iter_unpack(">32sII", data[4 : 4 + 40 * count]))


def index_packs(plain: bytes) -> Iterator[tuple[str, int, list[tuple[bytes, int, int]]]]:
    data, at = framed(plain), 0
    while at < len(data):
        kind, raw, size = struct.unpack_from(">B32sQ", data, at)
        rows = pack_rows(data[at + 41 :])
        yield name_of(kind, raw), size, rows
        at += 41 + 4 + 40 * len(rows)


class Reader:
    """A repository whose objects are ``objects``, by name, and whose pinned ids are ``repository`` and ``key``."""

    def __init__(self, objects: Mapping[str, bytes], secret: str, *, repository: str, key: str) -> None:
        self._objects = objects
        self.repository, self.key = bytes.fromhex(repository), bytes.fromhex(key)
        found = {opened for name in objects if name.startswith("keys/") and (opened := unwrap(objects[name], secret))}
        ((self.master, self.id_key),) = found

    def unseal(
        self, name: str, sealed: bytes, n: int = 0, *, last: bool = True, object_id: bytes | None = None
    ) -> bytes:
        """``object_id``: of an object that is not named by it."""
        kind, raw = KINDS[name.partition("/")[0]], object_id or bytes.fromhex(name.rpartition("/")[2])
        authenticated = b"\x01" + self.repository + self.key + bytes([kind]) + raw + struct.pack(">Q?", n, last)
        key = derive(self.master, raw, b"holdfast object")
        return AESGCM(key).decrypt(n.to_bytes(12, "big"), sealed, authenticated)

    def plain(self, name: str) -> bytes:
        """Of an object of one part."""
        data = self._objects[name]
        kind, raw = KINDS[name.partition("/")[0]], bytes.fromhex(name.rpartition("/")[2])
        assert data[:48] == b"HOLDFAST" + bytes([1, kind]) + bytes(6) + raw
        return self.unseal(name, data[48:])

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._objects if name.startswith(prefix))

    def two_parts(self, name: str) -> tuple[dict[str, Any], bytes]:
        """Of an object of WAL: what it says of itself, and its bytes."""
        data = self._objects[name]
        raw = data[16:48]
        assert data[:16] == b"HOLDFAST" + bytes([1, KINDS[name.partition("/")[0]]]) + bytes(6)
        end = 52 + int.from_bytes(data[48:52], "big")
        info = json.loads(framed(self.unseal(name, data[52:end], 0, last=False, object_id=raw)))
        assert info["name"] == name
        stored = self.unseal(name, data[end:], 1, object_id=raw)
        size = info["size"] if "size" in info else info["stop"] - info["start"]
        return info, unpacked(stored, size)

    def segment(self, stream: str, timeline: int, number: int) -> bytes:
        """The longest chain of pieces."""
        place = f"{stream}/{timeline:08x}/{number >> 8:014x}/{number:016x}-"
        pieces = [self.two_parts(name) for name in [*self.names("wal/" + place), *self.names("tails/" + place)]]
        for info, _content in pieces:
            folder = "wal/" if info["name"].startswith("wal/") else "tails/"
            assert (
                info["name"] == f"{folder}{place}{info['start']:08x}-{info['stop']:08x}-{wal_mark(self.id_key, info)}"
            )
        joined = [b""]
        for info, content in sorted(pieces, key=lambda piece: (piece[0]["start"], piece[0]["stop"])):
            before = next((one for one in joined if wal_digest(self.id_key, one).hex() == info["before"]), None)
            if before is not None and len(before) == info["start"]:
                joined.append(before + content)
                assert wal_digest(self.id_key, joined[-1]).hex() == info["after"]
        return max(joined, key=len)

    def records(self) -> dict[str, dict[str, Any]]:
        """Those that were not removed, by id."""
        removed = {one["id"] for name in self.names("removed/") for one in json.loads(self.plain(name))["removed"]}
        found = {name.rpartition("/")[2]: json.loads(framed(self.plain(name))) for name in self.names("snapshots/")}
        return {record: fields for record, fields in found.items() if record not in removed}

    def newest(self) -> str:
        """The one that no other names as its predecessor."""
        records = self.records()
        ((newest),) = records.keys() - {before for fields in records.values() for before in fields["predecessors"]}
        return newest

    def directory(self, pack: str) -> list[tuple[bytes, Place]]:
        """By the pack's own directory."""
        data = self._objects[pack]
        length = int.from_bytes(data[-4:], "big")
        plain = self.unseal(pack, data[-4 - length : -4], DIRECTORY)
        return places(pack, pack_rows(plain))

    def chunk(self, row: Row, place: Place, *, of_a_list: bool) -> bytes:
        sealed = self._objects[place.pack][place.offset : place.offset + place.sealed]
        content = unpacked(self.unseal(place.pack, sealed, place.part, last=False), place.content)
        key = blake3(b"holdfast lists", key=self.id_key).digest() if of_a_list else self.id_key
        named = split_node(content)[0] if of_a_list else content
        assert blake3(named, key=key).digest() == row.id
        return content

    def files(self, snapshot: str, where: Mapping[bytes, Place] | None = None) -> Iterator[File]:
        """``where`` the chunks lie; None: where the hints say."""

        def chunk(row: Row, *, of_a_list: bool) -> bytes:
            place = row.place if where is None else where[row.id]
            assert place is not None
            return self.chunk(row, place, of_a_list=of_a_list)

        def chunks(rows: list[Row], levels: int) -> Iterator[Row]:
            for row in rows:
                yield from [row] if levels == 0 else chunks(node_rows(chunk(row, of_a_list=True)), levels - 1)

        tree = self.records()[snapshot]["tree"]
        top = hinted([(bytes.fromhex(row), size) for row, size in tree["rows"]], bytes.fromhex(tree["hints"]))
        for leaf in chunks(top, tree["levels"]):
            for entry, rows in leaf_entries(chunk(leaf, of_a_list=True)):
                content = b"".join(chunk(row, of_a_list=False) for row in chunks(rows, entry[8]))
                assert len(content) == entry[6]
                path, kind, mode, uid, gid, mtime_ns, size, target = entry[:8]
                yield File(path, kind, mode, uid, gid, mtime_ns, size, target, content)


def places(pack: str, rows: list[tuple[bytes, int, int]]) -> list[tuple[bytes, Place]]:
    found, offset = [], 48
    for part, (chunk_id, sealed, content) in enumerate(rows):
        found.append((chunk_id, Place(pack, part, offset, sealed, content)))
        offset += sealed
    return found
