"""Holdfast: PostgreSQL backups that prove themselves.

The layers, top down (imports go down only): ``cli``, ``demo``, ``wiring``, ``config``, ``jobs``,
``postgres | filesystem | repository``, ``store``, then the single modules everything may use.
ARCHITECTURE.md is the map.
"""

__version__ = "0.1.0"
