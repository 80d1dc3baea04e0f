"""What this machine saw as the newest records of a repository: kept in its state, so that a store set back is noticed.

Records name their predecessors, so one that goes missing in the middle is noticed from the repository alone. The
newest ones nobody names yet: this machine remembers them, with the SHA-256 of their objects. The state can be lost;
then only the recovery kit and the next machine remember.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from holdfast.repository.local import hand_over, make_folder

_FILE = "newest.json"


class Seen(NamedTuple):
    """A record as this machine saw it."""

    digest: str
    """SHA-256 of its object, hexadecimal."""
    label: str


def remembered(local: Path | None) -> Mapping[str, Seen]:
    """By snapshot id; empty where nothing is remembered."""
    if local is None:
        return {}
    try:
        heads = json.loads((local / _FILE).read_bytes())["newest"]
        return {str(snapshot): Seen(str(seen["digest"]), str(seen["label"])) for snapshot, seen in heads.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def remember(local: Path | None, newest: Mapping[str, Seen]) -> None:
    """Atomic; where the state cannot be written, nothing is remembered, and nothing fails."""
    if local is None or not newest or remembered(local) == newest:
        return
    document = {"newest": {snapshot: seen._asdict() for snapshot, seen in newest.items()}}
    temporary = local / f"{_FILE}.{secrets.token_hex(6)}"
    with contextlib.suppress(OSError):
        make_folder(local)
        try:
            temporary.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            hand_over(temporary)
            temporary.replace(local / _FILE)
        finally:
            temporary.unlink(missing_ok=True)


def place(local: Path) -> Path:
    """The file, for people who want to forget what it says."""
    return local / _FILE
