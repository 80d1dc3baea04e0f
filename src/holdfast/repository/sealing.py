"""Sealing: AES-256-GCM with a key for each object, derived from the master key and the object's own random id.

An object is a head of 48 bytes (``HOLDFAST``, format version, kind, six zero bytes, the object's id), then parts. Each
part is sealed with the object's key under a nonce that counts the parts; what is authenticated beside it names format,
repository, master key, kind, object, the part's number, and whether it is the last. So no part can be moved, left
out, cut off or taken from another object, repository or key. An object is sealed once: a retry sends the same bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.ids import ID_BYTES
from holdfast.repository.objects import Ref

FORMAT_VERSION = 1
MAGIC = b"HOLDFAST"
HEAD = struct.Struct(f">8sBB6x{ID_BYTES}s")
TAG_BYTES = 16
_CONTEXT = struct.Struct(f">B16s16sB{ID_BYTES}sQ?")

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class MasterKey:
    """The one key that all objects of a repository are sealed under, and the two names that seals carry."""

    secret: bytes = field(repr=False)
    repository_id: bytes
    """16 random bytes."""

    @property
    def id(self) -> bytes:
        """16 bytes that name this key without telling it: pinned in ``holdfast.toml``."""
        return _key_id(self.secret, self.repository_id)


@lru_cache(maxsize=16)
def _key_id(secret: bytes, repository_id: bytes) -> bytes:
    return HKDF(SHA256(), 16, salt=repository_id, info=b"holdfast key id").derive(secret)


class ObjectCipher:
    """Seals and unseals the parts of one object. Thread-safe."""

    def __init__(self, master: MasterKey, ref: Ref) -> None:
        key = HKDF(SHA256(), 32, salt=ref.id, info=b"holdfast object").derive(master.secret)
        self._aes = AESGCM(key)
        self._context = (FORMAT_VERSION, master.repository_id, master.id, ref.kind, ref.id)
        self._ref = ref

    @property
    def head(self) -> bytes:
        return HEAD.pack(MAGIC, FORMAT_VERSION, self._ref.kind, self._ref.id)

    def seal(self, ordinal: int, plain: Buffer, *, last: bool) -> bytes:
        return self._aes.encrypt(_nonce(ordinal), plain, self._authenticated(ordinal, last))

    def seal_into(self, ordinal: int, plain: Buffer, target: memoryview, *, last: bool) -> int:
        """Seals into the beginning of ``target``; returns how many bytes that took (``TAG_BYTES`` more than plain)."""
        room = target[: len(plain) + TAG_BYTES]
        return self._aes.encrypt_into(_nonce(ordinal), plain, self._authenticated(ordinal, last), room)

    def unseal(self, ordinal: int, sealed: Buffer, *, last: bool) -> bytes:
        try:
            return self._aes.decrypt(_nonce(ordinal), sealed, self._authenticated(ordinal, last))
        except (InvalidTag, ValueError):
            raise Damaged(
                _("{name} is damaged: part {ordinal} fails authentication").format(
                    name=self._ref.name, ordinal=ordinal
                ),
                hint=_("Run `holdfast verify` to see which snapshots and files this touches."),
            ) from None

    def check_head(self, head: Buffer) -> None:
        if bytes(head) != self.head:
            raise Damaged(
                _("{name} is damaged: its head is not that of this object").format(name=self._ref.name),
                hint=_("Run `holdfast verify` to see which snapshots and files this touches."),
            )

    def _authenticated(self, ordinal: int, last: bool) -> bytes:  # noqa: FBT001  mirrors the struct's order
        return _CONTEXT.pack(*self._context, ordinal, last)


def seal_object(master: MasterKey, ref: Ref, plain: Buffer) -> bytes:
    """A whole object of one part, as it goes to the store."""
    cipher = ObjectCipher(master, ref)
    return cipher.head + cipher.seal(0, plain, last=True)


def unseal_object(master: MasterKey, ref: Ref, sealed: bytes) -> bytes:
    cipher = ObjectCipher(master, ref)
    cipher.check_head(sealed[: HEAD.size])
    return cipher.unseal(0, memoryview(sealed)[HEAD.size :], last=True)


def _nonce(ordinal: int) -> bytes:
    return ordinal.to_bytes(12, "big")
