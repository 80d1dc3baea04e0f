"""What ``restore`` shows: the plan before, the outcome after, for people and for machines."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli import human
from holdfast.cli.session import Session
from holdfast.cli.snapshots import snapshot_document
from holdfast.messages import _, ngettext

if TYPE_CHECKING:
    from holdfast.cli.access import Opened
    from holdfast.cli.output import Output
    from holdfast.cli.restore_planned import Planned
    from holdfast.jobs.restore import Restored
    from holdfast.jobs.restore_plan import RestorePlan
    from holdfast.jobs.start import Started, StartPlan
    from holdfast.policy.recovery import RecoveryPlan
    from holdfast.postgres.walfacts import Transaction


def rate(plan: RestorePlan, took: timedelta) -> int:
    """Bytes a second, of the snapshot's content and the WAL."""
    return round((plan.snapshot.totals.content + plan.wal_size) / max(took.total_seconds(), 1e-3))


def _free(folder: Path) -> int:
    from holdfast.filesystem.write import free_bytes

    return free_bytes(folder)[1]


def show_plan(session: Session, plan: RestorePlan, start_plan: StartPlan | None, planned: Planned) -> None:
    from holdfast.jobs.start import concerns

    output, snapshot, facts = session.output, plan.snapshot, plan.facts
    files = ngettext("{size} in {number} file", "{size} in {number} files", plan.files)
    spaces = {space.oid: space for space in facts.tablespaces}
    output.pairs(
        [
            (_("from"), planned.opened.repository.url),
            (_("repository"), _repository(planned.opened)),
            (_("snapshot"), f"{snapshot.label}  {snapshot.short_id}"),
            *_moment(output, plan),
            (_("PostgreSQL"), facts.server_version.partition(" on ")[0].removeprefix("PostgreSQL ")),
            (_("to"), str(plan.target)),
            *(
                (_("tablespace"), f"{spaces[oid].name or oid} → {place}")
                for oid, place in sorted(plan.tablespaces.items())
            ),
            *((_("tablespace"), f"{oid} → {place}") for oid, place in sorted(plan.created.items())),
            (_("owner"), plan.owner_name),
            (_("writes"), files.format(size=human.size(plan.size), number=plan.files)),
            (_("free there"), human.size(_free(plan.target))),
            (_("WAL"), _wal(plan)),
            *([(_("programs"), str(start_plan.binaries))] if start_plan else []),
        ]
    )
    told = (*(plan.recovery.warnings if plan.recovery else ()), *facts.bad_pages)
    for concern in (*told, *concerns(plan, machine=os.uname().machine, libc=_libc())):
        output.warning(concern)


def _moment(output: Output, plan: RestorePlan) -> list[tuple[str, str]]:
    """Where recovery ends, and between which transactions."""
    recovery = plan.recovery
    if recovery is None or not recovery.wal:
        text = _("{moment}, the snapshot's end").format(moment=human.moment(plan.facts.ended_at, output.zone))
        return [(_("recovers to"), text)]
    until = human.moment(recovery.until, output.zone) if recovery.until else _("a moment that is not known")
    end = _("{lsn} on timeline {timeline}").format(lsn=_end(recovery), timeline=recovery.timeline)
    return [
        (_("recovers to"), until),
        (_("ends at"), end),
        (_("last kept"), _transaction(output, recovery.last_kept) or _("none since the snapshot")),
        (_("first left out"), _transaction(output, recovery.first_left_out) or _("nothing more is held")),
    ]


def _end(recovery: RecoveryPlan) -> str:
    if recovery.is_exact:
        return str(recovery.end)
    return _("{first} to {last}").format(first=recovery.end, last=recovery.end_at_most)


def _transaction(output: Output, transaction: Transaction | None) -> str:
    if transaction is None:
        return ""
    return _("transaction {xid}, {outcome} {time}, at {lsn}").format(
        xid=transaction.xid,
        outcome=_("committed") if transaction.outcome == "commit" else _("aborted"),
        time=transaction.time.astimezone(output.zone).isoformat(" ", "microseconds"),
        lsn=transaction.lsn,
    )


def _repository(opened: Opened) -> str:
    """Its id and key; unpinned, whoever writes to the store may have put another there that the secret opens, too."""
    text = _("{id}, key {key}")
    if not opened.pinned:
        text = _("{id}, key {key}: compare with the recovery kit, or give --id and --key")
    return text.format(id=opened.repository.id, key=opened.repository.key_id)


def _wal(plan: RestorePlan) -> str:
    names = plan.wal
    files = _("{first} to {last}, {number} files").format(first=names[0], last=names[-1], number=len(names))
    text = names[0] if len(names) == 1 else files
    if plan.recovery is None or not plan.recovery.wal:
        return text
    places = Counter(planned.repository for planned in plan.recovery.wal)
    parts = [
        ngettext("{number} segment from {name}", "{number} segments from {name}", number).format(
            number=number, name=name or _("the snapshot")
        )
        for name, number in places.items()
    ]
    return _("{size}: {parts}").format(size=human.size(plan.wal_size), parts=", ".join(parts))


def _libc() -> str | None:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")[2] or None
    except (ValueError, OSError):
        return None


