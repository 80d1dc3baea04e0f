"""What a store is. The repository leans on these guarantees and on no others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    name: str
    size: int
    """Bytes."""
    modified: datetime
    """The store's own clock, UTC."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a backend noticed of its store while working with it; None: it cannot tell."""

    syncs: bool | None = None
    """Whether what was put also survives a crash of the store's own machine."""
    ranges: bool | None = None
    """Whether a range is answered with that range, not with the whole object."""
    keeps_versions: bool | None = None
    """Whether what is deleted or replaced stays there as an older version, and is paid for."""


class Store(Protocol):
    """Named, immutable bytes. Names are ``[a-z0-9._/-]``, relative, ``/``-separated; no part starts with a dot.

    Guarantees, each held by the conformance suite for every backend and wrapper:

    - **Atomic.** ``put`` makes the whole object appear under its name or nothing; no reader ever sees half of one.
      Data is complete in memory beforehand, so a producer that fails has put nothing.
    - **Durable.** When ``put`` returns, the object survives a crash of this machine (and, for object stores, is
      acknowledged by the service).
    - **Exclusive, where the store can.** ``put(…, if_absent=True)`` never replaces: of many creators of one name one
      returns, the others raise ``ObjectExists``; a creator whose own bytes are already there (a lost response, then
      a retry) returns. Whether the store can is :attr:`exclusive_create`: asked of the store by writing one name
      twice, never believed from a declaration. Plain ``put`` may replace; the repository never does it on purpose.
    - **Absence is certain.** ``get`` raises ``ObjectMissing`` only when the store itself answered that there is no
      such object; a missing bucket, folder or network is ``StoreUnreachable``.
    - **Listed after write.** An object whose ``put`` returned before ``list`` began is in the listing.
    - **Bounded.** Every call ends within a time limit that follows from the bytes it moves.

    All methods may be called from many threads at once. Errors: ``StoreBusy`` (trying again may help),
    ``StoreUnreachable``, ``PermissionRefused``, ``NoSpace``, ``ObjectMissing``, ``ObjectExists``, ``Refused`` (the
    server is not the one that is known); no library's own exception gets out, and no message carries a secret.
    """

    @property
    def url(self) -> str:
        """Where it is, for people: without secrets."""

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None: ...

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """``length`` bytes from ``start`` (all that follows without ``length``), fewer only at the object's end.

        A store that answers a range request with the whole object is corrected here, never by the caller.
        """

    def list(self, prefix: str) -> Iterator[Listed]:
        """Every object whose name starts with ``prefix`` (a folder: it ends in ``/``, or is empty), in no order."""

    def delete(self, name: str) -> None:
        """Gone when it returns; nothing happens if it was not there."""

    def exclusive_create(self) -> bool:
        """Whether ``if_absent`` is honoured, found out by writing one probe name twice (and removing it)."""

    def traits(self, name: str) -> Traits:
        """What is noticed so far, and what the object ``name``, which is there, tells."""
