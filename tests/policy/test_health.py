from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from holdfast.policy.facts import Problem, RepositoryNow, Severity, SourceFacts, rpo_thresholds
from holdfast.policy.health import Health, assess
from holdfast.policy.protection import ReceiverNow
from holdfast.policy.windows import Gap, GapKind, KnownSnapshot, Reach, Window
from holdfast.policy.wording import length, moment, size
from holdfast.postgres.connection import Server
from holdfast.postgres.facts import BackupFacts, RecoveryLimits
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.slot_watch import Observed, Slot
from holdfast.repository.snapshots import Snapshot, Totals
from holdfast.repository.trees import Content

NOW = datetime(2026, 11, 22, 14, 3, 22, tzinfo=UTC)
SYSTEM = 7_300_000_000_000_000_001
SECOND = timedelta(seconds=1)
LIMITS = RecoveryLimits(
    max_connections=100,
    max_worker_processes=8,
    max_wal_senders=10,
    max_prepared_transactions=0,
    max_locks_per_transaction=64,
)


def known(ended: datetime, *, stop: int = 0x3000100, repository: str = "local", system: int = SYSTEM) -> KnownSnapshot:
    facts = BackupFacts(
        label="tracker",
        system_identifier=system,
        server_version_num=150000,
        server_version="15",
        platform="",
        pg_control_version=1300,
        catalog_version=1,
        timeline=1,
        start_lsn=Lsn(stop - 0x100),
        stop_lsn=Lsn(stop),
        stop_timeline=1,
        started_at=ended - SECOND,
        ended_at=ended,
        from_standby=False,
        wal_segment_size=1 << 24,
        block_size=8192,
        data_checksums=True,
        total_bytes=1,
        tablespaces=(),
        databases=(),
        limits=LIMITS,
        shared_preload_libraries=None,
        superuser="postgres",
        libc_version=None,
        icu_version=None,
        configuration=(),
        bad_pages=(),
        warnings=(),
    )
    snapshot = Snapshot(
        id="a" * 64,
        label="tracker",
        source="tracker",
        source_type="postgres",
        started=ended - SECOND,
        ended=ended,
        host="h",
        holdfast_version="1",
        tree=Content(0, 0, ()),
        totals=Totals(files=0, content=0, chunks=0, added_content=0, added_stored=0),
        predecessors=(),
        warnings=(),
        facts={},
        keys={},
    )
    return KnownSnapshot(repository=repository, snapshot=snapshot, facts=facts)


SNAPSHOT = known(NOW - timedelta(days=2))
WINDOW = Window(
    system_identifier=SYSTEM,
    timeline=1,
    start=SNAPSHOT.facts.stop_lsn,
    stop=Lsn(0x5000000),
    since=SNAPSHOT.facts.ended_at,
    until=NOW - SECOND,
    snapshots=("a" * 64,),
)
GAP = Gap(
    kind=GapKind.MISSING,
    system_identifier=SYSTEM,
    timeline=1,
    start=Lsn(0x5000000),
    stop=Lsn(0x6000000),
    since=NOW - timedelta(hours=1),
    until=None,
)
SLOT = Slot(
    is_physical=True,
    restart_lsn=Lsn(0x5000000),
    active_pid=77,
    wal_status="reserved",
    safe_wal_size=None,
    retained=0x60,
)
SERVER = Observed(
    server=Server(host="127.0.0.1", port="5432", user="holdfast"),
    system_identifier=SYSTEM,
    timeline=1,
    data_directory="/var/lib/postgresql/15/main",
    in_recovery=False,
    clock=NOW,
    end=Lsn(0x5000060),
    slot=SLOT,
    sync_state="async",
    synchronous_standby_names="",
    max_slot_wal_keep_size=None,
)
RECEIVER = ReceiverNow(
    pid=7,
    phase="streaming",
    system_identifier=SYSTEM,
    timeline=1,
    confirmed=Lsn(0x5000000),
    safe_until=NOW - SECOND,
    sync_state="async",
    retained=0x60,
)
WELL = SourceFacts(
    source="tracker",
    via="stream",
    every=SECOND,
    retain=16 * 10**9,
    synchronous=False,
    now=NOW,
    reach=Reach(windows=(WINDOW,), gaps=()),
    snapshots=(SNAPSHOT,),
    repositories=(RepositoryNow(name="local", takes_wal=True, newest=SNAPSHOT),),
    server=SERVER,
    receiver=RECEIVER,
)


