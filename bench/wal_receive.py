"""Streaming WAL: ``python -m bench.wal_receive``: RPO, the receiver's processor time, the price of synchronous commits.

RPO: from the return of a commit until its WAL is durable in the repository, as the receiver itself confirms it to the
server (``pg_stat_replication.flush_lsn``): what a recovery from the repository alone would keep. A folder, and an S3
server (rclone) on loopback.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from tests.object_servers import rclone_server
from tests.servers import Cluster, Servers, give, run, wait_until

from bench.measuring import rss_anon
from holdfast.repository.keys import MadeSecret, SecretKind

ROOT = Path(__file__).resolve().parent.parent


def configure(folder: Path, cluster: Cluster, url: str, *, wal: str, options: Mapping[str, str]) -> list[str]:
    """The beginning of every command line."""
    (folder / "passphrase").write_text(MadeSecret.new(SecretKind.PASSPHRASE))
    (folder / "passphrase").chmod(0o600)
    config = folder / "holdfast.toml"
    plain = {name: value for name, value in options.items() if name != "access_key_secret"}
    lines = [f'{name} = "{value}"' for name, value in plain.items()]
    if "access_key_secret" in options:
        lines.append('access_key_secret = { env = "BENCH_SECRET" }')
        os.environ["BENCH_SECRET"] = options["access_key_secret"]
    config.write_text(
        f'timezone = "UTC"\nstate_dir = "{folder}/state"\npassphrase = {{ file = "passphrase" }}\n'
        f'[source.bench]\ntype = "postgres"\nconnection = "{cluster.dsn()}"\nwal = {wal}\n'
        f'[repository.there]\nurl = "{url}"\n' + "\n".join(lines) + "\n"
    )
    config.chmod(0o640)
    holdfast = [sys.executable, "-m", "holdfast", "--config", str(config)]
    subprocess.run([*holdfast, "init"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return holdfast


@contextmanager
def receiving(holdfast: list[str], cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*holdfast, "wal", "receive", "--no-snapshot"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_until(
                lambda: cluster.value("select count(*) from pg_stat_replication where state = 'streaming'") == 1,
                "the receiver streams",
                60,
            )
            yield process
        finally:
            process.terminate()
            process.wait(30)


def rpo(cluster: Cluster, commits: int) -> tuple[float, float]:
    """Median and 99th percentile, seconds."""
    waiting: list[tuple[int, float]] = []
    took: list[float] = []
    done = threading.Event()

    def watch() -> None:
        with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
            while not done.is_set() or waiting:
                row = connection.execute("select flush_lsn - '0/0' from pg_stat_replication").fetchone()
                now = time.monotonic()
                flushed = int(row[0]) if row and row[0] is not None else 0
                while waiting and waiting[0][0] <= flushed:
                    took.append(now - waiting.pop(0)[1])
                time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    chance = random.Random(7)
    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("create table if not exists moments (n int, filler text)")
        for number in range(commits):
            connection.execute("insert into moments values (%s, repeat('x', 100))", (number,))
            committed = time.monotonic()
            row = connection.execute("select pg_current_wal_flush_lsn() - '0/0'").fetchone()
            assert row
            waiting.append((int(row[0]), committed))
            time.sleep(chance.uniform(0.01, 0.1))
    done.set()
    watcher.join(120)
    assert not watcher.is_alive(), "the last commits never became durable"
    took.sort()
    return statistics.median(took), took[int(len(took) * 0.99)]


def processor(cluster: Cluster, process: subprocess.Popen[bytes], *, rate: float, seconds: float) -> tuple[float, ...]:
    """MB/s of WAL made, share of a core that the receiver took, MiB of its peak; WAL is made at about ``rate`` MB/s."""
    ticks = os.sysconf("SC_CLK_TCK")

    def spent() -> float:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / ticks

    with psycopg.connect(cluster.dsn(), autocommit=True) as connection:
        connection.execute("create table if not exists bulk (a text)")
        first = int(connection.execute("select pg_current_wal_lsn() - '0/0'").fetchone()[0])  # type: ignore[index]
        began, before, peak = time.monotonic(), spent(), 0
        made = 0.0
        while (elapsed := time.monotonic() - began) < seconds:
            connection.execute("insert into bulk select md5(random()::text) || n from generate_series(1, 10000) n")
            made = (int(connection.execute("select pg_current_wal_lsn() - '0/0'").fetchone()[0]) - first) / 1e6  # type: ignore[index]
            peak = max(peak, rss_anon(process.pid))
            if made > rate * elapsed:
                time.sleep((made - rate * elapsed) / rate)
        elapsed = time.monotonic() - began
        return made / elapsed, (spent() - before) / elapsed, peak / 1024


def commit_latency(cluster: Cluster, *, clients: int, seconds: int) -> float:
    """Milliseconds a transaction, of pgbench's simple update."""
    said = cluster.pgbench("-n", "-N", "-c", str(clients), "-j", "2", "-T", str(seconds))
    found = re.search(r"latency average = ([\d.]+) ms", said)
    assert found, said
    return float(found[1])


