from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import Refused, TryLater, UsageError
from holdfast.policy.resuming import Resume, Resumed, ServerSays, Why, resume
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.timelines import Branch, History
from holdfast.repository.wal.held import Begin, Held, HeldPiece, HeldSegment
from holdfast.repository.wal.pieces import Stream

SIZE = 100  # a segment: easier to read than 16 MiB
OURS, OTHER = 7001, 7002
_NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

Stops = Mapping[tuple[int, int], int]
"""Timeline and number of a segment: how much of it is held."""


def held(
    stops: Stops,
    *begins: tuple[int, int, str],
    system: int = OURS,
    size: int = SIZE,
    histories: Mapping[int, bytes] | None = None,
    noon: datetime = _NOON,
) -> Held:
    """``begins``: timeline, position, why; each an hour after the one before."""
    stream = Stream(source="tracker", system_identifier=system)
    return Held(
        stream=stream,
        segment_size=size,
        segments=tuple(_segment(*place, stop) for place, stop in sorted(stops.items())),
        histories=histories or {},
        begins=tuple(
            Begin(
                stream=stream,
                segment_size=size,
                timeline=timeline,
                lsn=lsn,
                when=noon + timedelta(hours=number),
                host="h",
                why=why,
            )
            for number, (timeline, lsn, why) in enumerate(begins)
        ),
    )


def _segment(timeline: int, number: int, stop: int) -> HeldSegment:
    piece = HeldPiece(name="", start=0, stop=stop, before=b"", after=b"", clock=None, facts={})
    return HeldSegment(timeline=timeline, number=number, pieces=(piece,))


def server(
    timeline: int = 1,
    flushed: int = 1000,
    *,
    ancestors: Mapping[int, int] | None = None,
    oldest: int | None = None,
    system: int = OURS,
    in_recovery: bool = False,
) -> ServerSays:
    branches = tuple(Branch(timeline=one, switch=Lsn(switch)) for one, switch in (ancestors or {}).items())
    return ServerSays(
        system_identifier=system,
        timeline=timeline,
        flushed=Lsn(flushed),
        segment_size=SIZE,
        history=History(timeline=timeline, ancestors=branches),
        oldest=None if oldest is None else Lsn(oldest),
        in_recovery=in_recovery,
    )


def place(one: Resume) -> tuple[int, int, int, str]:
    return one.timeline, one.lsn, one.durable, one.why


WHOLE = {(1, 3): 100, (1, 4): 100}


class TestOnOneTimeline:
    def test_first_ever(self) -> None:
        assert place(resume({"a": ()}, server(oldest=350))) == (1, 300, 300, "first")
        assert place(resume({"a": ()}, server(flushed=777))) == (1, 700, 700, "first")
        assert resume({"a": ()}, server(oldest=350)).repositories == {"a": Resumed(why=Why.FIRST, held=Lsn(300))}

    def test_goes_on_in_mid_segment(self) -> None:
        found = resume({"a": [held({**WHOLE, (1, 5): 42}, (1, 300, "first"))]}, server(oldest=542))
        assert place(found) == (1, 500, 542, "on")
        assert found.repositories["a"] == Resumed(why=Why.ON, held=Lsn(542), after=Lsn(542), after_timeline=1)
        assert isinstance(found.lsn, Lsn)
        assert isinstance(found.durable, Lsn)

    def test_goes_on_between_segments(self) -> None:
        assert place(resume({"a": [held(WHOLE, (1, 300, "first"))]}, server())) == (1, 500, 500, "on")

    def test_began_and_got_nothing(self) -> None:
        assert place(resume({"a": [held({}, (1, 300, "first"))]}, server())) == (1, 300, 300, "on")

    def test_an_upload_that_was_overtaken_is_a_hole(self) -> None:
        stops = {(1, 3): 100, (1, 5): 100, (1, 6): 20}
        assert place(resume({"a": [held(stops, (1, 300, "first"))]}, server())) == (1, 400, 400, "on")

    def test_what_lies_before_the_newest_beginning_is_the_past(self) -> None:
        one = held({(1, 1): 100, (1, 5): 30}, (1, 100, "first"), (1, 500, "gap"))
        assert place(resume({"a": [one]}, server())) == (1, 500, 530, "on")

    def test_segments_without_a_beginning_are_nobodys(self) -> None:
        assert place(resume({"a": [held(WHOLE)]}, server(oldest=700))) == (1, 700, 700, "first")

    def test_wal_that_the_slot_no_longer_keeps_is_asked_for_all_the_same(self) -> None:
        assert place(resume({"a": [held(WHOLE, (1, 300, "first"))]}, server(oldest=888))) == (1, 500, 500, "on")


