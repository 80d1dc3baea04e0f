"""Pieces joined to segments, against what brute force finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from holdfast.repository.wal.held import HeldPiece
from holdfast.repository.wal.joining import join
from tests.repository.wal.making import clock

EMPTY = b"0"
BRANCHES = ("a", "b")
"""Two servers' bytes: the same up to offset 3, others from there on."""


def digest(branch: str, offset: int) -> bytes:
    return EMPTY if offset == 0 else f"{branch if offset > 3 else '='}{offset}".encode()


def piece(start: int, stop: int, branch: str = "a", seconds: float | None = None) -> HeldPiece:
    moment = None if seconds is None else clock(seconds)
    name = f"{start}-{stop}-{branch}-{seconds}"
    return HeldPiece(name, start, stop, digest(branch, start), digest(branch, stop), moment, {})


PIECES = st.builds(
    lambda start, length, branch, seconds: piece(start, start + length, branch, seconds if length == 0 else None),
    st.integers(0, 7),
    st.integers(0, 4),
    st.sampled_from(BRANCHES),
    st.integers(0, 3),
)


def chains(pieces: list[HeldPiece]) -> list[tuple[HeldPiece, ...]]:
    """All that begin at the beginning and cannot be made longer."""
    found: list[tuple[HeldPiece, ...]] = []

    def extend(chain: tuple[HeldPiece, ...], end: tuple[int, bytes]) -> None:
        following = [one for one in pieces if one.stop > one.start and (one.start, one.before) == end]
        if not following:
            found.append(chain)
        for one in following:
            extend((*chain, one), (one.stop, one.after))

    extend((), (0, EMPTY))
    return found


@given(st.lists(PIECES, max_size=9))
def test_the_longest_chain(pieces: list[HeldPiece]) -> None:
    joined = join(pieces, EMPTY)
    every = chains(pieces)
    ends = {(chain[-1].stop, chain[-1].after) if chain else (0, EMPTY) for chain in every}
    bare = tuple(one for one in joined.chain if one.stop > one.start)
    assert joined.stop == max(stop for stop, _digest in ends)
    assert bare in every
    assert (
        len(bare) == min(len(chain) for chain in every if chain[-1:] and chain[-1].after == bare[-1].after)
        if bare
        else True
    )
    end = (bare[-1].stop, bare[-1].after) if bare else (0, EMPTY)
    assert {(one.stop, one.after) for one in joined.forks} == ends - {end}
    clocks = [one.clock for one in pieces if one.start == one.stop and (one.stop, one.after) == end]
    if clocks:
        assert joined.chain[-1].clock == max(one for one in clocks if one is not None)
    else:
        assert joined.chain == bare


def test_a_hole_ends_it() -> None:
    assert join([piece(0, 2), piece(3, 5)], EMPTY).chain == (piece(0, 2),)
    assert join([piece(1, 2)], EMPTY).chain == ()
    assert join([], EMPTY).chain == ()


def test_a_clock_that_says_no_more_is_left_out() -> None:
    last = piece(0, 2, seconds=5)
    assert join([last, piece(2, 2, seconds=4)], EMPTY).chain == (last,)
    assert join([last, piece(2, 2, seconds=6)], EMPTY).chain == (last, piece(2, 2, seconds=6))


def test_merged_tails_and_the_segment_win_over_many() -> None:
    tails = [piece(start, start + 1) for start in range(6)]
    assert join([*tails, piece(0, 4)], EMPTY).chain == (piece(0, 4), *tails[4:])
    assert join([*tails, piece(0, 4), piece(0, 6)], EMPTY).chain == (piece(0, 6),)


def test_the_fewest_pieces() -> None:
    """Though another way ends with a longer piece."""
    short = [piece(0, 3), piece(3, 6)]
    assert join([piece(0, 1), piece(1, 2), piece(2, 6), *short], EMPTY).chain == tuple(short)


def test_thousands_of_tails() -> None:
    """Without DELETE they stay."""
    tails = [HeldPiece(str(n), n, n + 1, str(n).encode(), str(n + 1).encode(), None, {}) for n in range(20_000)]
    assert len(join(tails, b"0").chain) == 20_000
