"""Changes to a store's objects, byte by byte: as ``damages.json`` has them, and carried out."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

Change = Mapping[str, Any]


def flip(name: str, at: int, mask: int = 16) -> Change:
    return {"flip": name, "at": at, "mask": mask}


def cut(name: str, to: int) -> Change:
    return {"cut": name, "to": to}


def delete(name: str) -> Change:
    return {"delete": name}


def put(name: str, content: bytes) -> Change:
    return {"put": name, "base64": base64.b64encode(content).decode()}


def copy(source: str, name: str) -> Change:
    """As ``source`` is in the whole repository."""
    return {"copy": source, "to": name}


def damaged(whole: Mapping[str, bytes], changes: Iterable[Change]) -> dict[str, bytes]:
    """The objects after ``changes``, each of which is one to the whole repository."""
    objects = dict(whole)
    for change in changes:
        match change:
            case {"flip": name, "at": at, "mask": mask}:
                objects[name] = whole[name][:at] + bytes([whole[name][at] ^ mask]) + whole[name][at + 1 :]
            case {"cut": name, "to": size}:
                assert size < len(whole[name])
                objects[name] = whole[name][:size]
            case {"delete": name}:
                del objects[name]
            case {"put": name, "base64": content}:
                objects[name] = base64.b64decode(content, validate=True)
            case {"copy": source, "to": name}:
                objects[name] = whole[source]
            case _:
                raise AssertionError(change)
    assert objects != dict(whole)
    return objects
