"""CREATE TABLESPACE is found in WAL wherever its record lies: across pages, with its own header split."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.postgres.crc32c import crc32c
from holdfast.postgres.wal import created_tablespaces

PAGE = 8192


def record(oid: int, path: str, prefix: bytes = b"") -> bytes:
    data = struct.pack("<I", oid) + path.encode() + b"\0"
    body = prefix + (bytes([255, len(data)]) if len(data) < 256 else b"\xfe" + struct.pack("<I", len(data))) + data
    head = struct.pack("<IIQBBxx", 24 + len(body), 7, 0x3000028, 0, 5)
    return head + struct.pack("<I", crc32c(head, crc32c(body))) + body


def pages(payload: bytes) -> bytes:
    """The payload cut into pages with headers, the first with a long one; zero pages at the end, as after a switch."""
    made, at = bytearray(), 0
    while at < len(payload):
        info, more = (2, struct.pack("<QII", 1, 2**24, PAGE)) if not made else (0, b"")
        header = struct.pack("<HHIQI4x", 0xD110, info, 1, len(made), 0) + more
        room = PAGE - len(header)
        made += header + payload[at : at + room].ljust(room, b"\0")
        at += room
    return bytes(made) + bytes(PAGE)


@given(
    st.integers(0, 4 * PAGE // 8),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=250),
    st.sampled_from([b"", b"\xfd\x01\x00", b"\xfc\x01\x00\x00\x00"]),
    st.integers(100, 3 * PAGE),
    st.integers(0, 2**32),
)
def test_a_record_is_found_wherever_it_lies(before: int, path: str, prefix: bytes, block: int, seed: int) -> None:
    filler = random.Random(seed).randbytes(before * 8)
    payload = filler + record(16384, "/" + path, prefix) + random.Random(seed).randbytes(3000)
    wal = pages(payload)
    (found,) = created_tablespaces(wal[at : at + block] for at in range(0, len(wal), block))
    assert (found.oid, found.location) == (16384, "/" + path)


def test_what_only_looks_like_one_is_not_believed() -> None:
    good = record(16384, "/data/快 盘")
    for at in range(len(good)):
        changed = good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :]
        assert not list(created_tablespaces([pages(bytes(64) + changed)])), at


def test_one_inside_the_data_directory_harms_nobody() -> None:
    assert not list(created_tablespaces([pages(record(16384, "pg_tblspc/16384"))]))


def test_not_wal() -> None:
    with pytest.raises(Damaged):
        list(created_tablespaces([b"daily_blueprints" * 1000]))
