"""Snapshots as the commands show them, and records that cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.messages import _, ngettext

if TYPE_CHECKING:
    from holdfast.cli.output import Output
    from holdfast.repository.repository import Records
    from holdfast.repository.snapshots import Snapshot


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
        "holdfast_version": snapshot.holdfast_version,
        "totals": snapshot.totals,
        "warnings": list(snapshot.warnings),
    }


def warn_of_unreadable(output: Output, records: Records) -> None:
    """Names each record that cannot be read: the newest snapshot may be among them."""
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


def gone_text(snapshot_id: str) -> str:
    return _("snapshot {id} is gone, and nobody removed it").format(id=snapshot_id[:12])
