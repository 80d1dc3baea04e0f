"""The SFTP backend: who the server is, who we are, and what networks, disks and mounts do to it."""

from __future__ import annotations

import gc
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import (
    ConfigError,
    NoSpace,
    ObjectExists,
    ObjectMissing,
    PermissionRefused,
    Refused,
    StoreBusy,
    StoreUnreachable,
)
from holdfast.store.calls import TimeLimits
from holdfast.store.failures import Unmarked
from holdfast.store.folder import MARK, FolderStore
from holdfast.store.opening import open_store
from holdfast.store.retrying import RetryingStore
from holdfast.store.sftp import SftpStore
from holdfast.store.sftp_access import Access, access
from holdfast.wiring import credential_variables
from tests.privileges import NOBODY
from tests.requirements import require
from tests.sftp_servers import SftpServer, make_key, public_part
from tests.store.peers import deaf, peer, silent

QUICK = TimeLimits(base_s=1, bytes_per_second=1 << 20, unknown_bytes=1 << 20)


def at(url: str, **options: str) -> Access:
    return access(urlsplit(url), options, user="me", home=Path("/home/me"))


def new(server: SftpServer, name: str, **options: str) -> SftpStore:
    return SftpStore(server.access(name, **options), create=True)


# Where it is


def test_what_a_url_says() -> None:
    plain = at("sftp://backup.example/srv/pg%20backups/")
    assert (plain.host, plain.port, plain.user, plain.root) == ("backup.example", 22, "me", "/srv/pg backups")
    assert plain.known_hosts == Path("/home/me/.ssh/known_hosts")
    assert plain.url == "sftp://me@backup.example/srv/pg%20backups"
    full = at("sftp://u@[::1]:2222/a", known_hosts="/k", password="hush")
    assert (full.host, full.port, full.user, full.address) == ("::1", 2222, "u", "[::1]:2222")
    assert full.url == "sftp://u@[::1]:2222/a"
    assert "hush" not in repr(full)
    assert (at("sftp://h/a", port="23", user="u").port, at("sftp://h/a", user="u").user) == (23, "u")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("sftp://host", {}),
        ("sftp://host/", {}),
        ("sftp:///a", {}),
        ("sftp://host/a/../b", {}),
        ("sftp://host/a//b", {}),
        ("sftp://host/a?b", {}),
        ("sftp://u:hush@host/a", {}),
        ("sftp://host:99999/a", {}),
        ("sftp://host:22/a", {"port": "23"}),
        ("sftp://host/a", {"port": "many"}),
        ("sftp://u@host/a", {"user": "v"}),
    ],
)
def test_a_url_that_does_not_say_one_place_is_refused(url: str, options: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as refused:
        at(url, **options)
    assert refused.value.hint
    assert "hush" not in str(refused.value) + refused.value.hint


def test_a_store_is_opened_by_its_url(sftp: SftpServer) -> None:
    options = {"private_key": str(sftp.private_key), "known_hosts": str(sftp.known_hosts)}
    url = f"sftp://{sftp.user}@127.0.0.1:{sftp.port}/opened"
    store = open_store(url, options, clock=SystemClock(), create=True)
    store.put("a", b"1")
    assert open_store(url, options, clock=SystemClock()).get("a") == b"1"
    with pytest.raises(ConfigError, match="private_kye"):
        open_store(url, {"private_kye": "x"}, clock=SystemClock())


def test_the_folder_store_opens_what_lies_there(sftp: SftpServer) -> None:
    new(sftp, "both/ways").put("data/ab/cd", b"content")
    folder = FolderStore(sftp.folder / "both/ways", clock=SystemClock())
    assert folder.get("data/ab/cd") == b"content"


# Who the server is


def test_an_unknown_host_is_refused_with_the_line_that_admits_it(sftp: SftpServer, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    with pytest.raises(Refused, match=r"host key is not known: ssh-ed25519 SHA256:") as refused:
        new(sftp, "unknown", known_hosts=str(known)).put("a", b"1")
    assert f"ssh-keyscan -p {sftp.port} 127.0.0.1 >> {known}" in refused.value.hint
    assert not (sftp.folder / "unknown").exists()
    (line,) = [line for line in refused.value.hint.splitlines() if line.startswith("[127.0.0.1]:")]
    assert line in sftp.known_hosts.read_text()
    known.write_text(line + "\n")
    new(sftp, "unknown", known_hosts=str(known)).put("a", b"1")


def command_of(hint: str) -> str:
    """The shell's line that a hint ends in."""
    return hint.rpartition("run: ")[2]


def run_as_told(command: str, program: str) -> None:
    """What a person pastes into a shell."""
    require(shutil.which(program), f"{program} is not installed")
    subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, timeout=60)


def test_the_line_that_admits_a_host_can_be_pasted(sftp: SftpServer, tmp_path: Path) -> None:
    """Into a folder that is not there yet, of a name that a shell would take apart."""
    known = tmp_path / "it's $HOME" / ".ssh" / "known hosts; false"
    with pytest.raises(Refused) as refused:
        new(sftp, "pasted", known_hosts=str(known)).put("a", b"1")
    run_as_told(command_of(refused.value.hint), "ssh-keyscan")
    assert known.parent.stat().st_mode & 0o777 == 0o700
    new(sftp, "pasted", known_hosts=str(known)).put("a", b"1")
    known.unlink()
    with pytest.raises(Refused) as again:
        new(sftp, "pasted", known_hosts=str(known)).put("a", b"1")
    assert "mkdir" not in again.value.hint


@pytest.mark.parametrize("whose", ["own", "system"])
def test_the_line_that_admits_a_changed_key_can_be_pasted(sftp: SftpServer, tmp_path: Path, whose: str) -> None:
    """Also where the user has no known_hosts: the key that was known stands in the system's."""
    own, system = tmp_path / "no such" / "known hosts", tmp_path / "system"
    file = {"own": own, "system": system}[whose]
    file.parent.mkdir(exist_ok=True)
    file.write_text(f"[127.0.0.1]:{sftp.port} {public_part(make_key(tmp_path / 'other'))}\n")
    place = replace(sftp.access("pasted2"), known_hosts=own, system_known_hosts=system)
    with pytest.raises(Refused, match="HOST KEY HAS CHANGED") as refused:
        SftpStore(place, create=True).put("a", b"1")
    run_as_told(command_of(refused.value.hint), "ssh-keyscan")
    SftpStore(place, create=True).put("a", b"1")


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_changed_host_key_is_refused_loudly(sftp: SftpServer, tmp_path: Path, kind: str) -> None:
    known = tmp_path / "known_hosts"
    known.write_text(f"[127.0.0.1]:{sftp.port} {public_part(make_key(tmp_path / 'other', kind=kind))}\n")
    with pytest.raises(Refused, match="HOST KEY HAS CHANGED") as refused:
        new(sftp, "changed", known_hosts=str(known)).put("a", b"1")
    assert f"ssh-keygen -R '[127.0.0.1]:{sftp.port}' -f {known} && ssh-keyscan" in refused.value.hint
    assert not (sftp.folder / "changed").exists()


def test_known_hosts_that_cannot_be_read_are_no_trust(sftp: SftpServer, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("nonsense\n")
    for known in (tmp_path, broken):
        with pytest.raises(ConfigError, match=str(known)):
            new(sftp, "never", known_hosts=str(known))


# Who we are


def test_without_key_and_password_the_hint_names_them(sftp: SftpServer) -> None:
    with pytest.raises(PermissionRefused, match="does not let the user tester in") as refused:
        new(sftp, "nothing", private_key="").put("a", b"1")
    for name in ("private_key", "password", "--option private_key=", *credential_variables("sftp://h/a")[:1]):
        assert name in refused.value.hint


def test_a_password(sftp: SftpServer) -> None:
    new(sftp, "password", private_key="", password="right").put("a", b"1")
    with pytest.raises(PermissionRefused, match="does not let the user tester in") as refused:
        new(sftp, "password", private_key="", password="hush-wrong").put("b", b"1")
    assert "password" in refused.value.hint
    assert "hush" not in str(refused.value) + refused.value.hint


def test_a_key_that_the_server_does_not_know(sftp: SftpServer, tmp_path: Path) -> None:
    key = make_key(tmp_path / "stranger")
    with pytest.raises(PermissionRefused, match="does not let the user tester in") as refused:
        new(sftp, "stranger", private_key=str(key)).put("a", b"1")
    assert str(key) in refused.value.hint
    assert "authorized_keys" in refused.value.hint


def test_a_key_with_a_passphrase(sftp: SftpServer, tmp_path: Path) -> None:
    key = Path(shutil.copy(sftp.private_key, tmp_path / "key"))
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "hush", "-f", str(key)], check=True, capture_output=True)
    new(sftp, "passphrase", private_key=str(key), private_key_passphrase="hush").put("a", b"1")
    for passphrase, message in {"": "needs a passphrase", "wrong": "passphrase of the private key .* is wrong"}.items():
        with pytest.raises(ConfigError, match=message):
            new(sftp, "passphrase", private_key=str(key), private_key_passphrase=passphrase)


