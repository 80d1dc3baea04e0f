"""The night that this is for: under load, the server, the receiver and their disks are gone in one moment.

From the store alone everything older than the tail's interval and a second comes back; where commits wait for us,
everything that was acknowledged.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cli.running import ROOT, command, environment
from tests.cli.site import Site, new_site
from tests.servers import Cluster, Servers, wait_until

WRITERS = 4
TAIL_SECONDS = 1.0
"""``wal.every`` of a folder, by default."""


@dataclass(kw_only=True)
class Load:
    """Writers that commit one row after the other, and remember which the server has acknowledged, and when."""

    acknowledged: list[tuple[int, int, float]] = field(default_factory=list)
    """Writer, row, when: on the monotonic clock."""
    stop: threading.Event = field(default_factory=threading.Event)

    def last_before(self, moment: float) -> dict[int, int]:
        """By writer, the last row acknowledged before ``moment``."""
        last: dict[int, int] = {}
        for writer, row, when in self.acknowledged:
            if when < moment:
                last[writer] = max(last.get(writer, 0), row)
        return last


@contextmanager
def load(cluster: Cluster) -> Iterator[Load]:
    going = Load()

    def write(writer: int) -> None:
        with contextlib.suppress(psycopg.Error), psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            for row in range(1, 10**9):
                if going.stop.is_set():
                    return
                connection.execute("insert into rows values (%s, %s, repeat(md5(random()::text), 8))", (writer, row))
                going.acknowledged.append((writer, row, time.monotonic()))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield going
    finally:
        going.stop.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()


@contextmanager
def receiver(site: Site, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """What it says lies in ``receiver.log``."""
    with (
        (site.folder / "receiver.log").open("ab") as log,
        subprocess.Popen(
            command("--config", str(site.configuration), "wal", "receive", *options, module="holdfast"),
            cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        ) as process,
    ):  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def protected_site(folder: Path, cluster: Cluster, *, wal: str) -> Site:
    """Its state is its own, so that it can be lost with it."""
    site = new_site(folder, cluster)
    text = re.sub(r"(?m)^state_dir = .*$", f'state_dir = "{folder}/state"', site.configuration.read_text("utf-8"))
    text = text.replace("[source.main]", f"[source.main]\nwal = {wal}")
    site.configuration.write_text(text, "utf-8")
    return site


def status(site: Site) -> dict[str, Any]:
    ended = site("status", "--json")
    return dict(json.loads(ended.stdout)) if ended.stdout else {}


def restored_rows(site: Site, target: Path) -> dict[int, list[int]]:
    """By writer, the rows of what is recovered to ``latest``, in order."""
    started = site.ask("restore", "--to", target, "--at", "latest", "--start")["started"]
    try:
        with psycopg.connect(started["connection"]) as connection:
            rows = connection.execute("select writer, array_agg(row order by row) from rows group by writer").fetchall()
    finally:
        subprocess.run(started["stop_command"], check=True, capture_output=True)
        Path(started["socket_dir"]).rmdir()
    return dict(rows)


def lose_everything(site: Site, cluster: Cluster, process: subprocess.Popen[bytes], chance: random.Random) -> float:
    """The moment at which the first of them died."""
    ends: list[Callable[[], None]] = [cluster.kill, process.kill]
    chance.shuffle(ends)
    moment = time.monotonic()
    for end in ends:
        end()
    process.wait()
    shutil.rmtree(cluster.data_dir)
    shutil.rmtree(site.folder / "state")
    return moment


def check_prefix(rows: dict[int, list[int]]) -> None:
    """Nobody's row is there without the same writer's earlier ones."""
    for writer, found in rows.items():
        assert found == list(range(1, len(found) + 1)), f"writer {writer} has holes"


ROUNDS = [*range(3), *(pytest.param(number, marks=pytest.mark.slow) for number in range(3, 50))]


@pytest.mark.parametrize("number", ROUNDS)
def test_asynchronous(number: int, servers: Servers, tmp_path: Path) -> None:
    chance = random.Random(f"asynchronous {number}")
    cluster = servers.make_cluster(15)
    cluster.execute("create table rows (writer int, row int, filler text)")
    site = protected_site(tmp_path, cluster, wal='"stream"')
    with receiver(site) as process:
        wait_until(lambda: site.ask("list")["snapshots"], "the receiver takes the first snapshot", 60)
        with load(cluster) as going:
            time.sleep(chance.uniform(2.5, 5))  # the moment is meant to be any
            moment = lose_everything(site, cluster, process, chance)
    rows = restored_rows(site, servers.new_folder("back") / "data")
    check_prefix(rows)
    must = going.last_before(moment - TAIL_SECONDS - 1)
    assert must, "the load was too short to say anything"
    for writer, row in must.items():
        assert len(rows.get(writer, ())) >= row, f"writer {writer}: row {row} was older than interval and a second"
    servers.remove(cluster)


@pytest.mark.parametrize("number", ROUNDS)
def test_synchronous(number: int, servers: Servers, tmp_path: Path) -> None:
    chance = random.Random(f"synchronous {number}")
    cluster = servers.make_cluster(15)
    cluster.execute("create table rows (writer int, row int, filler text)")
    site = protected_site(tmp_path, cluster, wal='{ from = "stream", synchronous = true }')
    with receiver(site) as process:
        wait_until(lambda: site.ask("list")["snapshots"], "the receiver takes the first snapshot", 60)
        cluster.execute("alter system set synchronous_standby_names = 'ANY 1 (holdfast)'")
        cluster.execute("select pg_reload_conf()")
        wait_until(
            lambda: cluster.value("select count(*) from pg_stat_replication where sync_state = 'quorum'") == 1,
            "the receiver is synchronous",
        )
        with load(cluster) as going:
            time.sleep(chance.uniform(1, 3))  # the moment is meant to be any
            lose_everything(site, cluster, process, chance)
    rows = restored_rows(site, servers.new_folder("back") / "data")
    check_prefix(rows)
    must = going.last_before(float("inf"))
    assert len(going.acknowledged) > 20, "commits hardly went on"
    for writer, row in must.items():
        assert len(rows.get(writer, ())) >= row, f"writer {writer}: row {row} was acknowledged and is gone"
    servers.remove(cluster)
