from __future__ import annotations

import io
import tarfile
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.postgres.tarstream import TarStream

CONTENTS = {
    "PG_VERSION": b"15\n",
    "base/1/1259": bytes(range(256)) * 64,
    "empty": b"",
    "表": b"x" * 512,
    "l/m": b"y" * 513,
}


def _archive(contents: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("base")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in contents.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        end = archive.offset + 1024  # the server does not fill up to tar's record size
    return out.getvalue()[:end]


ARCHIVE = _archive(CONTENTS)


def _read(data: bytes, cuts: list[int]) -> dict[str, bytes]:
    places = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    blocks = (memoryview(data)[start:end] for start, end in pairwise(places))
    stream = TarStream("base.tar", blocks)
    return {header.name: b"".join(content) for header, content in stream.members() if header.isreg()}


@given(st.lists(st.integers(0, len(ARCHIVE))))
def test_blocks_of_any_size_give_the_same_members(cuts: list[int]) -> None:
    assert _read(ARCHIVE, cuts) == CONTENTS


@given(st.integers(0, len(ARCHIVE) - 1))
def test_a_stream_that_ends_early_is_damaged(length: int) -> None:
    with pytest.raises(Damaged, match=r"archive base\.tar"):
        _read(ARCHIVE[:length], [length // 2])


def test_what_is_not_read_is_skipped() -> None:
    stream = TarStream("base.tar", iter([memoryview(ARCHIVE)]))
    assert [header.name for header, _content in stream.members()] == ["base", *CONTENTS]
    stream = TarStream("base.tar", iter([memoryview(ARCHIVE)]))
    for header, content in stream.members():
        if header.size:
            assert next(iter(content))


def test_a_wrong_header_and_bytes_after_the_end_are_damaged() -> None:
    with pytest.raises(Damaged, match="header"):
        _read(b"\x01" + ARCHIVE[1:], [])
    with pytest.raises(Damaged, match="follow its end"):
        _read(ARCHIVE + b"x", [])


def test_a_negative_size_is_damaged() -> None:
    header = tarfile.TarInfo("x")
    block = bytearray(header.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = (-1024).to_bytes(12, "big", signed=True)
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]  # type: ignore[attr-defined]
    with pytest.raises(Damaged, match="x has a negative size"):
        _read(bytes(block) + bytes(1024), [])


def test_content_is_not_copied() -> None:
    data = bytearray(ARCHIVE)
    stream = TarStream("base.tar", iter([memoryview(data)]))
    pieces = [piece for _header, content in stream.members() for piece in content]
    assert all(piece.obj is data for piece in pieces)
