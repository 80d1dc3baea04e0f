from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Damaged, HoldfastError, UsageError
from holdfast.postgres.control import CONTROL_FILE, ClusterState, parse_control_file
from holdfast.postgres.crc32c import crc32c
from holdfast.postgres.datadir import (
    BackupLabel,
    TablespaceLink,
    parse_backup_label,
    parse_major_version,
    parse_tablespace_map,
    read_control_file,
    read_major_version,
    render_backup_label,
    render_tablespace_map,
)
from holdfast.postgres.lsn import Lsn
from tests.servers import Cluster, Servers, every_version, run


@pytest.fixture(scope="module")
def stopped(servers: Servers) -> dict[tuple[int, bool], Cluster]:
    return {}


def _stopped(made: dict[tuple[int, bool], Cluster], servers: Servers, major: int, *, checksums: bool) -> Cluster:
    key = (major, checksums)
    if key not in made:
        made[key] = servers.make_cluster(major, checksums=checksums, started=False, conf="max_connections = 57")
    return made[key]


@every_version
@pytest.mark.parametrize("checksums", [True, False])
def test_pg_control_says_what_pg_controldata_says(
    servers: Servers, stopped: dict[tuple[int, bool], Cluster], major: int, checksums: bool
) -> None:
    cluster = _stopped(stopped, servers, major, checksums=checksums)
    cluster.start()  # so that the settings reach the file
    cluster.stop()
    control = read_control_file(cluster.data_dir)
    says = cluster.control_data()
    assert control.state is ClusterState.SHUTDOWNED
    assert says["Database cluster state"] == "shut down"
    levels = {0: "minimal", 1: "replica", 2: "logical"}
    assert {
        "pg_control version number": str(control.pg_control_version),
        "Catalog version number": str(control.catalog_version),
        "Database system identifier": str(control.system_identifier),
        "Latest checkpoint's TimeLineID": str(control.timeline),
        "Latest checkpoint's PrevTimeLineID": str(control.previous_timeline),
        "Latest checkpoint's full_page_writes": "on" if control.full_page_writes else "off",
        "wal_level setting": levels[control.wal_level],
        "max_connections setting": str(control.max_connections),
        "max_worker_processes setting": str(control.max_worker_processes),
        "max_wal_senders setting": str(control.max_wal_senders),
        "max_prepared_xacts setting": str(control.max_prepared_transactions),
        "max_locks_per_xact setting": str(control.max_locks_per_transaction),
        "Database block size": str(control.block_size),
        "Blocks per segment of large relation": str(control.relation_segment_blocks),
        "WAL block size": str(control.wal_block_size),
        "Bytes per WAL segment": str(control.wal_segment_size),
        "Data page checksum version": str(control.data_checksum_version),
        "End-of-backup record required": "yes" if control.backup_end_required else "no",
        "Min recovery ending loc's timeline": str(control.minimum_recovery_timeline),
    }.items() <= says.items()
    assert control.max_connections == 57
    assert control.data_checksums is checksums
    assert control.checkpoint == Lsn.parse(says["Latest checkpoint location"])
    assert control.redo == Lsn.parse(says["Latest checkpoint's REDO location"])
    assert control.minimum_recovery_point == Lsn.parse(says["Minimum recovery ending location"])
    assert read_major_version(cluster.data_dir) == major


@every_version
def test_checksums_switched_later_are_seen(
    servers: Servers, stopped: dict[tuple[int, bool], Cluster], major: int
) -> None:
    cluster = _stopped(stopped, servers, major, checksums=True)
    run([cluster.bin / "pg_checksums", "--disable", "-N", "-D", cluster.data_dir])
    assert not read_control_file(cluster.data_dir).data_checksums
    run([cluster.bin / "pg_checksums", "--enable", "-N", "-D", cluster.data_dir])
    assert read_control_file(cluster.data_dir).data_checksums


@every_version
def test_one_wrong_bit_anywhere_is_noticed(
    servers: Servers, stopped: dict[tuple[int, bool], Cluster], major: int
) -> None:
    data = bytearray((_stopped(stopped, servers, major, checksums=True).data_dir / CONTROL_FILE).read_bytes())
    # Up to the checksum's end, that is the last byte that is not padding.
    for position in range(len(bytes(data).rstrip(b"\0"))):
        data[position] ^= 0x10
        with pytest.raises(HoldfastError):
            parse_control_file(bytes(data))
        data[position] ^= 0x10
    parse_control_file(bytes(data))


