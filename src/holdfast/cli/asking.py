"""Asking the person at the terminal. Questions go to standard error; nobody is asked where nobody sits."""

from __future__ import annotations

import getpass
import sys
from typing import TYPE_CHECKING

from holdfast.cli.session import at_terminal
from holdfast.errors import UsageError
from holdfast.messages import _

if TYPE_CHECKING:
    from holdfast.cli.session import Session


def may_ask(session: Session) -> bool:
    """Whether there is somebody to ask: a terminal, and no program that waits for JSON."""
    return at_terminal() and not session.json


def ask(question: str, default: str = "") -> str:
    """A line typed at the terminal, or ``default`` for an empty one. Raises ``UsageError`` when the terminal closes."""
    sys.stderr.write(f"{question} [{default}]: " if default else f"{question}: ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise UsageError(_("no answer: the terminal was closed"))
    return line.strip() or default


def ask_secret(question: str) -> str:
    """A line typed without being shown. Raises ``UsageError`` when the terminal closes."""
    try:
        return getpass.getpass(f"{question}: ", stream=sys.stderr)
    except EOFError:
        raise UsageError(_("no answer: the terminal was closed")) from None
