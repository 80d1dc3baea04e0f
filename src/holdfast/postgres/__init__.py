"""PostgreSQL: everything that knows its protocol, its files or its SQL. The only package that imports psycopg.

- *LSN*: a position in the write-ahead log (``lsn``). *Segment*: one WAL file.
- *Control file*: ``global/pg_control``, where a cluster says who it is (``control``, ``datadir``).
- *Base backup*: a copy of a running cluster's files plus the WAL that makes them consistent (``basebackup``, over
  ``protocol``, ``tarstream`` and ``manifest``; ``completeness`` finds what the server left out). What a restore must
  know about it are its *facts* (``facts``).
- *Configuration*: the server's files outside its data directory, read or rebuilt (``configuration``, ``rebuild``).
- *Finding*: the answer to one prerequisite, with the line that mends it (``requirements``).
"""
