"""The files of a recovery as texts, and every exit of the wrapper under the real /bin/sh."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Damaged, UsageError
from holdfast.postgres.datadir import TablespaceLink, parse_tablespace_map
from holdfast.postgres.recovery import (
    CONSISTENT,
    END_OF_WAL,
    PLAN,
    RESTORE_COMMAND,
    WAL_DIR,
    WRAPPER,
    Recovery,
    Target,
    quoted,
    recovery_files,
    render_plan,
    render_wrapper,
    with_recovery_settings,
    without_recovery_settings,
)

SIZE = 1 << 20
FIRST, SECOND, ABSENT = "000000010000000000000001", "000000010000000000000002", "000000010000000000000003"
HISTORY = "00000002.history"
PLANNED = (FIRST, SECOND, HISTORY)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A restored folder with two planned segments and a history file."""
    folder = tmp_path / "a restored $(folder)"
    (folder / WAL_DIR).mkdir(parents=True)
    (folder / "pg_wal").mkdir()
    for name in (FIRST, SECOND):
        (folder / WAL_DIR / name).write_bytes(name[-1:].encode() * SIZE)
    (folder / WAL_DIR / HISTORY).write_text("1\t0/3000000\tno reason\n")
    (folder / PLAN).write_bytes(render_plan(PLANNED))
    (folder / WRAPPER).write_bytes(render_wrapper(SIZE, PLANNED))
    return folder


SHELLS = [shell for shell in ("/bin/sh", "/bin/dash", "/bin/bash", "/bin/busybox") if Path(shell).exists()]


def command(
    data: Path, name: str, goal: str = "pg_wal/RECOVERYXLOG", *, shell: str = "/bin/sh", **environment: str
) -> int:
    """The exit of restore_command as PostgreSQL runs it: through ``sh -c``, its placeholders filled in."""
    line = RESTORE_COMMAND.replace("%f", name).replace("%p", goal)
    done = subprocess.run(
        ["sh", "-c", line], executable=shell, cwd=data, env=environment, capture_output=True, check=False
    )
    return done.returncode


def goal(data: Path) -> Path:
    return data / "pg_wal" / "RECOVERYXLOG"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", [FIRST, SECOND, HISTORY])
def test_a_planned_file_is_copied_whole(data: Path, name: str, shell: str) -> None:
    assert command(data, name, shell=shell) == 0
    assert goal(data).read_bytes() == (data / WAL_DIR / name).read_bytes()
    assert os.listdir(data / "pg_wal") == ["RECOVERYXLOG"]  # noqa: PTH208
    assert not goal(data).samefile(data / WAL_DIR / name)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", [ABSENT, "00000003.history", "0000000100000000000000", ".*", "*", FIRST + "0"])
def test_what_is_not_planned_ends_the_archive(data: Path, name: str, shell: str) -> None:
    assert command(data, name, shell=shell) == 1
    assert not goal(data).exists()


def test_what_lies_there_unplanned_is_not_taken(data: Path) -> None:
    (data / WAL_DIR / ABSENT).write_bytes(b"3" * SIZE)
    assert command(data, ABSENT) == 1


def _missing(data: Path) -> None:
    (data / WAL_DIR / SECOND).unlink()


def _short(data: Path) -> None:
    os.truncate(data / WAL_DIR / SECOND, SIZE - 1)


def _long(data: Path) -> None:
    os.truncate(data / WAL_DIR / SECOND, SIZE + 1)


def _folder(data: Path) -> None:
    _missing(data)
    (data / WAL_DIR / SECOND).mkdir()


def _goal_not_writable(data: Path) -> None:
    (data / "pg_wal").rmdir()


def _no_plan(data: Path) -> None:
    (data / PLAN).unlink()


def _empty_plan(data: Path) -> None:
    (data / PLAN).write_bytes(b"")


def _plan_is_a_folder(data: Path) -> None:
    _no_plan(data)
    (data / PLAN).mkdir()


def _empty_segment(data: Path) -> None:
    (data / WAL_DIR / SECOND).write_bytes(b"")


def _without_all_wal(data: Path) -> None:
    shutil.rmtree(data / WAL_DIR)


DAMAGES = [
    *(_missing, _short, _long, _folder, _empty_segment, _without_all_wal, _goal_not_writable),
    *(_no_plan, _empty_plan, _plan_is_a_folder),
]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_planned_file_that_cannot_be_had_whole_aborts(data: Path, damage: Callable[[Path], None], shell: str) -> None:
    damage(data)
    assert command(data, SECOND, shell=shell) == 126
    assert not goal(data).exists()
    assert not goal(data).with_suffix(".partial").exists()


