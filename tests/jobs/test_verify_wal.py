"""Verifying WAL that a real server wrote: pages that lie elsewhere, and holes that nobody recorded."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.jobs.progress import Silent
from holdfast.jobs.verify import verify
from holdfast.repository.repository import Repository
from holdfast.repository.verify import Verification
from holdfast.repository.wal.pieces import Piece
from holdfast.repository.wal.reading import WalReader
from tests.jobs.going import back_up, new_folder_repository
from tests.jobs.holding import Holding, archiving
from tests.servers import Cluster, Servers


def verified(repository: Repository, *, quick: bool = False) -> Verification:
    return verify(repository, only=(), quick=quick, progress=Silent())


def test_pages_and_holes(servers: Servers, make_cluster: Callable[..., Cluster]) -> None:
    archive, lines = archiving(servers)
    cluster = make_cluster(15, conf=lines)
    repository = new_folder_repository(servers)
    back_up(cluster, repository)
    holding = Holding(cluster=cluster, archive=archive, repository=repository)
    cluster.execute("create table t as select n, repeat('x', 100) from generate_series(1, 100000) n")
    for number in range(4):
        cluster.execute(f"insert into t select n, 'y' from generate_series(1, {2000 + number}) n")
        cluster.execute("select pg_switch_wal()")
    cluster.execute("insert into t select n, 'y' from generate_series(1, 2000) n")
    holding.catch_up()
    cluster.stop()

    found = verified(repository)
    assert found.good, found.problems
    assert found.wal.segments >= 5
    assert found.snapshots == 1
    assert found.wal.streams[0].gaps == ()
    assert found.read > sum(listed.size for listed in repository.store.list("wal/"))

    held = WalReader(repository).held(holding.stream)
    whole = [segment for segment in held.segments if segment.stop == held.segment_size]
    removed, moved = whole[-2], whole[-1]
    repository.store.delete(removed.pieces[0].name)
    (hole,) = verified(repository).problems
    assert "no gap was recorded" in hole.what
    assert verified(repository, quick=True).problems == (hole,)

    wrong = b"".join(WalReader(repository).content(holding.stream, moved))
    running = holding.writer.running()
    before = running.digest()
    running.feed(wrong)
    piece = Piece(
        stream=holding.stream,
        timeline=removed.timeline,
        number=removed.number,
        segment_size=held.segment_size,
        start=0,
        stop=len(wrong),
        before=before,
        after=running.digest(),
        clock=None,
        facts={},
    )
    name = holding.writer.put(piece, wrong, tail=False)
    (problem,) = verified(repository).problems
    assert problem.name == name, "well sealed, and not the WAL of that place"
    assert verified(repository, quick=True).good, "contents unread"
