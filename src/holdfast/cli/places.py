"""What this machine says about where it is."""

from __future__ import annotations

import os
import zoneinfo
from collections.abc import Iterator, Mapping
from pathlib import Path


def machine_zone(
    environment: Mapping[str, str] = os.environ,
    *,
    link: Path = Path("/etc/localtime"),
    file: Path = Path("/etc/timezone"),
) -> str:
    """The name of the machine's time zone (TZ, ``/etc/localtime``, ``/etc/timezone``); UTC where none is told."""
    return next((name for name in _told(environment, link, file) if _is_zone(name)), "UTC")


def _told(environment: Mapping[str, str], link: Path, file: Path) -> Iterator[str]:
    yield environment.get("TZ", "").removeprefix(":")
    yield str(link.resolve()).partition("zoneinfo/")[2]
    try:
        yield file.read_text("utf-8", "replace").strip()
    except OSError:
        return


def _is_zone(name: str) -> bool:
    try:
        return bool(name) and bool(zoneinfo.ZoneInfo(name))
    except (KeyError, ValueError, OSError):
        return False
