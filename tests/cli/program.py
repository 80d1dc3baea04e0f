"""A `holdfast` whose commands are the test's own: run as ``python -m tests.cli.program``."""

from __future__ import annotations

from holdfast.cli import main

if __name__ == "__main__":
    main(dict.fromkeys(("fail", "show", "hang", "work", "inner", "where"), "tests.cli.sample"))
