"""``holdfast status``: to which moment each source is protected, what is wrong, and what to run."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.app import App
from holdfast.cli.session import Session
from holdfast.errors import ConfigError, HoldfastError
from holdfast.messages import _

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.cli.output import Output
    from holdfast.jobs.status import SourceStatus
    from holdfast.wiring import Wiring

_CODES = {"ok": 0, "warning": 3, "critical": 1}
_NAGIOS = {"ok": ("OK", 0), "warning": ("WARNING", 1), "critical": ("CRITICAL", 2)}
_NAGIOS_UNKNOWN = 3


def register(app: App) -> None:
    app.command("status", help=_("To which moment you are protected, what is wrong, and what to run."))(status)


def status(
    ctx: typer.Context,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", show_default=False)] = None,
    nagios: Annotated[
        bool, typer.Option("--nagios", help=_("One line for Nagios and its like, with its exit codes: 0 to 3."))
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help=_("Ask neither server nor receiver: what the repositories say alone."))
    ] = False,
) -> None:
    session = Session.of(ctx)
    if nagios:
        raise typer.Exit(_tell_nagios(session, source, offline=offline))
    from holdfast.cli.status_shown import document, show

    found = _ask(session, source, offline=offline)
    session.output.result(
        {"severity": _worst(found), "sources": [document(one) for one in found]},
        lambda: show(session.output, found),
    )
    code = _CODES[_worst(found)]
    if code:
        raise typer.Exit(code)


def _ask(session: Session, source: str | None, *, offline: bool) -> tuple[SourceStatus, ...]:
    from holdfast.jobs.status import Access
    from holdfast.jobs.status import status as ask

    wiring = session.wiring(hurried=True)
    repositories = {
        name: Access(url=configured.url, open=partial(wiring.repository, name))
        for name, configured in wiring.configuration.repository.items()
    }
    return ask(
        [wiring.wal(name) for name in _sources(wiring, source)],
        repositories,
        clock=wiring.clock,
        zone=wiring.zone,
        offline=offline,
    )


def _sources(wiring: Wiring, source: str | None) -> list[str]:
    if source is not None:
        return [wiring.source_name(source)]
    names = [name for name, configured in wiring.configuration.source.items() if configured.type == "postgres"]
    if not names:
        raise ConfigError(
            _("{path} names no PostgreSQL cluster").format(path=wiring.configuration.path),
            hint=_("Write a section there: [source.NAME] with type and connection."),
        )
    return names


def _worst(found: Sequence[SourceStatus]) -> str:
    return max((one.health.severity.value for one in found), key=tuple(_CODES).index, default="ok")


def _tell_nagios(session: Session, source: str | None, *, offline: bool) -> int:
    from holdfast.cli.status_shown import performance, sentence

    try:
        found = _ask(session, source, offline=offline)
    except HoldfastError as error:
        _line(session.output, f"HOLDFAST UNKNOWN - {error}")
        return _NAGIOS_UNKNOWN
    state, code = _NAGIOS[_worst(found)]
    texts = []
    for one in found:
        problems = one.health.problems
        more = _(" (and {number} more)").format(number=len(problems) - 1) if len(problems) > 1 else ""
        texts.append(f"{one.settings.source}: {problems[0].text}{more}" if problems else sentence(one))
    _line(session.output, f"HOLDFAST {state} - {'; '.join(texts)}", performance(found))
    return code


def _line(output: Output, text: str, numbers: str = "") -> None:
    """``|`` begins the numbers, and a line is one line."""
    plain = " ".join(text.replace("|", "/").split())
    output.result({"line": plain, "performance": numbers}, lambda: output.line(f"{plain} | {numbers}".rstrip("| ")))
