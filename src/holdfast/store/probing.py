"""Whether a store honours create-if-absent: found out by trying, because some ignore the condition silently."""

from __future__ import annotations

import contextlib
import secrets

from holdfast.errors import HoldfastError, ObjectExists
from holdfast.store.port import Store


def creates_exclusively(store: Store) -> bool:
    """Write one new name twice, with different bytes: a store that keeps its word refuses the second.

    The probe is removed again; where this writer may not delete, a few bytes under ``probes/`` stay behind.
    """
    name = f"probes/{secrets.token_hex(16)}"
    store.put(name, b"first", if_absent=True)
    try:
        store.put(name, b"second", if_absent=True)
    except ObjectExists:
        return True
    else:
        return False
    finally:
        with contextlib.suppress(HoldfastError):
            store.delete(name)
