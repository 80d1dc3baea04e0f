"""What is wrong with the protection of a source, how badly, and what to run. Pure: facts in, problems out.

Critical: what is written now, or everything, would be lost. Warning: it soon may be, or less can be reached than is
thought. Thresholds: :mod:`~holdfast.policy.facts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from holdfast.messages import _
from holdfast.policy.facts import (
    CLOCKS_APART,
    SNAPSHOT_AGE_WARNING,
    Problem,
    Severity,
    SourceFacts,
    critical,
    rpo_thresholds,
    warning,
)
from holdfast.policy.protection import (
    ARCHIVE,
    OFF,
    Protection,
    is_same,
    present_gaps,
    protected_identifier,
    protection,
)
from holdfast.policy.receiver_health import receiver_problems, slot_problems, synchronous_problems, told_problems
from holdfast.policy.windows import Gap, GapKind
from holdfast.policy.wording import length, moment, size


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    protection: Protection
    problems: tuple[Problem, ...]
    """The worst first."""

    @property
    def severity(self) -> Severity:
        return self.problems[0].severity if self.problems else Severity.OK


def assess(facts: SourceFacts) -> Health:
    found = protection(facts.reach, facts.snapshots, receiver=facts.receiver, server=facts.server, now=facts.now)
    problems = [
        *_snapshots(facts),
        *_gaps(facts),
        *receiver_problems(facts),
        *slot_problems(facts),
        *synchronous_problems(facts),
        *_rpo(facts, found),
        *_server(facts),
        *_repositories(facts),
        *_places(facts),
    ]
    problems += told_problems(facts, problems)
    weight = (Severity.CRITICAL, Severity.WARNING)
    return Health(
        protection=found,
        problems=tuple(sorted(problems, key=lambda problem: weight.index(problem.severity))),
    )


def _snapshots(facts: SourceFacts) -> Iterator[Problem]:
    backup = f"holdfast backup {facts.source}"
    if not facts.snapshots:
        if facts.repositories and all(repository.error for repository in facts.repositories):
            text = _("no repository can be read: nobody knows what can be restored")
            yield critical("unknown", text, "holdfast check")
        else:
            yield critical("no_snapshot", _("there is no snapshot: nothing can be restored"), backup)
        return
    newest = max(facts.snapshots, key=lambda known: known.facts.ended_at)
    age = facts.now - newest.facts.ended_at
    if age > SNAPSHOT_AGE_WARNING:
        text = _("the newest snapshot is {age} old: a restore replays all WAL since").format(age=length(age))
        if facts.via == OFF:
            text = _("the newest snapshot is {age} old, and nothing newer can be restored").format(age=length(age))
        yield warning("old_snapshot", text, backup)


def _gaps(facts: SourceFacts) -> Iterator[Problem]:
    for gap in present_gaps(facts.reach):
        yield critical("gap", _gap_text(gap, facts.now), _closing(gap, facts))


def _gap_text(gap: Gap, now: datetime) -> str:
    where = {
        "start": gap.start,
        "stop": gap.stop,
        "timeline": gap.timeline,
        "since": moment(gap.since, now) if gap.since else _("the beginning"),
        "objects": ", ".join(gap.objects),
    }
    texts = {
        GapKind.MISSING: _(
            "WAL from {start} to {stop} on timeline {timeline} is missing: no moment after {since} can be reached"
        ),
        GapKind.CONFLICT: _(
            "two servers wrote WAL at {start} on timeline {timeline}: no moment after {since} can be reached; "
            "see {objects}"
        ),
        GapKind.HISTORY: _(
            "the history file of timeline {timeline} is missing: no moment after {since} can be reached on it"
        ),
    }
    return texts[gap.kind].format(**where)


def _closing(gap: Gap, facts: SourceFacts) -> str:
    if facts.receiver and facts.receiver.snapshot == "running":
        return _("A snapshot that closes the gap is being taken.")
    repository = next((repository.name for repository in facts.repositories if repository.takes_wal), "")
    command = f"holdfast backup {facts.source}" + (f" --repository {repository}" if repository else "")
    if gap.kind is GapKind.CONFLICT:
        return f"holdfast verify\n{command}"
    return command


def _rpo(facts: SourceFacts, found: Protection) -> Iterator[Problem]:
    """Of a server that answers: of another nobody knows whether it has written anything since."""
    if facts.via == OFF or found.rpo is None or found.is_at_most:
        return
    first, second = rpo_thresholds(facts.via, facts.every)
    if found.rpo <= first:
        return
    text = _("what was written in the last {time} would be lost now").format(time=length(found.rpo))
    if found.rpo_bytes is not None:
        text = _("what was written in the last {time} would be lost now: {size} of WAL").format(
            time=length(found.rpo), size=size(found.rpo_bytes)
        )
    remedy = "holdfast check" if facts.receiver or facts.via == ARCHIVE else f"holdfast wal receive {facts.source}"
    yield (critical if found.rpo > second else warning)("rpo", text, remedy)


def _server(facts: SourceFacts) -> Iterator[Problem]:
    if facts.server is None:
        if facts.server_error:
            yield warning("server", facts.server_error, facts.server_hint or "holdfast check")
        return
    if not is_same(facts.server, facts.reach, facts.snapshots) and facts.snapshots:
        text = _(
            "another server answers than the one that is protected: its system identifier is {found}, not {wanted}"
        ).format(found=facts.server.system_identifier, wanted=protected_identifier(facts.reach, facts.snapshots))
        adopt = f"holdfast wal receive {facts.source} --adopt {facts.server.system_identifier}"
        remedy = _("If the source's connection is right, and the new server is to be protected:")
        yield critical("another_server", text, f"{remedy}\n{adopt}\nholdfast backup {facts.source}")
    apart = abs(facts.server.clock - facts.now)
    if apart > CLOCKS_APART:
        text = _("this machine's clock and the server's are {time} apart").format(time=length(apart))
        yield warning("clock", text, "timedatectl")


def _repositories(facts: SourceFacts) -> Iterator[Problem]:
    for repository in facts.repositories:
        if repository.error:
            text = _("repository {name} cannot be read: {error}").format(name=repository.name, error=repository.error)
            yield warning("repository", text, "holdfast check")
        for doubt in repository.doubts:
            text = _("repository {name}: {what}").format(name=repository.name, what=doubt)
            yield warning("doubt", text, "holdfast verify")
        takes_wal = repository.takes_wal and facts.via != OFF and not repository.error
        if takes_wal and repository.newest is None and facts.snapshots:
            text = _("repository {name} takes WAL, but holds no snapshot to begin with").format(name=repository.name)
            yield warning("wal_alone", text, f"holdfast backup {facts.source} --repository {repository.name}")


def _places(facts: SourceFacts) -> Iterator[Problem]:
    if facts.on_server_disk and facts.via != OFF:
        text = _("WAL is kept only on the server's own disk, and is lost with it")
        remedy = _("Add a repository elsewhere, and name it in the source's wal: {line}")
        line = f'wal = {{ from = "{facts.via}", to = ["REPOSITORY"] }}'
        yield warning("same_disk", text, remedy.format(line=line))
