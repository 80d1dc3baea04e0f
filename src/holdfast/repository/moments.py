"""Moments as sealed JSON holds them: ISO 8601 with an offset."""

from __future__ import annotations

from datetime import MAXYEAR, MINYEAR, UTC, datetime


def read_moment(text: str) -> datetime:
    """In UTC. ``ValueError`` for what is none, or one that cannot be shown in every time zone."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None or not MINYEAR < moment.year < MAXYEAR:
        raise ValueError("moment")
    return moment.astimezone(UTC)
