"""What ``holdfast key`` shows and tells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.cli import human
from holdfast.cli.access import Opened
from holdfast.cli.session import Session
from holdfast.messages import _

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.repository.keyring import RingKey


def show_added(session: Session, key: RingKey, opened: Opened, out: Path | None, secret: str) -> None:
    output = session.output
    output.line(
        _("added key {id} to {url}: {kind}; it was read back and opens").format(
            id=key.short_id, url=opened.repository.url, kind=kind_text(key)
        )
    )
    if secret:
        output.line()
        output.line(f"  {secret}")
        output.line()
        output.warning(_("this is shown only now: keep it away from this machine; nobody can show it again"))
    if out is not None:
        output.line(_("wrote {path}: secret, keep a copy of it away from this machine").format(path=out))
    if opened.wiring is not None and len(opened.wiring.configuration.repository) > 1:
        output.line(_("The other repositories are as before: --repository NAME adds to another."))
    output.line(_("Next: print the recovery kit anew, so that the new key is in it: holdfast kit"))


def show_removed(session: Session, key: RingKey, url: str) -> None:
    output = session.output
    output.line(_("removed key {id} from {url}: its secret no longer opens it").format(id=key.short_id, url=url))
    output.line()
    output.line(
        _(
            "This does not revoke it. Whoever has that secret and a copy of the key object (a recovery kit, an older "
            "version in the bucket, a backup of the store) can still read every snapshot, also those that are yet to "
            "come. If the secret is in wrong hands: make a new repository with other secrets, copy what is needed "
            "into it, and delete this one."
        )
    )
    output.line(_("Other machines whose configuration holds that secret cannot open the repository any more."))
    output.line(_("Next: print the recovery kit anew, and destroy the old ones: holdfast kit"))


def key_document(key: RingKey) -> dict[str, object]:
    """What ``--json`` says of a key."""
    header = key.header
    origin = header.origin if header else None
    return {
        "id": key.id,
        "short_id": key.short_id,
        "name": key.name,
        "state": key.state,
        "what": key.what,
        "opened": key.opened,
        "kind": header.kind if header else None,
        "made": header.made if header else None,
        "created": origin.created if origin else None,
        "host": origin.host if origin else None,
        "user": origin.user if origin else None,
        "note": origin.note if origin else None,
    }


def kind_text(key: RingKey) -> str:
    from holdfast.repository.keys import SecretKind

    if key.header is None:
        return ""
    if key.header.kind is SecretKind.RECOVERY:
        return _("recovery key")
    return _("passphrase, made by Holdfast") if key.header.made else _("passphrase, chosen")


def show_keys(session: Session, keys: Sequence[RingKey]) -> None:
    output = session.output
    rows = []
    for key in keys:
        origin = key.header.origin if key.header else None
        rows.append(
            (
                key.short_id,
                kind_text(key),
                human.moment(origin.created, output.zone) if origin else "",
                f"{origin.user}@{origin.host}" if origin else "",
                origin.note if origin else "",
                _state_text(key),
            )
        )
    columns = [_("key"), _("kind"), _("made"), _("by"), _("note"), ""]
    output.table(columns, rows)


def _state_text(key: RingKey) -> str:
    from holdfast.repository.keyring import KeyState

    return {
        KeyState.GOOD: _("opened this") if key.opened else "",
        KeyState.DAMAGED: _("damaged"),
        KeyState.MISSING: _("missing"),
        KeyState.REMOVED: _("removed, still there"),
        KeyState.FOREIGN: _("foreign"),
    }[key.state]
