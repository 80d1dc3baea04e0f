"""``holdfast demo``: a real PostgreSQL, backed up, destroyed and recovered before your eyes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import human, interruption
from holdfast.cli.app import App
from holdfast.cli.session import Session
from holdfast.messages import _, ngettext

if TYPE_CHECKING:
    from holdfast.cli.output import Output
    from holdfast.demo.story import Outcome, Taken

MEGABYTES = 320
TIDYING_SECONDS = 20.0
"""How long ending the servers and removing the folder may take when the demo is interrupted."""


def register(app: App) -> None:
    text = _("A real PostgreSQL, backed up, destroyed and recovered before your eyes. Touches nothing of yours.")
    app.command("demo", help=text)(demo)


def demo(
    ctx: typer.Context,
    *,
    megabytes: Annotated[
        int, typer.Option("--megabytes", min=30, metavar="MB", help=_("The size of the database."))
    ] = MEGABYTES,
    keep: Annotated[bool, typer.Option("--keep", help=_("Leave the demo's folder there, to look at."))] = False,
    spoil: Annotated[str | None, typer.Option("--spoil", hidden=True)] = None,
) -> None:
    from holdfast.clock import SystemClock
    from holdfast.demo.story import Plan, run

    session = Session.of(ctx)
    plan = Plan(
        megabytes=megabytes,
        keep=keep,
        quiet=session.json,
        language=ctx.find_root().params.get("lang"),
        spoil=spoil,
    )
    with interruption.grace(TIDYING_SECONDS):
        outcome = run(plan, Told(session.output), clock=SystemClock())
    document = {"outcome": outcome, "same": outcome.same, "deduplicated": outcome.deduplicated}
    session.output.result(document, lambda: _show(session.output, outcome))
    if not outcome.same:
        raise typer.Exit(1)


class Told:
    """The stage, as lines: of the result, or with ``--json`` beside it."""

    def __init__(self, output: Output) -> None:
        self._tell = output.note if output.json else output.line

    def chapter(self, title: str) -> None:
        self._tell("")
        self._tell(title)

    def say(self, text: str) -> None:
        self._tell(f"   {text}")

    def command(self, line: str) -> None:
        self._tell(f"$ {line}")


def _show(output: Output, outcome: Outcome) -> None:
    columns = [_("table"), _("rows expected"), _("rows found"), _("content")]
    rows = [
        (
            compared.table,
            _("none") if compared.expected is None else str(compared.expected.rows),
            _("none") if compared.found is None else str(compared.found.rows),
            _("the same") if compared.same else _("DIFFERENT"),
        )
        for compared in outcome.tables
    ]
    output.table(columns, rows, right=[1, 2])
    output.line()
    output.pairs(_figures(outcome))
    output.line()
    output.line(_verdict(outcome))
    if outcome.folder is not None:
        output.line(_("Everything that the demo made is in {folder}").format(folder=outcome.folder))
    output.line()
    output.line(_("Where to go next, with a database of your own:"))
    for command in (
        "holdfast init --admin postgresql://postgres@localhost/postgres",
        "holdfast check",
        "holdfast backup && holdfast restore --to /var/lib/restored --start",
    ):
        output.line(f"   {command}")


def _figures(outcome: Outcome) -> list[tuple[str, str]]:
    both = outcome.first.content + outcome.second.content
    stored = outcome.first.added_stored + outcome.second.added_stored
    lost = outcome.committed - outcome.found
    return [
        (_("database"), human.size(outcome.database_size)),
        (_("first snapshot"), _snapshot(outcome.first)),
        (_("second snapshot"), _snapshot(outcome.second)),
        (
            _("both, stored"),
            _("{stored} for {content}: deduplication saved {shared}, compression {compressed}").format(
                stored=human.size(stored),
                content=human.size(both),
                shared=human.size(outcome.deduplicated),
                compressed=human.size(both - outcome.deduplicated - stored),
            ),
        ),
        (_("restored and started"), _("in {duration}").format(duration=human.duration(outcome.restore_took))),
        (_("of that, recovery"), human.duration(outcome.start_took)),
        (_("recovered up to"), str(outcome.end_lsn)),
        (
            _("transactions"),
            _("{committed} committed, {expected} up to there, {found} found").format(
                committed=outcome.committed, expected=outcome.expected, found=outcome.found
            ),
        ),
        (
            _("after the snapshot"),
            ngettext(
                "{number} transaction, gone with the server: a snapshot keeps what was committed when it ended",
                "{number} transactions, gone with the server: a snapshot keeps what was committed when it ended",
                lost,
            ).format(number=lost),
        ),
    ]


def _snapshot(taken: Taken) -> str:
    return _("{content}, of that {added} new, stored as {stored}, in {duration}").format(
        content=human.size(taken.content),
        added=human.size(taken.added_content),
        stored=human.size(taken.added_stored),
        duration=human.duration(taken.took),
    )


def _verdict(outcome: Outcome) -> str:
    if outcome.same:
        return _("Recovered: every row of every table is what the load's log says it must be.")
    if outcome.found not in (outcome.expected, outcome.expected + 1):
        return _("NOT RECOVERED: the copy holds {found} transactions where the log demands {expected}.").format(
            found=outcome.found, expected=outcome.expected
        )
    names = ", ".join(compared.table for compared in outcome.tables if not compared.same)
    return _("NOT RECOVERED: what was restored differs from what was there, in: {tables}.").format(tables=names)
