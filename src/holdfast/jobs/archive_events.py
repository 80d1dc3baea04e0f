"""What a receiver tells while it works: events, heard by whoever runs it. Jobs print nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from holdfast.errors import HoldfastError


class Weight(StrEnum):
    INFO = "info"
    WARNING = "warning"
    ALARM = "alarm"
    """Protection is less than what was asked for: a gap, a slot given up, commits that no longer wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    when: datetime
    weight: Weight
    kind: str
    """For programs, never translated: ``streaming``, ``lost``, ``gap`` …"""
    text: str
    """For people."""
    hint: str = ""


class Listener(Protocol):
    def heard(self, event: Event) -> None:
        """Called from any thread; must be quick."""


def in_words(error: HoldfastError) -> str:
    """An error on one line, without its hint."""
    return " ".join(str(error).split())
