"""Making a repository, and opening one. There is never more than one master key, and never another than the pinned one.

Making: the wrapped keys are written first, then ``repository.json``, which names the one key that counts, is created
if absent. Where the store cannot do that, an init that sees the keys of another after writing its own withdraws: of two
at once at most one remains (both may withdraw; "the lowest name wins" could let two win, when the lower one is written
after the other has looked). Keys that ``repository.json`` does not name are never used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdfast.clock import Clock
from holdfast.errors import Damaged, ObjectExists, ObjectMissing, Refused, UsageError, WrongPassphrase
from holdfast.messages import _
from holdfast.repository.keyring import Change, encode_change
from holdfast.repository.keys import KEY_OBJECT_LIMIT, Origin, SecretKind, new_keys, unwrap, wrap
from holdfast.repository.objects import KEYS, REPOSITORY_OBJECT, Kind, is_ours
from holdfast.repository.repository import Repository
from holdfast.repository.sealing import FORMAT_VERSION
from holdfast.repository.versions import OLDEST_WRITER, demand_writer
from holdfast.store.port import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """Which repository and master key a configuration trusts: two ids of 32 hexadecimal digits."""

    repository: str
    key: str
    stands_in: str = field(default="", compare=False)
    """The configuration file that holds the two; empty if they came with the command."""


def create_repository(
    store: Store,
    secrets: Sequence[tuple[str, SecretKind]],
    *,
    clock: Clock,
    first: Repository | None = None,
    state: Path | None = None,
    origin: Origin | None = None,
) -> Repository:
    """A new, empty repository that each of ``secrets`` opens. ``Refused`` if there is one already.

    ``origin`` stands in its key objects: who made them.

    ``first`` is another repository of the same owner: the two share the id key, and never the master key.
    """
    _refuse_existing(store)
    exclusive = store.exclusive_create()
    keys = new_keys(first.keys.id_secret if first else None)
    ours = [(f"{KEYS}{os.urandom(16).hex()}", wrap(keys, secret, kind, origin=origin)) for secret, kind in secrets]
    try:
        for name, wrapped in ours:
            store.put(name, wrapped)
        if not exclusive and {listed.name for listed in store.list(KEYS)} != {name for name, _wrapped in ours}:
            raise ObjectExists(_("the keys of another init are there"))
        header = {
            "holdfast": FORMAT_VERSION,
            "repository": keys.master.repository_id.hex(),
            "key": keys.master.id.hex(),
            "created": clock.now().isoformat(),
        }
        store.put(REPOSITORY_OBJECT, json.dumps(header, indent=1).encode(), if_absent=exclusive)
    except ObjectExists:
        for name, _wrapped in ours:
            store.delete(name)
        raise Refused(
            _("another init is making a repository in {url}, or was interrupted there").format(url=store.url),
            hint=_(
                "Use that repository if there is one now. If nobody is at work there, "
                "remove the objects under keys/ and run `holdfast init` again."
            ),
        ) from None
    repository = Repository(store, keys, clock=clock, state=state)
    demand_writer(repository, OLDEST_WRITER)
    digests = {name: hashlib.sha256(wrapped).hexdigest() for name, wrapped in ours}
    record = Change(added=digests, removed=(), when=clock.now(), host=origin.host if origin else "")
    repository.put_object(Kind.KEYRING, encode_change(record))
    return repository


def open_repository(
    store: Store, secret: str, *, pin: Pin | None, clock: Clock, state: Path | None = None
) -> Repository:
    """Opens with a passphrase or recovery key. ``state`` is the folder of this machine's state, if it keeps any.

    ``Refused`` for another repository or key than the pinned one, ``WrongPassphrase`` when no key object opens,
    ``UsageError`` when there is no repository.
    """
    pin = _check_pin(store, pin)
    damaged: list[str] = []
    for listed in sorted(store.list(KEYS), key=lambda listed: listed.name):
        try:
            wrapped = store.get(listed.name, 0, KEY_OBJECT_LIMIT)
            header = json.loads(wrapped)
            if (header.get("repository"), header.get("key")) != (pin.repository, pin.key):
                continue
            keys = unwrap(wrapped, secret)
        except (Damaged, ValueError, AttributeError, RecursionError):
            damaged.append(listed.name)
            continue
        if keys is not None:
            return Repository(store, keys, clock=clock, damaged_keys=tuple(damaged), state=state)
    _refuse(store, damaged)
    raise AssertionError


def _refuse(store: Store, damaged: Sequence[str]) -> None:
    if damaged:
        raise Damaged(
            _("no readable key object in {url} opens with this secret; damaged: {names}").format(
                url=store.url, names=", ".join(damaged)
            ),
            hint=_("Try the recovery key; another key object may be whole."),
        )
    raise WrongPassphrase(
        _("wrong passphrase for {url}").format(url=store.url),
        hint=_("Check where the configuration takes the passphrase from, or use the recovery key."),
    )


def _check_pin(store: Store, pin: Pin | None) -> Pin:
    """What ``repository.json`` says, which must be what is pinned; the pin alone if that object is lost."""
    try:
        header = json.loads(store.get(REPOSITORY_OBJECT, 0, KEY_OBJECT_LIMIT))
        version, found = header["holdfast"], Pin(repository=str(header["repository"]), key=str(header["key"]))
    except ObjectMissing:
        found = _without_header(store, pin)
        version = FORMAT_VERSION
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(
            _("{name} in {url} is damaged").format(name=REPOSITORY_OBJECT, url=store.url),
            hint=_("Delete that object: the ids pinned in holdfast.toml, or those in the key objects, then serve."),
        ) from None
    if version != FORMAT_VERSION:
        raise Refused(
            _("the repository in {url} has format {version}, which this version of Holdfast does not read").format(
                url=store.url, version=version
            ),
            hint=_("Install a newer Holdfast."),
        )
    if pin is not None and pin != found:
        raise Refused(
            _("{url} holds another repository or key than the one that is pinned").format(url=store.url),
            hint=_(
                'Found id = "{found.repository}", key = "{found.key}"; pinned id = "{pin.repository}", '
                'key = "{pin.key}". If you changed it yourself, mend what is pinned; if not, do not use this store.'
            ).format(found=found, pin=pin),
        )
    return found


def _without_header(store: Store, pin: Pin | None) -> Pin:
    named = set()
    for listed in store.list(KEYS):
        try:
            header = json.loads(store.get(listed.name, 0, KEY_OBJECT_LIMIT))
            named.add((str(header["repository"]), str(header["key"])))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    if pin is not None and (pin.repository, pin.key) in named:
        return pin
    if len(named) == 1 and any(True for _listed in store.list(Kind.SNAPSHOT.prefix)):
        repository, key = named.pop()
        return Pin(repository=repository, key=key)
    raise UsageError(
        _("there is no repository in {url}").format(url=store.url),
        hint=_where_it_may_be(pin),
    )


def _where_it_may_be(pin: Pin | None) -> str:
    if pin is None:
        return _("Check the URL; `holdfast init` makes a repository.")
    if not pin.stands_in:
        return _("The id given, {id}, says that there is one: correct the URL, or mount the disk.").format(
            id=pin.repository
        )
    return _(
        "{path} says that there is one, with the id {id}: correct its url in that file, or mount the disk. Only if "
        "that repository was given up for good: delete its lines id and key, then run: holdfast init"
    ).format(path=pin.stands_in, id=pin.repository)


def _refuse_existing(store: Store) -> None:
    """Keys alone are what an interrupted init leaves; anything else is a repository, or not ours to write beside."""
    for listed in store.list(""):
        if listed.name == REPOSITORY_OBJECT or is_ours(listed.name):
            raise Refused(
                _("there is a repository in {url} already").format(url=store.url),
                hint=_("Use it with its own passphrase, or name an empty place for a new one."),
            )
        if not listed.name.startswith(KEYS):
            raise Refused(
                _("{url} is not empty: it holds {name}").format(url=store.url, name=listed.name),
                hint=_("Name an empty folder or prefix: a repository shares its place with nothing else."),
            )
