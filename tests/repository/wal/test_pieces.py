"""Pieces, files, beginnings and summaries as objects: there and back, and nothing but Damaged for anything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Damaged, ObjectMissing
from holdfast.repository.compression import compress
from holdfast.repository.ids import ObjectId
from holdfast.repository.objects import (
    ContentRef,
    FileName,
    Kind,
    PieceName,
    StreamRef,
    is_ours,
    parse_file_name,
    parse_name,
    parse_piece_name,
    parse_stream_name,
)
from holdfast.repository.sealing import ObjectCipher
from holdfast.repository.wal.envelope import MAX_INFO_BYTES
from holdfast.repository.wal.files import fetch_file, name_file, open_file, seal_file
from holdfast.repository.wal.held import Begin, HeldPiece
from holdfast.repository.wal.pieces import (
    MAX_PIECE_BYTES,
    Piece,
    Stream,
    fetch_piece,
    name_piece,
    name_stream,
    open_piece,
    seal_piece,
)
from holdfast.repository.wal.spans import Span, decode_spans, encode_spans
from holdfast.repository.wal.streams import decode_begin, encode_begin
from tests.repository.making import new_repository
from tests.repository.wal.making import MOMENT, SIZE, STREAM, Streamer, begin, clock, segment

REPOSITORY = new_repository()
SERVER = Streamer(REPOSITORY)
PIECE = SERVER.piece(3, 100, 5000, seconds=1.5)
CONTENT = segment(3)[100:5000]
NAME, SEALED = seal_piece(REPOSITORY, PIECE, CONTENT, tail=True)
FILE = name_file(REPOSITORY, STREAM, "00000002.history", b"1\t0/3000060\treason\n")
SEALED_FILE = seal_file(REPOSITORY, STREAM, FILE, b"1\t0/3000060\treason\n")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@given(
    number=st.integers(0, 2**44 - 1),
    start=st.integers(0, 2**20),
    length=st.integers(0, 2000),
    facts=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    seconds=st.floats(-1e9, 1e9),
)
def test_there_and_back(number: int, start: int, length: int, facts: Any, seconds: float) -> None:
    stop = min(start + length, SIZE)
    piece = replace(SERVER.piece(number, start, stop), clock=clock(seconds), facts=facts)
    content = segment(number)[start:stop]
    name, sealed = seal_piece(REPOSITORY, piece, content, tail=True)
    assert open_piece(REPOSITORY, name, sealed) == (piece, content)
    parsed = parse_piece_name(name)
    assert parsed is not None
    assert (parsed.name, parsed.number, parsed.start, parsed.stop) == (name, number, start, stop)
    assert parse_name(name) is None
    assert is_ours(name)
    REPOSITORY.store.put(name, sealed)
    assert fetch_piece(REPOSITORY, parsed) == piece


def test_a_name_says_which_bytes_these_are() -> None:
    assert name_piece(REPOSITORY.ids, PIECE, tail=True).name == NAME
    assert NAME.startswith(f"tails/{name_stream(REPOSITORY.ids, STREAM)}/00000001/00000000000000/0000000000000003-")
    assert PIECE.after[:16].hex() in NAME
    later = replace(PIECE, clock=PIECE.clock and PIECE.clock + timedelta(seconds=1), facts={})
    assert name_piece(REPOSITORY.ids, later, tail=True).name == NAME
    other = replace(PIECE, after=PIECE.before)
    assert name_piece(REPOSITORY.ids, other, tail=True).name != NAME
    idle = replace(PIECE, start=PIECE.stop, before=PIECE.after)
    assert idle.start == idle.stop
    names = {
        name_piece(REPOSITORY.ids, replace(idle, clock=MOMENT + timedelta(seconds=n)), tail=True) for n in range(3)
    }
    assert len(names) == 3, "each without bytes is an object of its own"


def test_names_tell_no_source_and_differ_by_owner() -> None:
    elsewhere = new_repository()
    assert name_stream(REPOSITORY.ids, STREAM) != name_stream(elsewhere.ids, STREAM)
    assert "tracker" not in NAME
    assert name_stream(REPOSITORY.ids, STREAM) != name_stream(REPOSITORY.ids, replace(STREAM, system_identifier=1))
    assert name_stream(REPOSITORY.ids, STREAM) != name_stream(REPOSITORY.ids, replace(STREAM, source="tracker2"))


@pytest.mark.parametrize(
    "change",
    [
        {"start": 6000},
        {"stop": SIZE + 1},
        {"segment_size": SIZE + 1},
        {"segment_size": 2**31},
        {"timeline": 0},
        {"timeline": 2**32},
        {"number": -1},
        {"number": 2**44},
        {"before": b""},
        {"after": bytes(31)},
        {"clock": datetime(2026, 1, 1)},  # noqa: DTZ001  that is the point
        {"stream": Stream(source="tracker", system_identifier=2**64)},
        {"start": 5000},
    ],
)
def test_a_piece_that_contradicts_itself_is_not_put(change: dict[str, Any]) -> None:
    piece = replace(PIECE, **change)
    with pytest.raises(ValueError, match=r".*"):
        seal_piece(REPOSITORY, piece, bytes(max(piece.stop - piece.start, 0)), tail=True)


def test_content_and_kind_must_fit() -> None:
    for content, tail in ((CONTENT[:-1], True), (CONTENT + b"1", True), (CONTENT, False)):
        with pytest.raises(ValueError, match="content"):
            seal_piece(REPOSITORY, PIECE, content, tail=tail)
    large = replace(PIECE, segment_size=2**30, start=MAX_PIECE_BYTES - 1, stop=MAX_PIECE_BYTES + 1)
    with pytest.raises(ValueError, match="place"):
        seal_piece(REPOSITORY, large, b"12", tail=True)


def test_files() -> None:
    file, content = open_file(REPOSITORY, FILE.name, SEALED_FILE)
    assert (file.file, file.size, content) == ("00000002.history", len(content), b"1\t0/3000060\treason\n")
    REPOSITORY.store.put(FILE.name, SEALED_FILE)
    assert fetch_file(REPOSITORY, FILE) == file


@given(
    st.sampled_from(
        ["0000000A.history", "00000001000000000000000C.partial", "00000001000000000000000C.0000AB28.backup"]
    )
)
def test_file_names(file: str) -> None:
    name = FileName("ab" * 16, file, "cd" * 16)
    assert parse_file_name(name.name) == name
    assert name.name == name.name.lower()
    assert parse_file_name(name.name.upper()) is None
    assert is_ours(name.name)


NAMES = st.text(st.sampled_from("waltilsfespn0123456789abcdef/-. \n_AF"), max_size=150)


@given(
    st.one_of(NAMES, st.builds(lambda kind, rest: kind.prefix + "ab" * 16 + "/" + rest, st.sampled_from(Kind), NAMES))
)
def test_strange_names(name: str) -> None:
    for parse in (parse_piece_name, parse_file_name, parse_stream_name):
        found: PieceName | FileName | StreamRef | None = parse(name)
        assert found is None or found.name == name
    assert isinstance(is_ours(name), bool)


# Garbage


def read(data: bytes) -> None:
    """In every way in which the object of ``NAME`` is read."""
    open_piece(REPOSITORY, NAME, data)


def only_damaged(what: Callable[[], object]) -> bool:
    try:
        what()
    except Damaged:
        return False
    return True


@given(st.binary(max_size=300), st.integers(0, 200))
def test_garbage(data: bytes, keep: int) -> None:
    assert not only_damaged(lambda: read(data))
    assert not only_damaged(lambda: read(SEALED[:keep] + data)) or SEALED[:keep] + data == SEALED
    assert not only_damaged(lambda: open_file(REPOSITORY, FILE.name, SEALED_FILE[:keep] + data))


@given(st.integers(0, len(SEALED) * 8 - 1))
def test_each_bit_counts(bit: int) -> None:
    flipped = bytearray(SEALED)
    flipped[bit // 8] ^= 1 << bit % 8
    assert not only_damaged(lambda: read(bytes(flipped)))


@given(st.integers(0, len(SEALED) - 1))
def test_each_byte_counts(length: int) -> None:
    assert not only_damaged(lambda: read(SEALED[:length]))
    REPOSITORY.store.put(NAME, SEALED[:length])
    parsed = parse_piece_name(NAME)
    assert parsed is not None
    head = int.from_bytes(SEALED[48:52], "big") + 52
    assert only_damaged(lambda: fetch_piece(REPOSITORY, parsed)) == (length >= head), "the first part is enough"


def resealed(info: bytes, stored: bytes, *, kind: Kind = Kind.TAIL, name: str = NAME, parts: int = 2) -> bytes:
    """An object as somebody with the key, and no care, would have sealed it."""
    cipher = ObjectCipher(REPOSITORY.master, ContentRef(kind, ObjectId(bytes(32)), name))
    first = cipher.seal(0, info, last=parts == 1)
    return (
        cipher.head + len(first).to_bytes(4, "big") + first + (cipher.seal(1, stored, last=True) if parts > 1 else b"")
    )


def described(info: object) -> bytes:
    plain = json.dumps(info).encode()
    return len(plain).to_bytes(4, "big") + compress(plain)


INFO = {
    "source": STREAM.source,
    "system_identifier": STREAM.system_identifier,
    "timeline": 1,
    "number": 3,
    "segment_size": SIZE,
    "start": 100,
    "stop": 5000,
    "before": PIECE.before.hex(),
    "after": PIECE.after.hex(),
    "clock": "2026-11-22T14:03:24.000000+00:00",
    "facts": {},
    "name": NAME,
}


def test_resealed_as_it_was() -> None:
    assert open_piece(REPOSITORY, NAME, resealed(described(INFO), compress(CONTENT)))[1] == CONTENT


@given(info=st.binary(max_size=100), stored=st.binary(max_size=100), parts=st.integers(1, 2))
def test_resealed_garbage(info: bytes, stored: bytes, parts: int) -> None:
    assert not only_damaged(lambda: read(resealed(info, stored, parts=parts)))
    assert not only_damaged(lambda: read(resealed(described(INFO), stored, parts=parts)))


@given(st.sampled_from(sorted(INFO)), JSON)
def test_resealed_with_other_fields(field: str, value: object) -> None:
    changed = resealed(described({**INFO, field: value}), compress(CONTENT))
    if only_damaged(lambda: read(changed)):
        assert field in ("clock", "facts") or {**INFO, field: value} == INFO
        assert open_piece(REPOSITORY, NAME, changed)[1] == CONTENT
    missing = {name: known for name, known in INFO.items() if name != field}
    assert not only_damaged(lambda: read(resealed(described(missing), compress(CONTENT))))
    assert not only_damaged(lambda: read(resealed(described(value), compress(CONTENT))))


@given(JSON)
def test_resealed_files(value: object) -> None:
    info = {"source": "tracker", "system_identifier": 1, "file": FILE.file, "size": 1, "digest": "00" * 32}
    for changed in (value, {**info, "name": FILE.name, "size": value}, {**info, "name": FILE.name, "digest": value}):
        data = resealed(described(changed), compress(b"1"), kind=Kind.WAL_FILE, name=FILE.name)
        assert not only_damaged(lambda: open_file(REPOSITORY, FILE.name, data))  # noqa: B023  called at once


def test_sizes_are_checked_before_memory_is_taken() -> None:
    claim = (MAX_INFO_BYTES + 1).to_bytes(4, "big") + compress(b" " * (MAX_INFO_BYTES + 1))
    with pytest.raises(Damaged):
        read(resealed(claim, b""))
    with pytest.raises(Damaged):
        read(resealed(described(INFO), compress(bytes(2**20))))


# Beginnings and summaries


@given(st.builds(begin, st.integers(0, 2**43), timeline=st.integers(1, 2**32 - 1), why=st.text(max_size=5)))
def test_beginnings(one: Begin) -> None:
    assert decode_begin(encode_begin(one)) == one
    gap = replace(one, after=7, after_timeline=1)
    assert decode_begin(encode_begin(gap)) == gap


@given(st.binary(max_size=100), JSON, st.sampled_from(sorted(json.loads(encode_begin(begin())))))
def test_beginnings_that_are_none(data: bytes, value: object, field: str) -> None:
    for garbage in (data, json.dumps(value).encode()):
        assert not only_damaged(lambda: decode_begin(garbage))  # noqa: B023  called at once
    changed = {**json.loads(encode_begin(begin())), field: value}
    only_damaged(lambda: decode_begin(json.dumps(changed).encode()))


def held(number: int, start: int = 0, stop: int = SIZE) -> tuple[int, HeldPiece]:
    piece: Piece = SERVER.piece(number, start, stop)
    name = name_piece(REPOSITORY.ids, piece, tail=False).name
    return number, HeldPiece(name, start, stop, piece.before, piece.after, MOMENT, piece.facts)


SPAN = Span(timeline=1, span=0, segment_size=SIZE, pieces=(held(3), held(4)))
STREAM_NAME = name_stream(REPOSITORY.ids, STREAM)


def test_summaries() -> None:
    large = Span(timeline=2, span=1, segment_size=2 * SIZE, pieces=(held(256, 0, SIZE), held(256, SIZE // 2, SIZE)))
    data = encode_spans(STREAM_NAME, [SPAN])
    assert decode_spans(REPOSITORY.ids, STREAM_NAME, data) == (SPAN,)
    other = decode_spans(REPOSITORY.ids, STREAM_NAME, encode_spans(STREAM_NAME, [SPAN, large]))
    assert [len(one.pieces) for one in other] == [2, 2]
    with pytest.raises(Damaged):
        decode_spans(REPOSITORY.ids, "ab" * 16, data)


@given(st.binary(max_size=100), JSON, st.integers(0, 6))
def test_summaries_that_are_none(data: bytes, value: object, place: int) -> None:
    assert not only_damaged(lambda: decode_spans(REPOSITORY.ids, STREAM_NAME, data))
    assert not only_damaged(lambda: decode_spans(REPOSITORY.ids, STREAM_NAME, described(value)))
    row: list[object] = [3, 0, SIZE, None, PIECE.after.hex(), None, {}]
    row[place] = value
    fields = {"timeline": 1, "span": 0, "segment_size": SIZE, "pieces": [row]}
    for changed in (fields, {**fields, "timeline": value}, {**fields, "span": value}, {**fields, "pieces": value}):
        summary = described({"stream": STREAM_NAME, "spans": [changed]})
        only_damaged(lambda: decode_spans(REPOSITORY.ids, STREAM_NAME, summary))  # noqa: B023  called at once


def test_absence_stays_absence() -> None:
    parsed = parse_piece_name(NAME)
    assert parsed is not None
    with pytest.raises(ObjectMissing):
        fetch_piece(REPOSITORY, parsed._replace(mark="00" * 16))
