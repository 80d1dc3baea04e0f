"""Reads golden repositories: as they are, and damaged in one known way each."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from holdfast.repository.opening import Pin
from holdfast.store.folder import MARK
from holdfast.store.memory import MemoryStore
from tests.golden.changes import damaged
from tests.repository.clocks import HandClock

FOLDERS = sorted(path.parent for path in Path(__file__).parent.glob("*/manifest.json"))
"""One for each version that wrote one."""


@dataclass(frozen=True)
class Golden:
    folder: Path
    manifest: Mapping[str, Any]
    objects: Mapping[str, bytes]
    moments: Mapping[str, datetime]
    """When each was written, by the store; to 2 s."""
    damages: Mapping[str, Mapping[str, Any]]

    @property
    def pin(self) -> Pin:
        return Pin(repository=self.manifest["repository"], key=self.manifest["key"])

    def store(self, damage: Mapping[str, Any] | None = None) -> MemoryStore:
        """In memory, each object as old as it was; its clock stands at the newest."""
        clock = HandClock(min(self.moments.values()))
        store = MemoryStore(clock=clock)
        objects = self.objects if damage is None else damaged(self.objects, damage["changes"])
        newest = max(self.moments.values())
        for name in sorted(objects, key=lambda name: self.moments.get(name, newest)):
            clock.pass_(self.moments.get(name, newest) - clock.now())
            store.put(name, objects[name])
        return store

    def unpack(self, root: Path, damage: Mapping[str, Any] | None = None) -> None:
        """As a folder store at ``root``, which is new."""
        objects = self.objects if damage is None else damaged(self.objects, damage["changes"])
        (root / MARK).mkdir(parents=True)
        for name, content in objects.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            if name in self.moments:
                os.utime(path, (self.moments[name].timestamp(),) * 2)


@cache
def golden(folder: Path) -> Golden:
    with zipfile.ZipFile(folder / "whole.zip") as archive:
        objects = {item.filename: archive.read(item) for item in archive.infolist()}
        moments = {item.filename: datetime(*item.date_time, tzinfo=UTC) for item in archive.infolist()}
    manifest = json.loads((folder / "manifest.json").read_text(encoding="ascii"))
    damages = json.loads((folder / "damages.json").read_text(encoding="ascii"))
    return Golden(folder, manifest, objects, moments, {damage["name"]: damage for damage in damages})
