"""What ``restore`` recovers to: TARGET understood, and planned from everything that can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from functools import partial
from typing import TYPE_CHECKING

from holdfast.cli.restore_sources import Sources, open_sources
from holdfast.cli.snapshots import choose, told
from holdfast.errors import Damaged, NotReachable, Refused, UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.cli.access import Access, Opened
    from holdfast.cli.session import Session
    from holdfast.jobs.recovery_inputs import RecoveryInputs
    from holdfast.policy.recovery import RecoveryPlan
    from holdfast.policy.targets import WantedTarget
    from holdfast.policy.windows import KnownSnapshot
    from holdfast.repository.repository import Records
    from holdfast.repository.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class Planned:
    wanted: WantedTarget
    recovery: RecoveryPlan
    inputs: RecoveryInputs
    opened: Opened
    """Where the snapshot lies."""
    records: Records
    """Of that repository."""
    taken: frozenset[int]
    """Timelines that are somebody's."""
    not_asked: tuple[str, ...]
    """Repositories that did not answer, and why."""
    is_in_doubt: bool
    """The latest is wanted, and something later may be where nobody could look."""


def wanted_moment(
    session: Session, access: Access, at: str, *, exclusive: bool, timeline: str, now: datetime
) -> WantedTarget:
    """Raises ``UsageError`` before anything is opened."""
    from holdfast.policy.targets import parse_target

    zone = _zone(session, access, now)
    session.output.zone = session.output.zone or zone
    return parse_target(at, now=now, zone=zone, inclusive=not exclusive, timeline=timeline)


def _zone(session: Session, access: Access, now: datetime) -> tzinfo:
    """The configured one, else the machine's own."""
    from holdfast.config import read_configuration

    path = session.find_configuration() if access.url is None else None
    configured = read_configuration(path).zone if path is not None else None
    zone = configured or now.astimezone().tzinfo
    assert zone is not None
    return zone


def plan_moment(session: Session, access: Access, source: str | None, wanted: WantedTarget) -> Planned:
    """Opens what there is, and plans. Raises ``UsageError`` where it is not clear what is meant, ``Damaged`` where
    nobody knows which snapshot is the latest, ``Refused`` where the moment cannot be reached."""
    from holdfast.jobs.recovery_inputs import gather, source_named
    from holdfast.jobs.recovery_planning import plan_present
    from holdfast.policy.targets import TargetKind
    from holdfast.repository.wal.reading import WalReader

    sources = open_sources(session, access)
    for warning in sources.warnings:
        session.output.warning(warning)
    records, unread = _records(sources)
    for warning in unread:
        session.output.warning(warning)
    readers = {name: WalReader(sources.opened[name].repository) for name in records}
    name = source_named(
        records.values(),
        (stream for reader in readers.values() for stream in reader.streams()),
        source if source is not None or wanted.kind is not TargetKind.SNAPSHOT else _of_snapshot(records, wanted),
        command="holdfast restore {source} --to …",
    )
    inputs = gather(
        name,
        {repository: sources.opened[repository].repository for repository in records},
        records,
        warnings=(*sources.warnings, *unread),
        readers=readers,
    )
    for warning in inputs.warnings[len(sources.warnings) + len(unread) :]:
        session.output.warning(warning)
    has_wal = any(held.segments for streams in inputs.wal.values() for held in streams)
    if wanted.kind is TargetKind.SNAPSHOT or (wanted.kind is TargetKind.LATEST and not has_wal):
        repository, snapshot = _chosen(session, records, name, wanted.value or "latest")
        known = _known(inputs, repository, snapshot)
        wanted = replace(wanted, kind=TargetKind.SNAPSHOT, value=snapshot.id)
        plan = plan_present(wanted, inputs, [known])
    else:
        for one in records.values():
            told(session.output, one, lambda: None)
        plan = plan_present(wanted, inputs)
        repository = plan.known.repository
    not_asked = (*sources.warnings, *unread)
    doubts = records[repository]
    return Planned(
        wanted=wanted,
        recovery=plan,
        inputs=inputs,
        opened=sources.opened[repository],
        records=doubts,
        taken=inputs.timelines(plan.known.facts.system_identifier),
        not_asked=not_asked,
        is_in_doubt=wanted.text in ("latest", "snapshot:latest")
        and bool(doubts.missing or doubts.problems or not_asked),
    )


def _records(sources: Sources) -> tuple[Mapping[str, Records], Sequence[str]]:
    """Of each repository that answers; why another does not."""
    from holdfast.jobs.recovery_inputs import not_opened

    found: dict[str, Records] = {}
    warnings: list[str] = []
    failure: NotReachable | None = None
    for name, repository in sources.repositories.items():
        try:
            found[name] = repository.records()
        except NotReachable as error:
            failure = failure or error
            warnings.append(not_opened(name, repository.url, error))
    if failure is not None and not found:
        raise failure
    return found, warnings


def _of_snapshot(records: Mapping[str, Records], wanted: WantedTarget) -> str | None:
    """The source of the snapshot that is named; None for the latest, or one that nobody has."""
    if wanted.value == "latest":
        return None
    for one in records.values():
        try:
            return choose(one, wanted.value, naming="--at snapshot:ID").source
        except (UsageError, Damaged):
            continue
    return None


def _chosen(session: Session, records: Mapping[str, Records], source: str, wanted: str) -> tuple[str, Snapshot]:
    """The snapshot that is meant, in the first repository that has it; the latest: of all of them."""
    failure: UsageError | None = None
    found: list[tuple[str, Snapshot]] = []
    for name, one in records.items():
        try:
            snapshot = told(session.output, one, partial(_choose, one, wanted, source))
        except UsageError as error:
            failure = failure or error
            continue
        found.append((name, snapshot))
        if wanted != "latest":
            break
    if not found:
        assert failure is not None
        raise failure
    return max(found, key=lambda pair: pair[1].started) if wanted == "latest" else found[0]


def _choose(records: Records, wanted: str, source: str) -> Snapshot:
    return choose(records, wanted, source=source or None, naming="--at snapshot:ID")


def _known(inputs: RecoveryInputs, repository: str, snapshot: Snapshot) -> KnownSnapshot:
    for known in inputs.snapshots:
        if (known.repository, known.snapshot.id) == (repository, snapshot.id):
            return known
    from holdfast.postgres.facts import BackupFacts

    if snapshot.source_type != "postgres":
        raise UsageError(_("{label} is not a snapshot of a PostgreSQL cluster").format(label=snapshot.label))
    BackupFacts.from_json(snapshot.facts)  # raises what is wrong with them
    raise Refused(_("snapshot {label} cannot be used").format(label=snapshot.label))
