"""Scanning a folder and writing it again are each other's inverse; and nothing is written where something is."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.entry import Entry, EntryKind
from holdfast.errors import HoldfastError, NoSpace, PermissionRefused, Refused, UsageError
from holdfast.filesystem.root import MARKER, Owner
from holdfast.filesystem.scan import scan
from holdfast.filesystem.write import FolderWriter, refuse_unless_room
from tests.requirements import require


def copy(source: Path, target: Path, owner: Owner | None = None) -> None:
    with FolderWriter(target, owner=owner) as writer:
        writer.begin()
        for entry, content in scan(source):
            if entry.kind is EntryKind.DIRECTORY:
                writer.directory(entry)
            elif entry.kind is EntryKind.SYMLINK:
                writer.symlink(entry)
            else:
                sink, offset = writer.file(entry), 0
                for block in content:
                    sink.write(offset, bytes(block))
                    offset += len(block)
        writer.settle(entry for entry, _content in scan(source))
        writer.finish()


def described(folder: Path) -> dict[str, tuple[object, ...]]:
    return {
        entry.path: (entry.kind, entry.mode, entry.mtime_ns, entry.link_target, b"".join(map(bytes, content)))
        for entry, content in scan(folder)
        if entry.kind is not EntryKind.SYMLINK or not any(content)
    }


names = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8
).filter(lambda name: name not in (".", "..") and len(name.encode()) < 200)  # fmt: skip
trees = st.dictionaries(
    names, st.one_of(st.binary(max_size=100), st.dictionaries(names, st.binary(max_size=9), max_size=3)), max_size=6
)


@given(trees, st.integers(0, 10**18))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_there_and_back(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object], mtime_ns: int) -> None:
    base = tmp_path_factory.mktemp("t")
    source = base / "source"
    source.mkdir()
    for name, content in tree.items():
        if isinstance(content, bytes):
            (source / name).write_bytes(content)
            (source / name).chmod(0o640)
            os.utime(source / name, ns=(mtime_ns, mtime_ns))
        else:
            assert isinstance(content, dict)
            (source / name).mkdir(mode=0o750)
            for below, data in content.items():
                (source / name / below).write_bytes(data)
    (source / "a link\udcff").symlink_to("nowhere")
    copy(source, base / "target")
    assert (
        described(base / "target").items()
        >= {path: value for path, value in described(source).items() if value[0] is not EntryKind.SYMLINK}.items()
    )
    assert os.readlink(base / "target" / "a link\udcff") == "nowhere"  # noqa: PTH115
    assert not (base / "target" / MARKER).exists()


def entry(path: str = "a/b", size: int = 3) -> Entry:
    return Entry(path=path, kind=EntryKind.FILE, mode=0o600, size=size)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Refused):
        FolderWriter(tmp_path / "file").begin()
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_is_written_twice_or_through_a_link(tmp_path: Path) -> None:
    writer = FolderWriter(tmp_path / "new")
    writer.begin()
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "new" / "a").symlink_to(victim)
    with pytest.raises(HoldfastError, match="cannot write"):
        writer.file(entry("a"))
    writer.file(entry("b"))
    with pytest.raises(HoldfastError, match="cannot write"):
        writer.file(entry("b"))
    assert victim.read_text() == "mine"


def test_a_file_that_changes_while_it_is_read_fails_the_reading(tmp_path: Path) -> None:
    (tmp_path / "grows").write_bytes(b"12345")
    for found, content in scan(tmp_path):
        assert found.size == 5
        with (tmp_path / "grows").open("ab") as file:
            file.write(b"6")
        with pytest.raises(HoldfastError, match="changed its size"):
            list(content)


def test_sockets_and_pipes_are_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"")
    assert [found.path for found, _content in scan(tmp_path)] == ["file"]


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        next(scan(tmp_path / "gone"))


def test_too_little_room_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match="MB are free"):
        refuse_unless_room([(tmp_path / "not/yet/there", 10**18)])
    refuse_unless_room([(tmp_path, 1), (tmp_path / "b", 1)])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    require(os.geteuid() == 0, "mounting a small disk needs root")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=False)
    require(mounted.returncode == 0, "a tmpfs cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    with pytest.raises(NoSpace):
        refuse_unless_room([(small_disk, 2 * 2**20)])
    writer = FolderWriter(small_disk / "new")
    writer.begin()
    sink = writer.file(entry("a", 4 * 2**20))
    with pytest.raises(NoSpace, match="the disk is full"):
        sink.write(0, bytes(4 * 2**20))
    assert (small_disk / "new" / MARKER).exists()


def test_everything_is_given_to_the_owner(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "giving files away needs root")
    (tmp_path / "source" / "folder").mkdir(parents=True)
    (tmp_path / "source" / "folder" / "file").write_bytes(b"1")
    (tmp_path / "source" / "link").symlink_to("folder")
    copy(tmp_path / "source", tmp_path / "target", Owner(65534, 65534))
    for path in (tmp_path / "target", *(tmp_path / "target").rglob("*")):
        assert path.lstat().st_uid == 65534, path
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o700


@pytest.mark.parametrize("below", ["", "inside"])
def test_a_folder_that_may_not_be_read(tmp_path: Path, below: str) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    before = os.geteuid()
    if before == 0:
        tmp_path.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionRefused):
            list(scan(closed / below))
    finally:
        os.seteuid(before)
