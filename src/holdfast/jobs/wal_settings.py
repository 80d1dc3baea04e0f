"""How the WAL of one source is kept: what the configuration says of it, and where its receiver listens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

SLOT = "holdfast_{source}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WalSettings:
    source: str
    connection: str = field(repr=False)
    """A libpq connection string or URL; holds secrets, so it is never shown."""
    via: str
    """``stream``, ``archive`` or ``off``."""
    to: tuple[str, ...]
    """Names of repositories: WAL counts as safe when it is durable in all of them."""
    every: Mapping[str, timedelta]
    """How often the newest bytes go to each of them, while there are any."""
    retain: int
    """Bytes of WAL that our slot may hold back on the server before it is given up."""
    synchronous: bool
    """Whether commits are meant to wait for us."""
    state_dir: Path

    @property
    def slot(self) -> str:
        return SLOT.format(source=self.source)

    @property
    def socket(self) -> Path:
        """Where ``wal receive`` listens for ``wal push`` and ``status``."""
        return self.state_dir / "run" / f"{self.source}.sock"