def only(facts: SourceFacts) -> Problem:
    (problem,) = assess(facts).problems
    assert problem.text
    assert problem.remedy
    assert not problem.text.endswith(".")
    return problem


def names(health: Health) -> list[tuple[str, str]]:
    return [(problem.severity.value, problem.name) for problem in health.problems]


def without_receiver(facts: SourceFacts) -> SourceFacts:
    return replace(facts, receiver=None, server=replace(SERVER, slot=replace(SLOT, active_pid=None)))


def test_all_is_well() -> None:
    health = assess(WELL)
    assert health.problems == ()
    assert health.severity is Severity.OK
    assert health.protection.until == NOW - SECOND
    assert health.protection.since == WINDOW.since
    assert (health.protection.rpo, health.protection.rpo_bytes) == (SECOND, 0x60)


def test_the_receiver_knows_more_than_what_was_read() -> None:
    later = replace(RECEIVER, confirmed=Lsn(0x5000040), safe_until=NOW - SECOND / 2)
    found = assess(replace(WELL, receiver=later)).protection
    assert (found.until, found.lsn, found.rpo_bytes) == (NOW - SECOND / 2, Lsn(0x5000040), 0x20)
    earlier = replace(RECEIVER, confirmed=Lsn(0x4000000), safe_until=NOW - 20 * SECOND)
    found = assess(replace(WELL, receiver=earlier)).protection
    assert (found.until, found.lsn) == (WINDOW.until, WINDOW.stop)


def test_a_receiver_beyond_a_gap_makes_nothing_safe() -> None:
    facts = replace(
        WELL,
        reach=Reach(windows=(replace(WINDOW, until=NOW - timedelta(hours=1)),), gaps=(GAP,)),
        receiver=replace(RECEIVER, confirmed=Lsn(0x7000000)),
    )
    health = assess(facts)
    assert health.protection.until == NOW - timedelta(hours=1)
    assert health.protection.lsn == Lsn(0x5000000)
    assert names(health) == [("critical", "gap"), ("critical", "rpo")]
    assert health.problems[0].remedy == "holdfast backup tracker --repository local"
    assert "13:03:22" in health.problems[0].text


AHEAD = replace(RECEIVER, confirmed=Lsn(0x7000000), safe_until=NOW)


@pytest.mark.parametrize(
    "receiver",
    [
        replace(AHEAD, system_identifier=SYSTEM + 1),
        replace(AHEAD, timeline=None),
        replace(AHEAD, confirmed=None),
    ],
)
def test_a_receiver_of_something_else_makes_nothing_safe(receiver: ReceiverNow) -> None:
    found = assess(replace(WELL, receiver=receiver)).protection
    assert (found.until, found.lsn) == (WINDOW.until, WINDOW.stop)


def test_an_idle_database_is_protected_to_now() -> None:
    old = replace(WINDOW, until=NOW - timedelta(hours=3))
    idle = replace(WELL, reach=Reach(windows=(old,), gaps=()), server=replace(SERVER, end=WINDOW.stop))
    receiver = replace(RECEIVER, safe_until=NOW - timedelta(hours=3))
    health = assess(replace(idle, receiver=receiver))
    assert health.problems == ()
    assert (health.protection.until, health.protection.rpo, health.protection.rpo_bytes) == (NOW, timedelta(), 0)


def test_a_cluster_made_anew_is_not_an_idle_one() -> None:
    new = replace(SERVER, system_identifier=SYSTEM + 1, end=Lsn(0x1500000))
    health = assess(replace(without_receiver(WELL), server=new))
    assert health.protection.until == WINDOW.until
    assert health.protection.rpo_bytes is None
    (problem,) = (problem for problem in health.problems if problem.name == "another_server")
    assert problem.severity is Severity.CRITICAL
    assert str(SYSTEM) in problem.text
    assert f"--adopt {SYSTEM + 1}" in problem.remedy
    # One that does not say who it is may be such a one.
    silent = replace(without_receiver(WELL), server=replace(new, system_identifier=None))
    assert assess(silent).protection.until == WINDOW.until


def test_no_snapshot() -> None:
    facts = replace(
        WELL,
        reach=Reach(windows=(), gaps=()),
        snapshots=(),
        repositories=(RepositoryNow(name="local", takes_wal=True),),
    )
    problem = only(facts)
    assert (problem.name, problem.severity, problem.remedy) == (
        "no_snapshot",
        Severity.CRITICAL,
        "holdfast backup tracker",
    )
    assert assess(facts).protection.until is None
    assert assess(facts).protection.rpo is None


