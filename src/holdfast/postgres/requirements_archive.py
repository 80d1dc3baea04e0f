"""``archive_command``: whether it is ours where it must be, and whether archiving works where it is somebody's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from holdfast.messages import _
from holdfast.postgres.connection import Connection
from holdfast.postgres.finding import Finding, failed, ok, warning

_RELOAD = "SELECT pg_reload_conf();"
_OURS = "wal push"


def check_archive(sql: Connection, values: Mapping[str, str], *, source: str, is_wanted: bool) -> Iterator[Finding]:
    """``values``: of settings, by name. ``is_wanted``: WAL is to come by ``archive_command``."""
    ((in_recovery,),) = sql.execute("select pg_is_in_recovery()").fetchall()
    mode = values["archive_mode"]
    needed = "always" if in_recovery else "on"
    if not is_wanted:
        yield from _others(values)
    else:
        if mode not in ("always", needed):
            what = _("archive_mode = {mode}, so that no WAL is archived here").format(mode=mode)
            yield failed("archive_mode", what, f"ALTER SYSTEM SET archive_mode = {needed};\n{_restart()}")
        else:
            yield ok("archive_mode", f"archive_mode = {mode}")
        yield _command(values, source)
        yield _timeout(values)
    if mode != "off" and not (in_recovery and mode == "on"):
        yield from _archiver(sql)


def _others(values: Mapping[str, str]) -> Iterator[Finding]:
    """Archiving that we do not need: another tool's, or ours beside the stream."""
    mode, command = values["archive_mode"], values["archive_command"] or values["archive_library"]
    yield ok("archive_mode", f"archive_mode = {mode}")
    if mode == "off" or not command or _OURS in command:
        return
    what = _("archive_command is another tool's, and stays so: {command}").format(command=command)
    yield ok("archive_command", what)


def _command(values: Mapping[str, str], source: str) -> Finding:
    command, library = values["archive_command"], values["archive_library"]
    set_ours = f"ALTER SYSTEM SET archive_command = 'holdfast wal push --source {source} %p';\n{_RELOAD}"
    if library:
        what = _("archive_library = {library} takes the place of archive_command").format(library=library)
        return failed("archive_command", what, f"ALTER SYSTEM RESET archive_library;\n{set_ours}")
    if _OURS in command:
        return ok("archive_command", f"archive_command = {command}")
    what = _("archive_command is not Holdfast's: {command}").format(command=command or _("empty"))
    return failed("archive_command", what, set_ours)


def _timeout(values: Mapping[str, str]) -> Finding:
    name = "archive_timeout"
    if values[name] != "0":
        return ok(name, f"{name} = {values[name]}s")
    what = _("{setting} = 0: what is committed waits on the server until a whole segment is full").format(setting=name)
    return warning(name, what, f"ALTER SYSTEM SET {name} = '60s';\n{_RELOAD}")


def _archiver(sql: Connection) -> Iterator[Finding]:
    """Failing archiving fills ``pg_wal``, whoever's it is."""
    row = sql.execute(
        """
        select last_failed_wal, date_trunc('second', last_failed_time)::text from pg_stat_archiver
        where last_failed_time > coalesce(last_archived_time, '-infinity')
        """
    ).fetchone()
    if row is None:
        return
    what = _("archiving fails: {file} at {time}; until it succeeds, WAL stays on the server's disk")
    yield warning(
        "archiver",
        what.format(file=row[0], time=row[1]),
        _("The server's log says why; then: {sql}").format(sql="SELECT * FROM pg_stat_archiver;"),
    )


def _restart() -> str:
    return _("Then restart PostgreSQL: {command}").format(command="systemctl restart postgresql")
