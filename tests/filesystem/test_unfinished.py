"""What a restore that has not finished leaves, and what is said of it: the hint's command removes that and no more."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from holdfast.entry import Entry, EntryKind
from holdfast.errors import AlreadyRunning, HoldfastError, Refused, UsageError
from holdfast.filesystem.root import MARKER, marker_text, refuse_unless_empty
from holdfast.filesystem.write import FolderWriter, free_bytes


def entry(path: str, kind: EntryKind = EntryKind.FILE) -> Entry:
    return Entry(path=path, kind=kind, mode=0o600, size=3 if kind is EntryKind.FILE else 0)


def leave_unfinished(root: Path, *also: Path) -> None:
    with FolderWriter(root) as writer:
        writer.begin(*also)
        writer.file(entry("a")).write(0, b"123")


def hint_for(folder: Path) -> str:
    with pytest.raises(Refused, match="did not finish") as refused:
        refuse_unless_empty(folder)
    return refused.value.hint


def test_an_unfinished_folder_says_so_and_is_not_written_into_again(tmp_path: Path) -> None:
    new = tmp_path / "new"
    with FolderWriter(new) as writer:
        writer.begin()
        writer.file(entry("a")).write(0, b"123")
        assert (new / MARKER).exists()
        with pytest.raises(AlreadyRunning):
            FolderWriter(new).begin()
        writer.finish()
    assert not (new / MARKER).exists()
    assert list(new.iterdir()) == [new / "a"]
    with pytest.raises(Refused, match="not empty"):
        FolderWriter(new).begin()


def test_a_restore_that_runs_is_nobodys_to_remove(tmp_path: Path) -> None:
    target, space = tmp_path / "data", tmp_path / "ts"
    with FolderWriter(target) as writer:
        writer.begin(space)
        for folder in (target, space):
            with pytest.raises(AlreadyRunning) as running:
                refuse_unless_empty(folder)
            assert "rm" not in running.value.hint.split()
        with pytest.raises(AlreadyRunning):
            FolderWriter(tmp_path / "other").begin(space)
        assert not (tmp_path / "other").exists()
        writer.finish()


def test_the_command_that_removes_it_is_for_a_shell_and_names_all_of_it(tmp_path: Path) -> None:
    target, space, precious = tmp_path / "pg backup", tmp_path / "it's; ts", tmp_path / "pg"
    precious.mkdir()
    leave_unfinished(target, space)
    for folder in (target, space):
        command = hint_for(folder).rpartition("again: ")[2]
        assert command.startswith("rm -r -- ")
    subprocess.run(command, shell=True, check=True, cwd=tmp_path)
    assert list(tmp_path.iterdir()) == [precious]
    with FolderWriter(target) as writer:
        writer.begin(space)
        writer.finish()


def test_only_what_still_is_unfinished_is_named(tmp_path: Path) -> None:
    """A folder of the same name may hold another restore by then, finished or under way."""
    target, space = tmp_path / "data", tmp_path / "ts"
    leave_unfinished(target, space)
    subprocess.run(["rm", "-r", target], check=True)
    with FolderWriter(target) as writer:
        writer.begin()
        assert str(target) not in hint_for(space)
        writer.finish()
    assert str(target) not in hint_for(space)


def test_what_others_wrote_into_a_marker_is_not_repeated(tmp_path: Path) -> None:
    from tests.privileges import NOBODY, require_root

    require_root()
    target, other = tmp_path / "data", tmp_path / "other"
    leave_unfinished(other)
    target.mkdir()
    (target / MARKER).write_text(marker_text([target, other]))
    assert str(other) in hint_for(target)
    os.chown(target / MARKER, NOBODY, NOBODY)
    assert str(other) not in hint_for(target)


def test_a_restore_that_cannot_begin_leaves_everything_as_it_was(tmp_path: Path) -> None:
    target, space, full = tmp_path / "data", tmp_path / "ts", tmp_path / "full"
    space.mkdir(mode=0o750)
    if os.geteuid() == 0:
        os.chown(space, 54321, 54321)
    before = space.stat()
    full.mkdir()
    (full / "file").write_bytes(b"")
    with pytest.raises(HoldfastError):
        FolderWriter(target).begin(space, full / "file" / "below")
    assert not target.exists()
    assert not list(space.iterdir())
    after = space.stat()
    assert (after.st_uid, after.st_mode) == (before.st_uid, before.st_mode)


def test_a_root_that_cannot_be_made_undoes_those_before(tmp_path: Path) -> None:
    target, space = tmp_path / "data", tmp_path / "ts"
    space.mkdir(mode=0o750)
    with pytest.raises(HoldfastError, match="cannot write"):
        FolderWriter(target).begin(space, space / "below" / ("x" * 255), tmp_path / "data" / MARKER)
    assert not target.exists()
    assert oct(space.stat().st_mode) == oct(0o40750)


@pytest.mark.parametrize("name", ["x" * 256, "y/" * 3000])
def test_a_name_that_no_folder_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot restore into"):
        refuse_unless_empty(tmp_path / name)
    assert free_bytes(tmp_path / name)[0] == tmp_path.stat().st_dev


def test_a_file_on_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError):
        refuse_unless_empty(tmp_path / "file" / "below")


def test_a_link_is_named_with_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    with pytest.raises(Refused, match="symbolic link") as refused:
        refuse_unless_empty(tmp_path / "link")
    assert re.search(f"{tmp_path}/there$", refused.value.hint)


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path) -> None:
    from holdfast.errors import PermissionRefused
    from tests.privileges import as_nobody

    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    with as_nobody():
        with pytest.raises(PermissionRefused, match="cannot look into"):
            refuse_unless_empty(closed / "x" / "y")
        free_bytes(closed / "x" / "y")
