"""How people hold the master key: it is random, and wrapped for each passphrase and for a recovery key.

A key object is plain JSON (``keys/<32 hex>``): which repository and master key, how the wrapping key is derived from
the secret, who made it, and the wrapped bytes: 32 of the master key, 32 of the owner's id key, under AES-256-GCM with
all other fields authenticated. A passphrase that a person chose goes through Argon2id (about 1 s); a secret that
Holdfast made has 160 random bits and goes through HKDF alone. Stored Argon2 parameters outside sane bounds are refused:
a planted key object can neither weaken nor exhaust.

Its ``witness`` is a MAC under a key that follows from the master key: whoever has opened the repository by one secret
can tell whether the object of another is whole and was made by somebody who had the master key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import unicodedata
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from holdfast.errors import Damaged, HoldfastError, UsageError
from holdfast.messages import _
from holdfast.repository.ids import IdKey
from holdfast.repository.moments import read_moment
from holdfast.repository.sealing import FORMAT_VERSION, MasterKey

ARGON2_MEMORY_KIB = 256 * 1024
ARGON2_PASSES = 3
ARGON2_LANES = 4
_ARGON2_MEMORY_BOUNDS = range(64 * 1024, 1024 * 1024 + 1)
_ARGON2_WORK_BOUNDS = range(1, 17)

KEY_OBJECT_LIMIT = 64 * 1024
"""Bytes: more is none of ours, and not read."""

SHORTEST_PASSPHRASE = 12
"""Letters, spaces left out, of a passphrase that a person chose; wide ones, such as Chinese, count twice."""

_RANDOM_BYTES = 20
_CHECK_BYTES = 5


class SecretKind(StrEnum):
    PASSPHRASE = "passphrase"  # noqa: S105  a name, not a secret
    RECOVERY = "recovery key"


@dataclass(frozen=True, slots=True)
class Keys:
    """All that an unlocked repository needs to know."""

    master: MasterKey
    id_secret: bytes = field(repr=False)
    unwrapped_from: str = field(default="", compare=False)
    """SHA-256 of the key object that gave them; empty for keys that were just made."""

    @property
    def ids(self) -> IdKey:
        return IdKey(self.id_secret)


def new_keys(id_secret: bytes | None = None) -> Keys:
    """``id_secret``: that of the owner's first repository, so that all of one owner name content alike."""
    return Keys(MasterKey(os.urandom(32), os.urandom(16)), id_secret or os.urandom(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who made a key object. It stands there unsealed: whoever can read the store can read it."""

    created: datetime
    host: str
    user: str
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHeader:
    """What a key object says without being opened. Only the words of a ``genuine`` one are worth anything."""

    repository: str
    key: str
    kind: SecretKind
    made: bool
    """Whether Holdfast made the secret; else a person chose it."""
    origin: Origin | None
    genuine: bool
    """Whether a holder of the master key wrote exactly this."""


class MadeSecret:
    """Secrets that Holdfast makes: ``hfpass-`` or ``hfrec-``, 32 base32 digits of chance, 8 that check them.

    Spaces, hyphens and case are forgiven, so that one can be typed from paper.
    """

    _PREFIXES: ClassVar = {SecretKind.PASSPHRASE: "hfpass", SecretKind.RECOVERY: "hfrec"}

    @classmethod
    def new(cls, kind: SecretKind) -> str:
        prefix = cls._PREFIXES[kind]
        chance = os.urandom(_RANDOM_BYTES)
        digits = base64.b32encode(chance + cls._check(prefix, chance)).decode().lower()
        return "-".join([prefix, *(digits[i : i + 5] for i in range(0, len(digits), 5))])

    @classmethod
    def parse(cls, text: str) -> bytes | None:
        """The random bytes; ``None`` if this is a passphrase that a person chose.

        Raises ``UsageError`` for a made secret with a slip in it.
        """
        plain = "".join(text.split()).replace("-", "").lower()
        for kind, prefix in cls._PREFIXES.items():
            if plain.startswith(prefix) and text.strip().lower().startswith(prefix + "-"):
                try:
                    raw = base64.b32decode(plain.removeprefix(prefix).upper())
                except ValueError:
                    raw = b""
                chance, check = raw[:_RANDOM_BYTES], raw[_RANDOM_BYTES:]
                if len(raw) != _RANDOM_BYTES + _CHECK_BYTES or check != cls._check(prefix, chance):
                    raise UsageError(
                        _("the recovery key has a slip in it: its check digits do not fit")
                        if kind is SecretKind.RECOVERY
                        else _("the passphrase has a slip in it: its check digits do not fit"),
                        hint=_("Compare it with the copy that you kept, letter by letter."),
                    )
                return chance
        return None

    @staticmethod
    def _check(prefix: str, chance: bytes) -> bytes:
        return hashlib.sha256(prefix.encode() + chance).digest()[:_CHECK_BYTES]


def kind_of(secret: str) -> SecretKind:
    """A recovery key is known by its prefix. Raises ``UsageError`` for a made secret with a slip in it."""
    made = MadeSecret.parse(secret) is not None
    return SecretKind.RECOVERY if made and secret.strip().lower().startswith("hfrec") else SecretKind.PASSPHRASE


def refuse_weak(secret: str) -> None:
    """Raises ``UsageError`` for a chosen passphrase that a machine would guess."""
    if MadeSecret.parse(secret) is not None:
        return
    plain = "".join(secret.split())
    if sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in plain) < SHORTEST_PASSPHRASE:
        raise UsageError(
            _("the passphrase is too short: it has less than {number} letters").format(number=SHORTEST_PASSPHRASE),
            hint=_(
                "Whoever copies the store can try passphrases for years. Choose a longer one, or let Holdfast make one."
            ),
        )
    try:
        _encoded(secret)
    except UnicodeEncodeError:
        raise UsageError(
            _("the passphrase is no text that can be written down"), hint=_("Choose another, or let Holdfast make it.")
        ) from None


def wrap(keys: Keys, secret: str, kind: SecretKind, *, origin: Origin | None = None) -> bytes:
    """A key object from which ``secret`` gives ``keys`` back. Raises ``UsageError`` as ``refuse_weak`` does."""
    refuse_weak(secret)
    salt = os.urandom(16)
    header: dict[str, Any] = {
        "holdfast": FORMAT_VERSION,
        "repository": keys.master.repository_id.hex(),
        "key": keys.master.id.hex(),
        "opens_with": str(kind),
        "derivation": {"kind": "hkdf-sha256", "salt": salt.hex()}
        if MadeSecret.parse(secret) is not None
        else {
            "kind": "argon2id",
            "salt": salt.hex(),
            "memory_kib": ARGON2_MEMORY_KIB,
            "passes": ARGON2_PASSES,
            "lanes": ARGON2_LANES,
        },
        "nonce": os.urandom(12).hex(),
    }
    if origin is not None:
        header["created"] = origin.created.astimezone(UTC).isoformat()
        header |= {"host": origin.host, "user": origin.user, "note": origin.note}
    wrapping_key = _wrapping_key(header["derivation"], secret)
    assert wrapping_key is not None
    sealed = AESGCM(wrapping_key).encrypt(
        bytes.fromhex(header["nonce"]), keys.master.secret + keys.id_secret, _canonical(header)
    )
    header["wrapped"] = base64.b64encode(sealed).decode()
    header["witness"] = _witness(keys.master, header).hex()
    return json.dumps(header, indent=1).encode()


def unwrap(key_object: bytes, secret: str) -> Keys | None:
    """The keys, or ``None`` if this secret is not the one. Raises ``Damaged`` for what is not a key object."""
    try:
        header = json.loads(key_object)
        header.pop("witness", None)
        sealed = base64.b64decode(header.pop("wrapped"), validate=True)
        repository_id, key_id = bytes.fromhex(header["repository"]), bytes.fromhex(header["key"])
        nonce = bytes.fromhex(header["nonce"])
        if header["holdfast"] != FORMAT_VERSION or (len(repository_id), len(key_id), len(nonce)) != (16, 16, 12):
            raise ValueError("format")
        wrapping_key = _wrapping_key(header["derivation"], secret)
        if wrapping_key is None:
            return None
        both = AESGCM(wrapping_key).decrypt(nonce, sealed, _canonical(header))
    except InvalidTag:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise _unreadable() from None
    keys = Keys(MasterKey(both[:32], repository_id), both[32:], hashlib.sha256(key_object).hexdigest())
    if len(both) != 64 or keys.master.id != key_id:
        raise Damaged(_("a key object does not hold the key that it names"))
    return keys


def read_header(key_object: bytes, master: MasterKey) -> KeyHeader:
    """What a key object says of itself. Raises ``Damaged`` for what is not one."""
    try:
        header = json.loads(key_object)
        witness = bytes.fromhex(header.pop("witness", ""))
        origin = None
        if "created" in header:
            words = {name: str(header.get(name, "")) for name in ("host", "user", "note")}
            origin = Origin(created=read_moment(header["created"]), **words)
        return KeyHeader(
            repository=str(header["repository"]),
            key=str(header["key"]),
            kind=SecretKind(header["opens_with"]),
            made=header["derivation"]["kind"] == "hkdf-sha256",
            origin=origin,
            genuine=hmac.compare_digest(witness, _witness(master, header)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise _unreadable() from None


def _wrapping_key(derivation: dict[str, Any], secret: str) -> bytes | None:
    """``None`` where it is plain that this secret is not the one: made ones and chosen ones are derived differently."""
    salt = bytes.fromhex(derivation["salt"])
    chance = MadeSecret.parse(secret)
    if derivation["kind"] == "hkdf-sha256":
        return None if chance is None else HKDF(SHA256(), 32, salt=salt, info=b"holdfast wrap").derive(chance)
    memory, passes, lanes = derivation["memory_kib"], derivation["passes"], derivation["lanes"]
    if derivation["kind"] != "argon2id" or memory not in _ARGON2_MEMORY_BOUNDS:
        raise ValueError("derivation")
    if passes not in _ARGON2_WORK_BOUNDS or lanes not in _ARGON2_WORK_BOUNDS:
        raise ValueError("derivation")
    if chance is not None:
        return None
    try:
        stretch = Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory)
        return stretch.derive(_encoded(secret))
    except MemoryError:
        if memory > ARGON2_MEMORY_KIB:  # none that this version wrote: whoever planted it stops nobody
            raise ValueError("derivation") from None
        raise HoldfastError(
            _("a chosen passphrase takes {number} MiB of memory to open with, and so much is not free").format(
                number=memory // 1024
            ),
            hint=_("Free some memory, or open with the recovery key or another secret that Holdfast made."),
        ) from None


def _encoded(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogateescape")


def _canonical(header: dict[str, Any]) -> bytes:
    """What is authenticated of a key object's fields, in whatever order and spacing they stand."""
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _witness(master: MasterKey, header: dict[str, Any]) -> bytes:
    """A MAC over all fields but itself."""
    key = HKDF(SHA256(), 32, salt=master.repository_id, info=b"holdfast key object").derive(master.secret)
    return hmac.digest(key, _canonical(header), "sha256")


def _unreadable() -> Damaged:
    return Damaged(_("this is not a key object that this version of Holdfast understands"))
