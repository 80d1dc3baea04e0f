from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.postgres.lsn import (
    Lsn,
    Segment,
    history_name,
    history_timeline,
    is_segment_name,
    segments_between,
)

MIB = 1 << 20
sizes = st.sampled_from([MIB << power for power in range(11)])
timelines = st.integers(1, 2**32 - 1)
lsns = st.integers(0, 2**64 - 1).map(Lsn)


@given(lsns)
def test_an_lsn_survives_its_text(lsn: Lsn) -> None:
    assert Lsn.parse(str(lsn)) == lsn
    high, low = divmod(lsn, 2**32)
    assert Lsn.parse(f"{high:X}/{low:08X}") == lsn  # as PostgreSQL 19 writes it


def test_an_lsn_is_shown_as_postgresql_shows_it() -> None:
    assert str(Lsn(0x3000060)) == f"{Lsn(0x3000060)}" == "0/3000060"
    assert repr(Lsn.parse("16/b374d848")) == "Lsn('16/B374D848')"


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/123456789", "g/0", " 0/1", "0/1 ", "0/-1"])
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="WAL position"):
        Lsn.parse(text)


@given(timelines, lsns, sizes)
def test_a_segment_survives_its_name(timeline: int, lsn: Lsn, size: int) -> None:
    segment = Segment.holding(lsn, timeline=timeline, size=size)
    assert is_segment_name(segment.name)
    assert Segment.parse(segment.name, size) == segment
    assert segment.start <= lsn < segment.end
    assert segment.following().start == segment.end


def test_names_are_postgresqls() -> None:
    # From pg_walfile_name() of servers with 16 MiB and 1 GiB segments.
    assert Segment.holding(Lsn.parse("0/3000060"), timeline=1, size=16 * MIB).name == "000000010000000000000003"
    assert Segment.holding(Lsn.parse("1/0"), timeline=2, size=16 * MIB).name == "000000020000000100000000"
    assert Segment.holding(Lsn.parse("5/C0000000"), timeline=1, size=1024 * MIB).name == "000000010000000500000003"


def test_an_end_on_a_boundary_needs_the_segment_before() -> None:
    end = Lsn.parse("0/4000000")
    assert Segment.ending(end, timeline=1, size=16 * MIB).number == 3
    assert Segment.holding(end, timeline=1, size=16 * MIB).number == 4
    names = [segment.name[-1] for segment in segments_between(Lsn.parse("0/2000028"), end, timeline=1, size=16 * MIB)]
    assert names == ["2", "3"]


@given(lsns, sizes)
def test_between_equal_positions_lies_one_segment(lsn: Lsn, size: int) -> None:
    assert list(segments_between(lsn, lsn, timeline=1, size=size)) == [Segment.holding(lsn, timeline=1, size=size)]


@pytest.mark.parametrize(
    "name", ["", "0" * 23, "0" * 25, "00000001000000000000000g", "000000010000000000000003.partial"]
)
def test_what_is_no_segment_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Segment.parse(name, 16 * MIB)


def test_a_name_impossible_at_this_size_is_refused() -> None:
    assert Segment.parse("0000000100000000000000FF", 16 * MIB).number == 255
    with pytest.raises(UsageError, match="cannot be"):
        Segment.parse("000000010000000000000100", 16 * MIB)
    with pytest.raises(UsageError, match="segment size"):
        Segment.parse("000000010000000000000001", 16 * MIB + 1)


def test_history_files() -> None:
    assert history_timeline(history_name(0x1F)) == 0x1F
    assert history_name(2) == "00000002.history"
    assert history_timeline("000000010000000000000003") is None
