"""Trees: the entries of a snapshot and the chunks of each, stored as chunks themselves, so that hourly snapshots of an
unchanged source share all but a few kilobytes.

**Chunk lists.** A content is a list of rows, ``id (32), u64 bytes covered``. A long list is cut into nodes at rows
whose id says so (a row in 64), each node stored as a chunk and named by a row of a list one level up, until the list
is short. So a change in a large file rewrites a node or two, not the whole list.

**Entries** are sorted by path and encoded one after the other with msgpack: ``[path, kind, mode, uid, gid, mtime_ns,
size, link_target, levels, rows]``. A leaf ends where the entry's path says so under the owner's id key, on average
every 16 KiB, whatever stands before or after: one changed entry rewrites one leaf. The leaves' chunk list is the tree.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgpack

from holdfast.entry import Entry, EntryKind, is_safe_path
from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.ids import ID_BYTES, ChunkId, IdKey

INLINE_ROWS = 64
LEAF_TARGET = 16 * 1024
LEAF_LIMIT = 256 * 1024
NODE_LIMIT = 1024
MAX_LEVELS = 8

_ROW = struct.Struct(f">{ID_BYTES}sQ")
_KINDS = {EntryKind.FILE: 0, EntryKind.DIRECTORY: 1, EntryKind.SYMLINK: 2}
_KIND_NAMES = {number: kind for kind, number in _KINDS.items()}

StoreChunk = Callable[[bytes], ChunkId]
LoadChunk = Callable[[ChunkId], bytes]


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk, or at higher levels a node, and how many bytes of content it covers."""

    id: ChunkId
    size: int


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of a file, or of a tree: rows of chunks (``levels`` 0), or of nodes that many levels above them."""

    size: int = 0
    levels: int = 0
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredEntry:
    entry: Entry
    content: Content


def store_content(rows: list[Row], store: StoreChunk) -> Content:
    """Names the content that ``rows`` make, storing list nodes where there are many."""
    size, levels = sum(row.size for row in rows), 0
    while len(rows) > INLINE_ROWS:
        rows = [
            Row(store(b"".join(_ROW.pack(row.id, row.size) for row in node)), sum(row.size for row in node))
            for node in _nodes(rows)
        ]
        levels += 1
    return Content(size, levels, tuple(rows))


def load_content(content: Content, load: LoadChunk) -> Iterator[Row]:
    """The rows of all chunks, in order; their sizes add up to the content's, or ``Damaged``."""
    total = 0
    for row in _descend(content.rows, content.levels, load):
        total += row.size
        yield row
    if total != content.size:
        raise Damaged(_("a chunk list does not add up to the size of its file"))


def content_nodes(content: Content, load: LoadChunk) -> Iterator[ChunkId]:
    """The ids of the list nodes themselves, for whoever must know all that a snapshot needs."""
    rows = content.rows
    for level in range(content.levels, 0, -1):
        for row in rows:
            yield row.id
        if level > 1:
            rows = tuple(below for row in rows for below in _decode_node(load(row.id)))


def encode_entry(stored: StoredEntry) -> bytes:
    entry, content = stored.entry, stored.content
    rows = b"".join(_ROW.pack(row.id, row.size) for row in content.rows)
    packed: bytes = msgpack.packb(
        [
            _to_bytes(entry.path), _KINDS[entry.kind], entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size,
            _to_bytes(entry.link_target), content.levels, rows,
        ]
    )  # fmt: skip
    return packed


def decode_entries(leaf: bytes) -> Iterator[StoredEntry]:
    unpacker = msgpack.Unpacker(use_list=False, strict_map_key=True, max_buffer_size=max(len(leaf), 1))
    unpacker.feed(leaf)
    try:
        for fields in unpacker:
            yield _decode_entry(fields)
        if unpacker.tell() != len(leaf):
            raise ValueError("cut short")
    except (ValueError, TypeError, KeyError, struct.error, RecursionError, msgpack.UnpackException):
        raise Damaged(_("a leaf of a snapshot's tree cannot be read")) from None


def ends_leaf(encoded: bytes, path: str, ids: IdKey) -> bool:
    """Whether a leaf ends after this entry: as likely as the entry is long."""
    return ids.fraction(_to_bytes(path)) < len(encoded) / LEAF_TARGET


def store_tree(entries: Iterable[tuple[str, bytes]], store: StoreChunk, ids: IdKey) -> Content:
    """Stores encoded entries, which come sorted by path, as a tree."""
    rows: list[Row] = []
    leaf = bytearray()
    for path, encoded in entries:
        if leaf and len(leaf) + len(encoded) > LEAF_LIMIT:
            rows.append(Row(store(bytes(leaf)), len(leaf)))
            leaf.clear()
        leaf += encoded
        if ends_leaf(encoded, path, ids):
            rows.append(Row(store(bytes(leaf)), len(leaf)))
            leaf.clear()
    if leaf:
        rows.append(Row(store(bytes(leaf)), len(leaf)))
    return store_content(rows, store)


def load_tree(tree: Content, load: LoadChunk) -> Iterator[StoredEntry]:
    for row in load_content(tree, load):
        yield from decode_entries(load(row.id))


def _nodes(rows: list[Row]) -> Iterator[list[Row]]:
    node: list[Row] = []
    for row in rows:
        node.append(row)
        if row.id[-1] % INLINE_ROWS == 0 or len(node) == NODE_LIMIT:
            yield node
            node = []
    if node:
        yield node


def _descend(rows: Iterable[Row], levels: int, load: LoadChunk) -> Iterator[Row]:
    if levels == 0:
        yield from rows
        return
    for row in rows:
        yield from _descend(_decode_node(load(row.id)), levels - 1, load)


def _decode_node(data: bytes) -> tuple[Row, ...]:
    try:
        return tuple(Row(ChunkId(chunk_id), size) for chunk_id, size in _ROW.iter_unpack(data))
    except struct.error:
        raise Damaged(_("a chunk list cannot be read")) from None


def _decode_entry(fields: Any) -> StoredEntry:
    path, kind, mode, uid, gid, mtime_ns, size, link_target, levels, rows = fields
    numbers = (mode, uid, gid, mtime_ns, size, levels)
    if not all(type(number) is int for number in numbers) or not 0 <= levels <= MAX_LEVELS or size < 0:
        raise ValueError("fields")
    name = _to_text(path)
    if not is_safe_path(name) or not 0 <= mode <= 0o7777:
        raise ValueError("path")
    entry = Entry(
        path=name, kind=_KIND_NAMES[kind], mode=mode, uid=uid, gid=gid, mtime_ns=mtime_ns, size=size,
        link_target=_to_text(link_target),
    )  # fmt: skip
    return StoredEntry(entry, Content(size, levels, _decode_node(rows)))


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _to_text(raw: Any) -> str:
    if not isinstance(raw, bytes):
        raise TypeError("path")
    return raw.decode("utf-8", "surrogateescape")
