"""Every backend and wrapper, made fresh and empty for a test."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.store.faulty import FaultyStore
from holdfast.store.folder import FolderStore
from holdfast.store.limited import LimitedStore
from holdfast.store.memory import MemoryStore
from holdfast.store.objects import ObjectStore
from holdfast.store.port import Store
from holdfast.store.retrying import RetryingStore
from holdfast.store.services import S3, WEBDAV_PLAIN
from holdfast.store.sftp import SftpStore
from tests.object_servers import FolderServer, ObjectServer, moto_server, rclone_server, webdav_server
from tests.sftp_servers import SftpServer, openssh, rclone_sftp

BUCKET = "bucket"
_number = itertools.count()


@pytest.fixture(scope="session")
def moto() -> Iterator[ObjectServer]:
    with moto_server() as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def rclone() -> Iterator[ObjectServer]:
    with rclone_server() as server:
        server.create_bucket(BUCKET)
        yield server


@pytest.fixture(scope="session")
def webdav() -> Iterator[FolderServer]:
    with webdav_server() as server:
        server.ask("MKCOL", "/tests")
        yield server


def webdav_store(server: FolderServer) -> Store:
    """Retried: the server locks a folder while a name in it changes, and sends everybody else away for that moment."""
    prefix = f"tests/{next(_number)}"
    server.ask("MKCOL", f"/{prefix}")
    store = ObjectStore(WEBDAV_PLAIN, bucket=server.address, prefix=prefix, options=server.options)
    return RetryingStore(store, clock=SystemClock(), jitter=random.Random(1))


@pytest.fixture(scope="session")
def sftp() -> Iterator[SftpServer]:
    with rclone_sftp() as server:
        yield server


@pytest.fixture(scope="session")
def sftp_openssh() -> Iterator[SftpServer]:
    with openssh() as server:
        yield server


def sftp_store(server: SftpServer) -> SftpStore:
    return SftpStore(server.access(f"tests/{next(_number)}"), create=True)


def object_store(server: ObjectServer, bucket: str = BUCKET) -> ObjectStore:
    return ObjectStore(S3, bucket=bucket, prefix=f"tests/{next(_number)}", options=server.options)


KINDS: dict[str, Callable[[pytest.FixtureRequest], Store]] = {
    "folder": lambda request: FolderStore(
        Path(request.getfixturevalue("tmp_path")) / "store", clock=SystemClock(), create=True
    ),
    "memory": lambda _: MemoryStore(clock=SystemClock()),
    "moto": lambda request: object_store(request.getfixturevalue("moto")),
    "rclone": lambda request: object_store(request.getfixturevalue("rclone")),
    "webdav": lambda request: webdav_store(request.getfixturevalue("webdav")),
    "sftp": lambda request: sftp_store(request.getfixturevalue("sftp")),
    "sftp_openssh": lambda request: sftp_store(request.getfixturevalue("sftp_openssh")),
    "retrying": lambda _: RetryingStore(MemoryStore(clock=SystemClock()), clock=SystemClock(), jitter=random.Random(1)),
    "limited": lambda _: LimitedStore(MemoryStore(clock=SystemClock()), calls=3, in_flight_bytes=1000),
    "faulty": lambda _: FaultyStore(MemoryStore(clock=SystemClock()), clock=SystemClock()),
}


@pytest.fixture(params=list(KINDS))
def store(request: pytest.FixtureRequest) -> Store:
    return KINDS[request.param](request)


@pytest.fixture(params=[kind for kind in KINDS if kind not in ("rclone", "webdav", "sftp")])
def exclusive_store(request: pytest.FixtureRequest) -> Store:
    """A store that can create if absent."""
    return KINDS[request.param](request)
