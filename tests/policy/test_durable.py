from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.policy.durable import Durable
from holdfast.postgres.lsn import Lsn

NAMES = ("local", "remote")


def test_nothing_is_confirmed_over_a_hole() -> None:
    durable = Durable(NAMES[:1], start=Lsn(100))
    assert durable.confirmed == Lsn(100)
    durable.add("local", Lsn(200), Lsn(300))
    assert durable.confirmed == Lsn(100)
    durable.add("local", Lsn(100), Lsn(200))
    assert durable.confirmed == Lsn(300)
    assert isinstance(durable.confirmed, Lsn)


def test_the_slowest_repository_decides() -> None:
    durable = Durable(NAMES, start=Lsn(0))
    durable.add("local", Lsn(0), Lsn(500))
    durable.add("remote", Lsn(0), Lsn(20))
    assert (durable.confirmed, durable.of("local"), durable.of("remote")) == (20, 500, 20)


def test_what_was_confirmed_before_is_never_taken_back() -> None:
    durable = Durable(NAMES, start=Lsn(1000), floor=Lsn(1500))
    assert durable.confirmed == 1500
    for name in NAMES:
        durable.add(name, Lsn(1000), Lsn(1200))
    assert (durable.confirmed, durable.of("local")) == (1500, 1200)
    for name in NAMES:
        durable.add(name, Lsn(1200), Lsn(1600))
    assert durable.confirmed == 1600


def test_without_a_repository_nothing_is_confirmed() -> None:
    assert Durable((), start=Lsn(7)).confirmed == 7


_START = 10
_stretches = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 60), st.integers(0, 12)), max_size=40)


@given(_stretches)
def test_it_is_what_a_set_of_bytes_says(stretches: list[tuple[str, int, int]]) -> None:
    durable = Durable(NAMES, start=Lsn(_START))
    held: dict[str, set[int]] = {name: set(range(_START)) for name in NAMES}
    for name, start, length in stretches:
        durable.add(name, Lsn(start), Lsn(start + length))
        held[name] |= set(range(start, start + length))
        for one in NAMES:
            assert durable.of(one) == next(n for n in range(200) if n not in held[one])
        assert durable.confirmed == min(durable.of(one) for one in NAMES)
