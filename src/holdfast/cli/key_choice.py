"""Which key ``holdfast key remove`` means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.cli.access import Opened
    from holdfast.repository.keyring import Keyring, RingKey


def beginning_of(wanted: str) -> str:
    """The digits of the id, or of its beginning. Raises ``UsageError`` for fewer than a key is selected by."""
    from holdfast.repository.keyring import LEAST_DIGITS
    from holdfast.repository.objects import KEYS

    beginning = wanted.strip().lower().removeprefix(KEYS)
    if len(beginning) < LEAST_DIGITS:
        raise UsageError(
            _('"{wanted}" is too short for the id of a key').format(wanted=wanted),
            hint=_("Give {number} of its digits at the least: `holdfast key list` shows them.").format(
                number=LEAST_DIGITS
            ),
        )
    return beginning


def chosen(opened: Opened, ring: Keyring, beginning: str) -> RingKey:
    """``select_key``; its error says which repository was looked in: the key may be one of another."""
    from holdfast.repository.keyring import select_key

    try:
        return select_key(ring, beginning)
    except UsageError as error:
        names = list(opened.wiring.configuration.repository) if opened.wiring else []
        known = {*(key.name for key in ring.keys), *ring.removed}
        hint = error.hint
        if len(names) > 1 and not any(name.rpartition("/")[2].startswith(beginning) for name in known):
            hint = _(
                "Look in the other repositories, too: `holdfast key list --repository NAME` shows the keys of one. "
                "The configuration has: {names}."
            ).format(names=", ".join(names))
        raise UsageError(
            _("{error} (repository {url})").format(error=error, url=opened.repository.url), hint=hint
        ) from None
