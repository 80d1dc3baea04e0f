"""Credentials that are not written down but handed out by the machine, for a while: renewed before they expire.

A renewal that fails while the old credentials are still good is no error: it is tried again a little later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from holdfast.clock import Clock
from holdfast.errors import HoldfastError

_RENEW_BEFORE = timedelta(minutes=15)
"""The issuer hands out the next credentials at least this long before the last ones expire; a put takes less."""
_SPENT_BEFORE = timedelta(minutes=1)
"""No use of credentials that expire before an answer can come."""
_AGAIN_AFTER = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    access_key_id: str
    access_key_secret: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    expires: datetime | None = None
    """None: not by themselves."""


class Identity(Protocol):
    def current(self) -> Credentials:
        """Credentials that are good for some minutes; the same object until they are renewed. From any thread.

        Errors: those of whoever hands them out.
        """


class Known:
    """Credentials that stay."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def current(self) -> Credentials:
        return self._credentials


class Renewed:
    """Credentials that ``fetch`` hands out; one thread fetches while the others wait."""

    def __init__(self, fetch: Callable[[], Credentials], *, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._held: Credentials | None = None
        self._not_before: datetime | None = None

    def current(self) -> Credentials:
        with self._lock:
            now = self._clock.now()
            if self._held is None or self._is_due(self._held, now):
                self._renew(now)
            assert self._held is not None
            return self._held

    def _is_due(self, held: Credentials, now: datetime) -> bool:
        if held.expires is None or held.expires - now > _RENEW_BEFORE:
            return False
        return self._not_before is None or now >= self._not_before or held.expires - now <= _SPENT_BEFORE

    def _renew(self, now: datetime) -> None:
        try:
            fetched = self._fetch()
        except HoldfastError:
            held = self._held
            if held is None or held.expires is None or held.expires - now <= _SPENT_BEFORE:
                raise
            self._not_before = now + _AGAIN_AFTER
            return
        self._not_before = now + _AGAIN_AFTER  # an issuer may hand out the old ones again
        if fetched != self._held:
            self._held = fetched
