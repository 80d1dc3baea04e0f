"""From nothing to a recovered cluster through the command line, and what an end in the middle leaves behind."""

from __future__ import annotations

import json
import pwd
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.site import Site, new_site, run, running
from tests.cli.users import as_user_of, home_of, run_as
from tests.object_servers import moto_server
from tests.privileges import require_root
from tests.servers import MAJORS, Cluster, Servers, binaries, debian_cluster, free_port, wait_until
from tests.servers import run as run_program

MakeCluster = Callable[..., Cluster]
SIGNAL_LIMIT = 1.5
"""A second, and what a busy machine takes to notice it."""


def dump(programs: Path, *, host: Path | str, port: int, identity: Mapping[str, int] | None = None) -> str:
    """Everything that a cluster says of itself, the same for the same content."""
    program = programs / "pg_dumpall"
    fixed = ["--restrict-key=x"] if "restrict-key" in run_program([program, "--help"]).stdout else []
    options: dict[str, Any] = dict(identity or {})
    text = run_program([program, *fixed, "-h", str(host), "-p", str(port), "-U", "postgres"], **options).stdout
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith(("\\restrict", "\\unrestrict"))
    )


def stop(started: dict[str, Any]) -> None:
    done = subprocess.run(started["stop_command"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    Path(started["socket_dir"]).rmdir()


@pytest.mark.parametrize(
    "major", [pytest.param(major, marks=[] if major == 15 else pytest.mark.slow) for major in MAJORS]
)
def test_from_nothing_to_a_recovered_cluster(
    major: int, make_cluster: MakeCluster, servers: Servers, tmp_path: Path
) -> None:
    cluster = make_cluster(major, tablespace=True)
    cluster.pgbench_init(1)
    cluster.execute("create table in_ts tablespace ts1 as select generate_series(1, 9000) n")
    role = "holdfast"
    site = Site(folder=tmp_path / "配 置", cluster=cluster)
    site.well(
        *("init", "--connection", cluster.dsn(user=role), "--admin", cluster.dsn()),
        *("--repository-url", site.repository, "--source", "tracker"),
    )
    with site.configuration.open("r+") as file:
        text = file.read().replace("[source.tracker]", f'[source.tracker]\nbin = "{cluster.bin}"')
        file.seek(0)
        file.write(text)
    assert all(finding["status"] != "failed" for finding in site.ask("check", code=3)["findings"])
    before = dump(cluster.bin, host=cluster.socket_dir, port=cluster.port)
    taken = site.ask("backup")["snapshots"]
    assert [snapshot["label"] for snapshot in site.ask("list")["snapshots"]] == [taken[0]["label"]]
    assert site.ask("verify")["good"]
    cluster.kill()
    shutil.rmtree(cluster.data_dir)
    shutil.rmtree(cluster.tablespaces["ts1"])
    back = servers.new_folder("back")
    shown = site(
        *("restore", "--to", back / "data", "--tablespace", f"ts1={back}/快 盘", "--start", "--json"), "--verbose"
    )
    assert shown.returncode == 0, shown.stderr
    document = json.loads(shown.stdout)
    started = document["started"]
    try:
        assert started["timeline"] == 2
        assert document["plan"]["tablespaces"].values()
        after = dump(cluster.bin, host=started["socket_dir"], port=started["port"])
        moved = before.replace(str(cluster.tablespaces["ts1"]), f"{back}/快 盘")
        assert after == moved
        assert "user=postgres" in started["connection"]
    finally:
        stop(started)
    run_program([cluster.bin / "pg_checksums", "--check", "-D", back / "data"])
    control = run_program([cluster.bin / "pg_controldata", "-D", back / "data"]).stdout
    assert "shut down" in control


def test_what_restore_prints_starts_it_for_good(cluster: Cluster, servers: Servers, tmp_path: Path) -> None:
    """After ``--start``, and without it."""
    site = new_site(tmp_path, cluster)
    site.well("backup")
    before = dump(cluster.bin, host=cluster.socket_dir, port=cluster.port)
    for options in ((), ("--start",)):
        back = servers.new_folder("back") / "data"
        document = site.ask("restore", "--to", back, *options)
        if options:
            stop(document["started"])
        port, sockets = free_port(), servers.new_folder("s")
        command = [*document["start_command"], "-o", f"-p {port} -k {sockets}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        try:
            assert dump(cluster.bin, host=sockets, port=port) == before
        finally:
            run_program([cluster.bin / "pg_ctl", "stop", "-m", "fast", "-D", back])


@pytest.mark.slow
def test_without_the_programs_nothing_is_restored(make_cluster: MakeCluster, servers: Servers, tmp_path: Path) -> None:
    site = new_site(tmp_path, make_cluster(18))
    site.well("backup")
    target = servers.new_folder("back") / "data"
    ended = run(
        "--config", site.configuration, "restore", "--to", target, "--start", variables={"PATH": "/usr/bin:/bin"}
    )
    assert ended.returncode == 1, ended.stderr
    assert "PostgreSQL 18 is not installed" in ended.stderr
    assert "postgresql-18" in ended.stderr
    assert not target.exists()
    started = site.ask("restore", "--to", target, "--start", "--bin", binaries(18))["started"]
    stop(started)


def test_an_object_store(cluster: Cluster, servers: Servers, tmp_path: Path) -> None:
    with moto_server() as server:
        server.create_bucket("backups")
        credentials = {
            "AWS_ACCESS_KEY_ID": server.access_key_id,
            "AWS_SECRET_ACCESS_KEY": server.access_key_secret,
        }
        site = Site(folder=tmp_path, cluster=cluster)
        site.well(
            *("init", "--connection", cluster.dsn(), "--repository-url", "s3://backups/holdfast"),
            *("--option", f"endpoint={server.endpoint}", "--no-recovery-key"),
            variables=credentials,
        )
        text = site.configuration.read_text()
        assert server.access_key_secret not in text
        assert "AWS_SECRET_ACCESS_KEY" in text
        site.well("backup", variables=credentials)
        assert "create" in site.well("check", code=3, variables=credentials)
        kit = site.well("kit", variables=credentials)
        assert server.access_key_secret not in kit
        (line,) = [line.strip() for line in kit.splitlines() if " restore main --from s3://" in line]
        target = servers.new_folder("back") / "data"
        words = shlex.split(line)[1:]
        words[words.index("/root/secret")] = str(site.passphrase)
        words[words.index("--to") + 1] = str(target)
        ended = run(*words, "--json", variables=credentials, cwd=Path("/"))
        assert ended.returncode == 0, ended.stderr
        stop(json.loads(ended.stdout)["started"])


@pytest.fixture(scope="module")
def large(servers: Servers) -> Iterator[Cluster]:
    """A snapshot of it takes several packs."""
    cluster = servers.make_cluster(15)
    cluster.execute(
        "create table noise as select md5(random()::text) a, md5(random()::text) b from generate_series(1, 1500000)"
    )
    yield cluster
    servers.remove(cluster)


@pytest.fixture
def growing(cluster: Cluster, large: Cluster, tmp_path: Path) -> Site:
    """A site with one snapshot, and a source ``large`` that has none yet."""
    site = new_site(tmp_path, cluster)
    site.well("backup")
    with site.configuration.open("a") as file:
        file.write(f'[source.large]\ntype = "postgres"\nconnection = "{large.dsn()}"\n')
    return site


@contextmanager
def backing_up(site: Site) -> Iterator[subprocess.Popen[str]]:
    """Inside, a backup has brought some packs into the repository, and goes on."""
    before = len(site.packs())
    with running("--config", site.configuration, "backup", "large") as process:
        wait_until(lambda: len(site.packs()) > before or process.poll() is not None, "a pack is uploaded", 60)
        assert process.poll() is None, "it was too fast to be caught"
        yield process


def test_killed_in_the_middle_of_a_backup(growing: Site, large: Cluster) -> None:
    (first,) = growing.ask("list")["snapshots"]
    with backing_up(growing) as process:
        process.kill()
        process.wait()
    uploaded = growing.packs()
    assert growing.ask("verify")["good"]
    assert growing.ask("list")["snapshots"] == [first]
    (second,) = growing.ask("backup", "large")["snapshots"]
    assert set(uploaded) < set(growing.packs())
    assert second["totals"]["added_content"] < large.value("select pg_relation_size('noise')")
    assert growing.ask("verify")["snapshots"] == 2


def test_interrupted_in_the_middle_of_a_backup(growing: Site, large: Cluster) -> None:
    with backing_up(growing) as process:
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=60)
        took = time.monotonic() - began
    assert process.returncode == 130
    assert took < SIGNAL_LIMIT
    assert "no snapshot was made" in err.lower()
    assert "the next backup reuses" in err.lower()
    assert "Traceback" not in err
    assert growing.ask("verify")["snapshots"] == 1
    assert large.value("select count(*) from pg_stat_replication") == 0


def test_interrupted_in_the_middle_of_a_restore(growing: Site, servers: Servers) -> None:
    growing.well("backup", "large")
    target = servers.new_folder("back") / "data"
    with running("--config", growing.configuration, "restore", "large", "--to", target) as process:
        wait_until((target / "base").exists, "the restore has begun", 60)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _out, err = process.communicate(timeout=60)
        took = time.monotonic() - began
    assert process.returncode == 130, err
    assert took < SIGNAL_LIMIT
    assert f"rm -r -- {target}" in err
    assert (target / "holdfast-restore-incomplete").exists()
    assert not (target / "recovery.signal").exists()


def test_three_users_and_a_debian_cluster(request: pytest.FixtureRequest, servers: Servers) -> None:
    """As root, as postgres and as somebody else, from a wheel, with an empty environment."""
    require_root()
    with debian_cluster(15) as cluster:
        program = request.getfixturevalue("installed")
        cluster.pgbench_init(1)
        before = dump(cluster.bin, host=cluster.socket_dir, port=cluster.port)
        users = [pwd.getpwnam("root"), pwd.getpwnam("postgres"), pwd.getpwnam("nobody")]
        homes = {user.pw_name: home_of(servers, user) for user in users}
        for user in users:
            home, as_user = homes[user.pw_name], as_user_of(program, user)
            options = ("--connection", cluster.tcp_dsn(), "--repository-url", home / "repository")
            as_user("init", *options, "--no-recovery-key", home=home)
            as_user("check", home=home, codes=(3,))
            as_user("backup", home=home)
            as_user("verify", home=home)
        cluster.kill()
        shutil.rmtree(cluster.data_dir)
        for user in users:
            home, as_user = homes[user.pw_name], as_user_of(program, user)
            document = json.loads(as_user("restore", "--to", home / "data", "--start", "--json", home=home))
            started = document["started"]
            try:
                # the socket's folder is open to whoever runs the server, and to nobody else
                identity = {} if user.pw_uid == 0 else {"user": user.pw_uid, "group": user.pw_gid}
                found = dump(cluster.bin, host=started["socket_dir"], port=started["port"], identity=identity)
                assert found == before
                assert document["plan"]["owner"] == ("postgres" if user.pw_uid == 0 else user.pw_name)
            finally:
                run_as(user, started["stop_command"])
                Path(started["socket_dir"]).rmdir()
            if user.pw_name == "nobody":  # may not read the key that Debian's configuration names
                continue
            run_as(user, document["start_command"])
            try:
                assert dump(cluster.bin, host=cluster.socket_dir, port=cluster.port) == before
            finally:
                run_as(user, started["stop_command"])
