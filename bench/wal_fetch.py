"""A standby that catches up as fast as it is given WAL: ``python -m bench.wal_fetch --segments 100 --rounds 3``.

A shell calls one ``restore_command`` after the other, as PostgreSQL would, for segments that pgbench filled. Beside
``holdfast wal fetch`` (from a repository in a folder, encrypted; the first call starts its feeder) stand ``cp`` from a
folder and, with ``--pgbackrest PATH``, its asynchronous ``archive-get``, from a repository of its own on the same
disk, unencrypted. The ways take turns, each with an empty spool.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.cli.as_server import AsServer, identity, make
from tests.cli.test_wal_fetch import end_feeder
from tests.servers import Cluster, Servers, bare_environment, give_all, run, wait_until

from bench.wal_push import pgbackrest
from holdfast.clock import SystemClock
from holdfast.jobs.wal_files import read_wal_file
from holdfast.jobs.wal_push import WalPusher
from holdfast.postgres.lsn import is_segment_name

Prepare = Callable[[], str]
"""Makes ready, and gives the restore_command, with %f and %p."""


def fill(cluster: Cluster, segments: int, archive: Path) -> list[str]:
    """Segments of pgbench's, which the server archives there; it is stopped then."""

    def names() -> list[str]:
        return sorted(path.name for path in archive.iterdir() if is_segment_name(path.name))

    cluster.pgbench_init(10)
    while len(names()) < segments:
        cluster.execute("update pgbench_accounts set abalance = abalance + 1")
        cluster.pgbench("-n", "-c", "2", "-t", "2000")
    last = cluster.value("select pg_walfile_name(pg_switch_wal())")
    wait_until((archive / last).exists, "the WAL is archived", 600)
    cluster.stop()
    return names()[:segments]


def catch_up(data: Path, command: str, names: list[str]) -> float:
    """Seconds for all ``names``, one after the other, in the data directory ``data``."""
    line = command.replace("%f", '"$name"').replace("%p", "pg_wal/RECOVERYXLOG")
    script = f'for name in "$@"; do {line} || exit 1; done'
    began = time.perf_counter()
    subprocess.run(
        ["sh", "-c", script, "sh", *names], cwd=data, env=bare_environment(), stdin=subprocess.DEVNULL, check=True,
        **identity(),
    )  # fmt: skip
    return time.perf_counter() - began


def by_holdfast(site: AsServer, archive: Path, names: list[str]) -> Prepare:
    pusher = WalPusher("main", {"one": site.repository()}, clock=SystemClock(), host="bench")
    for name in names:
        pusher.push(read_wal_file(archive / name))
    give_all(site.folder)

    def prepare() -> str:
        end_feeder(site)
        shutil.rmtree(site.state / "spool", ignore_errors=True)
        return f"{site.program} wal fetch %f %p"

    return prepare


def by_pgbackrest(
    servers: Servers, cluster: Cluster, *, data: Path, archive: Path, names: list[str], program: str
) -> Prepare:
    base = pgbackrest(servers, cluster, program)
    for name in names:
        shutil.copyfile(archive / name, cluster.data_dir / "pg_wal" / name)
        run([*base, "archive-push", cluster.data_dir / "pg_wal" / name])
    spool = servers.new_folder("spool")
    options = f"--archive-async --spool-path={spool} --process-max=2 --archive-get-queue-max=256MiB --pg1-path={data}"

    def prepare() -> str:
        for left in spool.iterdir():
            shutil.rmtree(left)
        return " ".join([*base, options, "archive-get", "%f", "%p"])

    return prepare


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--major", type=int, default=15)
    parser.add_argument("--pgbackrest", default=shutil.which("pgbackrest"))
    arguments = parser.parse_args()
    servers = Servers()
    try:
        archive = servers.new_folder("a")
        conf = f"archive_mode = on\narchive_command = 'cp %p {archive}/%f'\nmax_wal_size = 8GB"
        cluster = servers.make_cluster(arguments.major, conf=conf)
        site = make(servers, cluster)
        data = servers.new_folder("r") / "data"
        run(["cp", "-a", cluster.data_dir, data])
        (data / "standby.signal").touch()
        names = fill(cluster, arguments.segments, archive)
        ways: dict[str, Prepare] = {
            "cp": lambda: f"cp {archive}/%f %p",
            "holdfast wal fetch": by_holdfast(site, archive, names),
        }
        if arguments.pgbackrest:
            ways["pgBackRest, asynchronous archive-get"] = by_pgbackrest(
                servers, cluster, data=data, archive=archive, names=names, program=arguments.pgbackrest
            )
        measure(ways, data, names, arguments.rounds)
        end_feeder(site)
    finally:
        servers.close()


def measure(ways: Mapping[str, Prepare], data: Path, names: list[str], rounds: int) -> None:
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _round in range(rounds):
        for way, prepare in ways.items():
            took[way].append(catch_up(data, prepare(), names))
    print(f"{len(names)} segments of 16 MiB, medians of {rounds} rounds\n")
    print("| restore_command | seconds | ms a segment | MB/s |\n|---|---|---|---|")
    for way, times in took.items():
        seconds = statistics.median(times)
        each = seconds / len(names)
        print(f"| {way} | {seconds:.1f} | {1000 * each:.0f} | {16 * 2**20 / 1e6 / each:.0f} |")


if __name__ == "__main__":
    main()
