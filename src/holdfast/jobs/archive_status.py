"""What a receiver says of itself when it is asked: a view over its parts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from holdfast.jobs.receiver_status import ReceiverStatus, RepositoryProgress
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn

if TYPE_CHECKING:
    from holdfast.jobs.archive import Receiver


def status_of(receiver: Receiver, *, host: str) -> ReceiverStatus:
    flow, standing, observed = receiver.flow, receiver.standing, receiver.watch.observed
    slot = observed.slot if observed is not None else None
    return ReceiverStatus(
        source=receiver.settings.source,
        pid=os.getpid(),
        host=host,
        started=receiver.started,
        phase=receiver.phase,
        server=receiver.server,
        system_identifier=flow.course.stream.system_identifier if flow is not None else None,
        timeline=flow.course.timeline if flow is not None else None,
        received=flow.intake.received if flow is not None else None,
        confirmed=standing.confirmed or None,
        server_end=standing.server_end or None,
        safe_until=standing.safe_until,
        heard=standing.heard,
        repositories=tuple(_progress(receiver)),
        sync_state=observed.sync_state if observed is not None else None,
        retained=slot.retained if slot is not None else None,
        warnings=tuple(_warnings(receiver)),
        snapshot=receiver.closing.state,
    )


def _progress(receiver: Receiver) -> list[RepositoryProgress]:
    found = []
    for lane in receiver.lanes:
        durable = lane.durable
        error = lane.carrier.error
        found.append(
            RepositoryProgress(
                repository=lane.name,
                durable=durable[1] if durable is not None else Lsn(0),
                error="" if error is None else str(error),
                since=lane.carrier.since if error is not None else None,
            )
        )
    return found


def _warnings(receiver: Receiver) -> list[str]:
    texts = []
    if receiver.gave_up:
        texts.append(_("the replication slot is given up until the repositories work again: WAL is being lost"))
    if receiver.telling.trouble:
        texts.append(receiver.telling.trouble)
    texts += receiver.guard.standing()
    if receiver.closing.state.startswith("failed"):
        texts.append(_("no snapshot yet that recovery could begin with: {why}").format(why=receiver.closing.state))
    texts += [f"{lane.name}: {lane.carrier.error}" for lane in receiver.lanes if lane.carrier.error is not None]
    return texts
