"""Settings read from files as the server reads them, and what a copy must have besides."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.postgres.configured import configured, settings_to_recover_and_run
from holdfast.postgres.facts import RecoveryLimits
from tests.servers import Servers, run

LIMITS = RecoveryLimits(
    max_connections=100, max_worker_processes=8, max_wal_senders=10, max_prepared_transactions=0,
    max_locks_per_transaction=64,
)  # fmt: skip

CONF = """\
# max_connections = 1
Max_Connections 50
work_mem='4 MB'   # a comment
cluster_name = 'it''s, a "b"\\\\'
include 'more.conf'
include_if_exists 'not there.conf'
include_dir 'conf.d'
max_wal_senders=7
listen_addresses = '*'
"""


def lay_out(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "postgresql.conf").write_text(CONF)
    (folder / "more.conf").write_text("max_connections = 60\r\nmax_wal_senders = 3\n")
    (folder / "conf.d").mkdir()
    (folder / "conf.d" / "02.conf").write_text("work_mem = '6MB'")
    (folder / "conf.d" / "01.conf").write_text("work_mem = '5MB'\nmax_worker_processes = 0x10\n")
    (folder / "conf.d" / ".hidden.conf").write_text("work_mem = '9MB'\n")
    return folder


def test_the_last_one_given_wins(tmp_path: Path) -> None:
    found = configured(lay_out(tmp_path), b"max_connections = '70'\nnonsense\n")
    assert found["max_connections"] == "70"
    assert found["max_wal_senders"] == "7"
    assert found["work_mem"] == "6MB"
    assert found["cluster_name"] == 'it\'s, a "b"\\'
    assert found["max_worker_processes"] == "0x10"


def test_the_server_reads_the_same(servers: Servers) -> None:
    cluster = servers.make_cluster(15, started=False)
    lay_out(cluster.data_dir)
    found = configured(cluster.data_dir, (cluster.data_dir / "postgresql.auto.conf").read_bytes())
    for name in ("max_connections", "max_wal_senders", "work_mem", "cluster_name", "max_worker_processes"):
        said = run([cluster.bin / "postgres", "-D", cluster.data_dir, "-C", name]).stdout.splitlines()[-1]
        assert said == {"0x10": "16", "6MB": "6144"}.get(found[name], found[name]), name
    servers.remove(cluster)


def test_what_lay_outside_the_data_directory_is_in_force(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").write_text("max_connections = 9\n")
    lay_out(tmp_path / "holdfast-etc")
    assert configured(tmp_path, b"")["max_connections"] == "60"


def test_a_configuration_that_includes_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").write_text("include 'postgresql.conf'\nport = 7\n")
    assert configured(tmp_path, b"")["port"] == "7"
    assert configured(tmp_path / "not there", b"") == {}


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ({}, {}),
        ({"max_connections": "100"}, {}),
        ({"max_connections": "500"}, {}),
        ({"max_connections": "99"}, {"max_connections": "100"}),
        ({"max_connections": "what"}, {"max_connections": "100"}),
        ({"synchronous_standby_names": "s1"}, {"synchronous_standby_names": ""}),
        ({"synchronous_standby_names": ""}, {}),
    ],
)
def test_only_what_is_lower_is_raised(there: dict[str, str], wanted: dict[str, str]) -> None:
    assert settings_to_recover_and_run(there, LIMITS) == wanted
