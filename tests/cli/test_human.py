from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.cli import human

NOW = datetime(2026, 11, 22, 14, 3, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"), (10 * 1024, "10.0 KiB"),
        (102400, "100 KiB"),
        (1023 * 1024, "1.00 MiB"), (16 * 2**20, "16.0 MiB"), (3 * 2**40, "3.00 TiB"), (2**70, "1024 EiB"),
        (-2048, "-2.00 KiB"),
    ],
)  # fmt: skip
def test_sizes(nbytes: int, text: str) -> None:
    assert human.size(nbytes) == text


@given(st.integers(0, 2**60))
def test_a_size_is_short_and_within_one_percent(nbytes: int) -> None:
    number, unit = human.size(nbytes).split()
    factor = 1024 ** ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB").index(unit)
    assert len(number) <= 4
    assert abs(float(number) * factor - nbytes) <= nbytes / 100


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"), (0.35, "350 ms"), (1, "1 s"), (12.34, "12.3 s"), (59.9, "59.9 s"), (59.96, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"), (3 * 3600 + 300, "3 h 5 min"), (86400 + 3600, "1 d 1 h"), (-90, "-1 min 30 s"),
    ],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert human.duration(timedelta(seconds=seconds)) == text


@given(st.floats(-1e9, 1e9))
def test_a_duration_never_shows_sixty_of_anything(seconds: float) -> None:
    assert not human.duration(timedelta(seconds=seconds)).endswith(("60 s", "60 min", "24 h"))


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        (3, "just now"), (-3, "just now"), (60, "60 seconds ago"), (300, "5 minutes ago"), (-7200, "in 2 hours"),
        (3 * 86400, "3 days ago"),
    ],
)  # fmt: skip
def test_relative_times(ago: float, text: str) -> None:
    assert human.relative(NOW - timedelta(seconds=ago), NOW) == text


def test_a_moment_shows_its_offset() -> None:
    assert human.moment(NOW, timezone(timedelta(hours=8))) == "2026-11-22 22:03:22+08:00"
