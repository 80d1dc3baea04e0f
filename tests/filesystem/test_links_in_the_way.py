"""Whoever will own the folder, or wrote the snapshot, cannot make root write, or give away, what lies elsewhere."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.entry import Entry, EntryKind
from holdfast.errors import Damaged, HoldfastError, Refused
from holdfast.filesystem.root import MARKER, Owner
from holdfast.filesystem.write import FolderWriter
from tests.privileges import NOBODY, as_nobody, require_root

OWNER = Owner(NOBODY, NOBODY)


@pytest.fixture
def within_reach() -> Iterator[Path]:
    """A folder that everybody gets to, as pytest's are not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def entry(path: str, kind: EntryKind = EntryKind.FILE, *, link_target: str = "", mode: int = 0o700) -> Entry:
    size = 3 if kind is EntryKind.FILE else 0
    return Entry(path=path, kind=kind, mode=mode, size=size, link_target=link_target)


@pytest.mark.parametrize("path", ["x/planted", "x/deep/planted", "nowhere/planted", "x/../planted"])
@pytest.mark.parametrize("kind", EntryKind)
def test_nothing_lies_below_a_link_or_a_file(tmp_path: Path, path: str, kind: EntryKind) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    for above in (entry("x", EntryKind.SYMLINK, link_target=str(victim)), entry("x")):
        with FolderWriter(tmp_path / f"new {above.kind}") as writer:
            writer.begin()
            (writer.symlink if above.kind is EntryKind.SYMLINK else writer.file)(above)
            add = {
                EntryKind.FILE: writer.file,
                EntryKind.DIRECTORY: writer.directory,
                EntryKind.SYMLINK: writer.symlink,
            }[kind]
            with pytest.raises(Damaged, match="planted"):
                add(entry(path, kind, link_target="/", mode=0o4755))
            with pytest.raises(Damaged, match="planted"):
                writer.write_bytes(path, b"")
            with pytest.raises(Damaged, match="planted"):
                writer.link(path, tmp_path)
    assert not list(victim.iterdir())


def test_until_the_end_nobody_else_gets_in(within_reach: Path) -> None:
    require_root()
    target, space = within_reach / "data", within_reach / "ts"
    target.mkdir()
    os.chown(target, NOBODY, NOBODY)  # an empty folder that was prepared for it
    entries = [entry("d", EntryKind.DIRECTORY), entry("d/shadow"), entry("ts", EntryKind.DIRECTORY, mode=0o750)]

    def place(path: str) -> tuple[Path, str]:
        return (space, "") if path == "ts" else (target, path)

    with FolderWriter(target, place=place, owner=OWNER) as writer:
        writer.begin(space)
        writer.directory(entries[0])
        sink = writer.file(entries[1])
        writer.directory(entries[2])
        for _settled in range(2):
            for root in (target, space):
                assert (root.stat().st_uid, stat.S_IMODE(root.stat().st_mode)) == (0, 0o700)
            with as_nobody():
                assert target.exists()
                with pytest.raises(PermissionError):
                    (target / "d").rename(target / "e")
            sink.write(0, b"123")
            writer.settle(entries)
        writer.finish()
    for path in (target, space, target / "d", target / "d/shadow"):
        assert path.stat().st_uid == NOBODY, path
    assert stat.S_IMODE(space.stat().st_mode) == 0o750


def test_a_folder_above_that_somebody_else_owns(within_reach: Path) -> None:
    """Its owner may move the target away and put a link there: nothing goes through it, and it does not end well."""
    require_root()
    home, victim = within_reach / "home", within_reach / "etc"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    victim.mkdir()
    (victim / "shadow").write_text("root's")
    (victim / "shadow").chmod(0o600)
    with FolderWriter(home / "data", owner=OWNER) as writer:
        writer.begin()
        sink = writer.file(entry("shadow"))
        with as_nobody():
            (home / "data").rename(home / "moved")
            (home / "data").symlink_to(victim)
        sink.write(0, b"123")
        writer.file(entry("other"))
        writer.write_bytes("own", b"1")
        writer.settle([entry("shadow"), entry("other")])
        with pytest.raises(HoldfastError, match="was moved or replaced"):
            writer.finish()
    assert (victim / "shadow").read_text() == "root's"
    assert ((victim / "shadow").stat().st_uid, list(victim.iterdir())) == (0, [victim / "shadow"])
    assert (home / "moved" / MARKER).exists()
    assert (home / "moved").stat().st_uid == 0


def test_what_was_put_into_an_empty_folder_meanwhile(tmp_path: Path) -> None:
    from holdfast.filesystem.root import Root

    root = Root(tmp_path / "data")
    (tmp_path / "data" / "d").symlink_to("/etc")
    root.mark("")
    with pytest.raises(Refused, match="not empty"):
        root.take()
    root.withdraw()
    assert list((tmp_path / "data").iterdir()) == [tmp_path / "data" / "d"]
