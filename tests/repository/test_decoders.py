"""What reads bytes from a store raises the named errors and no others, whatever the bytes; and takes bounded memory.

Arbitrary bytes, valid encodings harmed, and encodings that are well formed up to the field that makes no sense: as a
newer or a faulty version could seal them, so that authentication is no excuse.
"""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.cli.output import as_json
from holdfast.clock import SystemClock
from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, HoldfastError, Refused, UsageError
from holdfast.repository import keys as keys_module
from holdfast.repository.compression import ZSTD, compress, decompress
from holdfast.repository.damage import decode_damage, encode_damage
from holdfast.repository.hints import attach, decode_hints, encode_hints, unpack_places
from holdfast.repository.ids import ChunkId, ObjectId
from holdfast.repository.index import decode_index, encode_index
from holdfast.repository.keyring import Change, decode_change, encode_change, read_keyring
from holdfast.repository.keys import MadeSecret, Origin, SecretKind, new_keys, read_header, unwrap, wrap
from holdfast.repository.leases import Renewal, decode_renewal, encode_renewal
from holdfast.repository.marks import decode_mark, encode_mark
from holdfast.repository.objects import NAMED_BY_ID, Kind, ObjectRef, parse_name
from holdfast.repository.opening import create_repository, open_repository
from holdfast.repository.packing import (
    Directory,
    Location,
    PackBuilder,
    Part,
    decode_rows,
    directory_span,
    read_directory,
    read_part,
    trailer_span,
)
from holdfast.repository.removal import Removal, decode_removals, encode_removals
from holdfast.repository.repository import Repository
from holdfast.repository.sealing import HEAD, ObjectCipher, seal_object, unseal_object
from holdfast.repository.snapshots import Snapshot, Totals, decode_snapshot, encode_snapshot
from holdfast.repository.trees import (
    Content,
    Row,
    StoredEntry,
    content_nodes,
    decode_entries,
    decode_leaf,
    encode_entry,
    load_content,
)
from holdfast.repository.versions import decode_writer, encode_writer
from holdfast.store.memory import MemoryStore

KEYS = new_keys(bytes(range(32)))
SECRET = MadeSecret.new(SecretKind.PASSPHRASE)
MOMENT = datetime(2026, 11, 22, 2, 3, 4, 5678, tzinfo=UTC)
IDS = [ChunkId(bytes([number]) * 32) for number in range(3)]
PACKS = [ObjectRef(kind, ObjectId(bytes([number]) * 32)) for number, kind in enumerate((Kind.DATA, Kind.META))]
PLACES = [Location(pack, number, Part(IDS[number], 48, 100, 90)) for number, pack in enumerate(PACKS)]
ROWS = tuple(Row(chunk_id, 5, place) for chunk_id, place in zip(IDS, [*PLACES, None], strict=True))
DIRECTORIES = [Directory(pack, 4096, b"".join(struct.pack(">32sII", i, 30, 20) for i in IDS)) for pack in PACKS]
SNAPSHOT = Snapshot(
    id="ab" * 32, label="tracker_20261122_020000", source="tracker", source_type="postgres", started=MOMENT,
    ended=MOMENT + timedelta(minutes=1), host="db1", holdfast_version="0", tree=Content(15, 0, ROWS),
    totals=Totals(files=1, content=2, chunks=3, added_content=4, added_stored=5), predecessors=("cd" * 32,),
    warnings=("一",), facts={"a": [1, "二", None, 1.5]}, keys={"keys/" + "0" * 32: "ef" * 32},
)  # fmt: skip
ENTRIES = [
    StoredEntry(
        Entry(path="base/odd\udcff", kind=EntryKind.FILE, mode=0o600, uid=1, gid=2, mtime_ns=3, size=15),
        Content(15, 0, ROWS),
    ),
    StoredEntry(Entry(path="base/link", kind=EntryKind.SYMLINK, mode=0o777, link_target="../x"), Content()),
]
ENCODED = [encode_entry(stored) for stored in ENTRIES]
NAMED = b"".join(entry.encoded for entry in ENCODED)
LEAF = attach(NAMED, unpack_places(b"".join(entry.places for entry in ENCODED)))
NODE = attach(b"".join(struct.pack(">32sQ", row.id, row.size) for row in ROWS), [row.place for row in ROWS])
ORIGIN = Origin(created=MOMENT, host="db1", user="postgres", note="纸条")


