"""How a store says what failed, on what and where: one wording for all backends."""

from __future__ import annotations

from enum import StrEnum

from holdfast.errors import ObjectExists, ObjectMissing, StoreUnreachable
from holdfast.messages import _


class Operation(StrEnum):
    PUT = "put"
    GET = "get"
    LIST = "list"
    DELETE = "delete"
    PROBE = "probe"


class Unmarked(StoreUnreachable):
    """The machine answers, and there is no store at the place: a disk is not mounted, or the store not made yet."""


def cannot(operation: Operation, name: str, store: str, reason: str) -> str:
    """The message of an error: ``cannot read packs/ab12 in file:///…: reason``. ``name`` is the prefix of a listing."""
    texts = {
        Operation.PUT: _("cannot write {name} in {store}: {reason}"),
        Operation.GET: _("cannot read {name} in {store}: {reason}"),
        Operation.LIST: _("cannot list {name} in {store}: {reason}"),
        Operation.DELETE: _("cannot delete {name} in {store}: {reason}"),
        Operation.PROBE: _("cannot probe {store}: {reason}"),
    }
    return texts[operation].format(name=name or "/", store=store, reason=reason)


def missing(name: str, store: str) -> ObjectMissing:
    return ObjectMissing(
        _("no object {name} in {store}").format(name=name, store=store),
        hint=_("Run `holdfast verify` to learn what depends on it."),
    )


def exists(name: str, store: str) -> ObjectExists:
    return ObjectExists(
        _("{name} is already in {store} with other content").format(name=name, store=store),
        hint=_("Another writer was first: run the command again to work with what it wrote."),
    )
