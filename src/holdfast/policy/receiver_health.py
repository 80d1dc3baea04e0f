"""What is wrong with a source's receiver, with its slot, and with commits that are meant to wait for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdfast.messages import _
from holdfast.policy.facts import SLOT_CRITICAL, SLOT_WARNING, Problem, SourceFacts, critical, warning
from holdfast.policy.protection import ARCHIVE, OFF, STREAM
from holdfast.policy.wording import moment, size
from holdfast.postgres.slot_watch import Slot


def receiver_problems(facts: SourceFacts) -> Iterator[Problem]:
    if facts.via == OFF:
        return
    command = f"holdfast wal receive {facts.source}"
    if facts.receiver is not None:
        for name, error, since in facts.receiver.errors:
            when = moment(since, facts.now) if since else moment(facts.now, facts.now)
            text = _("repository {name} takes no WAL since {when}: {error}").format(name=name, when=when, error=error)
            yield warning("repository_behind", text, "holdfast check")
        if facts.receiver.snapshot.startswith("failed"):
            text = _("the snapshot that should close a gap {what}").format(what=facts.receiver.snapshot)
            yield warning("snapshot_failed", text, f"holdfast backup {facts.source}")
        return
    if facts.receiver_error:
        yield warning("receiver_silent", facts.receiver_error, "holdfast check")
    if facts.via == ARCHIVE or (facts.server is None and not facts.server_error):
        return
    if facts.server is None:
        text = _("no receiver runs on this machine, and whether one runs elsewhere only the server knows")
        yield warning("receiver_unknown", text, command)
    elif facts.server.slot is None or facts.server.slot.active_pid is None:
        yield critical("receiver", _("no receiver runs: WAL is not being saved"), command)


def slot_problems(facts: SourceFacts) -> Iterator[Problem]:
    slot: Slot | None = facts.server.slot if facts.server else None
    if slot is None:
        return
    name = f"holdfast_{facts.source}"
    if facts.via != STREAM:
        if slot.active_pid is None:
            text = _("slot {slot} holds back {held} of WAL on the server, and nobody uses it").format(
                slot=name, held=size(slot.retained or 0)
            )
            yield warning("slot_unused", text, f"SELECT pg_drop_replication_slot('{name}');")
        return
    receive = f"holdfast wal receive {facts.source}"
    running = facts.receiver is not None or slot.active_pid is not None
    if slot.wal_status == "lost":
        text = _("slot {slot} is lost: the server removed WAL that had not been saved").format(slot=name)
        yield critical("slot_lost", text, receive)
        return
    remedy = "holdfast check" if running else receive
    share = (slot.retained or 0) / facts.retain
    text = _("slot {slot} holds back {held} of WAL on the server; at {limit} it is given up, and a gap begins").format(
        slot=name, held=size(slot.retained or 0), limit=size(facts.retain)
    )
    if slot.wal_status == "unreserved":
        text = _("slot {slot} is about to be lost: {held} of WAL behind, and the server keeps no more").format(
            slot=name, held=size(slot.retained or 0)
        )
        yield critical("slot", text, remedy)
    elif share >= SLOT_WARNING:
        yield (critical if share >= SLOT_CRITICAL else warning)("slot", text, remedy)


def synchronous_problems(facts: SourceFacts) -> Iterator[Problem]:
    if not facts.synchronous or facts.via != STREAM or facts.server is None:
        return
    slot = facts.server.slot
    state = facts.receiver.sync_state if facts.receiver else facts.server.sync_state
    if state in ("sync", "quorum"):
        return
    if state is None and slot is not None and slot.active_pid is not None:
        text = _("whether commits wait for Holdfast cannot be seen")
        yield warning("synchronous_unknown", text, _("GRANT pg_monitor to the role of the source's connection."))
    elif facts.server.synchronous_standby_names and state is None:
        text = _("commits may be waiting for a receiver that does not run: {setting} = {value}").format(
            setting="synchronous_standby_names", value=facts.server.synchronous_standby_names
        )
        remedy = _("holdfast wal receive {source}; to let commits go on without it: {sql}").format(
            source=facts.source,
            sql="ALTER SYSTEM SET synchronous_standby_names = ''; SELECT pg_reload_conf();",
        )
        yield critical("synchronous", text, remedy)
    else:
        text = _("commits do not wait for Holdfast, and are meant to: the newest may be lost with the server")
        yield critical("synchronous", text, "holdfast check")


def told_problems(facts: SourceFacts, problems: Iterable[Problem]) -> Iterator[Problem]:
    """What the receiver warns of, unless it is told already, in other words."""
    known = {problem.name for problem in problems}
    if facts.receiver is None or known & {"repository_behind", "slot", "slot_lost", "synchronous", "gap", "rpo"}:
        return
    for text in facts.receiver.warnings:
        yield warning("receiver_warns", text, "holdfast check")