def test_no_repository_can_be_read() -> None:
    facts = replace(
        WELL,
        reach=Reach(windows=(), gaps=()),
        snapshots=(),
        repositories=(RepositoryNow(name="local", takes_wal=True, error="no"),),
    )
    assert names(assess(facts)) == [("critical", "unknown"), ("warning", "repository")]


def test_one_of_two_repositories_cannot_be_read() -> None:
    facts = replace(WELL, repositories=(*WELL.repositories, RepositoryNow(name="remote", takes_wal=False, error="503")))
    problem = only(facts)
    assert (problem.name, problem.severity) == ("repository", Severity.WARNING)
    assert "remote" in problem.text
    assert "503" in problem.text


def test_a_repository_with_wal_and_without_a_snapshot() -> None:
    facts = replace(WELL, repositories=(*WELL.repositories, RepositoryNow(name="remote", takes_wal=True)))
    problem = only(facts)
    assert problem.name == "wal_alone"
    assert problem.remedy == "holdfast backup tracker --repository remote"
    elsewhere = replace(WELL, repositories=(*WELL.repositories, RepositoryNow(name="remote", takes_wal=False)))
    assert assess(elsewhere).problems == ()


def test_what_a_repository_holds_and_cannot_read() -> None:
    doubted = replace(WELL.repositories[0], doubts=("tails/x is damaged",))
    problem = only(replace(WELL, repositories=(doubted,)))
    assert (problem.name, problem.severity, problem.remedy) == ("doubt", Severity.WARNING, "holdfast verify")


def test_closed_and_old_gaps_are_no_problem() -> None:
    closed = replace(GAP, until=NOW - timedelta(minutes=30))
    before = replace(GAP, start=Lsn(0x2000000), stop=Lsn(0x3000000))
    other_server = replace(GAP, system_identifier=SYSTEM - 1, since=NOW - timedelta(days=9))
    for gap in (closed, before, other_server):
        assert assess(replace(WELL, reach=Reach(windows=(WINDOW,), gaps=(gap,)))).problems == ()


@pytest.mark.parametrize(
    ("kind", "said", "remedy"),
    [
        (GapKind.MISSING, "0/5000000", "holdfast backup"),
        (GapKind.CONFLICT, "wal/one", "holdfast verify"),
        (GapKind.HISTORY, "history file of timeline 1", "holdfast backup"),
    ],
)
def test_open_gaps(kind: GapKind, said: str, remedy: str) -> None:
    gap = replace(GAP, kind=kind, objects=("wal/one", "wal/two") if kind is GapKind.CONFLICT else ())
    problem = only(replace(WELL, reach=Reach(windows=(WINDOW,), gaps=(gap,))))
    assert (problem.name, problem.severity) == ("gap", Severity.CRITICAL)
    assert said in problem.text
    assert problem.remedy.startswith(remedy)


def test_a_gap_that_is_being_closed_says_so() -> None:
    facts = replace(WELL, reach=Reach(windows=(WINDOW,), gaps=(GAP,)), receiver=replace(RECEIVER, snapshot="running"))
    assert only(facts).remedy == "A snapshot that closes the gap is being taken."


def test_a_snapshot_that_fails_to_close_it() -> None:
    problem = only(replace(WELL, receiver=replace(RECEIVER, snapshot="failed: no room")))
    assert (problem.name, problem.remedy) == ("snapshot_failed", "holdfast backup tracker")
    assert "no room" in problem.text


def test_no_receiver() -> None:
    problem = only(without_receiver(WELL))
    assert (problem.name, problem.severity, problem.remedy) == (
        "receiver",
        Severity.CRITICAL,
        "holdfast wal receive tracker",
    )
    no_slot = replace(WELL, receiver=None, server=replace(SERVER, slot=None))
    assert only(no_slot).name == "receiver"


def test_a_receiver_elsewhere_is_seen_by_the_slot() -> None:
    assert assess(replace(WELL, receiver=None)).problems == ()


