"""Replaying WAL through the wrapper, beside a plain ``cp``: ``python -m bench.recovery --gigabytes 2 --rounds 3``.

One base backup and the WAL after it; each way of getting at that WAL recovers a copy of the backup, the ways in turn.
What is compared is PostgreSQL's own ``redo done … elapsed`` in the server's log. With ``--pgbackrest PATH`` its
asynchronous ``archive-get`` takes part, from a repository of its own on the same disk, unencrypted.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Cluster, Servers, free_port, give, give_all, run, wait_until

from holdfast.postgres.lsn import is_segment_name
from holdfast.postgres.recovery import END_OF_WAL, RESTORE_COMMAND, WAL_DIR, Recovery, quoted, recovery_files

_ELAPSED = re.compile(r"redo done at .* elapsed: ([0-9.]+) s")


@dataclass(frozen=True, kw_only=True)
class Prepared:
    cluster: Cluster
    backup: Path
    """A base backup without its configuration of recovery."""
    archive: Path
    """Its WAL, and what followed."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(path.name for path in self.archive.iterdir() if is_segment_name(path.name)))


def prepare(servers: Servers, major: int, gigabytes: float) -> Prepared:
    archive = servers.new_folder("a")
    conf = f"archive_mode = on\narchive_command = 'cp %p {archive}/%f'\nmax_wal_size = 8GB\ncheckpoint_timeout = 1h"
    cluster = servers.make_cluster(major, conf=conf)
    backup = servers.new_folder("b") / "data"
    cluster.execute("create table counted (n int, filler text)")
    run([cluster.bin / "pg_basebackup", "-D", backup, "-X", "none", "-c", "fast", "--no-sync", "-d", cluster.dsn()])
    began = cluster.value("select pg_current_wal_lsn()::text")
    scale = 0
    while cluster.value(f"select pg_current_wal_lsn() - '{began}'") < gigabytes * 1e9:
        scale += 1
        cluster.pgbench_init(20)
        cluster.execute("update pgbench_accounts set abalance = abalance + 1")
        cluster.pgbench("-n", "-c", "2", "-t", "5000")
    cluster.execute("select pg_switch_wal()")
    last = cluster.value("select pg_walfile_name(pg_current_wal_lsn() - 1)")
    wait_until((archive / last).exists, "the WAL is archived", 600)
    cluster.stop()
    return Prepared(cluster=cluster, backup=backup, archive=archive)


def recover(servers: Servers, prepared: Prepared, arrange: Callable[[Path], str]) -> float:
    """Seconds of redo in a fresh copy of the backup; ``arrange`` makes it ready, and gives its restore_command."""
    data = servers.new_folder("r") / "data"
    run(["cp", "-a", prepared.backup, data])
    command = arrange(data)
    with (data / "postgresql.auto.conf").open("a") as conf:
        conf.write(f"restore_command = {quoted(command)}\narchive_mode = off\nrecovery_target_action = 'promote'\n")
        conf.write("log_min_messages = log\nshared_buffers = 512MB\nmax_wal_size = 8GB\n")
    (data / "recovery.signal").touch()
    give_all(data)
    log, cluster = data.parent / "log", prepared.cluster
    sockets = data.parent / "s"
    sockets.mkdir()
    give(sockets)
    run(["sync"])
    run(
        [
            *(cluster.bin / "pg_ctl", "start", "-w", "-t", "3600", "-D", data, "-l", log),
            *("-o", f"-p {free_port()} -k {sockets} -c hot_standby=off"),
        ]
    )
    ended = re.compile(f"{_ELAPSED.pattern}|FATAL")
    wait_until(lambda: ended.search(log.read_text(errors="replace")), "recovery ends", 3600)  # pg_ctl does not wait
    run([cluster.bin / "pg_ctl", "stop", "-w", "-m", "immediate", "-D", data], check=False)
    text = log.read_text(errors="replace")
    shutil.rmtree(data.parent)
    run(["sync"])
    found = _ELAPSED.search(text)
    if found is None:
        raise SystemExit(text)
    return float(found[1])


