"""Stores: dumb named bytes, somewhere.

``port`` says what a store is and what it guarantees; everything else in this package is a backend (``folder``,
``objects`` through opendal, ``memory``), a wrapper of the same shape (``retrying``, ``limited``, ``faulty``), or the
reading of a URL. A store knows nothing of what the bytes mean. One conformance suite, ``tests/store``, holds for all.
"""
