from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from holdfast.config import Secret, secret
from holdfast.errors import ConfigError
from tests.privileges import as_nobody


def refused(one: Secret, folder: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        one.reveal(folder)
    assert caught.value.hint
    return f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"hunter2", "hunter2"),
        (b"hunter2\n", "hunter2"),
        (b"hunter2\r\n", "hunter2"),
        (b"a\n\n", "a\n"),
        (b" a ", " a "),
    ],
)
def test_a_file_gives_its_text_less_one_newline(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    assert Secret(file="secret").reveal(tmp_path) == expected
    assert Secret(file=str(tmp_path / "secret")).reveal(Path("/nowhere")) == expected


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"\n", "empty"), (b"\xff\xfe", "UTF-8")])
def test_a_file_without_a_usable_secret_is_an_error(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    told = refused(Secret(file="secret"), tmp_path)
    assert reason in told
    assert str(tmp_path / "secret") in told


def test_files_that_cannot_be_read(open_folder: Path) -> None:
    assert "does not exist" in refused(Secret(file="absent"), open_folder)
    assert "directory" in refused(Secret(file="."), open_folder)
    (open_folder / "secret").write_text("hunter2")
    (open_folder / "secret").chmod(0o600)
    with as_nobody():
        told = refused(Secret(file="secret"), open_folder)
    assert "may not be read by the user" in told


def test_a_file_that_others_may_read_is_a_concern(tmp_path: Path) -> None:
    path = tmp_path / "it's"
    path.write_text("hunter2")
    for mode, concerned in ((0o600, False), (0o400, False), (0o640, True), (0o604, True), (0o620, True)):
        path.chmod(mode)
        concern = Secret(file="it's").concern(tmp_path)
        assert bool(concern) == concerned
        if concern:
            assert f"{mode:04o}" in concern
            assert "chmod 600" in concern
    assert not Secret(file="absent").concern(tmp_path)
    assert not Secret(env="HOME").concern(tmp_path)


def test_an_environment_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOLDFAST_TEST_SECRET", "hunter2")
    assert Secret(env="HOLDFAST_TEST_SECRET").reveal(tmp_path) == "hunter2"
    monkeypatch.setenv("HOLDFAST_TEST_SECRET", "")
    assert "HOLDFAST_TEST_SECRET" in refused(Secret(env="HOLDFAST_TEST_SECRET"), tmp_path)
    monkeypatch.delenv("HOLDFAST_TEST_SECRET")
    assert "HOLDFAST_TEST_SECRET is not set" in refused(Secret(env="HOLDFAST_TEST_SECRET"), tmp_path)


def test_a_command_gives_what_it_prints(tmp_path: Path) -> None:
    (tmp_path / "pp").write_text("hunter2\n")
    assert Secret(command="cat pp | cat").reveal(tmp_path) == "hunter2"


def test_a_command_that_fails_tells_its_last_complaint_and_never_its_output(tmp_path: Path) -> None:
    told = refused(Secret(command="printf hunter2; echo first >&2; echo no such vault >&2; exit 3"), tmp_path)
    assert "exit code 3: no such vault" in told
    assert "hunter2" not in told
    assert "first" not in told
    assert "it said nothing" in refused(Secret(command="exit 1"), tmp_path)
    assert "empty" in refused(Secret(command="true"), tmp_path)


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secret, "COMMAND_SECONDS", 0.5)
    began = time.monotonic()
    told = refused(Secret(command="sleep 600 & echo $! > child; wait"), tmp_path)
    assert "did not end within 0.5 seconds" in told
    assert time.monotonic() - began < 20
    child = int((tmp_path / "child").read_text())
    limit = time.monotonic() + 10
    while _runs(child):
        assert time.monotonic() < limit, "the command's child lives on"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_command_gets_no_input(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"what the operator types\n")
    os.close(writing)
    ours = os.dup(0)
    os.dup2(reading, 0)
    try:
        assert Secret(command="cat; echo end").reveal(tmp_path) == "end"
    finally:
        os.dup2(ours, 0)
        os.close(ours)
        os.close(reading)
