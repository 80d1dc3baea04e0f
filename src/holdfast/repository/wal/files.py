"""What goes beside segments, whole: history files, ``.backup``, ``.partial``; named by what they hold.

Their objects have two parts (``envelope``): whose file it is, its size and its digest, then its bytes.
"""

from __future__ import annotations

from holdfast.errors import Damaged, UsageError
from holdfast.messages import _
from holdfast.repository.objects import FileName, Kind, is_wal_file, parse_file_name
from holdfast.repository.repository import Repository
from holdfast.repository.wal.envelope import MAX_CONTENT_BYTES, fetch_info, open_content, open_info, seal
from holdfast.repository.wal.held import HeldFile
from holdfast.repository.wal.pieces import MARK_BYTES, Json, Running, Stream, name_stream


def name_file(repository: Repository, stream: Stream, file: str, content: bytes) -> FileName:
    """Raises ``UsageError`` for what PostgreSQL does not put beside segments."""
    if not is_wal_file(file):
        raise UsageError(_("{name!r} is not the name of a file that PostgreSQL archives").format(name=file))
    if len(content) > MAX_CONTENT_BYTES:
        raise UsageError(_("{name} is larger than any file that PostgreSQL archives").format(name=file))
    digest = _digest(repository, content)
    return FileName(name_stream(repository.ids, stream), file, digest[:MARK_BYTES].hex())


def seal_file(repository: Repository, stream: Stream, name: FileName, content: bytes) -> bytes:
    info = {
        "source": stream.source,
        "system_identifier": stream.system_identifier,
        "file": name.file,
        "size": len(content),
        "digest": _digest(repository, content).hex(),
    }
    return seal(repository.master, Kind.WAL_FILE, name.name, info, content)


def fetch_file(repository: Repository, name: FileName) -> HeldFile:
    """What is held under that name, its bytes unread. Raises ``Damaged``, and what the store raises."""
    return _decode(repository, name, fetch_info(repository.store, repository.master, Kind.WAL_FILE, name.name).info)


def open_file(repository: Repository, name: str, data: bytes) -> tuple[HeldFile, bytes]:
    """A file and its bytes, its digest computed again. Raises ``Damaged``."""
    parsed = parse_file_name(name)
    if parsed is None:
        raise Damaged(_("{name} has a name that Holdfast does not write").format(name=name))
    opened = open_info(repository.master, Kind.WAL_FILE, name, data)
    file = _decode(repository, parsed, opened.info)
    content = open_content(opened, data, size=file.size)
    if _digest(repository, content) != file.digest:
        raise _other(name)
    return file, content


def _decode(repository: Repository, name: FileName, info: Json) -> HeldFile:
    try:
        stream = Stream(source=str(info["source"]), system_identifier=int(info["system_identifier"]))
        file = HeldFile(
            file=str(info["file"]), name=name.name, size=int(info["size"]), digest=bytes.fromhex(info["digest"])
        )
        held = FileName(name_stream(repository.ids, stream), file.file, file.digest[:MARK_BYTES].hex())
        if held != name or not 0 <= file.size <= MAX_CONTENT_BYTES:
            raise ValueError("name")
    except (ValueError, KeyError, TypeError, OverflowError):
        raise _other(name.name) from None
    return file


def _digest(repository: Repository, content: bytes) -> bytes:
    running = Running(repository.ids)
    running.feed(content)
    return running.digest()


def _other(name: str) -> Damaged:
    return Damaged(
        _("what {name} says of itself cannot be read, or it is another object").format(name=name),
        hint=_("It may have been written by a newer version of Holdfast."),
    )
