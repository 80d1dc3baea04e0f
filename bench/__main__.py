"""``make bench``: every benchmark there is, each with its own command and its own defaults."""

from bench import beside_restic, index, memory

memory.main()
index.main()
beside_restic.main()