class TestGone:
    def test_goes_on_with_the_oldest(self) -> None:
        found = resume({"a": [held({**WHOLE, (1, 5): 42}, (1, 300, "first"))]}, server(oldest=888), gone=Lsn(500))
        assert place(found) == (1, 800, 800, "gap")
        assert found.repositories["a"] == Resumed(why=Why.GAP, held=Lsn(800), after=Lsn(542), after_timeline=1)

    @pytest.mark.parametrize("oldest", [None, 540])
    def test_or_with_the_newest_where_the_slot_promises_what_is_not_there(self, oldest: int | None) -> None:
        one = held({**WHOLE, (1, 5): 42}, (1, 300, "first"))
        assert place(resume({"a": [one]}, server(oldest=oldest, flushed=950), gone=Lsn(500))) == (1, 900, 900, "gap")

    def test_at_the_very_first(self) -> None:
        assert place(resume({"a": ()}, server(oldest=300), gone=Lsn(300))) == (1, 1000, 1000, "first")

    def test_only_who_lacks_it_has_a_gap(self) -> None:
        further = held({**WHOLE, (1, 5): 100, (1, 6): 100, (1, 7): 10}, (1, 300, "first"))
        held_by = {"a": [further], "b": [held(WHOLE, (1, 300, "first"))], "c": ()}
        found = resume(held_by, server(oldest=650), gone=Lsn(500))
        assert place(found) == (1, 600, 600, "gap")
        assert [one.why for one in found.repositories.values()] == [Why.ON, Why.GAP, Why.FIRST]
        assert [one.held for one in found.repositories.values()] == [710, 600, 600]

    def test_who_was_away_costs_the_others_nothing_that_the_server_still_has(self) -> None:
        further = held({**WHOLE, (1, 5): 100, (1, 6): 100, (1, 7): 10}, (1, 300, "first"))
        held_by = {"a": [further], "b": [held(WHOLE, (1, 300, "first"))]}
        for oldest in (950, None):  # of a slot that was made anew
            found = resume(held_by, server(oldest=oldest), gone=Lsn(500))
            assert place(found) == (1, 700, 700, "gap")
            assert [one.why for one in found.repositories.values()] == [Why.ON, Why.GAP]
        assert place(resume(held_by, server(oldest=950), gone=Lsn(700))) == (1, 900, 900, "gap")

    def test_on_the_ancestor_that_has_it(self) -> None:
        one = held(WHOLE, (1, 300, "first"))
        says = server(2, ancestors={1: 750}, oldest=720, flushed=900)
        assert place(resume({"a": [one]}, says, gone=Lsn(500))) == (1, 700, 700, "gap")
        says = server(2, ancestors={1: 690}, oldest=720, flushed=900)
        assert place(resume({"a": [one]}, says, gone=Lsn(500))) == (2, 700, 700, "gap")

    def test_in_the_segment_of_a_switch_on_the_newer_timeline(self) -> None:
        further = held({**WHOLE, (1, 5): 100, (1, 6): 100, (1, 7): 30}, (1, 300, "first"))
        says = server(2, ancestors={1: 750}, oldest=760, flushed=900)
        found = resume({"a": [further], "b": [held(WHOLE, (1, 300, "first"))]}, says, gone=Lsn(500))
        assert place(found) == (2, 700, 700, "gap")
        assert found.repositories["a"] == Resumed(why=Why.TIMELINE, held=Lsn(700), after=Lsn(730), after_timeline=1)


