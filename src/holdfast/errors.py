"""Every error that Holdfast raises on purpose; the exit code belongs to the class.

::

    HoldfastError                1   it failed
    ├─ UsageError                2   what was asked for makes no sense
    │  └─ ConfigError            2   holdfast.toml, or an option, is wrong
    ├─ NotReachable              4   a server or a store does not answer
    │  ├─ ServerUnreachable      4   … PostgreSQL
    │  └─ StoreUnreachable       4   … a store, after all retries
    │     └─ StoreBusy           4   … a passing fault: the only kind that is retried
    ├─ Damaged                   5   bytes are not what was written
    │  └─ ObjectMissing          5   an object that must be there is not
    ├─ Refused                   6   refused to protect data
    │  ├─ ObjectExists           6   create-if-absent lost
    │  ├─ WrongPassphrase        6   no key object opens with this secret
    │  └─ PermissionRefused      6   the server or store says no to who we are
    ├─ NoSpace                   1   a disk is full, or would be
    ├─ Interrupted             130   SIGINT, SIGTERM or SIGHUP
    ├─ AlreadyRunning            7
    └─ TryLater                 75

A message is lower case without a full stop and names the object: ``cannot read packs/ab12 in file:///…``. The hint is
a full sentence: what to run or change next. Both come from the catalogue (:mod:`holdfast.messages`).
"""

from __future__ import annotations

DONE_WITH_WARNINGS = 3
"""The exit code of what is done, and deserves a look: no error."""


class HoldfastError(Exception):
    """``str(error)`` is the message; ``error.hint`` the next step, or empty."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(HoldfastError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class NotReachable(HoldfastError):
    exit_code = 4


class ServerUnreachable(NotReachable):
    pass


class StoreUnreachable(NotReachable):
    pass


class StoreBusy(StoreUnreachable):
    """A time-out, a 503, a broken connection: trying again may help."""


class Damaged(HoldfastError):
    exit_code = 5


class ObjectMissing(Damaged):
    pass


class Refused(HoldfastError):
    exit_code = 6


class ObjectExists(Refused):
    pass


class WrongPassphrase(Refused):
    pass


class PermissionRefused(Refused):
    pass


class NoSpace(HoldfastError):
    pass


class Interrupted(HoldfastError):
    exit_code = 130


class AlreadyRunning(HoldfastError):
    exit_code = 7


class TryLater(HoldfastError):
    exit_code = 75
