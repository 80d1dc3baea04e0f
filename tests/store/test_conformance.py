"""The guarantees of the port, for every backend and every wrapper."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.errors import ObjectExists, ObjectMissing, UsageError
from holdfast.store.port import Store


def test_what_was_put_is_got(store: Store) -> None:
    for name, data in {"a": b"x", "deep/er/one-1_2.z": bytes(range(256)) * 5000, "empty": b""}.items():
        store.put(name, data)
        assert store.get(name) == data


def test_any_kind_of_bytes_is_taken(store: Store) -> None:
    for kind in (bytes, bytearray, memoryview):
        store.put(f"as/{kind.__name__}", kind(b"content"))
        got = store.get(f"as/{kind.__name__}")
        assert isinstance(got, bytes)
        assert got == b"content"


@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 0), (0, 1), (0, 9), (0, 10), (0, 11), (3, 4), (9, 1), (9, 2), (3, 10), (10, 0), (10, 1), (11, 5)],
)
def test_a_range_ends_with_the_object(store: Store, start: int, length: int) -> None:
    store.put("ten", b"0123456789")
    assert store.get("ten", start, length) == b"0123456789"[start : start + length]


@pytest.mark.parametrize("start", [0, 1, 9, 10, 99])
def test_without_length_all_that_follows(store: Store, start: int) -> None:
    store.put("ten", b"0123456789")
    assert store.get("ten", start) == b"0123456789"[start:]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=40), start=st.integers(0, 45), length=st.none() | st.integers(0, 45))
def test_every_range(store: Store, data: bytes, start: int, length: int | None) -> None:
    store.put("object", data)
    assert store.get("object", start, length) == data[start : None if length is None else start + length]


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (0, -1)])
def test_a_range_is_not_negative(store: Store, start: int, length: int) -> None:
    store.put("ten", b"0123456789")
    with pytest.raises(UsageError):
        store.get("ten", start, length)


def test_absence_is_said(store: Store) -> None:
    store.put("there/one", b"1")
    for name in ("nowhere", "there/two", "there"):
        for arguments in ((), (0, 10), (5, 10), (5,), (0, 0)):
            with pytest.raises(ObjectMissing, match=name):
                store.get(name, *arguments)


def test_deleting_is_idempotent(store: Store) -> None:
    store.put("a/one", b"1")
    store.delete("a/one")
    store.delete("a/one")
    store.delete("never/there")
    with pytest.raises(ObjectMissing):
        store.get("a/one")
    assert [*store.list("")] == []
    store.put("a/one", b"2", if_absent=True)
    assert store.get("a/one") == b"2"


def test_a_plain_put_replaces(store: Store) -> None:
    store.put("a", b"first, and longer")
    store.put("a", b"second")
    assert store.get("a") == b"second"


def test_a_listing_has_names_sizes_and_times(store: Store) -> None:
    store.put("packs/aa/1", b"12345")
    store.put("packs/bb", b"")
    store.put("packs-of/other", b"1")
    store.put("snapshots/s", b"1")
    found = {listed.name: listed for listed in store.list("packs/")}
    assert {name: listed.size for name, listed in found.items()} == {"packs/aa/1": 5, "packs/bb": 0}
    for listed in found.values():
        assert listed.modified.utcoffset() == timedelta(0)
        assert abs(listed.modified - datetime.now(UTC)) < timedelta(minutes=1)
    assert {listed.name for listed in store.list("")} == {"packs/aa/1", "packs/bb", "packs-of/other", "snapshots/s"}
    assert [*store.list("nothing/here/")] == []


def test_what_was_put_is_listed_at_once(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"many/{number % 7}/{number}", b"x" * number), range(200)))
    assert {listed.name: listed.size for listed in store.list("many/")} == {
        f"many/{number % 7}/{number}": number for number in range(200)
    }


@pytest.mark.parametrize(
    "name",
    ["", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.b", "A", "a b", "a\n", "a\0b",
     "é", "a\\b", "a?b", "a%2fb", "a*", "x" * 256, "x/" * 400 + "x"],
)  # fmt: skip
def test_odd_names_are_refused(store: Store, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put(name, b"1"),
        lambda: store.put(name, b"1", if_absent=True),
        lambda: store.get(name),
        lambda: store.delete(name),
    ]
    for call in calls:
        with pytest.raises(UsageError):
            call()
    assert [*store.list("")] == []


@pytest.mark.parametrize("prefix", ["a", "/", "../", "a//", "A/", ".holdfast-store/"])
def test_odd_prefixes_are_refused(store: Store, prefix: str) -> None:
    with pytest.raises(UsageError):
        list(store.list(prefix))


def test_of_many_creators_one_wins(exclusive_store: Store) -> None:
    for round_ in range(10):
        name = f"claims/{round_}"
        start = threading.Barrier(8)

        def create(number: int, name: str = name, start: threading.Barrier = start) -> int | None:
            start.wait()
            try:
                exclusive_store.put(name, b"%d" % number * 1000, if_absent=True)
            except ObjectExists:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            winners = [number for number in pool.map(create, range(8)) if number is not None]
        assert len(winners) == 1
        assert exclusive_store.get(name) == b"%d" % winners[0] * 1000


def test_creating_again_with_the_same_bytes_succeeds(exclusive_store: Store) -> None:
    exclusive_store.put("key", b"same", if_absent=True)
    exclusive_store.put("key", b"same", if_absent=True)
    with pytest.raises(ObjectExists, match="key"):
        exclusive_store.put("key", b"different", if_absent=True)
    assert exclusive_store.get("key") == b"same"


def test_the_probe_finds_out_and_leaves_nothing(exclusive_store: Store) -> None:
    assert exclusive_store.exclusive_create()
    assert [*exclusive_store.list("")] == []


def test_a_producer_that_fails_has_put_nothing(store: Store) -> None:
    def produce() -> Iterator[bytes]:
        yield b"first half"
        raise RuntimeError("no second half")

    with pytest.raises(RuntimeError):
        store.put("half", b"".join(produce()))
    with pytest.raises(ObjectMissing):
        store.get("half")


def test_a_reader_never_sees_half_an_object(store: Store) -> None:
    contents = {f"object/{number}": bytes([number]) * (2_000_000 + number) for number in range(8)}
    done = threading.Event()

    def read() -> None:
        for name, content in contents.items():
            while True:
                last = done.is_set()
                try:
                    assert store.get(name) == content
                    break
                except ObjectMissing:
                    assert not last

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for name, content in contents.items():
                store.put(name, content)
        finally:
            done.set()
        for reader in readers:
            reader.result()


def test_the_url_says_where_without_secrets(store: Store) -> None:
    assert "://" in store.url
    assert "secret" not in store.url
