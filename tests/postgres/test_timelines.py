from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.timelines import Branch, History, parse_history
from tests.servers import Servers, every_version, run, wait_until

_FILE = b"""\
1\t0/3000060\tno recovery target specified

# a comment
   # and another
  3 \t 1/AB000000  before 2026-11-22 14:03:22.000001+08
4\t1/AB000000
"""


def test_a_history_is_read() -> None:
    history = parse_history(7, _FILE)
    assert history.ancestors == (
        Branch(timeline=1, switch=Lsn.parse("0/3000060"), reason="no recovery target specified"),
        Branch(timeline=3, switch=Lsn.parse("1/AB000000"), reason="before 2026-11-22 14:03:22.000001+08"),
        Branch(timeline=4, switch=Lsn.parse("1/AB000000")),
    )
    assert history.timelines == (1, 3, 4, 7)
    assert [history.holds(timeline) for timeline in (1, 2, 3, 4, 7, 8)] == [True, False, True, True, True, False]
    assert [history.switch_from(timeline) for timeline in (1, 2, 3, 7, 9)] == [
        *(Lsn.parse("0/3000060"), None, Lsn.parse("1/AB000000"), None, None),
    ]
    assert [history.begin_of(timeline) for timeline in (1, 2, 3, 4, 7)] == [
        *(Lsn(0), None, Lsn.parse("0/3000060"), Lsn.parse("1/AB000000"), Lsn.parse("1/AB000000")),
    ]
    assert [history.next_after(timeline) for timeline in (1, 2, 3, 4, 7)] == [3, None, 4, 7, None]
    assert [history.timeline_at(lsn) for lsn in (0, 0x300005F, 0x3000060, 0x1AAFFFFFF, 0x1AB000000)] == [1, 1, 3, 3, 7]


def test_the_first_timeline_has_no_ancestors() -> None:
    assert parse_history(1, b"") == History(timeline=1)
    assert (History(timeline=1).timeline_at(5), History(timeline=1).switch_from(1)) == (1, None)


def test_a_timeline_left_before_it_began_has_no_bytes() -> None:
    """What a recovery along timeline 2 writes that stops while it is still on timeline 1."""
    history = parse_history(3, b"1\t0/5000000\tx\n2\t0/4000000\tx\n")
    assert [history.timeline_at(lsn) for lsn in (0x3FFFFFF, 0x4000000, 0x4800000, 0x5000000)] == [1, 3, 3, 3]
    assert (history.switch_from(1), history.switch_from(2)) == (Lsn(0x4000000), Lsn(0x4000000))


@pytest.mark.parametrize(
    "content",
    [b"x\t0/1", b"1", b"1\t0", b"1\t0/", b"1\t/1", b"2\t0/1\n1\t0/2", b"1\t0/1\n1\t0/2", b"5\t0/1", b"6\t0/1",
     b"-1\t0/1", b"99999999999\t0/1", b"4294967296\t0/1", b"1\t123456789/1", b"1\t0/123456789", b"\0\0\0\0"],
)  # fmt: skip
def test_what_postgresql_refuses_is_damage(content: bytes) -> None:
    with pytest.raises(Damaged, match=r"00000005\.history is damaged"):
        parse_history(5, content)


@given(st.binary(max_size=80))
def test_garbage_is_a_history_or_damage(content: bytes) -> None:
    try:
        history = parse_history(9, content)
    except Damaged:
        return
    assert sorted(set(history.timelines)) == list(history.timelines)


@st.composite
def _histories(draw: st.DrawFn) -> History:
    timelines = sorted(draw(st.sets(st.integers(1, 40), min_size=1, max_size=6)))
    switches = draw(st.lists(st.integers(1, 60), min_size=len(timelines) - 1, max_size=len(timelines) - 1))
    branches = [Branch(timeline=t, switch=Lsn(s)) for t, s in zip(timelines, switches, strict=False)]
    return History(timeline=timelines[-1], ancestors=tuple(branches))


@given(_histories(), st.integers(0, 70))
def test_a_position_belongs_where_postgresql_looks(history: History, lsn: int) -> None:
    """``tliOfPointInHistory``: of the newest first, the one that had begun and not ended."""
    ends = [*(branch.switch for branch in history.ancestors), Lsn(2**64 - 1)]
    begins = [Lsn(0), *ends[:-1]]
    entries = list(zip(history.timelines, begins, ends, strict=True))
    expected = next(timeline for timeline, begin, end in reversed(entries) if begin <= lsn < end)
    assert history.timeline_at(lsn) == expected
    for timeline, begin, _end in entries:
        assert history.begin_of(timeline) == begin
        left = history.switch_from(timeline)
        if left is not None and lsn >= left:
            assert history.timeline_at(lsn) != timeline


@given(_histories())
def test_written_and_read_again(history: History) -> None:
    content = "".join(f"{b.timeline}\t{b.switch}\t{b.reason}\n\n" for b in history.ancestors)
    assert parse_history(history.timeline, content.encode()) == history


@every_version
def test_a_servers_own_history_is_read(servers: Servers, major: int) -> None:
    primary = servers.make_cluster(major)
    standby = servers.standby_of(primary)
    try:
        primary.stop()
        wait_until(
            lambda: not standby.value("select count(*) from pg_stat_wal_receiver"), "the standby knows it is alone"
        )
        last = standby.value("select pg_last_wal_replay_lsn()::text")
        run([standby.bin / "pg_ctl", "promote", "-w", "-D", standby.data_dir])
        history = parse_history(2, (standby.data_dir / "pg_wal" / "00000002.history").read_bytes())
        expected = Branch(timeline=1, switch=Lsn.parse(last), reason="no recovery target specified")
        assert history.ancestors == (expected,)
    finally:
        servers.remove(standby)
        servers.remove(primary)
