"""``holdfast restore``: any moment, or a snapshot, into an empty folder, and started there if wanted.

The plan is shown before anything is touched. Nothing is asked: an empty folder cannot be harmed.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import interruption
from holdfast.cli.access import (
    Access,
    FromUrl,
    PassphraseFile,
    RecoveryKeyFile,
    RepositoryId,
    RepositoryKey,
    RepositoryName,
    StoreOptions,
    once,
)
from holdfast.cli.app import App
from holdfast.cli.restore_planned import Planned, plan_moment, wanted_moment
from holdfast.cli.restore_shown import (
    plan_document,
    rate,
    restored_document,
    show_done,
    show_how_to_start,
    show_plan,
    show_started,
    started_document,
)
from holdfast.cli.session import Session
from holdfast.cli.snapshots import missing_document, unreadable_document, warn_of_unreadable
from holdfast.errors import DONE_WITH_WARNINGS, HoldfastError, Interrupted, UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.clock import SystemClock
    from holdfast.jobs.restore_plan import RestorePlan
    from holdfast.jobs.start import Started, StartPlan
    from holdfast.wiring import Wiring

START_GRACE_SECONDS = 30.0
"""How long an interrupted start may take to stop the server that it had started."""


def _folder(text: str) -> Path:
    """An empty text, as a variable that is not set gives, would be the working directory."""
    if not text:
        raise UsageError(_("--to names no folder"), hint=_("Name a folder that does not exist yet: --to DIR."))
    return Path(text)


def register(app: App) -> None:
    app.command("restore", help=_("Bring SOURCE back as it was at any moment, into an empty folder."))(restore)


def restore(
    ctx: typer.Context,
    *,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", show_default=False)] = None,
    to: Annotated[
        Path,
        typer.Option("--to", metavar="DIR", parser=_folder, help=_("An empty folder, or one that is not there yet.")),
    ],
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="TARGET",
            help=_(
                "The moment: latest, a time (14:03, 2026-11-22 14:03:22, 10 minutes ago), lsn:0/3000060, xid:1234, "
                "name:RESTORE_POINT, snapshot:LABEL, snapshot:latest."
            ),
        ),
    ] = "latest",
    exclusive: Annotated[
        bool, typer.Option("--exclusive", help=_("Leave out what lies exactly at the moment."))
    ] = False,
    timeline: Annotated[
        str, typer.Option("--timeline", metavar="N", help=_("latest, current (the snapshot's own) or a number."))
    ] = "latest",
    tablespace: Annotated[
        list[str] | None,
        typer.Option("--tablespace", metavar="NAME=DIR", help=_("Where a tablespace goes: name, OID or old folder.")),
    ] = None,
    owner: Annotated[
        str | None, typer.Option("--owner", metavar="USER", help=_("Who will run PostgreSQL on it."))
    ] = None,
    start: Annotated[bool, typer.Option("--start", help=_("Start it on a free port, and prove that it runs."))] = False,
    binaries: Annotated[
        Path | None, typer.Option("--bin", metavar="DIR", help=_("The folder of the PostgreSQL programs."))
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=_("Show the plan, and touch nothing."))] = False,
    repository: RepositoryName = None,
    from_url: FromUrl = None,
    repository_id: RepositoryId = None,
    repository_key: RepositoryKey = None,
    option: StoreOptions = None,
    passphrase_file: PassphraseFile = None,
    recovery_key_file: RecoveryKeyFile = None,
) -> None:
    from holdfast.jobs.restore import restore as carry_out
    from holdfast.jobs.restore import unfinished
    from holdfast.jobs.restore_plan import plan_restore
    from holdfast.jobs.start import plan_start
    from holdfast.repository.reader import SnapshotReader

    session = Session.of(ctx)
    access = Access(
        name=repository,
        url=from_url,
        id=repository_id,
        key=repository_key,
        options=option or (),
        passphrase_file=passphrase_file,
        recovery_key_file=recovery_key_file,
    )
    clock = _clock()
    wanted = wanted_moment(session, access, at, exclusive=exclusive, timeline=timeline, now=clock.now())
    mapping = once("--tablespace", map(_tablespace, tablespace or ()))
    planned = plan_moment(session, access, source, wanted)
    reader = SnapshotReader(planned.opened.repository)
    plan = plan_restore(
        planned.recovery.known.snapshot,
        reader,
        to,
        tablespaces=mapping,
        owner=owner,
        recovery=planned.recovery,
        timelines=planned.taken,
    )
    if binaries is not None:
        _refuse_other_programs(binaries, plan.facts.server_version_num // 10000)
    folders = [folder for folder in (binaries, _configured_bin(planned.opened.wiring, plan.snapshot.source)) if folder]
    start_plan = plan_start(plan, folders) if start else None
    show_plan(session, plan, start_plan, planned)
    document = _document(plan, planned) | {"restored": not dry_run}
    if dry_run:
        session.output.result(document, lambda: session.output.line(_("Nothing was touched.")))
        return
    began = clock.monotonic()
    with interruption.last_words(unfinished(plan)), session.progress() as progress:
        restored = carry_out(plan, reader, inputs=planned.inputs, progress=progress, host=socket.gethostname())
    took = timedelta(seconds=clock.monotonic() - began)
    document |= {"took": took, "bytes_per_second": rate(plan, took), **restored_document(restored)}
    show_done(session, plan, took, restored)
    command = _start_command(plan, folders)
    document["start_command"] = command
    if start_plan is None:
        session.output.result(document, lambda: show_how_to_start(session, plan, command))
    else:
        started = _start(session, plan, start_plan)
        document["started"] = started_document(started)
        session.output.result(document, lambda: show_started(session, plan, started, command))
    if planned.is_in_doubt:  # said at the beginning, too, and long scrolled away
        for text in planned.not_asked:
            session.output.warning(text)
        warn_of_unreadable(session.output, planned.records)
        raise typer.Exit(DONE_WITH_WARNINGS)


def _document(plan: RestorePlan, planned: Planned) -> dict[str, object]:
    opened, records = planned.opened, planned.records
    return {
        "plan": plan_document(plan, planned),
        "repository": opened.repository.url,
        "repository_id": opened.repository.id,
        "repository_key": opened.repository.key_id,
        "unreadable": unreadable_document(records),
        "missing": missing_document(records),
    }


def _configured_bin(wiring: Wiring | None, name: str) -> Path | None:
    source = wiring.configuration.source.get(name) if wiring else None
    return source.bin if source is not None and source.type == "postgres" else None


def _tablespace(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not name or not folder:
        raise UsageError(
            _("--tablespace {text} is not NAME=DIR").format(text=text),
            hint=_("Write for example: --tablespace fast=/mnt/fast/restored"),
        )
    return name, Path(folder)


def _refuse_other_programs(folder: Path, major: int) -> None:
    """``UsageError`` for a ``--bin`` that would be passed over: it does not hold what the snapshot needs."""
    from holdfast.postgres.binaries import version_of

    found = version_of(folder)
    if found == major:
        return
    if found is None:
        what = _("--bin {folder} does not hold postgres, pg_ctl and initdb").format(folder=folder)
    else:
        what = _("--bin {folder} holds PostgreSQL {found}, and the snapshot runs with {major} alone").format(
            folder=folder, found=found, major=major
        )
    raise UsageError(
        what,
        hint=_(
            "Name the folder of the programs of PostgreSQL {major}, or leave out --bin: PATH and the usual folders "
            "are looked in."
        ).format(major=major),
    )


def _clock() -> SystemClock:
    from holdfast.clock import SystemClock

    return SystemClock()


def _start_command(plan: RestorePlan, folders: Sequence[Path]) -> Sequence[str]:
    from holdfast.jobs.start import account_of, as_account, major, start_command
    from holdfast.postgres.binaries import find_binaries

    try:
        binaries = find_binaries(major(plan.facts), folders)
    except HoldfastError:
        binaries = Path(f"/usr/lib/postgresql/{major(plan.facts)}/bin")  # Debian's: the operator installs it first
    return as_account(account_of(plan), start_command(plan, binaries))


def _start(session: Session, plan: RestorePlan, start_plan: StartPlan) -> Started:
    from holdfast.jobs.start import start, stop_command
    from holdfast.postgres.instance import is_running_on

    stop = shlex.join(stop_command(plan.target, start_plan.binaries, start_plan.account))
    stopping = _("Stop it with: {command}").format(command=stop)
    may_run = _("{path} is restored, and a server may run on it").format(path=plan.target)
    try:
        with (
            interruption.grace(START_GRACE_SECONDS),
            interruption.last_words(f"{may_run}. {stopping}"),
            session.progress() as progress,
        ):
            progress.begin(_("starting PostgreSQL on {path}").format(path=plan.target))
            return start(plan, start_plan, clock=_clock(), stopped=interruption.requested, progress=progress)
    except KeyboardInterrupt:
        if is_running_on(plan.target):
            raise Interrupted(
                _("stopped; {path} is restored, and a server runs on it").format(path=plan.target), hint=stopping
            ) from None
        raise Interrupted(
            _("stopped; {path} is restored, and no server runs on it").format(path=plan.target),
            hint=_("Start it with: {command}").format(command=shlex.join(_start_command(plan, [start_plan.binaries]))),
        ) from None