def plan_document(plan: RestorePlan, planned: Planned) -> Mapping[str, object]:
    recovery = plan.recovery
    return {
        "at": planned.wanted.text,
        "snapshot": snapshot_document(plan.snapshot),
        "snapshot_repository": recovery.known.repository if recovery else "",
        "recovers_to": recovery.until if recovery and recovery.wal else plan.facts.ended_at,
        "stop_lsn": plan.facts.stop_lsn,
        "server_version_num": plan.facts.server_version_num,
        "target": plan.target,
        "tablespaces": {str(oid): place for oid, place in (*plan.tablespaces.items(), *plan.created.items())},
        "owner": plan.owner_name,
        "files": plan.files,
        "bytes": plan.size,
        "free_bytes": _free(plan.target),
        "wal": list(plan.wal),
        "recovery": _recovery_document(recovery) if recovery and recovery.wal else None,
        "warnings": [*planned.inputs.warnings, *(recovery.warnings if recovery else ())],
    }


def _recovery_document(recovery: RecoveryPlan) -> Mapping[str, object]:
    return {
        "timeline": recovery.timeline,
        "setting": recovery.target.setting or None,
        "value": recovery.target.value or None,
        "inclusive": recovery.target.inclusive,
        "end_lsn": str(recovery.end),
        "end_lsn_at_most": str(recovery.end_at_most),
        "until": recovery.until,
        "last_kept": _transaction_document(recovery.last_kept),
        "first_left_out": _transaction_document(recovery.first_left_out),
        "wal": [
            {"name": planned.segment.name, "repository": planned.repository or None, "bytes": planned.stop}
            for planned in recovery.wal
        ],
        "limits": asdict(recovery.limits),
    }


def _transaction_document(transaction: Transaction | None) -> Mapping[str, object] | None:
    if transaction is None:
        return None
    return {
        "xid": transaction.xid,
        "outcome": transaction.outcome,
        "time": transaction.time,
        "lsn": str(transaction.lsn),
        "end_lsn": str(transaction.end),
    }


def restored_document(restored: Restored) -> Mapping[str, object]:
    return {"raised": list(restored.raised), "synchronous_standby_names": restored.synchronous or None}


def show_done(session: Session, plan: RestorePlan, took: timedelta, restored: Restored) -> None:
    session.output.line()
    session.output.line(
        _("Restored into {path} in {duration}, {rate}/s.").format(
            path=plan.target, duration=human.duration(took), rate=human.size(rate(plan, took))
        )
    )
    if restored.raised:
        session.output.line(
            _("Recovery needs more than is configured: raised in postgresql.auto.conf: {names}.").format(
                names=", ".join(restored.raised)
            )
        )
    if restored.synchronous:
        command = "ALTER SYSTEM SET synchronous_standby_names = " + _literal(restored.synchronous)
        session.output.line(
            _(
                "Commits no longer wait for {names}, who know nothing of this copy: they would wait for ever. "
                "Once they are back: {command}; SELECT pg_reload_conf();"
            ).format(names=restored.synchronous, command=command)
        )


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def show_how_to_start(session: Session, plan: RestorePlan, command: Sequence[str]) -> None:
    output = session.output
    if plan.recovers_on:
        output.line(_("When it is started it recovers to that moment by itself, on a new timeline."))
    else:
        output.line(_("When it is started it recovers to the snapshot's end by itself, on a new timeline."))
    if any("holdfast-etc" in word for word in command):
        output.line(
            _("Its configuration lay outside the data directory; it is in {path} now.").format(
                path=plan.target / "holdfast-etc"
            )
        )
    output.line(_("It starts with the settings of its source, the port and archive_command too. To start it:"))
    output.line(f"  {shlex.join(command)}")


def started_document(started: Started) -> Mapping[str, object]:
    recovered = started.recovered
    return {
        "connection": started.connection,
        "port": started.instance.port,
        "socket_dir": started.instance.socket_dir,
        "pid": started.instance.pid,
        "log": started.instance.log,
        "timeline": recovered.timeline,
        "end_lsn": recovered.end_lsn,
        "last_transaction": started.last_transaction,
        "system_identifier": str(recovered.system_identifier),
        "seconds": recovered.seconds,
        "stop_command": started.stop_command,
    }


def show_started(session: Session, plan: RestorePlan, started: Started, command: Sequence[str]) -> None:
    output, recovered = session.output, started.recovered
    if plan.recovers_on:
        text = _("PostgreSQL runs on it, on timeline {timeline}: recovered to {end}, as planned.").format(
            timeline=recovered.timeline, end=recovered.end_lsn
        )
    else:
        text = _(
            "PostgreSQL runs on it, on timeline {timeline}: recovered to {end}, the snapshot ends at {stop}."
        ).format(timeline=recovered.timeline, end=recovered.end_lsn, stop=plan.facts.stop_lsn)
    output.line(text)
    if started.last_transaction is not None:
        time = started.last_transaction.astimezone(output.zone).isoformat(" ", "microseconds")
        output.line(_("Its last transaction is of {time}.").format(time=time))
    output.pairs(
        [
            (_("connect"), f"psql {shlex.quote(started.connection)}"),
            (_("port"), f"127.0.0.1:{started.instance.port}"),
            (_("log"), str(started.instance.log)),
            (_("stop"), shlex.join(started.stop_command)),
        ]
    )
    output.line(_("It archives and replicates nothing. To use it in its source's place, stop it, then start it with:"))
    output.line(f"  {shlex.join(command)}")
