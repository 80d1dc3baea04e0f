"""Whether a server is the one whose WAL is held, before a byte is asked for. Pure.

WAL belongs to a system identifier and a timeline. A promoted clone, an old primary that writes on, a cluster made anew
by initdb under the same connection, a server set back to an earlier moment: each is told apart here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from holdfast.errors import HoldfastError, Refused, TryLater, UsageError
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.timelines import History, parse_history
from holdfast.repository.wal.held import Held


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSays:
    system_identifier: int
    timeline: int
    flushed: Lsn
    """How far it has written: IDENTIFY_SYSTEM."""
    segment_size: int
    history: History
    """Of its timeline; for 1: without ancestors."""
    oldest: Lsn | None
    """The oldest WAL that our slot keeps (``restart_lsn``); None: no slot yet, or one that keeps nothing."""
    in_recovery: bool = False
    """A standby: it may be behind, and catch up."""


def check_cluster(held: Sequence[Held], server: ServerSays, adopt: int | None) -> bool:
    """Whether another cluster is adopted now. ``held``: of all clusters that the source ever was.

    Raises :class:`~holdfast.errors.Refused` for one that is not adopted, :class:`~holdfast.errors.UsageError` if
    ``adopt`` names another than the server's.
    """
    if adopt is not None and adopt != server.system_identifier:
        raise UsageError(
            _("the server's system identifier is {server}, not {adopt}").format(
                server=server.system_identifier, adopt=adopt
            ),
            hint=_("See whether the source's connection leads to the right server."),
        )
    newest = max(
        ((begin.when, begin.stream.system_identifier) for one in held for begin in one.begins),
        default=None,
    )
    if newest is None or newest[1] == server.system_identifier:
        return False
    if adopt is not None:
        return True
    raise Refused(
        _("another cluster answers: its system identifier is {server}, the WAL that is held is of {held}").format(
            server=server.system_identifier, held=newest[1]
        ),
        hint=_(
            "Correct the source's connection; or, if this cluster took the other's place, run: "
            "holdfast wal receive --adopt {server}"
        ).format(server=server.system_identifier),
    )


def check_server(held: Sequence[Held], server: ServerSays) -> None:
    """``held``: of the server's cluster, by each repository.

    Raises :class:`~holdfast.errors.Refused`, both servers named: a timeline older than what is held; a timeline with
    another history; a server that is behind what it once had sent. A standby that is only behind is
    :class:`~holdfast.errors.TryLater`.
    """
    _check_segment_size(held, server)
    _check_histories(held, server)
    _check_timeline(held, server)
    _check_not_behind(held, server)


def _check_segment_size(held: Iterable[Held], server: ServerSays) -> None:
    for one in held:
        if one.segment_size != server.segment_size:
            raise Refused(
                _("WAL segments of cluster {identifier} have {server} bytes now, those that are held {held}").format(
                    server=server.segment_size, identifier=server.system_identifier, held=one.segment_size
                ),
                hint=_("pg_resetwal was run on it: protect it as a source with a new name."),
            )


def _check_histories(held: Iterable[Held], server: ServerSays) -> None:
    line = server.history
    for one in held:
        for timeline, content in one.histories.items():
            if not line.holds(timeline):
                continue
            ours = [(branch.timeline, branch.switch) for branch in parse_history(timeline, content).ancestors]
            theirs = [(branch.timeline, branch.switch) for branch in line.ancestors if branch.timeline < timeline]
            if ours != theirs:
                raise Refused(
                    _(
                        "two servers of cluster {identifier} have made a timeline {timeline}: "
                        "the server's {server}, the one held {held}"
                    ).format(
                        identifier=server.system_identifier,
                        timeline=timeline,
                        server=_branched(theirs),
                        held=_branched(ours),
                    ),
                    hint=_other_server(),
                )


def _check_timeline(held: Iterable[Held], server: ServerSays) -> None:
    newest = max((segment.timeline for one in held for segment in one.segments), default=0)
    if newest <= server.timeline:
        return
    raise _behind(
        server,
        _(
            "the server was left behind: it is on timeline {server} at {flushed}, and WAL of timeline {held} is held"
        ).format(server=server.timeline, flushed=server.flushed, held=newest),
    )


def _check_not_behind(held: Iterable[Held], server: ServerSays) -> None:
    size = server.segment_size
    last = max(
        (
            segment.number * size + segment.stop
            for one in held
            for segment in one.segments
            if segment.timeline == server.timeline
        ),
        default=0,
    )
    if last <= server.flushed:
        return
    raise _behind(
        server,
        _(
            "the server was set back, or is another: on timeline {timeline} it has written up to {server}, "
            "and WAL up to {held} is held"
        ).format(timeline=server.timeline, server=server.flushed, held=Lsn(last)),
    )


def _behind(server: ServerSays, message: str) -> HoldfastError:
    if server.in_recovery:
        return TryLater(message, hint=_("It is a standby: wait until it has caught up, or connect to its primary."))
    return Refused(message, hint=_other_server())


def _other_server() -> str:
    return _(
        "Correct the source's connection, or have this server follow the other (pg_rewind); "
        "if it is the one to protect from now on, give it a source with a new name."
    )


def _branched(ancestors: Sequence[tuple[int, Lsn]]) -> str:
    if not ancestors:
        return _("has no parent")
    timeline, switch = ancestors[-1]
    return _("branched off timeline {timeline} at {switch}").format(timeline=timeline, switch=switch)