def test_whether_a_receiver_runs_elsewhere_only_the_server_knows() -> None:
    facts = replace(WELL, receiver=None, server=None, server_error="cannot connect", server_hint="See pg_isready.")
    health = assess(facts)
    assert names(health) == [("warning", "receiver_unknown"), ("warning", "server")]
    assert health.protection.is_at_most
    assert health.protection.rpo == SECOND
    # However long ago that was: a server that is down writes nothing.
    long_ago = replace(WINDOW, until=NOW - timedelta(hours=5))
    assert names(assess(replace(facts, reach=Reach(windows=(long_ago,), gaps=())))) == names(health)
    # Nobody asked: nothing is known, and nothing said.
    assert assess(replace(facts, server_error="")).problems == ()


def test_a_receiver_that_does_not_answer() -> None:
    problem = only(replace(WELL, receiver=None, receiver_error="the receiver at x does not answer"))
    assert (problem.name, problem.severity) == ("receiver_silent", Severity.WARNING)


def test_a_repository_that_takes_no_wal() -> None:
    facts = replace(WELL, receiver=replace(RECEIVER, errors=(("remote", "no route", NOW - timedelta(minutes=4)),)))
    problem = only(facts)
    assert (problem.name, problem.severity) == ("repository_behind", Severity.WARNING)
    assert "13:59:22" in problem.text


def test_what_the_receiver_warns_of_is_told_once() -> None:
    facts = replace(WELL, receiver=replace(RECEIVER, warnings=("something",)))
    assert only(facts).name == "receiver_warns"
    both = replace(facts, receiver=replace(RECEIVER, warnings=("remote fails",), errors=(("remote", "no", None),)))
    assert only(both).name == "repository_behind"


@pytest.mark.parametrize(
    ("retained", "status", "wanted"),
    [
        (7_900_000_000, "extended", None),
        (8_000_000_000, "extended", ("warning", "slot")),
        (12_700_000_000, "extended", ("warning", "slot")),
        (12_800_000_000, "extended", ("critical", "slot")),
        (10, "unreserved", ("critical", "slot")),
        (None, "lost", ("critical", "slot_lost")),
    ],
)
def test_what_the_slot_holds_back(retained: int | None, status: str, wanted: tuple[str, str] | None) -> None:
    facts = replace(WELL, server=replace(SERVER, slot=replace(SLOT, retained=retained, wal_status=status)))
    assert names(assess(facts)) == ([wanted] if wanted else [])
    for problem in assess(facts).problems:
        assert "holdfast_tracker" in problem.text


def test_a_slot_that_nobody_uses() -> None:
    facts = replace(without_receiver(WELL), via="off", every=SECOND)
    problem = only(facts)
    assert (problem.name, problem.severity) == ("slot_unused", Severity.WARNING)
    assert problem.remedy == "SELECT pg_drop_replication_slot('holdfast_tracker');"


@pytest.mark.parametrize(
    ("here", "there", "wanted"),
    [
        ("sync", "async", None),
        ("quorum", None, None),
        ("async", "async", ("critical", "synchronous")),
        ("potential", "potential", ("critical", "synchronous")),
        (None, None, ("warning", "synchronous_unknown")),
    ],
)
def test_commits_that_are_meant_to_wait(here: str | None, there: str | None, wanted: tuple[str, str] | None) -> None:
    facts = replace(
        WELL,
        synchronous=True,
        receiver=replace(RECEIVER, sync_state=here),
        server=replace(SERVER, sync_state=there, synchronous_standby_names="holdfast"),
    )
    assert names(assess(facts)) == ([wanted] if wanted else [])
    assert assess(replace(facts, synchronous=False)).problems == ()


def test_commits_that_wait_for_a_receiver_that_does_not_run() -> None:
    facts = without_receiver(replace(WELL, synchronous=True))
    assert facts.server is not None
    facts = replace(facts, server=replace(facts.server, synchronous_standby_names="holdfast", sync_state=None))
    health = assess(facts)
    assert names(health) == [("critical", "receiver"), ("critical", "synchronous")]
    assert "waiting" in health.problems[1].text


@pytest.mark.parametrize(
    ("behind", "every", "wanted"),
    [
        (29, 1, None),
        (31, 1, "warning"),
        (299, 1, "warning"),
        (301, 1, "critical"),
        (99, 10, None),
        (101, 10, "warning"),
        (301, 10, "critical"),
        (590, 60, None),
        (1199, 60, "warning"),
        (1201, 60, "critical"),
    ],
)
def test_how_much_would_be_lost(behind: int, every: int, wanted: str | None) -> None:
    until = NOW - timedelta(seconds=behind)
    facts = replace(
        WELL,
        every=timedelta(seconds=every),
        reach=Reach(windows=(replace(WINDOW, until=until),), gaps=()),
        receiver=replace(RECEIVER, safe_until=until),
    )
    assert names(assess(facts)) == ([(wanted, "rpo")] if wanted else [])
    for problem in assess(facts).problems:
        assert "96 B" in problem.text


