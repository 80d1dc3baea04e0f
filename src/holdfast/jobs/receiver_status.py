"""What a running receiver says of itself over its socket: values, to JSON and back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.errors import Damaged, UsageError
from holdfast.messages import _
from holdfast.postgres.lsn import Lsn

Json = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryProgress:
    repository: str
    durable: Lsn
    """Held contiguously up to here."""
    error: str = ""
    """Why nothing gets there at the moment; empty: it does."""
    since: datetime | None = None
    """Since when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverStatus:
    source: str
    pid: int
    host: str
    started: datetime
    phase: str
    """``connecting``, ``streaming``, ``waiting`` (for the server or a store), ``serving`` (what ``archive_command``
    brings; nothing is streamed), ``stopping``."""
    server: str
    """Host and port; empty while there is none."""
    system_identifier: int | None
    timeline: int | None
    received: Lsn | None
    """Up to where WAL has come."""
    confirmed: Lsn | None
    """Durable in every repository, contiguously: what the server was told."""
    server_end: Lsn | None
    """How far the server had written, as it said last."""
    safe_until: datetime | None
    """The server's clock: each commit up to then is durable in every repository."""
    heard: datetime | None
    """When the server was heard last, by our clock."""
    repositories: tuple[RepositoryProgress, ...]
    sync_state: str | None
    """``sync``, ``quorum``, ``potential``, ``async``; None: not known."""
    retained: int | None
    """Bytes of WAL that our slot holds back on the server."""
    warnings: tuple[str, ...]
    """What is wrong, for people, the worst first."""
    snapshot: str = ""
    """What the snapshot does that closes a gap: ``running``, ``failed: why``; empty: none is needed."""

    def to_json(self) -> Json:
        return {
            "source": self.source,
            "pid": self.pid,
            "host": self.host,
            "started": self.started.isoformat(),
            "phase": self.phase,
            "server": self.server,
            "system_identifier": None if self.system_identifier is None else str(self.system_identifier),
            "timeline": self.timeline,
            "received": _text(self.received),
            "confirmed": _text(self.confirmed),
            "server_end": _text(self.server_end),
            "safe_until": _iso(self.safe_until),
            "heard": _iso(self.heard),
            "repositories": [
                {
                    "repository": one.repository,
                    "durable": str(one.durable),
                    "error": one.error,
                    "since": _iso(one.since),
                }
                for one in self.repositories
            ],
            "sync_state": self.sync_state,
            "retained": self.retained,
            "warnings": list(self.warnings),
            "snapshot": self.snapshot,
        }

    @classmethod
    def from_json(cls, data: Json) -> ReceiverStatus:
        """Fields of later versions are passed over. Raises ``Damaged``."""
        try:
            identifier = data["system_identifier"]
            return cls(
                source=_string(data["source"]),
                pid=_whole(data["pid"]) or 0,
                host=_string(data["host"]),
                started=_moment(data["started"]) or _missing(),
                phase=_string(data["phase"]),
                server=_string(data["server"]),
                system_identifier=None if identifier is None else int(_string(identifier)),
                timeline=_whole(data["timeline"]),
                received=_lsn(data["received"]),
                confirmed=_lsn(data["confirmed"]),
                server_end=_lsn(data["server_end"]),
                safe_until=_moment(data["safe_until"]),
                heard=_moment(data["heard"]),
                repositories=tuple(
                    RepositoryProgress(
                        repository=_string(one["repository"]),
                        durable=Lsn.parse(_string(one["durable"])),
                        error=_string(one["error"]),
                        since=_moment(one["since"]),
                    )
                    for one in _list(data["repositories"])
                ),
                sync_state=None if data["sync_state"] is None else _string(data["sync_state"]),
                retained=_whole(data["retained"]),
                warnings=tuple(_string(text) for text in _list(data["warnings"])),
                snapshot=_string(data["snapshot"]),
            )
        except (KeyError, TypeError, ValueError, UsageError, AttributeError, OverflowError):
            raise Damaged(_("what the receiver says of itself cannot be read")) from None


def _text(lsn: Lsn | None) -> str | None:
    return None if lsn is None else str(lsn)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _whole(value: Any) -> int | None:
    if value is not None and type(value) is not int:
        raise TypeError
    return value


def _lsn(value: Any) -> Lsn | None:
    return None if value is None else Lsn.parse(_string(value))


def _moment(value: Any) -> datetime | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(_string(value))
    if moment.tzinfo is None:
        raise ValueError
    return moment


def _missing() -> datetime:
    raise ValueError
