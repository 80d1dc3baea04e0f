"""Adding a key to a repository, and removing one: never so that a crash, or two at once, leave nobody who can open it.

Adding: the key object, read back and opened, then the record. Removing: the record, then the key object goes. Whoever
removes holds another key, and looks once more after recording, whether somebody else has removed that one meanwhile:
of two who remove each other's, the later sees the earlier. Who sees that deletes nothing, and records that his removal
does not count: a key that counts as removed would not be missed when it is lost.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from datetime import datetime

from holdfast.errors import Damaged, ObjectMissing, Refused
from holdfast.messages import _
from holdfast.repository.keyring import Change, Keyring, KeyState, RingKey, encode_change, opened_by, read_keyring
from holdfast.repository.keys import KEY_OBJECT_LIMIT, Origin, kind_of, read_header, unwrap, wrap
from holdfast.repository.objects import KEYS, Kind, ObjectRef
from holdfast.repository.repository import Repository


def add_key(repository: Repository, secret: str, origin: Origin) -> RingKey:
    """One more secret for the same master key. It opens when this returns.

    Raises ``UsageError`` for a passphrase that is too short, ``Refused`` for a secret that opens the repository
    already, ``Damaged`` when the store does not give back what was written.
    """
    kind = kind_of(secret)
    wrapped = wrap(repository.keys, secret, kind, origin=origin)
    already = opened_by(repository, read_keyring(repository), secret)
    if already:
        raise Refused(
            _("this secret opens {url} already: key {id}").format(
                url=repository.url, id=", ".join(sorted(name.removeprefix(KEYS)[:8] for name in already))
            ),
            hint=_("Nothing is to be done; `holdfast key list` shows all keys."),
        )
    name = f"{KEYS}{os.urandom(16).hex()}"
    repository.store.put(name, wrapped)
    read_back = repository.store.get(name, 0, KEY_OBJECT_LIMIT)
    if read_back != wrapped or unwrap(read_back, secret) != repository.keys:
        raise Damaged(
            _("{url} gave back another key object than was written: {name}").format(url=repository.url, name=name),
            hint=_("Nothing was lost: the other keys open as before. See what is wrong with: holdfast check"),
        )
    digest = hashlib.sha256(wrapped).hexdigest()
    _record(repository, Change(added={name: digest}, removed=(), when=origin.created, host=origin.host))
    return RingKey(name=name, state=KeyState.GOOD, header=read_header(wrapped, repository.master))


def refuse_removal(
    ring: Keyring, key: RingKey, in_use: Sequence[Collection[str]], *, last_recovery_key: bool = False
) -> None:
    """Raises ``Refused`` where removing ``key`` could leave somebody without one. Pure.

    ``in_use``: for each secret that is at hand, that of this session first, the names of the keys that it opens: each
    must still open a good one afterwards. ``last_recovery_key``: the last recovery key may go.
    """
    if key.state in (KeyState.DAMAGED, KeyState.MISSING, KeyState.FOREIGN):
        return  # it opens nothing
    others = {other.name for other in ring.keys if other.state is KeyState.GOOD and other.name != key.name}
    if not others:
        raise Refused(
            _("key {id} is the only one that opens the repository").format(id=key.short_id),
            hint=_("Without it nobody can read the backups. Add another first: holdfast key add"),
        )
    if not in_use or any(not others.intersection(names) for names in in_use):
        raise Refused(
            _("key {id} is in use: it is the one that this configuration, or this command, opens with").format(
                id=key.short_id
            ),
            hint=_(
                "Add another (holdfast key add), put its secret where the configuration takes the passphrase from, "
                "see that `holdfast key list` opens with it, then remove this one."
            ),
        )
    if key.is_recovery and not last_recovery_key and not any(o.is_recovery for o in ring.keys if o.name != key.name):
        raise Refused(
            _("key {id} is the last recovery key").format(id=key.short_id),
            hint=_("Make another first: holdfast key add --recovery; or do without: --last-recovery-key."),
        )


def remove_key(
    repository: Repository, key: RingKey, in_use: Sequence[Collection[str]], *, when: datetime, host: str
) -> None:
    """Records the removal, then removes. ``refuse_removal`` has been asked. It opens nothing when this returns.

    Raises ``Refused`` when somebody removed, at the same time, what ``in_use`` leans on: the key counts as before.
    """
    removal = _record(repository, Change(added={}, removed=(key.name,), when=when, host=host))
    now = read_keyring(repository)
    good = {other.name for other in now.keys if other.state is KeyState.GOOD}
    if any(not good.intersection(names) for names in in_use):
        back = Change(added={}, removed=(), when=when, host=host, withdrawn=(removal.id.hex(),))
        _record(repository, back)
        raise Refused(
            _("another key was removed at the same time; {id} stays, so that one is left").format(id=key.short_id),
            hint=_("See which keys there are with `holdfast key list`; add another before you remove one."),
        )
    repository.store.delete(key.name)
    try:
        repository.store.get(key.name, 0, 1)
    except ObjectMissing:
        return
    raise Refused(
        _("{url} did not delete {name}: its secret opens the repository as before").format(
            url=repository.url, name=key.name
        ),
        hint=_("The store keeps what it holds (a lock, or missing rights). Delete that object with its own tools."),
    )


def _record(repository: Repository, change: Change) -> ObjectRef:
    return repository.put_object(Kind.KEYRING, encode_change(change))