class TestSeveralRepositories:
    def test_the_least_position_decides(self) -> None:
        further = held({**WHOLE, (1, 5): 42}, (1, 300, "first"))
        found = resume({"a": [further], "b": [held({(1, 3): 60}, (1, 300, "first"))]}, server())
        assert place(found) == (1, 300, 360, "on")
        assert [one.held for one in found.repositories.values()] == [542, 360]

    def test_a_new_one_begins_where_the_others_go_on(self) -> None:
        found = resume({"a": [held({**WHOLE, (1, 5): 42}, (1, 300, "first"))], "new": ()}, server(oldest=542))
        assert place(found) == (1, 500, 500, "first")
        assert [one.why for one in found.repositories.values()] == [Why.ON, Why.FIRST]
        assert [one.held for one in found.repositories.values()] == [542, 500]

    def test_one_is_a_timeline_further(self) -> None:
        behind = held({(1, 3): 100}, (1, 300, "first"))
        further = held({**WHOLE, (1, 5): 50, (2, 5): 70}, (1, 300, "first"), (2, 500, "timeline"))
        found = resume({"a": [further], "b": [behind]}, server(2, ancestors={1: 550}))
        assert place(found) == (1, 400, 400, "on")
        assert [one.held for one in found.repositories.values()] == [550, 400]


class TestTimelines:
    def test_the_old_one_is_finished_first(self) -> None:
        one = held({**WHOLE, (1, 5): 20}, (1, 300, "first"))
        assert place(resume({"a": [one]}, server(2, ancestors={1: 550}))) == (1, 500, 520, "on")

    def test_then_the_new_one_begins_with_the_segment_of_the_switch(self) -> None:
        one = held({**WHOLE, (1, 5): 50}, (1, 300, "first"))
        found = resume({"a": [one]}, server(2, ancestors={1: 550}))
        assert place(found) == (2, 500, 550, "timeline")
        assert found.repositories["a"] == Resumed(why=Why.TIMELINE, held=Lsn(500), after=Lsn(550), after_timeline=1)

    def test_what_was_sent_beyond_the_switch_does_not_count(self) -> None:
        one = held({**WHOLE, (1, 5): 80}, (1, 300, "first"))
        assert place(resume({"a": [one]}, server(2, ancestors={1: 550}))) == (2, 500, 550, "timeline")

    def test_a_switch_between_two_segments(self) -> None:
        assert place(resume({"a": [held(WHOLE, (1, 300, "first"))]}, server(2, ancestors={1: 500}))) == (
            *(2, 500, 500, "timeline"),
        )

    def test_its_beginning_is_recorded_once(self) -> None:
        one = held({**WHOLE, (1, 5): 50}, (1, 300, "first"), (2, 500, "timeline"))
        assert place(resume({"a": [one]}, server(2, ancestors={1: 550}))) == (2, 500, 550, "on")
        one = held({**WHOLE, (1, 5): 50, (2, 5): 100, (2, 6): 3}, (1, 300, "first"), (2, 500, "timeline"))
        assert place(resume({"a": [one]}, server(2, ancestors={1: 550}))) == (2, 600, 603, "on")
        one = held({**WHOLE, (1, 5): 50, (2, 5): 30}, (1, 300, "first"), (2, 500, "timeline"))
        assert place(resume({"a": [one]}, server(2, ancestors={1: 550}))) == (2, 500, 550, "on")

    def test_several_switches(self) -> None:
        stops = {**WHOLE, (1, 5): 50, (2, 5): 100, (2, 6): 10}
        says = server(4, ancestors={1: 550, 2: 610, 3: 620})
        assert place(resume({"a": [held(stops, (1, 300, "first"))]}, says)) == (3, 600, 610, "timeline")
        stops[3, 6] = 20
        assert place(resume({"a": [held(stops, (1, 300, "first"))]}, says)) == (4, 600, 620, "timeline")

    def test_a_hole_in_the_parent_is_filled_first(self) -> None:
        stops = {(1, 3): 100, (1, 5): 50, (2, 5): 100}
        one = held(stops, (1, 300, "first"), (2, 500, "timeline"))
        assert place(resume({"a": [one]}, server(2, ancestors={1: 550}))) == (1, 400, 400, "on")

    def test_a_sibling_after_a_recovery_to_an_earlier_moment(self) -> None:
        stops = {**WHOLE, (1, 5): 50, (2, 5): 100, (2, 6): 30}
        one = held(stops, (1, 300, "first"), (2, 500, "timeline"))
        found = resume({"a": [one]}, server(3, ancestors={1: 420}, flushed=500))
        assert place(found) == (3, 400, 420, "timeline")
        assert found.repositories["a"].after_timeline == 1

    def test_a_sibling_of_what_is_held_from_its_first_byte(self) -> None:
        one = held({(2, 5): 100}, (2, 500, "first"))
        assert place(resume({"a": [one]}, server(3, ancestors={1: 420}, oldest=430))) == (3, 400, 400, "first")

    def test_a_gap_on_a_sibling_is_not_of_this_line(self) -> None:
        one = held({**WHOLE, (2, 9): 10}, (1, 300, "first"), (2, 900, "gap"))
        assert place(resume({"a": [one]}, server(3, ancestors={1: 450}))) == (3, 400, 450, "timeline")

    def test_a_timeline_left_before_it_began(self) -> None:
        """The server recovered along timeline 2 to a moment before 2 had begun."""
        stops = {**WHOLE, (1, 5): 50, (2, 5): 100}
        one = held(stops, (1, 300, "first"), (2, 500, "timeline"))
        assert place(resume({"a": [one]}, server(3, ancestors={1: 550, 2: 420}))) == (3, 400, 420, "timeline")


