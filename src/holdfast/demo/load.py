"""The load: one writer whose every transaction follows from its number, and which notes how far the WAL was after each.

After a transaction's commit the WAL written so far (``pg_current_wal_lsn()``) holds its commit record. So a copy that
was recovered up to a position holds every transaction whose note is no later, and perhaps the next one, whose note was
still to come; never the one after that, which began when that note had been taken.
"""

from __future__ import annotations

import random
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from holdfast.clock import Clock
from holdfast.demo.tables import (
    ACCOUNTS_PER_BRANCH,
    SYMBOLS,
    TELLERS_PER_BRANCH,
    Content,
    Contents,
    Shape,
    blueprint,
    literal,
    row_checksum,
    trading_day,
)
from holdfast.errors import HoldfastError
from holdfast.messages import _
from holdfast.postgres.connection import Server, connect, sql_errors
from holdfast.postgres.lsn import Lsn

TRANSACTIONS_A_SECOND = 250.0
"""At most: a desk at work, not a benchmark."""

_BUSY_ACCOUNTS = 5_000
"""The load moves money between few accounts, as days do: the others rest."""

_REVISED_DAYS = 5
_OPENING = datetime(2025, 11, 17, 9, 30)  # noqa: DTZ001  a column without a zone
_BLANKS = " " * 84, " " * 88


_WORK = """\
begin;
insert into trades values ({trade});
update pgbench_accounts set abalance = abalance + {work.delta} where aid = {work.account};
update pgbench_tellers set tbalance = tbalance + {work.delta} where tid = {work.teller};
update pgbench_branches set bbalance = bbalance + {work.delta} where bid = {work.branch};
insert into pgbench_history values ({history});
update load_progress set transactions = {work.number};
"""
_REVISION = "update daily_blueprints set plan = {plan}, revision = {revision} where day = {day};\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A trade is entered, money moves (as pgbench's transactions move it), now and then a day's plan is revised."""

    number: int
    trade: tuple[object, ...]
    account: int
    teller: int
    branch: int
    delta: int
    at: datetime
    revised_day: int | None
    """The number of the day whose blueprint is revised."""

    @property
    def history(self) -> tuple[object, ...]:
        """Its row in ``pgbench_history``."""
        return (self.teller, self.branch, self.account, self.delta, self.at, None)


def transaction(number: int, shape: Shape) -> Transaction:
    """The ``number``-th, from 1."""
    chance = random.Random(number)  # noqa: S311  repeatable is what it must be
    today = shape.days - 1
    account = 1 + chance.randrange(min(_BUSY_ACCOUNTS, ACCOUNTS_PER_BRANCH))
    return Transaction(
        number=number,
        trade=(
            shape.trades + number,
            trading_day(today),
            chance.choice(SYMBOLS),
            chance.choice(("buy", "sell")),
            1 + chance.randrange(50),
            f"{chance.randrange(1, 10)}.{chance.randrange(10_000):04}",
            chance.choice((None, "止损", "rolled to the next month, 'as planned'", f"order {number}")),
        ),
        account=account,
        teller=1 + chance.randrange(shape.branches * TELLERS_PER_BRANCH),
        branch=1 + chance.randrange(shape.branches),
        delta=chance.randrange(-5_000, 5_001),
        at=_OPENING + timedelta(seconds=number),
        revised_day=today - chance.randrange(_REVISED_DAYS) if number % 4 == 0 else None,
    )


def statements(work: Transaction) -> bytes:
    """All of it, ``begin`` to ``commit``, for one round trip."""
    text = _WORK.format(
        trade=", ".join(map(literal, work.trade)), history=", ".join(map(literal, work.history)), work=work
    )
    if work.revised_day is not None:
        day, _symbol, plan, _image, revision = blueprint(work.revised_day, work.number)
        text += _REVISION.format(plan=literal(plan), revision=revision, day=literal(day))
    return f"{text}commit".encode()


