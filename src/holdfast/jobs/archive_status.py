"""What a receiver says of itself when it is asked: a view over its parts."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Protocol

from holdfast.jobs.archive_closing import Closing
from holdfast.jobs.archive_course import Flow
from holdfast.jobs.archive_guard import Guard
from holdfast.jobs.archive_lanes import Lanes
from holdfast.jobs.archive_streaming import Standing
from holdfast.jobs.archive_telling import Telling
from holdfast.jobs.archive_watch import Watch
from holdfast.jobs.receiver_status import ReceiverStatus, RepositoryProgress
from holdfast.jobs.wal_settings import WalSettings
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn


class Parts(Protocol):
    """What there is to look at. Read while the receiver goes on: each value is right, not all of one moment."""

    settings: WalSettings
    started: datetime
    phase: str
    server: str
    gave_up: bool
    flow: Flow | None
    standing: Standing
    lanes: Lanes
    guard: Guard
    watch: Watch
    closing: Closing
    telling: Telling


def status_of(parts: Parts, *, host: str) -> ReceiverStatus:
    flow, standing, observed = parts.flow, parts.standing, parts.watch.observed
    slot = observed.slot if observed is not None else None
    return ReceiverStatus(
        source=parts.settings.source,
        pid=os.getpid(),
        host=host,
        started=parts.started,
        phase=parts.phase,
        server=parts.server,
        system_identifier=flow.course.stream.system_identifier if flow is not None else None,
        timeline=flow.course.timeline if flow is not None else None,
        received=flow.intake.received if flow is not None else None,
        confirmed=standing.confirmed or None,
        server_end=standing.server_end or None,
        safe_until=standing.safe_until,
        heard=standing.heard,
        repositories=tuple(_progress(parts.lanes)),
        sync_state=observed.sync_state if observed is not None else None,
        retained=slot.retained if slot is not None else None,
        warnings=tuple(_warnings(parts)),
        snapshot=parts.closing.state,
    )


def _progress(lanes: Lanes) -> list[RepositoryProgress]:
    found = []
    for lane in lanes:
        durable, error, since = lane.durable, lane.carrier.error, lane.carrier.since
        found.append(
            RepositoryProgress(
                repository=lane.name,
                durable=durable[1] if durable is not None else Lsn(0),
                error="" if error is None else str(error),
                since=since if error is not None else None,
            )
        )
    return found


def _warnings(parts: Parts) -> list[str]:
    texts = []
    if parts.gave_up:
        texts.append(_("the replication slot is given up until the repositories work again: WAL is being lost"))
    if parts.telling.trouble:
        texts.append(parts.telling.trouble)
    texts += parts.guard.standing()
    if parts.closing.state.startswith("failed"):
        why = parts.closing.state.removeprefix("failed: ")
        texts.append(_("no snapshot yet that recovery could begin with: {why}").format(why=why))
    for lane in parts.lanes:
        error = lane.carrier.error
        if error is not None:
            texts.append(f"{lane.name}: {error}")
    if parts.phase == "streaming" and parts.watch.error is not None:
        texts.append(_("our slot cannot be watched: {error}").format(error=parts.watch.error))
    return texts
