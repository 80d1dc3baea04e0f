"""One file a verb: ``backup`` and ``restore`` read like the line that data travels, one from each end.

Jobs bring sources, folders and repositories together; they decide nothing about configuration and print nothing. They
speak to whoever watches through ``progress``.
"""