def test_a_file_that_is_no_key(sftp: SftpServer, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no key\n")
    for key in (tmp_path / "text", tmp_path / "absent"):
        with pytest.raises(ConfigError, match=key.name):
            new(sftp, "never", private_key=str(key))


def test_the_agents_keys(sftp: SftpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(PermissionRefused, match="does not let") as refused:
        new(sftp, "agent", private_key="").put("a", b"1")
    assert "private_key" in refused.value.hint
    program = shutil.which("ssh-agent")
    require(program, "ssh-agent is not installed")
    sock = tmp_path / "agent.sock"
    with subprocess.Popen([str(program), "-D", "-a", str(sock)], stdout=subprocess.DEVNULL) as agent:
        try:
            wait_for(sock.exists)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(sock))
            subprocess.run(["ssh-add", "-q", str(sftp.private_key)], check=True, capture_output=True)
            new(sftp, "agent", private_key="").put("a", b"1")
        finally:
            agent.kill()


# What is there


def test_without_the_mark_there_is_no_store(sftp_openssh: SftpServer) -> None:
    """An unmounted disk: the folder is there, and empty."""
    store = SftpStore(sftp_openssh.access("unmounted"))
    folder = sftp_openssh.folder / "unmounted"
    folder.mkdir()
    os.chown(folder, NOBODY if os.geteuid() == 0 else -1, -1)
    calls: list[Callable[[], object]] = [
        lambda: store.get("a"),
        lambda: store.put("a", b"1"),
        lambda: store.put("a", b"1", if_absent=True),
        lambda: list(store.list("")),
        lambda: list(store.list("data/")),
        lambda: store.delete("a"),
    ]
    for call in calls:
        with pytest.raises(Unmarked, match="no store at") as refused:
            call()
        assert f"{folder}/{MARK}" in refused.value.hint
    assert list(folder.iterdir()) == []


def test_only_a_call_makes_the_store(sftp: SftpServer) -> None:
    store = SftpStore(sftp.access("made/later"), create=True)
    assert not (sftp.folder / "made").exists()
    assert list(store.list("")) == []
    assert (sftp.folder / "made/later" / MARK).is_dir()


def test_modes_and_syncs(sftp_openssh: SftpServer, sftp: SftpServer) -> None:
    store = new(sftp_openssh, "modes")
    store.put("data/ab/cd", b"1")
    root = sftp_openssh.folder / "modes"
    found = {path.relative_to(root).as_posix(): path.stat().st_mode & 0o777 for path in root.rglob("*")}
    assert found == {MARK: 0o700, "data": 0o700, "data/ab": 0o700, "data/ab/cd": 0o600}
    assert (root / "data/ab/cd").stat().st_nlink == 1
    assert store.traits("data/ab/cd").syncs is True
    other = new(sftp, "modes")
    other.put("a", b"1")
    assert other.traits("a").syncs is False


def test_what_is_not_an_object_is_not_listed(sftp_openssh: SftpServer) -> None:
    store = new(sftp_openssh, "strange")
    store.put("data/one", b"1")
    data = sftp_openssh.folder / "strange/data"
    (data / "UPPER").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(data) + b"/\xff")).write_bytes(b"")
    (data / "dangling").symlink_to("nowhere")
    os.mkfifo(data / "pipe")
    elsewhere = sftp_openssh.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "two").write_bytes(b"22")
    (data / "ab").symlink_to(elsewhere)
    assert {listed.name: listed.size for listed in store.list("")} == {"data/one": 1, "data/ab/two": 2}
    assert list(store.list("data/one/more/")) == []


