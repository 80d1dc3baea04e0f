"""Stores at the command line: one on an SFTP server from `init` to `restore`, and the policies of `check --policy`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.site import Site, run
from tests.servers import Cluster, Servers
from tests.sftp_servers import SftpServer, rclone_sftp


@pytest.fixture(scope="module")
def sftp() -> Iterator[SftpServer]:
    with rclone_sftp() as server:
        yield server


def test_a_repository_on_an_sftp_server(sftp: SftpServer, cluster: Cluster, servers: Servers, tmp_path: Path) -> None:
    site = Site(folder=tmp_path, cluster=cluster)
    url = f"sftp://{sftp.user}@127.0.0.1:{sftp.port}/backups/main"
    options = [f"private_key={sftp.private_key}", f"known_hosts={sftp.known_hosts}"]
    given = [word for option in options for word in ("--option", option)]
    site.well("init", "--connection", cluster.dsn(), "--repository-url", url, "--no-recovery-key", *given)
    site.well("backup")
    checked = json.loads(site("check", "--json").stdout)
    found = {finding["name"]: finding for finding in checked["findings"] if finding["about"].startswith("repository")}
    assert found["store"]["status"] == "ok"
    assert found["syncs"]["status"] == "warning"  # that server cannot
    assert list((sftp.folder / "backups/main/probes").iterdir()) == []
    target = servers.new_folder("sftp") / "data"
    site.well("restore", "--to", target)
    assert (target / "global/pg_control").exists()
    (tmp_path / "unknown").write_text("")
    ended = run("list", "--from", url, *given[:2], "--option", f"known_hosts={tmp_path / 'unknown'}",
                "--passphrase-file", site.passphrase)  # fmt: skip
    assert ended.returncode == 6
    assert "ssh-keyscan" in ended.stderr


CONFIGURATION = """
passphrase = { env = "PASSPHRASE" }
[repository.amazon]
url = "s3://backups/of/main"
[repository.aliyun]
url = "oss://backups/of/main"
endpoint = "https://oss-cn-shanghai.aliyuncs.com"
[repository.disk]
url = "file:///nonexistent"
"""


def test_policies_are_printed_and_nothing_is_spoken_to(tmp_path: Path) -> None:
    path = tmp_path / "holdfast.toml"
    path.write_text(CONFIGURATION)
    path.chmod(0o600)
    ended = run("--config", path, "--json", "check", "--policy")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)["repositories"]
    assert {name: set(by_role) for name, by_role in found.items()} == {
        name: {"writer", "operator"} for name in ("amazon", "aliyun")
    }
    assert "arn:aws:s3:::backups/of/main/leases/*" in json.dumps(found["amazon"]["writer"])
    shown = run("--config", path, "check", "--policy").stdout
    assert "repository amazon: for the key on the machine that is backed up" in shown
    assert "repository disk: its store has no policies" in shown
    start = shown.index("{")
    document, _end = json.JSONDecoder().raw_decode(shown[start:])
    assert document == found["amazon"]["writer"]
