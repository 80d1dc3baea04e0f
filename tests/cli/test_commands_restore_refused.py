"""`restore` into what cannot be a target, or that fails under way: an error, a hint, and nothing harmed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.running import ROOT, environment
from tests.cli.site import Site, failed, new_site
from tests.cli.test_commands_bad_days import flip
from tests.privileges import require_root
from tests.requirements import require
from tests.servers import Cluster


def test_no_folder_at_all(site: Site) -> None:
    failed(site("restore", "--to", ""), 2, "--to names no folder")


@pytest.mark.parametrize("folder", ["/", "x" * 256, "/dev/null/x"])
def test_what_no_target_can_be(site: Site, folder: str) -> None:
    failed(site("restore", "--to", folder), 2, "restore")


def test_damage_under_way_says_how_to_remove_what_is_unfinished(tmp_path: Path, cluster: Cluster) -> None:
    site = new_site(tmp_path, cluster)
    site.well("backup")
    pack = max(site.packs(), key=lambda path: path.stat().st_size)
    flip(pack, pack.stat().st_size // 2)
    target = tmp_path / "pg backup"
    ended = site("restore", "--to", target)
    failed(ended, 5, "holdfast verify --quick", f"rm -r -- '{target}'\n", "restore another: --at snapshot:ID")
    assert "same command" not in ended.stderr  # it would end at the same place
    failed(site("restore", "--to", target), 6, "did not finish", f"rm -r -- '{target}'")


def test_root_gives_nothing_to_nobody(tmp_path: Path) -> None:
    """On a machine without the user postgres; there, root must say whose the data will be."""
    require_root()
    accounts = tmp_path / "passwd"
    lines = Path("/etc/passwd").read_text().splitlines(keepends=True)
    accounts.write_text("".join(line for line in lines if not line.startswith("postgres:")))
    asked = "from holdfast.jobs.restore_plan import _owner; import sys; print(_owner(*sys.argv[1:] or [None]))"
    command = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', str(accounts)]
    probe = subprocess.run([*command, "true"], capture_output=True, check=False)
    require(probe.returncode == 0, "a mount of its own cannot be had here")

    def ask(*names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, sys.executable, "-c", asked, *names],
            cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip

    refused = ask()
    assert "UsageError: there is no user postgres" in refused.stderr, refused
    assert "nobody" in ask("nobody").stdout
