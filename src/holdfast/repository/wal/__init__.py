"""The write-ahead log in the repository: what was streamed or archived, in pieces that join to segments.

- **stream** (``streams``): the WAL of one source on one server, told by its system identifier; named by a keyed hash;
- **piece** (``pieces``): bytes ``[start, stop)`` of one segment, with the digest of the segment before and after them.
  A complete segment of up to 64 MiB is one piece; the newest bytes of the current one are pieces too: its *tail*;
- **file** (``files``): what goes beside segments, whole: history files, ``.backup``, ``.partial``;
- **span** (``spans``): 256 segments of one timeline, summarised: so that nobody lists or opens them all;
- ``writing`` puts them, ``reading`` says what is held and joins it, ``checking`` reads all of it back.

Names that can be minted twice carry the digest of their content: the same name is the same content, different content
stands beside it and is shown as a conflict; nobody chooses silently. The repository does not read WAL: what a piece
says of itself (``facts``) is JSON that only ``postgres`` reads.
"""