def test_a_folder_that_may_not_be_read_is_not_empty(sftp_openssh: SftpServer) -> None:
    store = new(sftp_openssh, "locked")
    store.put("data/ab/cd", b"1")
    folder = sftp_openssh.folder / "locked/data/ab"
    folder.chmod(0)
    try:
        for call in (
            lambda: list(store.list("")),
            lambda: store.get("data/ab/cd"),
            lambda: store.put("data/ab/x", b"1"),
        ):
            with pytest.raises(PermissionRefused, match="refuses it to the user") as refused:
                call()
            assert "locked" in refused.value.hint
    finally:
        folder.chmod(0o700)


def test_what_interrupted_writers_left_is_removed_a_day_later(sftp_openssh: SftpServer) -> None:
    new(sftp_openssh, "leftovers").put("a", b"1")
    mark = sftp_openssh.folder / "leftovers" / MARK
    for name, age in {"old.tmp": 90_000, "young.tmp": 80_000, "note": 90_000}.items():
        (mark / name).write_bytes(b"")
        os.utime(mark / name, (time.time() - age,) * 2)
    store = SftpStore(sftp_openssh.access("leftovers"))
    assert {listed.name for listed in store.list("")} == {"a"}
    assert (mark / "old.tmp").exists()
    store.put("b", b"1")
    assert {path.name for path in mark.iterdir()} == {"young.tmp", "note"}


