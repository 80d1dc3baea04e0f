"""`restore --at MOMENT` as people use it: several repositories, the plan shown, what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.config import read_configuration
from holdfast.repository.repository import Repository
from holdfast.wiring import Wiring
from tests.cli.conftest import moved_away
from tests.cli.site import Site, failed, new_site
from tests.jobs.holding import Holding, archiving
from tests.servers import Cluster, Servers, debian_cluster, run, wait_until


@dataclass(frozen=True, kw_only=True)
class Moments:
    site: Site
    cluster: Cluster
    away: Path
    """The second repository, which has the WAL."""
    before: str
    """A moment before the rows were deleted."""
    bad_xid: str


def opened(site: Site, name: str) -> Repository:
    return Wiring(configuration=read_configuration(site.configuration), clock=SystemClock()).repository(name)


@pytest.fixture(scope="module")
def moments(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moments]:
    """Snapshots in a folder, WAL in another one; 50 rows, and then none."""
    archive, conf = archiving(servers)
    cluster = servers.make_cluster(15, conf=conf)
    folder = tmp_path_factory.mktemp("moments")
    cluster.execute("create table t (n int)")
    site = new_site(folder, cluster, "--no-recovery-key", "--source", "tracker")
    away = folder / "away"
    with site.configuration.open("a") as file:
        file.write(f'\n[repository.away]\nurl = "file://{away}"\n')
    site.well("init")
    site.well("backup")
    cluster.execute("insert into t select generate_series(1, 50)")
    before = cluster.value("select clock_timestamp()").isoformat()
    bad_xid = cluster.psql("begin; delete from t; select pg_current_xact_id()::text; commit")
    Holding(cluster=cluster, archive=archive, repository=opened(site, "away")).catch_up()
    yield Moments(site=site, cluster=cluster, away=away, before=before, bad_xid=bad_xid)
    servers.remove(cluster)


def rows_of(document: dict[str, object]) -> int:
    started = document["started"]
    assert isinstance(started, dict)
    try:
        said = run(["psql", "-XAtd", started["connection"], "-c", "select count(*) from t"]).stdout
    finally:
        subprocess.run(started["stop_command"], check=True, capture_output=True)
        Path(started["socket_dir"]).rmdir()
    return int(said)


def test_the_plan_is_shown_and_nothing_is_touched(servers: Servers, moments: Moments) -> None:
    target = servers.new_folder("back") / "data"
    text = moments.site.well("restore", "--to", target, "--at", moments.before, "--dry-run")
    assert not target.exists()
    assert re.search(r"first left out +transaction " + moments.bad_xid, text), text
    assert "last kept" in text
    assert "from away" in text
    document = moments.site.ask("restore", "--to", target, "--at", moments.before, "--dry-run")
    recovery = document["plan"]["recovery"]
    assert recovery["first_left_out"]["xid"] == int(moments.bad_xid)
    assert recovery["last_kept"]["time"] < recovery["first_left_out"]["time"]
    assert recovery["end_lsn"] == recovery["end_lsn_at_most"]
    assert {segment["repository"] for segment in recovery["wal"]} >= {"away"}
    assert document["plan"]["snapshot_repository"] == "local"
    assert not document["restored"]


@pytest.mark.parametrize(("options", "rows"), [(("--at", "BEFORE"), 50), (("--at", "XID", "--exclusive"), 50), ((), 0)])
def test_it_is_restored_and_started(servers: Servers, moments: Moments, options: tuple[str, ...], rows: int) -> None:
    words = [{"BEFORE": moments.before, "XID": f"xid:{moments.bad_xid}"}.get(word, word) for word in options]
    target = servers.new_folder("back") / "data"
    document = moments.site.ask("restore", "tracker", "--to", target, *words, "--start")
    started = document["started"]
    assert started["timeline"] == 2
    last = document["plan"]["recovery"]["last_kept"]
    assert started["last_transaction"] == last["time"]
    assert rows_of(document) == rows


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--at", "25:99"), "no moment"),
        (("--at", "snapshot:"), "snapshot"),
        (("--at", "lsn:nonsense"), "nonsense"),
        (("--at", "latest", "--exclusive"), "--exclusive"),
        (("--at", "latest", "--timeline", "9"), "timeline 9"),
        (("--at", "xid:7", "--timeline", "x"), "timeline"),
    ],
)
def test_what_means_nothing_is_a_usage_error(
    servers: Servers, moments: Moments, words: tuple[str, ...], told: str
) -> None:
    target = servers.new_folder("back") / "data"
    failed(moments.site("restore", "--to", target, *words), 2, told)
    assert not target.exists()


def test_the_store_with_the_wal_is_lost(servers: Servers, moments: Moments) -> None:
    target = servers.new_folder("back") / "data"
    with moved_away(moments.away):
        ended = moments.site("restore", "--to", target, "--at", moments.before)
        failed(ended, 6, "cannot be reached", f"file://{moments.away}", "snapshot:")
        assert not target.exists()
        ended = moments.site("restore", "--to", target, "--json", "--start")
        assert ended.returncode == 3, ended.stderr  # what the lost store held may be later
        assert ended.stderr.count(f"file://{moments.away}") >= 2, ended.stderr
        assert rows_of(json.loads(ended.stdout)) == 0


def test_the_folder_with_the_snapshots_is_lost(servers: Servers, moments: Moments) -> None:
    """What the other store holds goes on from its own snapshot, without a configuration too."""
    moments.site.well("backup", "--repository", "away")
    target = servers.new_folder("back") / "data"
    with moved_away(moments.site.repository):
        document = json.loads(moments.site("restore", "--to", target, "--json", "--start").stdout)
        assert rows_of(document) == 0
        bare = ("--from", f"file://{moments.away}", "--passphrase-file", moments.site.passphrase)
        again = servers.new_folder("back") / "data"
        document = moments.site.ask("restore", "tracker", *bare, "--to", again, "--start")
        assert rows_of(document) == 0


def test_debians_own_start_recovers_a_moment(servers: Servers, tmp_path: Path) -> None:
    """The restored folder in the place of the lost one, started as Debian starts it, with an empty environment."""
    with debian_cluster(15) as cluster:
        archive = servers.new_folder("a")
        cluster.execute("alter system set archive_mode = on")
        cluster.execute(f"alter system set archive_command = 'cp %p {archive}/%f'")
        name = cluster.data_dir.name
        pg_ctlcluster = ["pg_ctlcluster", "--skip-systemctl-redirect", "15", name]
        run([*pg_ctlcluster, "restart"], user=None, group=None, extra_groups=None)
        site = new_site(tmp_path, cluster, "--no-recovery-key", "--source", "tracker")
        cluster.execute("create table t (n int)")
        site.well("backup")
        cluster.execute("insert into t select generate_series(1, 50)")
        cluster.execute("select pg_switch_wal()")
        before = cluster.value("select clock_timestamp()").isoformat()
        cluster.execute("delete from t")
        Holding(cluster=cluster, archive=archive, repository=opened(site, "local")).catch_up()
        cluster.kill()
        shutil.rmtree(cluster.data_dir)
        site.well("restore", "--to", cluster.data_dir, "--at", before)
        try:
            done = subprocess.run(
                [shutil.which(pg_ctlcluster[0]) or "", *pg_ctlcluster[1:], "start"],
                env={}, capture_output=True, text=True, check=False, cwd="/",
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            wait_until(lambda: not cluster.value("select pg_is_in_recovery()"), "recovery ends", 60)
            assert cluster.value("select count(*) from t") == 50
            cluster.execute("insert into t values (51)")
        finally:
            cluster.stop("immediate")
