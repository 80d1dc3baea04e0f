"""The demo's database, and what it must hold: every table's rows and content, before the load and after n transactions.

A table's content is told by its number of rows and a checksum: the sum, over its rows, of the first 60 bits of the MD5
of the whole row as PostgreSQL writes it (``row::text``). A sum needs no order, and changing one row changes it by what
Python can compute alone: so what a copy must hold is known without asking the copy, nor the server that is gone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.postgres.connection import Connection, quote_identifier

DATABASE = "option_tracker_prod"
ACCOUNTS_PER_BRANCH = 100_000
TELLERS_PER_BRANCH = 10
"""As ``pgbench -i`` makes them (PostgreSQL's manual, pgbench)."""

SYMBOLS = ("510050", "510300", "159915", "588000")
_FIRST_DAY = date(2021, 1, 4)
_TRADES_AT_ONCE = 50_000
KEY_BYTES_A_TRADE = 22
"""In the primary key's index, about."""

_LESSONS = (
    "回踩二十日线不破，持有；跌破即走，不问理由",
    "implied volatility is rich: sell the strangle, buy the wings",
    'the plan said "wait": waited, and was right',
    "开盘三十分钟不交易",
)

_TABLES = """
create table daily_blueprints (
    day date primary key, symbol text not null, plan jsonb not null, image text not null, revision bigint not null);
create table trades (
    id bigint not null, day date not null, symbol text not null, side text not null,
    quantity integer not null, price numeric(12, 4) not null, note text);
create table load_progress (id integer primary key, transactions bigint not null);
insert into load_progress values (1, 0);
"""

_KEYS = """
alter table trades add primary key (id);
alter table trades add foreign key (day) references daily_blueprints;
"""

_TRADES = """
insert into trades
select n, date '{first}' + ((n % {days}) / 5 * 7 + n % {days} % 5)::integer, (array['{symbols}'])[1 + n % {kinds}],
       case when hashint8(n) % 2 = 0 then 'buy' else 'sell' end, 1 + abs(hashint8(n) % 50),
       1 + abs(hashint8(n * 7) % 90000) / 10000.0, 'order ' || md5(n::text) || ' filled in ' || 1 + n % 5
           || ' lots; stop below the twenty-day line, target the last high; reviewed after the close against the plan'
from generate_series({start}::bigint, {stop}::bigint) as n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How much there was before the load began: with a transaction's number it gives that transaction."""

    branches: int
    """pgbench's scale."""
    days: int
    trades: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    rows: int
    checksum: int


Contents = Mapping[str, Content]
"""By the table's name, with its schema unless that is ``public``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One table's verdict; ``None`` where there is no such table."""

    table: str
    expected: Content | None
    found: Content | None

    @property
    def same(self) -> bool:
        return self.expected is not None and self.expected == self.found


def trading_day(number: int) -> date:
    """The ``number``-th, from 0: Mondays to Fridays."""
    weeks, weekday = divmod(number, 5)
    return _FIRST_DAY + timedelta(days=7 * weeks + weekday)


def blueprint(number: int, revision: int) -> tuple[object, ...]:
    """The row of ``daily_blueprints`` for the ``number``-th day as it stands after being revised by ``revision``."""
    day = trading_day(number)
    # jsonb writes keys by length, then by bytes: the order that they have here
    plan = {
        "bias": "long" if (number + revision) % 3 else "short",
        "lesson": _LESSONS[(number + revision) % len(_LESSONS)],
        "levels": [2000 + (number * 37 + revision * 11 + step * 25) % 1500 for step in range(6)],
    }
    image = f"blueprints/{day:%Y/%m/%Y%m%d}.jpg"
    return (day, SYMBOLS[number % len(SYMBOLS)], json.dumps(plan, ensure_ascii=False), image, revision)


def create_tables(sql: Connection, *, days: int) -> None:
    sql.execute(_TABLES.encode())
    rows = ", ".join(f"({', '.join(literal(value) for value in blueprint(day, 0))})" for day in range(days))
    sql.execute(f"insert into daily_blueprints values {rows}".encode())  # noqa: S608  literals of our own


def add_trades(sql: Connection, *, start: int, days: int) -> int:
    """One batch more, from the id ``start``, spread over all days; gives the id of its last."""
    stop = start + _TRADES_AT_ONCE - 1
    values = {"first": _FIRST_DAY, "days": days, "symbols": "', '".join(SYMBOLS), "kinds": len(SYMBOLS)}
    sql.execute(_TRADES.format(**values, start=start, stop=stop).encode())
    return stop


def add_keys(sql: Connection) -> None:
    """After the bulk of the rows: building an index once is faster than growing it."""
    sql.execute(_KEYS.encode())


def measure(sql: Connection) -> dict[str, Content]:
    """Every table of the database that is not PostgreSQL's own."""
    sql.execute(b"set datestyle = iso, ymd")  # the texts of rows must not follow the caller's settings
    tables = sql.execute(
        b"select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        b" where c.relkind in ('r', 'm') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_' order by 1, 2"
    ).fetchall()
    return {
        table if schema == "public" else f"{schema}.{table}": _content(sql, schema, table) for schema, table in tables
    }


def _content(sql: Connection, schema: str, table: str) -> Content:
    name = f"{quote_identifier(schema)}.{quote_identifier(table)}"
    row = sql.execute(
        "select count(*), coalesce(sum(('x' || left(md5(t::text), 15))::bit(60)::bigint), 0)"  # noqa: S608  quoted
        f" from only {name} as t".encode()
    ).fetchone()
    assert row is not None
    return Content(rows=int(row[0]), checksum=int(row[1]))


def compare(expected: Contents, found: Contents) -> list[Compared]:
    """Every table of either side."""
    return [
        Compared(table=table, expected=expected.get(table), found=found.get(table))
        for table in sorted({*expected, *found})
    ]


def transactions_in(sql: Connection) -> int:
    """How many of the load's transactions the database says that it holds."""
    row = sql.execute(b"select transactions from load_progress").fetchone()
    if row is None:
        raise Damaged(_("table load_progress has lost its row"))
    return int(row[0])


def row_checksum(*values: object) -> int:
    """What a row of these values adds to its table's checksum."""
    return int(hashlib.md5(row_text(values).encode(), usedforsecurity=False).hexdigest()[:15], 16)


def row_text(values: tuple[object, ...]) -> str:
    """A row as PostgreSQL writes it (``record_out`` in ``rowtypes.c``); ``None`` is null."""
    return f"({','.join(map(_field, values))})"


def _field(value: object) -> str:
    if value is None:
        return ""
    text = str(value)
    if text and not re.search(r'[\s"\\(),]', text, re.ASCII):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '""') + '"'


def literal(value: object) -> str:
    """In SQL; only for the demo's own values."""
    return (
        "null" if value is None else str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"
    )
