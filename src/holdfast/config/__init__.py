"""holdfast.toml: found, read, checked, written.

:func:`find_configuration` says which file, :func:`read_configuration` gives its checked values, which ``wiring`` turns
into live objects; :func:`pin_repository` and :func:`write_initial_configuration` are the only writers, and the former
touches two lines. No module outside ``cli`` and ``wiring`` knows this package.
"""

from __future__ import annotations

from holdfast.config.initial import InitialRepository, InitialSource, initial_configuration, write_initial_configuration
from holdfast.config.model import (
    STORE_OPTIONS,
    STORE_SECRETS,
    TEXTS_OR_SECRETS,
    Check,
    Configuration,
    FilesSource,
    PostgresSource,
    Repository,
    Wal,
)
from holdfast.config.pinning import pin_repository
from holdfast.config.places import (
    default_configuration_file,
    default_data_folder,
    default_state_folder,
    find_configuration,
    searched_places,
)
from holdfast.config.reading import parse_configuration, read_configuration
from holdfast.config.secret import Secret

__all__ = [
    "STORE_OPTIONS",
    "STORE_SECRETS",
    "TEXTS_OR_SECRETS",
    "Check",
    "Configuration",
    "FilesSource",
    "InitialRepository",
    "InitialSource",
    "PostgresSource",
    "Repository",
    "Secret",
    "Wal",
    "default_configuration_file",
    "default_data_folder",
    "default_state_folder",
    "find_configuration",
    "initial_configuration",
    "parse_configuration",
    "pin_repository",
    "read_configuration",
    "searched_places",
    "write_initial_configuration",
]
