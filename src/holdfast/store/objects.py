"""An object store: S3 and what speaks like it, and the other services of :mod:`holdfast.store.services`, by opendal.

One PUT an object, from bytes that are complete in memory; no retries here (:mod:`holdfast.store.retrying`). The
services are not taken at their word: a refused create is settled by reading back, a "not found" that does not name
the object by a listing, and a range by its length, since some services answer with the whole object instead. A service
that has no create-if-absent gets a plain put. A server with folders gets a hidden name first, then a move; and its
"not found" counts only if the store's own folder is there.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from functools import partial
from typing import TypeVar

import opendal

from holdfast.errors import (
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
from holdfast.store.calls import TimeLimits
from holdfast.store.failures import Operation, Unmarked, cannot, exists, missing
from holdfast.store.identity import Identity
from holdfast.store.names import check_name, check_prefix, check_range, is_name
from holdfast.store.operators import OPENDALS, Operators
from holdfast.store.port import Bytes, Listed, Traits
from holdfast.store.probing import creates_exclusively
from holdfast.store.service import Service, arguments
from holdfast.store.service_hints import what_to_change

T = TypeVar("T")

_PAGE = 1000
"""Entries given on at a time; S3's own page."""

_ARRIVING = ".holdfast-arriving/"
"""Where a server with folders holds what has not come whole: hidden, so that it is in no listing."""


