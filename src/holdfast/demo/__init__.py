"""A real PostgreSQL, backed up, destroyed and recovered before your eyes."""
