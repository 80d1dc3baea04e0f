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
from holdfast.store.services import S3
from tests.object_servers import ObjectServer, moto_server, rclone_server

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


def object_store(server: ObjectServer, bucket: str = BUCKET) -> ObjectStore:
    return ObjectStore(S3, bucket=bucket, prefix=f"tests/{next(_number)}", options=server.options)


KINDS: dict[str, Callable[[pytest.FixtureRequest], Store]] = {
    "folder": lambda request: FolderStore(
        Path(request.getfixturevalue("tmp_path")) / "store", clock=SystemClock(), create=True
    ),
    "memory": lambda _: MemoryStore(clock=SystemClock()),
    "moto": lambda request: object_store(request.getfixturevalue("moto")),
    "rclone": lambda request: object_store(request.getfixturevalue("rclone")),
    "retrying": lambda _: RetryingStore(MemoryStore(clock=SystemClock()), clock=SystemClock(), jitter=random.Random(1)),
    "limited": lambda _: LimitedStore(MemoryStore(clock=SystemClock()), calls=3, in_flight_bytes=1000),
    "faulty": lambda _: FaultyStore(MemoryStore(clock=SystemClock()), clock=SystemClock()),
}


@pytest.fixture(params=list(KINDS))
def store(request: pytest.FixtureRequest) -> Store:
    return KINDS[request.param](request)


@pytest.fixture(params=[kind for kind in KINDS if kind != "rclone"])
def exclusive_store(request: pytest.FixtureRequest) -> Store:
    """A store that can create if absent."""
    return KINDS[request.param](request)
