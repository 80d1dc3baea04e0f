from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from holdfast import messages
from holdfast.config import (
    InitialRepository,
    InitialSource,
    PostgresSource,
    Secret,
    initial_configuration,
    parse_configuration,
    pin_repository,
    read_configuration,
    write_initial_configuration,
)
from holdfast.errors import PermissionRefused, Refused
from tests.privileges import NOBODY, as_nobody, require_root

CONNECTION = "host=localhost dbname='quo\"te\\d'"


def text() -> str:
    return initial_configuration(
        timezone="Asia/Shanghai",
        state_dir=Path("/var/lib/holdfast/state"),
        passphrase_file=Path("/etc/holdfast/口令"),
        source=InitialSource(name="tracker", connection=CONNECTION, bin=Path("/usr/lib/postgresql/15/bin")),
        repository=InitialRepository(
            name="remote",
            url="s3://bucket/x",
            options={"region": "auto"},
            variables={"access_key_id": "ID_VARIABLE", "access_key_secret": "SECRET"},
        ),
    )


def test_what_is_written_is_read_back() -> None:
    configuration = parse_configuration(text(), Path("/etc/holdfast"))
    source = configuration.source["tracker"]
    assert isinstance(source, PostgresSource)
    assert source.connection == CONNECTION
    assert source.bin == Path("/usr/lib/postgresql/15/bin")
    assert configuration.timezone == "Asia/Shanghai"
    assert configuration.passphrase == Secret(file="/etc/holdfast/口令")
    assert configuration.repository["remote"].access_key_id == Secret(env="ID_VARIABLE")
    assert configuration.warnings == ()


def test_it_is_written_new_with_its_mode_and_folders_and_can_be_pinned(tmp_path: Path) -> None:
    path = tmp_path / "etc/holdfast/holdfast.toml"
    umask = os.umask(0o077)
    try:
        write_initial_configuration(path, text())
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    pin_repository(path, "remote", "i", "k")
    assert read_configuration(path).repository["remote"].id == "i"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_group_may_be_that_of_the_service(tmp_path: Path) -> None:
    require_root()
    path = tmp_path / "holdfast.toml"
    write_initial_configuration(path, text(), group=NOBODY)
    assert path.stat().st_gid == NOBODY


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.toml"
    path.write_text("# mine\n")
    with pytest.raises(Refused, match="never overwritten"):
        write_initial_configuration(path, text())
    assert path.read_text() == "# mine\n"


def test_where_nobody_may_write(open_folder: Path) -> None:
    with as_nobody(), pytest.raises(PermissionRefused, match="cannot write"):
        write_initial_configuration(open_folder / "etc/holdfast.toml", text())
    assert not list(open_folder.iterdir())


def test_the_comments_speak_the_language(catalogues: None) -> None:
    messages.use_language("zh_CN")
    try:
        chinese = text()
    finally:
        messages.use_language("en")
    assert "口令" in chinese.replace("/etc/holdfast/口令", "")
    assert parse_configuration(chinese, Path("/etc/holdfast")) == parse_configuration(text(), Path("/etc/holdfast"))