def _control(order: str) -> bytes:
    """A pg_control of version 1300, field by field at its documented offset."""
    data = bytearray(8192)
    for offset, code, value in (
        (0, "Q", 7711008997823860749),
        (8, "I", 1300),
        (12, "I", 202209061),
        (16, "I", 6),
        (32, "Q", 0x17414F8),
        (48, "I", 3),
        (172, "i", 1),
        (180, "i", 100),
        (204, "I", 8),
        (208, "d", 1234567.0),
        (216, "I", 8192),
        (220, "I", 131072),
        (224, "I", 8192),
        (228, "I", 64 << 20),
        (252, "I", 1),
    ):
        struct.pack_into(order + code, data, offset, value)
    struct.pack_into(order + "I", data, 288, crc32c(data[:288]))
    return bytes(data)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_other_segment_sizes_are_read(order: str) -> None:
    control = parse_control_file(_control(order))
    assert control.state is ClusterState.IN_PRODUCTION
    assert control.system_identifier == 7711008997823860749
    assert (control.timeline, control.wal_segment_size) == (3, 64 << 20)


def test_an_unknown_version_names_itself() -> None:
    data = bytearray(_control("<"))
    struct.pack_into("<I", data, 8, 1201)
    with pytest.raises(HoldfastError, match="1201") as caught:
        parse_control_file(bytes(data))
    assert caught.value.hint
    with pytest.raises(Damaged, match="only 100 bytes"):
        parse_control_file(bytes(100))


class _TornOnce:
    """A clock whose first sleep lets the writer finish."""

    def __init__(self, path: Path, whole: bytes) -> None:
        self.path, self.whole, self.slept = path, whole, 0

    def sleep(self, _seconds: float) -> None:
        self.slept += 1
        self.path.write_bytes(self.whole)


def test_a_torn_control_file_is_read_again(tmp_path: Path) -> None:
    whole = _control("<")
    (tmp_path / "global").mkdir()
    path = tmp_path / CONTROL_FILE
    path.write_bytes(whole[:100] + b"\xff" + whole[101:])
    clock = _TornOnce(path, whole)
    assert read_control_file(tmp_path, clock=clock).timeline == 3  # type: ignore[arg-type]  # only sleeps
    assert clock.slept == 1


def test_what_is_no_data_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(HoldfastError, match="not a PostgreSQL data directory") as caught:
        read_major_version(tmp_path)
    assert "data_directory" in caught.value.hint
    with pytest.raises(Damaged):
        parse_major_version("fifteen\n")


words = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]))
labels = st.builds(
    BackupLabel,
    start_lsn=st.integers(0, 2**64 - 1).map(Lsn),
    start_segment=st.just("000000010000000000000002"),
    checkpoint_lsn=st.integers(0, 2**64 - 1).map(Lsn),
    from_standby=st.booleans(),
    start_time=words,
    label=words,
    timeline=st.integers(1, 2**32 - 1),
)


@given(labels)
def test_a_backup_label_survives(label: BackupLabel) -> None:
    assert parse_backup_label(render_backup_label(label)) == label


LABEL = b"""\
START WAL LOCATION: 0/2000028 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/2000060
BACKUP METHOD: streamed
BACKUP FROM: standby
START TIME: 2026-11-22 14:53:08 UTC
LABEL: it's: a label
START TIMELINE: 1
"""


def test_a_backup_label_is_read_as_the_server_writes_it() -> None:
    label = parse_backup_label(LABEL)
    assert (str(label.start_lsn), label.from_standby, label.label) == ("0/2000028", True, "it's: a label")
    assert render_backup_label(label) == LABEL


@pytest.mark.parametrize("line", LABEL.decode().splitlines())
def test_a_backup_label_without_a_line_is_damaged(line: str) -> None:
    with pytest.raises(Damaged, match="backup_label"):
        parse_backup_label(LABEL.replace(line.encode() + b"\n", b""))


def test_an_incremental_backups_label_is_refused() -> None:
    with pytest.raises(Damaged):
        parse_backup_label(LABEL + b"INCREMENTAL FROM LSN: 0/1000000\n")


locations = (
    st.binary(min_size=1)
    .filter(lambda path: b"\0" not in path)
    .map(lambda path: path.decode("utf-8", "surrogateescape"))
)


@given(st.lists(st.builds(TablespaceLink, oid=st.integers(1, 2**32 - 1), location=locations)))
def test_a_tablespace_map_survives(links: list[TablespaceLink]) -> None:
    assert parse_tablespace_map(render_tablespace_map(links)) == tuple(links)


def test_a_tablespace_map_escapes_what_the_server_escapes() -> None:
    link = TablespaceLink(oid=16384, location="/a b/新\n\\\r")
    assert render_tablespace_map([link]) == "16384 /a b/新\\\n\\\\\\\r\n".encode()


@pytest.mark.parametrize("data", [b"16384 /a", b"/a\n", b"x /a\n", b"16384 \n", b"16384 /a\\\n"])
def test_a_tablespace_map_that_is_none_is_damaged(data: bytes) -> None:
    with pytest.raises(Damaged):
        parse_tablespace_map(data)


def test_a_location_is_wanted() -> None:
    with pytest.raises(UsageError):
        render_tablespace_map([TablespaceLink(oid=1, location="")])
