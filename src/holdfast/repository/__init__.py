"""The repository: one encrypted, deduplicated set of snapshots in a store.

Glossary, and where each lives:

- **chunk** (``ids``, ``chunking``): a piece of content named by its keyed hash;
- **object** (``objects``, ``sealing``): what the store holds: sealed once, immutable, named by 32 random bytes;
- **pack** (``packing``): an object holding many chunks and a directory of them;
- **index** (``index``): which pack holds which chunk; a copy of the packs' directories, rebuilt from them if lost;
- **tree** (``trees``): the entries of a snapshot with the chunks of each, itself stored as chunks;
- **snapshot** (``snapshots``): a record that names a tree: the complete state of a source at one moment;
- **keys** (``keys``): the master key, and how passphrases and recovery keys wrap it.

Data goes one way: ``writer`` splits, seals, packs, puts; ``reader`` gets, unpacks, unseals, joins.
The order of writing is the crash-safety argument: packs, then index, then the snapshot record. A crash leaves at most
objects that nothing names. Nothing is overwritten. ``docs/format/repository.md`` is the format.
"""
