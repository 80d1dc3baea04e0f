"""``holdfast verify``: is every byte that a snapshot needs still what was written?"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli import human
from holdfast.cli.access import (
    Access,
    FromUrl,
    PassphraseFile,
    RecoveryKeyFile,
    RepositoryId,
    RepositoryKey,
    RepositoryName,
    StoreOptions,
)
from holdfast.cli.app import App
from holdfast.cli.session import Session
from holdfast.cli.snapshots import choose, told
from holdfast.errors import DONE_WITH_WARNINGS, Damaged
from holdfast.messages import _, ngettext
from holdfast.postgres.lsn import Lsn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.cli.output import Output
    from holdfast.repository.verify import Verification
    from holdfast.repository.wal.checking import VerifiedStream

SHOWN = 20


def register(app: App) -> None:
    text = _("Read everything back and check it: all snapshots, or those named by label or id.")
    app.command("verify", help=text)(verify)


def verify(
    ctx: typer.Context,
    *,
    snapshots: Annotated[list[str] | None, typer.Argument(metavar="SNAPSHOT", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help=_("Only that everything is there; contents unread."))] = False,
    repository: RepositoryName = None,
    from_url: FromUrl = None,
    repository_id: RepositoryId = None,
    repository_key: RepositoryKey = None,
    option: StoreOptions = None,
    passphrase_file: PassphraseFile = None,
    recovery_key_file: RecoveryKeyFile = None,
) -> None:
    from holdfast.clock import SystemClock
    from holdfast.jobs.verify import verify as run

    session = Session.of(ctx)
    opened = Access(
        name=repository,
        url=from_url,
        id=repository_id,
        key=repository_key,
        options=option or (),
        passphrase_file=passphrase_file,
        recovery_key_file=recovery_key_file,
    ).open(session)
    only: set[str] = set()
    if snapshots:
        records = opened.repository.records()
        only = {one.id for one in told(session.output, records, lambda: [choose(records, name) for name in snapshots])}
    clock = SystemClock()
    began = clock.monotonic()
    with session.progress() as progress:
        found = run(opened.repository, only=only, quick=quick, progress=progress, host=socket.gethostname())
    took = timedelta(seconds=clock.monotonic() - began)
    session.output.result(
        _document(found, opened.repository.url, took, quick=quick),
        lambda: _show(session.output, found, opened.repository.url, took, quick=quick),
    )
    if not found.good:
        raise typer.Exit(Damaged.exit_code)
    if not found.snapshots and found.unneeded:
        raise typer.Exit(DONE_WITH_WARNINGS)


def _document(found: Verification, url: str, took: timedelta, *, quick: bool) -> dict[str, object]:
    return {
        "repository": url,
        "quick": quick,
        "good": found.good,
        "snapshots": found.snapshots,
        "objects": found.objects,
        "read_bytes": found.read,
        "took": took,
        "unneeded_packs": found.unneeded,
        "wal": [_wal_document(stream) for stream in found.wal.streams],
        "mended": [{"object": problem.name, "what": problem.what} for problem in found.mended],
        "problems": [{"object": problem.name, "what": problem.what} for problem in found.problems],
        "touched": [
            {"snapshot": touched.snapshot.id, "label": touched.snapshot.label, "path": touched.path, "why": touched.why}
            for touched in found.touched
        ],
    }


def _wal_document(stream: VerifiedStream) -> dict[str, object]:
    held = stream.held
    return {
        "source": held.stream.source,
        "system_identifier": str(held.stream.system_identifier),
        "segments": stream.segments,
        "bytes": stream.content,
        "gaps": [
            {
                "timeline": gap.timeline,
                "start": str(Lsn(gap.start)),
                "stop": str(Lsn(gap.stop)),
                "recorded": gap.is_recorded,
            }
            for gap in stream.gaps
        ],
    }


def _show_wal(output: Output, stream: VerifiedStream) -> None:
    segments = ngettext("{number} WAL segment", "{number} WAL segments", stream.segments)
    output.line(
        _("{source}: {segments}, {size} of WAL").format(
            source=stream.held.stream.source,
            segments=segments.format(number=stream.segments),
            size=human.size(stream.content),
        )
    )
    for gap in stream.gaps:
        if gap.is_recorded:
            text = _("{source}: no WAL is held from {start} to {stop} on timeline {timeline}: a gap, as was recorded")
            output.note(
                text.format(
                    source=stream.held.stream.source,
                    start=str(Lsn(gap.start)),
                    stop=str(Lsn(gap.stop)),
                    timeline=gap.timeline,
                )
            )


def _show(output: Output, found: Verification, url: str, took: timedelta, *, quick: bool) -> None:
    snapshots = ngettext("{number} snapshot", "{number} snapshots", found.snapshots).format(number=found.snapshots)
    objects = ngettext("{number} object", "{number} objects", found.objects).format(number=found.objects)
    if quick:
        text = _("{url}: {snapshots}, {objects} listed, contents unread, in {duration}")
    else:
        text = _("{url}: {snapshots}, {objects} read back ({size}) in {duration}")
    output.line(
        text.format(
            url=url, snapshots=snapshots, objects=objects, size=human.size(found.read), duration=human.duration(took)
        )
    )
    for stream in found.wal.streams:
        _show_wal(output, stream)
    for problem in found.mended:
        output.note(_("{what}; all of it is whole in other packs").format(what=problem.what))
    if found.unneeded:
        text = ngettext(
            "{number} pack is needed by no snapshot: an interrupted backup left it, or records are gone",
            "{number} packs are needed by no snapshot: an interrupted backup left them, or records are gone",
            found.unneeded,
        )
        output.note(text.format(number=found.unneeded))
    if found.good and not found.snapshots:
        output.line(_("There is no snapshot."))
        return
    if found.good:
        output.line(_("Everything is there.") if quick else _("Everything is as it was written."))
        return
    output.line()
    output.line(_("Damaged:"))
    _shortened(output, [f"{problem.name}: {problem.what}" for problem in found.problems])
    if found.touched:
        output.line()
        output.line(_("What this touches:"))
        _shortened(output, [_touched(one.snapshot.label, one.path, one.why) for one in found.touched])
    output.line()
    output.line(_("A snapshot that can be read and is not named above is whole: restore from that one."))
    output.line(
        _(
            "Take a new one (holdfast backup): it stores again what is damaged and still the same at the source, "
            "which mends older snapshots too. Then verify again."
        )
    )


def _touched(label: str, path: str, why: str) -> str:
    return f"{label}: {path}: {why}" if path else _("{label}: all of it: {why}").format(label=label, why=why)


def _shortened(output: Output, lines: Sequence[str]) -> None:
    for line in lines[:SHOWN]:
        output.line(f"  {line}")
    if len(lines) > SHOWN:
        output.line("  " + _("and {number} more").format(number=len(lines) - SHOWN))
