"""What a started copy must not do as its source does: every setting overridden, and why. Pure.

A restored cluster brings the source's configuration. Started with that, it may write into the source's folders, join
its replication, run its jobs, hang on its first commit, or not start at all on another machine. These settings are
given on the server's command line, where they win over every file; a later start without them is the source's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from holdfast.postgres.facts import RecoveryLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    name: str
    value: str
    reason: str
    since: int = 15
    """The first major version that knows the setting."""
    until: int = 99


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a started copy lives, and by what it is reached."""

    data_dir: Path
    config_file: Path
    hba_file: Path
    ident_file: Path
    socket_dir: Path
    port: int
    name: str
    """Of this one start: by it a session makes sure that it has reached this server and no other."""
    listen: bool
    """On 127.0.0.1 as well; else on the socket alone."""


_ALWAYS = (
    Override(
        name="external_pid_file", value="", reason="Debian's names the source's own file: it would be overwritten"
    ),
    Override(name="archive_mode", value="off", reason="its WAL must not enter the source's archive"),
    Override(name="synchronous_standby_names", value="", reason="the first commit would wait for a standby for ever"),
    Override(name="primary_conninfo", value="", reason="it must not stream from the source's primary"),
    Override(name="primary_slot_name", value="", reason="nor use up a slot there"),
    Override(name="archive_cleanup_command", value="", reason="it would remove files from the source's archive"),
    Override(name="recovery_end_command", value="", reason="it would act on the source's surroundings"),
    Override(name="recovery_min_apply_delay", value="0", reason="a delayed standby's backup would recover as slowly"),
    Override(name="max_logical_replication_workers", value="0", reason="its subscriptions would consume the source's"),
    Override(name="sync_replication_slots", value="off", reason="it is nobody's standby", since=17),
    Override(name="session_preload_libraries", value="", reason="a library that is not here refuses every session"),
    Override(name="local_preload_libraries", value="", reason="as above"),
    Override(name="event_triggers", value="off", reason="a login trigger may lock everybody out, or act", since=17),
    Override(name="cron.launch_active_jobs", value="off", reason="pg_cron would run the source's jobs here"),
    Override(name="timescaledb.max_background_workers", value="0", reason="TimescaleDB would run its policies"),
    Override(
        name="hot_standby",
        value="off",
        reason="with it, limits lower than the WAL's make recovery pause for ever while pg_ctl reports success",
    ),
    Override(name="ssl", value="off", reason="the keys are the source's, and not in the backup"),
    Override(name="unix_socket_group", value="", reason="the group may not exist here"),
    Override(name="unix_socket_permissions", value="0700", reason="who may enter the socket's folder is trusted"),
    Override(name="bonjour", value="off", reason="nobody shall find it"),
    Override(name="huge_pages", value="off", reason="there may be none left, or none at all"),
    Override(name="min_dynamic_shared_memory", value="0", reason="sized for another machine"),
    Override(name="io_method", value="worker", reason="io_uring may be missing or forbidden here", since=18),
    Override(name="lc_messages", value="C", reason="what went wrong is looked for in its log, in English"),
    Override(name="logging_collector", value="off", reason="its log goes to a file of its own"),
    Override(name="log_destination", value="stderr", reason="as above"),
    Override(name="log_min_messages", value="warning", reason="what stops it must stand there"),
)

_NOT_NEEDED = frozenset(
    {
        *("auth_delay", "auto_explain", "basic_archive", "passwordcheck", "pg_prewarm", "pg_stat_statements"),
        *("credcheck", "pg_cron", "pg_net", "pg_partman_bgw", "pg_qualstats", "pg_squeeze", "pg_stat_kcache"),
        *("pg_stat_monitor", "pg_wait_sampling", "pgaudit", "pglogical", "pgsentinel", "powa", "set_user"),
        *("supautils", "wal2json"),
    }
)
"""Libraries that observe, guard or run jobs: without them WAL is replayed and tables are read all the same."""


def overrides(
    place: Place, *, major: int, limits: RecoveryLimits, preload: tuple[str, ...], shared_buffers: str = "128MB"
) -> tuple[Override, ...]:
    """Every setting that a started copy gets on its command line.

    ``preload`` is what the copy's configuration names in ``shared_preload_libraries``. Libraries that nobody here
    knows are kept: WAL or catalogues may need them, and a server that says which one it lacks beats wrong answers.
    """
    needed = ",".join(library for library in preload if library.rpartition("/")[2] not in _NOT_NEEDED)
    everything = (
        *_of_place(place),
        *_ALWAYS,
        Override(name="shared_buffers", value=shared_buffers, reason="the source's may be more than there is"),
        Override(name="shared_preload_libraries", value=needed, reason="only what reading the data needs"),
        *(
            Override(name=name, value=str(value), reason="recovery needs at least the source's")
            for name, value in asdict(limits).items()
        ),
    )
    return tuple(override for override in everything if override.since <= major <= override.until)


def _of_place(place: Place) -> tuple[Override, ...]:
    mine = "its own, not the source's"
    return (
        Override(name="data_directory", value=str(place.data_dir), reason="Debian's configuration names the source's"),
        Override(name="config_file", value=str(place.config_file), reason="it may lie beside the restored data"),
        Override(name="hba_file", value=str(place.hba_file), reason="who may enter here is not who may enter there"),
        Override(name="ident_file", value=str(place.ident_file), reason=mine),
        Override(name="cluster_name", value=place.name, reason="a session must be able to tell it from its source"),
        Override(name="port", value=str(place.port), reason="the source's may be taken, or expected by its clients"),
        Override(name="listen_addresses", value="127.0.0.1" if place.listen else "", reason="no client must find it"),
        Override(name="unix_socket_directories", value=str(place.socket_dir), reason=mine),
    )


def command_line(settings: tuple[Override, ...], more: Mapping[str, str] | None = None) -> list[str]:
    """``-c name=value`` arguments; of one name given twice the server takes the last, so ``more`` wins."""
    pairs = [*((override.name, override.value) for override in settings), *(more or {}).items()]
    return [argument for name, value in pairs for argument in ("-c", f"{name}={value}")]
