"""WAL of a real cluster put into a repository without a receiver, from what its archive_command and pg_wal hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from holdfast.jobs.recovery_inputs import RecoveryInputs, gather
from holdfast.postgres.lsn import Lsn, Segment, history_timeline, is_segment_name
from holdfast.postgres.walscan import WalScanner
from holdfast.repository.repository import Repository
from holdfast.repository.wal.held import Begin
from holdfast.repository.wal.pieces import Piece, Stream
from holdfast.repository.wal.writing import WalWriter
from tests.servers import Cluster, Servers, wait_until

SOURCE = "tracker"


def archiving(servers: Servers) -> tuple[Path, str]:
    """A folder that WAL goes to, and the configuration for it."""
    archive = servers.new_folder("a")
    return archive, f"archive_mode = on\narchive_command = 'cp %p {archive}/%f'\n"


def system_identifier(cluster: Cluster) -> int:
    return int(cluster.control_data()["Database system identifier"])


def segment_size(cluster: Cluster) -> int:
    return int(cluster.control_data()["Bytes per WAL segment"])


@dataclass(kw_only=True)
class Holding:
    """Puts what ``archive`` got since the last time, and the newest bytes of ``pg_wal``."""

    cluster: Cluster
    archive: Path
    repository: Repository
    timeline: int = 1
    _done: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.size = segment_size(self.cluster)
        self.stream = Stream(source=SOURCE, system_identifier=system_identifier(self.cluster))
        self.writer = WalWriter(self.repository, self.stream, self.size)

    def catch_up(self, *, less: frozenset[str] = frozenset()) -> Lsn:
        """Up to where the server has written; ``less``: segments that never arrive."""
        now, flushed = self.cluster.execute("select clock_timestamp(), pg_current_wal_flush_lsn()::text")[0]
        end = Lsn.parse(flushed)
        newest = Segment.holding(end, timeline=self.timeline, size=self.size)
        if newest.number:
            before = Segment(timeline=self.timeline, number=newest.number - 1, size=self.size).name
            wait_until(
                lambda: (self.archive / before).exists() or not (self.cluster.data_dir / "pg_wal" / before).exists(),
                f"{before} is archived",
            )
        for path in sorted(self.archive.iterdir()):
            if (timeline := history_timeline(path.name)) is not None:
                self.writer.put_file(path.name, path.read_bytes())
                self._begin(timeline, 0)
            elif is_segment_name(path.name) and path.name not in self._done:
                self._done.add(path.name)
                segment = Segment.parse(path.name, self.size)
                if path.name not in less:
                    self._put(segment, path.read_bytes(), None)
        there = self.cluster.data_dir / "pg_wal" / newest.name
        self._put(newest, there.read_bytes()[: end - newest.start] if end > newest.start else b"", now)
        return end

    def _begin(self, timeline: int, number: int) -> None:
        self.writer.begin(
            Begin(
                stream=self.stream, segment_size=self.size, timeline=timeline, lsn=number * self.size,
                when=self.repository.clock.now(), host="db1", why="first",
            )
        )  # fmt: skip

    def _put(self, segment: Segment, content: bytes, clock: datetime | None) -> None:
        """As pieces: whole ones of 64 MiB, and a tail for what is not whole."""
        if not any(name.startswith("begun") for name in self._done):
            self._begin(segment.timeline, segment.number)
            self._done.add("begun")
        scanner = WalScanner(timeline=segment.timeline, segment_size=self.size, start=segment.start)
        running = self.writer.running()
        step = min(self.size, 64 << 20)
        for start in range(0, max(len(content), 1), step):
            part = content[start : start + step]
            before = running.digest()
            running.feed(part)
            piece = Piece(
                stream=self.stream, timeline=segment.timeline, number=segment.number, segment_size=self.size,
                start=start, stop=start + len(part), before=before, after=running.digest(),
                clock=clock if start + step >= len(content) else None, facts=scanner.feed(part).to_json(),
            )  # fmt: skip
            self.writer.put(piece, part, tail=not piece.is_segment)


def inputs_of(*repositories: Repository, warnings: tuple[str, ...] = ()) -> RecoveryInputs:
    """Of repositories that are called ``r0``, ``r1``, …"""
    named = {f"r{number}": repository for number, repository in enumerate(repositories)}
    records = {name: repository.records() for name, repository in named.items()}
    return gather(SOURCE, named, records, warnings=warnings)