def expected_after(count: int, base: Contents, shape: Shape) -> Contents:
    """What every table must hold after the first ``count`` transactions, if it held ``base`` before them."""
    rows: Counter[str] = Counter()
    checksums: Counter[str] = Counter()
    balances: dict[str, Counter[int]] = {name: Counter() for name in _BALANCES}
    revised: dict[int, int] = {}
    for number in range(1, count + 1):
        work = transaction(number, shape)
        for table, row in (("trades", work.trade), ("pgbench_history", work.history)):
            rows[table] += 1
            checksums[table] += row_checksum(*row)
        for table, key in _BALANCES.items():
            balances[table][getattr(work, key)] += work.delta
        if work.revised_day is not None:
            revised[work.revised_day] = number
    for table, changed in balances.items():
        for number, balance in changed.items():
            before, after = _bank_row(table, number, 0), _bank_row(table, number, balance)
            checksums[table] += row_checksum(*after) - row_checksum(*before)
    for day, revision in revised.items():
        checksums["daily_blueprints"] += row_checksum(*blueprint(day, revision)) - row_checksum(*blueprint(day, 0))
    checksums["load_progress"] += row_checksum(1, count) - row_checksum(1, 0)
    return {
        table: Content(rows=content.rows + rows[table], checksum=content.checksum + checksums[table])
        for table, content in base.items()
    }


_BALANCES: Mapping[str, str] = {
    "pgbench_accounts": "account",
    "pgbench_tellers": "teller",
    "pgbench_branches": "branch",
}


def _bank_row(table: str, key: int, balance: int) -> tuple[object, ...]:
    """Its row with that balance, as ``pgbench -i`` makes it but for that."""
    if table == "pgbench_accounts":
        return (key, 1 + (key - 1) // ACCOUNTS_PER_BRANCH, balance, _BLANKS[0])
    if table == "pgbench_tellers":
        return (key, 1 + (key - 1) // TELLERS_PER_BRANCH, balance, None)
    return (key, balance, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Of every transaction that the server acknowledged, in order, how far the WAL was written then."""

    positions: Sequence[Lsn]

    def held_at(self, end: Lsn) -> int:
        """How many transactions a copy recovered up to ``end`` holds at least; at most one more."""
        return bisect_right(self.positions, end)


class Writer:
    """The load as a thread of its own: it writes from ``start()`` until the server is gone, or ``stop()``."""

    def __init__(self, connection_string: str, shape: Shape, *, log: Path, clock: Clock) -> None:
        self._connection_string = connection_string
        self._shape = shape
        self._log = log
        self._clock = clock
        self._positions: list[Lsn] = []
        self._stopping = threading.Event()
        self._reached = threading.Condition()
        self._failure: HoldfastError | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def committed(self) -> int:
        return len(self._positions)

    def wait_for(self, count: int, *, limit: float) -> None:
        """Until so many transactions are committed. Raises what ended the load, or that it took over ``limit`` s."""
        with self._reached:
            self._reached.wait_for(lambda: self.committed >= count or not self._thread.is_alive(), timeout=limit)
        if self._failure is not None:
            raise self._failure
        if self.committed < count:
            raise HoldfastError(
                _("the load committed {found} transactions in {seconds:.0f} s, not {wanted}").format(
                    found=self.committed, seconds=limit, wanted=count
                )
            )

    def stop(self) -> Log:
        """Ends it; what it had noted. That the server went away under it is how the demo's story goes."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        return Log(positions=tuple(self._positions))

    def _run(self) -> None:
        try:
            with (
                closing(connect(self._connection_string)) as sql,
                sql_errors(Server.of(sql.pgconn)),
                self._log.open("w", encoding="ascii") as log,
            ):
                began = self._clock.monotonic()
                while not self._stopping.is_set():
                    number = self.committed + 1
                    sql.execute(statements(transaction(number, self._shape)))
                    row = sql.execute(b"select pg_current_wal_lsn()::text").fetchone()
                    assert row is not None
                    log.write(f"{number} {row[0]}\n")
                    with self._reached:
                        self._positions.append(Lsn.parse(row[0]))
                        self._reached.notify_all()
                    ahead = began + number / TRANSACTIONS_A_SECOND - self._clock.monotonic()
                    self._stopping.wait(max(ahead, 0))
        except HoldfastError as error:
            self._failure = error
        finally:
            with self._reached:
                self._reached.notify_all()
