"""Whether commits wait for Holdfast, and whether they would wait for ever.

``synchronous_standby_names`` as the manual's "Replication" has it: ``[FIRST] n (a, b)``, ``ANY n (a, b)``,
or a list, which is ``FIRST 1``; ``*`` is any name; names are compared without regard to case.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from holdfast.messages import _
from holdfast.postgres.connection import Connection, quote_identifier
from holdfast.postgres.finding import Finding, failed, ok, warning

_NAMES = "synchronous_standby_names"
_RELOAD = "SELECT pg_reload_conf();"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncNames:
    is_any: bool
    """``ANY``: as many as :attr:`number` of them, whichever; else the first of the list."""
    number: int
    names: tuple[str, ...]

    def has(self, name: str) -> bool:
        return any(other in ("*", name.lower()) for other in map(str.lower, self.names))

    def needs(self, name: str) -> bool:
        """Whether no commit returns while ``name`` alone is away."""
        others = [other for other in self.names if other.lower() != name.lower()]
        return self.has(name) and len(others) < self.number and "*" not in self.names

    def counts(self, name: str) -> bool:
        """Whether commits wait for ``name`` while all are there."""
        if not self.has(name):
            return False
        if self.is_any:
            return self.needs(name)
        first = [other.lower() for other in self.names[: self.number]]
        return name.lower() in first or "*" in first


def parse_sync_names(text: str) -> SyncNames | None:
    """None: nobody is named. What PostgreSQL has taken into use is always well formed."""
    match = re.fullmatch(r"\s*(?:(FIRST|ANY)\s+)?(\d+)\s*\((.*)\)\s*", text, re.IGNORECASE | re.DOTALL)
    listed = match[3] if match else text
    names = tuple(
        quoted.replace('""', '"') if quoted else plain
        for quoted, plain in re.findall(r'"((?:[^"]|"")+)"|([^\s,"]+)', listed)
    )
    if not names:
        return None
    is_any = match is not None and (match[1] or "").upper() == "ANY"
    return SyncNames(is_any=is_any, number=int(match[2]) if match else 1, names=names)


def check_sync(sql: Connection, values: Mapping[str, str], *, is_wanted: bool) -> Iterator[Finding]:
    """``values``: of settings, by name. ``is_wanted``: commits are meant to wait for us."""
    ((ours, in_recovery, others, elsewhere),) = sql.execute(
        """
        select current_setting('application_name'), pg_is_in_recovery(),
               array(select distinct application_name::text from pg_stat_replication
                     where lower(application_name) <> lower(current_setting('application_name'))
                       and application_name <> '' and state = 'streaming' order by 1),
               exists (select from pg_db_role_setting, unnest(setconfig) as pair
                       where lower(pair) = 'synchronous_commit=remote_apply')
        """
    ).fetchall()
    named = parse_sync_names(values[_NAMES])
    if in_recovery:
        if is_wanted:
            what = _("commits are meant to wait for Holdfast, but a standby is read, and only a primary's can wait")
            yield warning(_NAMES, what, _("Name the primary in the source's connection."))
    elif named is None or not named.has(ours):
        if is_wanted:
            what = _("commits are meant to wait for Holdfast, but {setting} does not name it").format(setting=_NAMES)
            yield warning(_NAMES, what, _proposal(ours, [*(named.names if named else ()), *others]))
        else:
            yield ok(_NAMES, _("commits do not wait for Holdfast"))
    else:
        yield from _levels(values["synchronous_commit"], named, ours, elsewhere=elsewhere, is_wanted=is_wanted)
        yield _waiting(named, ours, others, value=values[_NAMES])


def _levels(level: str, named: SyncNames, ours: str, *, elsewhere: bool, is_wanted: bool) -> Iterator[Finding]:
    name = "synchronous_commit"
    if level == "remote_apply" or elsewhere:
        what = _("{setting} = remote_apply: commits would wait until Holdfast lets them be read, for ever")
        remedy = f"ALTER SYSTEM SET {name} = on;\n{_RELOAD}"
        if level != "remote_apply":
            what = _("a role or database has {setting} = remote_apply: its commits would wait for Holdfast for ever")
            remedy = _("Find it, and set it to on: {sql}").format(
                sql="SELECT setdatabase, setrole::regrole, setconfig FROM pg_db_role_setting;"
            )
        kind = failed if named.counts(ours) else warning
        yield kind(name, what.format(setting=name), remedy)
    elif level in ("off", "local") and is_wanted:
        what = _("{setting} = {level}: commits wait for nobody").format(setting=name, level=level)
        yield warning(name, what, f"ALTER SYSTEM SET {name} = on;\n{_RELOAD}")
    else:
        yield ok(name, f"{name} = {level}")


def _waiting(named: SyncNames, ours: str, others: Sequence[str], *, value: str) -> Finding:
    if not named.needs(ours):
        return ok(_NAMES, f"{_NAMES} = {value}")
    what = _("{setting} = {value}: while Holdfast is away, no commit returns").format(setting=_NAMES, value=value)
    remedy = _("Name a standby beside it, so that either is enough:")
    remedy += "\n" + _proposal(ours, [*named.names, *others], stand_in="STANDBY")
    way_out = f"ALTER SYSTEM SET {_NAMES} = ''; {_RELOAD}"
    return warning(_NAMES, what, remedy + "\n" + _("The way out, when commits hang: {sql}").format(sql=way_out))


def _proposal(ours: str, names: Sequence[str], *, stand_in: str = "") -> str:
    """``ANY 1``: a commit returns when one of them has it."""
    others = list(dict.fromkeys(name for name in names if name.lower() != ours.lower() and name != "*"))
    others = others or ([stand_in] if stand_in else [])
    listed = ", ".join([_quoted(ours), *map(_quoted, others)])
    return f"ALTER SYSTEM SET {_NAMES} = 'ANY 1 ({listed})';\n{_RELOAD}"


def _quoted(name: str) -> str:
    return (name if name == "STANDBY" else quote_identifier(name)).replace("'", "''")
