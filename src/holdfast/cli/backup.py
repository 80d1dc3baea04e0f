"""``holdfast backup``: takes a snapshot of each source."""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import human, interruption
from holdfast.cli.access import RepositoryName
from holdfast.cli.app import App
from holdfast.cli.output import error_document
from holdfast.cli.session import Session
from holdfast.errors import DONE_WITH_WARNINGS, HoldfastError, Interrupted, UsageError
from holdfast.messages import _, ngettext

if TYPE_CHECKING:
    from holdfast.jobs.backup import PostgresSource
    from holdfast.repository.repository import Repository
    from holdfast.repository.snapshots import Snapshot
    from holdfast.wiring import Wiring


def register(app: App) -> None:
    app.command("backup", help=_("Take a snapshot of each SOURCE; of all that are configured without one."))(backup)


def backup(
    ctx: typer.Context,
    *,
    sources: Annotated[list[str] | None, typer.Argument(metavar="SOURCE", show_default=False)] = None,
    repository: RepositoryName = None,
    tier: Annotated[str | None, typer.Option("--tier", metavar="TIER", help=_("Not built yet."))] = None,
) -> None:
    session = Session.of(ctx)
    wiring = session.wiring()
    if tier is not None:
        _refuse_tier(tier, wiring)
    chosen = _sources(session, wiring, sources or [])
    opened = wiring.repository(repository)
    entries: list[dict[str, object]] = []
    codes: list[int] = []
    for source in chosen:
        try:
            snapshot, took = _take(session, wiring, source, opened)
        except Interrupted:
            raise
        except HoldfastError as error:
            if len(chosen) == 1:
                raise
            codes.append(error.exit_code)
            entries.append({"source": source.name, "error": error_document(error)})
            if not session.json:
                session.output.failure(error)
            continue
        codes.append(DONE_WITH_WARNINGS if snapshot.warnings else 0)
        entries.append(_document(snapshot, took))
        for warning in snapshot.warnings:
            session.output.warning(f"{snapshot.label}: {warning}")
        if not session.json:
            _show(session, snapshot, took, opened)
    session.output.result({"repository": opened.url, "snapshots": entries}, lambda: None)
    if code := worst(codes):
        raise typer.Exit(code)


def worst(codes: list[int]) -> int:
    """Failures weigh more than warnings, warnings more than nothing."""
    return max(codes, key=lambda code: (code not in (0, DONE_WITH_WARNINGS), code), default=0)


def _refuse_tier(tier: str, wiring: Wiring) -> None:
    known = wiring.configuration.later.get("tier", {})
    hint = _("Leave out --tier; name the repository with --repository if it is not the first.")
    if tier in known:
        raise UsageError(_("tiers are not built yet: {tier} has no effect").format(tier=tier), hint=hint)
    raise UsageError(_("there is no tier {tier}, and tiers are not built yet").format(tier=tier), hint=hint)


def _sources(session: Session, wiring: Wiring, names: list[str]) -> list[PostgresSource]:
    if names:
        return [wiring.postgres(name) for name in dict.fromkeys(names)]
    configured = wiring.configuration.source
    for name, source in configured.items():
        if source.type != "postgres":
            session.output.warning(
                _("source {name} is a folder: this version backs up sources of type postgres").format(name=name)
            )
    chosen = [wiring.postgres(name) for name, source in configured.items() if source.type == "postgres"]
    if not chosen:
        raise UsageError(
            _("there is no PostgreSQL source in {path}").format(path=wiring.configuration.path),
            hint=_("Write a section [source.NAME] with type and connection there."),
        )
    return chosen


def _take(
    session: Session, wiring: Wiring, source: PostgresSource, repository: Repository
) -> tuple[Snapshot, timedelta]:
    from holdfast.jobs.backup import take_snapshot

    began = wiring.clock.monotonic()
    kept = _("No snapshot was made. What is uploaded stays, and the next backup reuses it; older ones are untouched.")
    with interruption.last_words(kept), session.progress() as progress:
        snapshot = take_snapshot(
            source,
            repository,
            clock=wiring.clock,
            zone=wiring.zone,
            host=socket.gethostname(),
            progress=progress,
            stopped=interruption.requested,
        )
    return snapshot, timedelta(seconds=wiring.clock.monotonic() - began)


def _document(snapshot: Snapshot, took: timedelta) -> dict[str, object]:
    from holdfast.cli.snapshots import snapshot_document

    bad_pages = list(snapshot.facts.get("bad_pages", []))
    return {**snapshot_document(snapshot), "took": took, "bad_pages": bad_pages}


def _show(session: Session, snapshot: Snapshot, took: timedelta, repository: Repository) -> None:
    totals = snapshot.totals
    output = session.output
    output.line(_("{label} is in {url}").format(label=snapshot.label, url=repository.url))
    files = ngettext("{size} in {number} file", "{size} in {number} files", totals.files)
    rate = human.size(round(totals.content / max(took.total_seconds(), 1e-3)))
    output.pairs(
        [
            (_("id"), snapshot.short_id),
            (_("holds"), files.format(size=human.size(totals.content), number=totals.files)),
            (
                _("new"),
                _("{content}, stored as {stored}").format(
                    content=human.size(totals.added_content), stored=human.size(totals.added_stored)
                ),
            ),
            (_("took"), _("{duration}, {rate}/s").format(duration=human.duration(took), rate=rate)),
        ]
    )
