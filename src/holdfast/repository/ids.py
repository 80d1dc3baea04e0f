"""A chunk id names content: BLAKE3 keyed with the owner's id key, 32 bytes. An object id is 32 random bytes.

The id key is one for all repositories of an owner and is not the sealing key; a chunk id appears in no object name
and never outside a sealed object, so that a store learns nothing about content from either.
"""

from __future__ import annotations

import os
from typing import NewType

from blake3 import blake3

ChunkId = NewType("ChunkId", bytes)
ObjectId = NewType("ObjectId", bytes)

ID_BYTES = 32


class IdKey:
    """Gives content its id. Thread-safe; hashing releases the GIL."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._lists = blake3(b"holdfast lists", key=key).digest()
        self._wal = blake3(b"holdfast wal", key=key).digest()
        self._wal_names = blake3(b"holdfast wal names", key=key).digest()

    def chunk_id(self, content: bytes | bytearray | memoryview) -> ChunkId:
        return ChunkId(blake3(content, key=self._key).digest())

    def list_id(self, named: bytes | bytearray | memoryview) -> ChunkId:
        """Of a list node or leaf. No content has it: else a file that says what a list says would be taken for it."""
        return ChunkId(blake3(named, key=self._lists).digest())

    def wal_hasher(self) -> blake3:
        """A hash that has seen nothing yet: for WAL. No file's content has the digest of a segment's."""
        return blake3(key=self._wal)

    def wal_mark(self, text: bytes) -> bytes:
        """16 bytes for the names of streams and the like: they tell the store nothing, and are always the same."""
        return blake3(text, key=self._wal_names).digest(16)

    def fraction(self, text: bytes) -> float:
        """A number in [0, 1) that only the owner can foresee: decides where the tree's leaves are cut."""
        return int.from_bytes(blake3(text, key=self._key).digest(8), "big") / 2**64


def new_object_id() -> ObjectId:
    return ObjectId(os.urandom(ID_BYTES))
