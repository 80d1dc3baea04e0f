"""The command line: one file a command, which parses, calls one job, and prints.

:func:`main` is the process: signals, language, exit codes. A line that :mod:`~holdfast.cli.lean` can do ends there,
before anything else is imported; all others are run by :mod:`~holdfast.cli.frame`.
"""

from __future__ import annotations

import sys

from holdfast.cli import lean

TYPE_CHECKING = False  # typing itself is not imported
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

COMMANDS: Mapping[str, str] = {
    "demo": "holdfast.cli.demo",
    "init": "holdfast.cli.init",
    "check": "holdfast.cli.check",
    "backup": "holdfast.cli.backup",
    "list": "holdfast.cli.list",
    "status": "holdfast.cli.status",
    "show": "holdfast.cli.show",
    "restore": "holdfast.cli.restore",
    "log": "holdfast.cli.log",
    "verify": "holdfast.cli.verify",
    "wal": "holdfast.cli.wal",
    "kit": "holdfast.cli.kit",
    "key": "holdfast.cli.key",
}
"""Each command (or group of commands) and the module that registers it, in the order of ``--help``."""


def main(commands: Mapping[str, str] | None = None) -> NoReturn:
    """The process: never returns."""
    arguments = sys.argv[1:]
    try:
        lean.main(arguments)
        from holdfast.cli import frame

        frame.main(arguments, COMMANDS if commands is None else commands)
    except Exception:
        if lean.is_fetch(arguments):
            lean.abort()
        raise
