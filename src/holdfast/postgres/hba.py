"""Lines of pg_hba.conf: who may come in, from where, and how they prove it.

Source: "The pg_hba.conf File" in PostgreSQL's manual. Words that are not plain are quoted, keywords never.
"""

from __future__ import annotations

import getpass
import ipaddress
import re
from dataclasses import dataclass

KEYWORDS = frozenset({"all", "replication", "sameuser", "samerole", "samegroup", "samehost", "samenet"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HbaLine:
    database: str
    """``replication`` is the replication protocol, which ``all`` does not cover."""
    role: str
    address: str | None = None
    """An IP address (that one alone is let in), a network, a keyword or a host name; None: the Unix-domain socket."""
    method: str = ""
    """Empty: ``peer`` over the socket if the role is named like this process's user, else ``scram-sha-256``."""

    def render(self) -> str:
        by_peer = self.address is None and self.role == getpass.getuser()
        words = [
            "local" if self.address is None else "host",
            quote_word(self.database),
            quote_word(self.role),
            *([] if self.address is None else [_network(self.address)]),
            self.method or ("peer" if by_peer else "scram-sha-256"),
        ]
        return " ".join(words)


def quote_word(word: str) -> str:
    """A database or role as pg_hba.conf wants it."""
    if word in KEYWORDS or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_$-]*", word):
        return word
    return '"' + word.replace('"', '""') + '"'


def _network(address: str) -> str:
    try:
        return f"{address}/{ipaddress.ip_address(address).max_prefixlen}"
    except ValueError:
        return address
