"""How long one ``archive_command`` takes, beside starting Python at all: ``python -m bench.wal_push --rounds 40``.

``wal push`` hands a segment of 16 MiB to a receiver that answers as soon as it has it (so that what is measured is the
program), and, once, puts it by itself. With ``--pgbackrest PATH`` its ``archive-push`` takes part: without its
asynchronous mode to a repository on this disk, unencrypted, uncompressed. The commands take turns; all run as the
server's user.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.cli.as_server import AsServer, identity, interpreter, make
from tests.cli.test_wal_push import DONE, receiver
from tests.servers import Cluster, Servers, bare_environment, give, run


def segment_of(cluster: Cluster) -> Path:
    """A whole segment of a stopped server's, relative to its data directory."""
    cluster.execute("create table filler as select md5(i::text) from generate_series(1, 100000) i")
    name: str = cluster.value("select pg_walfile_name(pg_switch_wal())")
    cluster.stop()
    return Path("pg_wal") / name


def seconds(command: Sequence[str], data: Path) -> tuple[float, float]:
    """What passed, and what of it processors worked on it."""
    _executable, search = interpreter()
    environment = bare_environment(PYTHONPATH=search, PYTHONDONTWRITEBYTECODE="1")  # the same for all of them
    began, before = time.perf_counter(), os.times()
    subprocess.run(
        command, cwd=data, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
        **identity(),
    )  # fmt: skip
    passed, after = time.perf_counter() - began, os.times()
    worked = after.children_user + after.children_system - before.children_user - before.children_system
    return passed, worked


def pgbackrest(servers: Servers, cluster: Cluster, program: str) -> list[str]:
    """Its command line less the last words, with a stanza of ``cluster``, which is stopped."""
    home = servers.new_folder("p")
    for name in ("repo", "lock", "log"):
        (home / name).mkdir()
        give(home / name)
    conf = home / "pgbackrest.conf"
    conf.write_text(
        f"[global]\nrepo1-path={home}/repo\nlock-path={home}/lock\nlog-path={home}/log\ncompress-type=none\n"
        f"log-level-file=off\nlog-level-console=error\n[bench]\npg1-path={cluster.data_dir}\n"
    )
    command = [program, f"--config={conf}", "--stanza=bench"]
    run([*command, "stanza-create", "--no-online"])
    return command


def show(took: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    def summary(times: Sequence[tuple[float, float]]) -> list[float]:
        passed, worked = zip(*times, strict=True)
        return [1000 * value for value in (min(passed), statistics.median(passed), statistics.mean(worked))]

    bare = summary(took["python3 -c pass"])
    print("| command, ms (above python3 -c pass) | least | median | processor time |\n|---|---|---|---|")
    for name, times in took.items():
        cells = [f"{value:.1f} ({value - base:+.1f})" for value, base in zip(summary(times), bare, strict=True)]
        print(f"| {name} | {' | '.join(cells)} |")


def measure(site: AsServer, cluster: Cluster, rounds: int, others: Mapping[str, Sequence[str]]) -> None:
    path = segment_of(cluster)
    executable, _search = interpreter()
    push = [str(site.program), "wal", "push", str(path)]
    commands = {
        "python3 -c pass": [executable, "-c", "pass"],
        "holdfast wal push, by the socket": push,
        **{name: [*command, str(path)] for name, command in others.items()},
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    with receiver(site, DONE):
        for _round in range(rounds):
            for name, command in commands.items():
                took[name].append(seconds(command, cluster.data_dir))
    took["holdfast wal push, without a receiver"] = [seconds(push, cluster.data_dir) for _round in range(3)]
    show(took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--major", type=int, default=15)
    parser.add_argument("--pgbackrest", default=shutil.which("pgbackrest"))
    arguments = parser.parse_args()
    servers = Servers()
    try:
        cluster = servers.make_cluster(arguments.major, conf="wal_keep_size = 1GB")
        site = make(servers, cluster)
        others = {}
        if arguments.pgbackrest:
            cluster.stop()
            others["pgBackRest archive-push"] = [*pgbackrest(servers, cluster, arguments.pgbackrest), "archive-push"]
            cluster.start()
        measure(site, cluster, arguments.rounds, others)
    finally:
        servers.close()


if __name__ == "__main__":
    main()
