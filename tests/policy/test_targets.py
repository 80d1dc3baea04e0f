from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import UsageError
from holdfast.policy.targets import TargetKind, WantedTarget, parse_target

SHANGHAI = ZoneInfo("Asia/Shanghai")
BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 22, 6, 30, 15, tzinfo=UTC)  # 14:30:15 in Shanghai
NAIVE = datetime(2026, 11, 21)  # noqa: DTZ001  what a clock on the wall shows


def parse(text: str, **options: object) -> WantedTarget:
    return parse_target(text, **{"now": NOW, "zone": SHANGHAI, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("latest", TargetKind.LATEST, ""),
        (" LATEST ", TargetKind.LATEST, ""),
        ("lsn:0/3000060", TargetKind.LSN, "0/3000060"),
        ("lsn: 0/03000060", TargetKind.LSN, "0/3000060"),
        ("xid:1234", TargetKind.XID, "1234"),
        ("xid:4294968530", TargetKind.XID, "1234"),
        ("name:before_migration", TargetKind.NAME, "before_migration"),
        ("name:a: b", TargetKind.NAME, "a: b"),
        ("snapshot:latest", TargetKind.SNAPSHOT, "latest"),
        ("snapshot:tracker_20261122_020000", TargetKind.SNAPSHOT, "tracker_20261122_020000"),
    ],
)
def test_what_is_no_time(text: str, kind: TargetKind, value: str) -> None:
    wanted = parse(text)
    assert (wanted.kind, wanted.value, wanted.time) == (kind, value, None)
    assert wanted.text == text.strip()
    assert wanted.zone is SHANGHAI


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22 14:03", "2026-11-22T14:03:00+08:00"),
        ("2026-11-22T14:03:22.5", "2026-11-22T14:03:22.500000+08:00"),
        ("2026-11-22T14:03:22.5+01:00", None),
        ("2026-11-22 01:03:22.123456789Z", "2026-11-22T01:03:22.123456+00:00"),
        ("2026-11-22 01:03 UTC", "2026-11-22T01:03:00+00:00"),
        ("2026-11-22 01:03:04,25 -0330", "2026-11-22T01:03:04.250000-03:30"),
        ("2026-11-22 01:03+01", "2026-11-22T01:03:00+01:00"),
        ("2026/1/2 3:04", "2026-01-02T03:04:00+08:00"),
        ("2026年11月22日 14:03", "2026-11-22T14:03:00+08:00"),
        ("1999-12-31 23:59:59", "1999-12-31T23:59:59+08:00"),
        ("14:03", "2026-11-22T14:03:00+08:00"),
        ("14：03", "2026-11-22T14:03:00+08:00"),
        ("0:00", "2026-11-22T00:00:00+08:00"),
        ("today 9:15:01", "2026-11-22T09:15:01+08:00"),
        ("yesterday 14:03", "2026-11-21T14:03:00+08:00"),
        ("Yesterday  23:59", "2026-11-21T23:59:00+08:00"),
        ("昨天 14:03", "2026-11-21T14:03:00+08:00"),
        ("前天14:03", "2026-11-20T14:03:00+08:00"),
    ],
)
def test_times(text: str, moment: str | None) -> None:
    if moment is None:
        with pytest.raises(UsageError, match="in the future"):
            parse(text)
        return
    wanted = parse(text)
    assert wanted.kind is TargetKind.TIME
    assert wanted.time == datetime.fromisoformat(moment)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("10 minutes ago", timedelta(minutes=10)),
        ("1 minute ago", timedelta(minutes=1)),
        ("90s ago", timedelta(seconds=90)),
        ("1.5 hours ago", timedelta(minutes=90)),
        ("an hour ago", timedelta(hours=1)),
        ("2 Days AGO", timedelta(days=2)),
        ("1 week ago", timedelta(days=7)),
        ("0 seconds ago", timedelta()),
        ("10 分钟前", timedelta(minutes=10)),
        ("10分钟之前", timedelta(minutes=10)),
        ("3 小时前", timedelta(hours=3)),
        ("2 个小时前", timedelta(hours=2)),
        ("30秒前", timedelta(seconds=30)),
        ("1 天前", timedelta(days=1)),
    ],
)
def test_times_ago(text: str, length: timedelta) -> None:
    assert parse(text).time == NOW - length


