"""A run finds what was put into it and nothing else, and is thrown away when a bit of it is not what was written."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.repository import run_building
from holdfast.repository.ids import ChunkId, ObjectId, new_object_id
from holdfast.repository.objects import PACK_KINDS, Kind, ObjectRef
from holdfast.repository.pack_table import Array, PackTable
from holdfast.repository.packing import Directory, Location
from holdfast.repository.run_building import RunBuilder
from holdfast.repository.runs import Run
from tests.repository.making import noise

KEY = noise(32, 1)

# Few distinct first bytes, so that ids share prefixes, buckets and slices; whole ids that come twice too.
chunk_ids = st.builds(
    lambda first, last: ChunkId(bytes([first]) * 8 + bytes(23) + bytes([last])),
    st.sampled_from([0, 1, 127, 255]),
    st.integers(0, 3),
) | st.binary(min_size=32, max_size=32).map(ChunkId)
lengths = st.integers(0, 2**32 - 1)
rows = st.lists(
    st.builds(
        lambda chunk_id, sealed, content: chunk_id + sealed.to_bytes(4, "big") + content.to_bytes(4, "big"),
        chunk_ids, lengths, lengths,
    ),
    max_size=12,
).map(b"".join)  # fmt: skip
directories = st.builds(
    lambda kind, size, rows: Directory(ObjectRef(kind, new_object_id()), size, rows),
    st.sampled_from(PACK_KINDS), st.integers(0, 2**63), rows,
)  # fmt: skip


def build(added: Sequence[Directory], merged: Sequence[tuple[Run, Array]] = (), key: bytes = KEY) -> Run:
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as pieces:
        builder = RunBuilder(file, pieces)
        for run, keep in merged:
            builder.add_run(run, keep)
        for directory in added:
            builder.add(directory)
        builder.finish(key)
        return Run(file, key)


def written(folder: Path, added: Sequence[Directory]) -> bytes:
    path = folder / "run"
    with path.open("w+b") as file, tempfile.TemporaryFile() as pieces:
        builder = RunBuilder(file, pieces)
        for directory in added:
            builder.add(directory)
        builder.finish(KEY)
    return path.read_bytes()


def opened(folder: Path, data: bytes, key: bytes = KEY) -> Run:
    path = folder / "run"
    path.write_bytes(data)
    with path.open("rb") as file:
        return Run(file, key)


def places(run: Run, chunk_id: ChunkId) -> set[Location]:
    found = run.find(int.from_bytes(chunk_id[:8], "big"), chunk_id)
    assert len(set(found)) == len(found)
    return {run.location(run.pack_of(row), row) for row in found}


def expected(whole: Sequence[Directory], chunk_id: ChunkId) -> set[Location]:
    return {
        Location(directory.pack, ordinal, part)
        for directory in whole
        for ordinal, part in enumerate(directory.parts)
        if part.id == chunk_id
    }


def holds(run: Run, whole: Sequence[Directory]) -> None:
    assert [run.directory(number) for number in range(run.packs)] == list(whole)
    assert run.rows == sum(map(len, whole))
    for chunk_id in {part.id for directory in whole for part in directory.parts} | {
        ChunkId(noise(32)),
        ChunkId(bytes(32)),
    }:
        assert places(run, chunk_id) == expected(whole, chunk_id)
    for number, directory in enumerate(whole):
        assert list(run.numbers_of(directory.pack)) == [number]
    assert not list(run.numbers_of(ObjectRef(Kind.DATA, new_object_id())))


@pytest.fixture(params=[False, True], ids=["large", "small"])
def slices(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with slices and pieces so small that there are many of each."""
    if request.param:
        monkeypatch.setattr(run_building, "_SLICE_BITS", 5)
        monkeypatch.setattr(run_building, "PIECE_ROWS", 10)
        monkeypatch.setattr(run_building, "_COPY_ROWS", 3)


@pytest.mark.usefixtures("slices")
@pytest.mark.parametrize("sizes", [[], [0], [1], [0, 3, 0, 0, 5, 0], [64] * 20, [1000, 1, 1000], [63, 64, 65, 66]])
def test_what_was_added_is_found(sizes: list[int]) -> None:
    whole = [made(rows, seed) for seed, rows in enumerate(sizes)]
    holds(build(whole), whole)


