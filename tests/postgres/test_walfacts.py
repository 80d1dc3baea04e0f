"""The facts of WAL become JSON and come back; whatever else is read is refused; neighbours join."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Damaged
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.walfacts import Event, EventKind, WalFacts, join

moments = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@st.composite
def facts(draw: st.DrawFn, start: int | None = None) -> WalFacts:
    begin = draw(st.integers(0, 1 << 60)) if start is None else start
    length = draw(st.integers(0, 1 << 30))
    ends = st.integers(begin + 1, begin + length).map(Lsn) if length else st.nothing()
    ended = length > 0
    commits = draw(st.integers(0, 1000)) if ended else 0
    aborts = draw(st.integers(0, 1000)) if ended else 0
    times = sorted(draw(st.lists(moments, min_size=2, max_size=2)))
    xids = sorted(draw(st.lists(st.integers(3, (1 << 32) - 1), min_size=2, max_size=2)))
    some = bool(commits + aborts)
    event = st.builds(
        Event,
        kind=st.sampled_from(EventKind),
        lsn=st.integers(0, begin).map(Lsn),
        end=ends,
        time=st.none() | moments,
        detail=st.text(max_size=20),
    )
    return WalFacts(
        start=Lsn(begin),
        stop=Lsn(begin + length),
        records_end=draw(st.none() | ends) if ended else None,
        commits=commits,
        aborts=aborts,
        first_time=times[0] if some else None,
        last_time=times[1] if some else None,
        min_xid=xids[0] if some else None,
        max_xid=xids[1] if some else None,
        events=tuple(draw(st.lists(event, max_size=3))) if ended else (),
    )


@given(facts())
def test_there_and_back(known: WalFacts) -> None:
    assert WalFacts.from_json(json.loads(json.dumps(known.to_json()))) == known


def test_nothing_found_is_short() -> None:
    assert WalFacts(start=Lsn(5), stop=Lsn(7)).to_json() == {"s": 5, "e": 7}


def test_what_a_later_version_adds_is_passed_over() -> None:
    assert WalFacts.from_json({"s": 5, "e": 7, "later": [1]}) == WalFacts(start=Lsn(5), stop=Lsn(7))


@pytest.mark.parametrize(
    "change",
    [
        {"s": None},
        {"s": "5"},
        {"s": -1},
        {"s": True},
        {"e": 1 << 64},
        {"e": 2},
        {"r": 5},
        {"r": 101},
        {"c": -1},
        {"c": 1.0},
        {"c": 0},
        {"f": None},
        {"f": "now"},
        {"f": 1 << 61},
        {"f": 99},
        {"x": 8},
        {"x": 1 << 32},
        {"v": {}},
        {"v": [[]]},
        {"v": [["unknown", 5, 6, None, ""]]},
        {"v": [["shutdown", 5, 6, None, None]]},
        {"v": [["shutdown", 5, 200, None, ""]]},
        {"v": [["shutdown", 5, 6, "x", ""]]},
    ],
)
def test_nothing_else_is_read(change: dict[str, Any]) -> None:
    good = {"s": 5, "e": 100, "r": 50, "c": 1, "f": 1, "l": 2, "x": 7, "y": 7}
    assert WalFacts.from_json(good).commits == 1
    with pytest.raises(Damaged):
        WalFacts.from_json({**good, **change})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda kids: st.lists(kids) | st.dictionaries(st.sampled_from("secarflxyv"), kids),
    )
)
def test_garbage(data: Any) -> None:
    with contextlib.suppress(Damaged):
        WalFacts.from_json(data)


@given(st.data())
def test_neighbours_join(data: st.DataObject) -> None:
    parts = [data.draw(facts())]
    for _number in range(data.draw(st.integers(0, 4))):
        parts.append(data.draw(facts(start=parts[-1].stop)))
    whole = join(parts)
    assert (whole.start, whole.stop) == (parts[0].start, parts[-1].stop)
    assert whole.commits == sum(part.commits for part in parts)
    assert whole.events == tuple(event for part in parts for event in part.events)
    assert WalFacts.from_json(whole.to_json()) == whole
    for at in range(1, len(parts)):
        assert join([join(parts[:at]), join(parts[at:])]) == whole


def test_what_joined_facts_say() -> None:
    early = datetime(2026, 1, 1, tzinfo=UTC)
    late = early + timedelta(seconds=1)
    one = WalFacts(
        start=Lsn(0), stop=Lsn(8), records_end=Lsn(8), commits=1, first_time=late, last_time=late, min_xid=9, max_xid=9
    )
    two = WalFacts(start=Lsn(8), stop=Lsn(9))
    three = WalFacts(
        start=Lsn(9),
        stop=Lsn(20),
        records_end=Lsn(16),
        aborts=1,
        first_time=early,
        last_time=early,
        min_xid=7,
        max_xid=7,
    )
    assert join([one, two, three]) == WalFacts(
        start=Lsn(0),
        stop=Lsn(20),
        records_end=Lsn(16),
        commits=1,
        aborts=1,
        first_time=early,
        last_time=late,
        min_xid=7,
        max_xid=9,
    )


def test_what_does_not_touch_is_not_joined() -> None:
    with pytest.raises(ValueError, match="no neighbours"):
        join([WalFacts(start=Lsn(0), stop=Lsn(8)), WalFacts(start=Lsn(9), stop=Lsn(10))])
    with pytest.raises(ValueError, match="no stretch"):
        join([])
