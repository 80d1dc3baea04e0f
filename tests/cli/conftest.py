"""A site that is only read, with two snapshots: made once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.site import Site, new_site
from tests.cli.users import installed
from tests.privileges import require_root
from tests.requirements import require
from tests.servers import Cluster, Servers

__all__ = ["installed"]


@pytest.fixture(scope="session")
def cluster(servers: Servers) -> Cluster:
    """Not to be stopped, nor configured anew."""
    made = servers.make_cluster(15)
    made.pgbench_init(1)
    return made


@pytest.fixture(scope="session")
def site(servers: Servers, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Not to be written to."""
    made = new_site(tmp_path_factory.mktemp("site"), cluster)
    made.well("backup")
    made.well("backup")
    return made


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many MiB of its own; needs root, and a kernel that lets it mount."""
    mounted: list[Path] = []

    def make(mebibytes: int) -> Path:
        require_root()
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=755", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        require(done.returncode == 0, f"cannot mount here: {done.stderr}")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def moved_away(path: Path) -> Iterator[None]:
    """Inside, ``path`` is not there."""
    elsewhere = path.with_name(path.name + ".away")
    path.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(path)
