"""An object store: S3 and what speaks like it, through opendal.

One PUT an object, from bytes that are complete in memory; no retries here (:mod:`holdfast.store.retrying`). The
services are not taken at their word: a refused create is settled by reading back, a "not found" that does not name
the object by a listing, and a range by its length, since some services answer with the whole object instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import partial
from typing import TypeVar

import opendal

from holdfast.errors import (
    ConfigError,
    HoldfastError,
    NoSpace,
    ObjectExists,
    ObjectMissing,
    PermissionRefused,
    StoreBusy,
    StoreUnreachable,
)
from holdfast.messages import _
from holdfast.store import calls
from holdfast.store.answers import Answer, Verdict, read_answer
from holdfast.store.failures import Operation, cannot, exists, missing
from holdfast.store.names import check_name, check_prefix, check_range, is_name
from holdfast.store.port import Bytes, Listed
from holdfast.store.probing import creates_exclusively
from holdfast.store.services import Service, arguments

T = TypeVar("T")

_OPENDALS = (
    opendal.exceptions.Error,
    opendal.exceptions.Unexpected,
    opendal.exceptions.Unsupported,
    opendal.exceptions.ConfigInvalid,
    opendal.exceptions.NotFound,
    opendal.exceptions.PermissionDenied,
    opendal.exceptions.IsADirectory,
    opendal.exceptions.NotADirectory,
    opendal.exceptions.AlreadyExists,
    opendal.exceptions.IsSameFile,
    opendal.exceptions.ConditionNotMatch,
    opendal.exceptions.RateLimited,
    opendal.exceptions.RangeNotSatisfied,
    opendal.exceptions.Conflict,
)
"""All of opendal's exceptions: they have no base class in common."""

