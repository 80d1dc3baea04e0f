"""Snapshots in a folder, WAL in an object store; one of the two is lost."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.cli.running import ROOT, command, environment
from tests.cli.site import Site, new_site
from tests.object_servers import moto_server
from tests.servers import Cluster, Servers, wait_until


def rows(started: dict[str, str]) -> int:
    try:
        with psycopg.connect(started["connection"]) as connection:
            row = connection.execute("select count(*) from daily_blueprints").fetchone()
            assert row
            return int(row[0])
    finally:
        subprocess.run(started["stop_command"], check=True, capture_output=True)
        Path(started["socket_dir"]).rmdir()


def receive_until_durable(site: Site, cluster: Cluster, variables: dict[str, str]) -> None:
    with subprocess.Popen(
        command("--config", str(site.configuration), "wal", "receive", "--no-snapshot", module="holdfast"),
        cwd=ROOT,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: cluster.value("select count(*) from pg_stat_replication") == 1, "it streams", 60)
            assert not site("backup", "--repository", "remote", variables=variables).returncode
            cluster.execute("insert into daily_blueprints select generate_series(1001, 1500)")
            assert not site("backup", "--repository", "local", variables=variables).returncode
            cluster.execute("insert into daily_blueprints select generate_series(1501, 2000)")
            lsn = cluster.value("select pg_current_wal_flush_lsn()::text")
            wait_until(
                lambda: cluster.value(f"select restart_lsn >= '{lsn}' from pg_replication_slots"), "it is durable", 60
            )
        finally:
            process.kill()


@pytest.mark.parametrize("lost", ["folder", "object store"])
def test_one_is_lost(lost: str, servers: Servers, tmp_path: Path) -> None:
    cluster = servers.make_cluster(15)
    cluster.execute("create table daily_blueprints as select n from generate_series(1, 1000) n")
    with moto_server() as server:
        server.create_bucket("backups")
        variables = {"AWS_SECRET_ACCESS_KEY": server.access_key_secret}
        site = new_site(tmp_path, cluster)
        text = re.sub(r"(?m)^state_dir = .*$", f'state_dir = "{tmp_path}/state"', site.configuration.read_text("utf-8"))
        text = text.replace("[source.main]", '[source.main]\nwal = { from = "stream", to = ["remote"], every = "1 s" }')
        text += (
            f'[repository.remote]\nurl = "s3://backups/holdfast"\nendpoint = "{server.endpoint}"\n'
            f'access_key_id = "{server.access_key_id}"\naccess_key_secret = {{ env = "AWS_SECRET_ACCESS_KEY" }}\n'
        )
        site.configuration.write_text(text, "utf-8")
        site.well("init", "--no-recovery-key", variables=variables)
        receive_until_durable(site, cluster, variables)
        cluster.kill()
        if lost == "folder":
            site.repository.rename(tmp_path / "lost")
        else:
            there = site.configuration.read_text("utf-8")
            site.configuration.write_text(there.replace(server.endpoint, "http://127.0.0.1:9"), "utf-8")
        target = servers.new_folder("back") / "data"
        ended = site("restore", "--to", target, "--at", "latest", "--start", "--json", variables=variables)
        if lost == "folder":
            assert ended.returncode == 3, ended.stderr
            assert "local" in ended.stderr, "what could not be asked is named"
            assert rows(json.loads(ended.stdout)["started"]) == 2000
        else:
            assert ended.returncode == 3, ended.stderr
            assert "remote" in ended.stderr, "what is missing is named"
            assert rows(json.loads(ended.stdout)["started"]) == 1500
    servers.remove(cluster)
