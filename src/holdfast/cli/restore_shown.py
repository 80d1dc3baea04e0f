"""What ``restore`` shows: the plan before, the outcome after, for people and for machines."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli import human
from holdfast.cli.session import Session
from holdfast.cli.snapshots import snapshot_document
from holdfast.messages import _, ngettext

if TYPE_CHECKING:
    from holdfast.cli.access import Opened
    from holdfast.jobs.restore_plan import RestorePlan
    from holdfast.jobs.start import Started, StartPlan


def rate(plan: RestorePlan, took: timedelta) -> int:
    """Bytes a second, of the snapshot's content."""
    return round(plan.snapshot.totals.content / max(took.total_seconds(), 1e-3))


def _free(folder: Path) -> int:
    from holdfast.filesystem.write import free_bytes

    return free_bytes(folder)[1]


def show_plan(session: Session, plan: RestorePlan, start_plan: StartPlan | None, opened: Opened) -> None:
    from holdfast.jobs.start import concerns

    output, snapshot, facts = session.output, plan.snapshot, plan.facts
    files = ngettext("{size} in {number} file", "{size} in {number} files", plan.files)
    spaces = {space.oid: space for space in facts.tablespaces}
    output.pairs(
        [
            (_("from"), opened.repository.url),
            (_("repository"), _repository(opened)),
            (_("snapshot"), f"{snapshot.label}  {snapshot.short_id}"),
            (
                _("recovers to"),
                _("{moment}, the snapshot's end").format(moment=human.moment(facts.ended_at, output.zone)),
            ),
            (_("PostgreSQL"), facts.server_version.partition(" on ")[0].removeprefix("PostgreSQL ")),
            (_("to"), str(plan.target)),
            *(
                (_("tablespace"), f"{spaces[oid].name or oid} → {place}")
                for oid, place in sorted(plan.tablespaces.items())
            ),
            (_("owner"), plan.owner_name),
            (_("writes"), files.format(size=human.size(plan.size), number=plan.files)),
            (_("free there"), human.size(_free(plan.target))),
            (_("WAL"), _wal(plan.wal)),
            *([(_("programs"), str(start_plan.binaries))] if start_plan else []),
        ]
    )
    for concern in (*facts.bad_pages, *concerns(plan, machine=os.uname().machine, libc=_libc())):
        output.warning(concern)


def _repository(opened: Opened) -> str:
    """Its id and key; unpinned, whoever writes to the store may have put another there that the secret opens, too."""
    text = _("{id}, key {key}")
    if not opened.pinned:
        text = _("{id}, key {key}: compare with the recovery kit, or give --id and --key")
    return text.format(id=opened.repository.id, key=opened.repository.key_id)


def _wal(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return _("{first} to {last}, {number} files").format(first=names[0], last=names[-1], number=len(names))


def _libc() -> str | None:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")[2] or None
    except (ValueError, OSError):
        return None


def plan_document(plan: RestorePlan) -> Mapping[str, object]:
    return {
        "snapshot": snapshot_document(plan.snapshot),
        "recovers_to": plan.facts.ended_at,
        "stop_lsn": plan.facts.stop_lsn,
        "server_version_num": plan.facts.server_version_num,
        "target": plan.target,
        "tablespaces": {str(oid): place for oid, place in plan.tablespaces.items()},
        "owner": plan.owner_name,
        "files": plan.files,
        "bytes": plan.size,
        "free_bytes": _free(plan.target),
        "wal": list(plan.wal),
    }


def show_done(session: Session, plan: RestorePlan, took: timedelta) -> None:
    session.output.line()
    session.output.line(
        _("Restored into {path} in {duration}, {rate}/s.").format(
            path=plan.target, duration=human.duration(took), rate=human.size(rate(plan, took))
        )
    )


def show_how_to_start(session: Session, plan: RestorePlan, command: Sequence[str]) -> None:
    output = session.output
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
        "system_identifier": str(recovered.system_identifier),
        "seconds": recovered.seconds,
        "stop_command": started.stop_command,
    }


def show_started(session: Session, plan: RestorePlan, started: Started, command: Sequence[str]) -> None:
    output, recovered = session.output, started.recovered
    output.line(
        _("PostgreSQL runs on it, on timeline {timeline}: recovered to {end}, the snapshot ends at {stop}.").format(
            timeline=recovered.timeline, end=recovered.end_lsn, stop=plan.facts.stop_lsn
        )
    )
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