_PAGE = 1000
"""Entries given on at a time; S3's own page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLimits:
    base_s: float = 30.0
    """For the answer to begin; a download may not pause for longer either."""
    bytes_per_second: int = 64 << 10
    """The slowest link that is waited for: a call has ``base_s`` and its bytes at this rate."""
    unknown_bytes: int = 64 << 20
    """What a download of unknown size is reckoned as."""

    def for_bytes(self, size: int | None) -> float:
        """Seconds."""
        return self.base_s + (self.unknown_bytes if size is None else size) / self.bytes_per_second


class ObjectStore:
    def __init__(
        self,
        service: Service,
        *,
        bucket: str,
        prefix: str,
        options: Mapping[str, str],
        limits: TimeLimits | None = None,
    ) -> None:
        """No connection is made yet. ``prefix``: without ``/`` at its ends. Raises ``ConfigError``."""
        self._url = f"{service.scheme}://{bucket}" + (f"/{prefix}" if prefix else "")
        self._secrets = [options[name] for name in service.secrets if options.get(name)]
        self._limits = limits or TimeLimits()
        told = arguments(service, bucket=bucket, prefix=prefix, options=options)
        try:
            self._uploads = opendal.AsyncOperator(service.opendal, **told)
            base_s = self._limits.base_s
            self._others = self._uploads.layer(opendal.layers.TimeoutLayer(timeout=base_s, io_timeout=base_s))
        except _OPENDALS as error:
            reason = read_answer(error, secrets=self._secrets).reason
            raise ConfigError(
                _("cannot use {store}: {reason}").format(store=self._url, reason=reason),
                hint=_("Correct the options of the repository, its region and endpoint first."),
            ) from None
        self._ranges_proven = False

    @property
    def url(self) -> str:
        return self._url

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        check_name(name)
        content = data if isinstance(data, bytes) else bytes(data)  # opendal copies anything else slowly

        async def upload() -> None:
            if if_absent:
                await self._uploads.write(name, content, if_not_exists=True)
            else:
                await self._uploads.write(name, content)

        try:
            self._call(upload, Operation.PUT, name, size=len(content))
        except ObjectExists:
            try:
                ours = self.get(name) == content
            except ObjectMissing as error:
                reason = _("it was there, and is gone again")
                raise StoreBusy(cannot(Operation.PUT, name, self._url, reason)) from error
            if not ours:
                raise

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """As the port says. From a ``start`` to an unknown end, the whole object is fetched: give ``length``."""
        check_name(name)
        check_range(start, length)
        if length is not None:
            data = (
                self._range(name, start, length)
                if start == 0 or self._ranges_proven
                else self._prove(name, start, length)
            )
            if data is not None:
                return data
        whole = self._whole(name)
        return whole[start : None if length is None else start + length] if start or length is not None else whole

    def list(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        for page in self._pages(prefix):
            yield from (self._listed(entry) for entry in page if is_name(entry.path))

    def delete(self, name: str) -> None:
        check_name(name)
        self._call(lambda: self._others.delete(name), Operation.DELETE, name, size=0)

    def exclusive_create(self) -> bool:
        return creates_exclusively(self)

    def _pages(self, prefix: str) -> Iterator[Sequence[opendal.types.Entry]]:
        async def begin() -> AsyncIterator[opendal.types.Entry]:
            return aiter(await self._others.list(prefix, recursive=True))

        entries = self._call(begin, Operation.LIST, prefix, size=0)
        while found := self._call(partial(_page, entries), Operation.LIST, prefix, size=0):
            yield found

    def _listed(self, entry: opendal.types.Entry) -> Listed:
        modified = entry.metadata.last_modified
        if modified is None:
            reason = _("the service does not say when objects were written")
            raise StoreUnreachable(cannot(Operation.LIST, entry.path, self._url, reason))
        return Listed(name=entry.path, size=entry.metadata.content_length, modified=modified.astimezone(UTC))

    def _whole(self, name: str) -> bytes:
        try:
            return self._call(lambda: self._others.read(name), Operation.GET, name, size=None)
        except (_BeyondEnd, _OtherLength) as error:  # no answer to this question
            raise StoreBusy(str(error)) from None

    def _range(self, name: str, start: int, length: int) -> bytes | None:
        """The range's bytes, if that is what came; None: fetch the whole object and cut."""
        asked = max(length, 1)  # opendal answers for an empty range without asking
        try:
            data = self._call(
                lambda: self._others.read(name, offset=start, size=asked), Operation.GET, name, size=asked
            )
        except _BeyondEnd:
            return b""
        except _OtherLength:
            return None
        return data[:length]

    def _prove(self, name: str, start: int, length: int) -> bytes | None:
        """As :meth:`_range`, for a service that might ignore ranges.

        Such a one answers every range with the same number of bytes, which opendal takes for the range if it happens
        to be its length: so it cannot answer both this range and one that is longer by a byte.
        """
        wider = self._range(name, start - 1, max(length, 1) + 1)
        data = self._range(name, start, max(length, 1))
        if not wider or not data or wider[1:] != data:
            return None
        self._ranges_proven = True
        return data[:length]

    def _call(self, begin: Callable[[], Awaitable[T]], operation: Operation, name: str, *, size: int | None) -> T:
        limit_s = self._limits.for_bytes(size)
        try:
            return calls.call(begin, limit_s=limit_s)
        except (*_OPENDALS, TimeoutError) as error:
            answer = read_answer(error, secrets=self._secrets)
        # Raised outside of the handler: opendal's own text, with what the service sent, stays out of tracebacks.
        if answer.verdict is Verdict.MAYBE_MISSING:
            if operation is Operation.GET:
                self._settle_absence(name, answer)
            answer = Answer(verdict=Verdict.UNREACHABLE, reason=answer.reason, hint=answer.hint)
        raise self._failure(answer, operation, name)

    def _settle_absence(self, name: str, answer: Answer) -> None:
        """Raise ``ObjectMissing`` if a listing that works does not have ``name``."""
        if any(entry.path == name for page in self._pages(name) for entry in page):
            raise StoreBusy(cannot(Operation.GET, name, self._url, answer.reason))
        raise missing(name, self._url)

    def _failure(self, answer: Answer, operation: Operation, name: str) -> HoldfastError:
        if answer.verdict is Verdict.MISSING and operation is Operation.GET:
            return missing(name, self._url)
        if answer.verdict is Verdict.EXISTS and operation is Operation.PUT:
            return exists(name, self._url)
        kind = _ERRORS.get(answer.verdict, StoreUnreachable)
        return kind(cannot(operation, name, self._url, answer.reason), hint=answer.hint)


async def _page(entries: AsyncIterator[opendal.types.Entry]) -> Sequence[opendal.types.Entry]:
    """The next entries, at most a page; none at the end."""
    found: list[opendal.types.Entry] = []
    while len(found) < _PAGE and (entry := await anext(entries, None)) is not None:
        found.append(entry)
    return found


class _BeyondEnd(StoreUnreachable):
    """The range begins behind the object's end; never leaves this module."""


class _OtherLength(StoreUnreachable):
    """Not as many bytes as the range has; never leaves this module."""


_ERRORS: Mapping[Verdict, type[HoldfastError]] = {
    Verdict.BEYOND_END: _BeyondEnd,
    Verdict.OTHER_LENGTH: _OtherLength,
    Verdict.REFUSED: PermissionRefused,
    Verdict.FULL: NoSpace,
    Verdict.BUSY: StoreBusy,
}
