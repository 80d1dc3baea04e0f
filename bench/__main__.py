"""``make bench``: every benchmark there is, each with its own command."""

from bench.memory import main

main()
