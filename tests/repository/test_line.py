"""The line that data travels: each step undone by its other direction, and all of it at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, HoldfastError
from holdfast.repository.chunking import CHUNK_SIZE, Slab, Splitter
from holdfast.repository.compression import compress, decompress
from holdfast.repository.hints import Places, attach, decode_hints, detach, encode_hints, pack_places, unpack_places
from holdfast.repository.ids import ChunkId, IdKey, ObjectId, new_object_id
from holdfast.repository.index import decode_index, encode_index
from holdfast.repository.keys import new_keys
from holdfast.repository.leases import decode_renewal
from holdfast.repository.marks import decode_mark
from holdfast.repository.objects import NAMED_BY_ID, PACK_KINDS, Kind, ObjectRef, parse_name
from holdfast.repository.packing import (
    Location,
    PackBuilder,
    Part,
    decode_rows,
    directory_span,
    named_by,
    padded_size,
    read_directory,
    read_part,
    trailer_span,
)
from holdfast.repository.removal import decode_removals
from holdfast.repository.sealing import HEAD, ObjectCipher, seal_object, unseal_object
from holdfast.repository.snapshots import decode_snapshot, encode_snapshot, select
from holdfast.repository.trees import (
    Content,
    Row,
    StoredEntry,
    content_nodes,
    decode_entries,
    decode_leaf,
    encode_entry,
    load_content,
    load_tree,
    store_content,
    store_tree,
)
from holdfast.repository.versions import decode_writer
from holdfast.repository.writer import SnapshotWriter
from tests.repository.making import about, new_repository, noise, readings, restore, sample, take

KEYS = new_keys()
IDS = KEYS.ids


@given(st.lists(st.integers(0, 900_000), max_size=6), st.integers(1, 300_000))
@settings(max_examples=60, deadline=None)
def test_splitting_loses_nothing(sizes: list[int], block: int) -> None:
    files = [noise(size, seed) for seed, size in enumerate(sizes)]
    found: list[dict[int, bytes]] = [{} for _file in files]

    def full(slab: Slab) -> None:
        for piece in slab.pieces:
            assert isinstance(piece.owner, int)
            found[piece.owner][piece.position] = bytes(slab.content(piece))

    splitter = Splitter(Slab, full)
    for number, content in enumerate(files):
        assert splitter.split(number, (content[i : i + block] for i in range(0, len(content), block))) == (
            len(content),
            -(-len(content) // CHUNK_SIZE),
        )
    splitter.flush()
    for pieces, content in zip(found, files, strict=True):
        assert b"".join(pieces[position] for position in sorted(pieces)) == content
        assert all(len(pieces[position]) == CHUNK_SIZE for position in range(len(pieces) - 1))


@given(st.binary(max_size=5000))
def test_compressing(content: bytes) -> None:
    assert decompress(compress(content), size=len(content)) == content
    with pytest.raises(Damaged):
        decompress(compress(content), size=len(content) + 1)


@given(st.binary(max_size=300), st.integers(0, 2**32), st.booleans())
def test_sealing(plain: bytes, ordinal: int, last: bool) -> None:
    ref = ObjectRef(Kind.DATA, new_object_id())
    cipher = ObjectCipher(KEYS.master, ref)
    sealed = cipher.seal(ordinal, plain, last=last)
    assert cipher.unseal(ordinal, sealed, last=last) == plain
    others = [
        (cipher, ordinal + 1, last),
        (cipher, ordinal, not last),
        (ObjectCipher(KEYS.master, ObjectRef(Kind.META, ref.id)), ordinal, last),
        (ObjectCipher(KEYS.master, ObjectRef(Kind.DATA, new_object_id())), ordinal, last),
        (ObjectCipher(new_keys().master, ref), ordinal, last),
    ]
    for other, at, end in others:
        with pytest.raises(Damaged):
            other.unseal(at, sealed, last=end)


def test_a_whole_object_that_is_changed_anywhere_is_refused() -> None:
    ref = ObjectRef(Kind.SNAPSHOT, new_object_id())
    sealed = seal_object(KEYS.master, ref, b"record")
    assert unseal_object(KEYS.master, ref, sealed) == b"record"
    for at in range(len(sealed)):
        with pytest.raises(Damaged):
            unseal_object(KEYS.master, ref, sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :])
        with pytest.raises(Damaged):
            unseal_object(KEYS.master, ref, sealed[:at])


@given(st.lists(st.binary(max_size=2000), max_size=20))
@settings(deadline=None)
def test_packing(contents: list[bytes]) -> None:
    builder = PackBuilder(KEYS.master, Kind.DATA)
    for content in contents:
        builder.add(IDS.chunk_id(content), content)
    made, directory = builder.finish()
    data = bytes(made)
    assert directory.size == len(data)
    assert padded_size(len(data)) == len(data)
    start, length = trailer_span(len(data))
    at, size = directory_span(len(data), bytes(data[start : start + length]))
    assert read_directory(KEYS.master, directory.pack, len(data), data[at : at + size]) == directory
    assert next(iter(decode_index(encode_index([directory])))) == directory
    cipher = ObjectCipher(KEYS.master, directory.pack)
    cipher.check_head(data[: HEAD.size])
    for ordinal, (part, content) in enumerate(zip(directory.parts, contents, strict=True)):
        sealed = data[part.offset : part.offset + part.sealed_length]
        assert read_part(cipher, Location(directory.pack, ordinal, part), sealed, IDS) == content


some_places = st.none() | st.builds(
    lambda kind, number, *lengths: Location(
        ObjectRef(kind, ObjectId(bytes([number]) * 32)), lengths[0], Part(ChunkId(b""), *lengths[1:])
    ),
    st.sampled_from(PACK_KINDS),
    st.integers(0, 255),
    *[st.integers(0, 2**32 - 1)] * 4,
)


@given(st.binary(max_size=100), st.lists(some_places, max_size=30))
def test_hints(named: bytes, places: list[Location | None]) -> None:
    ids = [ChunkId(bytes([number]) * 32) for number in range(len(places))]
    placed = [
        place and place._replace(part=place.part._replace(id=row_id)) for place, row_id in zip(places, ids, strict=True)
    ]
    content = attach(named, placed)
    assert detach(content)[0] == named == bytes(named_by(Kind.META, content))
    assert decode_hints(detach(content)[1], ids) == placed
    assert decode_hints(b"of another version", ids) == [None] * len(ids)
    assert encode_hints(unpack_places(pack_places(placed))) == encode_hints(placed)


@given(st.binary(max_size=300), st.integers(0, 20))
def test_hints_that_make_no_sense_are_no_hints(hints: bytes, rows: int) -> None:
    assert len(decode_hints(hints, [ChunkId(b"")] * rows)) == rows


@given(st.binary(max_size=400))
def test_decoders_name_what_they_cannot_read(data: bytes) -> None:
    """No input makes a decoder raise anything but Damaged."""
    for decode in (
        lambda: list(decode_index(data)),
        lambda: decode_rows(data),
        lambda: list(decode_entries(data)),
        lambda: decode_leaf(data),
        lambda: decode_mark(data),
        lambda: decode_renewal(data),
        lambda: decode_removals(data),
        lambda: decode_writer(data),
        lambda: decode_snapshot("00" * 32, data),
        lambda: decompress(data, size=100),
        lambda: directory_span(len(data), data[-4:]),
        lambda: unseal_object(KEYS.master, ObjectRef(Kind.INDEX, new_object_id()), data),
    ):
        try:
            decode()
        except Damaged:
            continue


@given(st.integers(0, 2**50))
def test_padding_is_small_and_stable(size: int) -> None:
    padded = padded_size(size)
    assert size <= padded <= size + max(size * 12 // 100, 1)
    assert padded_size(padded) == padded


@given(st.sampled_from(NAMED_BY_ID))
def test_names(kind: Kind) -> None:
    ref = ObjectRef(kind, new_object_id())
    assert parse_name(ref.name) == ref
    assert parse_name(ref.name + "0") is None
    assert parse_name("elsewhere/" + ref.name) is None


class Nodes(dict[ChunkId, bytes]):
    """Where nodes and leaves are kept, by id."""

    def store(self, named: bytes, places: Places, covers: int) -> Row:
        chunk_id = IDS.chunk_id(named)
        self[chunk_id] = attach(named, places)
        return Row(chunk_id, covers, place_of(chunk_id))

    def load(self, rows: Sequence[Row]) -> Iterator[bytes]:
        return (self[row.id] for row in rows)


def place_of(chunk_id: ChunkId) -> Location:
    pack = ObjectRef(Kind.DATA, ObjectId(bytes([chunk_id[0] % 4]) * 32))
    return Location(pack, chunk_id[1], Part(chunk_id, chunk_id[2], chunk_id[3], chunk_id[4]))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 1000, 40_000])
def test_chunk_lists(count: int) -> None:
    nodes = Nodes()
    ids = [IDS.chunk_id(str(number).encode()) for number in range(count)]
    rows = [Row(row_id, number % 1000, place_of(row_id)) for number, row_id in enumerate(ids)]
    content = store_content(rows, nodes.store)
    assert len(content.rows) <= 64
    loaded = list(load_content(content, nodes.load))
    assert loaded == rows
    assert [row.place for row in loaded] == [row.place for row in rows]
    assert {row.id for row in content_nodes(content, nodes.load)} == set(nodes)
    before = len(nodes)
    rows[count // 2 : count // 2 + 1] = [Row(IDS.chunk_id(b"changed"), 1)]
    store_content(rows, nodes.store)
    assert len(nodes) - before <= 6, "one changed chunk rewrites a node a level, or two"


names = st.binary(min_size=1, max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape"))
paths = names.filter(lambda name: name not in (".", "..") and not {"/", "\0"} & set(name))
entries = st.builds(
    Entry,
    path=st.lists(paths, min_size=1, max_size=3).map("/".join),
    kind=st.sampled_from(EntryKind),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32),
    gid=st.integers(0, 2**32),
    mtime_ns=st.integers(-(2**62), 2**62),
    size=st.just(0),
    link_target=names,
)


@given(st.lists(entries, max_size=50, unique_by=lambda entry: entry.path))
@settings(deadline=None)
def test_trees(listed: list[Entry]) -> None:
    nodes = Nodes()
    stored = sorted((StoredEntry(entry, Content()) for entry in listed), key=lambda item: item.entry.path)
    tree = store_tree(map(encode_entry, stored), nodes.store, IDS)
    assert list(load_tree(tree, nodes.load)) == stored


def test_a_leaf_tells_where_the_chunks_of_its_files_lie() -> None:
    nodes = Nodes()
    stored = []
    for number in range(500):
        ids = [IDS.chunk_id(f"{number} {chunk}".encode()) for chunk in range(number % 3)]
        rows = tuple(Row(row_id, 5, place_of(row_id)) for row_id in ids)
        entry = Entry(path=f"{number:04}", kind=EntryKind.FILE, mode=0o600, size=5 * len(rows))
        stored.append(StoredEntry(entry, Content(entry.size, 0, rows)))
    tree = store_tree(map(encode_entry, stored), nodes.store, IDS)
    loaded = list(load_tree(tree, nodes.load))
    assert loaded == stored
    assert [row.place for one in loaded for row in one.content.rows] == [
        row.place for one in stored for row in one.content.rows
    ]


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../b", "a//b", "a/", ".", "a\0b"])
def test_a_path_that_leaves_the_folder_is_damage(path: str) -> None:
    encoded = encode_entry(StoredEntry(Entry(path=path, kind=EntryKind.FILE, mode=0o600), Content()))
    with pytest.raises(Damaged):
        list(decode_entries(encoded.encoded))


def test_an_unchanged_source_shares_its_tree() -> None:
    nodes = Nodes()
    encoded = [
        encode_entry(StoredEntry(Entry(path=path, kind=EntryKind.FILE, mode=0o600), Content()))
        for path in (f"base/5/{number:06}" for number in range(5000))
    ]
    store_tree(encoded, nodes.store, IDS)
    before = len(nodes)
    assert before > 5
    store_tree(encoded, nodes.store, IDS)
    assert len(nodes) == before
    del encoded[2500]
    store_tree(encoded, nodes.store, IDS)
    assert len(nodes) - before <= 3


def test_the_whole_line_and_deduplication() -> None:
    repository = new_repository()
    files = sample()
    first = take(repository, files)
    assert restore(repository, first) == files
    assert first.totals.content == sum(map(len, files.values()))
    assert first.totals.files == len(files)
    again = take(repository, files, "two")
    assert again.totals.added_content == 0
    assert again.predecessors == (first.id,)
    changed = {**files, "base/5/text": files["base/5/text"][:-1] + b"!", "new": noise(10)}
    third = take(repository, changed, "three")
    assert third.totals.added_content < 2 * CHUNK_SIZE
    for snapshot, expected in ((first, files), (again, files), (third, changed)):
        assert restore(repository, snapshot) == expected
    assert [snapshot.label for snapshot in repository.records().snapshots] == ["one", "two", "three"]


def test_records_come_back_as_they_were() -> None:
    repository = new_repository()
    snapshot = take(repository, sample())
    assert repository.records().snapshots == (snapshot,)
    assert decode_snapshot(snapshot.id, encode_snapshot(snapshot)) == replace(snapshot, digest="")


def test_a_file_of_another_length_than_announced_is_refused() -> None:
    repository = new_repository()
    (entry, _blocks), *_rest = readings({"file": b"12345"})
    with pytest.raises(HoldfastError, match="5 bytes long, but 3"):
        take(repository, [(entry, [b"123"])])
    assert not repository.records().snapshots


def test_the_same_path_twice_is_refused() -> None:
    repository = new_repository()
    (entry, _blocks), *_rest = readings({"file": b""})
    with pytest.raises(HoldfastError, match="read twice"):
        take(repository, [(entry, ()), (entry, ())])


def test_ids_are_keyed() -> None:
    assert IdKey(b"a" * 32).chunk_id(b"x") != IdKey(b"b" * 32).chunk_id(b"x")


def test_the_newest_is_told_by_predecessors_not_by_a_clock_that_was_wrong() -> None:
    repository = new_repository()
    late = replace(about("from the future"), started=datetime(2030, 1, 1, tzinfo=UTC))
    with SnapshotWriter(repository) as writer:
        first = writer.publish(late)
    take(repository, sample(), "two")
    third = take(repository, sample(), "three")
    snapshots = repository.records().snapshots
    assert snapshots[-1] == first
    assert select(snapshots, "latest") == third
    assert select(snapshots, "latest", source="tracker") == third