def by_wrapper(prepared: Prepared) -> Callable[[Path], str]:
    def arrange(data: Path) -> str:
        recovery = Recovery(planned=prepared.names, wal_segment_size=16 << 20, target=END_OF_WAL)
        (data / WAL_DIR).mkdir(parents=True)
        for name in prepared.names:
            shutil.copyfile(prepared.archive / name, data / WAL_DIR / name)
        for name, content in recovery_files(recovery).items():
            if name not in ("postgresql.auto.conf", "recovery.signal"):
                (data / name).write_bytes(content)
        return RESTORE_COMMAND

    return arrange


def by_cp(prepared: Prepared) -> Callable[[Path], str]:
    def arrange(data: Path) -> str:
        (data / WAL_DIR).mkdir(parents=True)
        for name in prepared.names:
            shutil.copyfile(prepared.archive / name, data / WAL_DIR / name)
        return f"cp {WAL_DIR}/%f %p"

    return arrange


def by_pgbackrest(servers: Servers, prepared: Prepared, program: str) -> Callable[[Path], str]:
    """Its repository is filled by its own ``archive-push``; a spool on the same disk, four processes at most."""
    home = servers.new_folder("p")
    for name in ("repo", "spool", "lock", "log"):
        (home / name).mkdir()
        give(home / name)
    conf = home / "pgbackrest.conf"
    cluster = prepared.cluster
    conf.write_text(
        f"[global]\nrepo1-path={home}/repo\nspool-path={home}/spool\nlock-path={home}/lock\nlog-path={home}/log\n"
        "archive-async=y\nprocess-max=2\narchive-get-queue-max=1GiB\ncompress-type=lz4\nlog-level-file=off\n"
        f"log-level-console=warn\n[bench]\npg1-path={cluster.data_dir}\npg1-port={cluster.port}\n"
        f"pg1-socket-path={cluster.socket_dir}\npg1-user=postgres\npg1-database=postgres\n"
    )
    base = [program, f"--config={conf}", "--stanza=bench"]
    cluster.start("-c archive_mode=off")
    run([*base, "stanza-create", "--no-online"])
    cluster.stop()
    for name in prepared.names:
        shutil.copyfile(prepared.archive / name, cluster.data_dir / "pg_wal" / name)
        give(cluster.data_dir / "pg_wal" / name)
        run([*base, "--no-archive-async", "archive-push", cluster.data_dir / "pg_wal" / name])

    def arrange(data: Path) -> str:
        shutil.rmtree(home / "spool")
        (home / "spool").mkdir()
        give(home / "spool")
        return f"{program} --config={conf} --stanza=bench --pg1-path={data} archive-get %f %p"

    return arrange


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--major", type=int, default=15)
    parser.add_argument("--pgbackrest", default=shutil.which("pgbackrest"))
    arguments = parser.parse_args()
    servers = Servers()
    try:
        prepared = prepare(servers, arguments.major, arguments.gigabytes)
        ways: Mapping[str, Callable[[Path], str]] = {
            "Holdfast's wrapper": by_wrapper(prepared),
            "cp": by_cp(prepared),
            **(
                {"pgBackRest, asynchronous archive-get": by_pgbackrest(servers, prepared, arguments.pgbackrest)}
                if arguments.pgbackrest
                else {}
            ),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(arguments.rounds):
            first = number % len(ways)  # who comes first meets colder caches
            for name in [*ways, *ways][first : first + len(ways)]:
                took[name].append(recover(servers, prepared, ways[name]))
                print(f"round {number + 1}: {name}: {took[name][-1]:.2f} s", file=sys.stderr)
        megabytes = len(prepared.names) * 16 * 2**20 / 1e6
        plain = statistics.median(took["cp"])
        print(f"medians of {arguments.rounds} rounds, PostgreSQL {arguments.major}\n")
        print("| restore_command | MB of WAL | seconds of redo | MB/s | against cp |\n|---|---|---|---|---|")
        for name, times in took.items():
            seconds = statistics.median(times)
            print(f"| {name} | {megabytes:.0f} | {seconds:.1f} | {megabytes / seconds:.0f} | {plain / seconds:.2f} |")
    finally:
        servers.close()


if __name__ == "__main__":
    main()
