"""A job's watch over prune: it holds a lease, and reads the marks again and again.

The store's clock rules, told by the listing of what was just written: how long this process really slept between two
readings (a suspended machine's own clocks may not know) is the difference of two renewals. A mark stands for
``marks.DELETED_AFTER`` before anything is deleted, so whoever reads at least that often sees every mark in time; one
who did not (:attr:`Watch.slept`) must list the packs again and see what is left.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import islice
from types import TracebackType
from typing import Self

from holdfast.errors import Damaged, HoldfastError, ObjectMissing, StoreUnreachable
from holdfast.messages import _
from holdfast.repository.leases import DEAD_AFTER, Renewal, encode_renewal
from holdfast.repository.marks import decode_mark
from holdfast.repository.objects import Kind, ObjectRef
from holdfast.repository.repository import Problem, Repository
from holdfast.store.port import Listed

READ_EVERY = timedelta(minutes=30)
SLEPT_AFTER = timedelta(hours=12)
"""Between two readings, by the store: half of what a mark stands before anything is deleted."""


_TIDIED = 20
"""Dead leases of others that one renewal removes."""
_ATTEMPTS = 3
"""So often a mark is read before it counts as nobody's word."""


class Lease:
    """``with Lease(repository, work="restore", host=…) as lease: …; lease.beat()`` now and then."""

    def __init__(self, repository: Repository, *, work: str, host: str) -> None:
        self.repository = repository
        self._renewal = Renewal(lease=os.urandom(16).hex(), work=work, host=host, began=None)
        self._object: ObjectRef | None = None
        self._read_at = (0.0, datetime.min.replace(tzinfo=UTC))
        self.renewed: datetime | None = None
        """When, by the store."""
        self._tidies = True
        """Whether this store lets leases be deleted, as far as is known; each refusal may cost minutes."""

    def renew(self) -> None:
        """Raises what the store raises."""
        repository = self.repository
        self._read_at = self._now()  # also where it fails: the next attempt is a while away
        ref = repository.put_object(Kind.LEASE, encode_renewal(self._renewal))
        former, self._object = self._object, ref
        listed = list(repository.store.list(Kind.LEASE.prefix))
        written = next((item.modified for item in listed if item.name == ref.name), None)
        if written is None:
            raise StoreUnreachable(
                _("{url} does not list what was just written: {name}").format(url=repository.url, name=ref.name),
                hint=_("Run `holdfast check`: nothing is safe in a store whose listings lag."),
            )
        if self._renewal.began is None:
            self._renewal = Renewal(
                lease=self._renewal.lease, work=self._renewal.work, host=self._renewal.host, began=written
            )
        self.renewed = written
        self._delete([former.name] if former else [])
        self._tidy(listed, written)

    def beat(self) -> None:
        """Renews when it is time. Cheap to call often."""
        if self.due:
            self.renew()

    @property
    def due(self) -> bool:
        """By either of this machine's clocks: one of them may have stood still."""
        (ticks, wall), (ticks_then, wall_then) = self._now(), self._read_at
        return ticks - ticks_then >= READ_EVERY.total_seconds() or abs(wall - wall_then) >= READ_EVERY

    def end(self) -> None:
        """Best effort: what stays behind is dead after a day."""
        if self._object is not None:
            self._delete([self._object.name])
            self._object = None

    def __enter__(self) -> Self:
        self.renew()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _now(self) -> tuple[float, datetime]:
        return self.repository.clock.monotonic(), self.repository.clock.now()

    def _tidy(self, listed: Iterable[Listed], now: datetime) -> None:
        """Nothing: whoever only reads leaves the leases of others alone."""

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            if not self._tidies:
                return
            try:
                self.repository.store.delete(name)
            except HoldfastError:
                self._tidies = False


class Watch(Lease):
    """A lease whose renewals read the marks too."""

    def __init__(self, repository: Repository, *, work: str, host: str) -> None:
        super().__init__(repository, work=work, host=host)
        self.marked: set[ObjectRef] = set()
        """Every pack that any reading has found marked: marks are never taken back, even when their object is gone."""
        self.problems: list[Problem] = []
        """Marks that cannot be read."""
        self.slept = False
        """Whether some reading came so late that packs may have been deleted unseen; the caller resets it."""
        self._known: set[str] = set()

    def renew(self) -> None:
        before = self.renewed
        super().renew()
        assert self.renewed is not None
        if before is not None and abs(self.renewed - before) > SLEPT_AFTER:
            self.slept = True
        store = self.repository.store
        for listed in store.list(Kind.MARK.prefix):
            if listed.name in self._known:
                continue
            try:
                self.marked |= self._read(listed)
                self._known.add(listed.name)
            except ObjectMissing:
                continue  # its packs are deleted; whoever lists them now does not see them
            except Damaged as error:
                if listed.name not in {problem.name for problem in self.problems}:
                    self.problems.append(Problem(listed.name, str(error)))

    def _tidy(self, listed: Iterable[Listed], now: datetime) -> None:
        dead = (item.name for item in listed if now - item.modified > 2 * DEAD_AFTER)
        self._delete(islice(dead, _TIDIED))

    def _read(self, listed: Listed) -> frozenset[ObjectRef]:
        """A mark. One that was only damaged on its way is not taken for a forged one: it is asked for again."""
        for _attempt in range(_ATTEMPTS - 1):
            with contextlib.suppress(Damaged):
                return decode_mark(self.repository.get_listed(listed))
        return decode_mark(self.repository.get_listed(listed))
