"""What a transaction did is told by what its records can mean, and no more."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from holdfast.jobs.log import Shown, describe
from holdfast.postgres.lsn import Lsn
from holdfast.postgres.relations import Named
from holdfast.postgres.walchanges import ChangeKind, Changes, Committed
from holdfast.postgres.walrecords import Relation


def file(number: int) -> Relation:
    return Relation(1663, 5, number)


def named(name: str, kind: str = "r", *, is_system: bool = False) -> Named:
    return Named(schema="public", name=name, kind=kind, is_system=is_system)


@dataclass
class Known:
    files: dict[int, Named] = field(default_factory=dict)
    oids: dict[int, Named] = field(default_factory=dict)
    why: str = ""

    def database(self, _oid: int, /) -> str | None:
        return "tracker" if self.files or self.oids else None

    def of_file(self, relation: Relation, /) -> Named | None:
        return self.files.get(relation.number)

    def of_oid(self, _database: int, oid: int, /) -> Named | None:
        return self.oids.get(oid)


def told(changes: Changes, *dropped: int, **known: dict[int, Named]) -> list[tuple[str, str, int | None, bool, int]]:
    found = Committed(
        xid=9,
        time=datetime(2026, 11, 22, tzinfo=UTC),
        lsn=Lsn(1 << 24),
        end=Lsn(1 << 24),
        changes=changes,
        dropped=tuple(map(file, dropped)),
        is_whole=True,
    )
    shown: list[Shown] = list(describe(found, Known(files=known.get("files", {}), oids=known.get("oids", {}))))
    return [(one.kind.value, one.relation, one.rows, one.may_be_rewrite, one.files) for one in shown]


def rows(**counts: int) -> Counter[tuple[Relation, ChangeKind]]:
    return Counter({(file(int(key.split("_")[1])), ChangeKind(key.split("_")[0])): n for key, n in counts.items()})


def made(*created: int, filled: tuple[int, ...] = ()) -> Changes:
    return Changes(created=set(map(file, created)), filled=set(map(file, filled)))


TABLE = {16400: named("rows"), 16401: named("pg_toast_16400", "t"), 16402: named("rows_pkey", "i")}
NEW = {16410: named("rows"), 16411: named("pg_toast_16400", "t"), 16412: named("rows_pkey", "i")}


def test_rows_of_tables_and_of_nothing_else() -> None:
    changes = Changes(rows=rows(delete_16400=12, delete_16401=40, insert_1259=3, update_16399=2, insert_16390=0))
    assert told(changes, files=TABLE) == [("update", "5/16399", 2, False, 1), ("delete", "public.rows", 12, False, 1)]
    assert ("delete", "5/16401", 40, False, 1) in told(changes), "nobody knows that it is TOAST"
    system = Changes(rows=rows(delete_16700=1))
    assert told(system, files={16700: named("pg_class", is_system=True)}) == []


def test_rows_of_a_table_that_has_other_files_since() -> None:
    """Its first file had the table's own number."""
    changes = Changes(rows=rows(delete_16385=777))
    assert told(changes, files=NEW, oids={16385: named("rows")}) == [("delete", "public.rows", 777, False, 1)]


def test_a_table_that_came_and_went_is_not_shown() -> None:
    changes = made(16400)
    changes.rows = rows(insert_16400=5)
    assert told(changes, 16400) == []


def test_truncate() -> None:
    truncated = made(16410, 16411, 16412, filled=(16412,))
    assert told(truncated, 16400, 16401, 16402, files=NEW) == [("truncate", "public.rows", None, False, 1)]
    assert told(truncated, 16400, 16401, 16402) == [("truncate", "5/16400", None, True, 3)]
    truncated.truncated = {(5, 16385)}
    assert told(truncated, 16400, 16401, 16402, oids={16385: named("rows")}) == [
        ("truncate", "public.rows", None, False, 1)
    ]
    assert told(truncated, 16400, 16401, 16402) == [("truncate", "5/16385", None, False, 1)]


def test_truncate_and_fill_again_may_be_a_rewrite() -> None:
    changes = made(16410, 16411, 16412, filled=(16412,))
    changes.rows = rows(insert_16410=7)
    assert told(changes, 16400, 16401, 16402, files=NEW) == [
        ("insert", "public.rows", 7, False, 1),
        ("truncate", "public.rows", None, True, 1),
    ]


@pytest.mark.parametrize("files", [{}, NEW])
def test_a_table_written_anew_page_by_page_has_its_rows(files: dict[int, Named]) -> None:
    assert told(made(16410, 16412, filled=(16410, 16412)), 16400, 16402, files=files) == []


def test_refreshing_a_materialized_view_removes_nothing() -> None:
    assert told(made(16410), 16400, files={16410: named("seen", "m")}) == []


def test_drop() -> None:
    assert told(Changes(), 16402, 16400, 16401) == [("drop", "5/16400", None, False, 3)]
    both = made(16410, filled=())
    assert told(both, 16400, 16300, files=NEW) == [
        ("truncate", "public.rows", None, False, 1),
        ("drop", "5/16300", None, True, 2),
    ]
    assert told(Changes(dropped_databases={77})) == [("drop", "database 77", None, False, 1)]
