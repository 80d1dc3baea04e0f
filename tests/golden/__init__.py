"""Golden repositories: what a version of Holdfast wrote, kept byte by byte, for every later version to restore.

A folder a version, and nothing in it is ever changed:

- ``whole.zip``: the objects of one repository, uncompressed, with the store's time of each;
- ``manifest.json``: the secrets that open it (**test secrets: they protect nothing**), and what its snapshots hold;
- ``damages.json``: changes to single objects, byte by byte, and what must be found after each.

``make`` wrote them, from ``contents``, ``whole`` and ``damages``; ``fixtures`` and ``changes`` read them.
``by_the_page`` reads a repository from what ``docs/format/repository.md`` says, and from nothing else.
``vectors`` wrote ``docs/format/vectors.json``.
"""
