"""Where the WAL of a stream begins: records that say so, and from which readers start to look.

An object is one sealed part, JSON with the fields of :class:`~holdfast.repository.wal.held.Begin`, in the folder of its
stream.
"""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.moments import read_moment
from holdfast.repository.wal.held import Begin
from holdfast.repository.wal.pieces import Stream


def encode_begin(begin: Begin) -> bytes:
    return json.dumps(
        {
            "source": begin.stream.source,
            "system_identifier": begin.stream.system_identifier,
            "segment_size": begin.segment_size,
            "timeline": begin.timeline,
            "lsn": begin.lsn,
            "when": begin.when.astimezone(UTC).isoformat(),
            "host": begin.host,
            "why": begin.why,
            "after": begin.after,
            "after_timeline": begin.after_timeline,
        },
        sort_keys=True,
    ).encode()


def decode_begin(data: bytes) -> Begin:
    try:
        fields = json.loads(data)
        begin = Begin(
            stream=Stream(
                source=str(fields["source"]), system_identifier=_number(fields["system_identifier"], below=2**64)
            ),
            segment_size=_number(fields["segment_size"], below=2**30 + 1),
            timeline=_number(fields["timeline"], below=2**32),
            lsn=_number(fields["lsn"], below=2**64),
            when=read_moment(fields["when"]),
            host=str(fields["host"]),
            why=str(fields["why"]),
            after=None if fields["after"] is None else _number(fields["after"], below=2**64),
            after_timeline=(
                None if fields["after_timeline"] is None else _number(fields["after_timeline"], below=2**32)
            ),
        )
        if begin.segment_size < 2**20 or begin.segment_size.bit_count() != 1:
            raise ValueError("segment size")
    except (ValueError, KeyError, TypeError, RecursionError):
        raise Damaged(_("a record of where WAL begins cannot be read")) from None
    return begin


def _number(number: Any, *, below: int) -> int:
    if type(number) is not int or not 0 <= number < below:
        raise ValueError("number")
    return number