class ObjectStore:
    def __init__(
        self,
        service: Service,
        *,
        bucket: str,
        prefix: str,
        options: Mapping[str, str],
        limits: TimeLimits | None = None,
        identity: Identity | None = None,
    ) -> None:
        """No connection is made yet. ``prefix``: without ``/`` at its ends. Raises ``ConfigError``.

        ``identity`` hands out credentials where ``options`` hold none.
        """
        self._url = f"{service.scheme}://{bucket}" + (f"/{prefix}" if prefix else "")
        self._limits = limits or TimeLimits()
        told = arguments(service, bucket=bucket, prefix=prefix, options=options)
        self._endpoint = told.get("endpoint", "")
        self._service = service
        self._lets_in = bool(service.given(options)) or identity is not None
        self._operators = Operators(
            service,
            store=self._url,
            told=told,
            secrets=[options[name] for name in service.secrets if options.get(name)],
            limits=self._limits,
            identity=None if service.given(options) else identity,
        )
        self._conditional = self._operators.creates_if_absent
        self._ranges_proven = False
        self._ranges_ignored = False

    @property
    def url(self) -> str:
        return self._url

    def put(self, name: str, data: Bytes, *, if_absent: bool = False) -> None:
        check_name(name)
        content = data if isinstance(data, bytes) else bytes(data)  # opendal copies anything else slowly
        conditional = if_absent and self._conditional
        try:
            self._upload(name, content, if_absent=conditional)
        except _NoCondition:
            if not conditional:
                raise
            self._conditional = False
            self._upload(name, content, if_absent=False)
        except ObjectExists:
            try:
                ours = self.get(name) == content
            except ObjectMissing as error:
                reason = _("it was there, and is gone again")
                raise StoreBusy(cannot(Operation.PUT, name, self._url, reason)) from error
            if not ours:
                raise

    def _upload(self, name: str, content: bytes, *, if_absent: bool) -> None:
        uploads = self._operators.clients().uploads
        arriving = f"{_ARRIVING}{secrets.token_hex(16)}" if self._service.is_folder else name

        async def upload() -> None:
            if if_absent:
                await uploads.write(name, content, if_not_exists=True)
                return
            await uploads.write(arriving, content)
            if arriving != name:
                await uploads.rename(arriving, name)

        try:
            self._call(upload, Operation.PUT, name, size=len(content))
        except HoldfastError:
            if arriving != name:
                with contextlib.suppress(HoldfastError):
                    self._call(lambda: uploads.delete(arriving), Operation.DELETE, arriving, size=0)
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
        end = None if length is None else start + length
        if end is not None and start < end <= len(whole) and end - start < len(whole):
            self._ranges_ignored = True  # the range lies in the object, and did not come
        return whole[start:end] if start or end is not None else whole

    def list(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        anything = False
        for page in self._pages(prefix):
            anything = True
            yield from (self._listed(entry) for entry in page if is_name(entry.path))
        if not anything:
            self._require_folder(Operation.LIST, prefix)

    def delete(self, name: str) -> None:
        check_name(name)
        others = self._operators.clients().others
        self._call(lambda: others.delete(name), Operation.DELETE, name, size=0)

    def exclusive_create(self) -> bool:
        return creates_exclusively(self)

    def traits(self, name: str) -> Traits:
        check_name(name)
        others = self._operators.clients().others
        versions: bool | None = None
        if self._service.tells_versions:
            found = self._call(lambda: others.stat(name), Operation.GET, name, size=0)
            versions = found.version not in (None, "", "null")
        ranges = True if self._ranges_proven else False if self._ranges_ignored else None
        return Traits(syncs=None if self._service.is_folder else True, ranges=ranges, keeps_versions=versions)

    def _pages(self, prefix: str) -> Iterator[Sequence[opendal.types.Entry]]:
        others = self._operators.clients().others

        async def begin() -> AsyncIterator[opendal.types.Entry]:
            return aiter(await others.list(prefix, recursive=True))

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
        others = self._operators.clients().others
        try:
            return self._call(lambda: others.read(name), Operation.GET, name, size=None)
        except (_BeyondEnd, _OtherLength) as error:  # no answer to this question
            raise StoreBusy(str(error)) from None

    def _range(self, name: str, start: int, length: int) -> bytes | None:
        """The range's bytes, if that is what came; None: fetch the whole object and cut."""
        asked = max(length, 1)  # opendal answers for an empty range without asking
        others = self._operators.clients().others
        try:
            data = self._call(lambda: others.read(name, offset=start, size=asked), Operation.GET, name, size=asked)
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
        except (*OPENDALS, TimeoutError) as error:
            answer = read_answer(error, secrets=self._operators.secrets)
        # Raised outside of the handler: opendal's own text, with what the service sent, stays out of tracebacks.
        if answer.verdict is Verdict.MAYBE_MISSING:
            if operation is Operation.GET:
                self._settle_absence(name, answer)
            answer = replace(answer, verdict=Verdict.UNREACHABLE)
        raise self._failure(answer, operation, name)

    def _settle_absence(self, name: str, answer: Answer) -> None:
        """Raise ``ObjectMissing`` if a listing that works does not have ``name``, or the store's folder is there."""
        if self._service.is_folder:
            self._require_folder(Operation.GET, name)
        elif any(entry.path == name for page in self._pages(name) for entry in page):
            raise StoreBusy(cannot(Operation.GET, name, self._url, answer.reason))
        raise missing(name, self._url)

    def _require_folder(self, operation: Operation, name: str) -> None:
        """Of a server with folders: that the store's own is there, without which everything seems absent."""
        above = self._operators.clients().above
        if above is None:
            return
        folder = self._url.rpartition("/")[2] + "/"
        try:
            calls.call(lambda: above.stat(folder), limit_s=self._limits.for_bytes(0))
        except (*OPENDALS, TimeoutError) as error:
            answer = read_answer(error, secrets=self._operators.secrets)
        else:
            return
        if answer.verdict is Verdict.MAYBE_MISSING:
            reason = _("the server has no such folder")
            hint = _("Create the folder on the server, or correct the repository's url.")
            raise Unmarked(cannot(operation, name, self._url, reason), hint=hint)
        raise self._failure(answer, operation, name)

    def _failure(self, answer: Answer, operation: Operation, name: str) -> HoldfastError:
        if answer.verdict is Verdict.MISSING and operation is Operation.GET:
            return missing(name, self._url)
        if answer.verdict is Verdict.EXISTS and operation is Operation.PUT:
            return exists(name, self._url)
        kind = _ERRORS.get(answer.verdict, StoreUnreachable)
        hint = what_to_change(answer, self._service, endpoint=self._endpoint, lets_in=self._lets_in)
        return kind(cannot(operation, name, self._url, answer.reason), hint=hint)


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


class _NoCondition(StoreUnreachable):
    """The service does not take the condition of a put; leaves this module only as what it is derived from."""


_ERRORS: Mapping[Verdict, type[HoldfastError]] = {
    Verdict.BEYOND_END: _BeyondEnd,
    Verdict.OTHER_LENGTH: _OtherLength,
    Verdict.REFUSED: PermissionRefused,
    Verdict.FULL: NoSpace,
    Verdict.BUSY: StoreBusy,
    Verdict.UNSUPPORTED: _NoCondition,
}