@pytest.mark.parametrize("name", [SECOND, HISTORY])
def test_a_planned_file_that_cannot_be_read_aborts(data: Path, name: str) -> None:
    (data / WAL_DIR / name).unlink()
    (data / WAL_DIR / name).symlink_to("/proc/self/mem")  # there, open to its owner, and every read of it fails
    assert command(data, name) == 126


def test_a_history_file_that_is_empty_or_missing_aborts(data: Path) -> None:
    (data / WAL_DIR / HISTORY).write_bytes(b"")
    assert command(data, HISTORY) == 126
    (data / WAL_DIR / HISTORY).unlink()
    assert command(data, HISTORY) == 126


@pytest.mark.parametrize("shell", SHELLS)
def test_a_wrapper_that_is_gone_aborts_whatever_was_asked_for(data: Path, shell: str) -> None:
    (data / WRAPPER).unlink()
    assert command(data, FIRST, shell=shell) == command(data, ABSENT, shell=shell) == 126


@pytest.mark.parametrize("shell", SHELLS)
def test_a_wrapper_cut_short_anywhere_never_ends_the_archive(data: Path, shell: str) -> None:
    whole = (data / WRAPPER).read_bytes()
    complete = len(whole.rstrip())
    for end in [*range(0, complete, 31), *range(complete - 14, complete)]:
        (data / WRAPPER).write_bytes(whole[:end])
        codes = {command(data, name, shell=shell, answer="not-planned", planned="\nend\n") for name in (FIRST, ABSENT)}
        assert codes == {126}, whole[:end].decode()[-40:]
    (data / WRAPPER).write_bytes(whole[:complete])
    assert command(data, FIRST, shell=shell) == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_a_plan_cut_short_or_changed_anywhere_never_ends_the_archive(data: Path, shell: str) -> None:
    whole = (data / PLAN).read_bytes()
    complete = len(whole.rstrip())
    for end in range(0, complete, 3):
        (data / PLAN).write_bytes(whole[:end])
        assert command(data, SECOND, shell=shell) == command(data, ABSENT, shell=shell) == 126, whole[:end]
    for changed in (bytes(len(whole)), whole.replace(SECOND.encode(), bytes(24)), whole.replace(SECOND.encode(), b"")):
        (data / PLAN).write_bytes(changed)
        assert command(data, SECOND, shell=shell) == 126
    (data / PLAN).write_bytes(whole[:complete])
    assert command(data, ABSENT, shell=shell) == 1


def test_whatever_ends_the_shell_on_the_way_aborts(data: Path) -> None:
    whole = (data / WRAPPER).read_text()
    ends = ("exit 0", "exit 1", "exit 64", "return 1", "false || exit", "$(", "no_such_program; exit", "kill -9 $$")
    for line in ends:
        (data / WRAPPER).write_text(f"{line}\n{whole}" if line != "return 1" else line)
        assert command(data, FIRST) not in range(126), line


def test_programs_that_are_missing_abort(data: Path) -> None:
    script = (data / WRAPPER).read_bytes()
    (data / WRAPPER).write_bytes(re.sub(rb"^PATH=.*$", b"PATH=/nowhere", script, flags=re.MULTILINE))
    assert command(data, FIRST) == 126


def test_arguments_that_are_missing_abort(data: Path) -> None:
    assert command(data, "") == command(data, FIRST, "") == 126


def test_a_full_disk_aborts(data: Path) -> None:
    line = RESTORE_COMMAND.replace("%f", FIRST).replace("%p", "pg_wal/RECOVERYXLOG")
    limited = f"ulimit -f 512; {line}"  # half a segment in 1 KiB or 512 B
    done = subprocess.run(["/bin/sh", "-c", limited], cwd=data, env={}, capture_output=True, check=False)
    assert done.returncode == 126, done
    assert not goal(data).exists()


def test_ten_thousand_planned_segments_are_no_burden(data: Path) -> None:
    names = tuple(f"000000010000{number:012X}" for number in range(10_000))
    (data / PLAN).write_bytes(render_plan(names))
    (data / WRAPPER).write_bytes(render_wrapper(SIZE, names))
    (data / WAL_DIR / names[-1]).write_bytes(bytes(SIZE))
    assert command(data, names[-1]) == 0
    assert command(data, names[0]) == 126
    assert command(data, "000000020000000000000000") == 1


def test_the_setting_survives_the_configuration_file_and_the_shell() -> None:
    assert "'" not in RESTORE_COMMAND
    assert "\\" not in RESTORE_COMMAND
    assert all(part[0] in "fp" for part in RESTORE_COMMAND.split("%")[1:])