def packed(kind: Kind) -> tuple[bytes, Directory]:
    builder = PackBuilder(KEYS.master, kind)
    for content in (b"", b"x" * 1000, LEAF):
        builder.add(KEYS.ids.chunk_id(content), content)
    data, directory = builder.finish()
    return bytes(data), directory


PACK, PACKED = packed(Kind.DATA)


def framed(plain: bytes) -> bytes:
    """As snapshots and index objects hold it."""
    return struct.pack(">I", len(plain)) + compress(plain)


class Decoder(NamedTuple):
    decode: Callable[[bytes], object]
    valid: bytes
    named: tuple[type[HoldfastError], ...] = (Damaged,)
    within: Callable[[bytes], bytes] = bytes
    """Gives what ``decode`` takes from the inner plain bytes, where there is a frame around them."""
    plain: bytes | None = None
    """The inner bytes of ``valid``."""


def sealed(ref: ObjectRef, plain: bytes) -> bytes:
    return seal_object(KEYS.master, ref, plain)


def whole_pack(data: bytes) -> Directory:
    """As whoever learns a pack does it."""
    at, length = trailer_span(len(data))
    start, size = directory_span(len(data), data[at : at + length])
    return read_directory(KEYS.master, PACKED.pack, len(data), data[start : start + size])


def sealed_rows(plain: bytes) -> bytes:
    cipher = ObjectCipher(KEYS.master, PACKED.pack)
    body = cipher.seal(2**32 - 1, plain, last=True)
    return cipher.head + body + struct.pack(">I", len(body))


def part_of(kind: Kind) -> Callable[[bytes], bytes]:
    """Reads a part whose sealed stored form is given."""
    ref = ObjectRef(kind, ObjectId(bytes(32)))
    cipher = ObjectCipher(KEYS.master, ref)

    def decode(stored: bytes) -> bytes:
        body = cipher.seal(0, stored, last=False)
        return read_part(cipher, Location(ref, 0, Part(IDS[0], 48, len(body), 1000)), body, KEYS.ids)

    return decode


def by_levels(content: bytes) -> object:
    """A list two levels deep, every node of which is ``content``."""
    top = Content(45, 2, (Row(IDS[0], 15),))

    def load(rows: Iterable[Row]) -> Iterator[bytes]:
        for _row in rows:
            yield content

    return list(content_nodes(top, load)), list(load_content(top, load))


def with_ids(data: bytes, repository: Repository) -> bytes:
    return data.replace(b"00" * 16, repository.id.encode()).replace(b"11" * 16, repository.key_id.encode())


def header_of_repository(data: bytes) -> Repository:
    store = MemoryStore(clock=SystemClock())
    repository = create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=SystemClock())
    store.put(
        "repository.json",
        data.replace(b"00" * 16, repository.id.encode()).replace(b"11" * 16, repository.key_id.encode()),
    )
    return open_repository(store, SECRET, pin=None, clock=SystemClock())


def with_key_object(data: bytes) -> object:
    """A planted key object keeps nobody out."""
    store = MemoryStore(clock=SystemClock())
    repository = create_repository(store, [(SECRET, SecretKind.PASSPHRASE)], clock=SystemClock())
    store.put("keys/" + "0" * 32, with_ids(data, repository))
    again = open_repository(store, SECRET, pin=None, clock=SystemClock())
    assert again.keys == repository.keys
    return read_keyring(again).keys


REF = ObjectRef(Kind.SNAPSHOT, ObjectId(bytes(32)))
HEADER = json.dumps({"holdfast": 1, "repository": "00" * 16, "key": "11" * 16, "created": MOMENT.isoformat()}).encode()
WRAPPED = wrap(KEYS, SECRET, SecretKind.PASSPHRASE, origin=ORIGIN)
PLANTED = json.dumps(json.loads(WRAPPED) | {"repository": "00" * 16, "key": "11" * 16}).encode()
REMOVALS = [Removal(id="ab" * 32, predecessors=("cd" * 32,), when=MOMENT, host="db1", why="expired")]
SNAPSHOT_PLAIN = decompress(encode_snapshot(SNAPSHOT)[4:], size=int.from_bytes(encode_snapshot(SNAPSHOT)[:4], "big"))
INDEX_PLAIN = decompress(encode_index(DIRECTORIES)[4:], size=int.from_bytes(encode_index(DIRECTORIES)[:4], "big"))
CHANGE = Change(added={"keys/" + "0" * 32: "ab" * 32}, removed=("keys/" + "1" * 32,), when=MOMENT, host="db1")