def synchronous(cluster: Cluster, names: str) -> None:
    cluster.execute(f"alter system set synchronous_standby_names = '{names}'")
    cluster.execute("select pg_reload_conf()")
    if names:
        wait_until(
            lambda: cluster.value(
                "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')"
            ) == 1,
            "the receiver is synchronous",
        )  # fmt: skip


@contextmanager
def receivewal(cluster: Cluster, folder: Path) -> Iterator[None]:
    """The peer: pg_receivewal --synchronous onto a local disk: no encryption, nothing leaves the machine."""
    run([cluster.bin / "pg_receivewal", "--create-slot", "--slot", "peer", "-d", cluster.dsn()])
    with subprocess.Popen(
        [
            *("runuser", "-u", cluster.user, "--", str(cluster.bin / "pg_receivewal"), "-D", str(folder)),
            *("--synchronous", "--slot", "peer", "-d", cluster.dsn() + " application_name=holdfast"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: cluster.value("select count(*) from pg_stat_replication") == 1, "pg_receivewal streams")
            yield
        finally:
            process.terminate()
            process.wait(30)
    wait_until(lambda: cluster.value("select count(*) from pg_stat_replication") == 0, "pg_receivewal is gone")
    cluster.execute("select pg_drop_replication_slot('peer')")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, default=600)
    parser.add_argument("--seconds", type=int, default=20)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    servers = Servers()
    rows: list[str] = []
    try:
        with rclone_server() as s3:
            s3.create_bucket("bench")
            for name, url, store_options in (
                ("folder, every 1 s", None, {}),
                ("S3 on loopback, every 10 s", "s3://bench/holdfast", s3.options),
                ("S3 on loopback, every 1 s", "s3://bench/second", s3.options),
            ):
                rows += of_store(servers, name, url, store_options, options)
    finally:
        servers.close()
    print("| what | result |\n|---|---|")
    print("\n".join(rows))


def of_store(
    servers: Servers, name: str, url: str | None, store_options: Mapping[str, str], options: argparse.Namespace
) -> list[str]:
    cluster = servers.make_cluster(15, conf="fsync = on\nmax_wal_size = 2GB\nshared_buffers = 128MB")
    folder = Path(tempfile.mkdtemp(prefix="hfbench"))
    give(folder)
    rows = []
    try:
        cluster.pgbench_init(5)
        every = re.search(r"every (\d+) s", name)
        assert every
        wal = f'{{ from = "stream", every = "{every[1]} s" }}'
        alone = {clients: commit_latency(cluster, clients=clients, seconds=options.seconds // 2) for clients in (1, 8)}
        holdfast = configure(folder, cluster, url or f"file://{folder}/repository", wal=wal, options=store_options)
        with receiving(holdfast, cluster) as process:
            median, late = rpo(cluster, options.commits)
            rows.append(f"| {name}: RPO, median and p99 | {median:.2f} s, {late:.2f} s |")
            rate, share, peak = processor(cluster, process, rate=50, seconds=options.seconds)
            rows.append(
                f"| {name}: receiver at {rate:.0f} MB/s of WAL | {share:.0%} of a core, peak RssAnon {peak:.0f} MiB |"
            )
            for clients in (1, 8):
                plain = commit_latency(cluster, clients=clients, seconds=options.seconds // 2)
                synchronous(cluster, "holdfast")
                waited = commit_latency(cluster, clients=clients, seconds=options.seconds // 2)
                synchronous(cluster, "")
                rows.append(
                    f"| {name}: commit latency, {clients} clients: without us, asynchronous, synchronous"
                    f" | {alone[clients]:.1f}, {plain:.1f}, {waited:.1f} ms ({waited / plain:.1f}) |"
                )
        if url is None:
            wait_until(lambda: cluster.value("select count(*) from pg_stat_replication") == 0, "the receiver is gone")
            with receivewal(cluster, servers.new_folder("wal")):
                synchronous(cluster, "holdfast")
                for clients in (1, 8):
                    waited = commit_latency(cluster, clients=clients, seconds=options.seconds // 2)
                    rows.append(f"| pg_receivewal --synchronous, local disk: {clients} clients | {waited:.1f} ms |")
                synchronous(cluster, "")
    finally:
        servers.remove(cluster)
        shutil.rmtree(folder, ignore_errors=True)
    return rows


if __name__ == "__main__":
    main()
