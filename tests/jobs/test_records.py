"""A cluster that is not the one whose snapshots stand under the same name."""

from __future__ import annotations

from dataclasses import replace

from holdfast.jobs.records import strangers
from holdfast.postgres.facts import BackupFacts
from holdfast.postgres.lsn import Lsn
from holdfast.repository.repository import Records
from tests.policy.histories import at, backup_facts, known


def facts_of(timeline: int, system_identifier: int) -> BackupFacts:
    return backup_facts(
        timeline=timeline,
        system_identifier=system_identifier,
        start_lsn=Lsn(0x2000028),
        stop_lsn=Lsn(0x2000100),
        started_at=at(0),
        ended_at=at(1),
    )


def records(*timelines: int, system_identifier: int = 7) -> Records:
    taken = [
        known(f"s{number}", facts_of(timeline, system_identifier)).snapshot for number, timeline in enumerate(timelines)
    ]
    facts = [facts_of(timeline, system_identifier) for timeline in timelines]
    return Records(
        tuple(
            replace(snapshot, source="main", source_type="postgres", facts=one.to_json())
            for snapshot, one in zip(taken, facts, strict=True)
        ),
        (),
    )


def told(found: Records, *, timeline: int = 1, system_identifier: int = 7, source: str = "main") -> list[str]:
    return list(strangers(source, facts_of(timeline, system_identifier), found))


def test_the_same_cluster_is_no_stranger() -> None:
    assert told(records()) == []
    assert told(records(1, 1)) == []
    assert told(records(1, 2), timeline=2) == []
    assert told(records(1), timeline=3) == []
    assert told(records(1, 2), source="another") == []


def test_another_cluster() -> None:
    (text,) = told(records(1), system_identifier=8)
    assert "another cluster than before: system identifier 8" in text
    assert "is of 7" in text


def test_a_server_that_was_left_behind() -> None:
    (text,) = told(records(1, 2, 1))
    assert "this server is on timeline 1" in text
    assert "is of timeline 2" in text
