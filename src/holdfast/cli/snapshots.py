"""Snapshots as the commands show and choose them, and records that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import typer

from holdfast.cli.output import error_document
from holdfast.errors import Damaged, UsageError
from holdfast.messages import _, ngettext

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.cli.output import Output
    from holdfast.repository.repository import Records
    from holdfast.repository.snapshots import Snapshot

Value = TypeVar("Value")

_SHOWN = 20


def snapshot_document(snapshot: Snapshot) -> dict[str, object]:
    """What ``--json`` says of a snapshot, its facts left out."""
    return {
        "id": snapshot.id,
        "short_id": snapshot.short_id,
        "label": snapshot.label,
        "source": snapshot.source,
        "source_type": snapshot.source_type,
        "started": snapshot.started,
        "ended": snapshot.ended,
        "host": snapshot.host,
        "digest": snapshot.digest,
        "holdfast_version": snapshot.holdfast_version,
        "totals": snapshot.totals,
        "warnings": list(snapshot.warnings),
    }


def unreadable_document(records: Records) -> list[dict[str, str]]:
    return [{"name": problem.name, "what": problem.what} for problem in records.problems]


def missing_document(records: Records) -> list[dict[str, str]]:
    return [{"name": problem.name, "what": problem.what} for problem in records.missing]


def warn_of_unreadable(output: Output, records: Records) -> None:
    """Names each record that is missing or cannot be read: the newest snapshot may be among them."""
    for problem in records.missing:
        output.warning(problem.what)
    if records.missing:
        output.warning(_("find out what happened to the store first; what is whole there is shown by: holdfast verify"))
    for problem in records.problems:
        output.warning(f"{problem.name}: {problem.what}")
    if records.problems:
        number = len(records.problems)
        output.warning(
            ngettext(
                "{number} snapshot cannot be read, and it may be the newest",
                "{number} snapshots cannot be read, and the newest may be among them",
                number,
            ).format(number=number)
        )


def choose(records: Records, wanted: str, *, source: str | None = None, naming: str = "ID") -> Snapshot:
    """The snapshot that ``wanted`` means: ``latest``, a label, an id or its beginning. Pure.

    While any record cannot be read, nobody knows which is the latest: ``Damaged``, as for the id of such a record. Its
    hint lists what can be read; ``naming`` is how the command is told one of them. Else raises as ``select`` does.
    """
    from holdfast.repository.snapshots import select

    wanted = wanted.removeprefix("snapshot:")
    if wanted == "latest" and records.problems:
        names = ", ".join(problem.name for problem in records.problems[:3])
        names += ", …" if len(records.problems) > 3 else ""
        raise Damaged(
            _("nobody knows which snapshot is the latest: {names} cannot be read").format(names=names),
            hint=_readable(records, source, naming),
        )
    try:
        return select(records.snapshots, wanted, source=source, removals=records.removals)
    except UsageError:
        for problem in records.problems:
            if len(wanted) >= 4 and problem.name.rpartition("/")[2].startswith(wanted.lower()):
                raise Damaged(problem.what, hint=_readable(records, source, naming)) from None
        raise


def _readable(records: Records, source: str | None, naming: str) -> str:
    """The hint: which snapshots can be named, the one with the latest start first."""
    found = [snapshot for snapshot in reversed(records.snapshots) if source in (None, snapshot.source)]
    if not found:
        return _("None can be read. See what is damaged with: holdfast verify")
    lines = [_("Name the one you mean: {naming}. Those that can be read, newest first:").format(naming=naming)]
    lines += [f"  {snapshot.short_id}  {snapshot.label}" for snapshot in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(_("and {number} more: holdfast list").format(number=len(found) - _SHOWN))
    return "\n".join(lines)


def told(output: Output, records: Records, choice: Callable[[], Value]) -> Value:
    """What ``choice`` returns. If it raises ``Damaged``, the ``--json`` document tells which records are unreadable."""
    warn_of_unreadable(output, records)
    try:
        return choice()
    except Damaged as error:
        if not output.json:
            raise
        document = {
            "error": error_document(error),
            "unreadable": unreadable_document(records),
            "missing": missing_document(records),
            "snapshots": [snapshot_document(snapshot) for snapshot in records.snapshots],
        }
        output.result(document, lambda: None)
        raise typer.Exit(error.exit_code) from None