class TestRefused:
    def test_another_cluster(self) -> None:
        one = held(WHOLE, (1, 300, "first"))
        with pytest.raises(Refused, match=f"{OTHER}.*{OURS}") as caught:
            resume({"a": [one]}, server(system=OTHER))
        assert f"--adopt {OTHER}" in caught.value.hint

    def test_another_cluster_is_adopted(self) -> None:
        one = held(WHOLE, (1, 300, "first"))
        found = resume({"a": [one]}, server(system=OTHER, oldest=111), adopt=OTHER)
        assert place(found) == (1, 100, 100, "adopted")
        theirs = held({(1, 1): 30}, (1, 100, "adopted"), system=OTHER, noon=_NOON + timedelta(days=1))
        assert place(resume({"a": [one, theirs]}, server(system=OTHER))) == (1, 100, 130, "on")
        assert place(resume({"a": [one, theirs]}, server(system=OTHER), adopt=OTHER)) == (1, 100, 130, "on")
        with pytest.raises(Refused, match=f"{OURS}.*{OTHER}"):
            resume({"a": [one, theirs]}, server())
        assert place(resume({"a": [one, theirs]}, server(), adopt=OURS)) == (1, 500, 500, "adopted")

    def test_to_adopt_what_does_not_answer_is_a_mistake(self) -> None:
        with pytest.raises(UsageError, match=f"{OURS}, not {OTHER}"):
            resume({"a": ()}, server(), adopt=OTHER)

    def test_a_server_left_behind(self) -> None:
        one = held({**WHOLE, (2, 5): 30}, (1, 300, "first"), (2, 500, "timeline"))
        with pytest.raises(Refused, match="left behind: it is on timeline 1 at 0/3E8, and WAL of timeline 2"):
            resume({"a": [one], "new": ()}, server())
        with pytest.raises(TryLater, match="left behind"):
            resume({"a": [one]}, server(in_recovery=True))

    def test_one_timeline_with_two_histories(self) -> None:
        one = held({(2, 5): 30}, (2, 500, "first"), histories={2: b"1\t0/226\tno recovery target specified\n"})
        assert resume({"a": [one]}, server(2, ancestors={1: 0x226})).why == "on"
        with pytest.raises(Refused, match=r"timeline 2.* timeline 1 at 0/1C2.* timeline 1 at 0/226"):
            resume({"a": [one]}, server(2, ancestors={1: 0x1C2}))
        with pytest.raises(Refused, match="two servers"):
            resume({"a": [one]}, server(3, ancestors={1: 0x1C2, 2: 0x300}))

    def test_the_parents_histories_are_compared_too(self) -> None:
        one = held({(1, 5): 30}, (1, 500, "first"), histories={2: b"1\t0/226\tx\n"})
        assert resume({"a": [one]}, server(3, ancestors={1: 0x226, 2: 0x300})).why == "on"
        with pytest.raises(Refused, match="two servers"):
            resume({"a": [one]}, server(3, ancestors={1: 0x225, 2: 0x300}))

    def test_a_server_that_was_set_back(self) -> None:
        one = held({**WHOLE, (1, 5): 42}, (1, 300, "first"))
        assert place(resume({"a": [one]}, server(flushed=542))) == (1, 500, 542, "on")
        with pytest.raises(Refused, match=r"timeline 1 it has written up to 0/21D, and WAL up to 0/21E"):
            resume({"a": [one]}, server(flushed=541))
        with pytest.raises(TryLater, match="0/21D"):
            resume({"a": [one]}, server(flushed=541, in_recovery=True))

    def test_another_segment_size(self) -> None:
        with pytest.raises(Refused, match=f"{OURS} have 100 bytes now, those that are held 200"):
            resume({"a": [held({}, (1, 300, "first"), size=200)]}, server())


