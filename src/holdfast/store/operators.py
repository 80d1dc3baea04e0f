"""opendal's clients of one store: made anew whenever the machine's own credentials were renewed."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import opendal

from holdfast.errors import ConfigError
from holdfast.messages import _
from holdfast.store.answers import read_answer
from holdfast.store.calls import TimeLimits
from holdfast.store.identity import Credentials, Identity
from holdfast.store.service import Service, credentials_hint, region_hint

OPENDALS = (
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    uploads: opendal.AsyncOperator
    """Bounded by whoever calls: a put's limit follows from its size."""
    others: opendal.AsyncOperator
    """Bounded by themselves too."""
    above: opendal.AsyncOperator | None
    """Of the folder in which the store's own lies, for a service with folders; None where there is none above."""
    secrets: Sequence[str]


class Operators:
    def __init__(
        self,
        service: Service,
        *,
        store: str,
        told: Mapping[str, str],
        secrets: Sequence[str],
        limits: TimeLimits,
        identity: Identity | None,
    ) -> None:
        """``told``: opendal's arguments; ``identity`` hands out credentials if they lack any. ``ConfigError``."""
        self._service = service
        self._store = store
        self._told = dict(told)
        self._secrets = secrets
        self._limits = limits
        self._identity = identity
        self._lock = threading.Lock()
        self._credentials = Credentials(access_key_id="none", access_key_secret="none") if identity else None  # noqa: S106  nobody's: shows that the other options are right
        self._clients = self._make(self._credentials)

    @property
    def secrets(self) -> Sequence[str]:
        """What no message may show."""
        return self._clients.secrets

    @property
    def creates_if_absent(self) -> bool:
        """Whether opendal knows how to ask this service for it."""
        return bool(self._clients.uploads.capability().write_with_if_not_exists)

    def clients(self) -> Clients:
        """Those for now. Errors: the identity's."""
        if self._identity is None:
            return self._clients
        credentials = self._identity.current()
        with self._lock:
            if credentials is not self._credentials:
                self._clients, self._credentials = self._make(credentials), credentials
            return self._clients

    def _make(self, credentials: Credentials | None) -> Clients:
        told, secrets = dict(self._told), [*self._secrets]
        for name in (*self._service.credentials[0], *self._service.tokens) if credentials else ():
            value = getattr(credentials, name)
            if value:
                told[self._service.options[name]] = value
                secrets.append(value)
        try:
            plain = opendal.AsyncOperator(self._service.opendal, **told)
            return Clients(uploads=plain, others=self._bounded(plain), above=self._above(told), secrets=tuple(secrets))
        except OPENDALS as error:
            reason = read_answer(error, secrets=secrets).reason
        if reason.startswith("region is missing"):  # credentials alone would do: then a region is assumed
            raise ConfigError(
                _("{store} needs the option region").format(store=self._store),
                hint=f"{region_hint(self._service)} {credentials_hint(self._service)}",
            )
        raise ConfigError(
            _("cannot use {store}: {reason}").format(store=self._store, reason=reason),
            hint=_("Correct the options of the repository, its region and endpoint first."),
        )

    def _above(self, told: Mapping[str, str]) -> opendal.AsyncOperator | None:
        if not self._service.is_folder or told["root"] == "/":
            return None
        above = told["root"].rstrip("/").rpartition("/")[0] + "/"
        return self._bounded(opendal.AsyncOperator(self._service.opendal, **{**told, "root": above}))

    def _bounded(self, operator: opendal.AsyncOperator) -> opendal.AsyncOperator:
        base_s = self._limits.base_s
        return operator.layer(opendal.layers.TimeoutLayer(timeout=base_s, io_timeout=base_s))
