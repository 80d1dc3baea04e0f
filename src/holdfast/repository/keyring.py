"""The keyring: which secrets open a repository. All of them wrap the same master key, each in a key object of its own.

Adding and removing is recorded in sealed objects, so that a key object that is gone without a record was lost. A record
is JSON: ``{"added": {name: SHA-256}, "removed": [name], "when", "host"}``. Names of key objects are random and used
once, so the records of several machines are simply united, in whatever order they came; a removal counts for ever,
unless whoever recorded it takes it back: ``"withdrawn": [id]`` in a further record names those that remove nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from holdfast.errors import Damaged, ObjectMissing, UsageError
from holdfast.messages import _
from holdfast.repository.keys import KEY_OBJECT_LIMIT, KeyHeader, SecretKind, read_header, unwrap
from holdfast.repository.moments import read_moment
from holdfast.repository.objects import KEYS, Kind, parse_name
from holdfast.repository.repository import Problem, Repository

LEAST_DIGITS = 4
"""Of the id of a key, as people type it."""
RECORD_LIMIT = 2**20
"""Bytes: no record of a change is nearly as long."""

Digests = Mapping[str, str]
"""SHA-256 of key objects, by their names."""


class KeyState(StrEnum):
    GOOD = "good"
    DAMAGED = "damaged"
    MISSING = "missing"
    REMOVED = "removed"
    """… and still there, or there again: its secret opens the repository."""
    FOREIGN = "foreign"
    """Not made by anybody who had this master key: opens nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RingKey:
    """One key object."""

    name: str
    state: KeyState
    header: KeyHeader | None = None
    """Only of one that is genuine: nobody else's words are shown."""
    opened: bool = False
    """Whether it opened the repository this time."""

    @property
    def id(self) -> str:
        return self.name.removeprefix(KEYS)

    @property
    def short_id(self) -> str:
        return self.id[:8]

    @property
    def is_recovery(self) -> bool:
        return self.state is KeyState.GOOD and self.header is not None and self.header.kind is SecretKind.RECOVERY

    @property
    def what(self) -> str:
        """What is wrong with it, or empty."""
        return {
            KeyState.GOOD: "",
            KeyState.DAMAGED: _("key object {name} is damaged: its secret opens nothing"),
            KeyState.MISSING: _("key object {name} is missing: its secret opens nothing"),
            KeyState.REMOVED: _("key object {name} was removed and is still there: its secret opens the repository"),
            KeyState.FOREIGN: _("key object {name} was not made with this repository's key: it opens nothing here"),
        }[self.state].format(name=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The record of one adding or removing."""

    added: Digests
    removed: tuple[str, ...]
    """As read in a keyring: empty if it was withdrawn."""
    when: datetime
    host: str
    withdrawn: tuple[str, ...] = ()
    """Ids of records of this writer whose ``removed`` does not count: nothing was deleted after them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keyring:
    keys: tuple[RingKey, ...]
    """Those that are there, and those that are missing; the oldest first."""
    changes: tuple[Change, ...]
    """All that was recorded and can be read, in its order."""
    problems: tuple[Problem, ...]
    """Records that cannot be read."""

    @property
    def removed(self) -> frozenset[str]:
        return frozenset(name for change in self.changes for name in change.removed)


def encode_change(change: Change) -> bytes:
    return json.dumps(
        {
            "added": dict(change.added),
            "removed": list(change.removed),
            "when": change.when.astimezone(UTC).isoformat(),
            "host": change.host,
            **({"withdrawn": list(change.withdrawn)} if change.withdrawn else {}),
        },
        sort_keys=True,
    ).encode()


def decode_change(data: bytes) -> Change:
    try:
        fields = json.loads(data)
        withdrawn = fields.get("withdrawn", [])
        if not isinstance(fields["removed"], list) or not isinstance(withdrawn, list):
            raise ValueError("removed, withdrawn")
        return Change(
            added={str(name): str(digest) for name, digest in fields["added"].items()},
            removed=tuple(map(str, fields["removed"])),
            when=read_moment(fields["when"]),
            host=str(fields["host"]),
            withdrawn=tuple(map(str, withdrawn)),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise Damaged(_("a record of added and removed keys cannot be read")) from None


def read_keyring(repository: Repository, recorded: Iterable[Digests] = ()) -> Keyring:
    """``recorded``: what the snapshots say of key objects: ``Snapshot.keys`` of each."""
    objects = _objects(repository)
    changes, problems = _changes(repository)
    known = {name: {digest} for change in changes for name, digest in change.added.items()}
    for digests in recorded:
        for name, digest in digests.items():
            known.setdefault(name, set()).add(digest)
    removed = _removed(changes)
    if known.keys() - objects.keys() - removed:  # or they came, or went, while this was reading
        objects = _objects(repository) | objects
        changes, problems = _changes(repository)
        removed = _removed(changes)
    keys = [
        _judge(repository, name, content, known.get(name, set()), removed=name in removed)
        for name, content in objects.items()
    ]
    keys += [RingKey(name=name, state=KeyState.MISSING) for name in known.keys() - objects.keys() - removed]
    return Keyring(keys=tuple(sorted(keys, key=_order)), changes=changes, problems=problems)


def key_problems(repository: Repository, recorded: Iterable[Digests]) -> tuple[Problem, ...]:
    """Key objects that are lost or damaged. What was removed on purpose is no problem, nor is what others planted.

    Where all that are left count as removed, by removals that were cut short, they are problems: the next one that is
    lost would not be missed.
    """
    ring = read_keyring(repository, recorded)
    states = {KeyState.DAMAGED, KeyState.MISSING}
    if all(key.state is not KeyState.GOOD for key in ring.keys):
        states.add(KeyState.REMOVED)
    bad = [key for key in ring.keys if key.state in states]
    return (*(Problem(key.name, key.what) for key in bad), *ring.problems)


def own_key_digests(repository: Repository) -> dict[str, str]:
    """What a snapshot records: name and SHA-256 of each key object but foreign and damaged ones."""
    return {
        name: hashlib.sha256(content).hexdigest()
        for name, content in _objects(repository).items()
        if _judge(repository, name, content, set(), removed=False).state is KeyState.GOOD
    }


def opened_by(repository: Repository, ring: Keyring, secret: str) -> frozenset[str]:
    """The names of the good keys that ``secret`` opens. Takes a second for each passphrase that a person chose."""
    found = set()
    for key in ring.keys:
        if key.state is KeyState.GOOD:
            try:
                content = repository.store.get(key.name, 0, KEY_OBJECT_LIMIT)
            except ObjectMissing:
                continue
            if unwrap(content, secret) == repository.keys:
                found.add(key.name)
    return frozenset(found)


def select_key(ring: Keyring, wanted: str) -> RingKey:
    """The one key that ``wanted`` means: its id, or the beginning of it, four digits at the least.

    Raises ``UsageError`` when there is none or more than one.
    """
    beginning = wanted.strip().lower().removeprefix(KEYS)
    found = [key for key in ring.keys if key.id == beginning]
    if not found and len(beginning) >= LEAST_DIGITS:
        found = [key for key in ring.keys if key.id.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            _("{wanted} means more than one key: {ids}").format(wanted=wanted, ids=", ".join(key.id for key in found)),
            hint=_("Give more digits of its id."),
        )
    gone = [
        name
        for name in ring.removed
        if len(beginning) >= LEAST_DIGITS and name.removeprefix(KEYS).startswith(beginning)
    ]
    raise UsageError(
        _("key {wanted} was removed already").format(wanted=wanted)
        if gone
        else _("there is no key {wanted}").format(wanted=wanted),
        hint=_("`holdfast key list` shows those that there are."),
    )


def _removed(changes: Iterable[Change]) -> frozenset[str]:
    return frozenset(name for change in changes for name in change.removed)


def _objects(repository: Repository) -> dict[str, bytes]:
    found = {}
    for listed in repository.store.list(KEYS):
        try:
            found[listed.name] = repository.store.get(listed.name, 0, KEY_OBJECT_LIMIT)
        except ObjectMissing:
            continue  # removed since it was listed
    return found


def _changes(repository: Repository) -> tuple[tuple[Change, ...], tuple[Problem, ...]]:
    changes: dict[str, Change] = {}
    problems = []
    for listed in repository.store.list(Kind.KEYRING.prefix):
        ref = parse_name(listed.name)
        try:
            if ref is None or listed.size > RECORD_LIMIT:
                raise Damaged(_("{name} is none of the objects that Holdfast writes").format(name=listed.name))
            changes[ref.id.hex()] = decode_change(repository.get_object(ref))
        except (Damaged, ObjectMissing) as error:
            problems.append(Problem(listed.name, str(error)))
    withdrawn = {record for change in changes.values() for record in change.withdrawn}
    counting = [replace(change, removed=()) if record in withdrawn else change for record, change in changes.items()]
    counting.sort(key=lambda change: change.when)
    return tuple(counting), tuple(sorted(problems, key=lambda problem: problem.name))


def _judge(repository: Repository, name: str, content: bytes, recorded: set[str], *, removed: bool) -> RingKey:
    """``recorded``: the digests that somebody wrote down. What was then as it is now was foreign then, too."""
    digest = hashlib.sha256(content).hexdigest()
    opened = digest == repository.keys.unwrapped_from
    try:
        header = read_header(content, repository.master)
    except Damaged:
        return RingKey(name=name, state=KeyState.FOREIGN if digest in recorded else KeyState.DAMAGED)
    if header.genuine or opened:
        state = KeyState.REMOVED if removed else KeyState.GOOD
        return RingKey(name=name, state=state, header=header, opened=opened)
    return RingKey(name=name, state=KeyState.DAMAGED if recorded - {digest} else KeyState.FOREIGN)


def _order(key: RingKey) -> tuple[bool, datetime, str]:
    origin = key.header.origin if key.header else None
    return origin is not None, origin.created if origin else datetime.min.replace(tzinfo=UTC), key.name