def test_archived_segments_may_be_older() -> None:
    assert rpo_thresholds("archive", SECOND) == (timedelta(minutes=10), timedelta(hours=1))
    until = NOW - timedelta(minutes=9)
    facts = replace(
        without_receiver(WELL), via="archive", reach=Reach(windows=(replace(WINDOW, until=until),), gaps=())
    )
    facts = replace(facts, server=replace(SERVER, slot=None))
    assert assess(facts).problems == ()
    late = replace(facts, reach=Reach(windows=(replace(WINDOW, until=NOW - timedelta(minutes=11)),), gaps=()))
    assert names(assess(late)) == [("warning", "rpo")]


def test_without_wal_a_source_is_protected_to_its_newest_snapshot() -> None:
    facts = replace(WELL, via="off", reach=Reach(windows=(), gaps=()), receiver=None, server=replace(SERVER, slot=None))
    health = assess(facts)
    assert health.problems == ()
    assert health.protection.until == SNAPSHOT.facts.ended_at
    assert health.protection.since is None
    assert health.protection.snapshot == SNAPSHOT
    assert health.protection.rpo == timedelta(days=2)


def test_a_snapshot_newer_than_the_window_is_the_newest_moment() -> None:
    newer = known(NOW - timedelta(minutes=1), stop=0x6000100)
    old = replace(WINDOW, until=NOW - timedelta(hours=1))
    facts = replace(WELL, reach=Reach(windows=(old,), gaps=(GAP,)), snapshots=(SNAPSHOT, newer))
    facts = replace(facts, server=replace(SERVER, end=Lsn(0x7000000)))
    found = assess(facts).protection
    assert (found.until, found.since, found.snapshot) == (newer.facts.ended_at, None, newer)


def test_old_snapshots() -> None:
    old = known(NOW - timedelta(days=8))
    facts = replace(WELL, snapshots=(old,), repositories=(RepositoryNow(name="local", takes_wal=True, newest=old),))
    problem = only(facts)
    assert (problem.name, problem.severity, problem.remedy) == (
        "old_snapshot",
        Severity.WARNING,
        "holdfast backup tracker",
    )
    assert "8 days" in problem.text


def test_wal_on_the_servers_own_disk() -> None:
    problem = only(replace(WELL, on_server_disk=True))
    assert (problem.name, problem.severity) == ("same_disk", Severity.WARNING)
    assert 'wal = { from = "stream", to = ["REPOSITORY"] }' in problem.remedy
    assert assess(replace(without_receiver(WELL), via="off", server=None, on_server_disk=True)).problems == ()


def test_clocks_that_differ() -> None:
    facts = replace(WELL, now=NOW + timedelta(minutes=3))
    assert only(facts).name == "clock"


def test_the_worst_comes_first() -> None:
    facts = replace(without_receiver(WELL), on_server_disk=True, snapshots=(known(NOW - timedelta(days=8)),))
    assert names(assess(facts)) == [("critical", "receiver"), ("warning", "old_snapshot"), ("warning", "same_disk")]
    assert assess(facts).severity is Severity.CRITICAL


def test_wording() -> None:
    assert [size(number) for number in (0, 99_999, 100_000, 999_999_999, 9_100_000_000)] == [
        "0 B",
        "99999 B",
        "0.1 MB",
        "1000.0 MB",
        "9.1 GB",
    ]
    lengths = (
        timedelta(seconds=-3),
        0.84 * SECOND,
        9 * SECOND,
        119 * SECOND,
        7199 * SECOND,
        timedelta(hours=47, minutes=59),
    )
    assert [length(time) for time in lengths] == ["0 s", "0.8 s", "9 s", "119 s", "119 min", "47 h"]
    assert length(timedelta(days=8, hours=5)) == "8 days"
    east = NOW.astimezone(timezone(timedelta(hours=8)))
    assert moment(NOW, east) == "22:03:22"
    assert moment(NOW - timedelta(days=1), east) == "2026-11-21 22:03:22"
