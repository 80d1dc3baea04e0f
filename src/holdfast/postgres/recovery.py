"""What turns a restored folder into a cluster that recovers to its target, and to nothing less. Text in, text out.

The WAL that recovery is planned to need lies in ``holdfast-recovery/wal/`` inside the folder; ``pg_wal`` holds no
segment. ``restore_command`` copies from there and nowhere else: it needs no network, secret, configuration or Python.

PostgreSQL takes every exit of ``restore_command`` from 1 to 125, and 0 without a file, for "the archive ends here",
promotes, and what followed is lost (``RestoreArchivedFile`` in ``xlogarchive.c``). So what may be absent is decided by
the plan, a list of names, never by looking what is there, and everything else that is not one whole file ends in 126,
which makes the server stop instead. The wrapper reports "not planned" by a code that no failing program returns by
chance; only the command line in ``postgresql.auto.conf`` turns that one into 1.

Sources: PostgreSQL's manual, "Archive Recovery" and "Recovery Target" under Server Configuration; ``guc-file.l``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from holdfast.errors import Damaged, UsageError
from holdfast.messages import _
from holdfast.postgres.datadir import TABLESPACE_MAP, TablespaceLink, render_tablespace_map
from holdfast.postgres.lsn import Segment, history_timeline, is_segment_name, is_segment_size

RECOVERY_DIR = "holdfast-recovery"
WAL_DIR = f"{RECOVERY_DIR}/wal"
PLAN = f"{RECOVERY_DIR}/plan"
WRAPPER = f"{RECOVERY_DIR}/restore-command"
RECOVERY_SIGNAL = "recovery.signal"
STANDBY_SIGNAL = "standby.signal"
AUTO_CONF = "postgresql.auto.conf"

LEFT_BEHIND = (STANDBY_SIGNAL, "postmaster.pid", "postmaster.opts")
"""Files that a backup may carry and a restored folder must not: a standby's signal wins over ``recovery.signal``."""

NOT_PLANNED = 64
"""The wrapper's exit for a file that the plan does not name: recovery may end there."""

PLAN_END = "end"

RESTORE_COMMAND = (
    f'/bin/sh {WRAPPER} "%f" "%p"; case $? in 0) [ -f "%p" ] || exit 126;; {NOT_PLANNED}) exit 1;; *) exit 126;; esac'
)
"""Run by PostgreSQL in the data directory. A wrapper that is gone (2 or 127), cut short or killed stops recovery."""

