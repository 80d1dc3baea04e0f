"""``holdfast wal fetch``, run by a real standby, and by hand in what looks like one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.jobs.wal_files import wal_file
from holdfast.jobs.wal_push import WalPusher
from holdfast.repository.objects import Kind
from holdfast.repository.wal.pieces import Piece, Stream
from holdfast.repository.wal.writing import WalWriter
from tests.cli.as_server import AsServer, identity, make
from tests.cli.test_wal_push import MEBIBYTES_16, OWNER, archived, name_of, segment
from tests.servers import Cluster, Servers, bare_environment, give, give_all, run, wait_until

HISTORY = b"1\t0/5000000\tno recovery target specified\n"


@pytest.fixture(autouse=True)
def no_feeder_stays(program: AsServer) -> Iterator[None]:
    yield
    end_feeder(program)


def feeder(program: AsServer) -> int | None:
    """The process that fetches in advance, if there is one."""
    try:
        pid = int((program.spool / "feeder.lock").read_text())
        told = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if b"--feed" in told else None


def listens(program: AsServer) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(program.spool / "feeder.sock")) == 0


def end_feeder(program: AsServer) -> None:
    pid = feeder(program)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: feeder(program) is None, "the feeder ends")


def push(program: AsServer, *files: tuple[str, bytes], owner: int = OWNER, repository: str = "one") -> None:
    pusher = WalPusher("main", {"one": program.repository(repository)}, clock=SystemClock(), host="db1")
    for name, content in files:
        pusher.push(wal_file(name, content, system_identifier=owner))
    give_all(program.folder)


@pytest.fixture(scope="module")
def program(servers: Servers) -> AsServer:
    """Segments 3 to 6 and a history file are held, nothing of 7, and 8."""
    made = make(servers, servers.make_cluster(15, started=False))
    push(made, *((name_of(number), segment(number)) for number in (3, 4, 5, 6, 8)), ("00000002.history", HISTORY))
    return made


@pytest.fixture
def own(servers: Servers) -> Iterator[AsServer]:
    """One with two repositories, for a test that changes them: segment 3 is held in both."""
    made = make(servers, servers.make_cluster(15, started=False), "one", "two")
    push(made, (name_of(3), segment(3)))
    push(made, (name_of(3), segment(3)), repository="two")
    yield made
    end_feeder(made)


def directory(servers: Servers, signal_file: str, owner: int = OWNER) -> Path:
    """What a data directory has that is looked at."""
    folder = servers.new_folder("data")
    for name in ("pg_wal", "global"):
        (folder / name).mkdir()
    (folder / "global" / "pg_control").write_bytes(struct.pack("=Q", owner).ljust(8192, b"\0"))
    if signal_file:
        (folder / signal_file).touch()
    give_all(folder)
    return folder


@pytest.fixture
def standby(servers: Servers) -> Path:
    return directory(servers, "standby.signal")


@pytest.fixture
def recovering(servers: Servers) -> Path:
    return directory(servers, "recovery.signal")


def fetch(program: AsServer, name: str, folder: Path, path: str = "pg_wal/RECOVERYXLOG") -> tuple[int, bytes | None]:
    """The exit code, and what lies there then; nothing else may."""
    done = program("wal", "fetch", name, path, cwd=folder)
    assert done.stdout == ""
    assert (done.returncode in (0, 64)) == (done.stderr == ""), done.stderr
    there = {found.name: found.read_bytes() for found in (folder / "pg_wal").iterdir()}
    assert set(there) <= {"RECOVERYXLOG"}
    return done.returncode, there.get("RECOVERYXLOG")


# Real servers


def make_standby(
    servers: Servers, primary: Cluster, program: AsServer, make_cluster: Callable[..., Cluster]
) -> Cluster:
    """A standby that follows by ``wal fetch`` alone: it knows no primary, and the primary has no slot for it."""
    standby = make_cluster(primary.major, started=False)
    shutil.rmtree(standby.data_dir)
    run([primary.bin / "pg_basebackup", "-D", standby.data_dir, "-X", "none", "-c", "fast", "-d", primary.dsn()])
    with (standby.data_dir / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = '{program.program} wal fetch %f %p'\nwal_retrieve_retry_interval = 200ms\n")
    (standby.data_dir / "standby.signal").touch()
    give(standby.data_dir / "standby.signal")
    standby.start()
    return standby


def has_rows(cluster: Cluster, number: int) -> bool:
    return bool(cluster.value("select count(*) from told") == number)


def test_standbys_follow_by_it_alone_and_across_a_promotion(
    servers: Servers, make_cluster: Callable[..., Cluster]
) -> None:
    primary = make_cluster(15, fresh=True, conf="archive_mode = on")
    program = make(servers, primary)
    primary.execute(f"alter system set archive_command = '{program.program} wal push %p'")
    primary.execute("select pg_reload_conf()")
    primary.execute("create table told (number int)")
    first = make_standby(servers, primary, program, make_cluster)
    second = make_standby(servers, primary, program, make_cluster)
    try:
        for number in range(5):
            primary.execute(f"insert into told values ({number})")
            primary.execute("select pg_switch_wal()")
        for standby in (first, second):
            wait_until(partial(has_rows, standby, 5), "the standby has all rows", 120)
        assert feeder(program) is not None
        assert not list((second.data_dir / "pg_wal").glob("*.holdfast.*"))
        primary.stop()
        first.execute("select pg_promote()")
        first.execute("insert into told values (100)")
        last = first.value("select pg_walfile_name(pg_switch_wal())")
        wait_until(lambda: archived(first, last), f"{last} is archived", 120)
        wait_until(lambda: second.value("select max(number) from told") == 100, "it follows to timeline 2", 120)
        assert second.value("select pg_is_in_recovery()")
        held = program.held()
        assert list(held.histories) == [2]
        assert not held.conflicts
        assert not held.problems
        assert {begin.timeline for begin in held.begins} == {1, 2}
        for log in (first.log, second.log):
            assert "holdfast:" not in log.read_text()
    finally:
        second.stop()  # a server is not kept from shutting down
        end_feeder(program)


# What is answered


@pytest.mark.parametrize("number", [3, 4, 6])
def test_what_is_held_is_brought_whole(program: AsServer, standby: Path, number: int) -> None:
    assert fetch(program, name_of(number), standby) == (0, segment(number))
    path = standby / "pg_wal" / "RECOVERYXLOG"
    assert path.stat().st_mode & 0o777 == 0o600
    path.unlink()
    assert fetch(program, "00000002.history", standby) == (0, HISTORY)


def test_what_is_not_held(program: AsServer, standby: Path, recovering: Path) -> None:
    for name in (name_of(9), name_of(2), "00000003.history", name_of(3).replace("00000001", "00000002", 1)):
        assert fetch(program, name, standby) == (64, None)
    assert fetch(program, name_of(7), standby) == (64, None)
    for name in (name_of(9), "00000003.history"):  # nothing follows: that is the end
        assert fetch(program, name, recovering) == (64, None)


def test_a_recovery_that_is_to_end_does_not_end_before_a_gap(program: AsServer, recovering: Path) -> None:
    for _feeder_or_not in range(2):
        done = program("wal", "fetch", name_of(7), "pg_wal/RECOVERYXLOG", cwd=recovering)
        assert done.returncode == 126
        assert f"there is WAL of {name_of(8)}" in done.stderr
        assert "holdfast restore main" in done.stderr


def test_the_next_calls_are_answered_from_the_spool(program: AsServer, standby: Path) -> None:
    assert fetch(program, name_of(3), standby)[0] == 0
    wait_until(lambda: listens(program), "the feeder listens")
    assert fetch(program, name_of(4), standby)[0] == 0
    wait_until(lambda: spooled(program) >= {name_of(5), name_of(6)}, "it is fetched in advance")
    done = program("wal", "fetch", name_of(5), "pg_wal/RECOVERYXLOG", cwd=standby, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0
    assert "holdfast.wiring" not in done.stderr
    assert (standby / "pg_wal" / "RECOVERYXLOG").read_bytes() == segment(5)
    assert name_of(5) not in spooled(program)
    history = program("wal", "fetch", "00000003.history", "x", cwd=standby, PYTHONPROFILEIMPORTTIME="1")
    assert (history.returncode, "holdfast.wiring" in history.stderr) == (64, False)
    end_feeder(program)
    assert fetch(program, name_of(6), standby) == (0, segment(6))


def spooled(program: AsServer) -> set[str]:
    return {path.name.partition(".")[0] for path in program.spool.iterdir()} - {"feeder"}


def test_a_history_file_that_comes_is_seen_at_once(own: AsServer, standby: Path) -> None:
    assert fetch(own, "00000002.history", standby) == (64, None)
    wait_until(lambda: listens(own), "the feeder listens")
    assert fetch(own, "00000002.history", standby) == (64, None)
    push(own, ("00000002.history", HISTORY))
    assert fetch(own, "00000002.history", standby) == (0, HISTORY)


@pytest.mark.parametrize("left", ["a file of another's", "an open folder"])
def test_a_spool_that_is_not_ours_is_not_used(program: AsServer, standby: Path, left: str) -> None:
    shutil.rmtree(program.spool, ignore_errors=True)
    program.spool.mkdir(parents=True)
    (program.spool / f"{name_of(3)}.1").write_bytes(b"\1" * MEBIBYTES_16)
    if left == "an open folder":
        give_all(program.state)
        program.spool.chmod(0o777)
    try:
        assert fetch(program, name_of(3), standby) == (0, segment(3))
        assert feeder(program) is None
    finally:
        end_feeder(program)
        shutil.rmtree(program.spool)


def test_state_that_cannot_be_written(program: AsServer, standby: Path) -> None:
    shutil.rmtree(program.state / "spool", ignore_errors=True)
    os.chown(program.state, 0, 0)
    program.state.chmod(0o755)
    try:
        assert fetch(program, name_of(3), standby) == (0, segment(3))
        assert not program.spool.exists()
    finally:
        give(program.state)


# What is not to be believed


def put_tail(program: AsServer, number: int, content: bytes) -> None:
    stream = Stream(source="main", system_identifier=OWNER)
    writer = WalWriter(program.repository(), stream, MEBIBYTES_16)
    running = writer.running()
    before = running.digest()
    running.feed(content)
    writer.put(
        Piece(
            stream=stream, timeline=1, number=number, segment_size=MEBIBYTES_16, start=0, stop=len(content),
            before=before, after=running.digest(), clock=None, facts={},
        ),
        content,
        tail=True,
    )  # fmt: skip
    give_all(program.folder)


def test_a_tail_is_never_brought(own: AsServer, standby: Path, recovering: Path) -> None:
    put_tail(own, 4, segment(4)[: 2**20])
    assert fetch(own, name_of(4), standby) == (64, None)
    code, there = fetch(own, name_of(4), recovering)
    assert (code, there) == (126, None)


def test_two_contents_for_one_place_end_everything(own: AsServer, standby: Path) -> None:
    shutil.rmtree(own.store("two") / "wal")
    stream = Stream(source="main", system_identifier=OWNER)
    writer = WalWriter(own.repository(), stream, MEBIBYTES_16)
    other = segment(3, filling=b"written by another")
    running = writer.running()
    before = running.digest()
    running.feed(other)
    writer.put(
        Piece(
            stream=stream, timeline=1, number=3, segment_size=MEBIBYTES_16, start=0, stop=MEBIBYTES_16,
            before=before, after=running.digest(), clock=None, facts={},
        ),
        other,
        tail=False,
    )  # fmt: skip
    give_all(own.folder)
    done = own("wal", "fetch", name_of(3), "pg_wal/RECOVERYXLOG", cwd=standby)
    assert done.returncode == 126
    assert done.stderr.count("wal/") >= 2, done.stderr


def objects(program: AsServer, repository: str) -> list[Path]:
    folder = program.store(repository) / Kind.WAL.prefix
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_damaged_segment_comes_from_the_next_repository_or_not_at_all(own: AsServer, standby: Path) -> None:
    for count, repository in enumerate(own.repositories):
        (path,) = objects(own, repository)
        content = bytearray(path.read_bytes())
        content[-100] ^= 1
        path.chmod(0o600)
        path.write_bytes(content)
        if not count:
            assert fetch(own, name_of(3), standby) == (0, segment(3))
            (standby / "pg_wal" / "RECOVERYXLOG").unlink()
    assert fetch(own, name_of(3), standby) == (126, None)


def test_a_repository_that_is_away(own: AsServer, standby: Path, recovering: Path) -> None:
    for name in own.repositories:
        own.store(name).rename(own.folder / f"{name}.away")
    assert fetch_failing(own, standby) == 64  # it goes on, and asks again
    (own.folder / "two.away").rename(own.store("two"))
    assert fetch(own, name_of(3), standby) == (0, segment(3))
    assert fetch_failing(own, recovering, name_of(4)) == 126  # that it is held elsewhere cannot be excluded


def fetch_failing(program: AsServer, folder: Path, name: str = name_of(3)) -> int:
    done = program("wal", "fetch", name, "pg_wal/RECOVERYXLOG", cwd=folder)
    assert "file://" in done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "which file"),
        ((name_of(3),), "which file"),
        (("", "x"), "which file"),
        ((name_of(3), ""), "which file"),
        ((name_of(3), "pg_wal"), "pg_wal is not the path of a file"),
        ((name_of(3), "nix/x"), "nix/x is not the path of a file"),
        (("nix", "x"), "'nix' is not the name"),
        (("../../x", "x"), "'../../x' is not the name"),
        ((name_of(3) + ".partial", "x"), "is not the name"),
        (("--nix", name_of(3), "x"), "--nix"),
        (("--source", "nix", name_of(3), "x"), "nix"),
        (("--config", "/nonexistent.toml", name_of(3), "x"), "/nonexistent.toml"),
    ],
)
def test_what_makes_no_sense_is_never_the_end_of_wal(
    program: AsServer, standby: Path, recovering: Path, arguments: tuple[str, ...], told: str
) -> None:
    for folder, code in ((recovering, 126), (standby, 64)):
        done = program("wal", "fetch", *arguments, cwd=folder)
        assert done.returncode == code
        assert told in done.stderr
        assert "Traceback" not in done.stderr
        assert "defect" not in done.stderr


def test_a_program_that_breaks_down_is_never_the_end_of_wal(program: AsServer, recovering: Path) -> None:
    broken = recovering / "broken" / "typer"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('broken')")
    other = recovering / "holdfast"
    other.write_text(program.program.read_text().replace("PYTHONPATH=", f"PYTHONPATH={broken.parent}:", 1))
    other.chmod(0o755)
    done = subprocess.run(
        [other, "wal", "fetch", name_of(3), "x"],
        cwd=recovering,
        env=bare_environment(),
        capture_output=True,
        text=True,
        check=False,
        **identity(),
    )
    assert done.returncode == 126
    assert "broken" in done.stderr


def test_a_server_of_another_system(program: AsServer, servers: Servers) -> None:
    standby = directory(servers, "standby.signal", OWNER + 1)
    assert fetch(program, name_of(3), standby) == (64, None)
    recovering = directory(servers, "recovery.signal", OWNER + 1)
    done = program("wal", "fetch", name_of(3), "pg_wal/RECOVERYXLOG", cwd=recovering)
    assert done.returncode == 126
    assert str(OWNER) in done.stderr
    assert str(OWNER + 1) in done.stderr