_SMALL = 4


@st.composite
def _worlds(draw: st.DrawFn) -> tuple[History, dict[str, Stops], dict[str, tuple[int, int]]]:
    """A line, and what each repository holds of it and of others, from a beginning on the line."""
    timelines = sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=4)))
    switches = sorted(draw(st.lists(st.integers(1, 30), min_size=len(timelines) - 1, max_size=len(timelines) - 1)))
    branches = [Branch(timeline=t, switch=Lsn(s)) for t, s in zip(timelines, switches, strict=False)]
    history = History(timeline=timelines[-1], ancestors=tuple(branches))
    stops: dict[str, Stops] = {}
    begins: dict[str, tuple[int, int]] = {}
    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        number = draw(st.integers(0, 7))
        begins[name] = (history.timeline_at(number * _SMALL), number * _SMALL)
        mostly_whole = st.sampled_from([_SMALL] * 6 + [0, 1, 2, 3])
        places = [(t, n) for t in range(1, timelines[-1] + 1) for n in range(12)]
        found = {place: draw(mostly_whole) for place in places}
        stops[name] = {place: stop for place, stop in found.items() if stop}
    return history, stops, begins


def _first_missing(history: History, stops: Stops, begin: tuple[int, int]) -> tuple[int, int, int]:
    """Byte by byte: the timeline and place of the first that is not held; and up to where all of the line is held."""
    timeline, byte = begin
    safe = byte
    while True:
        left = history.switch_from(timeline)
        if left is not None and byte >= left:
            timeline, byte = history.timeline_at(left), left // _SMALL * _SMALL
        elif byte % _SMALL < stops.get((timeline, byte // _SMALL), 0):
            byte += 1
            safe = max(safe, byte)
        else:
            return timeline, byte, safe


@given(_worlds())
def test_it_goes_on_at_the_first_byte_that_one_lacks(
    world: tuple[History, dict[str, Stops], dict[str, tuple[int, int]]],
) -> None:
    history, stops, begins = world
    says = ServerSays(
        system_identifier=OURS,
        timeline=history.timeline,
        flushed=Lsn(1000),
        segment_size=_SMALL,
        history=history,
        oldest=None,
    )
    found = resume({n: [held(stops[n], (*begins[n], "first"), size=_SMALL)] for n in stops}, says)
    missing = {name: _first_missing(history, stops[name], begins[name]) for name in stops}
    least = min(missing.values(), key=lambda one: (one[2], one[0]))
    assert (found.timeline, found.lsn, found.durable) == (least[0], least[1] // _SMALL * _SMALL, least[2])
    left = history.switch_from(found.timeline)
    assert left is None or found.lsn <= left, "else the server refuses"
    for name, one in found.repositories.items():
        timeline, byte, safe = missing[name]
        assert one.after == safe >= found.durable
        if begins[name][1] <= found.lsn:
            held_to = byte if timeline == found.timeline else left
            assert one.held == held_to