@pytest.mark.parametrize("if_absent", [False, True])
def test_a_full_disk(sftp_openssh: SftpServer, if_absent: bool) -> None:
    folder = sftp_openssh.folder / f"disk-{if_absent}"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size=1m,uid={NOBODY}", "tmpfs", str(folder)], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    require(mounted, "mounting a tmpfs needs root")
    try:
        store = new(sftp_openssh, folder.name)
        store.put("small", b"1")
        with pytest.raises(NoSpace, match=r"disk is full .* bytes free"):
            store.put("large", bytes(2 << 20), if_absent=if_absent)
        assert {listed.name for listed in store.list("")} == {"small"}
        assert list((folder / MARK).iterdir()) == []
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(PermissionRefused, match="read-only"):
            store.put("more", b"1", if_absent=if_absent)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def test_a_disk_without_hard_links(sftp_openssh: SftpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server offers links, and its disk refuses them: the server's rename takes their place."""
    import asyncssh

    async def refuse(self: object, old: object, new: object) -> None:
        raise asyncssh.SFTPFailure("Operation not supported")

    monkeypatch.setattr(asyncssh.SFTPClient, "link", refuse)
    store = new(sftp_openssh, "linkless")
    store.put("data/ab/cd", b"first", if_absent=True)
    store.put("data/ab/cd", b"first", if_absent=True)
    with pytest.raises(ObjectExists):
        store.put("data/ab/cd", b"second", if_absent=True)
    assert store.get("data/ab/cd") == b"first"
    assert store.exclusive_create()
    assert list((sftp_openssh.folder / "linkless" / MARK).iterdir()) == []


# The network between


class Wire:
    """A proxy before a server, whose connections can be cut, and stopped dead."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._sockets: list[socket.socket] = []
        self._flows = threading.Event()
        self._flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        self._flows.clear()

    def go_on(self) -> None:
        self._flows.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.go_on()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _address = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self.connections += 1
                self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                self._flows.wait()
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        source.close()


@contextmanager
def wired(server: SftpServer, name: str, limits: TimeLimits | None = None) -> Iterator[tuple[Wire, SftpStore]]:
    with closing(Wire(server.port)) as wire:
        host_key = server.known_hosts.read_text().partition(" ")[2]
        known = server.known_hosts.with_name(f"known-{wire.port}")
        known.write_text(f"[127.0.0.1]:{wire.port} {host_key}")
        place = replace(server.access(name), port=wire.port, known_hosts=known)
        yield wire, SftpStore(place, create=True, limits=limits)


def test_a_lost_connection_is_made_anew(sftp: SftpServer) -> None:
    with wired(sftp, "cut") as (wire, store):
        retrying = RetryingStore(store, clock=SystemClock(), jitter=random.Random(1))
        store.put("a", b"1")
        assert wire.connections == 1
        assert store.get("a") == b"1"
        assert wire.connections == 1  # connections are kept
        for number in range(3):
            wire.cut()
            retrying.put(f"b/{number}", b"2", if_absent=True)
            assert retrying.get(f"b/{number}") == b"2"


def test_a_cut_in_the_middle_is_busy_and_leaves_no_object(sftp: SftpServer) -> None:
    with wired(sftp, "middle") as (wire, store):
        store.put("a", b"1")
        wire.stop()
        failures: list[Exception] = []

        def put() -> None:
            try:
                store.put("large", bytes(8 << 20))
            except StoreBusy as error:
                failures.append(error)

        thread = threading.Thread(target=put)
        thread.start()
        wait_for(lambda: store._connections._lanes[0].calls > 0)
        wire.cut()
        wire.go_on()
        thread.join()
        assert len(failures) == 1
        with pytest.raises(ObjectMissing):
            store.get("large")


def test_a_dead_peer_holds_nobody_longer_than_the_limit(sftp: SftpServer) -> None:
    with wired(sftp, "dead", QUICK) as (wire, store):
        store.put("a", b"1")
        wire.stop()
        calls: list[Callable[[], object]] = [
            lambda: store.get("a"),
            lambda: store.put("b", b"1"),
            lambda: list(store.list("")),
            lambda: store.delete("a"),
        ]
        for call in calls:
            began = time.monotonic()
            with pytest.raises(StoreBusy, match="no answer in time"):
                call()
            assert time.monotonic() - began < 8
        wire.go_on()
        assert store.get("a") == b"1"


@pytest.mark.parametrize("kind", [silent, deaf])
def test_a_server_that_never_speaks(sftp: SftpServer, kind: Callable[..., None]) -> None:
    with peer(kind) as address:
        place = replace(sftp.access("a"), port=int(address.rpartition(":")[2]))
        with pytest.raises(StoreBusy):
            SftpStore(place, limits=QUICK).get("a")


def test_nobody_listens(sftp: SftpServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StoreBusy, match="refused") as busy:
        SftpStore(replace(sftp.access("a"), port=port)).get("a")
    assert "reach it" in busy.value.hint


def test_no_such_machine(sftp: SftpServer) -> None:
    with pytest.raises(StoreUnreachable, match=r"no machine of the name nowhere\.invalid"):
        SftpStore(replace(sftp.access("a"), host="nowhere.invalid"), limits=QUICK).get("a")


def test_many_callers_share_few_connections(sftp: SftpServer) -> None:
    with wired(sftp, "many") as (wire, store):
        threads = [threading.Thread(target=store.put, args=(f"many/{number}", b"x" * 100_000)) for number in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(store.list("many/"))) == 24
        assert 1 <= wire.connections <= 4


def test_a_store_that_is_dropped_closes_its_connections(sftp: SftpServer) -> None:
    store = new(sftp, "dropped")
    store.put("a", b"1")
    lane = store._connections._lanes[0]
    assert lane.is_open()
    del store
    gc.collect()
    wait_for(lambda: not lane.is_open())


def wait_for(condition: Callable[[], object], *, limit_s: float = 20) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "did not happen in time"
        time.sleep(0.01)


_COMMAND = """
import sys
from tests.store.test_sftp import Path, SftpStore, access, urlsplit
url, key, known, ending = sys.argv[1:]
options = {"private_key": key, "known_hosts": known}
store = SftpStore(access(urlsplit(url), options, user="n", home=Path("/n")), create=True)
store.put("a/b", b"1")
print(store.get("a/b"))
if ending == "error":
    store.get("absent")
"""


@pytest.mark.parametrize("ending", ["well", "error"])
def test_a_process_that_ends_says_nothing_of_its_connections(sftp: SftpServer, ending: str) -> None:
    """Also in Python's development mode, which complains of what is left open."""
    url = f"sftp://{sftp.user}@127.0.0.1:{sftp.port}{sftp.shown}/ends"
    words = [sys.executable, "-X", "dev", "-c", _COMMAND, url, str(sftp.private_key), str(sftp.known_hosts), ending]
    for _round in range(10):
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
        assert ended.stdout == "b'1'\n", ended.stderr
        said = ended.stderr if ending == "well" else ended.stderr.partition("holdfast.errors.ObjectMissing")[2]
        assert said.count("\n") == (0 if ending == "well" else 1), ended.stderr
        assert "Task" not in ended.stderr
        assert "ResourceWarning" not in ended.stderr