def made(rows: int, seed: int, kind: Kind = Kind.DATA) -> Directory:
    ids = [noise(32, seed * 10_000 + row) for row in range(rows)]
    return Directory(
        ObjectRef(kind, new_object_id()),
        2**24 + seed,
        b"".join(chunk_id + (1000 + row).to_bytes(4, "big") + bytes(4) for row, chunk_id in enumerate(ids)),
    )


@given(
    st.lists(st.lists(st.tuples(directories, st.booleans()), max_size=8), max_size=4), st.lists(directories, max_size=4)
)
@settings(max_examples=60)
def test_merging_keeps_what_is_kept(several: list[list[tuple[Directory, bool]]], added: list[Directory]) -> None:
    parts, remain = [], []
    for some in several:
        run = build([directory for directory, _keep in some])
        holds(run, [directory for directory, _keep in some])
        parts.append((run, np.array([keep for _directory, keep in some], bool)))
        remain += [directory for directory, keep in some if keep]
    merged = build(added, parts)
    holds(merged, [*remain, *added])
    again = build([], [(merged, np.ones(merged.packs, bool))])
    holds(again, [*remain, *added])


@pytest.mark.usefixtures("slices")
def test_many_merged() -> None:
    several = [[made(rows, 100 * number + rows) for rows in (5, 0, 40, 7)] for number in range(5)]
    keep = np.array([True, True, False, True])
    merged = build([], [(build(some), keep) for some in several])
    holds(merged, [directory for some in several for directory, kept in zip(some, keep, strict=True) if kept])


@given(st.binary(max_size=300), st.integers(0, 300))
def test_garbage_is_no_run(garbage: bytes, cut: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = written(folder, [made(3, 1)])
        for data in (garbage, good[:64] + garbage, good[:cut] + garbage, good + garbage + b"\0"):
            if data != good:
                with pytest.raises(Damaged):
                    opened(folder, data)


def test_a_run_with_any_bit_changed_is_no_run(tmp_path: Path) -> None:
    whole = [made(3, 1), made(0, 2), made(2, 3)]
    good = written(tmp_path, whole)
    holds(opened(tmp_path, good), whole)
    for at in range(len(good)):
        bad = bytearray(good)
        bad[at] ^= 1 << (at % 8)
        with pytest.raises(Damaged):
            opened(tmp_path, bytes(bad))
    for length in range(0, len(good), 7):
        with pytest.raises(Damaged):
            opened(tmp_path, good[:length])
    with pytest.raises(Damaged):
        opened(tmp_path, good, key=noise(32, 2))


tables = st.lists(
    st.tuples(
        st.sampled_from(PACK_KINDS),
        st.builds(
            lambda first, last: ObjectId(bytes([first]) * 8 + bytes([last]) * 24), st.integers(0, 2), st.integers(0, 2)
        ),
        st.integers(1, 2),
    ),
    max_size=30,
)


def table(entries: list[tuple[Kind, ObjectId, int]]) -> PackTable:
    return PackTable.of([ObjectRef(kind, raw) for kind, raw, _size in entries], [size for *_ref, size in entries])


@given(tables, tables)
def test_packs_are_told_from_one_another(
    here: list[tuple[Kind, ObjectId, int]], wanted: list[tuple[Kind, ObjectId, int]]
) -> None:
    """Ids that begin alike are not the same, whatever a store lists."""
    packs = table(here)
    sized = [here.index(one) if one in here else -1 for one in wanted]
    names = [one[:2] for one in here]
    bare = [names.index(one[:2]) if one[:2] in names else -1 for one in wanted]
    assert packs.match(table(wanted), sized=True).tolist() == sized
    assert packs.match(table(wanted), sized=False).tolist() == bare
    assert packs.twins() == {at: here.index(one) for at, one in enumerate(here) if here.index(one) != at}
    for kind, raw, _size in wanted:
        found = sorted(packs.numbers(ObjectRef(kind, raw)))
        assert found == [at for at, one in enumerate(names) if one == (kind, raw)]
