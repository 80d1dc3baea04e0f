"""Taking a snapshot out of a repository: its removal is recorded first, then its record goes.

What it alone needed stays until prune. Interrupted in between, the snapshot counts as removed; doing it again ends it.
"""

from __future__ import annotations

from contextlib import suppress

from holdfast.errors import PermissionRefused
from holdfast.repository.ids import ObjectId
from holdfast.repository.objects import Kind, ObjectRef
from holdfast.repository.removal import Removal, encode_removals
from holdfast.repository.repository import Repository
from holdfast.repository.snapshots import Snapshot


def remove_snapshot(repository: Repository, snapshot: Snapshot, *, host: str, why: str) -> None:
    """Raises what the store raises; a store that lets nothing be deleted keeps the record, which does not count."""
    removal = Removal(
        id=snapshot.id,
        predecessors=snapshot.predecessors,
        when=repository.clock.now(),
        host=host,
        why=why,
    )
    repository.put_object(Kind.REMOVAL, encode_removals([removal]))
    with suppress(PermissionRefused):  # kept by the store, and removed all the same
        repository.store.delete(ObjectRef(Kind.SNAPSHOT, ObjectId(bytes.fromhex(snapshot.id))).name)