_TARGETS = (
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
)
_OF_RECOVERY = (
    "restore_command",
    *_TARGETS,
    "recovery_target_inclusive",
    "recovery_target_timeline",
    "recovery_target_action",
)
_OF_THE_SOURCE = ("primary_conninfo", "primary_slot_name", "archive_cleanup_command", "recovery_end_command")
_BEGIN = "# holdfast: settings of this recovery"
_END = "# holdfast: end of these settings"
_ASSIGNMENT = re.compile(r"\s*([A-Za-z_][\w.]*)[\s=]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where recovery ends. Without a setting: at the end of the planned WAL."""

    setting: str = ""
    """Empty, or one of the five ``recovery_target…`` settings."""
    value: str = ""
    """As PostgreSQL reads it: an LSN, a transaction id, a restore point's name, a time with its offset from UTC."""
    inclusive: bool = True
    """Whether what lies exactly at the target is kept."""

    def __post_init__(self) -> None:
        if (self.setting != "" and self.setting not in _TARGETS) or bool(self.setting) != bool(self.value):
            raise UsageError(
                _("{setting} = {value!r} is no recovery target").format(setting=self.setting or "''", value=self.value)
            )


CONSISTENT = Target(setting="recovery_target", value="immediate")
"""As soon as the backup is consistent: the state at its end."""

END_OF_WAL = Target()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """All that the files of one recovery follow from."""

    planned: tuple[str, ...]
    """Names of the WAL segments and history files that lie in ``holdfast-recovery/wal/``: what must be found there."""
    wal_segment_size: int
    """Bytes."""
    target: Target = CONSISTENT
    tablespaces: Mapping[int, str] = field(default_factory=dict)
    """Where each tablespace's files were restored to, by OID: absolute paths."""

    def __post_init__(self) -> None:
        if not is_segment_size(self.wal_segment_size):
            raise UsageError(_("{size} is not a WAL segment size").format(size=self.wal_segment_size))
        if not any(map(is_segment_name, self.planned)):
            raise UsageError(_("a recovery needs at least one WAL segment, and none is planned"))
        for name in self.planned:
            if not is_segment_name(name) and history_timeline(name) is None:
                raise UsageError(_("{name!r} is no file that recovery asks for").format(name=name))
        if missing := _first_gap(self.planned, self.wal_segment_size):
            raise Damaged(
                _("the planned WAL has a gap: {name} is missing").format(name=missing),
                hint=_("Recover to a moment before the gap, or from a snapshot taken after it."),
            )


def _first_gap(planned: tuple[str, ...], size: int) -> str:
    """The first segment that is missing between two of one timeline, or before the first of a later one; or empty.

    Recovery would take it for the end, although what follows is there.
    """
    segments = sorted(Segment.parse(name, size) for name in planned if is_segment_name(name))
    for earlier, later in pairwise(segments):
        joined = (
            later.number <= earlier.number + 1 if later.timeline > earlier.timeline else later == earlier.following()
        )
        if not joined and later != earlier:
            return earlier.following().name
    return ""


def recovery_files(recovery: Recovery, *, auto_conf: bytes = b"") -> dict[str, bytes]:
    """Path in the data directory to content: what to write over a restored folder, beside the planned WAL.

    ``auto_conf`` is the restored ``postgresql.auto.conf``. A ``tablespace_map`` is always among them, so that the
    backup's own, which names the source's folders, never survives. :data:`LEFT_BEHIND` must be removed as well.
    """
    links = [TablespaceLink(oid=oid, location=location) for oid, location in sorted(recovery.tablespaces.items())]
    return {
        AUTO_CONF: with_recovery_settings(auto_conf, recovery.target),
        RECOVERY_SIGNAL: b"",
        TABLESPACE_MAP: render_tablespace_map(links),
        PLAN: render_plan(recovery.planned),
        WRAPPER: render_wrapper(recovery.wal_segment_size),
    }


def render_plan(names: tuple[str, ...]) -> bytes:
    """One name a line, then :data:`PLAN_END`, without which the wrapper takes the plan for cut short."""
    return "".join(f"{name}\n" for name in (*names, PLAN_END)).encode("ascii")


def with_recovery_settings(auto_conf: bytes, target: Target) -> bytes:
    """``auto_conf`` with the settings of this recovery, instead of any that the source or an earlier one left there."""
    settings = {
        "restore_command": RESTORE_COMMAND,
        **{name: "" for name in _TARGETS if name != target.setting},
        "recovery_target_inclusive": "on" if target.inclusive else "off",
        "recovery_target_timeline": "latest",
        "recovery_target_action": "promote",
        **dict.fromkeys(_OF_THE_SOURCE, ""),
    }
    if target.setting:  # after the blank ones: blanking one while another is set is "at most one may be set" and FATAL
        settings[target.setting] = target.value
    lines = [_BEGIN, *(f"{name} = {quoted(value)}" for name, value in settings.items()), _END]
    kept = _without(auto_conf, {*_OF_RECOVERY, *_OF_THE_SOURCE})
    return kept + "\n".join(lines).encode() + b"\n"


def without_recovery_settings(auto_conf: bytes) -> bytes:
    """``auto_conf`` when recovery is over, so that a standby made from this cluster does not look for our WAL."""
    return _without(auto_conf, {*_OF_RECOVERY, *_OF_THE_SOURCE})


def _without(auto_conf: bytes, names: set[str]) -> bytes:
    """Line by line in ASCII terms: the values of other settings may be in any encoding."""
    kept = []
    for line in auto_conf.splitlines(keepends=True):
        match = _ASSIGNMENT.match(line.decode("ascii", "replace"))
        ours = line.strip().decode("ascii", "replace") in (_BEGIN, _END)
        if not ours and (match is None or match[1].lower() not in names):
            kept.append(line if line.endswith(b"\n") else line + b"\n")
    return b"".join(kept)


def quoted(value: str) -> str:
    """A value as configuration files quote it; newlines cannot stand in one."""
    if "\n" in value or "\r" in value or "\0" in value:
        raise UsageError(_("a setting cannot hold a newline: {value!r}").format(value=value))
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def render_wrapper(wal_segment_size: int) -> bytes:
    """The ``/bin/sh`` script, run as ``sh holdfast-recovery/restore-command %f %p`` in the data directory.

    Exits: 0 when ``%p`` is a whole copy (``wal_segment_size`` bytes, a history file of any size but none);
    :data:`NOT_PLANNED`; 126 in every other case, with the reason on stderr, which is the server's log. Its last line
    is what runs it, and the size is in it, so that a script cut short does nothing and says so.
    """
    return _WRAPPER.replace("@SIZE@", str(wal_segment_size)).encode("ascii")


_WRAPPER = f"""\
# Copies one WAL file that Holdfast brought along to where PostgreSQL wants it: $1 is %f, $2 is %p.
# 0: copied whole. {NOT_PLANNED}: not in the plan, the WAL ends here. 126: anything else; recovery must not go on.

PATH=/usr/bin:/bin:/usr/sbin:/sbin${{PATH:+:$PATH}}
export PATH
LC_ALL=C
export LC_ALL

abort() {{
    echo "holdfast: $1" >&2
    rm -f "$partial"
    exit 126
}}

copy() {{
    size=$1 name=$2 goal=$3 partial=$3.partial
    source={WAL_DIR}/$name
    [ -n "$name" ] && [ -n "$goal" ] || abort "restore_command was called without %f or %p"

    [ "$(tail -n 1 {PLAN})" = {PLAN_END} ] || abort "{PLAN} is cut short or gone"
    grep -qxF -e "$name" {PLAN}
    case $? in
        0) ;;
        1) exit {NOT_PLANNED} ;;
        *) abort "{PLAN} cannot be read" ;;
    esac

    [ -f "$source" ] || abort "$source is planned and not there"
    cp "$source" "$partial" || abort "$source could not be copied"
    bytes=$(($(wc -c <"$partial"))) || abort "$partial cannot be measured"
    case $name in
        *.history) [ "$bytes" -gt 0 ] || abort "$source is empty" ;;
        *) [ "$bytes" -eq "$size" ] || abort "$source has $bytes bytes instead of $size" ;;
    esac
    mv -f "$partial" "$goal" || abort "$goal could not be written"
    exit 0
}}

copy @SIZE@ "$@"
exit 126
"""
