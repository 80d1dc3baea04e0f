"""Tests of WAL in the repository."""
