"""From configuration to live objects: the only place that chooses a backend, and the only one that reveals secrets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta, tzinfo

from holdfast.clock import Clock
from holdfast.config import STORE_SECRETS, TEXTS_OR_SECRETS, Configuration
from holdfast.config import PostgresSource as ConfiguredPostgres
from holdfast.errors import ConfigError, HoldfastError, ObjectMissing, StoreBusy, StoreUnreachable, UsageError
from holdfast.jobs.backup import PostgresSource
from holdfast.jobs.wal_settings import WalSettings
from holdfast.messages import _
from holdfast.repository.keyring import own_key_digests
from holdfast.repository.keys import Origin, SecretKind
from holdfast.repository.objects import REPOSITORY_OBJECT
from holdfast.repository.opening import Pin, create_repository, open_repository
from holdfast.repository.repository import Repository
from holdfast.store.failures import Unmarked
from holdfast.store.opening import open_store
from holdfast.store.port import Store
from holdfast.store.retrying import Patience
from holdfast.store.service import Service, from_environment
from holdfast.store.services import SERVICES, service_of

Stopped = Callable[[], bool]
TryingAgain = Callable[[StoreBusy], None]

_HURRIED = Patience(budget_s=15, least_attempts=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What a command needs from a configuration, made when it is asked for."""

    configuration: Configuration
    clock: Clock
    stopped: Stopped = lambda: False
    trying_again: TryingAgain = lambda _error: None
    """Hears why a store that does not answer is asked again."""
    hurried: bool = False
    """Somebody waits for an answer: give a store up after seconds, not minutes."""

    @property
    def zone(self) -> tzinfo:
        """The configured time zone, else the machine's own."""
        zone = self.configuration.zone or self.clock.now().astimezone().tzinfo
        assert zone is not None
        return zone

    def repository_name(self, name: str | None) -> str:
        """``name`` if there is such a repository; without one, the first that is configured."""
        return _choose(self.configuration.repository, name, _("repository"), first=True)

    def source_name(self, name: str | None) -> str:
        """``name`` if there is such a source; without one, the only one there is."""
        return _choose(self.configuration.source, name, _("source"), first=False)

    def repository(self, name: str | None = None, *, secret: str | None = None) -> Repository:
        """Opens a repository; ``secret`` (a recovery key) instead of the configured passphrase."""
        name = self.repository_name(name)
        configured = self.configuration.repository[name]
        if not (configured.id and configured.key):
            raise ConfigError(
                _("repository {name} is not made yet: its id and key are not in {path}").format(
                    name=name, path=self.configuration.path
                ),
                hint=_("Run `holdfast init`."),
            )
        return open_repository(
            self._store(name),
            self.passphrase(name) if secret is None else secret,
            pin=Pin(repository=configured.id, key=configured.key, stands_in=str(self.configuration.path)),
            clock=self.clock,
            state=self.configuration.state_dir,
        )

    def is_taken(self, name: str) -> bool:
        """Whether a repository lies where the URL points. A folder that is not a store yet is free."""
        configured = self.configuration.repository[name]
        try:
            self._store(name).get(REPOSITORY_OBJECT)
        except ObjectMissing:
            return False
        except Unmarked:
            return False
        except StoreUnreachable:
            if configured.url.startswith("file:"):
                return False
            raise
        return True

    def existing_repository(self, name: str) -> Repository | None:
        """What lies where an unpinned repository's URL points, if the configured passphrase opens it."""
        try:
            return open_repository(self._store(name), self.passphrase(name), pin=None, clock=self.clock)
        except HoldfastError:
            return None

    def key_objects(self, repository: Repository) -> Mapping[str, bytes]:
        """The repository's own wrapped keys, by object name: of no use without its passphrase or recovery key."""
        return {name: repository.store.get(name) for name in own_key_digests(repository)}

    def first_repository(self) -> Repository | None:
        """The first that is made already: further ones take its id key. Raises what opening it raises."""
        made = (name for name, configured in self.configuration.repository.items() if configured.id and configured.key)
        name = next(made, None)
        return None if name is None else self.repository(name)

    def create_repository(
        self,
        name: str,
        secrets: Sequence[tuple[str, SecretKind]],
        *,
        first: Repository | None,
        origin: Origin | None = None,
    ) -> Repository:
        """Makes the repository ``name`` where its URL says, with the id key of ``first``."""
        store = self._store(name, create=True)
        return create_repository(
            store, secrets, clock=self.clock, first=first, state=self.configuration.state_dir, origin=origin
        )

    def _store(self, name: str, *, create: bool = False) -> Store:
        configured = self.configuration.repository[name]
        try:
            return open_store(
                configured.url,
                configured.store_options(self.configuration.folder),
                clock=self.clock,
                create=create,
                stopped=self.stopped,
                trying_again=self.trying_again,
                patience=_HURRIED if self.hurried else None,
            )
        except ConfigError as error:
            raise ConfigError(_("repository {name}: {error}").format(name=name, error=error), hint=error.hint) from None

    def passphrase(self, repository: str) -> str:
        return self.configuration.passphrase_of(repository).reveal(self.configuration.folder)

    def postgres(self, name: str | None = None) -> PostgresSource:
        name = self.source_name(name)
        source = self.configuration.source[name]
        if not isinstance(source, ConfiguredPostgres):
            raise UsageError(
                _("source {name} is not a PostgreSQL cluster").format(name=name),
                hint=_("This version of Holdfast backs up sources of type postgres."),
            )
        return PostgresSource(name=name, connection=source.connection)

    def wal(self, name: str | None = None) -> WalSettings:
        """How the WAL of a source is kept: where to, how often, how much may wait on the server."""
        source = self.postgres(name)
        configured = self.configuration.source[source.name]
        assert isinstance(configured, ConfiguredPostgres)
        to = tuple(dict.fromkeys(configured.wal.to)) or self._default_wal_repositories()
        every = {
            repository: configured.wal.every
            or timedelta(seconds=10 if _is_billed(self.configuration.repository[repository].url) else 1)
            for repository in to
        }
        return WalSettings(
            source=source.name,
            connection=source.connection,
            via=configured.wal.via,
            to=to,
            every=every,
            retain=configured.wal.retain,
            synchronous=configured.wal.synchronous,
            state_dir=self.configuration.state_dir,
        )

    def _default_wal_repositories(self) -> tuple[str, ...]:
        """The first that is no folder of this machine; where all are, the first."""
        known = self.configuration.repository
        if not known:
            raise ConfigError(
                _("{path} names no repository").format(path=self.configuration.path), hint=_("Run `holdfast init`.")
            )
        away = (name for name, configured in known.items() if not configured.url.startswith("file:"))
        return (next(away, next(iter(known))),)


