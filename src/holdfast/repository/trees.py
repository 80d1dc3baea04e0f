"""Trees: the entries of a snapshot and the chunks of each, stored as chunks themselves, so that hourly snapshots of an
unchanged source share all but a few kilobytes.

**Chunk lists.** A content is a list of rows, ``id (32), u64 bytes covered``. A long list is cut into nodes at rows
whose id says so (a row in 64), each node stored as a chunk and named by a row of a list one level up, until the list
is short. So a change in a large file rewrites a node or two, not the whole list.

A row may say where its chunk lies: that is no part of what a list is named by, see :mod:`holdfast.repository.hints`.

**Entries** are sorted by path and encoded one after the other with msgpack: ``[path, kind, mode, uid, gid, mtime_ns,
size, link_target, levels, rows]``. A leaf ends where the entry's path says so under the owner's id key, on average
every 16 KiB, whatever stands before or after: one changed entry rewrites one leaf. The leaves' chunk list is the tree.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgpack

from holdfast.entry import Entry, EntryKind, is_safe_path
from holdfast.errors import Damaged
from holdfast.messages import _
from holdfast.repository.hints import Places, decode_hints, detach, pack_places, unpack_places
from holdfast.repository.ids import ID_BYTES, ChunkId, IdKey
from holdfast.repository.packing import Location

INLINE_ROWS = 64
LEAF_TARGET = 16 * 1024
LEAF_LIMIT = 256 * 1024
NODE_LIMIT = 1024
MAX_LEVELS = 8

_ROW = struct.Struct(f">{ID_BYTES}sQ")
_FIELDS = 10
"""Of an entry."""
_KINDS = {EntryKind.FILE: 0, EntryKind.DIRECTORY: 1, EntryKind.SYMLINK: 2}
_KIND_NAMES = {number: kind for kind, number in _KINDS.items()}


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk, or at higher levels a node, and how many bytes of content it covers."""

    id: ChunkId
    size: int
    place: Location | None = field(default=None, compare=False)
    """Where it lies, as far as the writer of the list knew."""


StoreNode = Callable[[bytes, Places, int], Row]
"""Stores a node or leaf: what it is named by, the places of its rows, the bytes that its row is to cover."""
LoadNodes = Callable[[Sequence[Row]], Iterator[bytes]]
"""The contents of nodes or leaves, in order; the caller may stop early."""


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


class EncodedEntry(NamedTuple):
    path: str
    encoded: bytes
    places: bytes
    """Of the rows in the entry, packed: there may be millions of entries before the first leaf is stored."""


def store_content(rows: list[Row], store: StoreNode) -> Content:
    """Names the content that ``rows`` make, storing list nodes where there are many."""
    size, levels = sum(row.size for row in rows), 0
    while len(rows) > INLINE_ROWS:
        rows = [
            store(_encode_rows(node), [row.place for row in node], sum(row.size for row in node))
            for node in _nodes(rows)
        ]
        levels += 1
    return Content(size, levels, tuple(rows))


def load_content(content: Content, load: LoadNodes) -> Iterator[Row]:
    """The rows of all chunks, in order; their sizes add up to the content's, or ``Damaged``."""
    total = 0
    for row in _descend(content.rows, content.levels, load):
        total += row.size
        yield row
    if total != content.size:
        raise Damaged(_("a chunk list does not add up to the size of its file"))


def content_nodes(content: Content, load: LoadNodes) -> Iterator[Row]:
    """The list nodes themselves, for whoever must know all that a snapshot needs."""
    rows = content.rows
    for level in range(content.levels, 0, -1):
        yield from rows
        if level > 1:
            rows = tuple(below for node in load(rows) for below in _decode_node(node))


def encode_entry(stored: StoredEntry) -> EncodedEntry:
    entry, content = stored.entry, stored.content
    packed: bytes = msgpack.packb(
        [
            _to_bytes(entry.path), _KINDS[entry.kind], entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.size,
            _to_bytes(entry.link_target), content.levels, _encode_rows(content.rows),
        ]
    )  # fmt: skip
    return EncodedEntry(entry.path, packed, pack_places([row.place for row in content.rows]))


