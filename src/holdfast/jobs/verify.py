"""Verifying a repository: every byte that a snapshot needs, read back and authenticated."""

from __future__ import annotations

from collections.abc import Collection

from holdfast.jobs.progress import Progress
from holdfast.messages import _
from holdfast.repository.objects import PACK_KINDS
from holdfast.repository.repository import Repository
from holdfast.repository.verify import Verification, verify_repository


def verify(
    repository: Repository, *, only: Collection[str], quick: bool, progress: Progress, host: str = ""
) -> Verification:
    """``only``: ids of the snapshots whose files are resolved; all of them when empty. ``host``: for the lease."""
    sizes = (listed.size for kind in PACK_KINDS for listed in repository.store.list(kind.prefix))
    progress.begin(_("verifying {url}").format(url=repository.url), None if quick else sum(sizes))
    return verify_repository(
        repository,
        quick=quick,
        only=lambda snapshot: not only or snapshot.id in only,
        progress=progress.advance,
        host=host,
    )
