"""Finding a server's programs, running it as the right user, and ending it."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import HoldfastError
from holdfast.postgres import instance as module
from holdfast.postgres.accounts import Account, closed_folder, server_account
from holdfast.postgres.binaries import find_binaries, version_of
from holdfast.postgres.facts import RecoveryLimits
from holdfast.postgres.instance import (
    Instance,
    initdb,
    is_running_on,
    read_postmaster_file,
    start,
    stop_by_data_dir,
)
from holdfast.postgres.overrides import Place, command_line, overrides
from holdfast.postgres.signals import signals_deferred
from tests.requirements import require
from tests.servers import Cluster, Servers, binaries, every_version


@every_version
def test_the_version_that_was_asked_for_is_found(major: int) -> None:
    folder = binaries(major)
    assert version_of(folder) == major
    assert find_binaries(major, [Path("/nonexistent"), folder], search_path="") == folder
    others = [binaries(15), binaries(16), folder]
    assert version_of(find_binaries(major, others)) == major


def test_the_path_is_searched_and_links_are_followed(tmp_path: Path) -> None:
    real = binaries(16)
    (tmp_path / "postgres").symlink_to(real / "postgres")  # without pg_ctl beside it, as alternatives make it
    assert find_binaries(16, search_path=str(tmp_path)) == real.resolve()


def test_debians_folder_is_known() -> None:
    require(Path("/usr/lib/postgresql/15/bin/postgres").exists(), "no Debian PostgreSQL 15")
    assert find_binaries(15, search_path="") == Path("/usr/lib/postgresql/15/bin")


def test_a_version_that_is_not_there_says_where_it_was_sought() -> None:
    with pytest.raises(HoldfastError, match="/usr/pgsql-97/bin") as caught:
        find_binaries(97, [Path("/my/own")])
    assert "/my/own" in str(caught.value)
    assert "postgresql-97" in caught.value.hint


def test_who_can_enter_a_folder(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    stranger = Account(name="stranger", uid=54321, gid=54321)
    (tmp_path / "a").chmod(0o700)
    first = closed_folder(inner, stranger)
    assert first is not None
    assert first in (tmp_path / "a", *tmp_path.parents, tmp_path)
    owner = Account(name="owner", uid=tmp_path.stat().st_uid, gid=54321)
    assert closed_folder(inner, owner) is None


def test_root_never_runs_a_server_itself(tmp_path: Path) -> None:
    require(os.geteuid() == 0, "only root runs servers as somebody else")
    assert server_account().uid != 0
    os.chown(tmp_path, 54321, 54322)
    assert server_account(tmp_path) == Account(name="54321", uid=54321, gid=54322)


def _new(servers: Servers) -> tuple[Path, Instance]:
    home = servers.new_folder("i")
    account = server_account()
    initdb(home / "data", binaries=binaries(15), account=account, options=["--no-sync", "--locale=C.UTF-8"])
    instance = start(
        home / "data", binaries=binaries(15), account=account, clock=SystemClock(), log=home / "log", listen=False
    )
    return home, instance


def test_a_scope_ends_its_server_even_on_an_error(servers: Servers) -> None:
    _home, instance = _new(servers)
    assert instance.is_running()
    with pytest.raises(ZeroDivisionError), instance:
        raise ZeroDivisionError
    assert not instance.is_running()
    assert not instance.socket_dir.exists()
    assert read_postmaster_file(instance.data_dir) is None


def test_a_server_left_running_is_ended_by_its_folder(servers: Servers) -> None:
    _home, instance = _new(servers)
    with instance:
        instance.leave_running()
    pid, data = instance.pid, instance.data_dir
    assert os.getsid(pid) == pid  # Ctrl-C at our terminal does not reach it
    found = read_postmaster_file(data)
    assert found is not None
    assert (found.pid, found.port, found.status) == (pid, instance.port, "ready")
    socket_dir = instance.socket_dir
    stop_by_data_dir(data, binaries=binaries(15), account=server_account())
    assert read_postmaster_file(data) is None
    stop_by_data_dir(data, binaries=binaries(15), account=server_account())
    assert not instance.is_running()
    shutil.rmtree(socket_dir)
    gc.collect()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_server_is_launched_leaves_none_behind(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    home, first = _new(servers)
    first.stop()
    made: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def interrupted_popen(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        made.append(real(*arguments, **options))
        signal.raise_signal(number)  # as late as it can come before anybody knows of the process
        return made[-1]

    def handler(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(number, handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(module.subprocess, "Popen", interrupted_popen)  # type: ignore[attr-defined]
            with pytest.raises(KeyboardInterrupt):
                start(
                    home / "data", binaries=binaries(15), account=server_account(), clock=SystemClock(),
                    log=home / "log", listen=False,
                )  # fmt: skip
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    (process,) = made
    assert process.poll() is not None
    assert not is_running_on(home / "data")


def test_deferred_signals_are_handled_once_at_the_end() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    try:
        with signals_deferred():
            signal.raise_signal(signal.SIGTERM)
            assert not came
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_server_is_told_from_the_file_that_a_dead_one_left(servers: Servers) -> None:
    home, instance = _new(servers)
    assert is_running_on(home / "data")
    said = (home / "data" / "postmaster.pid").read_bytes()
    instance.stop()
    assert not is_running_on(home / "data")
    (home / "data" / "postmaster.pid").write_bytes(said)
    assert not is_running_on(home / "data")


def test_a_server_that_hangs_is_killed(servers: Servers) -> None:
    _home, instance = _new(servers)
    os.kill(instance.pid, signal.SIGSTOP)
    instance.stop(limit=0.5)
    assert not instance.is_running()


def test_a_server_that_dies_while_it_is_waited_for_is_noticed(servers: Servers) -> None:
    _home, instance = _new(servers)
    instance.stop()
    with pytest.raises(HoldfastError, match="ended instead of starting"):
        instance.wait_until_ready()


def test_a_failing_initdb_says_why(servers: Servers) -> None:
    home = servers.new_folder("i")
    (home / "data").mkdir()
    (home / "data" / "something").touch()
    with pytest.raises(HoldfastError, match="cannot create a cluster") as caught:
        initdb(home / "data", binaries=binaries(15), account=server_account())
    assert "not empty" in caught.value.hint


LIMITS = RecoveryLimits(
    max_connections=5,
    max_worker_processes=6,
    max_wal_senders=7,
    max_prepared_transactions=0,
    max_locks_per_transaction=10,
)
PLACE = Place(
    data_dir=Path("/d"),
    config_file=Path("/c"),
    hba_file=Path("/h"),
    ident_file=Path("/i"),
    socket_dir=Path("/s"),
    port=1,
    name="n",
    listen=False,
)


def test_every_override_is_known_to_the_version_it_is_given_to(make_cluster: Callable[..., Cluster]) -> None:
    for major in (15, 18):
        known = {name for (name,) in make_cluster(major).execute("select name from pg_settings")}
        given = overrides(PLACE, major=major, limits=LIMITS, preload=())
        assert {override.name for override in given if "." not in override.name} <= known
        assert all(override.reason for override in given)


def test_libraries_that_reading_needs_are_kept_and_others_dropped() -> None:
    given = overrides(
        PLACE, major=15, limits=LIMITS, preload=("pg_cron", "$libdir/pg_stat_statements", "timescaledb", "unheard_of")
    )
    assert "shared_preload_libraries=timescaledb,unheard_of" in command_line(given)


def test_the_callers_settings_come_last() -> None:
    arguments = command_line(overrides(PLACE, major=15, limits=LIMITS, preload=()), {"port": "2"})
    assert arguments.index("port=2") > arguments.index("port=1")
    assert "max_connections=5" in arguments
    assert "max_prepared_transactions=0" in arguments
