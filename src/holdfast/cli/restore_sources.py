"""Where ``restore`` takes things from: every repository that opens, or the one that is named.

A repository that does not open is told, and the others may have what is needed. Where one alone is meant, because it is
named or is the only one, its error is the command's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.cli.access import Opened
from holdfast.errors import HoldfastError, Interrupted

if TYPE_CHECKING:
    from holdfast.cli.access import Access
    from holdfast.cli.session import Session
    from holdfast.config import Configuration
    from holdfast.repository.repository import Repository
    from holdfast.wiring import Wiring

THE_ONE = "repository"
"""What the repository of ``--from`` is called, which has no name."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    opened: Mapping[str, Opened]
    """By name, in the order of the configuration."""
    wiring: Wiring | None
    """None on a bare machine."""
    warnings: tuple[str, ...]
    """Of those that did not open."""

    @property
    def repositories(self) -> Mapping[str, Repository]:
        return {name: opened.repository for name, opened in self.opened.items()}


def open_sources(session: Session, access: Access) -> Sources:
    """Raises what opening the only one does, or the first of several if none opens."""
    if _concerns_one(access) or _configured(session) < 2:
        one = access.open(session)
        name = one.wiring.repository_name(access.name) if one.wiring else THE_ONE
        return Sources(opened={name: one}, wiring=one.wiring, warnings=())
    return _open_all(session, session.configuration())


def _concerns_one(access: Access) -> bool:
    return bool(
        access.url or access.name or access.id or access.key or access.options
        or access.passphrase_file or access.recovery_key_file
    )  # fmt: skip


def _configured(session: Session) -> int:
    """How many repositories the configuration has; 0 if there is none. Its warnings are told when it is used."""
    from holdfast.config import read_configuration

    path = session.find_configuration()
    return 0 if path is None else len(read_configuration(path).repository)


def _open_all(session: Session, configuration: Configuration) -> Sources:
    from holdfast.jobs.recovery_inputs import not_opened

    wiring = session.wiring(configuration=configuration)
    hurried = session.wiring(configuration=configuration, hurried=True)
    opened: dict[str, Opened] = {}
    errors: list[HoldfastError] = []
    warnings: list[str] = []
    for name, configured in configuration.repository.items():
        try:
            hurried.repository(name)  # one that is gone for good keeps nobody waiting
            opened[name] = Opened(repository=wiring.repository(name), wiring=wiring, pinned=True)
        except Interrupted:
            raise
        except HoldfastError as error:
            errors.append(error)
            warnings.append(not_opened(name, configured.url, error))
    if not opened:
        raise errors[0]
    return Sources(opened=opened, wiring=wiring, warnings=tuple(warnings))
