"""The recovery kit: all that a bare machine needs to bring a database back, but the secret.

It is printed and kept elsewhere. It holds no secret: the wrapped keys in it open with the passphrase or the recovery
key alone. It repeats what the repository holds, so that a lost key object is no lost repository.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from holdfast import __version__
from holdfast.postgres.facts import BackupFacts
from holdfast.repository.repository import Records
from holdfast.repository.snapshots import select


@dataclass(frozen=True, slots=True, kw_only=True)
class KitSource:
    """A source as its newest snapshot shows it."""

    name: str
    label: str
    snapshot_id: str
    digest: str
    """SHA-256 of the snapshot's record as it is in the store."""
    ended: datetime
    postgres_major: int
    server_version: str
    platform: str
    size: int
    """Bytes that a restore needs at the least."""
    libraries: tuple[str, ...]
    """``shared_preload_libraries``: packages of their own, on a machine that is to run it."""
    tablespaces: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class KitRepository:
    name: str
    url: str
    id: str
    key: str
    options: Mapping[str, str]
    """What ``--option`` takes: without credentials."""
    variables: tuple[str, ...]
    """Environment variables that hold the store's credentials."""
    key_objects: Mapping[str, str]
    """Object name to content: the wrapped master key."""
    sources: tuple[KitSource, ...]
    snapshots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kit:
    made: datetime
    host: str
    holdfast_version: str
    repositories: tuple[KitRepository, ...]
    connections: Mapping[str, str]
    """Source to the place that it is read from, without secrets."""
    missing: tuple[str, ...]
    """What could not be asked while the kit was made."""


def newest_of_each(records: Records) -> tuple[KitSource, ...]:
    """The newest snapshot of each PostgreSQL source, of those that can be read."""
    names = {snapshot.source for snapshot in records.snapshots if snapshot.source_type == "postgres"}
    found = []
    for name in sorted(names):
        snapshot = select(records.snapshots, "latest", source=name, removals=records.removals)
        facts = BackupFacts.from_json(snapshot.facts)
        libraries = (facts.shared_preload_libraries or "").split(",")
        found.append(
            KitSource(
                name=name,
                label=snapshot.label,
                snapshot_id=snapshot.id,
                digest=snapshot.digest,
                ended=snapshot.ended,
                postgres_major=facts.server_version_num // 10000,
                server_version=facts.server_version.partition(" on ")[0],
                platform=facts.platform,
                size=snapshot.totals.content,
                libraries=tuple(library.strip() for library in libraries if library.strip()),
                tablespaces=tuple(f"{space.name or space.oid}: {space.location}" for space in facts.tablespaces),
            )
        )
    return tuple(found)


def install_commands(majors: Sequence[int], version: str = __version__) -> list[str]:
    """For a bare Debian or Ubuntu, beside a copy of Holdfast's own folder that was kept with the kit."""
    packages = " ".join(["python3-venv", *(f"postgresql-{major}" for major in sorted(set(majors)))])
    return [
        f"apt-get install {packages}",
        "python3 -m venv /opt/holdfast",
        f"/opt/holdfast/bin/pip install ./holdfast-{version}",
    ]


def restore_command(repository: KitRepository, source: str, *, target: str, secret: Sequence[str]) -> str:
    """``secret``: the option that names the secret's file."""
    options = [word for name, value in repository.options.items() for word in ("--option", f"{name}={value}")]
    if repository.id and repository.key:
        options += ["--id", repository.id, "--key", repository.key]
    return shlex.join(
        [
            *("/opt/holdfast/bin/holdfast", "restore", source, "--from", repository.url, *options),
            *(*secret, "--to", target, "--start"),
        ]
    )