JSON: dict[str, Decoder] = {
    "snapshot": Decoder(
        lambda data: decode_snapshot("ab" * 32, data), encode_snapshot(SNAPSHOT), within=framed, plain=SNAPSHOT_PLAIN
    ),
    "key object": Decoder(lambda data: unwrap(data, SECRET), WRAPPED),
    "key object, chosen": Decoder(lambda data: unwrap(data, "correct horse battery"), WRAPPED),
    "key header": Decoder(lambda data: read_header(data, KEYS.master), WRAPPED),
    "keyring": Decoder(decode_change, encode_change(CHANGE)),
    "lease": Decoder(decode_renewal, encode_renewal(Renewal(lease="ab" * 16, work="backup", host="db1", began=MOMENT))),
    "removals": Decoder(decode_removals, encode_removals(REMOVALS)),
    "writers": Decoder(decode_writer, encode_writer("0.10.1.dev3")),
    "repository.json": Decoder(header_of_repository, HEADER, (Damaged, Refused, UsageError)),
    "planted key": Decoder(with_key_object, PLANTED, ()),
}
BINARY: dict[str, Decoder] = {
    "damage": Decoder(decode_damage, encode_damage([(PACKS[0], 1), (PACKS[1], 2**32 - 1)])),
    "mark": Decoder(decode_mark, encode_mark(PACKS)),
    "index": Decoder(
        lambda data: list(decode_index(data)), encode_index(DIRECTORIES), within=framed, plain=INDEX_PLAIN
    ),
    "entries": Decoder(lambda data: list(decode_entries(data)), NAMED),
    "leaf": Decoder(decode_leaf, LEAF),
    "node": Decoder(by_levels, NODE),
    "hints": Decoder(lambda data: decode_hints(data, IDS), encode_hints([row.place for row in ROWS]), ()),
    "rows": Decoder(decode_rows, struct.pack(">I", 1) + DIRECTORIES[0].rows),
    "pack": Decoder(whole_pack, PACK, within=sealed_rows, plain=struct.pack(">I", 3) + PACKED.rows),
    "data part": Decoder(part_of(Kind.DATA), compress(bytes(1000))),
    "meta part": Decoder(part_of(Kind.META), compress(LEAF + bytes(1000 - len(LEAF)))),
    "sealed object": Decoder(lambda data: unseal_object(KEYS.master, REF, data), sealed(REF, b"plain")),
    "stored form": Decoder(lambda data: decompress(data, size=3000), compress(b"abc" * 1000)),
}
ALL = {**JSON, **BINARY}


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """No example costs a second of stretching: what is stretched is not what is tested."""

    class Cheap:
        def __init__(self, **options: object) -> None:
            assert options["memory_cost"] <= 2**20  # type: ignore[operator]

        def derive(self, secret: bytes) -> bytes:
            return secret[:32].ljust(32)

    monkeypatch.setattr(keys_module, "Argon2id", Cheap)


def try_it(decoder: Decoder, data: bytes) -> object:
    """What comes out, which can be shown; ``None`` where a named error came."""
    try:
        found = decoder.decode(data)
    except decoder.named:
        return None
    show(found)
    return found


def show(found: object) -> None:
    """Whatever was decoded can be printed: as text, as JSON, its moments in any time zone."""
    if isinstance(found, datetime):
        for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
            assert found.astimezone(ZoneInfo(zone)) == found
    elif isinstance(found, Snapshot):
        as_json(found.facts)
    if is_dataclass(found) and not isinstance(found, type):
        for field in fields(found):
            show(getattr(found, field.name))
    elif isinstance(found, tuple | list | frozenset):
        for one in found:
            show(one)


@pytest.mark.parametrize("name", ALL)
def test_what_was_encoded_is_decoded(name: str) -> None:
    """Else what follows would test nothing but how errors are raised."""
    decoder = ALL[name]
    if "part" in name:
        with pytest.raises(Damaged, match="does not have the id"):  # past authentication, decompression, and lengths
            decoder.decode(decoder.valid)
    elif name != "key object, chosen":
        assert try_it(decoder, decoder.valid) is not None


