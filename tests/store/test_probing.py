"""Probing: what an honest store is found to do, and that each way of falling short is noticed."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.errors import HoldfastError, PermissionRefused, StoreUnreachable
from holdfast.store.folder import FolderStore
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Bytes, Listed, Store, Traits
from holdfast.store.probing import LARGE_BYTES, Deletes, probe
from tests.object_servers import ObjectServer
from tests.store.clocks import TestClock
from tests.store.conftest import object_store
from tests.store.peers import forwarding, peer


def test_an_honest_store(exclusive_store: Store) -> None:
    abilities = probe(exclusive_store, clock=SystemClock())
    assert abilities.creates_exclusively
    assert abilities.reads_back
    assert abilities.reads_ranges
    assert abilities.replaces
    assert abilities.lists_at_once
    assert abilities.clock_ahead is not None
    assert abs(abilities.clock_ahead) < timedelta(seconds=30)
    assert abilities.deletes is Deletes.GONE
    assert abilities.large.intact
    assert abilities.large.size == LARGE_BYTES
    assert abilities.large.put_s > 0
    assert [*exclusive_store.list("")] == []


def test_a_server_that_ignores_conditions(rclone: ObjectServer) -> None:
    store = object_store(rclone)
    abilities = probe(store, clock=SystemClock())
    assert not abilities.creates_exclusively
    assert abilities.traits.ranges is True
    assert [*store.list("")] == []


def test_a_server_that_ignores_ranges(moto: ObjectServer) -> None:
    with peer(forwarding(moto.address, lambda _request: None, drop_range=True)) as address:
        abilities = probe(object_store(replace(moto, address=address)), clock=SystemClock())
    assert abilities.reads_ranges  # corrected by us
    assert abilities.traits.ranges is False


def test_a_versioned_bucket(moto: ObjectServer) -> None:
    moto.create_bucket("versioned")
    body = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    connection = http.client.HTTPConnection(moto.address, timeout=30)
    try:
        connection.request("PUT", "/versioned?versioning", body)
        assert connection.getresponse().status == 200
    finally:
        connection.close()
    abilities = probe(object_store(moto, "versioned"), clock=SystemClock())
    assert abilities.deletes is Deletes.GONE
    assert abilities.traits.keeps_versions is True
    assert probe(object_store(moto), clock=SystemClock()).traits.keeps_versions is False


def test_what_an_interrupted_probe_left_is_removed_a_day_later() -> None:
    clock = TestClock()
    store = MemoryStore(clock=clock)
    store.put("probes/old", b"")
    clock.sleep(86_000)
    store.put("probes/young", b"")
    store.put("data/old", b"")
    clock.sleep(1000)
    probe(store, clock=clock)
    assert {listed.name for listed in store.list("")} == {"probes/young", "data/old"}


def test_the_stores_clock_is_compared(tmp_path: Path) -> None:
    class Late(SystemClock):
        def now(self) -> datetime:
            return super().now() - timedelta(hours=2)

    ahead = probe(FolderStore(tmp_path, clock=SystemClock(), create=True), clock=Late()).clock_ahead
    assert ahead is not None
    assert timedelta(hours=2) - timedelta(minutes=1) < ahead < timedelta(hours=2) + timedelta(minutes=1)


class Hostile(MemoryStore):
    def __init__(self) -> None:
        super().__init__(clock=SystemClock())


class Wrong(Hostile):
    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return bytes(len(super().get(name, start, length)))


class WrongRanges(Hostile):
    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:  # noqa: ARG002  ignored, that is it
        return super().get(name, 0, length)


class Truncating(Hostile):
    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        super().put(name, bytes(data[: LARGE_BYTES - 1]), if_absent=if_absent)


class SlowToList(Hostile):
    def list(self, prefix: str) -> Iterator[Listed]:  # noqa: ARG002  ignored, that is it
        return iter(())


class ListsOtherSizes(Hostile):
    def list(self, prefix: str) -> Iterator[Listed]:
        return (Listed(name=one.name, size=one.size + 1, modified=one.modified) for one in super().list(prefix))


class Cached(Hostile):
    """Gives back the first content of a name for ever."""

    def __init__(self) -> None:
        super().__init__()
        self._first: dict[str, bytes] = {}

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        whole = self._first.setdefault(name, super().get(name))
        return whole[start : None if length is None else start + length]


class Immutable(Hostile):
    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        if not if_absent and any(listed.name == name for listed in self.list("")):
            raise PermissionRefused("immutable")
        super().put(name, data, if_absent=if_absent)


class Inclusive(Hostile):
    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:  # noqa: ARG002  ignored, that is it
        super().put(name, data)


class MayNotDelete(Hostile):
    def delete(self, name: str) -> None:  # noqa: ARG002  ignored, that is it
        raise PermissionRefused("not allowed")


class DeletesNothing(Hostile):
    def delete(self, name: str) -> None:
        pass


class StillLists(Hostile):
    def __init__(self) -> None:
        super().__init__()
        self._gone: list[Listed] = []

    def delete(self, name: str) -> None:
        self._gone += [listed for listed in super().list("") if listed.name == name]
        super().delete(name)

    def list(self, prefix: str) -> Iterator[Listed]:
        yield from super().list(prefix)
        yield from self._gone


@pytest.mark.parametrize(
    ("kind", "noticed"),
    [
        (Wrong, lambda found: not found.reads_back),
        (WrongRanges, lambda found: not found.reads_ranges),
        (Truncating, lambda found: not found.large.intact and found.reads_back),
        (SlowToList, lambda found: not found.lists_at_once and found.clock_ahead is None),
        (ListsOtherSizes, lambda found: not found.lists_at_once),
        (Cached, lambda found: found.replaces is False),
        (Immutable, lambda found: found.replaces is None),
        (Inclusive, lambda found: not found.creates_exclusively),
        (MayNotDelete, lambda found: found.deletes is Deletes.REFUSED),
        (DeletesNothing, lambda found: found.deletes is Deletes.STILL_READ),
        (StillLists, lambda found: found.deletes is Deletes.STILL_LISTED),
    ],
)
def test_each_way_of_falling_short_is_noticed(kind: Callable[[], Store], noticed: Callable[[object], bool]) -> None:
    assert noticed(probe(kind(), clock=SystemClock()))


def test_what_cannot_be_used_at_all_is_an_error_and_leaves_nothing() -> None:
    class NoLarge(Hostile):
        def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
            if len(data) > 1 << 20:
                raise StoreUnreachable("too large")
            super().put(name, data, if_absent=if_absent)

        def traits(self, name: str) -> Traits:  # noqa: ARG002  ignored, that is it
            raise AssertionError("not reached")

    store = NoLarge()
    with pytest.raises(HoldfastError, match="too large"):
        probe(store, clock=SystemClock())
    assert [*store.list("")] == []
