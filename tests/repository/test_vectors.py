"""The format as its page and its vectors have it: what is written down decodes, here and by the page alone."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from holdfast.clock import SystemClock
from holdfast.entry import Entry, EntryKind
from holdfast.repository.damage import decode_damage, encode_damage
from holdfast.repository.hints import Places, attach, decode_hints, detach, encode_hints
from holdfast.repository.ids import ChunkId, IdKey
from holdfast.repository.index import decode_index
from holdfast.repository.keyring import decode_change, encode_change
from holdfast.repository.keys import Keys, read_header, unwrap
from holdfast.repository.leases import decode_renewal, encode_renewal
from holdfast.repository.marks import decode_mark, encode_mark
from holdfast.repository.objects import ObjectRef, parse_name
from holdfast.repository.packing import (
    Directory,
    Location,
    Part,
    directory_span,
    encode_rows,
    padded_size,
    read_directory,
    read_part,
)
from holdfast.repository.removal import decode_removals, encode_removals
from holdfast.repository.repository import Repository
from holdfast.repository.sealing import MasterKey, ObjectCipher, seal_object, unseal_object
from holdfast.repository.snapshots import decode_snapshot
from holdfast.repository.trees import decode_leaf, encode_entry, ends_leaf
from holdfast.repository.versions import decode_writer, encode_writer
from holdfast.repository.wal.pieces import Stream, name_stream, open_piece
from holdfast.repository.wal.reading import WalReader
from holdfast.repository.wal.spans import decode_spans
from holdfast.repository.wal.streams import decode_begin, encode_begin
from holdfast.store.memory import MemoryStore
from tests.golden import by_the_page, vectors
from tests.golden.fixtures import FOLDERS, golden
from tests.repository.wal.making import STREAM, Streamer

PAGE = Path(__file__).parents[2] / "docs/format"
VECTORS: Mapping[str, Any] = json.loads((PAGE / "vectors.json").read_text(encoding="ascii"))
ONE_PART = ("sealed_object", "index", "snapshot", "mark", "lease", "removal", "writers", "keyring", "damage")


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


KEYS = VECTORS["keys"]
MASTER = MasterKey(raw(KEYS["master_key"]), raw(KEYS["repository"]))
IDS = IdKey(raw(KEYS["id_key"]))


def named(name: str) -> ObjectRef:
    ref = parse_name(name)
    assert ref is not None
    return ref


def place_of(row: list[Any] | None, chunk_id: str) -> Location | None:
    if row is None:
        return None
    name, ordinal, *numbers = row
    return Location(named(name), ordinal, Part(ChunkId(raw(chunk_id)), *numbers))


def test_keys_and_ids() -> None:
    assert MASTER.id.hex() == KEYS["key"]
    for one in VECTORS["chunk_ids"]:
        assert IDS.chunk_id(raw(one["content"])).hex() == one["of_a_file"]
        assert IDS.list_id(raw(one["content"])).hex() == one["of_a_list"]
    for size, padded in VECTORS["padded_sizes"]:
        assert padded_size(size) == padded
    for cut in VECTORS["leaf_cuts"]:
        assert ends_leaf(bytes(cut["length"]), cut["path"], IDS)
        assert not ends_leaf(bytes(cut["length"] - 1), cut["path"], IDS)
        assert blake3(cut["path"].encode(), key=raw(KEYS["id_key"])).digest(8).hex() == cut["first"]
        assert int(int(cut["first"], 16) / 2**64 * 16384) + 1 == cut["length"]


@pytest.mark.parametrize("what", ONE_PART)
def test_an_object_of_one_part(what: str) -> None:
    one = VECTORS[what]
    assert seal_object(MASTER, named(one["name"]), raw(one["plain"])).hex() == one["sealed"]
    assert unseal_object(MASTER, named(one["name"]), raw(one["sealed"])).hex() == one["plain"]


def test_how_an_object_of_one_part_is_sealed() -> None:
    """Step by step, with the primitives."""
    one = VECTORS["sealed_object"]
    key = by_the_page.derive(MASTER.secret, named(one["name"]).id, b"holdfast object")
    assert key.hex() == one["object_key"]
    sealed = AESGCM(key).encrypt(raw(one["nonce"]), raw(one["plain"]), raw(one["authenticated"]))
    assert ObjectCipher(MASTER, named(one["name"])).head + sealed == raw(one["sealed"])


def test_a_pack() -> None:
    """The compressed form is that of one version of zstd; all else is made again, byte by byte."""
    one = VECTORS["pack"]
    ref, data = named(one["name"]), raw(one["bytes"])
    cipher = ObjectCipher(MASTER, ref)
    start, length = directory_span(len(data), data[-4:])
    directory = read_directory(MASTER, ref, len(data), data[start : start + length])
    made, rows = cipher.head, b""
    for ordinal, (part, told) in enumerate(zip(directory.parts, one["parts"], strict=True)):
        sealed = data[part.offset :][: part.sealed_length]
        assert sealed.hex() == told["sealed"]
        assert read_part(cipher, Location(ref, ordinal, part), sealed, IDS) == raw(told["content"])
        made += cipher.seal(ordinal, raw(told["stored"]), last=False)
        rows += part.id + part.sealed_length.to_bytes(4, "big") + part.content_length.to_bytes(4, "big")
        assert part.id.hex() == told["id"]
    plain = encode_rows(rows)
    bare = len(made) + len(plain) + 16 + 4
    plain += bytes(padded_size(bare) - bare)
    assert plain.hex() == one["directory"]
    made += cipher.seal(2**32 - 1, plain, last=True)
    assert made + length.to_bytes(4, "big") == data


def test_an_index_object() -> None:
    one = VECTORS["index"]
    told = [Directory(named(pack["name"]), pack["size"], raw(pack["rows"])) for pack in one["packs"]]
    assert list(decode_index(raw(one["plain"]))) == told


def test_a_node_and_its_hints() -> None:
    one = VECTORS["node"]
    content, ids = raw(one["content"]), [ChunkId(raw(row)) for row, _size in one["rows"]]
    places: Places = [place_of(place, row[0]) for place, row in zip(one["places"], one["rows"], strict=True)]
    by, hints = detach(content)
    assert by.hex() == one["named_by"]
    assert IDS.list_id(by).hex() == one["id"]
    assert decode_hints(hints, ids) == places
    assert encode_hints(places) == hints
    assert attach(by, places) == content
    assert by == b"".join(raw(row) + size.to_bytes(8, "big") for row, size in one["rows"])


def test_a_leaf() -> None:
    one = VECTORS["leaf"]
    stored = decode_leaf(raw(one["content"]))
    assert IDS.list_id(raw(one["named_by"])).hex() == one["id"]
    assert b"".join(encode_entry(entry).encoded for entry in stored) == raw(one["named_by"])
    for told, entry in zip(one["entries"], stored, strict=True):
        fields = {name: value for name, value in told.items() if name != "encoded"}
        assert entry.entry == Entry(**fields | {"kind": EntryKind(fields["kind"])})
        assert encode_entry(entry).encoded.hex() == told["encoded"]


def test_a_snapshot() -> None:
    one = VECTORS["snapshot"]
    snapshot, told = decode_snapshot("", raw(one["plain"])), json.loads(one["json"])
    assert [[row.id.hex(), row.size] for row in snapshot.tree.rows] == [one["tree"]]
    assert [row.place for row in snapshot.tree.rows] == [place_of(one["place"], one["tree"][0])]
    for name in ("label", "source", "source_type", "host", "holdfast_version", "facts", "keys"):
        assert getattr(snapshot, name) == told[name]
    assert [[*snapshot.predecessors], [*snapshot.warnings]] == [told["predecessors"], told["warnings"]]
    assert (snapshot.started.isoformat(), snapshot.totals.added_stored) == (told["started"], 500)


@pytest.mark.parametrize("one", VECTORS["key_objects"], ids=["hkdf", "argon2id"])
def test_a_key_object(one: Mapping[str, str]) -> None:
    content = one["key_object"].encode()
    for other in VECTORS["key_objects"]:
        keys = unwrap(content, other["secret"])
        assert (keys is not None) == (other is one)
    keys = unwrap(content, one["secret"])
    assert keys is not None
    assert (keys.master, keys.id_secret) == (MASTER, raw(KEYS["id_key"]))
    header = read_header(content, MASTER)
    assert header.genuine
    assert header.origin is not None
    assert header.origin.note == '纸条 "1"'
    opened = by_the_page.unwrap(content, one["secret"])
    assert opened == (raw(KEYS["master_key"]), raw(KEYS["id_key"]))


def test_what_is_written_while_others_work() -> None:
    """Encoders without chance in them: what was decoded becomes the same bytes again."""
    pack = named(VECTORS["pack"]["name"])
    mark, lease, removal, writers, keyring, damage = (raw(VECTORS[what]["plain"]) for what in ONE_PART[3:])
    assert decode_mark(mark) == {pack}
    assert encode_mark(decode_mark(mark)) == mark
    assert decode_renewal(lease) == vectors.RENEWAL
    assert encode_renewal(vectors.RENEWAL) == lease
    assert decode_removals(removal) == (vectors.REMOVAL,)
    assert encode_removals([vectors.REMOVAL]) == removal
    assert encode_writer(decode_writer(writers)) == writers
    assert decode_change(keyring) == vectors.CHANGE
    assert encode_change(vectors.CHANGE) == keyring
    assert decode_damage(damage) == {(pack, 1)}
    assert encode_damage([(pack, 1)]) == damage


def test_the_page_alone_reads_the_vectors() -> None:
    objects = {VECTORS[what]["name"]: raw(VECTORS[what]["sealed"]) for what in ONE_PART}
    pack = VECTORS["pack"]
    objects[pack["name"]] = raw(pack["bytes"])
    key = VECTORS["key_objects"][0]
    objects["keys/" + "0" * 32] = key["key_object"].encode()
    reader = by_the_page.Reader(objects, key["secret"], repository=KEYS["repository"], key=KEYS["key"])
    for what in ONE_PART:
        assert reader.plain(VECTORS[what]["name"]).hex() == VECTORS[what]["plain"]
    ((name, size, rows),) = by_the_page.index_packs(raw(VECTORS["index"]["plain"]))
    assert (name, size) == (pack["name"], len(raw(pack["bytes"])))
    assert by_the_page.places(name, rows) == reader.directory(name)
    for (chunk_id, place), part in zip(reader.directory(name), pack["parts"], strict=True):
        row = by_the_page.Row(chunk_id, place.content, place)
        assert reader.chunk(row, place, of_a_list=False).hex() == part["content"]
    node = by_the_page.node_rows(raw(VECTORS["node"]["content"]))
    shown = [[row.place.pack, *list(vars(row.place).values())[1:]] if row.place else None for row in node]
    assert shown == VECTORS["node"]["places"]
    entries = [entry[0].decode() for entry, _rows in by_the_page.leaf_entries(raw(VECTORS["leaf"]["content"]))]
    assert entries == [entry["path"] for entry in VECTORS["leaf"]["entries"]]


def test_wal() -> None:
    one = VECTORS["wal"]
    stream = Stream(source=one["source"], system_identifier=int(one["system_identifier"]))
    assert stream == vectors.STREAM
    assert name_stream(IDS, stream) == one["stream"] == by_the_page.stream_name(raw(KEYS["id_key"]), *vars_of(stream))
    store = MemoryStore(clock=SystemClock())
    repository = Repository(store, Keys(MASTER, raw(KEYS["id_key"])), clock=SystemClock())
    for told in (*one["pieces"], one["file"], one["begin"], one["span"]):
        store.put(told["name"], raw(told["sealed"]))
    assert decode_begin(raw(one["begin"]["plain"])) == vectors.BEGIN
    assert encode_begin(vectors.BEGIN) == raw(one["begin"]["plain"])
    (span,) = decode_spans(IDS, one["stream"], raw(one["span"]["plain"]))
    assert [piece.name for _number, piece in span.pieces] == [one["pieces"][2]["name"]]
    begins_with, history = raw(one["begins_with"]), raw(one["file"]["content"])
    tail, clock, whole = (open_piece(repository, told["name"], raw(told["sealed"])) for told in one["pieces"])
    assert (tail[1], clock[1]) == (begins_with[6:19], b"")
    assert tail[0].clock == vectors.MOMENT
    assert whole[0].is_segment
    held = WalReader(repository).held(stream)
    assert held.histories == {2: history}
    assert [(segment.number, segment.stop) for segment in held.segments] == [(513, 2**20)]
    assert b"".join(WalReader(repository).content(stream, held.segments[0])) == whole[1]
    by_page = reader_of({told["name"]: raw(told["sealed"]) for told in (*one["pieces"], one["file"], one["span"])})
    assert by_page.segment(one["stream"], 1, 513) == whole[1]
    assert by_page.two_parts(one["file"]["name"])[1] == history
    for told in one["pieces"]:
        info, content = by_page.two_parts(told["name"])
        assert {**json.loads(told["info"]), "name": told["name"]} == info
        assert by_the_page.wal_mark(raw(KEYS["id_key"]), info) == told["name"][-32:]
        assert len(content) == info["stop"] - info["start"]
    assert json.loads(by_the_page.framed(by_page.plain(one["span"]["name"])))["stream"] == one["stream"]


def test_the_page_alone_reads_wal_as_it_is_written() -> None:
    """Tails that overlap, cut as two receivers would; a segment of two pieces."""
    store = MemoryStore(clock=SystemClock())
    repository = Repository(store, Keys(MASTER, raw(KEYS["id_key"])), clock=SystemClock())
    small, large = Streamer(repository), Streamer(repository, size=128 * 2**20, timeline=2)
    for start, stop in ((0, 100), (100, 300), (0, 250), (0, 300), (300, 500), (500, 500), (900, 950)):
        small.tail(258, start, stop, seconds=stop)
    large.whole(1)
    large.writer.put_file("000000020000000000000003.partial", b"partial")
    by_page = reader_of({listed.name: store.get(listed.name) for listed in store.list("")})
    name = by_the_page.stream_name(raw(KEYS["id_key"]), *vars_of(STREAM))
    assert by_page.segment(name, 1, 258) == small.content(258)[:500]
    assert by_page.segment(name, 2, 1) == large.content(1)
    (file,) = by_page.names("walfiles/")
    info, content = by_page.two_parts(file)
    assert content == b"partial"
    assert file == f"walfiles/{name}/{info['file'].lower()}/{info['digest'][:32]}"


def vars_of(stream: Stream) -> tuple[str, int]:
    return stream.source, stream.system_identifier


def reader_of(objects: Mapping[str, bytes]) -> by_the_page.Reader:
    key = VECTORS["key_objects"][0]
    everything = {**objects, "keys/" + "0" * 32: key["key_object"].encode()}
    return by_the_page.Reader(everything, key["secret"], repository=KEYS["repository"], key=KEYS["key"])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("secret", ["passphrase", "recovery_key", "chosen_passphrase"])
def test_the_page_alone_reads_the_newest_snapshot(folder: Path, secret: str) -> None:
    one = golden(folder)
    opened = one.manifest["opened_by"][secret]
    reader = by_the_page.Reader(one.objects, opened, repository=one.pin.repository, key=one.pin.key)
    kept = one.manifest["snapshots"][-1]
    assert reader.newest() == kept["id"]
    where = places_that_packs_tell(reader, damaged=one.manifest["mended"])
    assert shown(reader, kept["id"], None) == kept["entries"], "where the hints say"
    assert shown(reader, kept["id"], where) == kept["entries"], "where the packs themselves say"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_page_alone_reads_the_index(folder: Path) -> None:
    """It says what the packs say of themselves, of all packs but those of the last backup, which was killed."""
    one = golden(folder)
    reader = by_the_page.Reader(
        one.objects, one.manifest["opened_by"]["passphrase"], repository=one.pin.repository, key=one.pin.key
    )
    indexed = set()
    for name in reader.names("index/"):
        for pack, size, rows in by_the_page.index_packs(reader.plain(name)):
            assert size == len(one.objects[pack])
            assert by_the_page.places(pack, rows) == reader.directory(pack)
            indexed.add(pack)
    unindexed = {*reader.names("data/"), *reader.names("meta/")} - indexed
    assert unindexed == set(one.manifest["unneeded"]) - indexed
    assert unindexed


def places_that_packs_tell(reader: by_the_page.Reader, *, damaged: str) -> dict[bytes, by_the_page.Place]:
    """Of a chunk in two packs, the place in the one that is not known to be damaged."""
    packs = [pack for pack in (*reader.names("data/"), *reader.names("meta/")) if pack != damaged]
    return dict(entry for pack in (damaged, *packs) for entry in reader.directory(pack))


def shown(
    reader: by_the_page.Reader, snapshot: str, where: Mapping[bytes, by_the_page.Place] | None
) -> list[list[Any]]:
    kinds = ("file", "directory", "symlink")
    rows: list[list[Any]] = []
    for file in reader.files(snapshot, where):
        path, target = (text.decode("utf-8", "surrogateescape") for text in (file.path, file.link_target))
        what = target if file.kind else hashlib.sha256(file.content).hexdigest()
        rows.append([path, kinds[file.kind], file.mode, file.uid, file.gid, file.mtime_ns, file.size, what])
    return rows


def test_the_independent_reader_is_independent() -> None:
    imported = {
        name
        for node in ast.walk(ast.parse(Path(by_the_page.__file__).read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not [name for name in imported if name.startswith(("holdfast", "tests"))]
