"""``make bench``: every benchmark there is, each with its own command and its own defaults."""

from bench import beside_restic, index, memory, recovery, wal_fetch, wal_push, wal_receive

for one in (memory, index, beside_restic, wal_receive, wal_push, wal_fetch, recovery):
    one.main()