def _is_billed(url: str) -> bool:
    """Whether the store at ``url`` is one that wants money for each request."""
    scheme = url.partition(":")[0]
    return scheme in SERVICES and scheme != "webdav"


def open_from_url(
    url: str,
    options: Mapping[str, str],
    secret: str,
    *,
    pin: Pin | None,
    clock: Clock,
    stopped: Stopped,
    trying_again: TryingAgain = lambda _error: None,
    environment: Mapping[str, str] = os.environ,
) -> Repository:
    """A repository without a configuration: what a bare machine has is the URL and the passphrase.

    What ``options`` leave out comes from the variables that every client of the service knows.
    """
    service = _service(url, options)
    if service is not None:
        options = {**from_environment(service, options, environment), **options}
    elif url.startswith("sftp:"):
        found = {name: environment.get(variable, "") for name, variable in _SFTP_SECRETS.items()}
        options = {**{name: value for name, value in found.items() if value}, **options}
    store = open_store(url, options, clock=clock, stopped=stopped, trying_again=trying_again, environment=environment)
    return open_repository(store, secret, pin=pin, clock=clock)


_SFTP_SECRETS = {"password": "SFTP_PASSWORD", "private_key_passphrase": "SFTP_PRIVATE_KEY_PASSPHRASE"}


def secret_options(url: str) -> Mapping[str, str]:
    """Options of a store that no command line may hold, and the variable that holds each for ``url``, or empty."""
    service = _service(url, {})
    variables = {name: names[0] for name, names in service.variables.items()} if service else _SFTP_SECRETS
    return {name: variables.get(name, "") for name in STORE_SECRETS}


def variables_at_hand(
    url: str, options: Mapping[str, str], environment: Mapping[str, str] = os.environ
) -> Mapping[str, str]:
    """Options of the store at ``url`` that variables of this process hold, by the names of those variables."""
    service = _service(url, options)
    if service is None:
        return {}
    found = from_environment(service, options, environment)
    return {
        option: next(name for name in names if environment.get(name))
        for option, names in service.variables.items()
        if option in found and option in (*STORE_SECRETS, *TEXTS_OR_SECRETS)
    }


def credential_variables(url: str) -> tuple[str, ...]:
    """The variables that let one in at ``url`` where there is no configuration."""
    service = _service(url, {})
    if service is None:
        return tuple(_SFTP_SECRETS.values()) if url.startswith("sftp:") else ()
    first, *_others = service.credentials
    return tuple(service.variables[name][0] for name in first)


def _service(url: str, options: Mapping[str, str]) -> Service | None:
    scheme = url.partition(":")[0]
    return service_of(scheme, options) if scheme in SERVICES else None


def _choose(known: Mapping[str, object], name: str | None, what: str, *, first: bool) -> str:
    if name is None and known and (first or len(known) == 1):
        return next(iter(known))
    if name in known:
        assert name is not None
        return name
    names = ", ".join(known) or _("none")
    if name is None:
        raise UsageError(
            _("which {what}?").format(what=what), hint=_("The configuration has: {names}.").format(names=names)
        )
    raise UsageError(
        _("there is no {what} {name}").format(what=what, name=name),
        hint=_("The configuration has: {names}.").format(names=names),
    )
