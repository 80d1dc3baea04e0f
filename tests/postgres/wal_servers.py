"""WAL of real servers, with all kinds of endings and events in it, and what ``pg_waldump`` says of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from holdfast.postgres.lsn import Lsn, Segment
from tests.servers import Cluster, Servers, bare_environment, run

SIZE = 1 << 24


@dataclass(frozen=True, kw_only=True)
class Written:
    """WAL that a server has written, from the beginning of its first segment up to the end of a whole one."""

    major: int
    cluster: Cluster
    files: tuple[Path, ...]
    sql_end: Lsn

    @property
    def start(self) -> Lsn:
        return Segment.parse(self.files[0].name, SIZE).start

    @property
    def content(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.files)

    def dump(self, *options: str) -> list[str]:
        """pg_waldump's lines, times in UTC."""
        reach = ("-s", str(Lsn(self.start + 40)), "-e", str(self.sql_end))
        command: list[str | Path] = [self.cluster.bin / "pg_waldump", "-p", self.files[0].parent, *options, *reach]
        done = run(command, env=bare_environment(TZ="UTC"))
        return [line for line in done.stdout.splitlines() if line.startswith("rmgr:")]


_LINE = re.compile(r"rmgr: (\S+)\s+len.*?, tx:\s+(\d+), lsn: (\S+), prev (\S+), desc: (.*)")
_ENDING = re.compile(
    r"(COMMIT|ABORT)(?:_PREPARED)? (?:gid \S+: )?(?:(\d+): )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+) UTC"
)


def parts(line: str) -> tuple[str, int, Lsn, Lsn, str]:
    """Manager, xid, position, position of the record before, description."""
    found = _LINE.match(line)
    assert found, line
    return found[1], int(found[2]), Lsn.parse(found[3]), Lsn.parse(found[4]), found[5]


def endings(written: Written) -> list[tuple[str, int, Lsn, Lsn, datetime]]:
    """Outcome, xid, position, position of the record before, time of each commit and abort."""
    found = []
    for line in written.dump("-r", "Transaction"):
        _manager, xid, lsn, prev, text = parts(line)
        if ended := _ENDING.match(text):
            time = datetime.fromisoformat(ended[3]).replace(tzinfo=UTC)
            found.append((ended[1].lower(), int(ended[2] or xid), lsn, prev, time))
    return found


def write(servers: Servers, major: int, *, wal_level: str = "replica") -> Written:
    """A new cluster's whole WAL so far; the cluster runs on."""
    cluster = servers.make_cluster(
        major, conf=f"wal_level = {wal_level}\nmax_prepared_transactions = 5\nwal_keep_size = 1GB", fresh=True
    )
    cluster.pgbench_init(1)
    servers.add_tablespace(cluster, "fast")
    cluster.psql(
        "create table rows (id int primary key, text text);"
        "select pg_create_restore_point('before the change 之前');"
        "insert into rows select g, repeat('x', 3000) from generate_series(1, 500) g;"
    )
    cluster.psql("create database one")
    cluster.psql("create database two strategy file_copy")
    cluster.psql("drop database two")
    cluster.psql("begin; insert into rows values (-1, 'p'); prepare transaction 'kept'")
    cluster.execute("commit prepared 'kept'")
    cluster.psql("begin; insert into rows values (-2, 'p'); prepare transaction 'not'")
    cluster.execute("rollback prepared 'not'")
    cluster.psql(
        "do $$ begin for i in 1..300 loop begin insert into rows values (9000 + i, 'y');"
        " exception when others then null; end; end loop; end $$"
    )
    cluster.psql("begin; update rows set text = 'z' where id < 200; rollback")
    cluster.psql("create temp table t (a int); create temp table u (a text primary key)")
    cluster.execute("select pg_switch_wal()")
    cluster.pgbench("-n", "-c", "4", "-t", "500")
    cluster.stop()
    with (cluster.data_dir / "postgresql.conf").open("a") as file:
        file.write("max_connections = 150\n")
    cluster.start()
    cluster.execute("drop tablespace fast")
    cluster.pgbench("-n", "-c", "2", "-t", "50")
    end = Lsn.parse(cluster.value("select pg_switch_wal()::text"))
    last = cluster.value(f"select pg_walfile_name('{end}'::pg_lsn)")
    folder = cluster.data_dir / "pg_wal"
    files = sorted(path for path in folder.iterdir() if len(path.name) == 24 and path.name <= last)
    return Written(major=major, cluster=cluster, files=tuple(files), sql_end=end)