def test_the_settings_of_another_recovery_are_replaced_and_the_users_kept() -> None:
    before = (
        b"# Do not edit\nwork_mem = '5MB'\nrestore_command = 'other'\nRECOVERY_TARGET_LSN='0/5'\n"
        b"recovery_target_xid 7\nprimary_conninfo = 'host=primary'\nsearch_path = 'a\xff, recovery_target'\nx.y = 'z'"
    )
    after = with_recovery_settings(before, Target(setting="recovery_target_lsn", value="0/3000060", inclusive=False))
    assert b"work_mem = '5MB'\n" in after
    assert b"search_path = 'a\xff, recovery_target'\nx.y = 'z'\n" in after
    assert b"other" not in after
    assert b"host=primary" not in after
    assert b"xid 7" not in after
    assert after.count(b"recovery_target_lsn") == 1
    assert with_recovery_settings(after, CONSISTENT) == with_recovery_settings(before, CONSISTENT)
    assert without_recovery_settings(after) == (
        b"# Do not edit\nwork_mem = '5MB'\nsearch_path = 'a\xff, recovery_target'\nx.y = 'z'\n"
    )


@pytest.mark.parametrize(
    "target", [CONSISTENT, END_OF_WAL, Target(setting="recovery_target_time", value="2026-11-22 14:03:00+08:00")]
)
def test_one_target_is_set_and_every_other_blank(target: Target) -> None:
    found = with_recovery_settings(b"", target).decode().splitlines()
    for name in ("", "_lsn", "_name", "_time", "_xid"):
        setting = f"recovery_target{name}"
        wanted = target.value if setting == target.setting else ""
        assert f"{setting} = '{wanted}'" in found
    assert "recovery_target_action = 'promote'" in found
    assert "recovery_target_timeline = 'latest'" in found


def test_a_restored_folder_gets_all_files_and_never_keeps_a_tablespace_map() -> None:
    plain = recovery_files(Recovery(planned=(FIRST,), wal_segment_size=SIZE))
    assert plain["recovery.signal"] == plain["tablespace_map"] == b""
    assert plain[PLAN] == b"planned='\n" + FIRST.encode() + b"\nend\n'\n"
    moved = recovery_files(Recovery(planned=(FIRST,), wal_segment_size=SIZE, tablespaces={16385: "/a b\n表", 9: "/c"}))
    assert parse_tablespace_map(moved["tablespace_map"]) == (
        TablespaceLink(oid=9, location="/c"),
        TablespaceLink(oid=16385, location="/a b\n表"),
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"planned": ()},
        {"planned": (HISTORY,)},
        {"planned": (FIRST, "../../etc/passwd")},
        {"planned": (FIRST, "backup_label")},
        {"wal_segment_size": 12345},
    ],
)
def test_what_cannot_be_a_recovery_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Recovery(**{"planned": (FIRST,), "wal_segment_size": SIZE, **wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("planned", "missing"),
    [
        ((FIRST, ABSENT), SECOND),
        ((FIRST, SECOND, "000000020000000000000004"), ABSENT),
        (("000000010000000000000FFF", "000000010000000100000001"), "000000010000000100000000"),
        ((FIRST, SECOND, HISTORY, "000000020000000000000002", ABSENT), ""),
        ((FIRST, SECOND, "000000020000000000000003"), ""),
        ((SECOND, FIRST), ""),
        (("000000010000000000000FFF", "000000010000000100000000"), ""),
    ],
)
def test_a_plan_with_a_gap_is_refused(planned: tuple[str, ...], missing: str) -> None:
    if missing:
        with pytest.raises(Damaged, match=missing):
            Recovery(planned=planned, wal_segment_size=SIZE)
    else:
        Recovery(planned=planned, wal_segment_size=SIZE)


@pytest.mark.parametrize(("setting", "value"), [("recovery_target", ""), ("", "x"), ("work_mem", "4MB")])
def test_what_cannot_be_a_target_is_refused(setting: str, value: str) -> None:
    with pytest.raises(UsageError):
        Target(setting=setting, value=value)


@given(st.text(st.characters(exclude_characters="\n\r\0", exclude_categories=["Cs"])))
def test_quoting_is_undone_by_the_servers_rules(value: str) -> None:
    text = quoted(value)
    assert text[0] == text[-1] == "'"
    assert text[1:-1].replace("''", "'").replace("\\\\", "\\") == value
    assert "'" not in text[1:-1].replace("''", "")


def test_a_newline_cannot_be_quoted() -> None:
    with pytest.raises(UsageError):
        quoted("a\nb")