def test_today_is_that_of_the_zone() -> None:
    late = datetime(2026, 11, 22, 17, tzinfo=UTC)  # the 23rd in Shanghai
    assert parse("0:30", now=late).time == datetime(2026, 11, 22, 16, 30, tzinfo=UTC)
    assert parse("yesterday 0:30", now=late).time == datetime(2026, 11, 21, 16, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "", "soon", "yesterday", "2026-11-22", "2026-13-01 10:00", "2026-02-29 10:00", "24:00", "10:60", "10:00:60",
        "lsn:", "xid:", "name:", "snapshot:", "10 minutes", "ago", "14:03 PM", "2026-11-22 14:03+25:00",
        "2026-11-22 14:03+01:75", "99999999 weeks ago", "0001-01-01 00:00", "-1 minutes ago", "²2:00",
    ],
)  # fmt: skip
def test_what_means_nothing_shows_the_forms(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    for form in ("latest", "10 minutes ago", "lsn:", "xid:", "name:", "snapshot:"):
        assert form in caught.value.hint


@pytest.mark.parametrize(
    "text", ["lsn:30", "lsn:0/3000060000", "xid:-1", "xid:two", "xid:2", "xid:²", "name:" + "x" * 64]
)
def test_values_are_checked(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["14:30:16", "today 23:00", "2027-01-01 00:00", "2026-11-22 14:30:15.000001"])
def test_the_future_is_not_there_yet(text: str) -> None:
    with pytest.raises(UsageError, match="in the future: now it is 2026-11-22 14:30:15"):
        parse(text)
    assert parse("14:30:15").time == NOW


def test_an_hour_that_exists_twice_or_not_at_all_is_asked_back() -> None:
    with pytest.raises(UsageError, match="exists twice") as caught:
        parse("2026-10-25 02:30", zone=BERLIN)
    assert "'2026-10-25 02:30:00+02:00' or '2026-10-25 02:30:00+01:00'" in caught.value.hint
    for text in ("2026-10-25 02:30+02:00", "2026-10-25 02:30:00+01:00"):
        assert parse(text, zone=BERLIN).time == datetime.fromisoformat(text)
    with pytest.raises(UsageError, match="does not exist") as caught:
        parse("2026-03-29 02:30", zone=BERLIN)
    assert "'2026-03-29 01:30:00+01:00' or '2026-03-29 03:30:00+02:00'" in caught.value.hint
    assert parse("2026-10-25 03:00", zone=BERLIN).time == datetime(2026, 10, 25, 2, tzinfo=UTC)


def test_timeline_and_exclusive() -> None:
    assert (parse("latest").timeline, parse("latest").current) == (None, False)
    current = parse("latest", timeline="current")
    assert (current.timeline, current.current) == (None, True)
    assert parse("14:03", timeline="3").timeline == 3
    assert parse("14:03", inclusive=False).inclusive is False
    for timeline in ("0", "-1", "newest", "4294967296", "²"):
        with pytest.raises(UsageError, match="is no timeline"):
            parse("latest", timeline=timeline)
    for text in ("latest", "snapshot:latest"):
        with pytest.raises(UsageError, match="left out"):
            parse(text, inclusive=False)


@given(
    st.datetimes(min_value=NAIVE.replace(year=1971), max_value=NAIVE),
    st.integers(-14 * 60, 14 * 60),
)
def test_a_time_with_its_offset_comes_back(local: datetime, minutes: int) -> None:
    moment = local.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    for text in (moment.isoformat(), moment.isoformat(sep=" ")):
        assert parse(text).time == moment


@given(st.datetimes(min_value=NAIVE.replace(year=1992), max_value=NAIVE))
def test_a_local_time_is_the_zones_or_refused(local: datetime) -> None:
    try:
        found = parse(local.isoformat(sep=" "), zone=BERLIN).time
    except UsageError as error:
        said = str(error)
        assert "exists twice" in said or "does not exist" in said
    else:
        assert found is not None
        assert found.astimezone(UTC).astimezone(BERLIN).replace(tzinfo=None) == local


@given(st.text(max_size=40))
def test_whatever_is_typed_is_understood_or_refused(text: str) -> None:
    try:
        parse(text)
    except UsageError as error:
        assert error.hint  # noqa: PT017  whether it raises depends on the text
