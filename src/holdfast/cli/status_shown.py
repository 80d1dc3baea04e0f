"""What ``holdfast status`` shows of a source: a sentence, what is wrong, then the facts; and the same as a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from holdfast.cli import human
from holdfast.messages import _, ngettext
from holdfast.policy.facts import SLOT_CRITICAL, SLOT_WARNING, SNAPSHOT_AGE_WARNING, rpo_thresholds
from holdfast.policy.protection import OFF, STREAM, present_gaps
from holdfast.policy.wording import length, moment, size

if TYPE_CHECKING:
    from datetime import datetime

    from holdfast.cli.output import Output
    from holdfast.jobs.status import SourceStatus
    from holdfast.policy.windows import Gap, KnownSnapshot, Window
    from holdfast.postgres.lsn import Lsn

_MARKS = {"warning": "!", "critical": "✗"}
_SHOWN = 5
"""Windows and gaps of the past; ``--json`` has all of them."""


def sentence(status: SourceStatus) -> str:
    """``tracker: protected to 14:03:22 (0.8 s ago); any moment since 2026-11-20 02:00:00 can be reached.``"""
    facts, found = status.facts, status.health.protection
    if found.until is None:
        unread = bool(facts.repositories) and all(repository.error for repository in facts.repositories)
        text = _("{source}: nobody knows how well it is protected: no repository can be read.")
        return (text if unread else _("{source}: not protected: there is no snapshot.")).format(source=facts.source)
    words = {
        "source": facts.source,
        "until": moment(found.until, facts.now),
        "ago": _("now")
        if found.rpo == timedelta()
        else _("{length} ago").format(length=length(found.rpo or timedelta())),
        "since": moment(found.since, facts.now) if found.since else "",
    }
    if found.since is None:
        return _("{source}: protected to its newest snapshot, {until} ({ago}), and to no moment since.").format(**words)
    if present_gaps(facts.reach):
        text = _(
            "{source}: protected to {until} ({ago}) and no further; any moment from {since} to then can be reached."
        )
        return text.format(**words)
    return _("{source}: protected to {until} ({ago}); any moment since {since} can be reached.").format(**words)


def show(output: Output, found: Sequence[SourceStatus]) -> None:
    for number, status in enumerate(found):
        if number:
            output.line()
        output.line(sentence(status))
        for problem in status.health.problems:
            output.line(f"  {_MARKS[problem.severity]} {problem.text}")
            for line in problem.remedy.splitlines():
                output.line(f"      {line}")
        output.line()
        output.pairs([(f"  {label}", text) for label, text in _pairs(status, output)])


def _pairs(status: SourceStatus, output: Output) -> Iterator[tuple[str, str]]:
    facts, found = status.facts, status.health.protection
    for window in reversed(facts.reach.windows[-_SHOWN:]):
        yield _("any moment"), _window(window, output)
    for gap in sorted(facts.reach.gaps, key=lambda gap: not gap.is_open)[:_SHOWN]:
        yield (_("gap, open") if gap.is_open else _("gap, closed")), _gap(gap, output)
    if found.lsn is not None:
        yield _("safe up to"), str(found.lsn)
    if found.rpo is not None:
        bytes_lost = (
            size(found.rpo_bytes) + _(" of WAL") if found.rpo_bytes is not None else _("nobody knows how much WAL")
        )
        yield _("would be lost now"), f"{length(found.rpo)}, {bytes_lost}"
    if facts.server is not None:
        yield _("server"), _("{server}, its WAL at {lsn}").format(server=facts.server.server, lsn=facts.server.end)
    if facts.via != OFF:
        yield _("receiver"), _receiver(status)
    yield from _slot(status)
    if facts.synchronous or (facts.server and facts.server.sync_state in ("sync", "quorum")):
        state = (facts.receiver.sync_state if facts.receiver else None) or (facts.server and facts.server.sync_state)
        names = facts.server.synchronous_standby_names if facts.server else None
        said = _("do not wait for Holdfast") if state or not names else _("may be waiting: no receiver answers them")
        yield _("commits"), _("wait for Holdfast") if state in ("sync", "quorum") else said
    for repository in facts.repositories:
        label = _("snapshot in {repository}").format(repository=repository.name)
        yield label, _snapshot(repository.newest, facts.now, output) if not repository.error else "?"


def _window(window: Window, output: Output) -> str:
    text = _("from {since} to {until}").format(
        since=human.moment(window.since, output.zone), until=human.moment(window.until, output.zone)
    )
    number = len(window.snapshots)
    return f"{text}, " + ngettext("{number} snapshot", "{number} snapshots", number).format(number=number)


def _gap(gap: Gap, output: Output) -> str:
    return _("from {since} to {until}: WAL {start} to {stop}, timeline {timeline}").format(
        since=human.moment(gap.since, output.zone) if gap.since else "…",
        until=human.moment(gap.until, output.zone) if gap.until else "…",
        start=gap.start,
        stop=gap.stop,
        timeline=gap.timeline,
    )


def _receiver(status: SourceStatus) -> str:
    said = status.facts.receiver
    if said is not None:
        return _("runs here, process {pid}: {phase}").format(pid=said.pid, phase=said.phase)
    slot = status.facts.server.slot if status.facts.server else None
    if slot is not None and slot.active_pid is not None:
        return _("runs elsewhere")
    return _("does not run here")


def _slot(status: SourceStatus) -> Iterator[tuple[str, str]]:
    slot = status.facts.server.slot if status.facts.server else None
    if slot is not None:
        text = _("{slot}: {held} of {limit} held back, {state}").format(
            slot=status.settings.slot,
            held=size(slot.retained or 0),
            limit=size(status.settings.retain),
            state=slot.wal_status or "-",
        )
        yield _("slot"), text


def _snapshot(known: KnownSnapshot | None, now: datetime, output: Output) -> str:
    if known is None:
        return _("none")
    ended = known.facts.ended_at
    return f"{known.snapshot.label}, {human.moment(ended, output.zone)} ({human.relative(ended, now)})"


def performance(found: Sequence[SourceStatus]) -> str:
    """Nagios' numbers: ``label=value;warning;critical``; with several sources each label ends with its source."""
    words = []
    for status in found:
        after = f"_{status.settings.source}" if len(found) > 1 else ""
        facts, safe = status.facts, status.health.protection
        warning, critical = (_number(limit.total_seconds()) for limit in rpo_thresholds(facts.via, facts.every))
        if safe.rpo is not None:
            limits = "" if facts.via == OFF else f";{warning};{critical}"
            words.append(f"rpo{after}={_number(safe.rpo.total_seconds())}s{limits}")
        if safe.rpo_bytes is not None:
            words.append(f"rpo_bytes{after}={safe.rpo_bytes}B")
        slot = facts.server.slot if facts.server else None
        if slot is not None and slot.retained is not None and facts.via == STREAM:
            limits = f"{int(facts.retain * SLOT_WARNING)};{int(facts.retain * SLOT_CRITICAL)};0;{facts.retain}"
            words.append(f"slot{after}={slot.retained}B;{limits}")
        newest = max((known.facts.ended_at for known in facts.snapshots), default=None)
        if newest is not None:
            age = max((facts.now - newest).total_seconds(), 0.0)
            words.append(f"snapshot_age{after}={_number(age)}s;{_number(SNAPSHOT_AGE_WARNING.total_seconds())}")
    return " ".join(words)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def document(status: SourceStatus) -> dict[str, object]:
    """All of it; times are moments, positions texts, sizes bytes."""
    facts, found = status.facts, status.health.protection
    slot = facts.server.slot if facts.server else None
    return {
        "source": facts.source,
        "severity": status.health.severity,
        "summary": sentence(status),
        "wal": {
            "from": facts.via,
            "to": list(status.settings.to),
            "every_seconds": facts.every,
            "retain_bytes": facts.retain,
            "synchronous": facts.synchronous,
            "on_server_disk": facts.on_server_disk,
        },
        "asked_at": facts.now,
        "safe_until": found.until,
        "safe_lsn": _text(found.lsn),
        "reachable_since": found.since,
        "rpo_seconds": found.rpo,
        "rpo_bytes": found.rpo_bytes,
        "rpo_is_at_most": found.is_at_most,
        "windows": [
            {
                "system_identifier": str(window.system_identifier),
                "timeline": window.timeline,
                "start_lsn": _text(window.start),
                "stop_lsn": _text(window.stop),
                "since": window.since,
                "until": window.until,
                "snapshots": list(window.snapshots),
            }
            for window in facts.reach.windows
        ],
        "gaps": [
            {
                "kind": gap.kind,
                "is_open": gap.is_open,
                "system_identifier": str(gap.system_identifier),
                "timeline": gap.timeline,
                "start_lsn": _text(gap.start),
                "stop_lsn": _text(gap.stop),
                "since": gap.since,
                "until": gap.until,
                "objects": list(gap.objects),
            }
            for gap in facts.reach.gaps
        ],
        "server": None
        if facts.server is None
        else {
            "address": str(facts.server.server),
            "system_identifier": _text(facts.server.system_identifier),
            "timeline": facts.server.timeline,
            "in_recovery": facts.server.in_recovery,
            "clock": facts.server.clock,
            "lsn": _text(facts.server.end),
            "sync_state": facts.server.sync_state,
            "synchronous_standby_names": facts.server.synchronous_standby_names,
        },
        "server_error": facts.server_error,
        "slot": None
        if slot is None
        else {
            "name": status.settings.slot,
            "is_active": slot.active_pid is not None,
            "wal_status": slot.wal_status,
            "restart_lsn": _text(slot.restart_lsn),
            "retained_bytes": slot.retained,
            "safe_wal_bytes": slot.safe_wal_size,
        },
        "receiver": None if status.receiver is None else status.receiver.to_json(),
        "receiver_error": facts.receiver_error,
        "repositories": [
            {
                "name": repository.name,
                "takes_wal": repository.takes_wal,
                "error": repository.error,
                "doubts": list(repository.doubts),
                "newest_snapshot": None
                if repository.newest is None
                else {
                    "id": repository.newest.snapshot.id,
                    "label": repository.newest.snapshot.label,
                    "ended": repository.newest.facts.ended_at,
                    "stop_lsn": _text(repository.newest.facts.stop_lsn),
                },
            }
            for repository in facts.repositories
        ],
        "problems": [
            {
                "name": problem.name,
                "severity": problem.severity,
                "text": problem.text,
                "remedy": problem.remedy,
            }
            for problem in status.health.problems
        ],
    }


def _text(number: Lsn | int | None) -> str | None:
    return None if number is None else str(number)