@pytest.mark.parametrize("name", ALL)
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes(name: str, data: bytes) -> None:
    decoder = ALL[name]
    try_it(decoder, data)
    try_it(decoder, decoder.within(data))
    if HEAD.size < len(decoder.valid):
        try_it(decoder, decoder.valid[: HEAD.size] + data)


def harmed(data: bytes) -> st.SearchStrategy[bytes]:
    """Bits flipped, bytes cut out, doubled, or replaced by what else numbers and lengths can be."""
    place = st.integers(0, max(len(data) - 1, 0))
    extreme = st.sampled_from(
        [b"\xff" * 8, b"\xff" * 4, b"\xff\xff", bytes(8), b"\x7f\xff\xff\xff", b"\x80" + bytes(7)]
    )

    @st.composite
    def harm(draw: st.DrawFn) -> bytes:
        changed = bytearray(data)
        for _time in range(draw(st.integers(1, 3))):
            at, to = sorted((draw(place), draw(place)))
            match draw(st.sampled_from(["flip", "cut", "end", "double", "splice", "extreme", "random"])):
                case "flip" if at < len(changed):
                    changed[at] ^= 1 << draw(st.integers(0, 7))
                case "cut":
                    del changed[at:to]
                case "end":
                    del changed[at:]
                case "double":
                    changed[at:at] = changed[at:to]
                case "splice":
                    changed[at:to] = draw(st.sampled_from([decoder.valid for decoder in ALL.values()]))[at:to]
                case "extreme":
                    value = draw(extreme)
                    changed[at : at + len(value)] = value
                case _:
                    changed[at:to] = draw(st.binary(max_size=20))
        return bytes(changed)

    return harm()


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=150)
@given(data=st.data())
def test_valid_encodings_harmed(name: str, data: st.DataObject) -> None:
    decoder = ALL[name]
    try_it(decoder, data.draw(harmed(decoder.valid)))
    if decoder.plain is not None:
        try_it(decoder, decoder.within(data.draw(harmed(decoder.plain))))


@pytest.mark.parametrize("name", ALL)
def test_every_truncation(name: str) -> None:
    decoder = ALL[name]
    for length in range(len(decoder.valid)):
        try_it(decoder, decoder.valid[:length])
    for length in range(len(decoder.plain or b"")):
        assert decoder.plain is not None
        try_it(decoder, decoder.within(decoder.plain[:length]))


# Well formed JSON that makes no sense

SENSELESS: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, 0, -1, 2**31, 2**32, 2**63, 2**64, 10**4000, -(10**300), 1.5, 1e308),
        *(float("inf"), float("nan"), "", "x", "\ud800", "\x00", "é" * 50, "0" * 64, "zz" * 32, " " * 64, "٣" * 64),
        *("2026-11-22", "2026-11-22T02:03:04", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00"),
        *("0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00", "0002-01-01T00:00:00+14:00"),
        *([], [[]], [None], {}, {"": None}, [1, 2, 3], {"kind": "argon2id"}),
        *([["00" * 32, 1]], [["00" * 32, -1]], [[[], []]]),
    ]
)


def twisted(value: Any) -> st.SearchStrategy[Any]:
    """``value`` with one or two of its parts, however deep, replaced, removed or added to."""

    @st.composite
    def twist(draw: st.DrawFn) -> Any:
        changed = json.loads(json.dumps(value))
        for _time in range(draw(st.integers(1, 2))):
            changed = replace_one(draw, changed)
        return changed

    return twist()


def replace_one(draw: st.DrawFn, value: Any) -> Any:
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        name = draw(st.sampled_from(sorted(value)))
        match draw(st.integers(0, 5)):
            case 0:
                return {key: one for key, one in value.items() if key != name}
            case 1:
                return {**value, draw(st.sampled_from(["more", "witness", "holdfast", "wrapped"])): draw(SENSELESS)}
            case _:
                return {**value, name: replace_one(draw, value[name])}
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], replace_one(draw, value[at]), *value[at + 1 :]]
    return draw(SENSELESS)


