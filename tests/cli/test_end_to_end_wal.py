"""The disaster that continuous WAL is for, on a Debian cluster, as each user, from a wheel, with an empty environment.

The restored folder is then started by Debian's own command, with Holdfast uninstalled.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import moved_away
from tests.cli.users import as_user_of, home_of, run_as
from tests.privileges import require_root
from tests.servers import Cluster, Servers, debian_cluster, run, wait_until


@contextmanager
def receiving(program: Path, user: pwd.struct_passwd, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (
        (home / "receiver.log").open("wb") as log,
        subprocess.Popen(
            [str(program), "--config", str(home / "etc" / "holdfast.toml"), "wal", "receive"],
            user=user.pw_uid, group=user.pw_gid, extra_groups=[], env={}, cwd="/",
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        ) as process,
    ):  # fmt: skip
        try:
            yield process
        except AssertionError as error:
            error.add_note((home / "receiver.log").read_text(errors="replace"))
            raise
        finally:
            process.kill()


def is_durable(cluster: Cluster, slot: str, lsn: str) -> bool:
    """Whether the receiver has confirmed everything up to there."""
    return bool(cluster.value(f"select restart_lsn >= '{lsn}' from pg_replication_slots where slot_name = '{slot}'"))


@pytest.mark.parametrize(("name", "after"), [("root", False), ("postgres", True), ("nobody", False)])
def test_to_the_last_second(request: pytest.FixtureRequest, servers: Servers, name: str, *, after: bool) -> None:
    """To a moment before rows were deleted, or to the last."""
    require_root()
    with debian_cluster(15) as cluster:
        program: Path = request.getfixturevalue("installed")
        user = pwd.getpwnam(name)
        home, as_user = home_of(servers, user), as_user_of(program, user)
        cluster.execute("create table daily_blueprints as select n from generate_series(1, 1000) n")
        options = ("--connection", cluster.tcp_dsn(), "--repository-url", home / "repository", "--no-recovery-key")
        as_user("init", *options, home=home)
        with receiving(program, user, home) as receiver:
            wait_until(
                lambda: json.loads(as_user("list", "--json", home=home))["snapshots"], "the first snapshot is taken", 60
            )
            cluster.execute("insert into daily_blueprints values (1001)")
            moment = cluster.value("select clock_timestamp()::text")
            cluster.execute("delete from daily_blueprints where n <= 777")
            lsn = cluster.value("select pg_current_wal_flush_lsn()::text")
            wait_until(lambda: is_durable(cluster, "holdfast_main", lsn), "the deletion is durable")
            cluster.kill()
            receiver.kill()
            receiver.wait()
        target = "latest" if after else moment
        document = json.loads(as_user("restore", "--to", home / "data", "--at", target, "--start", "--json", home=home))
        started = document["started"]
        identity: dict[str, Any] = {} if user.pw_uid == 0 else {"user": user.pw_uid, "group": user.pw_gid}
        try:
            found = run(
                [
                    *(cluster.bin / "psql", "-XAtc", "select count(*) from daily_blueprints"),
                    *("-h", started["socket_dir"], "-p", str(started["port"]), "-U", "postgres", "postgres"),
                ],
                **identity,
            )
            assert int(found.stdout) == (224 if after else 1001)
        finally:
            run_as(user, started["stop_command"])
            Path(started["socket_dir"]).rmdir()


def test_debian_starts_what_was_restored_when_holdfast_is_gone(
    request: pytest.FixtureRequest, servers: Servers
) -> None:
    """Everything is lost but the repository; the folder goes where the cluster was."""
    require_root()
    user = pwd.getpwnam("postgres")
    with debian_cluster(15) as cluster:
        program: Path = request.getfixturevalue("installed")
        home, as_user = home_of(servers, user), as_user_of(program, user)
        as_user(
            *("init", "--connection", cluster.tcp_dsn(), "--repository-url", home / "repository", "--no-recovery-key"),
            home=home,
        )
        cluster.execute("create table daily_blueprints as select n from generate_series(1, 1000) n")
        with receiving(program, user, home) as receiver:
            wait_until(
                lambda: json.loads(as_user("list", "--json", home=home))["snapshots"], "the first snapshot is taken", 60
            )
            cluster.execute("insert into daily_blueprints select n from generate_series(1001, 2000) n")
            lsn = cluster.value("select pg_current_wal_flush_lsn()::text")
            wait_until(lambda: is_durable(cluster, "holdfast_main", lsn), "it is durable")
            cluster.kill()
            receiver.kill()
            receiver.wait()
        name = cluster.data_dir.name
        shutil.rmtree(cluster.data_dir)
        cluster.data_dir.parent.chmod(0o755)
        os.chown(cluster.data_dir.parent, user.pw_uid, user.pw_gid)
        as_user("restore", "--to", cluster.data_dir, "--at", "latest", home=home)
        with moved_away(program.parent.parent), moved_away(home / "repository"):
            run(
                ["pg_ctlcluster", "--skip-systemctl-redirect", "15", name, "start"],
                user=None, group=None, extra_groups=None, env={},
            )  # fmt: skip
            wait_until(lambda: not cluster.value("select pg_is_in_recovery()"), "recovery has ended")
            assert cluster.value("select count(*) from daily_blueprints") == 2000
            cluster.execute("insert into daily_blueprints values (2001)")