def decode_leaf(leaf: bytes) -> list[StoredEntry]:
    """The entries of a leaf as it is stored, hints and all."""
    named, hints = detach(leaf)
    entries = list(decode_entries(named))
    places = iter(decode_hints(hints, [row.id for stored in entries for row in stored.content.rows]))
    return [
        StoredEntry(
            stored.entry,
            Content(
                stored.content.size,
                stored.content.levels,
                tuple(Row(row.id, row.size, next(places)) for row in stored.content.rows),
            ),
        )
        for stored in entries
    ]


def decode_entries(named: bytes) -> Iterator[StoredEntry]:
    unpacker = msgpack.Unpacker(
        use_list=False,
        strict_map_key=True,
        max_buffer_size=max(len(named), 1),
        max_array_len=_FIELDS,  # nested arrays that claim more would take memory before they are found out
        max_map_len=0,
        max_ext_len=0,
    )
    unpacker.feed(named)
    whole = 0
    try:
        for fields in unpacker:
            whole = unpacker.tell()  # at the end it counts, too, what it read of an entry that is cut short
            yield _decode_entry(fields)
        if whole != len(named):
            raise ValueError("cut short")
    except (ValueError, TypeError, KeyError, struct.error, RecursionError, msgpack.UnpackException):
        raise Damaged(_("a leaf of a snapshot's tree cannot be read")) from None


def ends_leaf(encoded: bytes, path: str, ids: IdKey) -> bool:
    """Whether a leaf ends after this entry: as likely as the entry is long."""
    return ids.fraction(_to_bytes(path)) < len(encoded) / LEAF_TARGET


def store_tree(entries: Iterable[EncodedEntry], store: StoreNode, ids: IdKey) -> Content:
    """Stores encoded entries, which come sorted by path, as a tree."""
    return store_content([_store_leaf(leaf, store) for leaf in _leaves(entries, ids)], store)


def load_tree(tree: Content, load: LoadNodes) -> Iterator[StoredEntry]:
    for leaf in load(list(load_content(tree, load))):
        yield from decode_leaf(leaf)


def _leaves(entries: Iterable[EncodedEntry], ids: IdKey) -> Iterator[list[EncodedEntry]]:
    leaf: list[EncodedEntry] = []
    size = 0
    for entry in entries:
        if leaf and size + len(entry.encoded) > LEAF_LIMIT:
            yield leaf
            leaf, size = [], 0
        leaf.append(entry)
        size += len(entry.encoded)
        if ends_leaf(entry.encoded, entry.path, ids):
            yield leaf
            leaf, size = [], 0
    if leaf:
        yield leaf


def _store_leaf(leaf: list[EncodedEntry], store: StoreNode) -> Row:
    named = b"".join(entry.encoded for entry in leaf)
    return store(named, unpack_places(b"".join(entry.places for entry in leaf)), len(named))


def _nodes(rows: list[Row]) -> Iterator[list[Row]]:
    node: list[Row] = []
    for row in rows:
        node.append(row)
        if row.id[-1] % INLINE_ROWS == 0 or len(node) == NODE_LIMIT:
            yield node
            node = []
    if node:
        yield node


def _descend(rows: Sequence[Row], levels: int, load: LoadNodes) -> Iterator[Row]:
    if levels == 0:
        yield from rows
        return
    for node in load(rows):
        yield from _descend(_decode_node(node), levels - 1, load)


def _encode_rows(rows: Iterable[Row]) -> bytes:
    return b"".join(_ROW.pack(row.id, row.size) for row in rows)


def _decode_rows(data: bytes) -> tuple[Row, ...]:
    try:
        return tuple(Row(ChunkId(chunk_id), size) for chunk_id, size in _ROW.iter_unpack(data))
    except struct.error:
        raise Damaged(_("a chunk list cannot be read")) from None


def _decode_node(content: bytes) -> tuple[Row, ...]:
    """The rows of a node as it is stored, hints and all."""
    named, hints = detach(content)
    rows = _decode_rows(named)
    places = decode_hints(hints, [row.id for row in rows])
    return tuple(Row(row.id, row.size, place) for row, place in zip(rows, places, strict=True))


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
    return StoredEntry(entry, Content(size, levels, _decode_rows(rows)))


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _to_text(raw: Any) -> str:
    if not isinstance(raw, bytes):
        raise TypeError("path")
    return raw.decode("utf-8", "surrogateescape")