@pytest.mark.parametrize("name", JSON)
@settings(max_examples=200)
@given(data=st.data())
def test_json_that_makes_no_sense(name: str, data: st.DataObject) -> None:
    decoder = JSON[name]
    value = data.draw(twisted(json.loads(decoder.plain or decoder.valid)))
    try_it(decoder, decoder.within(json.dumps(value).encode()))


# A leaf's entries: well formed msgpack that makes no sense

MSGPACK = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.text(max_size=9),
        st.binary(max_size=80),
        st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9)),
    ),
    lambda inner: (
        st.lists(inner, max_size=11) | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3)
    ),
    max_leaves=15,
)


@settings(max_examples=200)
@given(data=st.data())
def test_entries_that_make_no_sense(data: st.DataObject) -> None:
    entry = msgpack.unpackb(ENCODED[0].encoded)
    for _time in range(data.draw(st.integers(1, 3))):
        entry[data.draw(st.integers(0, 9))] = data.draw(MSGPACK)
    named = msgpack.packb(entry)
    try_it(BINARY["entries"], named)
    try_it(BINARY["leaf"], attach(named, []))
    try_it(BINARY["entries"], msgpack.packb(data.draw(MSGPACK)))


def test_a_leaf_cut_inside_an_entry_is_noticed() -> None:
    whole = {0, len(ENCODED[0].encoded), len(NAMED)}
    for length in range(len(NAMED) + 1):
        found = try_it(BINARY["entries"], NAMED[:length])
        assert (found is not None) == (length in whole), length


# Memory and time

FAR = 8 * 2**20
"""Bytes that reading a few hundred may take, with all that Python takes for itself."""


def frame(size: int, body: bytes = b"\x01\x00\x00") -> bytes:
    """A zstd frame (RFC 8878, 3.1.1) whose header claims ``size`` bytes; its only block is empty."""
    return struct.pack("<IBQ", 0xFD2FB528, 0xE0, size) + body


def rle_frame(size: int) -> bytes:
    """A zstd frame of run-length blocks (RFC 8878, 3.1.1.2.2): 4 bytes for each 128 KiB."""
    blocks = [min(2**17, size - at) for at in range(0, size, 2**17)]
    body = b"".join(
        struct.pack("<I", (length << 3 | 1 << 1 | (number == len(blocks) - 1)))[:3] + b"\x00"
        for number, length in enumerate(blocks)
    )
    return frame(size, body)


