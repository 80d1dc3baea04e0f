"""Machines with clocks of their own, and jobs on them that stand still wherever they are told to.

A :class:`Job` is one process: a thread that goes on only while somebody waits for it, so that whatever the seed says
happens in the same order again. It may be held before any of its store calls, for as long as the others like, killed
there, or met by a fault. A killed job makes no further call, not even one to tidy up.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import pytest

from holdfast.repository import (
    chunking,
    compaction,
    index_fetching,
    index_loading,
    pack_checks,
    packing,
    reader,
    repository,
    trees,
    writer,
)
from holdfast.repository.keys import Keys
from holdfast.repository.repository import Repository
from holdfast.store.faulty import Fault, FaultyStore, Killed
from holdfast.store.memory import MemoryStore
from holdfast.store.port import Bytes, Listed, Store, Traits
from tests.repository.clocks import HandClock

T = TypeVar("T")

_LIMIT_S = 60.0


class InlineCrew(Generic[T]):
    """In place of :class:`holdfast.repository.crew.Crew`: works in the thread that feeds, so that order is certain."""

    stopped = False

    def __init__(self, work: Callable[[T], None], **_how_many: int | None) -> None:
        self._work = work

    def submit(self, item: T) -> None:
        self._work(item)

    def check(self) -> None:
        pass

    finish = stop = check

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def each_inline(work: Callable[[T], None], items: Iterator[T], *, workers: int) -> None:
    for item in items:
        work(item)


def _nothing(_operation: str, _name: str) -> bool:
    return False


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything in small, so that a few kilobytes have packs, nodes and leaves; and in one thread a job."""
    monkeypatch.setattr(chunking, "CHUNK_SIZE", 4096)
    monkeypatch.setattr(chunking, "SLAB_SIZE", 16 * 1024)
    monkeypatch.setattr(packing, "PACK_TARGET", 6000)
    monkeypatch.setattr(compaction, "SMALL_OBJECTS", 3)
    monkeypatch.setattr(trees, "INLINE_ROWS", 2)
    monkeypatch.setattr(trees, "LEAF_TARGET", 512)
    for module in (writer, reader, index_fetching):
        monkeypatch.setattr(module, "Crew", InlineCrew)
    for module in (repository, index_loading, pack_checks):
        monkeypatch.setattr(module, "each", each_inline)


class Weather:
    """The store as everybody sees it: listings come in any order, and may lag behind what was put."""

    def __init__(self, inner: MemoryStore, clock: HandClock, chance: random.Random) -> None:
        self._inner, self._clock, self._chance = inner, clock, chance
        self.lag = timedelta(0)
        self.lagging: frozenset[str] = frozenset()
        """Prefixes whose listings leave out what was put within the last ``lag``."""

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        self._inner.put(name, data, if_absent=if_absent)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        return self._inner.get(name, start, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        lag = self.lag if prefix.partition("/")[0] in self.lagging else timedelta(0)
        shown = [one for one in self._inner.list(prefix) if self._clock.now() - one.modified >= lag]
        self._chance.shuffle(shown)
        yield from shown

    def delete(self, name: str) -> None:
        self._inner.delete(name)

    def exclusive_create(self) -> bool:
        return self._inner.exclusive_create()

    def traits(self, name: str) -> Traits:
        return self._inner.traits(name)


class Machine:
    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.clock = HandClock()
        self.state = folder / name
        self.paused = False
        """As a virtual machine is: nothing on it goes on, and its clocks stand still."""


class Job(Generic[T]):
    """``work`` is done against a repository in which ``fault`` happens; ``run`` it, as far as you like."""

    def __init__(
        self,
        kind: str,
        machine: Machine,
        work: Callable[[Job[T]], T],
        *,
        store: Store,
        keys: Keys,
        store_clock: HandClock,
        fault: Fault | None = None,
    ) -> None:
        self.kind, self.machine = kind, machine
        self.fault = fault
        self.disturbed = fault is not None
        faulty = FaultyStore(store, *([fault] if fault else []), clock=machine.clock)
        self._store = _HeldStore(faulty, self)
        self._store_clock = store_clock
        self.repository = Repository(self._store, keys, clock=machine.clock, state=machine.state)
        self.result: T | None = None
        self.error: BaseException | None = None
        self.done = False
        self.calls = 0
        self.read_at: datetime | None = None
        """When it last began to read the marks, by the store."""
        self.recorded_at: datetime | None = None
        """When it put a snapshot record, by the store."""
        self._work = work
        self._left: float = 0
        self._before: Callable[[str, str], bool] = _nothing
        self._standing = False
        self._dead = False
        self._turn = threading.Condition()
        self._thread = threading.Thread(target=self._go, name=f"{kind} on {machine.name}", daemon=True)
        self._thread.start()

    def run(self, calls: float = float("inf"), *, before: Callable[[str, str], bool] = _nothing) -> bool:
        """Lets it go on for so many store calls, until ``before`` is true of one, or to its end; whether it is done."""
        with self._turn:
            self._left, self._standing, self._before = calls, False, before
            self._turn.notify_all()
            if not self._turn.wait_for(lambda: self.done or self._standing, _LIMIT_S):
                raise AssertionError(f"{self.kind} hangs")
        return self.done

    def kill(self) -> None:
        self._dead = True
        self.run()

    def pause(self) -> None:
        """A place in the job where it may be held though it calls no store."""
        with self.call("", ""):
            pass

    @property
    def late(self) -> bool:
        """Whether it put a record so long after a reading of the marks that packs may have been deleted unseen."""
        return bool(
            self.recorded_at
            and self.read_at
            and self.recorded_at - self.read_at > timedelta(hours=12) - timedelta(1e-6)
        )

    @contextmanager
    def call(self, operation: str, name: str) -> Iterator[None]:
        with self._turn:
            if self._before(operation, name):
                self._left = 0
            while self._left < 1 and not self._dead:
                self._standing = True
                self._turn.notify_all()
                self._turn.wait()
            self._left -= 1
            self.calls += 1
        if self._dead:
            raise Killed(f"{operation} {name}")
        if operation == "put" and name.startswith("leases/") and self.recorded_at is None:
            self.read_at = self._store_clock.now()
        if operation == "put" and name.startswith("snapshots/"):
            self.recorded_at = self._store_clock.now()
        try:
            yield
        except Killed:
            self._dead = True
            raise

    def _go(self) -> None:
        with self._turn:
            self._turn.wait_for(lambda: self._left >= 1 or self._dead)
        try:
            self.result = self._work(self)
        except BaseException as error:  # noqa: BLE001  looked at by the one who runs it
            self.error = error
        finally:
            with self._turn:
                self.done = True
                self._turn.notify_all()


class _HeldStore:
    def __init__(self, inner: Store, job: Job[T]) -> None:
        self._inner, self._job = inner, job

    @property
    def url(self) -> str:
        return self._inner.url

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        with self._job.call("put", name):
            self._inner.put(name, data, if_absent=if_absent)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        with self._job.call("get", name):
            return self._inner.get(name, start, length)

    def list(self, prefix: str) -> Iterator[Listed]:
        with self._job.call("list", prefix):
            shown = list(self._inner.list(prefix))
        yield from shown

    def delete(self, name: str) -> None:
        with self._job.call("delete", name):
            self._inner.delete(name)

    def exclusive_create(self) -> bool:
        return self._inner.exclusive_create()

    def traits(self, name: str) -> Traits:
        return self._inner.traits(name)
