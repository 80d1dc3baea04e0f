"""CREATE TABLESPACE is found in WAL wherever its record lies: across pages, with its own header split."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.postgres.wal import created_tablespaces
from tests.postgres.wal_making import Making, main, record

PAGE = 8192


def created(oid: int, path: str) -> bytes:
    return main(struct.pack("<I", oid) + path.encode() + b"\0")


@given(
    st.integers(0, 2 * PAGE),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=250),
    st.sampled_from([b"", b"\xfd\x01\x00", b"\xfc\x01\x00\x00\x00"]),
    st.integers(100, 3 * PAGE),
)
@settings(max_examples=50)
def test_a_record_is_found_wherever_it_lies(before: int, path: str, prefix: bytes, block: int) -> None:
    making = Making()
    making.filler(random.Random(before).randbytes(before))
    making.append(5, 0x00, prefix + created(16384, "/" + path))
    making.filler(bytes(3000))
    wal = making.wal()
    (found,) = created_tablespaces(wal[at : at + block] for at in range(0, len(wal), block))
    assert (found.oid, found.location) == (16384, "/" + path)


def test_what_only_looks_like_one_is_not_believed() -> None:
    making = Making()
    making.append(5, 0x00, created(16384, "/data/快 盘"))
    wal = making.wal()
    for at in range(40, int(making.end - making.start)):
        changed = wal[:at] + bytes([wal[at] ^ 4]) + wal[at + 1 :]
        if at in range(48, 56) or at in range(58, 60) or at >= 40 + len(making.records[0][1]):
            continue  # the first record's xl_prev cannot be compared; bytes that nothing covers
        assert not list(created_tablespaces([changed])), at
    inside = Making()
    inside.filler(bytes(8 - 26 % 8) + record(5, 0, created(16384, "/data"), prev=inside.start + 40))
    assert not list(created_tablespaces([inside.wal()]))


def test_one_inside_the_data_directory_harms_nobody() -> None:
    making = Making()
    making.append(5, 0x00, created(16384, "pg_tblspc/16384"))
    assert not list(created_tablespaces([making.wal()]))


def test_not_wal() -> None:
    with pytest.raises(Damaged):
        list(created_tablespaces([b"daily_blueprints" * 1000]))
