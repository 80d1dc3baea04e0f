"""A store that misbehaves on command, around any other: the same faults at the same calls, every time.

A :class:`Fault` says what happens (its ``kind``) and when (to which operation, names and occurrence). Each fault
counts the calls that it could apply to, from 1, in the order in which they arrive; all faults that are due apply, in
the order in which they were given. Every call is in :attr:`FaultyStore.calls`, whether a fault met it or not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from holdfast.clock import Clock
from holdfast.errors import StoreBusy
from holdfast.messages import _
from holdfast.store.failures import Operation, cannot, missing
from holdfast.store.port import Bytes, Listed, Store, Traits


class Killed(BaseException):
    """The process died here: what no ``except Exception`` may catch."""


class FaultKind(StrEnum):
    FAIL = "fail"
    """Raises ``error``; nothing is done."""
    DELAY = "delay"
    """Sleeps ``seconds`` on the clock, then goes on."""
    LOSE_RESPONSE = "lose_response"
    """Does it, then raises ``error``."""
    KILL = "kill"
    """Raises :class:`Killed`; nothing is done."""
    KILL_AFTER = "kill_after"
    """Does it, then raises :class:`Killed`."""
    TRUNCATE = "truncate"
    """put stores, and get returns, only the first ``keep`` bytes; list ends after ``keep`` objects."""
    FLIP = "flip"
    """put stores, and get returns, the bytes with bit number ``bit`` (modulo their length) inverted."""
    VANISH = "vanish"
    """put acknowledges and stores nothing; get finds nothing; list leaves out what matches; delete does nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    kind: FaultKind
    operation: Operation | None = None
    """Any, if None."""
    matches: Callable[[str], bool] = lambda _name: True
    """Of the object's name; of the prefix for a listing, unless the fault is VANISH: then of each name listed."""
    first: int = 1
    """The first of the matching calls that it happens to."""
    times: int | None = None
    """To how many calls in a row it happens; None: to all that follow."""
    error: Callable[[str], Exception] = lambda reason: StoreBusy(reason)  # noqa: PLW0108  the class's keyword is no part of it
    seconds: float = 0.0
    keep: int = 0
    bit: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    operation: Operation
    name: str
    size: int
    """Bytes handed over (put) or asked for (get; -1: to the end); 0 otherwise."""


class FaultyStore:
    def __init__(self, inner: Store, *faults: Fault, clock: Clock) -> None:
        self._inner = inner
        self._clock = clock
        self._faults: list[Fault] = list(faults)
        self._seen: list[int] = [0] * len(faults)
        self._calls: list[Call] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return self._inner.url

    @property
    def calls(self) -> Sequence[Call]:
        with self._lock:
            return list(self._calls)

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)
            self._seen.append(0)

    def heal(self) -> None:
        """From now on nothing goes wrong; the log of calls stays."""
        with self._lock:
            self._faults.clear()
            self._seen.clear()

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        due = self._arrive(Operation.PUT, name, len(data))
        self._before(due, Operation.PUT, name)
        if not _has(due, FaultKind.VANISH):
            self._inner.put(name, _spoil(data, due), if_absent=if_absent)
        self._after(due, Operation.PUT, name)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        due = self._arrive(Operation.GET, name, -1 if length is None else length)
        self._before(due, Operation.GET, name)
        if _has(due, FaultKind.VANISH):
            raise missing(name, self.url)
        data = self._inner.get(name, start, length)
        self._after(due, Operation.GET, name)
        return bytes(_spoil(data, due))

    def list(self, prefix: str) -> Iterator[Listed]:
        due = self._arrive(Operation.LIST, prefix, 0)
        self._before(due, Operation.LIST, prefix)
        keep = min((fault.keep for fault in due if fault.kind is FaultKind.TRUNCATE), default=None)
        hidden = [fault.matches for fault in due if fault.kind is FaultKind.VANISH]
        for count, listed in enumerate(self._inner.list(prefix)):
            if keep is not None and count >= keep:
                break
            if not any(matches(listed.name) for matches in hidden):
                yield listed
        self._after(due, Operation.LIST, prefix)

    def delete(self, name: str) -> None:
        due = self._arrive(Operation.DELETE, name, 0)
        self._before(due, Operation.DELETE, name)
        if not _has(due, FaultKind.VANISH):
            self._inner.delete(name)
        self._after(due, Operation.DELETE, name)

    def exclusive_create(self) -> bool:
        due = self._arrive(Operation.PROBE, "", 0)
        self._before(due, Operation.PROBE, "")
        answer = self._inner.exclusive_create()
        self._after(due, Operation.PROBE, "")
        return answer

    def traits(self, name: str) -> Traits:
        return self._inner.traits(name)

    def _arrive(self, operation: Operation, name: str, size: int) -> Sequence[Fault]:
        """Log the call; the faults that are due at it."""
        due: list[Fault] = []
        with self._lock:
            self._calls.append(Call(operation=operation, name=name, size=size))
            for number, fault in enumerate(self._faults):
                of_names = fault.kind is FaultKind.VANISH and operation is Operation.LIST
                if fault.operation in (None, operation) and (of_names or fault.matches(name)):
                    self._seen[number] += 1
                    count = self._seen[number] - fault.first
                    if count >= 0 and (fault.times is None or count < fault.times):
                        due.append(fault)
        return due

    def _before(self, due: Iterable[Fault], operation: Operation, name: str) -> None:
        for fault in due:
            if fault.kind is FaultKind.DELAY:
                self._clock.sleep(fault.seconds)
            elif fault.kind is FaultKind.FAIL:
                raise fault.error(cannot(operation, name, self.url, _("told to fail")))
            elif fault.kind is FaultKind.KILL:
                raise Killed(f"{operation} {name}")

    def _after(self, due: Iterable[Fault], operation: Operation, name: str) -> None:
        for fault in due:
            if fault.kind is FaultKind.LOSE_RESPONSE:
                raise fault.error(cannot(operation, name, self.url, _("told to lose the response")))
            if fault.kind is FaultKind.KILL_AFTER:
                raise Killed(f"{operation} {name}")


def _has(due: Iterable[Fault], kind: FaultKind) -> bool:
    return any(fault.kind is kind for fault in due)


def _spoil(data: Bytes, due: Iterable[Fault]) -> Bytes:
    for fault in due:
        if fault.kind is FaultKind.TRUNCATE:
            data = bytes(data)[: fault.keep]
        elif fault.kind is FaultKind.FLIP and len(data) > 0:
            flipped = bytearray(data)
            place, bit = divmod(fault.bit % (8 * len(flipped)), 8)
            flipped[place] ^= 1 << bit
            data = bytes(flipped)
    return data
