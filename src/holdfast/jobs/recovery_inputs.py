"""What a recovery can be planned from: snapshots and WAL of one source, in every repository that can be asked.

A repository that does not answer, a snapshot that cannot be read, WAL that cannot be listed: each is told, and the plan
is made from the rest. What one repository lacks another may have; system identifiers are told apart by the planning.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from holdfast.errors import Damaged, HoldfastError, NotReachable, UsageError
from holdfast.messages import _
from holdfast.policy.records import Part
from holdfast.policy.windows import KnownSnapshot
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.walfacts import Transaction
from holdfast.repository.repository import Records, Repository
from holdfast.repository.wal.held import Held
from holdfast.repository.wal.pieces import Stream
from holdfast.repository.wal.reading import WalReader

POSTGRES = "postgres"


@dataclass(frozen=True, kw_only=True)
class RecoveryInputs:
    source: str
    repositories: Mapping[str, Repository]
    """By their names in the configuration; the first is asked first."""
    records: Mapping[str, Records]
    snapshots: tuple[KnownSnapshot, ...]
    wal: Mapping[str, tuple[Held, ...]]
    readers: Mapping[str, WalReader]
    warnings: tuple[str, ...]
    """What could not be asked or read, and might have helped."""

    def stream(self, system_identifier: int) -> Stream:
        return Stream(source=self.source, system_identifier=system_identifier)

    def transactions(self, parts: Sequence[Part]) -> Sequence[Transaction]:
        """Reads a run of WAL, which may lie in several repositories: planning's one question."""
        from holdfast.postgres.walscan import transactions

        if not parts:
            return ()
        first = parts[0]
        size = self._segment_size(first)
        blocks = (
            self.readers[part.repository].content(
                self.stream(part.system_identifier), part.segment, start=part.start, stop=part.stop
            )
            for part in parts
        )
        return transactions(
            chain.from_iterable(blocks),
            timeline=parts[-1].segment.timeline,
            segment_size=size,
            start=first.begins(size),
        )

    def _segment_size(self, part: Part) -> int:
        stream = self.stream(part.system_identifier)
        return next(held.segment_size for held in self.wal[part.repository] if held.stream == stream)

    def without(self, gone: Mapping[str, Container[tuple[int, int]]], system_identifier: int) -> RecoveryInputs:
        """The same, less these segments (timeline and number) of these repositories."""

        def left(name: str, held: Held) -> Held:
            if held.stream.system_identifier != system_identifier or name not in gone:
                return held
            kept = (one for one in held.segments if (one.timeline, one.number) not in gone[name])
            return replace(held, segments=tuple(kept))

        wal = {name: tuple(left(name, held) for held in streams) for name, streams in self.wal.items()}
        return replace(self, wal=wal)

    def timelines(self, system_identifier: int) -> frozenset[int]:
        """Every timeline of that cluster that anything speaks of: their numbers are taken."""
        found = {
            timeline
            for known in self.snapshots
            if known.facts.system_identifier == system_identifier
            for timeline in (known.facts.timeline, known.facts.stop_timeline)
        }
        for streams in self.wal.values():
            for held in streams:
                if held.stream.system_identifier == system_identifier:
                    found.update(segment.timeline for segment in held.segments)
                    found.update(begin.timeline for begin in held.begins)
                    found.update(held.histories)
        return frozenset(found)


def source_named(records: Iterable[Records], streams: Iterable[Stream], source: str | None, *, command: str) -> str:
    """``source`` if anything of it is held; without one, the only one there is; empty if there is none. Pure.

    Raises ``UsageError`` where it is not clear which is meant; ``command`` shows how it is named.
    """
    records = tuple(records)
    known = {snapshot.source for one in records for snapshot in one.snapshots}
    known |= {stream.source for stream in streams}
    names = sorted(known)
    if source is None:
        if len(names) == 1:
            return names[0]
        if not names:
            return ""
        raise UsageError(
            _("which source? the repository holds {names}").format(names=", ".join(names)),
            hint=_("Name it: {command}").format(command=command.format(source=names[0])),
        )
    if names and source not in names and not any(one.problems for one in records):
        raise UsageError(
            _("the repository holds no snapshot of {name}").format(name=source),
            hint=_("It holds snapshots of: {names}.").format(names=", ".join(names)),
        )
    return source


def gather(
    source: str,
    repositories: Mapping[str, Repository],
    records: Mapping[str, Records],
    *,
    warnings: Iterable[str] = (),
    readers: Mapping[str, WalReader] | None = None,
) -> RecoveryInputs:
    """Everything of ``source``. ``warnings``: what is known already to be missing, as repositories that do not open."""
    told = list(warnings)
    readers = readers or {name: WalReader(repository) for name, repository in repositories.items()}
    snapshots: list[KnownSnapshot] = []
    wal: dict[str, tuple[Held, ...]] = {}
    for name, repository in repositories.items():
        for snapshot in records[name].snapshots:
            if snapshot.source != source or snapshot.source_type != POSTGRES:
                continue
            try:
                facts = BackupFacts.from_json(snapshot.facts)
            except Damaged as error:
                told.append(_("snapshot {label}: {error}").format(label=snapshot.label, error=error))
                continue
            snapshots.append(KnownSnapshot(repository=name, snapshot=snapshot, facts=facts))
        try:
            wal[name] = tuple(readers[name].held(stream) for stream in readers[name].streams(source))
        except (NotReachable, Damaged) as error:
            wal[name] = ()
            told.append(
                _("the WAL in repository {name} ({url}) cannot be read: {error}").format(
                    name=name, url=repository.url, error=error
                )
            )
        told += (_("repository {name}: {what}").format(name=name, what=what) for what in readers[name].problems())
        told += (
            _("repository {name}: {what}").format(name=name, what=what) for held in wal[name] for what in held.problems
        )
    return RecoveryInputs(
        source=source,
        repositories=dict(repositories),
        records=dict(records),
        snapshots=tuple(snapshots),
        wal=wal,
        readers=dict(readers),
        warnings=tuple(told),
    )


def not_opened(name: str, url: str, error: HoldfastError) -> str:
    """What is told of a repository that cannot be asked."""
    return _("repository {name} ({url}) cannot be asked: {error}").format(name=name, url=url, error=error)
