"""Folders: ``scan`` reads one as entries, ``write`` makes one from entries. The two are each other's inverse."""
