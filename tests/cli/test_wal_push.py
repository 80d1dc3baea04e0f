"""``holdfast wal push``, run by real servers, and beside a receiver that is played by the test."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import lean, lean_place
from holdfast.config import default_state_folder, find_configuration
from holdfast.errors import ConfigError
from holdfast.postgres.lsn import Segment
from tests.cli.as_server import AsServer, identity, interpreter, make
from tests.cli.site import failed
from tests.privileges import require_root
from tests.requirements import require
from tests.servers import Cluster, Servers, bare_environment, give, wait_until

MEBIBYTES_16 = 16 * 2**20
OWNER = 7_398_214_999_999_999_999


def segment(number: int, *, owner: int = OWNER, size: int = MEBIBYTES_16, filling: bytes = b"") -> bytes:
    """A segment of timeline 1 that a server could have left after pg_switch_wal: a header, then next to nothing."""
    head = struct.pack("=HHIQI4xQII", 0xD110, 0x0002, 1, number * size, 0, owner, size, 8192)
    return (head + filling).ljust(size, b"\0")


def name_of(number: int, size: int = MEBIBYTES_16) -> str:
    return Segment(timeline=1, number=number, size=size).name


@pytest.fixture(scope="module")
def program(servers: Servers) -> AsServer:
    """One that no receiver serves."""
    return make(servers, servers.make_cluster(15, started=False))


@pytest.fixture
def data(servers: Servers) -> Path:
    """What a data directory has that is looked at."""
    folder = servers.new_folder("data")
    for name in ("pg_wal", "global"):
        (folder / name).mkdir()
        give(folder / name)
    (folder / "global" / "pg_control").write_bytes(struct.pack("=Q", OWNER).ljust(8192, b"\0"))
    return folder


def lay(data: Path, name: str, content: bytes) -> Path:
    path = data / "pg_wal" / name
    path.write_bytes(content)
    give(path)
    return path.relative_to(data)


# A server's archive_command


def test_what_a_server_archives_is_held_byte_for_byte(servers: Servers, make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(15, fresh=True, conf="archive_mode = on\narchive_timeout = 0")
    program = make(servers, cluster, "one", "two")
    copies = servers.new_folder("copies")
    cluster.execute(f"alter system set archive_command = 'cp %p {copies}/%f && {program.program} wal push %p'")
    cluster.execute("select pg_reload_conf()")
    cluster.pgbench_init(2)
    cluster.psql("select pg_backup_start('x', true); select pg_backup_stop()")
    last = cluster.value("select pg_walfile_name(pg_switch_wal())")
    wait_until(lambda: archived(cluster, last), f"{last} is archived", 120)
    size = MEBIBYTES_16
    for repository in program.repositories:
        found = {
            Segment(timeline=timeline, number=number, size=size).name: content
            for (timeline, number), content in program.contents(repository).items()
        }
        there = {path.name: path.read_bytes() for path in copies.iterdir() if len(path.name) == 24}
        assert len(there) > 2
        assert found == there
        assert not program.held(repository).problems
        assert [begin.why for begin in program.held(repository).begins] == ["first"]
    assert cluster.value("select failed_count from pg_stat_archiver") == 0
    assert any(path.name.endswith(".backup") for path in copies.iterdir())


def archived(cluster: Cluster, name: str) -> bool:
    """Whether the server needs ``name`` no more; one that fails is told."""
    folder = cluster.data_dir / "pg_wal" / "archive_status"
    return (folder / f"{name}.done").exists() or not (cluster.data_dir / "pg_wal" / name).exists()


def test_a_store_that_is_away_is_told_and_the_server_tries_again(
    servers: Servers, make_cluster: Callable[..., Cluster]
) -> None:
    cluster = make_cluster(15, fresh=True, conf="archive_mode = on")
    program = make(servers, cluster)
    shutil.move(program.store(), program.folder / "away")
    cluster.execute(f"alter system set archive_command = '{program.program} wal push %p'")
    cluster.execute("select pg_reload_conf()")
    last = cluster.value("select pg_walfile_name(pg_switch_wal())")
    wait_until(lambda: cluster.value("select failed_count from pg_stat_archiver") > 0, "archiving fails", 60)
    assert "archive command failed with exit code 4" in cluster.log.read_text()
    assert "Traceback" not in cluster.log.read_text()
    shutil.move(program.folder / "away", program.store())
    wait_until(lambda: archived(cluster, last), f"{last} is archived", 120)
    assert [found.number for found in program.held().segments][-1] == Segment.parse(last, MEBIBYTES_16).number


# What is refused


@pytest.fixture(scope="module")
def held(program: AsServer, servers: Servers) -> Path:
    """A data directory whose segment 5 is held."""
    folder = servers.new_folder("held")
    for name in ("pg_wal", "global"):
        (folder / name).mkdir()
    (folder / "global" / "pg_control").write_bytes(struct.pack("=Q", OWNER).ljust(8192, b"\0"))
    path = lay(folder, name_of(5), segment(5))
    done = program("wal", "push", path, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    return folder


def test_the_same_bytes_again_are_done_and_others_are_refused(program: AsServer, held: Path) -> None:
    path = lay(held, name_of(5), segment(5))
    assert program("wal", "push", path, cwd=held).returncode == 0
    lay(held, name_of(5), segment(5, filling=b"other"))
    failed(program("wal", "push", path, cwd=held), 6, name_of(5), "other bytes: wal/")
    lay(held, name_of(5), segment(5))
    assert program.contents()[1, 5] == segment(5)


def test_the_wal_of_another_server_is_refused_and_both_are_named(program: AsServer, held: Path, data: Path) -> None:
    (data / "global" / "pg_control").write_bytes(struct.pack("=Q", OWNER + 1).ljust(8192, b"\0"))
    path = lay(data, name_of(6), segment(6, owner=OWNER + 1))
    failed(program("wal", "push", path, cwd=data), 6, str(OWNER), str(OWNER + 1))
    lay(data, name_of(6), segment(6, owner=OWNER))  # copied there from elsewhere
    failed(program("wal", "push", path, cwd=data), 6, str(OWNER), str(OWNER + 1))


def test_other_files_are_kept_whole_and_never_replaced(program: AsServer, held: Path) -> None:
    history = lay(held, "00000002.history", b"1\t0/5000000\tno recovery target specified\n")
    partial = lay(held, name_of(9) + ".partial", segment(9))
    backup = lay(held, name_of(5) + ".00000028.backup", b"START WAL LOCATION: 0/5000028\n")
    for path in (history, partial, backup):
        for _again in range(2):
            done = program("wal", "push", path, cwd=held)
            assert done.returncode == 0, done.stderr
    found = program.held()
    assert found.histories == {2: (held / history).read_bytes()}
    assert name_of(9) + ".partial" in [file.file for file in found.files]
    lay(held, "00000002.history", b"1\t0/6000000\tno recovery target specified\n")
    failed(program("wal", "push", history, cwd=held), 6, "00000002.history")
    assert program.held().histories == found.histories


@pytest.mark.parametrize(
    ("name", "content", "refusal"),
    [
        (name_of(7), segment(7)[:-1], (5, "its own header says 16777216")),
        (name_of(7), segment(8), (5, f"holds the WAL of {name_of(8)}")),
        (name_of(7), b"\0" * MEBIBYTES_16, (5, "does not begin as a WAL segment does")),
        (name_of(7), b"", (5, "does not begin as a WAL segment does")),
        (name_of(7) + ".partial", segment(8), (5, f"holds the WAL of {name_of(8)}")),
        ("0000000100000000000000FG", segment(7), (2, "is not the name of a file that PostgreSQL archives")),
        (name_of(7).lower() + "a", segment(7), (2, "is not the name of a file that PostgreSQL archives")),
        ("RECOVERYXLOG", segment(7), (2, "is not the name of a file that PostgreSQL archives")),
        ("00000003.history", b"", (5, "has 0 bytes")),
    ],
)
def test_what_is_not_what_its_name_says(
    program: AsServer, data: Path, name: str, content: bytes, refusal: tuple[int, str]
) -> None:
    code, told = refusal
    failed(program("wal", "push", lay(data, name, content), cwd=data), code, told)


def test_a_path_that_is_no_file(program: AsServer, data: Path) -> None:
    failed(program("wal", "push", f"pg_wal/{name_of(7)}", cwd=data), 2, "there is no pg_wal/", str(data))
    failed(program("wal", "push", "", cwd=data), 2, "path is empty")
    failed(program("wal", "push", cwd=data), 2, "%p")
    (data / "pg_wal" / name_of(7)).mkdir()
    failed(program("wal", "push", f"pg_wal/{name_of(7)}", cwd=data), 2, "is not a file")
    os.mkfifo(data / "pg_wal" / name_of(8))
    failed(program("wal", "push", f"pg_wal/{name_of(8)}", cwd=data), 2, "is not a file")


def test_a_file_that_may_not_be_read(program: AsServer, data: Path) -> None:
    require_root()
    path = lay(data, name_of(7), segment(7))
    os.chown(data / path, 0, 0)
    (data / path).chmod(0o600)
    failed(program("wal", "push", path, cwd=data), 1, "cannot read", "Permission denied")


def test_a_configuration_that_does_not_work(program: AsServer, data: Path, servers: Servers) -> None:
    path = lay(data, name_of(7), segment(7))
    failed(program("--config", "/nonexistent.toml", "wal", "push", path, cwd=data), 2, "/nonexistent.toml")
    failed(program("wal", "push", "--source", "nix", path, cwd=data), 2, "nix")
    text = program.configuration.read_text()
    other = program.folder / "other.toml"
    other.write_text("\n".join(line for line in text.splitlines() if not line.startswith(("id =", "key ="))))
    failed(program("--config", other, "wal", "push", path, cwd=data), 2, "not made yet", "holdfast init")
    (program.folder / "wrong").write_text("another passphrase, not that\n")
    give(program.folder / "wrong")
    (program.folder / "wrong").chmod(0o600)
    other.write_text(text.replace('"passphrase"', '"wrong"'))
    failed(program("--config", other, "wal", "push", path, cwd=data), 6, "passphrase")
    other.write_text(text.replace('from = "archive"', 'from = "off"'))
    failed(program("--config", other, "wal", "push", path, cwd=data), 2, "keeps no WAL")


# Beside a receiver


@dataclass
class Receiver:
    """Answers as a receiver does; keeps what it was asked."""

    path: Path
    answer: bytes
    asked: list[dict[str, Any]] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)

    def serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _address = listening.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as stream:
                request = json.loads(stream.readline())
                self.asked.append(request)
                if self.answer:
                    self.received.append(stream.read(request["size"]))
                    connection.sendall(self.answer)


@contextmanager
def receiver(program: AsServer, answer: bytes) -> Iterator[Receiver]:
    program.receiver.parent.mkdir(parents=True, exist_ok=True)
    for folder in (program.state, program.receiver.parent):
        give(folder)
    played = Receiver(program.receiver, answer)
    descriptor = os.open(program.receiver.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listening:
        program.receiver.unlink(missing_ok=True)
        listening.bind(f"/proc/self/fd/{descriptor}/{program.receiver.name}")
        os.close(descriptor)
        give(program.receiver)
        listening.listen()
        thread = threading.Thread(target=played.serve, args=(listening,), daemon=True)
        thread.start()
        try:
            yield played
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            program.receiver.unlink()


def test_a_receiver_that_runs(servers: Servers, data: Path) -> None:
    """Nothing is played here: ``wal receive`` serves, and takes what a server archives."""
    program = make(servers, servers.make_cluster(15, started=False))
    (data / "global" / "pg_control").write_bytes(struct.pack("=Q", OWNER).ljust(8192, b"\0"))
    path = lay(data, name_of(7), segment(7))
    history = lay(data, "00000002.history", b"1\t0/5000000\tx\n")
    with subprocess.Popen(
        [program.program, "wal", "receive", "main", "--no-snapshot"],
        cwd="/",
        env=bare_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **identity(),
    ) as serving:
        try:
            wait_until(program.receiver.exists, "it serves", 60)
            for pushed in (path, history, path):
                done = program("wal", "push", pushed, cwd=data, PYTHONPROFILEIMPORTTIME="1")
                assert done.returncode == 0, done.stderr
                assert "holdfast.wiring" not in modules(done.stderr)
            lay(data, name_of(7), segment(7, filling=b"other"))
            failed(program("wal", "push", path, cwd=data), 6, name_of(7), "other bytes: wal/")
        finally:
            serving.terminate()
            assert serving.wait(30) == 0
    assert program.contents() == {(1, 7): segment(7)}
    assert list(program.held().histories) == [2]


DONE = b'{"exit": 0, "text": "", "hint": ""}\n'


@pytest.mark.parametrize("deep", [False, True])
def test_a_receiver_gets_the_file_and_nothing_heavy_is_imported(servers: Servers, data: Path, deep: bool) -> None:
    program = make(servers, servers.make_cluster(15, started=False), deep=deep)
    assert (len(str(program.receiver)) > 107) == deep
    content = segment(7, filling=b"something")
    path = lay(data, name_of(7), content)
    history = lay(data, "00000002.history", b"1\t0/5000000\tx\n")
    with receiver(program, DONE) as asked:
        done = program("wal", "push", path, cwd=data, PYTHONPROFILEIMPORTTIME="1")
        assert program("wal", "push", history, cwd=data).returncode == 0
    assert done.returncode == 0
    assert asked.asked[0] == {
        "do": "push", "name": name_of(7), "size": len(content), "system_identifier": str(OWNER)
    }  # fmt: skip
    assert asked.asked[1]["system_identifier"] == str(OWNER)
    assert asked.received[0] == content
    imported = modules(done.stderr)
    assert "tomllib" in imported
    assert {name for name in imported if name.startswith("holdfast")} == {
        "holdfast", "holdfast.cli", "holdfast.cli.lean", "holdfast.cli.lean_place"
    }  # fmt: skip
    assert not set(imported) & {"typer", "pydantic", "gettext", "pathlib", "dataclasses", "threading", "subprocess"}
    assert not program.store().joinpath("wal").exists()


def modules(told: str) -> list[str]:
    """What Python says that it imported for the program, after what belongs to the installation."""
    names = [line.rpartition("|")[2].strip() for line in told.splitlines() if line.startswith("import time:")]
    return names[names.index("site") + 1 :]


def test_what_a_receiver_refuses_is_told_as_it_says(program: AsServer, data: Path) -> None:
    path = lay(data, name_of(7), segment(7))
    answer = json.dumps({"exit": 6, "text": "other bytes stand there", "hint": "Stop the other."}).encode() + b"\n"
    with receiver(program, answer):
        done = program("wal", "push", path, cwd=data)
    assert (done.returncode, done.stderr) == (6, "holdfast: other bytes stand there\nStop the other.\n")


@pytest.mark.parametrize("answer", [b'{"exit": 75, "text": "a store is away", "hint": ""}\n', b"", b"nonsense\n"])
def test_where_a_receiver_cannot_the_file_is_put_without_it(
    program: AsServer, held: Path, answer: bytes, data: Path
) -> None:
    number = {0: 20, 9: 21}.get(len(answer), 22)
    path = lay(data, name_of(number), segment(number))
    with receiver(program, answer) as asked:
        done = program("wal", "push", path, cwd=data)
    assert (done.returncode, done.stderr) == (0, "")
    assert asked.asked
    assert (1, number) in program.contents()


def test_a_socket_that_nobody_serves(program: AsServer, held: Path, data: Path) -> None:
    path = lay(data, name_of(23), segment(23))
    program.receiver.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(program.receiver))
    give(program.receiver)
    try:
        done = program("wal", "push", path, cwd=data)
    finally:
        program.receiver.unlink()
    assert (done.returncode, done.stderr) == (0, "")


def test_a_read_only_file_system(program: AsServer, data: Path) -> None:
    require_root()
    require(shutil.which("unshare"), "unshare is not installed")
    path = lay(data, name_of(7), segment(7))
    script = 'mount --make-rprivate / && mount -o remount,bind,ro / && cd "$1" && exec "$2" wal push "$3"'
    test = ["unshare", "--mount", "sh", "-c"]
    tried = subprocess.run([*test, "mount --make-rprivate / && mount -o remount,bind,ro /"], check=False)
    require(tried.returncode == 0, "no mounts of one's own here")
    with receiver(program, DONE) as asked:
        done = subprocess.run(
            [*test, script, "sh", str(data), str(program.program), str(path)],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(asked.received[0]) == MEBIBYTES_16


# Finding the configuration


def test_it_is_found_by_the_rules_of_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lean or not, the same file: each place in turn is the first one."""
    user, named = tmp_path / "xdg" / "holdfast" / "holdfast.toml", tmp_path / "named.toml"
    home = tmp_path / "home" / ".config" / "holdfast" / "holdfast.toml"
    for path in (user, named, home):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    for variables, option in [
        ({"HOME": str(tmp_path / "home")}, None),
        ({"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": "relative"}, None),
        ({"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "xdg")}, None),
        ({"HOME": "", "XDG_CONFIG_HOME": str(tmp_path / "xdg")}, None),
        ({"HOME": str(tmp_path / "home"), "HOLDFAST_CONFIG": str(named)}, None),
        ({"HOME": str(tmp_path / "home"), "HOLDFAST_CONFIG": "/nonexistent"}, named),
    ]:
        for variable in ("HOME", "XDG_CONFIG_HOME", "HOLDFAST_CONFIG"):
            monkeypatch.delenv(variable, raising=False)
        for variable, value in variables.items():
            monkeypatch.setenv(variable, value)
        found = find_configuration(option, at_terminal=False)
        assert str(found) == lean_place.find_configuration(None if option is None else str(option))


def test_the_working_directory_counts_at_a_terminal_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "holdfast.toml"
    here.write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    monkeypatch.setattr(lean_place, "_at_terminal", lambda: True)
    assert lean_place.find_configuration(None) == str(find_configuration(at_terminal=True)) == str(here)
    here.chmod(0o666)
    with pytest.raises(ConfigError):
        find_configuration(at_terminal=True)
    with pytest.raises(lean_place.NotPlain):
        lean_place.find_configuration(None)


@pytest.mark.parametrize("variables", [{}, {"XDG_STATE_HOME": "/s"}, {"XDG_STATE_HOME": "s"}])
@pytest.mark.parametrize("user", [0, 1000])
def test_the_state_folder_is_the_same(variables: dict[str, str], user: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/x")
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert lean_place.default_state_folder() == str(default_state_folder())


@pytest.mark.parametrize(
    ("line", "understood"),
    [
        (["wal", "push", "pg_wal/x"], ("push", ["pg_wal/x"], None, None)),
        (["--config", "c", "wal", "push", "--source=s", "x"], ("push", ["x"], "c", "s")),
        (["wal", "--verbose", "fetch", "--lang", "zh_CN", "f", "--", "-p"], ("fetch", ["f", "-p"], None, None)),
        (["wal", "push", "x", "y"], None),
        (["wal", "fetch", "x"], None),
        (["wal", "push", "--json", "x"], None),
        (["wal", "push", "--help"], None),
        (["wal", "receive", "x"], None),
        (["wal", "push", "--config"], None),
        ([], None),
    ],
)
def test_lines_that_are_plain(
    line: list[str], understood: tuple[str, list[str], str | None, str | None] | None
) -> None:
    found = lean.understood(line)
    assert (None if found is None else (found.verb, found.operands, found.config, found.source)) == understood


def test_the_program_is_one_that_the_servers_user_may_run() -> None:
    assert interpreter()
