"""What turns a restored folder into a cluster that recovers to its target, and to nothing less. Text in, text out.

The WAL that recovery is planned to need lies in ``holdfast-recovery/wal/`` inside the folder; ``pg_wal`` holds no
segment. ``restore_command`` copies from there and nowhere else: it needs no network, secret, configuration or Python.

PostgreSQL takes every exit of ``restore_command`` from 1 to 125, and 0 without a file, for "the archive ends here",
promotes, and what followed is lost (``RestoreArchivedFile`` in ``xlogarchive.c``). So what may be absent is decided by
the plan, a list of names, never by looking what is there, and everything else that is not one whole file ends in 126,
which makes the server stop instead. That is what the shell's exit trap answers to whatever ends it; only the command
line in ``postgresql.auto.conf`` takes the trap back, for two answers that the script must give in so many words.

Replay waits for each segment, so the shell does with what is built into it; the one program that is run copies and
counts at once. The segment is copied, never linked: PostgreSQL recycles what it was given, and writes into it.

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
from holdfast.postgres.lsn import Segment, history_name, history_timeline, is_segment_name, is_segment_size

RECOVERY_DIR = "holdfast-recovery"
WAL_DIR = f"{RECOVERY_DIR}/wal"
PLAN = f"{RECOVERY_DIR}/plan"
WRAPPER = f"{RECOVERY_DIR}/restore-command"
RECOVERY_SIGNAL = "recovery.signal"
STANDBY_SIGNAL = "standby.signal"
AUTO_CONF = "postgresql.auto.conf"

LEFT_BEHIND = (STANDBY_SIGNAL, "postmaster.pid", "postmaster.opts")
"""Files that a backup may carry and a restored folder must not: a standby's signal wins over ``recovery.signal``."""

PLAN_END = "end"

RESTORE_COMMAND = (
    'trap "exit 126" 0; answer=; set -- "%f" "%p"; . '
    f"{WRAPPER}; "
    'case $answer in copied) [ -f "%p" ] && trap - 0 && exit 0;; not-planned) trap - 0; exit 1;; esac; exit 126'
)
"""Run by PostgreSQL in the data directory. A script that is gone, cut short, wrong or killed stops recovery."""

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
    "recovery_min_apply_delay",
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
    timeline: int | None = None
    """The one that recovery follows to; its history file is planned. None: the newest of the planned histories."""
    tablespaces: Mapping[int, str] = field(default_factory=dict)
    """Where each tablespace's files were restored to, by OID: absolute paths."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further settings, which stand in ``postgresql.auto.conf`` also when recovery is over."""

    def __post_init__(self) -> None:
        if not is_segment_size(self.wal_segment_size):
            raise UsageError(_("{size} is not a WAL segment size").format(size=self.wal_segment_size))
        if not any(map(is_segment_name, self.planned)):
            raise UsageError(_("a recovery needs at least one WAL segment, and none is planned"))
        for name in self.planned:
            if not is_segment_name(name) and history_timeline(name) is None:
                raise UsageError(_("{name!r} is no file that recovery asks for").format(name=name))
        if self.timeline not in (None, 1) and history_name(self.timeline or 0) not in self.planned:
            raise Damaged(
                _("the history file {name} is missing: nobody knows where timeline {timeline} branched off").format(
                    name=history_name(self.timeline or 0), timeline=self.timeline
                ),
                hint=_("Recover along another timeline: --timeline N, or --timeline current."),
            )
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
        AUTO_CONF: with_recovery_settings(
            auto_conf, recovery.target, timeline=recovery.timeline, settings=recovery.settings
        ),
        RECOVERY_SIGNAL: b"",
        TABLESPACE_MAP: render_tablespace_map(links),
        PLAN: render_plan(recovery.planned),
        WRAPPER: render_wrapper(recovery.wal_segment_size, recovery.planned),
    }


def render_plan(names: tuple[str, ...]) -> bytes:
    """A variable of the shell: one name a line, then :data:`PLAN_END`, without which the plan is cut short."""
    return f"planned='{_planned(names)}'\n".encode("ascii")