def peak(decoder: Decoder, data: bytes) -> int:
    """Bytes that decoding took at once, beyond what there was."""
    tracemalloc.start()
    try:
        assert try_it(decoder, data) is None
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b"[" * 990 + b"]" * 990, b'[{"a":' * 400 + b"1" + b"}]" * 400]
NUMBERS = [b"1" * 100_000, b"-1e" + b"9" * 1000, b'{"holdfast": ' + b"1" * 5000 + b"}"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", JSON)
@pytest.mark.parametrize("bomb", [*DEEP, *NUMBERS], ids=lambda bomb: bomb[:6].decode() + str(len(bomb)))
def test_json_bombs(name: str, bomb: bytes) -> None:
    decoder = JSON[name]
    inside = (decoder.plain or decoder.valid).replace(b'"db1"', bomb, 1).replace(b'"0.10.1.dev3"', bomb, 1)
    for data in (bomb, inside.replace(b'"created": "2026', b'"created": ' + bomb + b', "x": "2026')):
        try_it(decoder, decoder.within(data))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("size", [2**40, 2**64 - 1, 2**64 - 2, 2**63, 2**32 - 1, 2**30, 300 * 2**20])
@pytest.mark.parametrize("name", ["snapshot", "index"])
def test_frames_that_claim_too_much(name: str, size: int) -> None:
    for told in (size % 2**32 or 1, 2**32 - 1, 100):
        for body in (frame(size), frame(told)):
            assert peak(ALL[name], struct.pack(">I", told) + ZSTD + body) < FAR


@pytest.mark.timeout(60)
@pytest.mark.parametrize("claimed", [2**32 - 1, 2**31, 2**30, 100 * 2**20])
@pytest.mark.parametrize("kind", [Kind.DATA, Kind.META])
def test_a_part_that_claims_too_much(kind: Kind, claimed: int) -> None:
    """The directory and the frame agree on a size that no chunk has."""
    ref = ObjectRef(kind, ObjectId(bytes(32)))
    cipher = ObjectCipher(KEYS.master, ref)
    for stored in (ZSTD + frame(claimed), ZSTD + rle_frame(claimed)):
        body = cipher.seal(0, stored, last=False)
        place = Location(ref, 0, Part(IDS[0], 48, len(body), claimed))
        decoder = Decoder(lambda data, place=place: read_part(cipher, place, data, KEYS.ids), body)  # type: ignore[misc]
        assert peak(decoder, body) < FAR


@pytest.mark.timeout(60)
@pytest.mark.parametrize("levels", [10**9, -1, 9, 2**64])
def test_a_tree_of_more_levels_than_there_are(levels: int) -> None:
    value = json.loads(SNAPSHOT_PLAIN)
    value["tree"]["levels"] = levels
    with pytest.raises(Damaged):
        decode_snapshot("ab" * 32, framed(json.dumps(value).encode()))


LARGE = 200_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "bomb",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 2**32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xc6\xff\xff\xff\xff",  # bytes
        b"\xdb\xff\xff\xff\xff",  # a text
        b"\xc9\xff\xff\xff\xff\x01",  # an extension
        (b"\xdd" + struct.pack(">I", LARGE)) * (LARGE // 5),  # arrays in arrays, each as long as all of it
        (b"\xdf" + struct.pack(">I", LARGE)) * (LARGE // 5),
        b"\x91" * LARGE,
        b"\x9a" + b"\x91" * LARGE,
        b"\xd9\xff",
        b"\xd6\xff" + b"\xff" * 4,  # a timestamp
    ],
    ids=lambda bomb: bomb[:3].hex() + "_" + str(len(bomb)),
)
def test_msgpack_bombs(bomb: bytes) -> None:
    for padding in (b"", bytes(LARGE)):
        assert peak(BINARY["entries"], bomb + padding) < FAR
        assert peak(BINARY["leaf"], attach(bomb + padding, [])) < FAR


def test_counts_that_claim_too_much() -> None:
    for count in (2**32 - 1, 2**31, 1000):
        claim = struct.pack(">I", count)
        assert peak(BINARY["rows"], claim + bytes(100)) < FAR
        assert peak(BINARY["index"], framed(struct.pack(">B32sQ", 1, IDS[0], 2**64 - 1) + claim + bytes(100))) < FAR
        assert peak(BINARY["leaf"], claim + bytes(100)) < FAR
        assert peak(BINARY["pack"], sealed_rows(claim + bytes(100))) < FAR
    assert decode_hints(b"\xff\xff" + bytes(100), IDS) == [None] * 3


# Names and secrets

NAMES = st.text(st.sampled_from("keysdatmn0123456789abcdef/ \t\n٣.-_é"), max_size=90)


@given(name=st.one_of(NAMES, st.builds(lambda kind, rest: kind.prefix + rest, st.sampled_from(Kind), NAMES)))
def test_a_name_is_parsed_to_what_has_that_name(name: str) -> None:
    found = parse_name(name)
    assert found is None or found.name == name
    assert parse_name(name.upper()) is None


@given(kind=st.sampled_from(NAMED_BY_ID), raw=st.binary(min_size=32, max_size=32))
def test_every_name_is_parsed_back(kind: Kind, raw: bytes) -> None:
    ref = ObjectRef(kind, ObjectId(raw))
    assert parse_name(ref.name) == ref


@given(text=st.text(max_size=90), kind=st.sampled_from(SecretKind), data=st.data())
def test_secrets(text: str, kind: SecretKind, data: st.DataObject) -> None:
    made = MadeSecret.new(kind)
    at = data.draw(st.integers(0, len(made)))
    prefix = made.partition("-")[0] + "-"
    for typed in (text, prefix + text, made[:at] + text + made[at:], made[:at] + text + made[at + 1 :]):
        try:
            chance = MadeSecret.parse(typed)
        except UsageError:
            continue
        plain = "".join(typed.split()).replace("-", "").lower()
        assert chance is None or plain == made.replace("-", "") or len(text) >= 40
    assert MadeSecret.parse(made.replace("-", " ").replace(" ", "-", 1).upper()) == MadeSecret.parse(made)