def _planned(names: tuple[str, ...]) -> str:
    return "\n" + "".join(f"{name}\n" for name in (*names, PLAN_END))


def with_recovery_settings(
    auto_conf: bytes, target: Target, *, timeline: int | None = None, settings: Mapping[str, str] | None = None
) -> bytes:
    """``auto_conf`` with the settings of this recovery, instead of any that the source or an earlier one left there.

    ``settings`` are further ones, outside of what :func:`without_recovery_settings` takes away.
    """
    own = {
        "restore_command": RESTORE_COMMAND,
        **{name: "" for name in _TARGETS if name != target.setting},
        "recovery_target_inclusive": "on" if target.inclusive else "off",
        "recovery_target_timeline": "latest" if timeline is None else str(timeline),
        "recovery_target_action": "promote",
        "recovery_min_apply_delay": "0",  # a delayed standby's holds back each commit here too (recoveryApplyDelay)
        **dict.fromkeys(_OF_THE_SOURCE, ""),
    }
    if target.setting:  # after the blank ones: blanking one while another is set is "at most one may be set" and FATAL
        own[target.setting] = target.value
    more = settings or {}
    lines = [*_assignments(more), _BEGIN, *_assignments(own), _END]
    kept = _without(auto_conf, {*_OF_RECOVERY, *_OF_THE_SOURCE, *more})
    return kept + "\n".join(lines).encode() + b"\n"


def _assignments(settings: Mapping[str, str]) -> list[str]:
    return [f"{name} = {quoted(value)}" for name, value in settings.items()]


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


def render_wrapper(wal_segment_size: int, planned: tuple[str, ...]) -> bytes:
    """What :data:`RESTORE_COMMAND` reads, in the data directory, with %f and %p as ``$1`` and ``$2``.

    It sets ``answer``: ``copied`` when ``$2`` is a whole copy (``wal_segment_size`` bytes, a history file of any size
    but none), ``not-planned`` when the plan is whole and does not name ``$1``. In every other case it does not return,
    or leaves ``answer`` empty, with the reason on stderr, which is the server's log. Its last line is what runs it, and
    the sizes of segment and plan are in it, so that a script cut short does nothing.
    """
    script = _WRAPPER.replace("@MEBIBYTES@", str(wal_segment_size >> 20))
    return script.replace("@LENGTH@", str(len(_planned(planned)))).encode("ascii")


_WRAPPER = f"""\
# Copies one WAL file that Holdfast brought along to where PostgreSQL wants it: $1 is %f, $2 is %p.
# restore_command in postgresql.auto.conf reads this, and goes on only by what it says in $answer: anything else aborts.

answer=
PATH=/usr/bin:/bin:/usr/sbin:/sbin${{PATH:+:$PATH}}
LC_ALL=C
export PATH LC_ALL

abort() {{
    echo "holdfast: $1" >&2
    rm -f "$goal"
    exit 126
}}

copy() {{
    mebibytes=$1 length=$2 name=$3 goal=$4
    source={WAL_DIR}/$name
    [ -n "$name" ] && [ -n "$goal" ] || abort "restore_command was called without %f or %p"

    planned=
    . {PLAN}
    [ ${{#planned}} -eq "$length" ] || abort "{PLAN} is not as it was written"
    case $planned in
        *"
{PLAN_END}
") ;;
        *) abort "{PLAN} is cut short" ;;
    esac
    case $planned in
        *"
$name
"*) ;;
        *)
            answer=not-planned
            return
            ;;
    esac

    [ -f "$source" ] || abort "$source is planned and not there"
    if ! said=$(dd if="$source" of="$goal" bs=1048576 2>&1); then
        abort "$source could not be copied: $said"
    fi
    case $name in
        *.history) [ -s "$goal" ] || abort "$source is empty" ;;
        *)
            case $said in
                "$mebibytes+0 records in
$mebibytes+0 records out"*) ;;
                *) abort "$source does not have $mebibytes MiB: $said" ;;
            esac
            ;;
    esac
    answer=copied
}}

copy @MEBIBYTES@ @LENGTH@ "$@"
"""
